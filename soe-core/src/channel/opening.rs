//! How far the receive window is open.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// What is taken from anybody: the window that peers assume who are not told of a larger one.
pub(crate) const BASE: usize = 256;
/// What has arrived is counted over one to two of these: a round trip of a long link, and the repair of a loss.
const PERIOD: Duration = Duration::from_secs(1);

/// How many packets beyond the newest one held are taken: [`BASE`] and as many as have arrived of late.
///
/// A sender that begins slowly never has more under way than it has had acknowledged within a round trip or two, and what an
/// initial window holds. So this does not limit it. It limits a stranger who guesses checksums: a sequence within 256 is met 24
/// times less often than one within 6,144.
#[derive(Debug, Default)]
pub(super) struct Opening {
    /// When counting began for `current`.
    since: Option<Timestamp>,
    current: u32,
    previous: u32,
}

impl Opening {
    /// Packets beyond the newest one held that are taken now.
    pub(super) fn packets(&mut self, now: Timestamp) -> usize {
        let passed = now - *self.since.get_or_insert(now);
        if passed >= PERIOD {
            self.previous = if passed < 2 * PERIOD { self.current } else { 0 };
            (self.since, self.current) = (Some(now), 0);
        }
        BASE + self.current.saturating_add(self.previous) as usize
    }

    /// A packet was taken.
    pub(super) fn accepted(&mut self) {
        self.current = self.current.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_opens_with_what_arrives_and_closes_when_it_stops() {
        let (mut now, mut opening) = (Timestamp::now(), Opening::default());
        assert_eq!(opening.packets(now), BASE);
        for packet in 1..=1_000 {
            opening.accepted();
            assert_eq!(opening.packets(now), BASE + packet);
        }
        now += PERIOD;
        assert_eq!(opening.packets(now), BASE + 1_000);
        opening.accepted();
        assert_eq!(opening.packets(now), BASE + 1_001);
        now += PERIOD;
        assert_eq!(opening.packets(now), BASE + 1);
        now += 2 * PERIOD;
        assert_eq!(opening.packets(now), BASE);
    }
}
