//! The acknowledgements that one channel owes its peer.

use std::{collections::VecDeque, time::Duration};

use crate::timestamp::Timestamp;

/// Repeated acknowledgements ahead of a gap that are stored. More of them carry no new information.
const MAX_REPEATS: usize = 64;

/// Acknowledgements ahead of a gap that are stored for a second transmission.
const MAX_SECONDS: usize = 64;

/// A peer that sends so many old packets may ignore what it is told.
const IGNORED: u8 = 3;

/// When acknowledgements are sent without data.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AckPolicy {
    /// This many packets are acknowledged at once.
    pub(crate) packets: u32,
    /// The longest wait of the first unacknowledged packet.
    pub(crate) delay: Duration,
}

/// One acknowledgement to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// Everything up to and including this sequence has arrived.
    All(u64),
    /// Exactly this one has arrived, ahead of a gap.
    One(u64),
}

/// The acknowledgements that are owed. Every accepted or old packet is recorded here. An old packet must be
/// acknowledged again: a peer that lost the acknowledgement would resend it forever.
#[derive(Debug, Default)]
pub(crate) struct AckQueue {
    /// Something below the expected sequence has arrived since the last `Ack::All`.
    all: bool,
    due: bool,
    /// Packets in order since the last acknowledgement.
    waiting: u32,
    /// When to send without data. `None`: nothing is owed, or it is due now.
    deadline: Option<Timestamp>,
    /// Allocated at the first gap.
    ahead: Option<Box<Ahead>>,
}

/// Acknowledgements while there is a gap.
#[derive(Debug, Default)]
struct Ahead {
    /// Packets ahead of a gap, in order of arrival. Those below the expected sequence are skipped when sending.
    ones: VecDeque<u64>,
    /// Sequences from `ones` that were sent once, with their datagram. They are sent a second time: if the only one is
    /// lost, the peer resends a packet that has arrived.
    seconds: VecDeque<(u64, u64)>,
    /// Old packets that are acknowledged up to: see [`AckQueue::old`].
    old: VecDeque<u64>,
    /// Old packets since the expected sequence has advanced.
    repeats: u8,
}

impl Ahead {
    /// The next packet to acknowledge for the first time.
    fn take_one(&mut self, expected: u64, datagram: u64) -> Option<u64> {
        let next = std::iter::from_fn(|| self.ones.pop_front()).find(|&sequence| sequence >= expected)?;
        if self.seconds.len() < MAX_SECONDS {
            self.seconds.push_back((next, datagram));
        }
        Some(next)
    }
}

impl AckQueue {
    /// A packet arrived in order, without a gap.
    pub(crate) fn in_order(&mut self, now: Timestamp, policy: AckPolicy) {
        self.all = true;
        self.wait(now, policy);
    }

    /// An old packet arrived again: the peer lost its acknowledgement.
    ///
    /// If several come and the expected sequence does not advance, the peer may ignore acknowledgements: those of what it has
    /// not sent, where a guess has taken the places of its packets. Then those up to each of them are acknowledged as well.
    pub(crate) fn old(&mut self, now: Timestamp, sequence: Option<u64>, policy: AckPolicy) {
        if let Some(sequence) = sequence {
            let ahead = self.ahead.get_or_insert_default();
            ahead.repeats = ahead.repeats.saturating_add(1);
            if ahead.repeats >= IGNORED && ahead.old.len() < MAX_REPEATS && !ahead.old.contains(&sequence) {
                ahead.old.push_back(sequence);
            }
        }
        self.in_order(now, policy);
    }

    /// The expected sequence has advanced.
    pub(crate) fn advanced(&mut self) {
        if let Some(ahead) = &mut self.ahead {
            ahead.repeats = 0;
        }
    }

    fn wait(&mut self, now: Timestamp, policy: AckPolicy) {
        self.waiting += 1;
        if self.waiting >= policy.packets {
            self.due = true;
        } else if self.deadline.is_none() {
            self.deadline = Some(now + policy.delay);
        }
    }

    /// The expected sequence advanced because a gap was filled or the application read. Acknowledged at once.
    pub(crate) fn passed(&mut self) {
        self.all = true;
        self.due = true;
    }

    /// A packet arrived ahead of a gap. Acknowledged at once: the peer's fast resend depends on it.
    pub(crate) fn ahead(&mut self, sequence: u64) {
        self.ahead.get_or_insert_default().ones.push_back(sequence);
        self.due = true;
    }

    /// A packet ahead of a gap arrived again. Not acknowledged at once: some peers answer each such acknowledgement by
    /// resending everything before it.
    pub(crate) fn ahead_again(&mut self, now: Timestamp, sequence: u64, policy: AckPolicy) {
        let ones = &mut self.ahead.get_or_insert_default().ones;
        if ones.len() < MAX_REPEATS && !ones.contains(&sequence) {
            ones.push_back(sequence);
            self.wait(now, policy);
        }
    }

    /// A packet arrived beyond the window while the application does not read. The last acknowledgement is repeated.
    pub(crate) fn held_back(&mut self, now: Timestamp, expected: u64, policy: AckPolicy) {
        if expected > 0 { self.in_order(now, policy) } else { self.ahead_again(now, expected, policy) }
    }

    /// Removes the next acknowledgement for this datagram. First those of old packets, then at most one that covers
    /// everything below the expected sequence.
    pub(crate) fn take(&mut self, expected: u64, datagram: u64) -> Option<Ack> {
        let old = self.ahead.as_mut().and_then(|ahead| ahead.old.pop_front());
        let ack = if old.is_some() {
            old.map(Ack::All)
        } else if std::mem::take(&mut self.all) && expected > 0 {
            Some(Ack::All(expected - 1))
        } else {
            self.ahead.as_mut().and_then(|ahead| ahead.take_one(expected, datagram)).map(Ack::One)
        };
        if self.is_empty() {
            (self.waiting, self.deadline, self.due) = (0, None, false);
        }
        ack
    }

