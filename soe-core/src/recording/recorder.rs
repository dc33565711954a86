//! The recorder of one session: the calls of the session append entries, full pieces are kept or handed over.

use std::{
    fmt, mem,
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    log::{self, digest, put_bytes, put_number, time_code},
    options::{Mark, RecordOptions},
};
use crate::{
    message::{Channel, ReliableChannel},
    timestamp::Timestamp,
};

/// Bytes of a piece, after which it is kept or handed over. Small enough that the pieces of a hundred busy sessions stay in the
/// processor's cache, large enough that handing one over costs little for each message.
const PIECE: usize = 8 * 1024;
/// Bytes of the first piece to begin with: most sessions of a login server are short.
const FIRST: usize = 2 * 1024;
/// The most bytes of an entry without its datagram or message: a tag and four numbers of up to ten bytes.
const HEAD: usize = 48;
/// What most heads fit into, in bytes.
const SHORT: usize = 16;
/// The longest message or datagram that a recording holds, in bytes: half of what readers of captures take as one block.
const MAX_CONTENT: usize = 8 << 20;
/// Recordings that this process has begun.
static RECORDINGS: AtomicU64 = AtomicU64::new(0);
/// How long before the session's beginning the recording's clock starts: no call may come from before it.
const EARLY: Duration = Duration::from_secs(10);

/// Whether a message goes out or has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out = 0,
    In = 1,
}

/// Records the calls of one session. It is the session's, see [`Session::recorder`](crate::Session::recorder).
#[derive(Debug)]
pub struct Recorder {
    options: RecordOptions,
    number: u64,
    current: Vec<u8>,
    /// Pieces that are kept, oldest first.
    full: Vec<Vec<u8>>,
    /// Bytes of the pieces before the current one.
    before: usize,
    /// Bytes taken out of the budget.
    charged: usize,
    /// Time zero of the recording.
    zero: Timestamp,
    /// The time of the last entry, in nanoseconds since then.
    last: u64,
    is_stopped: bool,
    has_panicked: bool,
    /// Whether the beginning of the log is not here any more.
    has_given: bool,
    path: Option<(SocketAddr, SocketAddr)>,
}

impl Recorder {
    /// A recorder of a session that was created at `created`, of which `start` writes all but the times.
    pub(crate) fn new(options: &RecordOptions, created: Timestamp, start: impl FnOnce(&mut Vec<u8>)) -> Box<Self> {
        let zero = created.checked_sub(EARLY).unwrap_or(created);
        let mut recorder = Box::new(Self {
            number: RECORDINGS.fetch_add(1, Ordering::Relaxed),
            options: options.clone(),
            current: Vec::with_capacity(FIRST),
            full: Vec::new(),
            before: 0,
            charged: 0,
            zero,
            last: 0,
            is_stopped: false,
            has_panicked: false,
            has_given: false,
            path: None,
        });
        let (now, unix) = (Timestamp::from(options.clock.0), options.clock.1);
        let since = |from: Timestamp, to: Timestamp| i128::from(nanos(to - from));
        let unix = (i128::from(unix) + since(now, created) - since(created, now)).clamp(0, i128::from(u64::MAX)) as u64;
        recorder.last = nanos(created - zero);
        let out = &mut recorder.current;
        out.push(log::START);
        out.push(log::VERSION);
        put_bytes(out, env!("CARGO_PKG_VERSION").as_bytes());
        out.push(u8::from(options.is_redacted));
        put_number(out, unix);
        put_number(out, recorder.last);
        start(out);
        if !recorder.charge(PIECE) {
            recorder.stop(Mark::NoRoom);
        }
        recorder
    }

    /// The number of this recording among all of the process, from 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether everything has been recorded so far.
    pub fn is_complete(&self) -> bool {
        !self.is_stopped
    }

    /// Bytes recorded so far.
    pub fn written(&self) -> usize {
        self.before + self.current.len()
    }

    /// Notes where the session's datagrams leave from and go to, from here on. The session itself knows no address.
    pub fn path(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.path.replace((local, remote)) == Some((local, remote)) || !self.has_room(4 * HEAD) {
            return;
        }
        self.current.push(log::PATH);
        for address in [local, remote] {
            put_bytes(&mut self.current, address.to_string().as_bytes());
        }
    }

