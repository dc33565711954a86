//! In which order a socket, timers and transmits are served.

use std::time::Instant;

/// What is to be done next, see [`IoLoop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub enum Step {
    /// Poll the socket without waiting, and report [`IoLoop::received`] or [`IoLoop::found_empty`].
    Receive,
    /// Fire timers that are due at this moment, as many as is good at once.
    Fire(Instant),
    /// Send what is to be sent.
    Transmit,
    /// Wait until this moment, or until the socket has something or an application asks for service, then
    /// [`IoLoop::wake`]. `None`: no timer is set.
    Sleep(Option<Instant>),
}

/// The order in which a socket is served: everything that has arrived, then timers, then transmits.
///
/// A timer fires only after everything has been received that had arrived when it was due: what waits in the socket is a
/// sign of life, also after the process was stopped for a minute. That is so once the socket was found empty since, or once
/// as much has been received since as the socket's buffer can hold; the latter keeps a flood from holding timers back.
///
/// Whoever serves a socket does what [`next`](Self::next) says, reports what came of it, and asks again:
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
/// // The process is stopped. The timer is long due, but first comes what has arrived in the meantime.
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
    /// What the socket's buffer can hold, in bytes with what a datagram takes beside its payload.
    capacity: usize,
    /// Everything that had arrived by this moment has been received.
    seen_until: Option<Instant>,
    /// When the socket was last polled: read before the poll, not after it.
    polled_at: Option<Instant>,
    /// A moment that timers wait for, and what has been received since.
    waiting: Option<(Instant, usize)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Poll,
    /// A batch has come; another look is due after the transmit.
    Received,
    /// The socket was empty.
    Empty,
    Fired,
    Idle,
}

/// What a datagram takes of a socket's buffer beside its payload, in bytes, at least: all systems count their own headers.
const OVERHEAD: usize = 128;

impl IoLoop {
    /// An order for a socket whose receive buffer holds this many bytes (`SO_RCVBUF`).
    pub fn new(receive_buffer: usize) -> Self {
        Self { stage: Stage::Poll, capacity: receive_buffer, seen_until: None, polled_at: None, waiting: None }
    }

    /// Something may have happened: the socket may have something, an application wants service, or a timer is due.
    pub fn wake(&mut self) {
        if self.stage == Stage::Idle {
            self.stage = Stage::Poll;
        }
    }

    /// What is to be done next. `now` is read for this call, `due` is when the first timer expires.
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
                // Only what was due when the socket was last known to be read up: later ones wait for another look.
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

    /// The socket had datagrams: so many, of so many bytes in all.
    pub fn received(&mut self, datagrams: usize, bytes: usize) {
        self.stage = Stage::Received;
        if let Some((since, received)) = &mut self.waiting {
            *received = received.saturating_add(bytes.saturating_add(datagrams.saturating_mul(OVERHEAD)));
            if *received > self.capacity {
                // All that was in the buffer then has come out of it.
                self.seen_until = self.seen_until.max(Some(*since));
                self.waiting = None;
            }
        }
    }

    /// The socket had nothing.
    pub fn found_empty(&mut self) {
        self.stage = Stage::Empty;
        self.seen_until = self.seen_until.max(self.polled_at);
        self.waiting = None;
    }

    /// By which moment everything that had arrived has been received; `None` before the first poll.
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
    fn a_timer_waits_until_what_had_arrived_before_it_was_due_is_received() {
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
    fn a_flood_does_not_hold_timers_back_for_longer_than_the_buffer_holds() {
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
        // The process is stopped between the look and this call.
        let late = start + 60_000 * MS;
        assert_eq!(io.next(late, Some(start + MS)), Step::Transmit);
        assert_eq!(io.next(late, Some(start + MS)), Step::Sleep(Some(start + MS)));
        io.wake();
        assert_eq!(io.next(late, Some(start + MS)), Step::Receive);
    }

    #[test]
    fn more_timers_than_fire_at_once_go_on_without_waiting_for_the_socket() {
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
