//! Whether a session still has its address, when other datagrams come from there.

use std::time::{Duration, Instant};

/// What to do about a datagram from a session's address that is not the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing: the session was heard recently, or has just been probed.
    Nothing,
    /// Probe the session's peer.
    Ask,
    /// The peer was probed and is silent: send UnknownSender. The sender may be a client that was given this port by a
    /// router, and claims its session when it learns this.
    Tell,
}

/// A session that was heard within this time still has its address.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// How long a probed peer has to answer: a satellite round trip and one repetition.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The least time between two UnknownSender to the address of a session.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// The unit of the stored time.
const TICK: Duration = Duration::from_millis(100);
/// Set if UnknownSender was sent, clear if the session was only probed.
const TOLD: u32 = 1 << 31;

impl Suspicion {
    /// Decides for a session that was last heard at `heard`. `watch` is the state between calls, 0 at first.
    ///
    /// The peer is probed before UnknownSender is sent: datagrams with a live player's address can be forged, and some
    /// clients leave on the first UnknownSender.
    pub(super) fn of(epoch: Instant, now: Instant, heard: Instant, watch: &mut u32) -> Self {
        let silent = now.saturating_duration_since(heard);
        if silent < HEARD_LATELY {
            *watch = 0;
            return Self::Nothing;
        }
        let tick = |at: Instant| (at.saturating_duration_since(epoch).as_millis() / TICK.as_millis()) as u32 & !TOLD;
        let (since, told) = (*watch & !TOLD, *watch & TOLD != 0);
        let present = tick(now).max(1);
        if *watch == 0 || since < tick(heard) {
            *watch = present;
            return Self::Ask;
        }
        let interval = if told { TELL_INTERVAL } else { ANSWER_TIME };
        if TICK * present.saturating_sub(since) < interval {
            return Self::Nothing;
        }
        *watch = present | TOLD;
        Self::Tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_session_is_asked_before_anybody_is_told_and_told_rarely() {
        let (epoch, mut watch) = (Instant::now(), 0);
        let found: Vec<_> = (0..200u32)
            .map(|n| (n * 100, Suspicion::of(epoch, epoch + n * 100 * MS, epoch, &mut watch)))
            .filter(|(_, suspicion)| *suspicion != Suspicion::Nothing)
            .collect();
        use Suspicion::{Ask, Tell};
        assert_eq!(found, [(1_000, Ask), (3_000, Tell), (8_000, Tell), (13_000, Tell), (18_000, Tell)]);
    }

    #[test]
    fn a_session_that_answers_is_not_suspected() {
        let (epoch, mut watch, mut heard) = (Instant::now(), 0, Instant::now());
        let mut asked = 0;
        for n in 0..6_000u32 {
            let now = epoch + n * 100 * MS;
            match Suspicion::of(epoch, now, heard, &mut watch) {
                Suspicion::Nothing => {}
                // The answer takes 300 ms.
                Suspicion::Ask => (asked, heard) = (asked + 1, now + 300 * MS),
                Suspicion::Tell => panic!("a player that answers was told that it is unknown"),
            }
        }
        assert!(asked > 100);
    }

    #[test]
    fn a_question_of_before_the_last_sign_of_life_counts_for_nothing() {
        let (epoch, mut watch) = (Instant::now(), 0);
        assert_eq!(Suspicion::of(epoch, epoch + 2_000 * MS, epoch, &mut watch), Suspicion::Ask);
        let heard = epoch + 2_500 * MS;
        assert_eq!(Suspicion::of(epoch, epoch + 9_000 * MS, heard, &mut watch), Suspicion::Ask);
    }
}
