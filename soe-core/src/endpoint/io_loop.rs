//! The order in which a driver serves a socket, timers and transmits.

use std::time::Instant;

/// The next step of an [`IoLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Step {
    /// Poll the socket without waiting, and report [`IoLoop::received`] or [`IoLoop::found_empty`].
    Receive,
    /// Fire timers that are due at this time, a bounded number of them.
    Fire(Instant),
    /// Send all pending datagrams.
    Transmit,
    /// Wait until this time, or until the socket is readable, or until an application requests service. Then call
    /// [`IoLoop::wake`]. `None`: no timer is set.
    Sleep(Option<Instant>),
}

/// The order in which a socket is served: everything that has arrived, then timers, then transmits. A timer fires only
/// after everything has been received that had arrived when it was due: a datagram in the socket's buffer is a sign of
/// life, even after the process was stopped for a minute. This holds once the socket was found empty, or once more
/// bytes have been received than the socket's buffer can hold; the latter prevents a flood from delaying timers. A
/// driver calls [`next`](Self::next), performs the step, reports its result, and repeats:
///
/// ```
/// use std::time::{Duration, Instant};
/// use soe_core::{Step, IoLoop};
///
/// let (start, mut io) = (Instant::now(), IoLoop::new(65_536));
/// let due = Some(start + Duration::from_secs(1));
/// assert_eq!(io.next(start, due), Step::Receive);
/// io.found_empty();
/// assert_eq!(io.next(start, due), Step::Transmit);
/// assert_eq!(io.next(start, due), Step::Sleep(due));
/// // The process was stopped. The timer is long due, but what has arrived in the meantime is received first.
/// let late = start + Duration::from_secs(60);
/// io.wake();
/// assert_eq!(io.next(late, due), Step::Receive);
/// io.received(10, 1_000);
/// assert_eq!(io.next(late, due), Step::Transmit);
/// assert_eq!(io.next(late, due), Step::Receive);
/// io.found_empty();
/// assert_eq!(io.next(late, due), Step::Fire(late));
/// ```
#[derive(Clone, Debug)]
pub struct IoLoop {
    stage: Stage,
    /// The capacity of the socket's buffer in bytes, including the overhead per datagram.
    capacity: usize,
    /// Everything that arrived before this time has been received.
    seen_until: Option<Instant>,
    /// When the socket was last polled: read before the poll, not after it.
    polled_at: Option<Instant>,
    /// A time that timers wait for, and the bytes received since.
    waiting: Option<(Instant, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Poll,
    /// A batch was received. Poll again after the transmit.
    Received,
    /// The socket was empty.
    Empty,
    Fired,
    Idle,
}

/// The least that a datagram takes in a socket's buffer besides its payload, in bytes. All systems count their own
/// headers.
const OVERHEAD: usize = 128;

impl IoLoop {
    /// A loop for a socket whose receive buffer holds this many bytes (`SO_RCVBUF`).
    pub fn new(receive_buffer: usize) -> Self {
        Self { stage: Stage::Poll, capacity: receive_buffer, seen_until: None, polled_at: None, waiting: None }
    }

    /// Call it when the socket may be readable, an application requests service, or a timer is due.
    pub fn wake(&mut self) {
        if self.stage == Stage::Idle {
            self.stage = Stage::Poll;
        }
    }

    /// Returns the next step. `now` is the current time, `due` the deadline of the first timer.
    pub fn next(&mut self, now: Instant, due: Option<Instant>) -> Step {
        match self.stage {
            Stage::Poll => {
                self.polled_at = Some(now);
                if self.waiting.is_none() && due.is_some_and(|due| due <= now && !self.has_seen(due)) {
                    self.waiting = Some((now, 0));
                }
                Step::Receive
            }
            Stage::Empty | Stage::Received if due.is_some_and(|due| due <= now && self.has_seen(due)) => {
                self.stage = Stage::Fired;
                // Timers that became due after the last poll wait for the next one.
                Step::Fire(self.seen_until.map_or(now, |seen| seen.min(now)))
            }
            Stage::Received | Stage::Fired => {
                self.stage = Stage::Poll;
                Step::Transmit
            }
            Stage::Empty => {
                self.stage = Stage::Idle;
                Step::Transmit
            }
            Stage::Idle => Step::Sleep(due),
        }
    }

