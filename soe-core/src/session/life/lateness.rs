//! How late a session's timers are served.

use std::time::Duration;

/// The granularity of ordinary timers. Lateness below it is ignored, and is stored in multiples of it.
const GRANULARITY: Duration = Duration::from_millis(2);
/// The largest allowance, 250 ms.
const MOST: u8 = 125;
/// More lateness than this means a stopped process or a suspended machine, which does not predict later lateness.
const ASLEEP: Duration = Duration::from_secs(1);
/// After this many timers in a row that were served earlier, the estimate decays. Many, because a busy processor serves
/// most timers in time.
const CALM: u8 = 64;
/// The decay: 1/8.
const DECAY: u8 = 8;

/// An estimate of how late the timers of a session are served, in two bytes. On a busy processor, acknowledgements are
/// delayed like timers, at this end and, on the same machine, at the other. Without an allowance for it the resend
/// timer sends again what has arrived, and makes the processor busier.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lateness {
    /// In multiples of the granularity.
    late: u8,
    /// How many timers have been served earlier since it last changed.
    calm: u8,
}

impl Lateness {
    /// Timers have been served so much after the first of them was due.
    pub(crate) fn served(&mut self, late: Duration) {
        if late > ASLEEP {
            return;
        }
        let late = u8::try_from(late.as_nanos() / GRANULARITY.as_nanos()).unwrap_or(MOST).min(MOST);
        if late > self.late {
            *self = Self { late: late - (late - self.late) / 2, calm: 0 };
        } else if self.late > 0 {
            self.calm += 1;
            if self.calm == CALM {
                *self = Self { late: self.late - (self.late - late).div_ceil(DECAY), calm: 0 };
            }
        }
    }

    /// What a time-out allows for it.
    pub(crate) fn allowance(self) -> Duration {
        GRANULARITY * u32::from(self.late)
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
        (0..CALM).for_each(|_| lateness.served(Duration::ZERO));
        assert!(lateness.allowance() > 80 * MS, "{lateness:?}");
        (0..3_000).for_each(|_| lateness.served(MS));
        assert_eq!(lateness.allowance(), Duration::ZERO);
    }

    #[test]
    fn a_machine_that_was_asleep_says_nothing_and_no_lateness_counts_for_more_than_a_quarter_of_a_second() {
        let mut lateness = Lateness::default();
        lateness.served(Duration::from_secs(100_000));
        assert_eq!(lateness.allowance(), Duration::ZERO);
        (0..100).for_each(|_| lateness.served(900 * MS));
        assert_eq!(lateness.allowance(), 250 * MS);
    }
}
