//! The socket as the engine sees it: the trait [`AsyncUdp`], which the kernel's socket and simulated ones implement,
//! and the batches that it receives and sends. Nothing here names a connection.

pub(crate) mod bind;
#[cfg(unix)]
mod drops;
pub(crate) mod kernel;
#[cfg(target_os = "linux")]
mod linux;
pub(crate) mod proxied;
#[cfg(target_os = "linux")]
mod reports;
pub(crate) mod reuse_port;
mod segmentation;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use bytes::BytesMut;
use soe_core::{Path, Relay, Transmit};

/// A non-blocking datagram socket that sends and receives in batches. The socket is owned and called by one task. Most
/// users do not need this trait: it exists so that [`crate::SoeListener::from_socket`] and
/// [`crate::SoeConnector::from_socket`] can run over an in-memory network in virtual time.
pub trait AsyncUdp: fmt::Debug + Send + 'static {
    /// Receives available datagrams into `batch`, at least one, or registers the task's waker.
    ///
    /// No error is fatal: the caller logs it and calls again. After many errors in a row it calls less often.
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>>;

    /// Waits until [`AsyncUdp::try_send`] is worth another attempt.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Sends from the front of [`SendBatch::pending`] and returns how many entries were sent.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`]: nothing was sent, call [`AsyncUdp::poll_writable`]. Any other error is about the
    /// first pending entry, and nothing of it was sent.
    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize>;

    /// How many equal datagrams one entry of a [`SendBatch`] may hold at present.
    fn max_segments(&self) -> usize {
        1
    }

    /// The next address that the network reported as unreachable (ICMP), if the socket supports it.
    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        None
    }

    /// Waits until [`AsyncUdp::next_unreachable`] is worth a call, or registers the task's waker. Once that has returned
    /// `None`, it waits for the next report.
    fn poll_unreachable(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }

    /// A seed for session ids and keys, in place of the system's random source: a simulated network that returns the
    /// same seed gets the same datagrams again. Anyone who has the seed can forge datagrams, so a real socket must
    /// return `None`.
    fn secrets_seed(&self) -> Option<u64> {
        None
    }

    /// How much the socket's receive buffer holds, in bytes (`SO_RCVBUF`). Timers wait until as much has been received, or
    /// the socket is empty: what was in the buffer when they became due comes first.
    fn recv_buffer(&self) -> usize {
        DEFAULT_RECV_BUFFER
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    ///
    /// What the system says.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Received datagrams. They are copied once, from the receive buffer of the socket to a shared arena: a receive buffer
/// has 64 KiB for each run that the kernel may coalesce, and a small datagram in a session's queue would keep all of
/// that allocated.
#[derive(Debug, Default)]
pub struct RecvBatch {
    arena: BytesMut,
    pub(crate) datagrams: Vec<(Path, BytesMut)>,
    pub(crate) removed: Removed,
}

/// What was received and is not in the batch any more.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Removed {
    /// Whole datagrams.
    pub(crate) datagrams: usize,
    /// Their bytes, and the headers of others.
    pub(crate) bytes: usize,
}

impl RecvBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a run of datagrams from one sender: each `segment_size` bytes long, the last may be shorter. For sockets
    /// that are bound to one address. For a wildcard address see [`RecvBatch::push_to`].
    pub fn push(&mut self, from: SocketAddr, contents: &[u8], segment_size: usize) {
        self.push_run(from.into(), contents, segment_size);
    }

    /// Like [`RecvBatch::push`], for a socket that is bound to a wildcard address: `to` is the local address that the run
    /// was sent to. A listener's answers carry it in [`Outgoing::local_ip`].
    pub fn push_to(&mut self, to: IpAddr, from: SocketAddr, contents: &[u8], segment_size: usize) {
        self.push_run(Path::new(from, Some(to)), contents, segment_size);
    }

    fn push_run(&mut self, path: Path, contents: &[u8], segment_size: usize) {
        let mut arena = std::mem::take(&mut self.arena);
        self.push_into(&mut arena, path, contents, segment_size);
        self.arena = arena;
    }

    /// Adds a run, copied to an arena that several sockets share.
    pub(crate) fn push_into(&mut self, arena: &mut BytesMut, path: Path, contents: &[u8], segment_size: usize) {
        if arena.capacity() - arena.len() < contents.len() {
            arena.reserve(contents.len().max(ARENA_CHUNK));
        }
        arena.extend_from_slice(contents);
        let mut run = arena.split();
        while segment_size > 0 && run.len() > segment_size {
            self.datagrams.push((path, run.split_to(segment_size)));
        }
        self.datagrams.push((path, run));
    }

    /// The number of datagrams.
    pub fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Whether there are no datagrams.
    pub fn is_empty(&self) -> bool {
        self.datagrams.is_empty()
    }
}

/// One entry of a [`SendBatch`]: a run of equal datagrams to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outgoing<'a> {
    /// The destination.
    pub to: SocketAddr,
    /// The local address to send from: the one that the peer sent to, as passed to [`RecvBatch::push_to`]. `None`: the
    /// system chooses.
    pub local_ip: Option<IpAddr>,
    /// By way of whom, where a wrapper around the socket has named a relay. The socket itself sends to `to`.
    pub relay: Option<Relay>,
    /// One or more datagrams, back to back.
    pub contents: &'a [u8],
    /// The length of each datagram in `contents`; the last may be shorter.
    pub segment_size: usize,
    /// A time to live other than the system's.
    pub time_to_live: Option<u8>,
}

impl<'a> Outgoing<'a> {
    /// The single datagrams.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        self.contents.chunks(self.segment_size.max(1))
    }
}

