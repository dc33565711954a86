//! The state that the tasks around one socket share: the list of connections that need service, and counters.

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::{runtime::Handle, sync::Notify};

use crate::{
    engine::{
        query::Queries,
        shared_endpoint::{DriverHandle, Member, SharedEndpoint},
        sync::{lock, until},
    },
    socket::kernel::DropCounter,
};

/// State shared by a socket's driver, the sessions opened on it and its listener or connector. No two of its locks are
/// ever held at once, none across an await, and none while code of the application runs.
pub(crate) struct SharedSocket<C> {
    pub(crate) local_addr: SocketAddr,
    pub(crate) runtime: Handle,
    /// Whether the system chose the port for a socket that only connects. Nobody but its peers knows it, so a report of
    /// an unreachable address (ICMP) is hard to forge: it must name the port.
    pub(crate) has_private_port: bool,
    pub(crate) endpoint: Arc<SharedEndpoint<C>>,
    pub(crate) counters: Counters,
    /// Reads the kernel's count of datagrams that a listener's socket dropped.
    pub(crate) drops: Option<DropCounter>,
    /// Sessions that were opened on this socket and have not been removed.
    pub(crate) sessions: AtomicUsize,
    /// Status queries that wait for an answer.
    pub(crate) queries: Queries,
    /// Batches whose datagrams the kernel has taken, see `Connection::flushed`.
    pub(crate) sent_batches: AtomicU64,
    service: Mutex<ServiceQueue<C>>,
    /// Tasks that wait until the socket is closed.
    free: Notify,
}

/// The connections that need the driver. Each is in the list at most once: its own `dirty` flag says whether it is.
#[derive(Debug)]
struct ServiceQueue<C> {
    connections: Vec<Arc<C>>,
    driver: Option<Waker>,
    stop: bool,
    /// A session whose work the driver has deferred is no longer busy.
    is_called_back: bool,
    /// The driver has ended.
    is_stopped: bool,
    /// The driver has dropped the socket.
    is_free: bool,
}

/// Counters of a socket, in the order in which [`crate::SocketStats`] documents them.
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

impl<C: Member + Send + Sync + 'static> SharedSocket<C> {
    pub(crate) fn new(
        endpoint: Arc<SharedEndpoint<C>>,
        local_addr: SocketAddr,
        runtime: Handle,
        has_private_port: bool,
        drops: Option<DropCounter>,
    ) -> Arc<Self> {
        let (counters, sent_batches, service) =
            (Counters::default(), AtomicU64::new(0), Mutex::new(ServiceQueue::default()));
        let (sessions, queries) = (AtomicUsize::new(0), Queries::default());
        let shared = Arc::new(Self {
            endpoint,
            local_addr,
            runtime,
            has_private_port,
            counters,
            drops,
            sessions,
            queries,
            sent_batches,
            service,
            free: Notify::new(),
        });
        let driver: Weak<Self> = Arc::downgrade(&shared);
        shared.endpoint.join(driver);
        shared
    }

    /// Asks the driver to serve a connection whose `dirty` flag was just set.
    ///
    /// # Errors
    ///
    /// There is no driver any more.
    pub(crate) fn push_dirty(&self, connection: &Arc<C>) -> Result<(), Stopped> {
        let driver = {
            let mut queue = lock(&self.service);
            if queue.is_stopped {
                return Err(Stopped);
            }
            queue.connections.push(Arc::clone(connection));
            queue.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Like [`SharedSocket::push_dirty`] for many connections at once, which are moved away.
    ///
    /// # Errors
    ///
    /// There is no driver any more.
    pub(crate) fn push_all_dirty(&self, connections: &mut Vec<Arc<C>>) -> Result<(), Stopped> {
        let driver = {
            let mut queue = lock(&self.service);
            if queue.is_stopped {
                return Err(Stopped);
            }
            queue.connections.append(connections);
            queue.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Like [`SharedSocket::push_dirty`] for the driver itself, which needs no waking.
    pub(crate) fn put_back_dirty(&self, connections: &mut Vec<Arc<C>>) {
        if !connections.is_empty() {
            lock(&self.service).connections.append(connections);
        }
    }

    /// Whether connections need service, or a query is to be sent.
    pub(crate) fn has_service(&self) -> bool {
        self.queries.are_due() || !lock(&self.service).connections.is_empty()
    }

    /// Moves the connections that need service into `into`.
    pub(crate) fn take_dirty(&self, into: &mut Vec<Arc<C>>) {
        into.append(&mut lock(&self.service).connections);
    }

    /// Waits for work of the driver. With `serve` false (the socket is full) connections in the list are no reason to wake up.
    pub(crate) fn poll_work(&self, cx: &Context<'_>, serve: bool) -> Poll<()> {
        let mut queue = lock(&self.service);
        if queue.stop || !self.endpoint.is_needed() || self.endpoint.has_actions() {
            return Poll::Ready(());
        }
        if serve
            && (!queue.connections.is_empty() || self.queries.are_due() || std::mem::take(&mut queue.is_called_back))
        {
            return Poll::Ready(());
        }
        match &mut queue.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    pub(crate) fn wake_driver(&self) {
        let driver = lock(&self.service).driver.take();
        driver.into_iter().for_each(Waker::wake);
    }

    /// Wakes the driver to retry its deferred work.
    pub(crate) fn call_back(&self) {
        lock(&self.service).is_called_back = true;
        self.wake_driver();
    }

    /// Makes the driver end, even if there are sessions.
    pub(crate) fn stop(&self) {
        lock(&self.service).stop = true;
        self.wake_driver();
    }

    /// Whether the driver may end.
    pub(crate) fn is_done(&self) -> bool {
        !self.endpoint.is_needed() || lock(&self.service).stop
    }

    pub(crate) fn is_stopped(&self) -> bool {
        lock(&self.service).is_stopped
    }

    /// Waits until the driver has ended and closed the socket.
    pub(crate) async fn closed_by_driver(&self) {
        until(&self.free, || lock(&self.service).is_free.then_some(())).await;
    }

    /// The driver has ended, by `stop` or with its runtime. Returns the connections that were still queued for service.
    /// Later calls of [`SharedSocket::push_dirty`] fail.
    pub(crate) fn driver_stopped(&self) -> Vec<Arc<C>> {
        let queued = {
            let mut queue = lock(&self.service);
            queue.is_stopped = true;
            std::mem::take(&mut queue.connections)
        };
        self.endpoint.close();
        queued
    }

    /// The driver has dropped its socket.
    pub(crate) fn socket_closed(&self) {
        lock(&self.service).is_free = true;
        self.free.notify_waiters();
    }
}

impl<C: Member + Send + Sync + 'static> DriverHandle for SharedSocket<C> {
    fn wake(&self) -> bool {
        let is_driven = !self.is_stopped();
        self.wake_driver();
        is_driven
    }
}

/// There is no driver any more.
#[derive(Debug)]
pub(crate) struct Stopped;

impl<C> Default for ServiceQueue<C> {
    fn default() -> Self {
        let (connections, driver) = (Vec::new(), None);
        Self { connections, driver, stop: false, is_called_back: false, is_stopped: false, is_free: false }
    }
}

impl<C: Member> fmt::Debug for SharedSocket<C> {
    /// Without the connections, whose output contains their socket.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sessions = self.endpoint.session_count();
        f.debug_struct("Socket").field("address", &self.local_addr).field("sessions", &sessions).finish_non_exhaustive()
    }
}
