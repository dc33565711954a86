//! The interval at which the application sends: how long an acknowledgement should wait for the next message.

use std::time::Duration;

use crate::timestamp::{Micros, Timestamp};

/// Datagrams closer together than this belong to one burst.
const BURST: Duration = Duration::from_millis(1);

/// An estimate of the time between two bursts of messages.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct SendInterval {
    last: Option<Timestamp>,
    /// The moving average of the time between bursts.
    gap: Option<Micros>,
}

impl SendInterval {
    /// Records a datagram with messages.
    pub(in crate::session) fn sent(&mut self, now: Timestamp) {
        if let Some(last) = self.last {
            let gap = now.saturating_duration_since(last);
            if gap < BURST {
                return;
            }
            self.gap = Some(self.gap.map_or(gap, |average| (average.duration() * 3 + gap) / 4).into());
        }
        self.last = Some(now);
    }

    /// How long to wait for the next datagram with messages, if one is likely within `limit`: the estimate and a
    /// quarter.
    pub(in crate::session) fn wait(&self, now: Timestamp, limit: Duration) -> Option<Duration> {
        let (last, gap) = (self.last?, self.gap?.duration());
        let expected = (last + gap + gap / 4).checked_duration_since(now)?;
        (gap <= limit).then(|| expected.min(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_steady_sender_is_waited_for() {
        let start = Timestamp::now();
        let mut send_interval = SendInterval::default();
        assert_eq!(send_interval.wait(start, 60 * MS), None);
        for n in 0..20 {
            send_interval.sent(start + 50 * MS * n);
            send_interval.sent(start + 50 * MS * n + MS / 2);
        }
        let last = start + 50 * MS * 19;
        let wait = send_interval.wait(last + 20 * MS, 60 * MS).unwrap();
        assert!((30 * MS..=45 * MS).contains(&wait), "{wait:?}");
    }

    #[test]
    fn one_that_has_stopped_or_seldom_sends_is_not() {
        let start = Timestamp::now();
        let mut send_interval = SendInterval::default();
        for n in 0..20 {
            send_interval.sent(start + 50 * MS * n);
        }
        assert_eq!(send_interval.wait(start + 50 * MS * 19 + 70 * MS, 60 * MS), None);
        assert_eq!(send_interval.wait(start + 50 * MS * 19, 40 * MS), None);
    }
}
