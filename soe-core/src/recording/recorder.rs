//! The recorder of one session: each call of the session, and what it returned, becomes an entry of the log.

use std::{fmt, mem, net::SocketAddr, time::Duration};

use super::{
    log::{self, Way, channel_number, digest, put_bytes, put_number, time_code},
    options::{Mark, RecordOptions},
    pieces::{HEAD, Head, MAX_CONTENT, Pieces},
};
use crate::{
    message::{Channel, ReliableChannel},
    timestamp::Timestamp,
};

/// How long before the session's beginning the recording's clock starts: no call may come from before it.
const EARLY: Duration = Duration::from_secs(10);

/// Records the calls of one session. It is the session's, see [`Session::recorder`](crate::Session::recorder).
#[derive(Debug)]
pub struct Recorder {
    pieces: Pieces,
    /// Time zero of the recording.
    zero: Timestamp,
    /// The time of the last entry, in nanoseconds since then.
    last: u64,
    has_panicked: bool,
    path: Option<(SocketAddr, SocketAddr)>,
}

impl Recorder {
    /// A recorder of a session that was created at `created`, of which `start` writes all but the times.
    pub(crate) fn new(options: &RecordOptions, created: Timestamp, start: impl FnOnce(&mut Vec<u8>)) -> Box<Self> {
        let zero = created.checked_sub(EARLY).unwrap_or(created);
        let mut recorder = Box::new(Self {
            pieces: Pieces::new(options.clone()),
            zero,
            last: nanos(created - zero),
            has_panicked: false,
            path: None,
        });
        let (now, unix) = (Timestamp::from(options.clock.0), options.clock.1);
        let since = |from: Timestamp, to: Timestamp| i128::from(nanos(to - from));
        let unix = (i128::from(unix) + since(now, created) - since(created, now)).clamp(0, i128::from(u64::MAX)) as u64;
        let last = recorder.last;
        let out = &mut recorder.pieces.current;
        out.push(log::START);
        out.push(log::VERSION);
        put_bytes(out, env!("CARGO_PKG_VERSION").as_bytes());
        out.push(u8::from(options.is_redacted));
        put_number(out, unix);
        put_number(out, last);
        start(out);
        recorder.pieces.begin();
        recorder
    }

    /// The number of this recording among all of the process, from 0.
    pub fn number(&self) -> u64 {
        self.pieces.number()
    }

    /// Whether everything has been recorded so far.
    pub fn is_complete(&self) -> bool {
        !self.pieces.is_stopped()
    }

    /// Bytes recorded so far.
    pub fn written(&self) -> usize {
        self.pieces.written()
    }

    /// Notes where the session's datagrams leave from and go to, from here on. The session itself knows no address.
    pub fn path(&mut self, local: SocketAddr, remote: SocketAddr) {
        if self.path.replace((local, remote)) == Some((local, remote)) || !self.pieces.has_room(4 * HEAD) {
            return;
        }
        self.pieces.current.push(log::PATH);
        for address in [local, remote] {
            put_bytes(&mut self.pieces.current, address.to_string().as_bytes());
        }
    }

    /// Notes something about the recording itself. After [`Mark::Full`] and [`Mark::NoRoom`] nothing is recorded.
    pub fn mark(&mut self, mark: Mark) {
        self.has_panicked |= mark == Mark::Panicked;
        if self.pieces.has_room(0) {
            self.pieces.current.extend([log::MARK, mark as u8]);
        }
    }

    /// Whether [`Mark::Panicked`] was noted.
    pub fn has_panicked(&self) -> bool {
        self.has_panicked
    }

    /// Takes the pieces that are stored or unfinished, oldest first. Together with those that were passed on they are the
    /// whole log so far, and what follows continues it.
    pub fn take_pieces(&mut self) -> Vec<Vec<u8>> {
        self.pieces.take()
    }

    /// Whether the log is here from its beginning: no piece was taken or passed on.
    pub fn is_whole(&self) -> bool {
        self.pieces.is_whole()
    }

    /// Copies the whole log so far, oldest piece first. `None` if a part of it was taken or passed on.
    pub fn copy_pieces(&self) -> Option<Vec<Vec<u8>>> {
        self.pieces.copy()
    }

