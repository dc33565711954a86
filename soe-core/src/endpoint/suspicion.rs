//! Whether a session still has its address, when other datagrams come from there.

use std::time::{Duration, Instant};

/// What to do about a datagram from a session's address that is not the session's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Nothing: the session was heard recently, or has just been probed.
    Nothing,
    /// Probe the session's peer.
    Probe,
    /// The peer was probed and is silent: send UnknownSender. The sender may be a client that was given this port by a
    /// router, and claims its session when it receives this.
    UnknownSender,
}

/// A session that was heard within this time still has its address.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// How long a probed peer has to answer: a satellite round trip and one repetition.
const ANSWER_TIME: Duration = Duration::from_secs(2);
/// After this long a session that does not answer gives its address to whoever asks for it. A link may fail for some seconds.
const GONE: Duration = Duration::from_secs(10);
/// The least time between two UnknownSender to the address of a session.
const SEND_INTERVAL: Duration = Duration::from_secs(5);
/// The unit of the stored time.
const TICK: Duration = Duration::from_millis(100);
/// Set if UnknownSender was sent, clear if the session was only probed.
const SENT: u32 = 1 << 31;

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
        let tick = |at: Instant| (at.saturating_duration_since(epoch).as_millis() / TICK.as_millis()) as u32 & !SENT;
        let (since, sent) = (*watch & !SENT, *watch & SENT != 0);
        let present = tick(now).max(1);
        if *watch == 0 || since < tick(heard) {
            *watch = present;
            return Self::Probe;
        }
        let interval = if sent { SEND_INTERVAL } else { ANSWER_TIME };
        if TICK * present.saturating_sub(since) < interval {
            return Self::Nothing;
        }
        *watch = present | SENT;
        Self::UnknownSender
    }

    /// Whether the session was asked for a sign of life, has had the time to answer, and was not heard since.
    pub(super) fn is_unanswered(epoch: Instant, now: Instant, heard: Instant, watch: u32) -> bool {
        let asked = epoch + TICK * (watch & !SENT);
        let is_silent = now.saturating_duration_since(heard) >= HEARD_LATELY;
        let is_asked = watch != 0 && asked + TICK > heard;
        is_silent && is_asked && (watch & SENT != 0 || now.saturating_duration_since(asked) >= ANSWER_TIME)
    }

    /// Whether the session has been silent for long besides.
    pub(super) fn has_gone(epoch: Instant, now: Instant, heard: Instant, watch: u32) -> bool {
        now.saturating_duration_since(heard) >= GONE && Self::is_unanswered(epoch, now, heard, watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_session_is_probed_before_unknown_sender_is_sent_and_that_rarely() {
        let (epoch, mut watch) = (Instant::now(), 0);
        let found: Vec<_> = (0..200u32)
            .map(|n| (n * 100, Suspicion::of(epoch, epoch + n * 100 * MS, epoch, &mut watch)))
            .filter(|(_, suspicion)| *suspicion != Suspicion::Nothing)
            .collect();
        use Suspicion::{Probe, UnknownSender};
        assert_eq!(
            found,
            [
                (1_000, Probe),
                (3_000, UnknownSender),
                (8_000, UnknownSender),
                (13_000, UnknownSender),
                (18_000, UnknownSender)
            ]
        );
    }

    #[test]
    fn a_session_that_answers_gets_no_unknown_sender() {
        let (epoch, mut watch, mut heard) = (Instant::now(), 0, Instant::now());
        let mut asked = 0;
        for n in 0..6_000u32 {
            let now = epoch + n * 100 * MS;
            match Suspicion::of(epoch, now, heard, &mut watch) {
                Suspicion::Nothing => {}
                // The answer takes 300 ms.
                Suspicion::Probe => (asked, heard) = (asked + 1, now + 300 * MS),
                Suspicion::UnknownSender => panic!("a player that answers was sent that it is unknown"),
            }
        }
        assert!(asked > 100);
    }

    #[test]
    fn a_question_of_before_the_last_sign_of_life_counts_for_nothing() {
        let (epoch, mut watch) = (Instant::now(), 0);
        assert_eq!(Suspicion::of(epoch, epoch + 2_000 * MS, epoch, &mut watch), Suspicion::Probe);
        let heard = epoch + 2_500 * MS;
        assert_eq!(Suspicion::of(epoch, epoch + 9_000 * MS, heard, &mut watch), Suspicion::Probe);
    }
}
