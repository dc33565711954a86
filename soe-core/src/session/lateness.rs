//! How late a session's timers are served.

use std::time::Duration;

/// The granularity of ordinary timers. Lateness below it says nothing, and is kept in multiples of it.
const GRANULARITY: Duration = Duration::from_millis(2);
/// More lateness than this is a machine that was asleep, not one that is busy: 250 ms.
const MOST: u8 = 125;
/// How fast lateness is forgotten, per time that timers are served: 1/64, and 2 ms at least.
const DECAY: u8 = 64;

/// How late the timers of a session have been served of late, in one byte. Where the processor is shared, acknowledgements wait
/// for it as timers do, at this end and, on the same machine, at the other: a resend timer that does not know sends again
/// what has long arrived, and makes the processor busier.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lateness(u8);

impl Lateness {
    /// Timers have been served so much after the first of them was due.
    pub(super) fn served(&mut self, late: Duration) {
        let late = u8::try_from(late.as_nanos() / GRANULARITY.as_nanos()).unwrap_or(MOST).min(MOST);
        self.0 = if late > self.0 { late - (late - self.0) / 2 } else { self.0 - (self.0 - late).div_ceil(DECAY) };
    }

    /// What a time-out allows for it.
    pub(super) fn allowance(self) -> Duration {
        GRANULARITY * u32::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn lateness_is_learnt_fast_and_forgotten_slowly() {
        let mut lateness = Lateness::default();
        (0..4).for_each(|_| lateness.served(100 * MS));
        assert!((90 * MS..=100 * MS).contains(&lateness.allowance()), "{lateness:?}");
        lateness.served(Duration::ZERO);
        assert!(lateness.allowance() > 80 * MS, "{lateness:?}");
        (0..100).for_each(|_| lateness.served(MS));
        assert_eq!(lateness.allowance(), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_was_asleep_lengthens_no_timer_for_long() {
        let mut lateness = Lateness::default();
        lateness.served(Duration::from_secs(100_000));
        assert!(lateness.allowance() <= 250 * MS, "{lateness:?}");
    }
}