    /// Moves the log so far to `out`, and keeps the buffer.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<u8>) {
        self.pieces.drain_into(out);
    }

    pub(crate) fn datagram(&mut self, now: Timestamp, datagram: &[u8]) {
        if self.pieces.has_room(datagram.len()) {
            let head = self.head_at(log::DATAGRAM, now);
            self.pieces.put(head.number(datagram.len() as u64), datagram);
        }
    }

    /// A call without arguments other than the time.
    pub(crate) fn call_at(&mut self, tag: u8, now: Timestamp) {
        if self.pieces.has_room(0) {
            let (now, last) = (nanos(now - self.zero), self.last);
            if now == last {
                // Most calls come at the time of the one before.
                self.pieces.current.extend_from_slice(&[tag, 0]);
            } else {
                self.last = now;
                self.pieces.put(Head::new(tag).number(time_code(last, now)), &[]);
            }
        }
    }

    /// A call without arguments.
    pub(crate) fn call(&mut self, tag: u8) {
        if self.pieces.has_room(0) {
            self.pieces.current.push(tag);
        }
    }

    /// A call that ends the session.
    pub(crate) fn ending(&mut self, tag: u8, now: Timestamp, reason: u32, tell_peer: Option<bool>) {
        if self.pieces.has_room(0) {
            let head = self.head_at(tag, now).number(reason.into());
            self.pieces.put(head, tell_peer.map(u8::from).as_slice());
        }
    }

    pub(crate) fn send(&mut self, channel: Channel, message: &[u8], receipt: bool) {
        if self.pieces.has_room(message.len()) {
            let tag = if receipt { log::SEND_WITH_RECEIPT } else { log::SEND };
            let head = Head::new(tag).byte(channel_number(channel)).number(message.len() as u64);
            self.pieces.put(head, message);
        }
    }

    pub(crate) fn set_key(&mut self, way: Way, key: Option<&[u8]>) {
        let (has_key, key) = (key.is_some(), key.unwrap_or_default());
        if self.pieces.has_room(key.len()) {
            let head = Head::new(log::SET_KEY).byte(way as u8).byte(has_key.into()).number(key.len() as u64);
            self.pieces.put(head, key);
        }
    }

    pub(crate) fn set_hook(&mut self, way: Way, channel: ReliableChannel, is_set: bool) {
        if self.pieces.has_room(0) {
            self.pieces.current.extend([log::SET_HOOK, way as u8, channel.index() as u8, u8::from(is_set)]);
        }
    }

    /// What became of the call before: a number.
    pub(crate) fn result(&mut self, tag: u8, number: u64) {
        if !self.pieces.is_stopped() {
            self.pieces.put(Head::new(tag).number(number), &[]);
        }
    }

    pub(crate) fn message(&mut self, channel: Channel, message: &[u8]) {
        if !self.pieces.is_stopped() {
            let head = Head::new(log::MESSAGE).byte(channel_number(channel)).number(message.len() as u64);
            self.pieces.put(head, &digest(message).to_le_bytes());
        }
    }

    /// What a hook of the application made of a message.
    pub(crate) fn hook(&mut self, result: Result<&[u8], &dyn fmt::Display>) {
        if self.pieces.is_stopped() {
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
            return self.pieces.stop(Mark::NoRoom);
        }
        self.pieces.put(Head::new(log::HOOK).byte(is_ok.into()).number(bytes.len() as u64), bytes);
    }

    pub(crate) fn transmit(&mut self, datagrams: &[u8], segment: usize, time_to_live: Option<u8>) {
        if !self.pieces.is_stopped() {
            let hops = time_to_live.map_or(0, |hops| u64::from(hops) + 1);
            let head = Head::new(log::TRANSMIT).number(hops).number(segment as u64).number(datagrams.len() as u64);
            self.pieces.put(head, datagrams);
        }
    }

    /// A call that has given something that is shown as text.
    pub(crate) fn gave(&mut self, tag: u8, what: &dyn fmt::Display) {
        let text = what.to_string();
        if self.pieces.has_room(text.len()) {
            self.pieces.put(Head::new(tag).number(text.len() as u64), text.as_bytes());
        }
    }

    /// The head of an entry that has a time.
    #[inline]
    fn head_at(&mut self, tag: u8, now: Timestamp) -> Head {
        let now = nanos(now - self.zero);
        let last = mem::replace(&mut self.last, now);
        Head::new(tag).number(time_code(last, now))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