    /// Notes something about the recording itself. After [`Mark::Full`] and [`Mark::NoRoom`] nothing is recorded.
    pub fn mark(&mut self, mark: Mark) {
        self.has_panicked |= mark == Mark::Panicked;
        if self.has_room(0) {
            self.current.extend([log::MARK, mark as u8]);
        }
    }

    /// Whether [`Mark::Panicked`] was noted.
    pub fn has_panicked(&self) -> bool {
        self.has_panicked
    }

    /// Takes the pieces that are kept or unfinished, oldest first. Together with those that were handed over they are the
    /// whole log so far, and what follows continues it.
    pub fn take_pieces(&mut self) -> Vec<Vec<u8>> {
        self.has_given = true;
        let mut pieces = mem::take(&mut self.full);
        if !self.current.is_empty() {
            self.before += self.current.len();
            pieces.push(mem::take(&mut self.current));
        }
        pieces
    }

    /// Whether the log is here from its beginning: no piece was taken or handed over.
    pub fn is_whole(&self) -> bool {
        !self.has_given
    }

    /// Copies the whole log so far, oldest piece first. `None` if a part of it was taken or handed over.
    pub fn copy_pieces(&self) -> Option<Vec<Vec<u8>>> {
        let pieces = self.full.iter().chain([&self.current]).filter(|piece| !piece.is_empty());
        (!self.has_given).then(|| pieces.cloned().collect())
    }

    /// Moves the log so far to `out`, and keeps the buffer.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<u8>) {
        for piece in self.full.drain(..) {
            out.extend_from_slice(&piece);
        }
        out.extend_from_slice(&self.current);
        self.current.clear();
    }

    pub(crate) fn datagram(&mut self, now: Timestamp, datagram: &[u8]) {
        if self.has_room(datagram.len()) {
            let head = self.head_at(log::DATAGRAM, now);
            self.put(head.number(datagram.len() as u64), datagram);
        }
    }

    /// A call without arguments other than the time.
    pub(crate) fn call_at(&mut self, tag: u8, now: Timestamp) {
        if self.has_room(0) {
            let (now, last) = (nanos(now - self.zero), self.last);
            if now == last {
                // Most calls come at the time of the one before.
                self.current.extend_from_slice(&[tag, 0]);
            } else {
                self.last = now;
                self.put(Head::new(tag).number(time_code(last, now)), &[]);
            }
        }
    }

    /// A call without arguments.
    pub(crate) fn call(&mut self, tag: u8) {
        if self.has_room(0) {
            self.current.push(tag);
        }
    }

    /// A call that ends the session.
    pub(crate) fn ending(&mut self, tag: u8, now: Timestamp, reason: u32, tell_peer: Option<bool>) {
        if self.has_room(0) {
            let head = self.head_at(tag, now).number(reason.into());
            self.put(head, tell_peer.map(u8::from).as_slice());
        }
    }

    pub(crate) fn send(&mut self, channel: Channel, message: &[u8], receipt: bool) {
        if self.has_room(message.len()) {
            let tag = if receipt { log::SEND_WITH_RECEIPT } else { log::SEND };
            let head = Head::new(tag).byte(channel_number(channel)).number(message.len() as u64);
            self.put(head, message);
        }
    }

    pub(crate) fn set_key(&mut self, way: Way, key: Option<&[u8]>) {
        let (has_key, key) = (key.is_some(), key.unwrap_or_default());
        if self.has_room(key.len()) {
            let head = Head::new(log::SET_KEY).byte(way as u8).byte(has_key.into()).number(key.len() as u64);
            self.put(head, key);
        }
    }

    pub(crate) fn set_hook(&mut self, way: Way, channel: ReliableChannel, is_set: bool) {
        if self.has_room(0) {
            self.current.extend([log::SET_HOOK, way as u8, channel.index() as u8, u8::from(is_set)]);
        }
    }

    /// What became of the call before: a number.
    pub(crate) fn result(&mut self, tag: u8, number: u64) {
        if !self.is_stopped {
            self.put(Head::new(tag).number(number), &[]);
        }
    }

    pub(crate) fn message(&mut self, channel: Channel, message: &[u8]) {
        if !self.is_stopped {
            let head = Head::new(log::MESSAGE).byte(channel_number(channel)).number(message.len() as u64);
            self.put(head, &digest(message).to_le_bytes());
        }
    }

    /// What a hook of the application made of a message.
    pub(crate) fn hook(&mut self, result: Result<&[u8], &dyn fmt::Display>) {
        if self.is_stopped {
            return;
        }
        let text;
        let (is_ok, bytes) = match result {
            Ok(bytes) => (true, bytes),
            Err(error) => {
                text = error.to_string();
                (false, text.as_bytes())
            }
        };
        if bytes.len() > MAX_CONTENT {
            return self.stop(Mark::NoRoom);
        }
        self.put(Head::new(log::HOOK).byte(is_ok.into()).number(bytes.len() as u64), bytes);
    }

    pub(crate) fn transmit(&mut self, datagrams: &[u8], segment: usize, time_to_live: Option<u8>) {
        if !self.is_stopped {
            let hops = time_to_live.map_or(0, |hops| u64::from(hops) + 1);
            let head = Head::new(log::TRANSMIT).number(hops).number(segment as u64).number(datagrams.len() as u64);
            self.put(head, datagrams);
        }
    }

    /// A call that has given something that is shown as text.
    pub(crate) fn gave(&mut self, tag: u8, what: &dyn fmt::Display) {
        let text = what.to_string();
        if self.has_room(text.len()) {
            self.put(Head::new(tag).number(text.len() as u64), text.as_bytes());
        }
    }

    /// Makes room for an entry with so many bytes of content, in a new piece if this one is full: pieces end between calls.
    /// False: nothing is recorded any more.
    #[inline]
    fn has_room(&mut self, content: usize) -> bool {
        let size = content + HEAD;
        !self.is_stopped && (self.current.len() + size <= PIECE || self.turn(size))
    }

    #[inline]
    fn put(&mut self, head: Head, content: &[u8]) {
        let end = self.current.len() + head.len;
        // A copy of a fixed length, which takes no call, and then what of it counts.
        match head.bytes.first_chunk::<SHORT>() {
            Some(short) if head.len <= SHORT => self.current.extend_from_slice(short),
            _ => self.current.extend_from_slice(&head.bytes),
        }
        self.current.truncate(end);
        self.current.extend_from_slice(content);
    }

    /// The head of an entry that has a time.
    #[inline]
    fn head_at(&mut self, tag: u8, now: Timestamp) -> Head {
        let now = nanos(now - self.zero);
        let last = mem::replace(&mut self.last, now);
        Head::new(tag).number(time_code(last, now))
    }

    /// Goes on with a new piece.
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

    #[cold]
    fn stop(&mut self, mark: Mark) {
        self.current.extend([log::MARK, mark as u8]);
        self.is_stopped = true;
    }

    fn charge(&mut self, bytes: usize) -> bool {
        let is_there = self.options.budget.as_ref().is_none_or(|budget| budget.charge(bytes));
        self.charged += if is_there { bytes } else { 0 };
        is_there
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Some(budget) = &self.options.budget {
            budget.release(self.charged);
        }
    }
}

