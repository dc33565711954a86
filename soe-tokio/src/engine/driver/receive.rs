//! Receiving: batches from the socket, and the errors that it reports.

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use soe_core::host;
use tokio::{task::unconstrained, time::sleep};
use tracing::trace;

use super::Driver;
use crate::{
    engine::{clock::now, scratch, shared_socket::Counters},
    socket::kernel::is_of_earlier_datagram,
};

impl Driver {
    /// Receives one batch, without waiting. Returns the time afterwards.
    pub(super) async fn receive(&mut self, at: Instant) -> Instant {
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
                    self.io_loop.found_empty();
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
        self.io_loop.received(1, 0);
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_BEFORE_PAUSE {
            sleep(FAILURE_PAUSE).await;
        } else {
            tokio::task::yield_now().await;
        }
        now()
    }

    pub(super) fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        self.io_loop.received(datagrams, bytes);
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

/// Errors about earlier datagrams that one receive step skips. Such a step counts as one failure.
const MAX_OLD_ERRORS: u32 = 1024;
/// Failures in a row after which the loop pauses for [`FAILURE_PAUSE`] after each.
const FAILURES_BEFORE_PAUSE: u32 = 64;
const FAILURE_PAUSE: Duration = Duration::from_millis(10);
