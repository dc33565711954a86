//! The driver: the one task that touches a socket. It works in the order that [`IoLoop`] gives: it receives everything that
//! has arrived, fires the timers, and then transmits.

mod receive;

use std::{
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use soe_core::{IoLoop, Step, host};
use tokio::{
    runtime::RuntimeFlavor,
    task::consume_budget,
    time::{Sleep, sleep_until},
};
use tracing::debug;

use crate::{
    config::BusyPoll,
    engine::{
        busy_poll::BusyPoller,
        clock::now,
        connection::{Attempt, Connection},
        deferred::{Deferred, Work},
        reports::notices::Notices,
        reports::operator_log::Rounds,
        shared_socket::SharedSocket,
        timers::{Timers, earlier},
        transmit::{Transmitter, take_reports},
    },
    socket::{AsyncUdp, RecvBatch},
};

/// Serves one socket until no handle and no session needs it. The sockets of one listener share the
/// [`crate::engine::shared_endpoint::SharedEndpoint`].
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) shared: Arc<SharedSocket<Connection>>,
    socket: Box<dyn AsyncUdp>,
    io_loop: IoLoop,
    timers: Timers<Connection>,
    received: RecvBatch,
    /// The result of a receive call that was made while waiting. It is handled in the next receive step.
    received_early: Option<io::Result<()>>,
    /// The last receive call found nothing and has registered this task with the socket, since which the task has not waited.
    is_registered: bool,
    pub(crate) transmitter: Transmitter,
    pub(crate) deferred: Deferred<Connection>,
    pub(crate) notices: Notices,
    endpoint_timer: Option<Pin<Box<Sleep>>>,
    /// Receive calls in a row that failed.
    failures: u32,
    is_only_thread: bool,
    busy_poller: BusyPoller,
    operator_log: Rounds,
    /// Dropped last.
    _freed: Freed,
}

/// Reports, when dropped, that the socket is closed.
#[derive(Debug)]
struct Freed(Arc<SharedSocket<Connection>>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.socket_closed();
    }
}

impl Driver {
    /// Starts serving `socket` on the runtime of `shared`.
    pub(crate) fn spawn(shared: Arc<SharedSocket<Connection>>, socket: Box<dyn AsyncUdp>, busy_poll: BusyPoll) {
        let runtime = shared.runtime.clone();
        let driver = Self {
            _freed: Freed(Arc::clone(&shared)),
            io_loop: IoLoop::new(socket.recv_buffer()),
            shared,
            socket,
            timers: Timers::default(),
            received: RecvBatch::new(),
            received_early: None,
            is_registered: false,
            transmitter: Transmitter::default(),
            deferred: Deferred::default(),
            notices: Notices::default(),
            endpoint_timer: None,
            failures: 0,
            is_only_thread: runtime.runtime_flavor() == RuntimeFlavor::CurrentThread,
            busy_poller: BusyPoller::new(busy_poll),
            operator_log: Rounds::default(),
        };
        runtime.spawn(driver.run());
    }

    #[expect(clippy::manual_async_fn, reason = "an `async fn` would have room for the driver twice, in each client")]
    fn run(mut self) -> impl Future<Output = ()> {
        async move {
            self.arm_endpoint();
            // Read again only where time may have passed, not for each step: a client's driver wakes up for every datagram.
            // An instant that is slightly old only delays timers until after the next receive step, never the reverse.
            let mut at = now();
            loop {
                match self.io_loop.next(at, self.due()) {
                    Step::Receive => at = self.receive(at).await,
                    Step::Fire(due) => {
                        self.fire(due);
                        // With thousands of timers due at once, the other tasks of this thread must run in between.
                        consume_budget().await;
                        at = now();
                    }
                    Step::Transmit => self.transmit(at),
                    // `wait` knows the timers itself.
                    Step::Sleep(_) => {
                        self.wait().await;
                        if self.shared.is_done() {
                            break;
                        }
                        // A closed endpoint waits for clients that it has answered, longer after each answer.
                        if self.shared.endpoint.is_lingering() {
                            self.arm_endpoint();
                        }
                        self.io_loop.wake();
                        at = now();
                    }
                    _ => {}
                }
            }
            debug!(address = %self.shared.local_addr, "the socket is not needed any more");
        }
    }

