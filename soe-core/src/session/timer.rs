//! What a session waits for, and until when.

use std::time::Instant;

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
    /// The end of tolerance for ICMP errors.
    Icmp,
    /// The end of asking for a remap.
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
        Self::Icmp,
        Self::Remap,
        Self::Close,
    ];
}

/// One deadline a timer; `None` means never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::COUNT]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, deadline: impl Into<Option<Instant>>) {
        self.0[timer as usize] = deadline.into();
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn stop_all(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes a timer that has expired; call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|&timer| self.0[timer as usize].is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn timers_do_as_a_list_of_deadlines_does(ops in vec((0..Timer::COUNT, 0u64..50, 0..4u8), 0..200)) {
            let start = Instant::now();
            let at = |millis| start + Duration::from_millis(millis);
            let (mut timers, mut model) = (Timers::default(), [None; Timer::COUNT]);
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
