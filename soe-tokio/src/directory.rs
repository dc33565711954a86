//! What the sockets of one listener share: who is known at which address, and who waits to be accepted.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use dashmap::{DashMap, Entry};
use soe_core::{Admission, AdmissionConfig, AdmissionStats, DisconnectReason, RemapPolicy, RequestInfo, Session};
use tokio::sync::Notify;

use crate::{
    endpoint::{Shared, lock},
    memory::Budget,
    peer::{Peer, now},
    socket::Path,
    state::State,
    wait::{set_waker, until},
};

/// Everybody who is known. A connector has one socket, a listener one or more ([`crate::ListenerConfig::shards`]); a
/// session belongs to the socket that it was opened on, and is found here whichever socket its next datagram comes in by:
/// a client that moves may be handed to another one by the kernel.
#[derive(Debug)]
pub(crate) struct Directory {
    /// What strangers are admitted by; `None` for a connector, which knows no strangers.
    pub(crate) door: Option<Door>,
    peers: DashMap<SocketAddr, Arc<Peer>>,
    /// Peers that have not been forgotten; those that a newcomer displaced from `peers` count as well.
    live: AtomicUsize,
    pub(crate) budget: Budget,
    /// Whether a listener or connector still wants new sessions.
    open: AtomicBool,
    sockets: Mutex<Vec<Weak<Shared>>>,
}

/// What only a listener has.
#[derive(Debug)]
pub(crate) struct Door {
    /// One for all sockets, or each would have limits and a table of its own. Its lock is taken for strangers alone, for
    /// less time than the kernel takes to hand over their datagrams.
    pub(crate) admission: Mutex<Admission>,
    pub(crate) max_sessions: AtomicUsize,
    pub(crate) backlog: usize,
    pub(crate) remap: RemapPolicy,
    accept: Mutex<AcceptQueue>,
    /// Tasks that wait in `accept`.
    arrivals: Notify,
    /// Sessions by what a moved client knows of them: session id and seed.
    by_identity: DashMap<(u32, u32), Arc<Peer>>,
}

#[derive(Debug, Default)]
struct AcceptQueue {
    waiting: VecDeque<(Arc<Peer>, RequestInfo)>,
    /// The task that polls the listener as a stream.
    stream: Option<Waker>,
    is_closed: bool,
}

impl AcceptQueue {
    /// The next session, or `Some(None)` after the last one.
    fn next(&mut self) -> Option<Option<(Arc<Peer>, RequestInfo)>> {
        match self.waiting.pop_front() {
            None if !self.is_closed => None,
            next => Some(next),
        }
    }
}

impl Door {
    pub(crate) fn new(admission: Admission, max_sessions: usize, backlog: usize, remap: RemapPolicy) -> Self {
        let (admission, accept, max_sessions) =
            (Mutex::new(admission), Mutex::default(), AtomicUsize::new(max_sessions));
        let (arrivals, by_identity) = (Notify::new(), DashMap::new());
        Self { admission, max_sessions, backlog, remap, accept, arrivals, by_identity }
    }

    /// Whether the application is behind with accepting.
    pub(crate) fn is_crowded(&self) -> bool {
        lock(&self.accept).waiting.len() >= self.backlog
    }
}

impl Directory {
    pub(crate) fn new(door: Option<Door>, memory_limit: usize) -> Self {
        let (live, open) = (AtomicUsize::new(0), AtomicBool::new(true));
        let budget = Budget::new(memory_limit);
        // A connector has one peer; a map with a part for each processor would take more than its session.
        let peers = if door.is_some() { DashMap::new() } else { DashMap::with_shard_amount(FEWEST_SHARDS) };
        Self { door, peers, live, budget, open, sockets: Mutex::default() }
    }

    /// Adds a socket, to be woken when no session is left.
    pub(crate) fn join(&self, socket: &Arc<Shared>) {
        lock(&self.sockets).push(Arc::downgrade(socket));
    }

    pub(crate) fn peer(&self, address: SocketAddr) -> Option<Arc<Peer>> {
        self.peers.get(&address).map(|entry| Arc::clone(entry.value()))
    }

