//! The driver: the one task that touches a socket. It works in the order that [`IoLoop`] gives: it receives everything that
//! has arrived, fires the timers, and then transmits.

use std::{
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use soe_core::{IoLoop, Step, host};
use tokio::{
    runtime::RuntimeFlavor,
    task::{consume_budget, unconstrained},
    time::{Sleep, sleep, sleep_until},
};
use tracing::{debug, trace};

use crate::{
    config::BusyPoll,
    engine::{
        busy_poll::BusyPoller,
        clock::now,
        connection::{Connection, Visit},
        deferred::{Deferred, Work},
        notices::Notices,
        operator_log::Rounds,
        scratch,
        shared_socket::{Counters, SharedSocket},
        timers::{Timers, earlier},
        transmit::{Transmitter, take_reports},
    },
    socket::{AsyncUdp, RecvBatch, kernel::is_of_earlier_datagram},
};

/// Serves one socket until no handle and no session needs it. The sockets of one listener share the
/// [`crate::engine::shared_endpoint::SharedEndpoint`].
#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) shared: Arc<SharedSocket<Connection>>,
    socket: Box<dyn AsyncUdp>,
    turn: IoLoop,
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
            turn: IoLoop::new(socket.recv_buffer()),
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

    async fn run(mut self) {
        self.arm_endpoint();
        // Read again only where time may have passed, not for each step: a client's driver wakes up for every datagram.
        // An instant that is slightly old only delays timers until after the next receive step, never the reverse.
        let mut at = now();
        let mut is_open = true;
        loop {
            match self.turn.next(at, self.due()) {
                Step::Receive => at = self.receive(at).await,
                Step::Fire(due) => {
                    self.fire(due);
                    // With thousands of timers due at once, the other tasks of this thread must run in between.
                    consume_budget().await;
                    at = now();
                }
                Step::Transmit => self.transmit(at),
                Step::Sleep(_) => {
                    self.wait().await;
                    if self.shared.is_done() {
                        break;
                    }
                    if std::mem::replace(&mut is_open, self.shared.endpoint.is_open()) && !is_open {
                        // A closed endpoint waits a while for clients that it has answered.
                        self.arm_endpoint();
                    }
                    self.turn.wake();
                    at = now();
                }
                _ => {}
            }
        }
        debug!(address = %self.shared.local_addr, "the socket is not needed any more");
    }

    /// When the first timer is due.
    fn due(&self) -> Option<Instant> {
        let endpoint = self.endpoint_timer.as_ref().map(|timer| timer.deadline().into_std());
        earlier(self.timers.next(), endpoint)
    }

    /// Receives one batch, without waiting. Returns the time afterwards.
    async fn receive(&mut self, at: Instant) -> Instant {
        self.is_registered = false;
        for _ in 0..MAX_OLD_ERRORS {
            let received = match self.received_early.take() {
                Some(received) => Poll::Ready(received),
                // Outside of Tokio's cooperative budget: once that is used up, a readable socket would return
                // `Pending`.
                None => unconstrained(poll_fn(|cx| Poll::Ready(self.poll_recv(cx)))).await,
            };
            match received {
                Poll::Pending => {
                    self.failures = 0;
                    self.is_registered = true;
                    self.turn.found_empty();
                    return at;
                }
                Poll::Ready(Ok(())) => {
                    self.failures = 0;
                    self.busy_poller.received(Instant::now(), self.shared.endpoint.session_count());
                    self.dispatch(at);
                    // The tasks that the batch woke run first, so that their replies carry the acknowledgements.
                    // Without the yield a flood would also keep every other task of this thread from running.
                    yield_to_tasks(self.is_only_thread).await;
                    return now();
                }
                Poll::Ready(Err(error)) => {
                    trace!(%error, "receive error");
                    Counters::add(&self.shared.counters.receive_errors, 1);
                    self.take_reports();
                    // The error reports an earlier send, and there can be one for each unreachable peer. Datagrams of
                    // other peers are queued behind these errors.
                    if !is_of_earlier_datagram(&error) {
                        break;
                    }
                }
            }
        }
        // Other errors are not fatal either. After many in a row the loop backs off.
        // Counts as a received datagram, so that timers fire although the errors do not end.
        self.turn.received(1, 0);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_BEFORE_PAUSE {
            sleep(FAILURE_PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
        now()
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.received.datagrams = scratch::take_datagrams();
        let received = self.socket.poll_recv(cx, &mut self.received);
        if received.is_pending() {
            scratch::recycle_datagrams(std::mem::take(&mut self.received.datagrams));
        }
        received
    }

    /// Hands every datagram of the batch to its session or to the endpoint.
    fn dispatch(&mut self, now: Instant) {
        let mut batch = std::mem::take(&mut self.received.datagrams);
        let counters = &self.shared.counters;
        // What a wrapper around the socket has removed counts as received: timers wait for what the socket held.
        let removed = std::mem::take(&mut self.received.removed);
        let datagrams = batch.len() + removed.datagrams;
        let bytes = batch.iter().map(|(_, datagram)| datagram.len()).sum::<usize>() + removed.bytes;
        Counters::add(&counters.receive_batches, 1);
        Counters::add(&counters.datagrams_received, datagrams);
        Counters::add(&counters.bytes_received, bytes);
        self.turn.received(datagrams, bytes);
        if self.shared.queries.any() {
            batch.retain(|(path, datagram)| !self.shared.queries.answer(path.remote, datagram));
        }
        if !self.shared.endpoint.is_listener {
            // A server answers from the address that the client sent to; a client follows the system's routing.
            batch.iter_mut().for_each(|(path, _)| *path = path.remote.into());
        }
        host::receive(self, now, batch.drain(..));
        scratch::recycle_datagrams(batch);
        self.take_reports();
        self.settle(now);
        self.notices.wake();
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
    pub(crate) fn visit(&mut self, now: Instant, connection: &Arc<Connection>, work: Work) {
        match catch_unwind(AssertUnwindSafe(|| connection.visit(now, &work, &mut self.notices))) {
            Ok(Visit::Marked) => self.serve_soon(connection),
            Ok(Visit::Quiet) => {}
            Ok(Visit::Busy) => self.deferred.push(Arc::clone(connection), work),
            Err(_) => connection.fail_after_panic(now, &mut self.notices),
        }
    }

    /// Retries what was deferred because a session was busy.
    fn retry_deferred(&mut self, now: Instant) {
        for _ in 0..self.deferred.len() {
            let Some((connection, work)) = self.deferred.pop() else { break };
            match work {
                Work::Datagrams(path, datagrams) => {
                    host::receive(self, now, datagrams.into_iter().map(|datagram| (path, datagram)));
                }
                Work::Timer => self.expire(now, connection),
                work => self.visit(now, &connection, work),
            }
        }
    }

    /// Fires what was due at `due`, a bounded number of sessions at once.
    fn fire(&mut self, due: Instant) {
        let now = now();
        if self.endpoint_timer.as_ref().is_some_and(|timer| timer.deadline().into_std() <= due) {
            let lingers = host::call(self, now, |endpoint| {
                endpoint.handle_timeout(now);
                endpoint.is_lingering()
            });
            self.shared.endpoint.set_lingering(lingers);
            self.arm_endpoint();
        }
        for _ in 0..MAX_EXPIRED {
            let Some(connection) = self.timers.pop(due) else { break };
            self.expire(now, connection);
        }
    }

    fn expire(&mut self, now: Instant, connection: Arc<Connection>) {
        match catch_unwind(AssertUnwindSafe(|| connection.expire(now, &mut self.timers, &mut self.notices))) {
            Ok(Visit::Marked) => self.transmitter.add(connection),
            Ok(Visit::Quiet) => {}
            Ok(Visit::Busy) => self.deferred.push(connection, Work::Timer),
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
        self.endpoint_timer = deadline.map(|deadline| Box::pin(sleep_until(deadline.into())));
    }

    /// The runtime is shutting down: sends what the sessions have queued and one farewell each, as far as the socket takes it
    /// at once. Nothing is repeated.
    fn send_farewells(&mut self) {
        let now = now();
        self.transmitter.unblock();
        // Two passes: an abort discards what is queued, so that is sent first.
        for say_farewell in [false, true] {
            if say_farewell {
                for connection in self.served_here() {
                    if connection.cut_off(now) {
                        self.transmitter.add(connection);
                    }
                }
            }
            for _ in 0..LAST_ROUNDS {
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
            self.send_farewells();
        }
        self.notices.wake();
        let known: Vec<_> = self.timers.drain().chain(self.transmitter.drain()).chain(self.deferred.drain()).collect();
        let now = now();
        for connection in self.shared.driver_stopped().into_iter().chain(self.served_here()).chain(known) {
            connection.stop_and_remove(now);
        }
    }
}

/// Lets the tasks run that are ready now, so that their replies carry the acknowledgements.
async fn yield_to_tasks(is_only_thread: bool) {
    if !is_only_thread {
        return tokio::task::yield_now().await;
    }
    // On a runtime of one thread tasks run in the order in which they were woken, so a task that wakes itself comes last.
    // Tokio's own yield would also poll for I/O events, with a system call.
    let mut has_waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Timers fired between two receive calls.
const MAX_EXPIRED: usize = 256;
/// Service rounds before a driver that is dropped stops its sessions. Each round takes up to 64 KiB from each session.
const LAST_ROUNDS: usize = 16;
/// Errors about earlier datagrams that one receive step skips. Such a step counts as one failure.
const MAX_OLD_ERRORS: u32 = 1024;
/// Failures in a row after which the loop pauses for [`FAILURE_PAUSE`] after each.
const FAILURES_BEFORE_PAUSE: u32 = 64;
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
