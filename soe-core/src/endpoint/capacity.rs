//! Limits on the number of sessions: open sessions, the accept queue, first datagrams that wait for it, and ended
//! sessions.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{address::Path, routes::SessionKey};
use crate::config::RequestInfo;

/// Whether one more session may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// The accept queue is full. First datagrams wait.
    Backlogged,
    /// `max_sessions` is reached.
    Full,
    /// The endpoint is closed. Clients are refused.
    Closed,
    /// The endpoint is closed and about to end. It refuses the clients that it has answered, and answers no others.
    Over,
}

/// Counters of the accept queue and of ended sessions. All start at zero with the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapacityStats {
    /// First datagrams that waited for a place in the accept queue.
    pub parked: u64,
    /// First datagrams dropped while they waited, to make room for others. The clients repeat them.
    pub parked_dropped: u64,
    /// Sessions that ended in the accept queue without unread messages.
    pub ended_in_queue: u64,
    /// Sessions refused because the endpoint was closed while they waited.
    pub refused_on_close: u64,
    /// Ended sessions dropped early because there were too many.
    pub lingering_cut: u64,
}

#[derive(Debug)]
pub(super) struct Capacity {
    max_sessions: usize,
    backlog: usize,
    /// Sessions that have not ended.
    live: usize,
    waiting: VecDeque<Waiting>,
    parked: VecDeque<(Path, BytesMut)>,
    parked_bytes: usize,
    /// Ended sessions, oldest first; some may have drained since.
    lingering: VecDeque<SessionKey>,
    lingering_count: usize,
    pub(super) is_closed: bool,
    pub(super) stats: CapacityStats,
}

/// A session in the accept queue.
#[derive(Debug)]
struct Waiting {
    key: SessionKey,
    request: RequestInfo,
    /// The host has it.
    is_ready: bool,
}

/// The most first datagrams that wait for a place.
const MAX_PARKED: usize = 256;
/// The most bytes in them.
const MAX_PARKED_BYTES: usize = 128 << 10;
/// Ended sessions that are kept at least, even if `max_sessions` is lower.
const FEWEST_LINGERING: usize = 64;

impl Capacity {
    pub(super) fn new(max_sessions: usize, backlog: usize) -> Self {
        Self {
            max_sessions,
            backlog: backlog.max(1),
            live: 0,
            waiting: VecDeque::new(),
            parked: VecDeque::new(),
            parked_bytes: 0,
            lingering: VecDeque::new(),
            lingering_count: 0,
            is_closed: false,
            stats: CapacityStats::default(),
        }
    }

    /// The most memory in use besides the accept queue, in bytes.
    pub(super) fn memory_ceiling() -> usize {
        MAX_PARKED.next_power_of_two() * size_of::<(Path, BytesMut)>() + MAX_PARKED_BYTES
    }

    pub(super) fn set_limits(&mut self, max_sessions: usize, backlog: usize) {
        (self.max_sessions, self.backlog) = (max_sessions, backlog.max(1));
    }

    /// Whether one more session may open. `replaces`: it replaces an existing one.
    pub(super) fn room(&self, replaces: bool) -> Room {
        if self.is_closed {
            Room::Closed
        } else if self.live >= self.max_sessions && !replaces {
            Room::Full
        } else if self.waiting.len() >= self.backlog {
            Room::Backlogged
        } else {
            Room::Free
        }
    }

    pub(super) fn live(&self) -> usize {
        self.live
    }

