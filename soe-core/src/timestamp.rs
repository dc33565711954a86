//! Compact times for state that every session keeps.

use std::{
    fmt,
    num::{NonZeroU32, NonZeroU64},
    ops::{Add, AddAssign, Sub},
    sync::OnceLock,
    time::{Duration, Instant},
};

/// The first instant that was converted. All timestamps count from it; which instant it is does not matter.
static ANCHOR: OnceLock<Instant> = OnceLock::new();
/// The count at the anchor. It leaves room for more than a hundred years before it.
const ANCHOR_COUNT: u64 = 1 << 62;

/// An instant in 8 bytes. `Option<Timestamp>` also has 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(NonZeroU64);

impl Timestamp {
    pub(crate) fn instant(self) -> Instant {
        let anchor = *ANCHOR.get().expect("a moment exists, so the first one has set the anchor");
        let count = self.0.get();
        let moved = match count.checked_sub(ANCHOR_COUNT) {
            Some(after) => anchor.checked_add(Duration::from_nanos(after)),
            None => anchor.checked_sub(Duration::from_nanos(ANCHOR_COUNT - count)),
        };
        // Unreachable for instants within a hundred years of the anchor.
        moved.unwrap_or(anchor)
    }
}

impl Timestamp {
    /// The time from `earlier` to this, or zero if this is the earlier one.
    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }

    /// The time from `earlier` to this. `None` if this is the earlier one.
    pub(crate) fn checked_duration_since(self, earlier: Self) -> Option<Duration> {
        self.0.get().checked_sub(earlier.0.get()).map(Duration::from_nanos)
    }

    pub(crate) fn checked_sub(self, duration: Duration) -> Option<Self> {
        NonZeroU64::new(self.0.get().checked_sub(nanos(duration))?).map(Self)
    }

    #[cfg(test)]
    pub(crate) fn now() -> Self {
        Instant::now().into()
    }
}

/// The earlier of two deadlines, of which each may be missing.
pub(crate) fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    /// Hundreds of years later it stays at the last timestamp.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;

    /// A hundred years before the anchor it stays at the first timestamp.
    fn sub(self, duration: Duration) -> Self {
        self.checked_sub(duration).unwrap_or(Self(NonZeroU64::MIN))
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

impl From<Instant> for Timestamp {
    fn from(instant: Instant) -> Self {
        let anchor = *ANCHOR.get_or_init(|| instant);
        let count = match instant.checked_duration_since(anchor) {
            Some(after) => ANCHOR_COUNT.saturating_add(nanos(after)),
            None => ANCHOR_COUNT.saturating_sub(nanos(anchor - instant)),
        };
        Self(NonZeroU64::new(count).unwrap_or(NonZeroU64::MIN))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.instant().fmt(f)
    }
}

fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

/// A duration in whole microseconds, up to an hour, in 4 bytes. `Option<Micros>` also has 4 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Micros(NonZeroU32);

impl Micros {
    pub(crate) const ZERO: Self = Self(NonZeroU32::MIN);

    pub(crate) fn duration(self) -> Duration {
        Duration::from_micros(self.count())
    }

    /// The number of microseconds. Arithmetic on it costs a fraction of that on [`Duration`].
    pub(crate) fn count(self) -> u64 {
        u64::from(self.0.get() - 1)
    }
}

impl From<Duration> for Micros {
    fn from(duration: Duration) -> Self {
        Self(NonZeroU32::MIN.saturating_add(u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)))
    }
}

impl Default for Micros {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.duration().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_the_instant_it_was_made_of_before_and_after_the_anchor() {
        let now = Instant::now();
        let _ = Timestamp::from(now);
        for seconds in [0, 1, 3_600, 1_000_000] {
            let (later, earlier) = (now + Duration::new(seconds, 7), now - Duration::new(seconds.min(60), 7));
            assert_eq!(Timestamp::from(later).instant(), later);
            assert_eq!(Timestamp::from(earlier).instant(), earlier);
            assert!(Timestamp::from(earlier) < Timestamp::from(now) && Timestamp::from(now) < Timestamp::from(later));
        }
    }

    #[test]
    fn micros_keep_microseconds_and_never_wrap() {
        let span = |duration| Micros::from(duration).duration();
        assert_eq!(span(Duration::ZERO), Duration::ZERO);
        assert_eq!(span(Duration::from_nanos(50_123_999)), Duration::from_micros(50_123));
        assert!(span(Duration::from_secs(1 << 40)) > Duration::from_secs(4_000));
    }

    #[test]
    fn an_option_takes_no_more() {
        assert_eq!((size_of::<Option<Timestamp>>(), size_of::<Option<Micros>>()), (8, 4));
    }
}
