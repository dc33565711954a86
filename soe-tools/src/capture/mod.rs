//! Capture files: frames out of pcap and pcapng as a stream, datagrams out of frames, and a pcapng writer.
//!
//! Reading needs memory for the largest block only, whatever the size of the file. Sources: the pcap and pcapng file
//! formats as published by the tcpdump group, and its registry of link types.

mod ip;
mod link;
mod pcap;
mod pcapng;
mod source;
mod write;

use std::io::{self, Read};

use thiserror::Error;

use soe_core::recording::pcapng::{SECRETS_KEYS, SECTION_HEADER};

pub use self::ip::{Datagram, Extracted};
pub use self::link::LinkType;
pub use self::write::PcapngWriter;

use self::{pcap::Pcap, pcapng::Pcapng, source::Source};

/// The longest block or frame that is read, in bytes. No capture program writes longer ones; a longer one is an error.
pub const MAX_BLOCK: usize = 16 << 20;

/// The secrets type of a Decryption Secrets Block that holds lines about SOE sessions: `SOEK`.
///
/// The type is not registered. Other programs skip secrets of a type that they do not know.
pub const SECRETS_TYPE: u32 = SECRETS_KEYS;

/// One captured frame.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Frame<'a> {
    /// When it was captured, in nanoseconds since 1970.
    pub time: u64,
    /// What its first byte belongs to.
    pub link: LinkType,
    /// The bytes that were kept.
    pub bytes: &'a [u8],
    /// Whether the capture kept fewer bytes than the frame had.
    pub is_cut: bool,
}

impl<'a> Frame<'a> {
    /// The UDP datagram in the frame, or what else it is.
    pub fn extract(&self) -> Extracted<'a> {
        link::extract(self)
    }
}

/// What a capture holds.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Item<'a> {
    /// A frame.
    Frame(Frame<'a>),
    /// Lines of a Decryption Secrets Block of type [`SECRETS_TYPE`].
    Secrets(&'a [u8]),
    /// A piece of a flight recording, whose datagrams are the frames behind it: [`soe_core::recording::FilePiece`].
    Recording(&'a [u8]),
}

/// Reads a capture from any stream, a pipe included.
#[derive(Debug)]
pub struct CaptureReader<R> {
    source: Source<R>,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// What a reader of one format found: ranges of the source, because the source is still being read.
enum Found {
    Frame { time: u64, link: LinkType, start: usize, len: usize, is_cut: bool },
    Secrets { start: usize, len: usize },
    Recording { start: usize, len: usize },
    Nothing,
}

impl<R: Read> CaptureReader<R> {
    /// Reads the head of a capture and tells its format.
    ///
    /// # Errors
    ///
    /// [`CaptureError::NotACapture`] when the first four bytes are those of neither format, and what reading brings.
    pub fn new(read: R) -> Result<Self, CaptureError> {
        let mut source = Source::new(read);
        let magic = source.peek(4)?.and_then(|bytes| bytes.first_chunk().copied()).ok_or(CaptureError::NotACapture)?;
        let format = if magic == SECTION_HEADER.to_be_bytes() {
            Format::Pcapng(Pcapng::default())
        } else {
            Format::Pcap(Pcap::open(&mut source)?)
        };
        Ok(Self { source, format })
    }

    /// The next frame or block of secrets; `None` at the end.
    ///
    /// # Errors
    ///
    /// [`CaptureError`]. [`CaptureError::CutOff`] is what a capture gives that was stopped while it was written: everything
    /// before it has been read.
    #[expect(clippy::should_implement_trait, reason = "the item borrows from the reader")]
    pub fn next(&mut self) -> Result<Option<Item<'_>>, CaptureError> {
        loop {
            let found = match &mut self.format {
                Format::Pcap(pcap) => pcap.next(&mut self.source)?,
                Format::Pcapng(pcapng) => pcapng.next(&mut self.source)?,
            };
            match found {
                None => return Ok(None),
                Some(Found::Nothing) => {}
                Some(Found::Frame { time, link, start, len, is_cut }) => {
                    let bytes = self.source.consumed(start, len);
                    return Ok(Some(Item::Frame(Frame { time, link, bytes, is_cut })));
                }
                Some(Found::Secrets { start, len }) => {
                    return Ok(Some(Item::Secrets(self.source.consumed(start, len))));
                }
                Some(Found::Recording { start, len }) => {
                    return Ok(Some(Item::Recording(self.source.consumed(start, len))));
                }
            }
        }
    }

    /// How many bytes of the capture have been read.
    pub fn position(&self) -> u64 {
        self.source.position()
    }
}

/// Why a capture cannot be read, or not further.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The stream is neither pcap nor pcapng.
    #[error("this is neither a pcap nor a pcapng capture")]
    NotACapture,
    /// The capture ends within a block, as one does that was stopped while it was written.
    #[error("the capture ends within a block, after {0} bytes")]
    CutOff(u64),
    /// A block contradicts the format.
    #[error("the capture is malformed after {position} bytes: {what}")]
    Malformed {
        /// Bytes before the block.
        position: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Reading failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}