    /// When the first timer is due.
    fn due(&self) -> Option<Instant> {
        let endpoint = self.endpoint_timer.as_ref().map(|timer| timer.deadline().into_std());
        earlier(self.timers.next(), endpoint)
    }

    /// Queues a connection, whose `dirty` flag was just set, for the next flush.
    pub(crate) fn serve_soon(&mut self, connection: &Arc<Connection>) {
        if Arc::ptr_eq(&connection.shared, &self.shared) {
            self.transmitter.add(Arc::clone(connection));
        } else {
            // The peer has moved, and with SO_REUSEPORT the kernel delivers its datagrams to a socket other than the
            // one that serves the session.
            connection.request_service();
        }
    }

    /// Applies `work` to a session, or defers it while the session is busy.
    pub(crate) fn perform(&mut self, now: Instant, connection: &Arc<Connection>, work: Work) {
        match catch_unwind(AssertUnwindSafe(|| connection.perform(now, &work, &mut self.notices))) {
            Ok(Attempt::NeedsService) => self.serve_soon(connection),
            Ok(Attempt::Done) => {}
            Ok(Attempt::Busy) => self.deferred.push(Arc::clone(connection), work),
            Err(_) => connection.fail_after_panic(now, &mut self.notices),
        }
    }

    /// Retries what was deferred because a session was busy.
    fn retry_deferred(&mut self, now: Instant) {
        for _ in 0..self.deferred.len() {
            let Some((connection, work)) = self.deferred.pop() else { break };
            match work {
                Work::Datagrams(path, datagrams) => {
                    host::receive(self, now, datagrams.into_datagrams().map(|datagram| (path, datagram)));
                }
                Work::Timer => self.expire(now, connection),
                work => self.perform(now, &connection, work),
            }
        }
    }

    /// Fires what was due at `due`, a bounded number of sessions at once.
    fn fire(&mut self, due: Instant) {
        let now = now();
        if self.endpoint_timer.as_ref().is_some_and(|timer| timer.deadline().into_std() <= due) {
            host::call(self, now, |endpoint| endpoint.handle_timeout(now));
            self.arm_endpoint();
        }
        for _ in 0..MAX_EXPIRED {
            let Some(connection) = self.timers.pop(due) else { break };
            self.expire(now, connection);
        }
    }

    fn expire(&mut self, now: Instant, connection: Arc<Connection>) {
        match catch_unwind(AssertUnwindSafe(|| connection.expire(now, &mut self.timers, &mut self.notices))) {
            Ok(Attempt::NeedsService) => self.transmitter.add(connection),
            Ok(Attempt::Done) => {}
            Ok(Attempt::Busy) => self.deferred.push(connection, Work::Timer),
            Err(_) => connection.fail_after_panic(now, &mut self.notices),
        }
    }

    /// Sends for every connection that has something to send.
    fn transmit(&mut self, now: Instant) {
        self.retry_deferred(now);
        if self.shared.endpoint.take_actions() {
            host::perform(self, now);
        }
        self.settle(now);
        self.transmitter.flush(now, &self.shared, &mut *self.socket, &mut self.timers, &mut self.notices);
        self.settle(now);
        self.notices.wake();
        if let Some(recordings) = self.shared.endpoint.recordings() {
            recordings.hand_over();
        }
        if self.shared.endpoint.is_listener && self.operator_log.is_due(now) {
            self.shared.endpoint.tell_operator(now);
            if let Some(counter) = self.shared.drops {
                self.operator_log.look_at_drops(now, &self.shared.runtime, counter);
            }
        }
    }

    /// Reports ended and drained sessions and unreachable addresses to the endpoint.
    fn settle(&mut self, now: Instant) {
        if self.notices.are_settled() {
            return;
        }
        while let Some(address) = self.notices.unreachable.pop() {
            host::unreachable(self, now, Some(address));
        }
        while let Some((key, is_readable)) = self.notices.ended.pop() {
            host::ended(self, now, key, is_readable);
        }
        while let Some(key) = self.notices.drained.pop() {
            host::drained(self, now, key);
        }
    }