    /// Reports received datagrams and their bytes in total.
    pub fn received(&mut self, datagrams: usize, bytes: usize) {
        self.stage = Stage::Received;
        if let Some((since, received)) = &mut self.waiting {
            *received = received.saturating_add(bytes.saturating_add(datagrams.saturating_mul(OVERHEAD)));
            if *received > self.capacity {
                // More was received than the buffer can hold, so everything that was in it then has been received.
                self.seen_until = self.seen_until.max(Some(*since));
                self.waiting = None;
            }
        }
    }

    /// Reports that the socket had no datagram.
    pub fn found_empty(&mut self) {
        self.stage = Stage::Empty;
        self.seen_until = self.seen_until.max(self.polled_at);
        self.waiting = None;
    }

    /// The time before which everything that arrived has been received; `None` before the first poll.
    pub fn seen_until(&self) -> Option<Instant> {
        self.seen_until
    }

    fn has_seen(&self, due: Instant) -> bool {
        self.seen_until.is_some_and(|seen| seen >= due)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_timer_fires_after_everything_that_arrived_before_it_was_due() {
        let start = Instant::now();
        let mut io = IoLoop::new(10_000);
        let due = Some(start + 10 * MS);
        let now = start + 500 * MS;
        for _ in 0..5 {
            assert_eq!(io.next(now, due), Step::Receive);
            io.received(10, 500);
            assert_eq!(io.next(now, due), Step::Transmit);
        }
        assert_eq!(io.next(now, due), Step::Receive);
        io.found_empty();
        assert_eq!(io.next(now, due), Step::Fire(now));
        assert_eq!(io.next(now, None), Step::Transmit);
        assert_eq!(io.next(now, None), Step::Receive);
        io.found_empty();
        assert_eq!(io.next(now, None), Step::Transmit);
        assert_eq!(io.next(now, None), Step::Sleep(None));
    }

    #[test]
    fn a_flood_delays_timers_by_at_most_one_full_buffer() {
        let start = Instant::now();
        let mut io = IoLoop::new(100_000);
        let due = Some(start);
        let mut now = start;
        let mut received = 0;
        let fired = loop {
            now += MS;
            match io.next(now, due) {
                Step::Receive => {
                    received += 64 * (100 + OVERHEAD);
                    io.received(64, 6_400);
                }
                Step::Fire(at) => break at,
                _ => assert!(received < 200_000, "the flood holds the timers back"),
            }
        };
        assert!(received > 100_000, "fired before the buffer can have been emptied");
        assert!(fired >= start && fired < now);
    }

    #[test]
    fn a_timer_that_became_due_during_the_poll_waits_for_another_one() {
        let start = Instant::now();
        let mut io = IoLoop::new(10_000);
        assert_eq!(io.next(start, None), Step::Receive);
        io.found_empty();
        // The process is stopped between the poll and this call.
        let late = start + 60_000 * MS;
        assert_eq!(io.next(late, Some(start + MS)), Step::Transmit);
        assert_eq!(io.next(late, Some(start + MS)), Step::Sleep(Some(start + MS)));
        io.wake();
        assert_eq!(io.next(late, Some(start + MS)), Step::Receive);
    }

    #[test]
    fn remaining_timers_fire_without_another_empty_poll() {
        let start = Instant::now();
        let mut io = IoLoop::new(10_000);
        let due = Some(start);
        let now = start + MS;
        assert_eq!(io.next(now, due), Step::Receive);
        io.found_empty();
        for _ in 0..3 {
            assert_eq!(io.next(now, due), Step::Fire(now));
            assert_eq!(io.next(now, due), Step::Transmit);
            assert_eq!(io.next(now, due), Step::Receive);
            io.received(1, 100);
        }
    }
}
