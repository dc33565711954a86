//! Who has a place: sessions at a time, the accept queue, first datagrams that wait for it, and ended sessions that linger.

use std::collections::VecDeque;

use bytes::BytesMut;

use super::{address::Path, routes::SessionKey};
use crate::config::RequestInfo;

/// Whether one more session may open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// The accept queue is full: whoever has proved itself waits.
    Backlogged,
    /// There are as many sessions as may be.
    Full,
    /// No new sessions are wanted any more.
    Closed,
}

/// Counts of what capacity has decided. All start with the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CapacityStats {
    /// First datagrams that waited for a place in the accept queue.
    pub parked: u64,
    /// Those of them that had to go before a place was free, because others needed the room; their clients repeat them.
    pub parked_dropped: u64,
    /// Sessions that left the accept queue because they had ended, with nothing to read.
    pub ended_in_queue: u64,
    /// Sessions refused because the endpoint was closed while they waited.
    pub refused_on_close: u64,
    /// Ended sessions that were forgotten before their time, because too many lingered.
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

/// First datagrams that wait for a place, at most.
const MAX_PARKED: usize = 256;
/// Bytes in them, at most.
const MAX_PARKED_BYTES: usize = 128 << 10;
/// Ended sessions that may linger, if fewer than may be open: a place where a few players go in and out all the time.
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

    /// The most memory that it can be made to take beside the queue of accepted sessions, in bytes.
    pub(super) fn memory_ceiling() -> usize {
        MAX_PARKED.next_power_of_two() * size_of::<(Path, BytesMut)>() + MAX_PARKED_BYTES
    }

    pub(super) fn set_limits(&mut self, max_sessions: usize, backlog: usize) {
        (self.max_sessions, self.backlog) = (max_sessions, backlog.max(1));
    }

    /// Whether one more session may open. `replaces`: it takes the place of one that goes.
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

    /// A session has opened that nobody need accept.
    pub(super) fn add(&mut self) {
        self.live += 1;
    }

    /// A session has opened and waits to be accepted, once the host has it.
    pub(super) fn enqueue(&mut self, key: SessionKey, request: RequestInfo) {
        self.live += 1;
        self.waiting.push_back(Waiting { key, request, is_ready: false });
    }

    /// The host has this session.
    pub(super) fn ready(&mut self, key: SessionKey) {
        if let Some(waiting) = self.waiting.iter_mut().rev().find(|waiting| waiting.key == key) {
            waiting.is_ready = true;
        }
    }

    /// Takes the next session that is to be accepted.
    pub(super) fn dequeue(&mut self) -> Option<(SessionKey, RequestInfo)> {
        let at = self.waiting.iter().position(|waiting| waiting.is_ready)?;
        self.waiting.remove(at).map(|waiting| (waiting.key, waiting.request))
    }

    /// Takes a session out of the queue that nobody is to accept any more.
    pub(super) fn withdraw(&mut self, key: SessionKey) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.key != key);
        self.waiting.len() < before
    }

    /// Takes everybody out of the queue.
    pub(super) fn withdraw_all(&mut self) -> Vec<SessionKey> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiting| waiting.key).collect()
    }

    /// A session has ended, and lingers. Returns one that has to be forgotten for it.
    pub(super) fn end(&mut self, key: SessionKey, lingers: impl Fn(SessionKey) -> bool) -> Option<SessionKey> {
        self.live = self.live.saturating_sub(1);
        self.lingering_count += 1;
        if self.lingering.len() > 2 * self.lingering_count + FEWEST_LINGERING {
            self.lingering.retain(|&key| lingers(key));
        }
        self.lingering.push_back(key);
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
            self.lingering = VecDeque::new();
        }
    }

    /// Keeps a first valid datagram until there is a place. One for each address: its client repeats what is not answered.
    pub(super) fn park(&mut self, path: Path, datagram: BytesMut) {
        if self.parked.iter().any(|(parked, _)| parked.remote == path.remote) {
            return;
        }
        self.stats.parked += 1;
        self.parked_bytes += datagram.len();
        // A copy: the datagram is a slice of a larger buffer, which would be kept as long.
        self.parked.push_back((path, BytesMut::from(&datagram[..])));
        while self.parked.len() > MAX_PARKED || self.parked_bytes > MAX_PARKED_BYTES {
            self.take_parked();
            self.stats.parked_dropped += 1;
        }
    }

    /// The first datagram that has waited longest.
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
