//! What the tasks around one socket share: the peers, the list of those that need service, the accept queue.

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use dashmap::{DashMap, Entry};
use soe_core::{Admission, AdmissionStats, DisconnectReason, RemapPolicy, RequestInfo, Session};
use tokio::runtime::Handle;

use crate::{
    peer::{Peer, now},
    state::{State, add_waker},
};

/// State shared by a socket's driver, its sessions and its listener or connector. No two of its locks are ever held at
/// once, none across an await, and none while foreign code runs.
pub(crate) struct Shared {
    pub(crate) local_addr: SocketAddr,
    pub(crate) runtime: Handle,
    pub(crate) counters: Counters,
    /// What strangers are admitted by; `None` for a connector, which knows no strangers.
    pub(crate) door: Option<Door>,
    /// Batches whose datagrams the kernel has taken, see [`Peer::is_flushed`].
    pub(crate) sent_batches: AtomicU64,
    peers: DashMap<SocketAddr, Arc<Peer>>,
    /// Peers that have not been forgotten; those that a newcomer displaced from `peers` count as well.
    live: AtomicUsize,
    /// Whether a listener or connector still wants new sessions.
    open: AtomicBool,
    dirty: Mutex<Dirty>,
}

/// What only a listener has.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) admission: Mutex<Admission>,
    pub(crate) max_sessions: usize,
    pub(crate) backlog: usize,
    pub(crate) remap: RemapPolicy,
    accept: Mutex<AcceptQueue>,
    /// Sessions by what a moved client knows of them: session id and seed.
    by_identity: DashMap<(u32, u32), Arc<Peer>>,
}

#[derive(Debug, Default)]
struct AcceptQueue {
    waiting: VecDeque<(Arc<Peer>, RequestInfo)>,
    wakers: Vec<Waker>,
    is_closed: bool,
}

/// The peers that need the driver. Each is in the list at most once: its own flag says whether it is.
#[derive(Debug, Default)]
struct Dirty {
    peers: Vec<Arc<Peer>>,
    driver: Option<Waker>,
    stop: bool,
    /// Nobody is served any more.
    is_stopped: bool,
    /// And the socket is gone.
    is_free: bool,
    on_free: Vec<Waker>,
}

/// What the driver finds when it looks for work.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Peers need service.
    Service,
    /// Nobody needs the socket any more.
    Stop,
}

/// Figures of a socket, in the order in which [`crate::SocketStats`] documents them.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) datagrams_received: AtomicU64,
    pub(crate) bytes_received: AtomicU64,
    pub(crate) receive_batches: AtomicU64,
    pub(crate) datagrams_sent: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) send_calls: AtomicU64,
    pub(crate) send_errors: AtomicU64,
    pub(crate) receive_errors: AtomicU64,
    pub(crate) unreachable_reports: AtomicU64,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, by: usize) {
        counter.fetch_add(by as u64, Ordering::Relaxed);
    }
}

impl Door {
    pub(crate) fn new(admission: Admission, max_sessions: usize, backlog: usize, remap: RemapPolicy) -> Self {
        let (admission, accept) = (Mutex::new(admission), Mutex::default());
        Self { admission, max_sessions, backlog, remap, accept, by_identity: DashMap::new() }
    }

    /// Whether the application is behind with accepting.
    pub(crate) fn is_crowded(&self) -> bool {
        lock(&self.accept).waiting.len() >= self.backlog
    }
}

impl Shared {
    pub(crate) fn new(local_addr: SocketAddr, runtime: Handle, door: Option<Door>) -> Self {
        Self {
            local_addr,
            runtime,
            counters: Counters::default(),
            door,
            sent_batches: AtomicU64::new(0),
            peers: DashMap::new(),
            live: AtomicUsize::new(0),
            open: AtomicBool::new(true),
            dirty: Mutex::default(),
        }
    }

    pub(crate) fn peer(&self, address: SocketAddr) -> Option<Arc<Peer>> {
        self.peers.get(&address).map(|entry| Arc::clone(entry.value()))
    }

    /// The only peer there is, if there is exactly one: whom an error without an address must be about.
    pub(crate) fn only_peer(&self) -> Option<Arc<Peer>> {
        let mut peers = self.peers.iter();
        let only = peers.next().map(|entry| Arc::clone(entry.value()));
        only.filter(|_| peers.next().is_none())
    }

    /// Every peer once, though one that is moving is routed from two addresses.
    pub(crate) fn peers(&self) -> Vec<Arc<Peer>> {
        let mut peers: Vec<_> = self.peers.iter().map(|entry| Arc::clone(entry.value())).collect();
        peers.sort_unstable_by_key(Arc::as_ptr);
        peers.dedup_by(|a, b| Arc::ptr_eq(a, b));
        peers
    }

