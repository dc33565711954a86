//! How sessions are recorded, and where the recordings go.

pub(crate) mod files;

use std::{fmt, sync::Arc};

use soe_core::recording::{NotAPiece, RecordingWriter, Redact};
use tokio::sync::mpsc;

/// Records sessions: everything that they are told and say, for `soe decode`, Wireshark, and `soe replay`.
///
/// **Recordings hold passwords**: keys, datagrams, and what the application sends. Keep them as you keep those, or
/// [`redact`](Self::redact) them.
///
/// ```no_run
/// use soe_tokio::{ListenerConfig, RecorderConfig, RecordingFiles, SessionConfig};
///
/// # fn demo() -> Result<(), Box<dyn std::error::Error>> {
/// let files = RecordingFiles::in_directory("/var/log/game")?;
/// let config = ListenerConfig::new(SessionConfig::new("Example")?).recorder(RecorderConfig::new(files));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecorderConfig {
    /// Where recordings go.
    pub sink: Arc<dyn RecordingSink>,
    /// When they go there. Default [`RecordWhen::AbnormalEnd`].
    pub when: RecordWhen,
    /// The most bytes of one recording. Default 1 MiB: some minutes of a game. At that bound the recording stops, for a
    /// replay begins at the beginning. With [`RecordWhen::Continuously`] the default is no bound.
    pub session_bytes: usize,
    /// The most bytes of all recordings in memory. Default 256 MiB. Without room a recording stops.
    pub total_bytes: usize,
    /// Hides messages, if it is there.
    pub redact: Option<Arc<dyn Redact>>,
}

/// When recordings are handed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecordWhen {
    /// After a session has ended for a failure, or has panicked. Recordings of sessions that an application has closed are
    /// dropped.
    #[default]
    AbnormalEnd,
    /// After every end.
    End,
    /// In pieces of about 8 KiB while the session lasts, and the rest after its end.
    Continuously,
}

impl RecorderConfig {
    /// Hands recordings of sessions that end abnormally to `sink`.
    pub fn new(sink: impl RecordingSink) -> Self {
        Self {
            sink: Arc::new(sink),
            when: RecordWhen::AbnormalEnd,
            session_bytes: 1 << 20,
            total_bytes: 256 << 20,
            redact: None,
        }
    }

    /// Sets when recordings are handed over, and takes away the bound of one where they are handed over continuously.
    #[must_use]
    pub fn when(mut self, when: RecordWhen) -> Self {
        self.when = when;
        if when == RecordWhen::Continuously {
            self.session_bytes = usize::MAX;
        }
        self
    }

    /// Sets the most bytes of one recording.
    #[must_use]
    pub fn session_bytes(mut self, bytes: usize) -> Self {
        self.session_bytes = bytes;
        self
    }

    /// Sets the most bytes of all recordings in memory.
    #[must_use]
    pub fn total_bytes(mut self, bytes: usize) -> Self {
        self.total_bytes = bytes;
        self
    }

    /// Hides messages: datagrams are written with `*` in place of everything that belongs to the application, keys are left
    /// out, and of messages that are sent the recording holds what `redact` shows. Such a recording can be decoded, and cannot
    /// be replayed.
    #[must_use]
    pub fn redact(mut self, redact: impl Redact + 'static) -> Self {
        self.redact = Some(Arc::new(redact));
        self
    }
}

/// Takes recordings.
pub trait RecordingSink: fmt::Debug + Send + Sync + 'static {
    /// Takes a part of a recording. False: it is dropped. What follows of the same recording cannot be used then.
    ///
    /// Called by the tasks that serve sessions: it must not block.
    fn take(&self, part: RecordingPart) -> bool;
}

impl RecordingSink for mpsc::Sender<RecordingPart> {
    /// Sends it if the channel has room.
    fn take(&self, part: RecordingPart) -> bool {
        self.try_send(part).is_ok()
    }
}

/// A part of a recording, or all of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct RecordingPart {
    /// The recording that it belongs to: no other of this process has the same number.
    pub recording: u64,
    /// Whether it is the last one.
    pub is_last: bool,
    /// The number of the first piece, from 0.
    first: u32,
    pieces: Vec<Vec<u8>>,
    redact: Option<Arc<dyn Redact>>,
}

impl RecordingPart {
    pub(crate) fn new(recording: u64, first: u32, pieces: Vec<Vec<u8>>) -> Self {
        Self { recording, is_last: false, first, pieces, redact: None }
    }

    pub(crate) fn with_redaction(self, redact: Option<Arc<dyn Redact>>) -> Self {
        Self { redact, ..self }
    }

    pub(crate) fn last(self) -> Self {
        Self { is_last: true, ..self }
    }

    /// A writer for its recording, to be kept for the parts that follow.
    pub fn writer(&self) -> RecordingWriter {
        let writer = RecordingWriter::new(self.recording);
        match &self.redact {
            Some(redact) => writer.redact(Arc::clone(redact)),
            None => writer,
        }
    }

    /// Its bytes, without those that the file has in addition.
    pub fn bytes(&self) -> usize {
        self.pieces.iter().map(Vec::len).sum()
    }

    /// Appends the part to a file: pcapng that `soe decode`, `soe replay`, Wireshark and tcpdump read. `writer` is the
    /// recording's own, from [`writer`](Self::writer) of its first part: it knows what came before. Takes about a microsecond
    /// for each datagram; do it outside of the tasks that serve sessions.
    ///
    /// # Errors
    ///
    /// [`NotAPiece`] if parts are missing before this one.
    pub fn write(&self, writer: &mut RecordingWriter, out: &mut Vec<u8>) -> Result<(), NotAPiece> {
        if writer.pieces() != self.first {
            return Err(NotAPiece::default());
        }
        self.pieces.iter().try_for_each(|piece| writer.piece(piece, out))
    }
}
