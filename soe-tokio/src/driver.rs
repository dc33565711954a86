//! The one task that touches a socket: a batch in, each datagram to its peer, a yield, everything that waits out.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use soe_core::{Admit, DisconnectReason, Newcomer, wire::RemapConnection};
use tokio::{
    runtime::RuntimeFlavor,
    time::{Sleep, sleep, sleep_until},
};
use tracing::{debug, trace, warn};

use crate::{
    config::BusyPoll,
    deferred::{self, Deferred},
    directory::Door,
    endpoint::{Counters, Shared, Work, lock},
    flush::Flusher,
    looking::Looking,
    peer::{Fed, Peer, now},
    query::is_status,
    socket::{AsyncUdp, Path, RecvBatch},
    spare,
    timer::Timers,
};

/// Serves one socket until nobody needs it. What several sockets of one listener share is in
/// [`crate::directory::Directory`].
#[derive(Debug)]
pub(crate) struct Driver {
    shared: Arc<Shared>,
    socket: Box<dyn AsyncUdp>,
    timers: Timers,
    received: RecvBatch,
    flusher: Flusher,
    /// What waits for sessions whose lock the application holds.
    deferred: Deferred,
    /// What sessions could not accept and the admission has yet to see.
    returned: Vec<BytesMut>,
    /// Tasks to wake once no lock is held; each peer's once per batch.
    wakers: Vec<Waker>,
    admission_timer: Option<Pin<Box<Sleep>>>,
    failures: u32,
    is_only_thread: bool,
    looking: Looking,
    /// Dropped last.
    _freed: Freed,
}

/// Reports that the socket is free.
#[derive(Debug)]
struct Freed(Arc<Shared>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.freed();
    }
}

/// Why the driver woke up.
#[derive(Debug)]
enum Wake {
    Received(io::Result<()>),
    Service,
    Writable,
    AdmissionTimer,
    SessionTimers,
    Stop,
}

impl Driver {
    /// Starts serving `socket` on the runtime of `shared`.
    pub(crate) fn spawn(shared: Arc<Shared>, socket: Box<dyn AsyncUdp>, busy_poll: BusyPoll) {
        let runtime = shared.runtime.clone();
        let driver = Self {
            _freed: Freed(Arc::clone(&shared)),
            shared,
            socket,
            timers: Timers::default(),
            received: RecvBatch::new(),
            flusher: Flusher::default(),
            deferred: Deferred::default(),
            returned: Vec::new(),
            wakers: Vec::new(),
            admission_timer: None,
            failures: 0,
            is_only_thread: runtime.runtime_flavor() == RuntimeFlavor::CurrentThread,
            looking: Looking::new(busy_poll),
        };
        runtime.spawn(driver.run());
    }

    async fn run(mut self) {
        loop {
            match self.next_wake().await {
                Wake::Received(Ok(())) => {
                    self.failures = 0;
                    self.looking.received(Instant::now(), self.shared.directory.session_count());
                    self.dispatch(now());
                    // Tasks that the batch woke answer first, and the acks ride on their replies. Without the pause a flood
                    // would also keep every other task of this thread from running.
                    yield_to_tasks(self.is_only_thread).await;
                }
                Wake::Received(Err(error)) => self.receive_failed(&error).await,
                Wake::Service => tokio::task::consume_budget().await,
                Wake::Writable => self.flusher.unblock(),
                Wake::AdmissionTimer => self.admission_timeout(now()),
                Wake::SessionTimers => self.expire(now()),
                Wake::Stop => break,
            }
            self.retry_deferred(now());
            self.flusher.flush(now(), &self.shared, &mut *self.socket, &mut self.timers, &mut self.wakers);
            self.wake();
        }
        debug!(address = %self.shared.local_addr, "the socket is not needed any more");
    }

