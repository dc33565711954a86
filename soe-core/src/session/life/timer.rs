//! The timers of a session and their deadlines.

use crate::timestamp::{Timestamp, earlier};

/// Declares the timers, those of `common` first.
macro_rules! timers {
    (common { $($(#[doc = $common_doc:literal])* $common:ident,)* } rare { $($(#[doc = $rare_doc:literal])* $rare:ident,)* }) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum Timer {
            $($(#[doc = $common_doc])* $common,)*
            $($(#[doc = $rare_doc])* $rare,)*
        }

        impl Timer {
            const COUNT: usize = [$(Self::$common,)* $(Self::$rare,)*].len();
            const COMMON: usize = [$(Self::$common,)*].len();
            const ALL: [Self; Self::COUNT] = [$(Self::$common,)* $(Self::$rare,)*];
        }
    };
}

timers! {
    // Any session may have these set: each takes 8 bytes of every session.
    common {
        /// An acknowledgement is due.
        Ack,
        /// A packet counts as lost, or the resend timer fires.
        Resend,
        /// This side has sent nothing for long.
        Heartbeat,
        /// The peer is silent: the next probe, or the end.
        Inactivity,
        /// The pacer or a trickle rate allows more data.
        Pace,
        /// Check whether memory can be freed.
        Quiet,
    }
    // Most server sessions never set these while open: they are allocated when one of them is first set.
    rare {
        /// Connecting: the next session request. Open: the next datagram for a server that has not answered. Closed: the
        /// next repetition of the Disconnect.
        Handshake,
        /// The end of the time to connect, or to be refused.
        Connect,
        /// The next NetStatusRequest.
        NetStatus,
        /// The next datagram that only refreshes the NAT mapping.
        PortAlive,
        /// The end of the grace after an ICMP error.
        Icmp,
        /// The next remap request, or the end of requesting.
        Remap,
        /// A place that was dropped on a reliable channel is given up.
        Healing,
        /// Closing: the deadline for queued messages. Closed: the end of answering late datagrams.
        Close,
    }
}

impl Timer {
    const RARE: usize = Self::COUNT - Self::COMMON;
}

/// One deadline for each timer; `None` means never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    common: [Option<Timestamp>; Timer::COMMON],
    /// Allocated when one of them is first set.
    rare: Option<Box<[Option<Timestamp>; Timer::RARE]>>,
}

impl Timers {
    /// Bytes that may be allocated in addition.
    pub(crate) const BOXED: usize = Timer::RARE * size_of::<Option<Timestamp>>();

    pub(crate) fn set(&mut self, timer: Timer, deadline: impl Into<Option<Timestamp>>) {
        let deadline = deadline.into();
        match (timer as usize).checked_sub(Timer::COMMON) {
            None => self.common[timer as usize] = deadline,
            Some(rare) if deadline.is_some() => self.rare.get_or_insert_default()[rare] = deadline,
            Some(_) => self.stop(timer),
        }
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        match (timer as usize).checked_sub(Timer::COMMON) {
            None => self.common[timer as usize] = None,
            Some(rare) => {
                if let Some(deadlines) = &mut self.rare {
                    deadlines[rare] = None;
                }
            }
        }
    }

    pub(crate) fn stop_all(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.timestamp(timer).is_some()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        let rare = self.rare.as_deref().and_then(|rare| rare.iter().copied().reduce(earlier)?);
        self.common.iter().copied().fold(rare, earlier)
    }

    /// Removes and returns a timer that has expired. Call until `None`.
    pub(crate) fn expire(&mut self, now: Timestamp) -> Option<Timer> {
        let expired = |timer: &Timer| self.timestamp(*timer).is_some_and(|deadline| deadline <= now);
        let timer = Timer::ALL.into_iter().find(expired)?;
        self.stop(timer);
        Some(timer)
    }

    /// Frees memory that is no longer needed.
    pub(crate) fn shrink(&mut self) {
        self.rare.take_if(|rare| rare.iter().all(Option::is_none));
    }

    pub(crate) fn deadline(&self, timer: Timer) -> Option<Timestamp> {
        self.timestamp(timer)
    }

    fn timestamp(&self, timer: Timer) -> Option<Timestamp> {
        match (timer as usize).checked_sub(Timer::COMMON) {
            None => self.common[timer as usize],
            Some(rare) => self.rare.as_ref().and_then(|deadlines| deadlines[rare]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::{collection::vec, prelude::*};

    use super::*;

    #[test]
    fn timers_expire_at_their_deadline_and_once() {
        let start = Timestamp::now();
        let mut timers = Timers::default();
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

    proptest! {
        #[test]
        fn timers_do_as_a_list_of_deadlines_does(ops in vec((0..Timer::COUNT, 0u64..50, 0..4u8), 0..200)) {
            let start = Timestamp::now();
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
}