/// Datagrams to send.
#[derive(Debug, Default)]
pub struct SendBatch {
    buffer: Vec<u8>,
    entries: Vec<Entry>,
    done: usize,
}

#[derive(Debug)]
struct Entry {
    path: Path,
    start: usize,
    end: usize,
    segment_size: usize,
    time_to_live: Option<u8>,
    /// The sender: an index into the list of connections of `Transmitter`.
    owner: Option<u32>,
}

impl SendBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries that have not been sent, oldest first.
    pub fn pending(&self) -> impl ExactSizeIterator<Item = Outgoing<'_>> {
        self.entries[self.done..].iter().map(|entry| Outgoing {
            to: entry.path.remote,
            local_ip: entry.path.local,
            relay: entry.path.relay,
            contents: &self.buffer[entry.start..entry.end],
            segment_size: entry.segment_size,
            time_to_live: entry.time_to_live,
        })
    }

    /// The buffer that a session appends its datagrams to, to be followed by [`SendBatch::push`].
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Describes what was just appended to the buffer, cut into entries of at most `max_segments` datagrams.
    pub(crate) fn push(&mut self, path: Path, transmit: &Transmit, max_segments: usize, owner: Option<u32>) {
        let segment_size = transmit.segment_size.max(1);
        // GSO fails for segments that would need IP fragmentation.
        let max_segments = if segment_size > MAX_SEGMENT_BYTES { 1 } else { max_segments };
        let run = segment_size * max_segments.min(MAX_RUN_BYTES / segment_size).max(1);
        let mut start = self.buffer.len() - transmit.size;
        while start < self.buffer.len() {
            let end = self.buffer.len().min(start + run);
            let time_to_live = transmit.time_to_live;
            self.entries.push(Entry { path, start, end, segment_size, time_to_live, owner });
            start = end;
        }
    }

    /// Describes one datagram without a session that was just appended to the buffer at `start`.
    pub(crate) fn push_single(&mut self, path: Path, start: usize) {
        let end = self.buffer.len();
        let segment_size = (end - start).max(1);
        self.entries.push(Entry { path, start, end, segment_size, time_to_live: None, owner: None });
    }

    /// Whether no buffer is allocated.
    pub(crate) fn is_bare(&self) -> bool {
        self.buffer.capacity() == 0
    }

    /// Whether all entries have been sent or dropped.
    pub(crate) fn is_done(&self) -> bool {
        self.done == self.entries.len()
    }

    /// Whether it holds enough to be sent before more sessions are served.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= FULL_BYTES || self.entries.len() - self.done >= FULL_ENTRIES
    }

    /// Skips the first `entries` pending ones.
    pub(crate) fn advance(&mut self, entries: usize) {
        self.done = self.entries.len().min(self.done + entries);
    }

    /// The owner of the first pending entry.
    pub(crate) fn first_owner(&self) -> Option<u32> {
        self.entries.get(self.done)?.owner
    }

    /// Lets the system choose the local address, for all pending entries with the path of the first one. False if it
    /// already does.
    pub(crate) fn clear_local_ip(&mut self) -> bool {
        let Some(path) = self.entries.get(self.done).map(|first| first.path) else { return false };
        if path.local.is_none() {
            return false;
        }
        for entry in &mut self.entries[self.done..] {
            if entry.path == path {
                entry.path.local = None;
            }
        }
        true
    }

    /// Splits the first pending run into single datagrams; false if it is a single datagram.
    pub(crate) fn split(&mut self) -> bool {
        if self.entries.get(self.done).is_none_or(|first| first.end - first.start <= first.segment_size) {
            return false;
        }
        let Entry { path, start, end, segment_size, time_to_live, owner } = self.entries.remove(self.done);
        let singles = (start..end).step_by(segment_size).map(|start| {
            let end = end.min(start + segment_size);
            Entry { path, start, end, segment_size, time_to_live, owner }
        });
        self.entries.splice(self.done..self.done, singles);
        true
    }

    /// The number of entries, including those already sent.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes all entries and keeps the capacity.
    pub(crate) fn clear(&mut self) {
        self.buffer.clear();
        self.entries.clear();
        self.done = 0;
    }
}

/// The receive buffer size of a socket that does not report it.
const DEFAULT_RECV_BUFFER: usize = 4 << 20;
/// The size of the arena's chunks: few allocations under load, and a queued datagram keeps at most this many bytes
/// allocated.
const ARENA_CHUNK: usize = 16 << 10;
/// The longest run in one entry: it must fit into one IP packet before the kernel segments it.
const MAX_RUN_BYTES: usize = 65_000;
/// The longest datagram in a run of several: an Ethernet MTU of 1500 bytes less the headers of IPv6 and UDP.
const MAX_SEGMENT_BYTES: usize = 1452;
/// Entries after which a batch is sent before more sessions are served.
const FULL_ENTRIES: usize = 64;
/// Bytes after which a batch is sent before more sessions are served.
const FULL_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn a_coalesced_run_is_split_into_its_datagrams() {
        let mut batch = RecvBatch::new();
        batch.push(A, b"aabbc", 2);
        batch.push(A, b"", 0);
        let cut: Vec<_> = batch.datagrams.iter().map(|(_, datagram)| &datagram[..]).collect();
        assert_eq!(cut, [&b"aa"[..], b"bb", b"c", b""]);
    }

    #[test]
    fn an_arena_is_reused_once_its_datagrams_are_dropped() {
        let mut batch = RecvBatch::new();
        batch.push(A, &[1; 512], 512);
        let first = batch.datagrams[0].1.as_ptr();
        for _ in 0..ARENA_CHUNK / 512 {
            batch.datagrams.clear();
            batch.push(A, &[2; 512], 512);
        }
        assert_eq!(batch.datagrams[0].1.as_ptr(), first);
    }
}
