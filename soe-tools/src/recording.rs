//! Flight recordings out of capture files, for replays.
//!
//! In a test, with a breakpoint where the session goes wrong:
//!
//! ```no_run
//! use std::fs::File;
//! use soe_core::replay::Replay;
//! use soe_tools::recording::RecordingReader;
//!
//! let mut reader = RecordingReader::new(File::open("crash.pcapng")?)?;
//! let mut replay = Replay::new();
//! while let Some(piece) = reader.next()? {
//!     replay.feed(&piece.bytes)?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::io::{self, Read};

use soe_core::recording::{FilePiece, NotAPiece};
use thiserror::Error;

use crate::capture::{CaptureError, CaptureReader, Extracted, Item};

/// The most bytes of one piece: as in the capture, one block and its datagrams.
const MAX_PIECE: usize = 64 << 20;

/// A piece of a recording, for [`Replay::feed`](soe_core::replay::Replay::feed).
#[derive(Debug)]
#[non_exhaustive]
pub struct Piece {
    /// The number of its recording: a file may hold several.
    pub recording: u64,
    /// Its number in that recording, from 0. Where one is missing, what follows cannot be replayed.
    pub number: u32,
    /// The log.
    pub bytes: Vec<u8>,
}

/// Reads the recordings of a capture as a stream, in memory for the largest piece.
#[derive(Debug)]
pub struct RecordingReader<R> {
    capture: CaptureReader<R>,
    /// The contents of the block that was read last.
    block: Vec<u8>,
    datagrams: Vec<u8>,
}

impl<R: Read> RecordingReader<R> {
    /// Reads the head of a capture.
    ///
    /// # Errors
    ///
    /// As for [`CaptureReader::new`].
    pub fn new(read: R) -> Result<Self, RecordingError> {
        Ok(Self { capture: CaptureReader::new(read)?, block: Vec::new(), datagrams: Vec::new() })
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`RecordingError`]. What was written until a program died ends with [`CaptureError::CutOff`] or
    /// [`RecordingError::MissingDatagrams`]: everything before has been read.
    #[expect(clippy::should_implement_trait, reason = "as for the capture")]
    pub fn next(&mut self) -> Result<Option<Piece>, RecordingError> {
        loop {
            match self.capture.next()? {
                None => return Ok(None),
                Some(Item::Recording(block)) => {
                    self.block.clear();
                    self.block.extend_from_slice(block);
                    return self.piece().map(Some);
                }
                Some(_) => {}
            }
        }
    }

    /// Collects the datagrams of the piece whose block was just read.
    fn piece(&mut self) -> Result<Piece, RecordingError> {
        let piece = FilePiece::read(&self.block)?;
        self.datagrams.clear();
        for _ in 0..piece.packets {
            match self.capture.next()? {
                Some(Item::Frame(frame)) => {
                    let Extracted::Datagram(datagram) = frame.extract() else {
                        return Err(RecordingError::MissingDatagrams);
                    };
                    if datagram.is_cut || self.datagrams.len() + datagram.payload.len() > MAX_PIECE {
                        return Err(RecordingError::MissingDatagrams);
                    }
                    self.datagrams.extend_from_slice(datagram.payload);
                }
                _ => return Err(RecordingError::MissingDatagrams),
            }
        }
        let bytes = piece.join(&self.datagrams)?;
        Ok(Piece { recording: piece.recording, number: piece.number, bytes })
    }

    /// How many bytes of the capture have been read.
    pub fn position(&self) -> u64 {
        self.capture.position()
    }
}

/// Why a recording cannot be read, or not further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RecordingError {
    /// The capture itself cannot be read.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Not all datagrams of a piece follow it: packets were removed from the capture, or it was cut off.
    #[error("the capture lacks datagrams of the recording")]
    MissingDatagrams,
    /// A block is not what it says.
    #[error("a block of the recording is malformed")]
    Malformed,
}

impl From<NotAPiece> for RecordingError {
    fn from(_: NotAPiece) -> Self {
        Self::Malformed
    }
}

impl From<RecordingError> for io::Error {
    fn from(error: RecordingError) -> Self {
        match error {
            RecordingError::Capture(error) => error.into(),
            other => Self::new(io::ErrorKind::InvalidData, other),
        }
    }
}
