//! How sessions are recorded: bounds, where pieces go, and what a recording says of itself.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use crate::message::Channel;

/// Takes full pieces of recordings, so that recordings may be longer than what memory holds.
pub trait PieceSink: fmt::Debug + Send + Sync {
    /// Takes a piece of the recording with this number, in order, and gives an empty buffer to go on with. `None`: no more
    /// can be taken, and the recording stops.
    ///
    /// Called within calls of the session: it must not block.
    fn take(&self, recording: u64, piece: Vec<u8>) -> Option<Vec<u8>>;
}

/// Decides what a recording shows of a message, where messages hold passwords.
pub trait Redact: fmt::Debug + Send + Sync {
    /// What is written of a message that the application sends, as it is before encryption; `None`: its length alone.
    ///
    /// Called while the recording is written, not while it is recorded.
    fn show(&self, channel: Channel, message: &[u8]) -> Option<Vec<u8>>;
}

/// What all recordings of one owner together may hold in memory.
#[derive(Debug)]
pub struct RecordBudget {
    left: AtomicUsize,
}

impl RecordBudget {
    /// A budget of this many bytes.
    pub fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes) })
    }

    pub(super) fn charge(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    pub(super) fn release(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How sessions are recorded: see [`Session::record`](crate::Session::record).
///
/// A recording holds passwords: the keys of the session, every datagram, and every message that the application sends. What
/// [`redacted`](Self::redacted) leaves can be decoded, but not replayed.
#[derive(Clone, Debug)]
pub struct RecordOptions {
    pub(super) limit: usize,
    /// The same moment on the session's clock and in nanoseconds since 1970.
    pub(super) clock: (Instant, u64),
    pub(super) budget: Option<Arc<RecordBudget>>,
    pub(super) sink: Option<Arc<dyn PieceSink>>,
    pub(super) is_redacted: bool,
}

impl RecordOptions {
    /// Keeps up to 1 MiB of each session in memory. `now` is `unix_nanos` nanoseconds after 1970, for the times in
    /// captures; a simulation may take any.
    pub fn new(now: Instant, unix_nanos: u64) -> Self {
        Self { limit: 1 << 20, clock: (now, unix_nanos), budget: None, sink: None, is_redacted: false }
    }

    /// Sets the most bytes of one recording, in whole pieces of 8 KiB. At that bound the recording stops, and says so: a recording is replayed from its
    /// beginning, so the oldest part cannot be dropped.
    #[must_use]
    pub fn limit(mut self, bytes: usize) -> Self {
        self.limit = bytes;
        self
    }

    /// Takes the memory of the recordings out of this budget. A recording stops where none is left.
    #[must_use]
    pub fn budget(mut self, budget: Arc<RecordBudget>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Hands full pieces over instead of keeping them.
    #[must_use]
    pub fn sink(mut self, sink: Arc<dyn PieceSink>) -> Self {
        self.sink = Some(sink);
        self
    }

    /// Says in the recording that messages are to be hidden when it is written to a file: see [`RecordingWriter::redact`]. It
    /// is not replayed then. In memory it holds everything all the same.
    ///
    /// [`RecordingWriter::redact`]: super::RecordingWriter::redact
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.is_redacted = true;
        self
    }
}

/// Something about the recording itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mark {
    /// The recording has reached its bound and stops here.
    Full,
    /// The memory of all recordings is used up, or the sink takes no more.
    NoRoom,
    /// The session panicked in the call before this mark, or a hook or codec of its application did.
    Panicked,
    /// The session was not driven any further: its driver has ended.
    Stopped,
}

impl Mark {
    pub(crate) const ALL: [Self; 4] = [Self::Full, Self::NoRoom, Self::Panicked, Self::Stopped];
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the recording stops at its bound",
            Self::NoRoom => "the recording stops: there is no room for more",
            Self::Panicked => "the session panicked",
            Self::Stopped => "the session was not driven any further",
        })
    }
}