    pub(super) fn lingering(&self) -> usize {
        self.lingering_count
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Adds a session that need not be accepted.
    pub(super) fn add(&mut self) {
        self.live += 1;
    }

    /// Adds a session to the accept queue. It becomes acceptable with [`ready`](Self::ready).
    pub(super) fn enqueue(&mut self, key: SessionKey, request: RequestInfo) {
        self.live += 1;
        self.waiting.push_back(Waiting { key, request, is_ready: false });
    }

    /// The host has stored this session.
    pub(super) fn ready(&mut self, key: SessionKey) {
        if let Some(waiting) = self.waiting.iter_mut().rev().find(|waiting| waiting.key == key) {
            waiting.is_ready = true;
        }
    }

    /// Removes the next session to accept.
    pub(super) fn dequeue(&mut self) -> Option<(SessionKey, RequestInfo)> {
        let at = self.waiting.iter().position(|waiting| waiting.is_ready)?;
        self.waiting.remove(at).map(|waiting| (waiting.key, waiting.request))
    }

    /// Removes a session from the accept queue.
    pub(super) fn withdraw(&mut self, key: SessionKey) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.key != key);
        self.waiting.len() < before
    }

    /// Empties the accept queue.
    pub(super) fn withdraw_all(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.key).collect()
    }

    /// Records the end of a session. Returns an older ended session that must be dropped.
    pub(super) fn end(&mut self, key: SessionKey, lingers: impl Fn(SessionKey) -> bool) -> Option<SessionKey> {
        self.live = self.live.saturating_sub(1);
        self.lingering_count += 1;
        // Drained sessions leave stale keys behind. Removing them at twice the size is O(1) amortized.
        if self.lingering.len() > 2 * self.lingering_count + FEWEST_LINGERING {
            self.lingering.retain(|&key| lingers(key));
        }
        self.lingering.push_back(key);
        // Without this limit, clients that connect and close in a loop would fill the memory with ended sessions.
        if self.lingering_count <= self.max_sessions.max(FEWEST_LINGERING) {
            return None;
        }
        let oldest = std::iter::from_fn(|| self.lingering.pop_front()).find(|&key| lingers(key));
        self.stats.lingering_cut += u64::from(oldest.is_some());
        oldest
    }

    /// An ended session is forgotten.
    pub(super) fn forget(&mut self) {
        self.lingering_count = self.lingering_count.saturating_sub(1);
        if self.lingering_count == 0 {
            // Returns the memory after a mass disconnect.
            self.lingering = VecDeque::new();
        }
    }

    /// Keeps a first valid datagram until there is a place. One for each address; the client repeats it if there is no
    /// answer.
    pub(super) fn park(&mut self, path: Path, datagram: BytesMut) {
        if self.parked.iter().any(|(parked, _)| parked.remote == path.remote) {
            return;
        }
        self.stats.parked += 1;
        self.parked_bytes += datagram.len();
        // A copy: the datagram may be a slice of a large receive buffer.
        self.parked.push_back((path, BytesMut::from(&datagram[..])));
        while self.parked.len() > MAX_PARKED || self.parked_bytes > MAX_PARKED_BYTES {
            self.take_parked();
            self.stats.parked_dropped += 1;
        }
    }

    /// Removes the oldest first datagram.
    pub(super) fn take_parked(&mut self) -> Option<(Path, BytesMut)> {
        let (path, datagram) = self.parked.pop_front()?;
        self.parked_bytes -= datagram.len();
        Some((path, datagram))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: usize) -> Path {
        std::net::SocketAddr::from(([192, 0, (n >> 8) as u8, n as u8], 7)).into()
    }

    #[test]
    fn what_waits_for_a_place_is_bounded_in_number_and_bytes_and_the_oldest_go() {
        for (length, kept) in [(10, MAX_PARKED), (8_192, MAX_PARKED_BYTES / 8_192)] {
            let mut capacity = Capacity::new(10, 1);
            for n in 0..1_000 {
                capacity.park(path(n), BytesMut::from(&vec![7; length][..]));
            }
            assert_eq!((capacity.parked.len(), capacity.stats.parked_dropped), (kept, 1_000 - kept as u64));
            assert_eq!(capacity.take_parked().map(|(parked, _)| parked), Some(path(1_000 - kept)));
            while capacity.take_parked().is_some() {}
            assert_eq!(capacity.parked_bytes, 0);
        }
    }

    #[test]
    fn one_address_waits_once() {
        let mut capacity = Capacity::new(10, 1);
        (0..10).for_each(|n| capacity.park(path(1), BytesMut::from(&[n][..])));
        assert_eq!((capacity.stats.parked, capacity.parked.len()), (1, 1));
    }
}