    pub(crate) fn session_count(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// How many more sessions the configuration allows.
    pub(crate) fn room(&self, door: &Door) -> usize {
        door.max_sessions.saturating_sub(self.session_count())
    }

    /// Registers a session that the admission let in and queues it for `accept`. Gives back the peer that was at this
    /// address before.
    pub(crate) fn enter(
        self: &Arc<Self>,
        door: &Door,
        address: SocketAddr,
        session: Session,
        request: RequestInfo,
    ) -> Option<Arc<Peer>> {
        let identity = (session.session_id(), session.crc_seed());
        let peer = Peer::new(Arc::clone(self), address, session);
        let previous = self.peers.insert(address, Arc::clone(&peer));
        self.live.fetch_add(1, Ordering::Relaxed);
        door.by_identity.insert(identity, Arc::clone(&peer));
        peer.act(State::mark);
        let wakers = {
            let mut accept = lock(&door.accept);
            accept.waiting.push_back((peer, request));
            std::mem::take(&mut accept.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
        previous
    }

    /// Registers a session that starts here. The address may be taken by a session that lives.
    pub(crate) fn register(self: &Arc<Self>, address: SocketAddr, session: Session) -> Option<Arc<Peer>> {
        if self.peer(address).is_some_and(|there| !there.is_closed()) {
            return None;
        }
        let peer = Peer::new(Arc::clone(self), address, session);
        // Two tasks may connect to one address at once: the entry decides, the lock of no session is taken under it.
        match self.peers.entry(address) {
            Entry::Occupied(mut there) if there.get().is_closed_hint() => {
                there.insert(Arc::clone(&peer));
            }
            Entry::Occupied(_) => return None,
            Entry::Vacant(free) => {
                free.insert(Arc::clone(&peer));
            }
        }
        self.live.fetch_add(1, Ordering::Relaxed);
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
        if !self.is_open() {
            self.wake_driver();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// No new sessions from here on. The driver ends once the last session is over. What waits in the accept queue comes
    /// back, to be refused.
    pub(crate) fn close_door(&self) -> Vec<(Arc<Peer>, RequestInfo)> {
        self.open.store(false, Ordering::Relaxed);
        let (waiting, wakers) = match &self.door {
            Some(door) => {
                let mut accept = lock(&door.accept);
                accept.is_closed = true;
                (std::mem::take(&mut accept.waiting), std::mem::take(&mut accept.wakers))
            }
            None => Default::default(),
        };
        wakers.into_iter().for_each(Waker::wake);
        self.wake_driver();
        waiting.into()
    }

    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<Option<(Arc<Peer>, RequestInfo)>> {
        let Some(door) = &self.door else { return Poll::Ready(None) };
        let mut accept = lock(&door.accept);
        match accept.waiting.pop_front() {
            Some(next) => Poll::Ready(Some(next)),
            None if accept.is_closed => Poll::Ready(None),
            None => {
                add_waker(&mut accept.wakers, cx);
                Poll::Pending
            }
        }
    }

    /// Asks the driver to serve a peer whose `dirty` flag was just set. Without a driver its session ends here.
    pub(crate) fn push_dirty(&self, peer: Arc<Peer>) {
        let driver = {
            let mut dirty = lock(&self.dirty);
            if dirty.is_stopped {
                drop(dirty);
                return peer.bury(now());
            }
            dirty.peers.push(peer);
            dirty.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// Like [`Shared::push_dirty`] for the driver itself, which needs no waking.
    pub(crate) fn put_back_dirty(&self, peers: &mut Vec<Arc<Peer>>) {
        lock(&self.dirty).peers.append(peers);
    }

    /// Moves the peers that need service into `into`.
    pub(crate) fn take_dirty(&self, into: &mut Vec<Arc<Peer>>) {
        into.append(&mut lock(&self.dirty).peers);
    }

    /// Waits for something that only the driver can do. With `serve` false, peers in the list are left where they are.
    pub(crate) fn poll_work(&self, cx: &Context<'_>, serve: bool) -> Poll<Work> {
        let mut dirty = lock(&self.dirty);
        if dirty.stop || (!self.is_open() && self.session_count() == 0) {
            return Poll::Ready(Work::Stop);
        }
        if serve && !dirty.peers.is_empty() {
            return Poll::Ready(Work::Service);
        }
        match &mut dirty.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn wake_driver(&self) {
        let driver = lock(&self.dirty).driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    /// Makes the driver end, whatever sessions there are.
    pub(crate) fn stop(&self) {
        lock(&self.dirty).stop = true;
        self.wake_driver();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.dirty).is_stopped
    }

    /// Waits until the driver has ended and the socket is free.
    pub(crate) fn poll_free(&self, cx: &Context<'_>) -> Poll<()> {
        let mut dirty = lock(&self.dirty);
        if dirty.is_free {
            return Poll::Ready(());
        }
        add_waker(&mut dirty.on_free, cx);
        Poll::Pending
    }

    /// The driver is gone, by `stop` or with its runtime: ends every session that is left, those included that only the
    /// driver knew.
    pub(crate) fn stopped(&self, now: Instant, known_to_driver: impl Iterator<Item = Arc<Peer>>) {
        drop(self.close_door());
        let dirty = {
            let mut dirty = lock(&self.dirty);
            dirty.is_stopped = true;
            std::mem::take(&mut dirty.peers)
        };
        // Who comes after this finds out by itself, see `push_dirty`.
        for peer in self.peers().into_iter().chain(dirty).chain(known_to_driver) {
            peer.bury(now);
        }
    }

    /// The driver has dropped its socket.
    pub(crate) fn freed(&self) {
        let wakers = {
            let mut dirty = lock(&self.dirty);
            dirty.is_free = true;
            std::mem::take(&mut dirty.on_free)
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn admission_stats(&self) -> Option<AdmissionStats> {
        self.door.as_ref().map(|door| lock(&door.admission).stats())
    }
}

impl fmt::Debug for Shared {
    /// Without the peers, which show what they belong to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.session_count();
        f.debug_struct("Socket").field("address", &self.local_addr).field("sessions", &sessions).finish_non_exhaustive()
    }
}

/// Takes a lock that guards data which is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason given to sessions that are ended by us without the application having said why.
pub(crate) const ENDED_HERE: DisconnectReason = DisconnectReason::Application;
