//! What a session waits for, and until when.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Timer {
    /// The next session request, or the next opener while the server is silent.
    Handshake,
    /// The end of negotiating, or of waiting for a refusal.
    Connect,
    /// Acknowledgements fall due.
    Ack,
    /// A packet crosses the threshold of loss, or the resend timer fires.
    Resend,
    Heartbeat,
    Inactivity,
    NetStatus,
    /// Pacing, or a trickle rate, allows more.
    Pace,
    PortAlive,
    /// Time to give memory back, if the session rests.
    Quiet,
    /// The end of tolerance for ICMP errors.
    Icmp,
    /// The next request for a remap, or the end of asking.
    Remap,
    /// Closing: the deadline for what is queued. Closed: the next repetition of the Disconnect, then the end of memory.
    Close,
}

impl Timer {
    const COUNT: usize = Self::Close as usize + 1;
    const ALL: [Self; Self::COUNT] = [
        Self::Handshake,
        Self::Connect,
        Self::Ack,
        Self::Resend,
        Self::Heartbeat,
        Self::Inactivity,
        Self::NetStatus,
        Self::Pace,
        Self::PortAlive,
        Self::Quiet,
        Self::Icmp,
        Self::Remap,
        Self::Close,
    ];
}

/// One deadline a timer; `None` means never.
///
/// Deadlines are nanoseconds from a common start, plus one: half the size of an instant, which counts where ten thousand
/// sessions are idle.
#[derive(Clone, Debug)]
pub(crate) struct Timers {
    start: Instant,
    deadlines: [Option<NonZeroU64>; Timer::COUNT],
}

impl Timers {
    /// No timer is set. `start` is not after any deadline to come; one before it counts as expired.
    pub(crate) fn new(start: Instant) -> Self {
        Self { start, deadlines: [None; Timer::COUNT] }
    }

    pub(crate) fn set(&mut self, timer: Timer, deadline: impl Into<Option<Instant>>) {
        self.deadlines[timer as usize] = deadline.into().map(|deadline| {
            let nanos = deadline.saturating_duration_since(self.start).as_nanos();
            NonZeroU64::MIN.saturating_add(u64::try_from(nanos).unwrap_or(u64::MAX))
        });
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }

    pub(crate) fn stop_all(&mut self) {
        self.deadlines = [None; Timer::COUNT];
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.deadlines[timer as usize].is_some()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.deadlines.iter().flatten().min().map(|&deadline| self.instant(deadline))
    }

    /// Takes a timer that has expired; call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let expired = |timer: &Timer| self.deadlines[*timer as usize].is_some_and(|at| self.instant(at) <= now);
        let timer = Timer::ALL.into_iter().find(expired)?;
        self.stop(timer);
        Some(timer)
    }

    fn instant(&self, deadline: NonZeroU64) -> Instant {
        self.start + Duration::from_nanos(deadline.get() - 1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn timers_expire_at_their_deadline_and_once() {
        let start = Instant::now();
        let mut timers = Timers::new(start);
        let (early, late) = (start + Duration::from_nanos(5), start + Duration::from_secs(100_000));
        timers.set(Timer::Ack, late);
        timers.set(Timer::Close, early);
        assert_eq!(timers.next(), Some(early));
        assert_eq!(timers.expire(start), None);
        assert_eq!(timers.expire(early), Some(Timer::Close));
        assert_eq!(timers.next(), Some(late));
        assert_eq!(timers.expire(late), Some(Timer::Ack));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn a_deadline_before_the_start_has_expired() {
        let start = Instant::now() + Duration::from_secs(10);
        let mut timers = Timers::new(start);
        timers.set(Timer::Pace, start - Duration::from_secs(5));
        assert_eq!(timers.expire(start), Some(Timer::Pace));
    }

    proptest! {
        #[test]
        fn timers_do_as_a_list_of_deadlines_does(ops in vec((0..Timer::COUNT, 0u64..50, 0..4u8), 0..200)) {
            let start = Instant::now();
            let at = |millis| start + Duration::from_millis(millis);
            let (mut timers, mut model) = (Timers::new(start), [None; Timer::COUNT]);
            for (index, millis, op) in ops {
                let timer = Timer::ALL[index];
                match op {
                    0 | 1 => {
                        timers.set(timer, at(millis));
                        model[index] = Some(at(millis));
                    }
                    2 => {
                        timers.stop(timer);
                        model[index] = None;
                    }
                    _ => {
                        while let Some(expired) = timers.expire(at(millis)) {
                            let deadline = model[expired as usize].take();
                            prop_assert!(deadline.is_some_and(|deadline| deadline <= at(millis)), "{expired:?}");
                        }
                        prop_assert!(model.iter().flatten().all(|&deadline| deadline > at(millis)));
                    }
                }
                prop_assert_eq!(timers.next(), model.iter().flatten().min().copied());
                prop_assert_eq!(timers.is_set(timer), model[index].is_some());
            }
        }
    }

    #[test]
    fn the_list_of_timers_is_in_the_order_of_their_numbers() {
        assert!(Timer::ALL.iter().enumerate().all(|(index, &timer)| timer as usize == index));
    }
}
