//! Whether an address still is its session's: what is done about datagrams from there that are not.

use std::time::{Duration, Instant};

/// What a datagram at a session's address calls for that is neither the session's nor anybody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing: the session is heard from there, or has just been asked.
    Nothing,
    /// The session's peer is to be asked for a sign of life.
    Ask,
    /// It was asked and is silent. Whoever sends there now is told that it is unknown: it may be a client that a router has
    /// given this port, and that would claim its session if it knew.
    Tell,
}

/// A session that was heard within this time is at its address.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// How long an asked peer has for its answer: a round trip over a satellite, and one repetition.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// The least time between two UnknownSender to one address that has a session.
const TELL_INTERVAL: Duration = Duration::from_secs(5);
/// The unit of the time that is remembered.
const TICK: Duration = Duration::from_millis(100);
/// Set if the sender has been told, and not only the session asked.
const TOLD: u32 = 1 << 31;

impl Suspicion {
    /// What is to be done at `now` about a session that was heard last at `heard`. `watch` is what is remembered of before; 0
    /// is nothing. Anybody can send in a live player's name, and some clients leave on the first UnknownSender: so the player
    /// itself is asked first, and an answer ends it.
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
