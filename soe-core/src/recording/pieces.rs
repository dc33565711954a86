//! The pieces of a log: bounded memory for the entries of one session. Full pieces are stored or passed on.

use std::{
    mem,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{
    log,
    options::{Mark, RecordOptions},
};

/// The size of a piece in bytes, after which it is stored or passed on. Small enough that the pieces of a hundred busy sessions
/// stay in the processor's cache, large enough that passing one on costs little for each message.
const PIECE: usize = 8 * 1024;
/// Bytes of the first piece to begin with: most sessions of a login server are short.
const FIRST: usize = 2 * 1024;
/// The most bytes of an entry without its datagram or message: a tag and four numbers of up to ten bytes.
pub(super) const HEAD: usize = 48;
/// What most heads fit into, in bytes.
const SHORT: usize = 16;
/// The longest message or datagram that a recording holds, in bytes: half of what readers of captures take as one block.
pub(super) const MAX_CONTENT: usize = 8 << 20;
/// Recordings that this process has begun.
static RECORDINGS: AtomicU64 = AtomicU64::new(0);

/// The log of one session so far, as far as it is still here.
#[derive(Debug)]
pub(super) struct Pieces {
    options: RecordOptions,
    number: u64,
    /// The unfinished piece. Entries that [`has_room`](Self::has_room) has made room for are appended to it.
    pub(super) current: Vec<u8>,
    /// Stored pieces, oldest first.
    full: Vec<Vec<u8>>,
    /// Bytes of the pieces before the current one.
    before: usize,
    /// Bytes taken out of the budget.
    charged: usize,
    is_stopped: bool,
    /// Whether the beginning of the log is not here any more.
    has_given: bool,
}

impl Pieces {
    pub(super) fn new(options: RecordOptions) -> Self {
        Self {
            options,
            number: RECORDINGS.fetch_add(1, Ordering::Relaxed),
            current: Vec::with_capacity(FIRST),
            full: Vec::new(),
            before: 0,
            charged: 0,
            is_stopped: false,
            has_given: false,
        }
    }

    /// The first entry is written. Stops if the budget has no room for the first piece.
    pub(super) fn begin(&mut self) {
        if !self.charge(PIECE) {
            self.stop(Mark::NoRoom);
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Whether nothing is recorded any more.
    pub(super) fn is_stopped(&self) -> bool {
        self.is_stopped
    }

    /// Bytes of the log so far, including those that are not here any more.
    pub(super) fn written(&self) -> usize {
        self.before + self.current.len()
    }

    /// Whether the log is here from its beginning.
    pub(super) fn is_whole(&self) -> bool {
        !self.has_given
    }

    /// Removes and returns what is here, oldest first.
    pub(super) fn take(&mut self) -> Vec<Vec<u8>> {
        self.has_given = true;
        let mut pieces = mem::take(&mut self.full);
        if !self.current.is_empty() {
            self.before += self.current.len();
            pieces.push(mem::take(&mut self.current));
        }
        pieces
    }

    /// Copies the whole log, oldest piece first. `None` if a part of it is not here any more.
    pub(super) fn copy(&self) -> Option<Vec<Vec<u8>>> {
        let pieces = self.full.iter().chain([&self.current]).filter(|piece| !piece.is_empty());
        (!self.has_given).then(|| pieces.cloned().collect())
    }

    /// Moves what is here to `out`, and keeps the buffer.
    pub(super) fn drain_into(&mut self, out: &mut Vec<u8>) {
        for piece in self.full.drain(..) {
            out.extend_from_slice(&piece);
        }
        out.extend_from_slice(&self.current);
        self.current.clear();
    }

    /// Makes room for an entry with so many bytes of content, in a new piece if this one is full: no entry is divided between
    /// two pieces. False: nothing is recorded any more.
    #[inline]
    pub(super) fn has_room(&mut self, content: usize) -> bool {
        let size = content + HEAD;
        !self.is_stopped && (self.current.len() + size <= PIECE || self.turn(size))
    }

    /// Appends an entry.
    #[inline]
    pub(super) fn put(&mut self, head: Head, content: &[u8]) {
        let end = self.current.len() + head.len;
        // A copy of a fixed length needs no call of memcpy; the rest is cut off again.
        match head.bytes.first_chunk::<SHORT>() {
            Some(short) if head.len <= SHORT => self.current.extend_from_slice(short),
            _ => self.current.extend_from_slice(&head.bytes),
        }
        self.current.truncate(end);
        self.current.extend_from_slice(content);
    }

    /// Continues with a new piece.
    #[cold]
    fn turn(&mut self, size: usize) -> bool {
        let has_room = size <= MAX_CONTENT + HEAD && self.written().saturating_add(size) <= self.options.limit;
        if !has_room {
            self.stop(Mark::Full);
            return false;
        }
        let piece = mem::take(&mut self.current);
        self.before += piece.len();
        let next = match &self.options.sink {
            Some(sink) => {
                self.has_given = true;
                sink.take(self.number, piece)
            }
            None => {
                self.full.push(piece);
                self.charge(PIECE.max(size)).then(|| Vec::with_capacity(PIECE.max(size)))
            }
        };
        match next {
            Some(next) => self.current = next,
            None => self.stop(Mark::NoRoom),
        }
        !self.is_stopped
    }

    /// Ends the recording with this mark.
    #[cold]
    pub(super) fn stop(&mut self, mark: Mark) {
        self.current.extend([log::MARK, mark as u8]);
        self.is_stopped = true;
    }

    fn charge(&mut self, bytes: usize) -> bool {
        let is_there = self.options.budget.as_ref().is_none_or(|budget| budget.charge(bytes));
        self.charged += if is_there { bytes } else { 0 };
        is_there
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        if let Some(budget) = &self.options.budget {
            budget.release(self.charged);
        }
    }
}

/// The fields of an entry before its content. They are assembled here, so that the log grows by two copies for each entry and
/// not byte by byte.
pub(super) struct Head {
    bytes: [u8; HEAD],
    len: usize,
}

impl Head {
    pub(super) fn new(tag: u8) -> Self {
        let mut bytes = [0; HEAD];
        bytes[0] = tag;
        Self { bytes, len: 1 }
    }

    #[inline(always)]
    pub(super) fn byte(mut self, byte: u8) -> Self {
        self.bytes[self.len] = byte;
        self.len += 1;
        self
    }

    #[inline(always)]
    pub(super) fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self = self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8)
    }
}
