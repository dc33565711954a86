//! Whether to poll the socket for the next datagram before going to sleep.

use std::time::{Duration, Instant};

use crate::config::{BusyPoll, FOREVER};

/// Decides when a driver polls, from how often polls have found a datagram.
#[derive(Debug)]
pub(crate) struct BusyPoller {
    mode: BusyPoll,
    /// Until when to poll.
    until: Option<Instant>,
    /// Whether a poll since the last batch found nothing. A datagram that the first poll finds would also have been
    /// found without polling, so it does not count as a success.
    has_found_nothing: bool,
    /// Successes minus failures, see [`BusyPoller::failed`]. At zero there are only occasional trials.
    credit: u8,
    /// When the next trial may start.
    paused_until: Option<Instant>,
    /// How long to pause after a trial that fails.
    pause: Duration,
}

impl BusyPoller {
    pub(crate) fn new(mode: BusyPoll) -> Self {
        Self { mode, until: None, has_found_nothing: false, credit: 0, paused_until: None, pause: FIRST_PAUSE }
    }

    /// A batch was received, and `sessions` sessions share the socket.
    pub(crate) fn received(&mut self, now: Instant, sessions: usize) {
        if self.until.take().is_some() && self.has_found_nothing {
            self.credit = (self.credit + 1).min(MAX_CREDIT);
            if self.credit == MAX_CREDIT {
                self.pause = FIRST_PAUSE;
            }
        }
        let time = match self.mode {
            BusyPoll::Never => return,
            BusyPoll::For(time) => time.min(FOREVER),
            BusyPoll::WhileItPays if sessions > FEW_SESSIONS => return,
            BusyPoll::WhileItPays if self.credit > 0 => POLL_TIME,
            BusyPoll::WhileItPays if self.paused_until.is_none_or(|until| now >= until) => {
                // One failed poll brings a trial's credit back to zero.
                self.credit = TRIAL;
                POLL_TIME
            }
            BusyPoll::WhileItPays => return,
        };
        self.until = Some(now + time);
        self.has_found_nothing = false;
    }

    /// Whether polling is on at all. Asked first, because reading the clock costs 26 ns.
    pub(crate) fn is_polling(&self) -> bool {
        self.until.is_some()
    }

    /// Whether to poll once more.
    pub(crate) fn should_poll(&mut self, now: Instant) -> bool {
        let should_poll = self.until.is_some_and(|until| now < until);
        if !should_poll && self.until.take().is_some() && self.has_found_nothing {
            self.failed(now);
        }
        should_poll
    }

    /// A poll has found nothing.
    pub(crate) fn found_nothing(&mut self) {
        self.has_found_nothing = true;
    }

    /// A failure counts as much as four successes, so polling goes on only while at least 80 % of the polls succeed.
    fn failed(&mut self, now: Instant) {
        self.credit = self.credit.saturating_sub(FAILURE);
        if self.credit == 0 {
            self.paused_until = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// How long to poll in the mode `WhileItPays`: a little longer than a peer needs to wake a thread and answer.
const POLL_TIME: Duration = Duration::from_micros(100);
/// With more sessions than this the socket is either nearly always readable or idle for longer than [`POLL_TIME`].
const FEW_SESSIONS: usize = 8;
/// The credit that one failed poll costs.
const FAILURE: u8 = 4;
/// The credit of a trial: its first failed poll ends it.
const TRIAL: u8 = FAILURE;
/// The highest credit: after long success a few failed polls change nothing.
const MAX_CREDIT: u8 = 16;
/// The first and the longest pause after a trial that fails. A trial costs 0.1 ms.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// Simulates a batch every `gap`. Returns how many of them a poll found, and the time spent polling.
    fn watch(
        busy_poller: &mut BusyPoller,
        start: Instant,
        gap: Duration,
        batches: u32,
        sessions: usize,
    ) -> (u32, Duration) {
        let (mut found, mut looked) = (0, Duration::ZERO);
        for batch in 0..batches {
            let come = start + gap * batch;
            busy_poller.received(come, sessions);
            let mut now = come;
            while now < come + gap && busy_poller.should_poll(now) {
                busy_poller.found_nothing();
                now += US;
                looked += US;
            }
            found += u32::from(busy_poller.is_polling());
        }
        (found, looked)
    }

    #[test]
    fn polling_continues_while_datagrams_arrive_soon() {
        let mut busy_poller = BusyPoller::new(BusyPoll::WhileItPays);
        let (found, _) = watch(&mut busy_poller, Instant::now(), 20 * US, 1000, 1);
        assert_eq!(found, 1000);
    }

    #[test]
    fn a_socket_whose_datagrams_arrive_late_sleeps_except_for_occasional_trials() {
        let mut busy_poller = BusyPoller::new(BusyPoll::WhileItPays);
        let (found, looked) = watch(&mut busy_poller, Instant::now(), 200 * US, 50_000, 1);
        assert_eq!(found, 0);
        assert!((POLL_TIME..10 * Duration::from_millis(1)).contains(&looked), "{looked:?} of ten seconds");
    }

    #[test]
    fn a_few_late_datagrams_among_many_change_nothing_and_a_lasting_change_is_noticed() {
        let (mut busy_poller, start) = (BusyPoller::new(BusyPoll::WhileItPays), Instant::now());
        watch(&mut busy_poller, start, 20 * US, 100, 1);
        assert_eq!(watch(&mut busy_poller, start + 5_000 * US, 500 * US, 1, 1).0, 0);
        assert_eq!(watch(&mut busy_poller, start + 6_000 * US, 20 * US, 100, 1).0, 100);
        watch(&mut busy_poller, start + 10_000 * US, 500 * US, 1000, 1);
        let (found, _) = watch(&mut busy_poller, start + Duration::from_secs(2), 20 * US, 100, 1);
        assert_eq!(found, 100);
    }

    #[test]
    fn a_socket_of_many_sessions_sleeps() {
        let mut busy_poller = BusyPoller::new(BusyPoll::WhileItPays);
        assert_eq!(watch(&mut busy_poller, Instant::now(), 20 * US, 100, 100), (0, Duration::ZERO));
    }

    #[test]
    fn polling_can_be_configured_for_ever() {
        let (mut busy_poller, now) = (BusyPoller::new(BusyPoll::For(Duration::MAX)), Instant::now());
        busy_poller.received(now, 1);
        assert!(busy_poller.should_poll(now + Duration::from_secs(365 * 24 * 3600)));
    }

    #[test]
    fn polling_can_be_configured_always_or_never() {
        let now = Instant::now();
        let always = &mut BusyPoller::new(BusyPoll::For(300 * US));
        assert_eq!(watch(always, now, 1000 * US, 10, 100), (0, 3000 * US));
        assert_eq!(watch(&mut BusyPoller::new(BusyPoll::Never), now, 20 * US, 10, 1), (0, Duration::ZERO));
    }
}