    /// Removes the next acknowledgement that was sent once, in an earlier datagram.
    pub(crate) fn take_second(&mut self, expected: u64, datagram: u64) -> Option<Ack> {
        let seconds = &mut self.ahead.as_mut()?.seconds;
        while let Some(&(sequence, first)) = seconds.front()
            && first < datagram
        {
            seconds.pop_front();
            if sequence >= expected {
                return Some(Ack::One(sequence));
            }
        }
        if seconds.is_empty() && seconds.capacity() > 0 {
            *seconds = VecDeque::new();
        }
        None
    }

    /// Whether anything is owed, due or not.
    pub(crate) fn is_empty(&self) -> bool {
        !self.all && self.others() == 0
    }

    /// How many acknowledgements are owed, at most.
    pub(crate) fn len(&self) -> usize {
        usize::from(self.all) + self.others()
    }

    /// How many packets are to be acknowledged by themselves.
    fn others(&self) -> usize {
        self.ahead.as_ref().map_or(0, |ahead| ahead.ones.len() + ahead.old.len())
    }

    /// Whether acknowledgements must be sent now, even without data.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        !self.is_empty() && (self.due || self.deadline.is_some_and(|deadline| deadline <= now))
    }

    pub(crate) fn memory(&self) -> usize {
        let Some(ahead) = &self.ahead else { return 0 };
        size_of::<Ahead>()
            + (ahead.ones.capacity() + ahead.old.capacity()) * size_of::<u64>()
            + ahead.seconds.capacity() * size_of::<(u64, u64)>()
    }

    /// The most memory in use, if acknowledgements are sent once per window.
    pub(crate) const fn memory_ceiling(window: usize) -> usize {
        let lists = 2 * (window + 2 * MAX_REPEATS) * size_of::<u64>() + 2 * MAX_SECONDS * size_of::<(u64, u64)>();
        size_of::<Ahead>() + lists
    }

    /// When waiting acknowledgements become due. `None` if none wait, or if they are due already.
    pub(crate) fn deadline(&self) -> Option<Timestamp> {
        if self.due { None } else { self.deadline }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: AckPolicy = AckPolicy { packets: 3, delay: Duration::from_millis(2) };

    #[test]
    fn packets_in_order_are_acknowledged_together_after_the_delay() {
        let now = Timestamp::now();
        let mut acks = AckQueue::default();
        acks.in_order(now, POLICY);
        acks.in_order(now + Duration::from_millis(1), POLICY);
        assert!(!acks.is_due(now + Duration::from_millis(1)));
        assert_eq!(acks.deadline(), Some(now + POLICY.delay));
        assert!(acks.is_due(now + POLICY.delay));
        assert_eq!(acks.take(2, 0), Some(Ack::All(1)));
        assert_eq!(acks.take(2, 0), None);
        assert!(acks.is_empty());
    }

    #[test]
    fn enough_packets_do_not_wait() {
        let now = Timestamp::now();
        let mut acks = AckQueue::default();
        for _ in 0..POLICY.packets {
            assert!(!acks.is_due(now));
            acks.in_order(now, POLICY);
        }
        assert!(acks.is_due(now));
    }

    #[test]
    fn a_packet_ahead_of_a_gap_is_told_at_once_and_exactly() {
        let mut acks = AckQueue::default();
        acks.ahead(7);
        assert!(acks.is_due(Timestamp::now()));
        assert_eq!(acks.take(5, 0), Some(Ack::One(7)));
    }

    #[test]
    fn an_acknowledgement_ahead_of_a_gap_is_sent_twice_in_two_datagrams() {
        let mut acks = AckQueue::default();
        acks.ahead(7);
        assert_eq!(acks.take(5, 3), Some(Ack::One(7)));
        assert_eq!(acks.take_second(5, 3), None);
        assert!(acks.is_empty());
        assert_eq!(acks.take_second(5, 4), Some(Ack::One(7)));
        assert_eq!(acks.take_second(5, 5), None);
    }

    #[test]
    fn a_filled_gap_makes_single_acknowledgements_superfluous() {
        let mut acks = AckQueue::default();
        acks.ahead(7);
        acks.passed();
        assert_eq!(acks.take(8, 0), Some(Ack::All(7)));
        assert_eq!(acks.take(8, 0), None);
    }

    #[test]
    fn nothing_is_acknowledged_before_the_first_packet() {
        let mut acks = AckQueue::default();
        acks.passed();
        assert_eq!(acks.take(0, 0), None);
    }

    #[test]
    fn old_packets_are_named_only_while_several_come_and_nothing_new() {
        let (now, mut acks) = (Timestamp::now(), AckQueue::default());
        for _ in 0..2 {
            for repeats in 1..=4 {
                acks.old(now, Some(3), POLICY);
                let named = std::iter::from_fn(|| acks.take(8, 0)).filter(|ack| *ack == Ack::All(3)).count();
                assert_eq!(named, usize::from(repeats >= IGNORED), "{repeats}");
            }
            acks.advanced();
        }
    }

    #[test]
    fn a_storm_of_repeats_is_bounded() {
        let mut acks = AckQueue::default();
        for sequence in 0..10_000 {
            acks.old(Timestamp::now(), Some(sequence % 1_000), POLICY);
        }
        assert!(acks.len() <= MAX_REPEATS + 1);
        let mut acks = AckQueue::default();
        for sequence in 0..10_000 {
            acks.ahead_again(Timestamp::now(), sequence % 1_000 + 1, POLICY);
        }
        assert!(acks.len() <= MAX_REPEATS);
    }
}
