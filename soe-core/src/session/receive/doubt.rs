//! What is believed while somebody guesses checksums (section 10 of `docs/protocol.md`).
//!
//! Each wrong CRC may be a guess, and a valid one behind it a guess that hit. The peer's own datagrams come in between and
//! must go on as ever. So only what a single datagram would decide for good has to be said more than once: the next packet on
//! a quiet channel whose sequence is no secret, the window that the peer holds, and a jump of an ordered stream. A peer repeats
//! itself within a second or so; a stranger has to hit again.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::{
    channel::recv::Kind,
    message::ReliableChannel,
    session::{Session, life::PROOF},
    timestamp::Timestamp,
};

/// So many repetitions are enough where guesses would have hit this often meanwhile, on average. By chance alone each comes
/// about once in sixty times.
const ENOUGH: [(u32, f64); 4] = [(1, 1.0 / 64.0), (2, 3.0 / 16.0), (3, 1.0 / 2.0), (4, 1.0)];
/// An ordered stream jumps if a stamp is ahead by more. The messages of some seconds may be lost on the way.
pub(super) const STEP: u16 = 256;
/// A stranger can foresee where a channel is that has carried fewer packets.
const FORESEEABLE: u64 = 1_024;

/// Something that was said under a CRC that somebody may have guessed.
#[derive(Clone, Copy, Debug)]
struct Claim {
    what: u64,
    repetitions: u32,
    /// Wrong CRCs of the session when it was said first.
    rejects: u64,
}

impl Claim {
    fn is_enough(&self, rejects: u64, crc_length: usize) -> bool {
        let hits = self.expected_hits(rejects, crc_length);
        ENOUGH.iter().any(|&(repetitions, most)| self.repetitions >= repetitions && hits <= most)
    }

    /// So many guesses would have hit since.
    fn expected_hits(&self, rejects: u64, crc_length: usize) -> f64 {
        (rejects - self.rejects) as f64 / 256_f64.powi(crc_length as i32)
    }

    /// Whether too many guesses have been made for anything that began then.
    fn is_worthless(&self, rejects: u64, crc_length: usize) -> bool {
        self.expected_hits(rejects, crc_length) > ENOUGH[ENOUGH.len() - 1].1
    }
}

/// What has been claimed and is not believed yet.
#[derive(Debug, Default)]
pub(in crate::session) struct Claims {
    channels: [Option<Claim>; ReliableChannel::COUNT],
    streams: [Option<Claim>; 2],
    window: Option<Claim>,
}

/// What a claim is about.
#[derive(Clone, Copy, Debug)]
pub(in crate::session) enum Subject {
    /// The next packet on a channel.
    Channel(ReliableChannel),
    /// The stamp of an ordered stream.
    Stream(usize),
    /// The peer's receive window.
    Window,
}

impl Session {
    /// A wrong CRC has come: what is valid from here on may have been guessed, until the CRCs of [`PROOF`] bytes in a row
    /// were right.
    pub(super) fn doubt(&mut self) {
        self.proof_wanted = PROOF.div_ceil(self.framing.crc_length().max(1)) as u8;
    }

    /// A valid CRC has come.
    pub(super) fn prove(&mut self) {
        self.proof_wanted = self.proof_wanted.saturating_sub(1);
    }

    /// Whether the datagram in hand may be a guess that hit.
    pub(in crate::session) fn is_in_doubt(&self) -> bool {
        self.proof_wanted > 0
    }

    /// Whether this is believed: beyond doubt, or said often enough.
    pub(in crate::session) fn believes(&mut self, subject: Subject, what: u64) -> bool {
        self.weigh(subject, what, |said| said == what)
    }

    /// The same for something that moves on from one time to the next: `follows` tells whether it goes with what was said
    /// before.
    pub(super) fn weigh(&mut self, subject: Subject, what: u64, follows: impl Fn(u64) -> bool) -> bool {
        if !self.is_in_doubt() {
            return true;
        }
        let (rejects, crc_length) = (self.stats.cold().crc_rejects, self.framing.crc_length());
        let claims = self.cold().claims.get_or_insert_default();
        let place = match subject {
            Subject::Channel(channel) => &mut claims.channels[channel.index()],
            Subject::Stream(index) => &mut claims.streams[index],
            Subject::Window => &mut claims.window,
        };
        let said = place.filter(|claim| follows(claim.what) && !claim.is_worthless(rejects, crc_length));
        let claim = match said {
            Some(claim) => Claim { what, repetitions: claim.repetitions + 1, ..claim },
            None => Claim { what, repetitions: 0, rejects },
        };
        let is_enough = claim.is_enough(rejects, crc_length);
        *place = (!is_enough).then_some(claim);
        is_enough
    }

    /// Whether a packet that is in doubt has to come again before it is taken, because its sequence is no secret: on a channel that has carried
    /// little and nothing of late. The peer's own packet would be taken for one that had come before.
    ///
    /// The first packet of a session never has to: a login must not wait.
    pub(super) fn must_come_again(
        &mut self,
        now: Timestamp,
        channel: ReliableChannel,
        packet: (u16, Kind, &[u8]),
    ) -> bool {
        let expected = self.next_to_arrive(channel);
        if expected >= FORESEEABLE || self.has_arrived_lately(now, channel) {
            return false;
        }
        let (sequence, kind, body) = packet;
        let is_first = ReliableChannel::ALL.into_iter().all(|channel| self.next_to_arrive(channel) == 0);
        match sequence.wrapping_sub(expected as u16) as i16 {
            0 if !is_first => {
                let mut hasher = DefaultHasher::new();
                (sequence, kind == Kind::Data, body).hash(&mut hasher);
                !self.believes(Subject::Channel(channel), hasher.finish())
            }
            // Behind it comes what can wait for it. What had come before is acknowledged again.
            ahead => ahead > 0 && !is_first,
        }
    }

    fn has_arrived_lately(&mut self, now: Timestamp, channel: ReliableChannel) -> bool {
        self.channels[channel.index()].as_mut().is_some_and(|reliable| reliable.receiver.has_arrived_lately(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The chance that at least so many of the guesses hit, where this many do on average.
    fn chance(at_least: u32, average: f64) -> f64 {
        let exactly = |hits: u32| (1..=hits).fold((-average).exp(), |chance, hit| chance * average / f64::from(hit));
        1.0 - (0..at_least).map(exactly).sum::<f64>()
    }

    #[test]
    fn what_is_enough_comes_by_chance_once_in_fifty_times_at_most() {
        for (repetitions, most) in ENOUGH {
            let chance = chance(repetitions, most);
            assert!((0.01..0.02).contains(&chance), "{repetitions} within {most}: {chance}");
        }
    }

    #[test]
    fn repetitions_count_for_less_the_more_guesses_were_made() {
        let claim = |repetitions| Claim { what: 7, repetitions, rejects: 1_000 };
        let needed = |guesses: u64| (1..10).find(|&times| claim(times).is_enough(1_000 + guesses, 2));
        assert_eq!([1, 1_024, 1_025, 12_288, 32_768, 65_536].map(needed), [1, 1, 2, 2, 3, 4].map(Some));
        assert_eq!(needed(65_537), None);
        assert!(claim(9).is_worthless(66_537, 2) && !claim(9).is_worthless(66_536, 2));
    }
}
