//! What the tasks around one socket share: the list of the peers that need service, and figures.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use soe_core::DisconnectReason;
use tokio::{runtime::Handle, sync::Notify};
use tracing::trace;

use crate::{
    engine::{
        connection::{Connection, now},
        notices::Notices,
        query::Queries,
        shared_endpoint::SharedEndpoint,
        sync::until,
    },
    socket::{AsyncUdp, kernel::DropCounter},
};

/// State shared by a socket's driver, the sessions opened on it and its listener or connector. No two of its locks are ever held at
/// once, none across an await, and none while foreign code runs.
pub(crate) struct SharedSocket {
    pub(crate) local_addr: SocketAddr,
    pub(crate) runtime: Handle,
    pub(crate) endpoint: Arc<SharedEndpoint>,
    pub(crate) counters: Counters,
    /// Where the kernel counts what a listener's socket could not keep.
    pub(crate) drops: Option<DropCounter>,
    /// Sessions that were opened on this socket and have not been forgotten.
    pub(crate) sessions: AtomicUsize,
    /// Questions to servers that wait for an answer.
    pub(crate) queries: Queries,
    /// Batches whose datagrams the kernel has taken, see [`Connection::is_flushed`].
    pub(crate) sent_batches: AtomicU64,
    dirty: Mutex<ServiceQueue>,
    /// Tasks that wait until the socket is free.
    free: Notify,
}

/// The peers that need the driver. Each is in the list at most once: its own flag says whether it is.
#[derive(Debug, Default)]
struct ServiceQueue {
    connections: Vec<Arc<Connection>>,
    driver: Option<Waker>,
    stop: bool,
    /// A session that the driver has put off is no longer busy.
    is_called_back: bool,
    /// Nobody is served any more.
    is_stopped: bool,
    /// And the socket is gone.
    is_free: bool,
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

impl SharedSocket {
    pub(crate) fn new(
        endpoint: Arc<SharedEndpoint>,
        local_addr: SocketAddr,
        runtime: Handle,
        drops: Option<DropCounter>,
    ) -> Arc<Self> {
        let (counters, sent_batches, dirty) = (Counters::default(), AtomicU64::new(0), Mutex::default());
        let (sessions, queries) = (AtomicUsize::new(0), Queries::default());
        let shared = Arc::new(Self {
            endpoint,
            local_addr,
            runtime,
            counters,
            drops,
            sessions,
            queries,
            sent_batches,
            dirty,
            free: Notify::new(),
        });
        shared.endpoint.join(&shared);
        shared
    }

    /// Asks the driver to serve a peer whose `dirty` flag was just set. Without a driver its session ends here.
    pub(crate) fn push_dirty(&self, connection: Arc<Connection>) {
        let driver = {
            let mut dirty = lock(&self.dirty);
            if dirty.is_stopped {
                drop(dirty);
                return connection.stop_and_remove(now());
            }
            dirty.connections.push(connection);
            dirty.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// Like [`SharedSocket::push_dirty`] for the driver itself, which needs no waking.
    pub(crate) fn put_back_dirty(&self, connections: &mut Vec<Arc<Connection>>) {
        lock(&self.dirty).connections.append(connections);
    }

    /// Moves the peers that need service into `into`.
    pub(crate) fn take_dirty(&self, into: &mut Vec<Arc<Connection>>) {
        into.append(&mut lock(&self.dirty).connections);
    }

    /// Waits for something that only the driver can do. With `serve` false, peers in the list are left where they are.
    pub(crate) fn poll_work(&self, cx: &Context<'_>, serve: bool) -> Poll<()> {
        let mut dirty = lock(&self.dirty);
        if dirty.stop || !self.endpoint.is_needed() || self.endpoint.has_actions() {
            return Poll::Ready(());
        }
        if serve
            && (!dirty.connections.is_empty() || self.queries.are_due() || std::mem::take(&mut dirty.is_called_back))
        {
            return Poll::Ready(());
        }
        match &mut dirty.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(crate) fn wake_driver(&self) {
        let driver = lock(&self.dirty).driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    /// Has the driver try again what it has put off.
    pub(crate) fn call_back(&self) {
        lock(&self.dirty).is_called_back = true;
        self.wake_driver();
    }

    /// Makes the driver end, whatever sessions there are.
    pub(crate) fn stop(&self) {
        lock(&self.dirty).stop = true;
        self.wake_driver();
    }

    /// Whether nobody needs the driver any more.
    pub(crate) fn is_done(&self) -> bool {
        !self.endpoint.is_needed() || lock(&self.dirty).stop
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.dirty).is_stopped
    }

    /// Waits until the driver has ended and the socket is free.
    pub(crate) async fn closed_by_driver(&self) {
        until(&self.free, || lock(&self.dirty).is_free.then_some(())).await;
    }

    /// The driver is gone, by `stop` or with its runtime: ends every session that is left, those included that only the
    /// driver knew.
    pub(crate) fn driver_stopped(&self, now: Instant, known_to_driver: impl Iterator<Item = Arc<Connection>>) {
        let dirty = {
            let mut dirty = lock(&self.dirty);
            dirty.is_stopped = true;
            std::mem::take(&mut dirty.connections)
        };
        self.endpoint.close();
        // Who comes after this finds out by itself, see `push_dirty`.
        let served_here = |connection: &Arc<Connection>| std::ptr::eq(&*connection.shared, self);
        let connections = self.endpoint.connections().into_iter().filter(served_here);
        for connection in connections.chain(dirty).chain(known_to_driver) {
            connection.stop_and_remove(now);
        }
    }

    /// The driver has dropped its socket.
    pub(crate) fn socket_closed(&self) {
        lock(&self.dirty).is_free = true;
        self.free.notify_waiters();
    }
}

impl fmt::Debug for SharedSocket {
    /// Without the peers, which show what they belong to.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.endpoint.session_count();
        f.debug_struct("Socket").field("address", &self.local_addr).field("sessions", &sessions).finish_non_exhaustive()
    }
}

/// Takes the socket's reports of unreachable addresses, a bounded number at once, and says how many there were.
pub(crate) fn take_reports(shared: &SharedSocket, socket: &mut dyn AsyncUdp, notices: &mut Notices) -> usize {
    let mut reports = 0;
    while reports < MAX_REPORTS
        && let Some(address) = socket.next_unreachable()
    {
        reports += 1;
        trace!(%address, "unreachable");
        notices.unreachable.push(address);
    }
    Counters::add(&shared.counters.unreachable_reports, reports);
    reports
}

/// Reports taken at once.
const MAX_REPORTS: usize = 64;

/// Takes a lock that guards data which is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reason given to sessions that are ended by us without the application having said why.
pub(crate) const ENDED_HERE: DisconnectReason = DisconnectReason::Application;