    /// Every peer once, though one that is moving is routed from two addresses.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        let mut peers: Vec<_> = self.peers.iter().map(|entry| Arc::clone(entry.value())).collect();
        peers.sort_unstable_by_key(|peer| (peer.number, Arc::as_ptr(peer)));
        peers.dedup_by(|a, b| Arc::ptr_eq(a, b));
        peers
    }

    pub(crate) fn session_count(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// How many more sessions the configuration allows.
    pub(crate) fn room(&self, door: &Door) -> usize {
        door.max_sessions.load(Ordering::Relaxed).saturating_sub(self.session_count())
    }

    /// Registers a session that the admission let in by `socket` and queues it for `accept`. Gives back the peer that was
    /// at this address before.
    pub(crate) fn enter(
        &self,
        door: &Door,
        socket: &Arc<Shared>,
        path: Path,
        session: Session,
        request: RequestInfo,
    ) -> Option<Arc<Peer>> {
        let identity = (session.session_id(), session.crc_seed());
        let peer = Peer::new(Arc::clone(socket), path, session);
        let previous = self.peers.insert(path.remote, Arc::clone(&peer));
        self.live.fetch_add(1, Ordering::Relaxed);
        socket.sessions.fetch_add(1, Ordering::Relaxed);
        door.by_identity.insert(identity, Arc::clone(&peer));
        peer.act(State::mark);
        let stream = {
            let mut accept = lock(&door.accept);
            accept.waiting.push_back((peer, request));
            accept.stream.take()
        };
        stream.into_iter().for_each(Waker::wake);
        door.arrivals.notify_one();
        previous
    }

    /// Registers a session that starts here. The address may be taken by a session that lives.
    pub(crate) fn register(&self, socket: &Arc<Shared>, address: SocketAddr, session: Session) -> Option<Arc<Peer>> {
        if self.peer(address).is_some_and(|there| !there.is_closed()) {
            return None;
        }
        let peer = Peer::new(Arc::clone(socket), address.into(), session);
        // Two tasks may connect to one address at once: the entry decides, the lock of no session is taken under it.
        let previous = match self.peers.entry(address) {
            Entry::Occupied(mut there) if there.get().is_closed_hint() => Some(there.insert(Arc::clone(&peer))),
            Entry::Occupied(_) => return None,
            Entry::Vacant(free) => {
                free.insert(Arc::clone(&peer));
                None
            }
        };
        if let Some(previous) = previous {
            // It may still be saying farewell, which would meet the new session.
            previous.abort(DisconnectReason::NewConnectionAttempt, false);
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        socket.sessions.fetch_add(1, Ordering::Relaxed);
        peer.act(State::mark);
        Some(peer)
    }

    /// Lets datagrams from another address reach a session as well, unless a session is there already.
    pub(crate) fn route(&self, address: SocketAddr, peer: &Arc<Peer>) -> bool {
        match self.peers.entry(address) {
            Entry::Occupied(there) => Arc::ptr_eq(there.get(), peer),
            Entry::Vacant(free) => {
                free.insert(Arc::clone(peer));
                true
            }
        }
    }

    pub(crate) fn unroute(&self, address: SocketAddr, peer: &Arc<Peer>) {
        self.peers.remove_if(&address, |_, there| Arc::ptr_eq(there, peer));
    }

    pub(crate) fn by_identity(&self, session_id: u32, crc_seed: u32) -> Option<Arc<Peer>> {
        let door = self.door.as_ref()?;
        door.by_identity.get(&(session_id, crc_seed)).map(|entry| Arc::clone(entry.value()))
    }

    /// Forgets a session that is over, at the addresses it was known by. Must be called once per session.
    pub(crate) fn forget(&self, peer: &Arc<Peer>, addresses: [Option<SocketAddr>; 2], crc_seed: u32) {
        for address in addresses.into_iter().flatten() {
            self.unroute(address, peer);
        }
        if let Some(door) = &self.door {
            door.by_identity.remove_if(&(peer.session_id, crc_seed), |_, there| Arc::ptr_eq(there, peer));
        }
        self.live.fetch_sub(1, Ordering::Relaxed);
        peer.shared.sessions.fetch_sub(1, Ordering::Relaxed);
        if !self.is_needed() {
            self.wake_drivers();
        }
    }

    /// Whether there is, or may yet be, somebody to serve.
    pub(crate) fn is_needed(&self) -> bool {
        self.is_open() || self.session_count() > 0
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// No new sessions from here on. The drivers end once the last session is over. What waits in the accept queue comes
    /// back, to be refused.
    pub(crate) fn close_door(&self) -> Vec<(Arc<Peer>, RequestInfo)> {
        self.open.store(false, Ordering::Relaxed);
        let mut waiting = VecDeque::new();
        if let Some(door) = &self.door {
            let stream = {
                let mut accept = lock(&door.accept);
                accept.is_closed = true;
                waiting = std::mem::take(&mut accept.waiting);
                accept.stream.take()
            };
            stream.into_iter().for_each(Waker::wake);
            door.arrivals.notify_waiters();
        }
        self.wake_drivers();
        waiting.into()
    }

    fn wake_drivers(&self) {
        let sockets = lock(&self.sockets).clone();
        sockets.iter().filter_map(Weak::upgrade).for_each(|socket| socket.wake_driver());
    }

    /// Waits for the next session in the accept queue. `None`: the door is closed.
    pub(crate) async fn accept(&self) -> Option<(Arc<Peer>, RequestInfo)> {
        let door = self.door.as_ref()?;
        until(&door.arrivals, || {
            let mut accept = lock(&door.accept);
            accept.next()
        })
        .await
    }

    /// Like [`Directory::accept`], for the one task that polls the listener as a stream.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<Option<(Arc<Peer>, RequestInfo)>> {
        let Some(door) = &self.door else { return Poll::Ready(None) };
        let mut accept = lock(&door.accept);
        if let Some(next) = accept.next() {
            return Poll::Ready(next);
        }
        let replaced = set_waker(&mut accept.stream, cx.waker());
        drop(accept);
        drop(replaced);
        Poll::Pending
    }

    pub(crate) fn set_limits(&self, limits: &AdmissionConfig) {
        if let Some(door) = &self.door {
            door.max_sessions.store(limits.max_sessions, Ordering::Relaxed);
            lock(&door.admission).set_limits(now(), limits);
        }
    }

    pub(crate) fn admission_stats(&self) -> Option<AdmissionStats> {
        self.door.as_ref().map(|door| lock(&door.admission).stats())
    }
}

/// The fewest parts that a concurrent map can have.
const FEWEST_SHARDS: usize = 2;