    /// Takes the reports of unreachable addresses, a bounded number at once.
    fn take_reports(&mut self) {
        take_reports(&self.shared, &mut *self.socket, &mut self.notices);
    }

    /// Sets the endpoint's timer.
    fn arm_endpoint(&mut self) {
        let deadline = self.shared.endpoint.with_endpoint(|endpoint| endpoint.poll_timeout());
        if self.endpoint_timer.as_ref().map(|timer| timer.deadline().into_std()) != deadline {
            self.endpoint_timer = deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
        }
    }

    /// The runtime is shutting down: sends what the sessions have queued and one Disconnect each, as far as the socket takes it
    /// at once. Nothing is repeated.
    fn send_disconnects(&mut self) {
        let now = now();
        self.transmitter.unblock();
        // Two passes: an abort discards what is queued, so that is sent first.
        for tells_peers in [false, true] {
            if tells_peers {
                for connection in self.served_here() {
                    if connection.cut_off(now) {
                        self.transmitter.add(connection);
                    }
                }
            }
            for _ in 0..LAST_ROUNDS {
                if self.transmitter.has_nothing() && !self.shared.has_service() {
                    break;
                }
                self.transmitter.flush(now, &self.shared, &mut *self.socket, &mut self.timers, &mut self.notices);
            }
        }
    }

    /// The connections whose sessions were opened on this socket.
    fn served_here(&self) -> Vec<Arc<Connection>> {
        let mut connections = self.shared.endpoint.connections();
        connections.retain(|connection| Arc::ptr_eq(&connection.shared, &self.shared));
        connections
    }

    /// Waits for something to do. Polls the socket for a while after a datagram, if that pays, and then sleeps.
    async fn wait(&mut self) {
        while self.busy_poller.is_polling() && self.busy_poller.should_poll(Instant::now()) {
            if poll_fn(|cx| Poll::Ready(self.poll_work(cx))).await.is_ready() {
                return;
            }
            self.busy_poller.found_nothing();
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| self.poll_work(cx)).await;
    }

    fn poll_work(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Before the timers: a request that the network has already answered needs no repetition.
        if self.socket.poll_unreachable(cx).is_ready() {
            self.take_reports();
            return Poll::Ready(());
        }
        let is_due = self.timers.poll(cx).is_ready()
            || self.endpoint_timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if self.transmitter.is_blocked() && self.socket.poll_writable(cx).is_ready() {
            self.transmitter.unblock();
            return Poll::Ready(());
        }
        let has_work = self.shared.poll_work(cx, !self.transmitter.is_blocked()).is_ready();
        if is_due || has_work {
            return Poll::Ready(());
        }
        if std::mem::take(&mut self.is_registered) {
            return Poll::Pending;
        }
        match self.poll_recv(cx) {
            Poll::Ready(received) => {
                self.received_early = Some(received);
                Poll::Ready(())
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Driver {
    /// Runs also when the runtime shuts down or the driver panics. Tasks must not keep waiting for a socket that is not served.
    fn drop(&mut self) {
        // After a panic of the driver its state may be inconsistent.
        if !std::thread::panicking() {
            self.send_disconnects();
        }
        self.notices.wake();
        let known: Vec<_> = self.timers.drain().chain(self.transmitter.drain()).chain(self.deferred.drain()).collect();
        let now = now();
        let all = self.shared.driver_stopped().into_iter().chain(self.served_here()).chain(known);
        let (free, held): (Vec<_>, Vec<_>) = all.partition(|connection| connection.try_lock().is_some());
        free.iter().for_each(|connection| connection.stop_and_remove(now));
        if !held.is_empty() {
            // In a thread of its own: a hook of the application may hold them for long, and so would hold up the runtime.
            std::thread::spawn(move || held.iter().for_each(|connection| connection.stop_and_remove(now)));
        }
    }
}

/// Timers fired between two receive calls.
const MAX_EXPIRED: usize = 256;
/// Service rounds before a driver that is dropped stops its sessions. Each round takes up to 64 KiB from each session.
const LAST_ROUNDS: usize = 16;