    /// Waits for something to do: awake for a while after a datagram, if that pays, and then asleep.
    async fn next_wake(&mut self) -> Wake {
        while self.looking.is_on() && self.looking.goes_on(Instant::now()) {
            if let Poll::Ready(wake) = poll_fn(|cx| Poll::Ready(self.poll_wake(cx))).await {
                return wake;
            }
            self.looking.found_nothing();
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| self.poll_wake(cx)).await
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>) -> Poll<Wake> {
        if let Some(timer) = &mut self.admission_timer
            && timer.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Wake::AdmissionTimer);
        }
        if self.timers.poll(cx).is_ready() {
            return Poll::Ready(Wake::SessionTimers);
        }
        if self.flusher.is_blocked() && self.socket.poll_writable(cx).is_ready() {
            return Poll::Ready(Wake::Writable);
        }
        let work = self.shared.poll_work(cx, !self.flusher.is_blocked());
        if let Poll::Ready(Work::Stop) = work {
            return Poll::Ready(Wake::Stop);
        }
        // What has arrived goes first: it may be answered in the same flush.
        self.received.datagrams = spare::take_datagrams();
        if let Poll::Ready(received) = self.poll_recv(cx) {
            return Poll::Ready(Wake::Received(received));
        }
        spare::give_datagrams(std::mem::take(&mut self.received.datagrams));
        work.map(|_| Wake::Service)
    }

    /// Receives past errors about datagrams that were sent earlier: when many peers vanish at once the socket reports each of
    /// them, and what has arrived from others waits behind.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 1..MAX_OLD_ERRORS {
            match self.socket.poll_recv(cx, &mut self.received) {
                Poll::Ready(Err(error)) if crate::udp::is_of_earlier_datagram(&error) => {
                    self.note_receive_error(&error)
                }
                other => return other,
            }
        }
        self.socket.poll_recv(cx, &mut self.received)
    }

    fn note_receive_error(&mut self, error: &io::Error) {
        trace!(%error, "receive error");
        Counters::add(&self.shared.counters.receive_errors, 1);
        report_unreachable(&self.shared, &mut *self.socket);
    }

    /// An error on receipt is about some datagram that was sent earlier (ICMP), or about the one that came (its size). None
    /// of them stops the socket; a socket that does nothing but fail is left alone for a moment.
    async fn receive_failed(&mut self, error: &io::Error) {
        self.note_receive_error(error);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_BEFORE_PAUSE {
            sleep(FAILURE_PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
    }

    /// Hands every datagram of the batch to its session or to the admission.
    fn dispatch(&mut self, now: Instant) {
        let mut batch = std::mem::take(&mut self.received.datagrams);
        let counters = &self.shared.counters;
        Counters::add(&counters.receive_batches, 1);
        Counters::add(&counters.datagrams_received, batch.len());
        Counters::add(&counters.bytes_received, batch.iter().map(|(_, datagram)| datagram.len()).sum());
        let mut datagrams = batch.drain(..).peekable();
        let asks = self.shared.queries.any();
        // A server answers from the address that it was spoken to; a client follows the system's routing.
        let pins = self.shared.directory.door.is_some();
        while let Some((path, first)) = datagrams.next() {
            let from = path.remote;
            if asks && self.shared.queries.answer(from, &first) {
                continue;
            }
            let Some(peer) = self.shared.directory.peer(from) else {
                self.ask_admission(now, path, first);
                continue;
            };
            let rest = std::iter::from_fn(|| {
                datagrams.next_if(|(next, datagram)| *next == path && !(asks && is_status(datagram)))
            })
            .map(|(_, datagram)| datagram);
            let path_of_peer = if pins { path } else { from.into() };
            self.feed(now, &peer, path_of_peer, &mut std::iter::once(first).chain(rest));
            for datagram in std::mem::take(&mut self.returned) {
                self.ask_admission(now, path, datagram);
            }
        }
        drop(datagrams);
        spare::give_datagrams(batch);
        report_unreachable(&self.shared, &mut *self.socket);
        self.wake();
    }

    fn feed(&mut self, now: Instant, peer: &Arc<Peer>, path: Path, datagrams: &mut impl Iterator<Item = BytesMut>) {
        if !self.deferred.is_empty() && self.deferred.holds_datagrams_of(peer) {
            return self.deferred.keep(peer, path, datagrams);
        }
        let (returned, wakers) = (&mut self.returned, &mut self.wakers);
        let fed = catch_unwind(AssertUnwindSafe(|| peer.feed(now, path, datagrams, returned, wakers)));
        match fed {
            Ok(Fed::Marked) => self.serve_soon(peer),
            Ok(Fed::Quiet) => {}
            Ok(Fed::Busy) => self.deferred.keep(peer, path, datagrams),
            Err(_) => bury(peer, now),
        }
    }

    /// Has a peer served whose `dirty` flag was just set.
    fn serve_soon(&mut self, peer: &Arc<Peer>) {
        if Arc::ptr_eq(&peer.shared, &self.shared) {
            self.flusher.add(Arc::clone(peer));
        } else {
            // It has moved, and the kernel hands it to another socket than the one that serves it.
            peer.shared.push_dirty(Arc::clone(peer));
        }
    }

    /// Tries again what was put off because a session was busy.
    fn retry_deferred(&mut self, now: Instant) {
        for _ in 0..self.deferred.len() {
            let Some((peer, work)) = self.deferred.pop() else { break };
            match work {
                deferred::Work::Datagrams(path, datagrams) => {
                    self.feed(now, &peer, path, &mut datagrams.into_iter());
                    for datagram in std::mem::take(&mut self.returned) {
                        self.ask_admission(now, path, datagram);
                    }
                }
                deferred::Work::Timer => self.expire_one(now, peer),
                deferred::Work::Abort(reason) => self.abort(peer, reason),
            }
        }
    }

    /// Ends a session whose place another one takes.
    fn abort(&mut self, peer: Arc<Peer>, reason: DisconnectReason) {
        if !peer.try_abort(reason) {
            self.deferred.push(peer, deferred::Work::Abort(reason));
        }
    }

    /// Sees to the sessions whose timers have expired, a bounded number at once.
    fn expire(&mut self, now: Instant) {
        for _ in 0..MAX_EXPIRED {
            let Some(peer) = self.timers.pop(now) else { break };
            self.expire_one(now, peer);
        }
    }

    fn expire_one(&mut self, now: Instant, peer: Arc<Peer>) {
        let (timers, wakers) = (&mut self.timers, &mut self.wakers);
        match catch_unwind(AssertUnwindSafe(|| peer.expire(now, timers, wakers))) {
            Ok(Fed::Marked) => self.flusher.add(peer),
            Ok(Fed::Quiet) => {}
            Ok(Fed::Busy) => self.deferred.push(peer, deferred::Work::Timer),
            Err(_) => bury(&peer, now),
        }
    }

    /// A datagram that no session claims.
    fn ask_admission(&mut self, now: Instant, path: Path, datagram: BytesMut) {
        let from = path.remote;
        let shared = Arc::clone(&self.shared);
        let Some(door) = &shared.directory.door else {
            trace!(%from, "a stranger's datagram");
            return;
        };
        // No room for the moment is no reason to refuse anybody: clients repeat what is not answered.
        if door.is_crowded() {
            trace!(%from, "the accept queue is full");
            return;
        }
        // After the door has closed newcomers are still let in, to be told that they are refused.
        let room = shared.directory.room(door);
        let admit = {
            let mut admission = lock(&door.admission);
            admission.set_room(room);
            let handled = catch_unwind(AssertUnwindSafe(|| admission.handle_datagram(now, from, datagram)));
            let admit = handled.unwrap_or_else(|_| {
                debug!(%from, "the request filter panicked; the request is dropped");
                Admit::Dropped
            });
            self.flusher.reply(path, |buffer| admission.poll_transmit(buffer));
            admit
        };
        match admit {
            Admit::Opened(newcomer) => self.open(now, door, path, *newcomer),
            Admit::Remap(request) => self.remap(door, from, request),
            _ => {}
        }
        self.arm_admission(door);
    }

    fn open(&mut self, now: Instant, door: &Door, path: Path, newcomer: Newcomer) {
        let Newcomer { request, mut session, .. } = newcomer;
        if !self.shared.directory.is_open() {
            session.abort(now, DisconnectReason::ConnectionRefused, true);
            self.flusher.reply(path, |buffer| session.poll_transmit(now, buffer));
            return;
        }
        debug!(from = %path.remote, version = request.version, name = %request.protocol_name, "a session opens");
        if let Some(previous) = self.shared.directory.enter(door, &self.shared, path, session, request) {
            // The newcomer has proved that the address is its own: the client behind the old session is gone.
            self.abort(previous, DisconnectReason::NewConnectionAttempt);
        }
    }

    /// A client that knows a session's id and seed says that it now is at `from`. Datagrams from there reach the session
    /// from here on; the path moves with the first one that has a valid CRC.
    fn remap(&self, door: &Door, from: SocketAddr, request: RemapConnection) {
        let Some(peer) = self.shared.directory.by_identity(request.session_id, request.crc_seed) else { return };
        // A client that is not heard now repeats itself.
        let Some(old) = peer.try_lock().map(|state| state.address) else { return };
        if !door.remap.allows(old, from) || old == from || !self.shared.directory.route(from, &peer) {
            debug!(%from, %old, "a move is not allowed");
            return;
        }
        if let Some(replaced) = peer.set_candidate(from) {
            self.shared.directory.unroute(replaced, &peer);
        }
    }

    fn admission_timeout(&mut self, now: Instant) {
        let shared = Arc::clone(&self.shared);
        self.admission_timer = None;
        if let Some(door) = &shared.directory.door {
            lock(&door.admission).handle_timeout(now);
            self.arm_admission(door);
        }
    }

    /// The admission's timer only ever expires entries and rotates keys, so it is set when it is not set and never moved.
    fn arm_admission(&mut self, door: &Door) {
        if self.admission_timer.is_none()
            && let Some(deadline) = lock(&door.admission).poll_timeout()
        {
            self.admission_timer = Some(Box::pin(sleep_until(deadline.into())));
        }
    }

    /// The runtime ends, and nobody serves the sessions any more: what they have to send leaves now, and a farewell behind it,
    /// as far as the socket takes it at once. Nothing is repeated.
    fn leave(&mut self) {
        let now = now();
        self.flusher.unblock();
        for say_farewell in [false, true] {
            if say_farewell {
                let shared = &self.shared;
                for peer in shared.directory.peers().into_iter().filter(|peer| Arc::ptr_eq(&peer.shared, shared)) {
                    if peer.cut_off(now) {
                        self.flusher.add(peer);
                    }
                }
            }
            for _ in 0..LAST_ROUNDS {
                self.flusher.flush(now, &self.shared, &mut *self.socket, &mut self.timers, &mut self.wakers);
            }
        }
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Drop for Driver {
    /// Also when the runtime shuts down or something here panics: nobody shall wait for a socket that is not served.
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.leave();
        }
        self.wake();
        let known = self.timers.drain().chain(self.flusher.drain()).chain(self.deferred.drain());
        self.shared.stopped(now(), known);
    }
}

/// Lets the tasks run that are ready now.
async fn yield_to_tasks(is_only_thread: bool) {
    if !is_only_thread {
        return tokio::task::yield_now().await;
    }
    // On a runtime of one thread tasks run in the order in which they were woken, so whoever wakes itself comes last.
    // Tokio's own yield would look for events of the system in between, with a system call.
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

/// Tells the peers that the network reported as unreachable, a bounded number at once, and says how many reports there were.
pub(crate) fn report_unreachable(shared: &Shared, socket: &mut dyn AsyncUdp) -> usize {
    let mut reports = 0;
    while reports < MAX_REPORTS
        && let Some(address) = socket.next_unreachable()
    {
        reports += 1;
        trace!(%address, "unreachable");
        if let Some(peer) = shared.directory.peer(address) {
            peer.unreachable();
        }
    }
    Counters::add(&shared.counters.unreachable_reports, reports);
    reports
}

/// A session panicked in the driver's hands, in an application's codec or by a bug of ours: it is over, and nobody else
/// notices.
pub(crate) fn bury(peer: &Arc<Peer>, now: Instant) {
    warn!(session = peer.session_id, "a session panicked; it is ended");
    peer.bury(now);
}

/// Receive errors in a row after which the socket is left alone for [`FAILURE_PAUSE`].
const FAILURES_BEFORE_PAUSE: u32 = 64;
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
/// Errors about earlier datagrams that are passed over in one look at the socket. Each look counts as one failure.
const MAX_OLD_ERRORS: u32 = 1024;
/// Sessions whose timers are seen to between two looks at the socket.
const MAX_EXPIRED: usize = 256;
/// Rounds of service before a driver that is dropped lets its sessions go: each takes up to 64 KiB from each of them.
const LAST_ROUNDS: usize = 16;
/// ICMP reports taken at once.
const MAX_REPORTS: usize = 64;