/// The fields of an entry before its content. They are put together here, for the log grows by two copies for each entry then
/// and not byte by byte.
struct Head {
    bytes: [u8; HEAD],
    len: usize,
}

impl Head {
    fn new(tag: u8) -> Self {
        let mut bytes = [0; HEAD];
        bytes[0] = tag;
        Self { bytes, len: 1 }
    }

    #[inline(always)]
    fn byte(mut self, byte: u8) -> Self {
        self.bytes[self.len] = byte;
        self.len += 1;
        self
    }

    #[inline(always)]
    fn number(mut self, mut number: u64) -> Self {
        while number >= 0x80 {
            self = self.byte(number as u8 | 0x80);
            number >>= 7;
        }
        self.byte(number as u8)
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The number of a channel in the log.
pub(super) fn channel_number(channel: Channel) -> u8 {
    match channel {
        Channel::Reliable(channel) => channel.index() as u8,
        Channel::Unreliable => 4,
        Channel::Ordered => 5,
        Channel::Ordered2 => 6,
    }
}

/// The channel with this number in the log.
pub(crate) fn channel_of(number: u8) -> Option<Channel> {
    match number {
        4 => Some(Channel::Unreliable),
        5 => Some(Channel::Ordered),
        6 => Some(Channel::Ordered2),
        number => ReliableChannel::new(number).map(Channel::Reliable),
    }
}
