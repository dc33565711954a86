//! Packets in flight: sent and not acknowledged.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

use super::{
    losses::Losses,
    packet::{Acked, Cause, Head, LossDelay, Packet, State},
    push_back,
};
use crate::timestamp::Timestamp;

/// A packet is lost once a datagram sent this much later has been acknowledged (RFC 9002, section 6.1.1).
const REORDERING: u64 = 3;
/// Stale entries that `order` may hold in addition to one for each packet.
const ORDER_SLACK: usize = 32;
/// How many packets are searched for a redundant copy, from the newest on.
const COPY_SCAN: usize = 32;

/// The acknowledgement of a resent packet may be for either transmission. If it is for the second, everything sent
/// before it is late and may be lost. If it is for the first, the timer was too short and nothing is lost, which the
/// next acknowledgements will show. Confusing the two would send a whole window twice.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The datagram that last carried the packet.
    datagram: u64,
    /// When the second transmission counts as acknowledged; set by the next loss detection.
    deadline: Option<Timestamp>,
}

/// The packets from the oldest unacknowledged to the newest sent.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// The sequence of `packets[0]`, which is never `Acked`.
    base: u64,
    packets: VecDeque<Packet>,
    /// The packets in flight in the order of sending, so that the oldest and the overtaken ones are found without a
    /// search. An entry is valid while its packet is `InFlight` and was last sent in this datagram; stale entries are
    /// skipped.
    order: VecDeque<Sent>,
    /// Bytes of the packets that are `InFlight`.
    in_flight: usize,
    /// The packets that are `Lost`.
    losses: Losses,
    /// The latest datagram known to have arrived.
    newest_acked: u64,
    /// A resent packet was acknowledged, and it is not certain which transmission arrived. See [`Doubt`].
    doubt: Option<Doubt>,
    /// When the resend timer last fired, if nothing has been acknowledged since: it restarts from there.
    probed: Option<Timestamp>,
}

/// A packet and the datagram that carried it. The numbers are truncated to 32 bits, which are unique among the packets
/// in flight.
#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u32,
    datagram: u32,
}

impl Flight {
    pub(crate) fn starting_at(base: u64) -> Self {
        Self { base, ..Self::default() }
    }

    /// The next sequence to send.
    pub(crate) fn next(&self) -> u64 {
        self.base + self.packets.len() as u64
    }

    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Packets from the oldest unacknowledged to the newest.
    pub(crate) fn span(&self) -> usize {
        self.packets.len()
    }

    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn has_lost(&self) -> bool {
        !self.losses.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Payload bytes and messages not known to have arrived. What was acknowledged behind a gap counts as well: the
    /// peer's application gets it only once the gap is filled.
    pub(crate) fn unacknowledged(&self) -> (usize, usize) {
        let open = self.packets.iter().skip_while(|packet| packet.state == State::Acked);
        open.fold((0, 0), |(bytes, messages), packet| {
            (bytes + packet.payload.len(), messages + usize::from(packet.ends))
        })
    }

    /// Whether [`detect_losses`](Self::detect_losses) has nothing to do.
    pub(crate) fn is_settled(&self) -> bool {
        self.packets.is_empty() && self.doubt.is_none()
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        self.in_flight += packet.size();
        self.note_sent(self.next(), packet.datagram);
        push_back(&mut self.packets, packet);
    }

    fn note_sent(&mut self, sequence: u64, datagram: u64) {
        // Entries that do not count any more may gather behind one that does.
        if self.order.len() >= 2 * self.packets.len() + ORDER_SLACK {
            let (base, packets) = (self.base as u32, &self.packets);
            self.order.retain(|sent| is_under_way(packets, base, *sent));
        }
        push_back(&mut self.order, Sent { sequence: sequence as u32, datagram: datagram as u32 });
    }

    /// The packet under way that was sent first, by its place, after leaving out what is not under way any more.
    fn oldest(&mut self) -> Option<usize> {
        while let Some(&sent) = self.order.front() {
            if is_under_way(&self.packets, self.base as u32, sent) {
                return Some(sent.sequence.wrapping_sub(self.base as u32) as usize);
            }
            self.order.pop_front();
        }
        None
    }

    /// Declares the packet lost that [`oldest`](Self::oldest) has found.
    fn lose_oldest(&mut self, index: usize, cause: Cause) -> usize {
        self.order.pop_front();
        let Some(packet) = self.packets.get_mut(index) else { return 0 };
        packet.state = State::Lost(cause);
        let size = packet.size();
        self.in_flight -= size;
        let (base, packets) = (self.base, &self.packets);
        self.losses.add(base + index as u64, packets.len(), |sequence| is_lost(packets, base, sequence));
        size
    }

    /// The packet that is to be sent again next, with its sequence.
    pub(crate) fn next_lost(&mut self) -> Option<(u64, &mut Packet)> {
        let (base, packets) = (self.base, &self.packets);
        let sequence = self.losses.first(|sequence| is_lost(packets, base, sequence))?;
        self.packets.get_mut((sequence - base) as usize).map(|packet| (sequence, packet))
    }

    /// The packet that `next_lost` gave has been written again.
    pub(crate) fn resent(&mut self, sequence: u64, now: Timestamp, datagram: u64) {
        let Some(packet) = self.packets.get_mut((sequence - self.base) as usize) else { return };
        packet.state = State::InFlight;
        packet.copies = 0;
        packet.transmissions = packet.transmissions.saturating_add(1);
        packet.sent = now;
        packet.datagram = datagram;
        self.in_flight += packet.size();
        self.losses.sent_again();
        self.note_sent(sequence, datagram);
    }

    /// The packet that `next_copy` gave has been written once more.
    pub(crate) fn copied(&mut self, sequence: u64, now: Timestamp, datagram: u64) {
        let Some(packet) = self.packets.get_mut((sequence - self.base) as usize) else { return };
        packet.copies += 1;
        packet.sent = now;
        packet.datagram = datagram;
        self.note_sent(sequence, datagram);
    }

    /// The newest packet of at most `largest` bytes that may be copied into this datagram: one that was sent in an
    /// earlier datagram and copied fewer than `copies` times.
    pub(crate) fn next_copy(&mut self, datagram: u64, largest: usize, copies: u8) -> Option<(u64, &mut Packet)> {
        let index = self.packets.iter().enumerate().rev().take(COPY_SCAN).find(|(_, packet)| {
            packet.state == State::InFlight
                && packet.copies < copies
                && packet.datagram < datagram
                && packet.size() <= largest
        })?;
        let index = index.0;
        self.packets.get_mut(index).map(|packet| (self.base + index as u64, packet))
    }

    /// Everything up to and including `sequence` has arrived.
    pub(crate) fn acknowledge_all(&mut self, now: Timestamp, sequence: u64, soonest: Option<Duration>) -> Acked {
        let mut acked = Acked::default();
        while self.base <= sequence && !self.packets.is_empty() {
            self.mark_acked(0, now, soonest, &mut acked);
            self.packets.pop_front();
            self.base += 1;
        }
        self.trim();
        acked
    }

    /// Exactly this one has arrived.
    pub(crate) fn acknowledge(&mut self, now: Timestamp, sequence: u64, soonest: Option<Duration>) -> Acked {
        let mut acked = Acked::default();
        if let Some(index) = sequence.checked_sub(self.base) {
            self.mark_acked(index as usize, now, soonest, &mut acked);
            self.trim();
        }
        acked
    }

    fn mark_acked(&mut self, index: usize, now: Timestamp, soonest: Option<Duration>, acked: &mut Acked) {
        let Some(packet) = self.packets.get_mut(index) else { return };
        let age = now.saturating_duration_since(packet.sent);
        let was_lost = packet.is_lost();
        match std::mem::replace(&mut packet.state, State::Acked) {
            State::Acked => return,
            State::InFlight => self.in_flight -= packet.size(),
            State::Lost(_) => self.losses.acknowledged(),
        }
        // Any acknowledgement shows that the path works: the resend timer restarts from the oldest packet.
        self.probed = None;
        acked.packets += 1;
        acked.bytes += packet.size();
        acked.largest = acked.largest.max(packet.size());
        // The acknowledgement of a packet sent once is for its first transmission, and so is one that arrives earlier
        // after a resend than the link allows. Otherwise it may be for either, and is no sample (Karn's rule).
        let first_age = now.saturating_duration_since(packet.first_sent);
        let is_first = if packet.transmissions == 1 {
            let (newest, oldest) = acked.ages.unwrap_or((first_age, first_age));
            acked.ages = Some((newest.min(first_age), oldest.max(first_age)));
            true
        } else if soonest.is_none_or(|soonest| age < soonest) {
            // Without a sample of the link (`None`) the timer is a guess, and was more likely too short than right.
            acked.late = Some(first_age);
            true
        } else {
            let datagram = self.doubt.map_or(packet.datagram, |doubt| doubt.datagram.max(packet.datagram));
            let deadline = self.doubt.and_then(|doubt| doubt.deadline);
            self.doubt = Some(Doubt { datagram, deadline });
            acked.repaired += 1;
            false
        };
        if is_first && packet.first_datagram < self.newest_acked {
            acked.overtaken = acked.overtaken.max(Some(first_age));
            acked.found += if was_lost || packet.transmissions > 1 { packet.size() } else { 0 };
        }
        self.newest_acked = self.newest_acked.max(packet.first_datagram);
        if packet.transmissions == 1 && self.doubt.is_some_and(|doubt| packet.datagram < doubt.datagram) {
            self.doubt = None;
        }
        // Freed now: the entry stays until everything before it is acknowledged.
        packet.payload = Bytes::new();
    }

    fn trim(&mut self) {
        while self.packets.front().is_some_and(|packet| packet.state == State::Acked) {
            self.packets.pop_front();
            self.base += 1;
        }
    }

    /// Declares overtaken packets lost, by count or by time. Calls `lost` with the bytes of each, and returns when the
    /// next packet will cross the threshold.
    pub(crate) fn detect_losses(
        &mut self,
        now: Timestamp,
        loss_delay: LossDelay,
        mut lost: impl FnMut(usize),
    ) -> Option<Timestamp> {
        let next = self.resolve_doubt(now, loss_delay.by_time);
        while let Some(index) = self.oldest() {
            let packet = &self.packets[index];
            if packet.datagram >= self.newest_acked {
                break;
            }
            let is_counted_out = packet.datagram + REORDERING <= self.newest_acked;
            let deadline = packet.sent + if is_counted_out { loss_delay.by_count } else { loss_delay.by_time };
            if deadline > now {
                // The packets after it were sent later, so their deadlines are no earlier.
                return Some(next.map_or(deadline, |next| next.min(deadline)));
            }
            lost(self.lose_oldest(index, Cause::Overtaken));
        }
        next
    }

    /// Decides for the second transmission if until the deadline nothing has shown that the first one arrived. Returns
    /// the deadline while it is open.
    fn resolve_doubt(&mut self, now: Timestamp, loss_delay: Duration) -> Option<Timestamp> {
        let doubt = self.doubt.as_mut()?;
        let deadline = *doubt.deadline.get_or_insert(now + loss_delay / 8);
        if now < deadline {
            return Some(deadline);
        }
        self.newest_acked = self.newest_acked.max(doubt.datagram);
        self.doubt = None;
        None
    }

    /// The start of the resend timer: when the oldest packet under way was sent, or when the timer last fired.
    pub(crate) fn timer_start(&mut self) -> Option<Timestamp> {
        let index = self.oldest()?;
        Some(self.packets[index].sent).max(self.probed)
    }

    /// The size of the oldest packet not known to have arrived.
    pub(crate) fn oldest_size(&self) -> Option<usize> {
        self.packets.front().map(Packet::size)
    }

    /// When the oldest packet not known to have arrived was first sent.
    pub(crate) fn oldest_first_sent(&self) -> Option<Timestamp> {
        self.packets.front().map(|packet| packet.first_sent)
    }

    pub(crate) fn newest_acked(&self) -> u64 {
        self.newest_acked
    }

    /// The resend timer may have fired: declares up to `most` of the oldest packets lost, if it started at `deadline`
    /// or before. Calls `lost` with the bytes of each and the datagram that last carried it, and returns how many.
    pub(crate) fn time_out(
        &mut self,
        now: Timestamp,
        deadline: Timestamp,
        most: usize,
        mut lost: impl FnMut(usize, u64),
    ) -> usize {
        if self.timer_start().is_none_or(|start| start > deadline) {
            return 0;
        }
        self.probed = Some(now);
        let mut count = 0;
        while count < most
            && let Some(index) = self.oldest()
            && self.packets[index].sent <= deadline
        {
            let datagram = self.packets[index].datagram;
            lost(self.lose_oldest(index, Cause::Timeout), datagram);
            count += 1;
        }
        count
    }

    /// The peer has dropped what was sent until `deadline`: declares up to `most` of the oldest packets lost. Returns
    /// how many.
    pub(crate) fn dropped(&mut self, deadline: Timestamp, most: usize) -> usize {
        let mut dropped = 0;
        while dropped < most
            && let Some(index) = self.oldest()
            && self.packets[index].sent <= deadline
        {
            self.lose_oldest(index, Cause::Timeout);
            dropped += 1;
        }
        dropped
    }

    /// Memory held, without fragments: they are slices of messages, which are counted elsewhere.
    pub(crate) fn memory(&self) -> usize {
        let data = self.packets.iter().filter(|packet| packet.head == Head::Data);
        let lists = self.packets.capacity() * size_of::<Packet>()
            + self.order.capacity() * size_of::<Sent>()
            + self.losses.memory();
        data.map(|packet| packet.payload.len()).sum::<usize>() + lists
    }

    /// The most memory that this takes.
    pub(crate) const fn memory_ceiling(window: usize, packet: usize) -> usize {
        // A list that has just grown is half empty. Stale entries stay until those before them are removed; there are
        // at most as many as valid ones, see `note_sent`.
        window * packet
            + 2 * window * size_of::<Packet>()
            + Losses::memory_ceiling(window)
            + 2 * (2 * window + ORDER_SLACK) * size_of::<Sent>()
    }
}

/// Whether an entry of `order` is valid; `base` is the sequence of the first packet.
fn is_under_way(packets: &VecDeque<Packet>, base: u32, sent: Sent) -> bool {
    let packet = packets.get(sent.sequence.wrapping_sub(base) as usize);
    packet.is_some_and(|packet| packet.is_in_flight() && packet.datagram as u32 == sent.datagram)
}

/// Whether the packet with this sequence is to be sent again; `base` is the sequence of the first packet.
fn is_lost(packets: &VecDeque<Packet>, base: u64, sequence: u64) -> bool {
    let index = sequence.checked_sub(base).map(|index| index as usize);
    index.and_then(|index| packets.get(index)).is_some_and(Packet::is_lost)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn packet(now: Timestamp, datagram: u64) -> Packet {
        Packet {
            head: Head::Data,
            payload: Bytes::from_static(b"payload"),
            state: State::InFlight,
            ends: 1,
            transmissions: 1,
            copies: 0,
            first_sent: now,
            sent: now,
            first_datagram: datagram,
            datagram,
        }
    }

    #[test]
    fn the_resend_timer_sees_a_packet_behind_any_number_of_lost_ones() {
        let now = Timestamp::now();
        let mut flight = Flight::default();
        let count = 100;
        for datagram in 0..count {
            flight.push(packet(now, datagram));
        }
        flight.acknowledge(now, count - 2, None);
        let loss_delay = LossDelay { by_count: Duration::ZERO, by_time: Duration::from_secs(1) };
        flight.detect_losses(now, loss_delay, |_| {});
        assert_eq!(flight.timer_start(), Some(now));
        let probes = flight.time_out(now, now, 2, |_, _| {});
        assert!(probes > 0 && flight.next_lost().is_some());
    }

    #[test]
    fn the_order_of_sending_does_not_grow_with_what_is_sent_again() {
        let (now, later) = (Timestamp::now(), Duration::from_secs(1));
        let mut flight = Flight::default();
        let mut datagram = 0;
        for _ in 0..10 {
            flight.push(packet(now, datagram));
            datagram += 1;
        }
        for round in 1..10_000u32 {
            let now = now + later * round;
            flight.time_out(now, now, 2, |_, _| {});
            while let Some((sequence, _)) = flight.next_lost() {
                flight.resent(sequence, now, datagram);
                datagram += 1;
            }
            assert!(flight.order.len() <= 2 * 10 + ORDER_SLACK, "{} entries for 10 packets", flight.order.len());
            assert!(flight.losses.memory() <= Losses::memory_ceiling(10));
        }
    }

    /// The acknowledgement overtakes every resend, as on a session that may not send for a while.
    #[test]
    fn what_is_taken_for_lost_and_arrives_leaves_nothing_behind() {
        let mut now = Timestamp::now();
        let mut flight = Flight::default();
        for datagram in 0..10_000 {
            flight.push(packet(now, datagram));
            now += Duration::from_secs(1);
            assert_eq!(flight.time_out(now, now, 1, |_, _| {}), 1);
            flight.acknowledge(now, datagram, None);
            assert!(!flight.has_lost());
            assert!(flight.losses.memory() <= Losses::memory_ceiling(1), "{} bytes", flight.losses.memory());
        }
    }

    thread_local! {
        /// How many packets have been asked for their state.
        static VISITED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    pub(crate) fn visited() {
        VISITED.set(VISITED.get() + 1);
    }

    /// Where the first and the last of a window are lost again and again.
    #[test]
    fn what_is_lost_is_found_without_a_search_whatever_the_window() {
        for count in [256, 30_000] {
            let now = Timestamp::now();
            let mut flight = Flight::default();
            for datagram in 0..count {
                flight.push(packet(now, datagram));
            }
            for sequence in 1..count - 1 {
                flight.acknowledge(now, sequence, None);
            }
            let mut datagram = count;
            VISITED.set(0);
            for round in 1..=1_000 {
                let now = now + Duration::from_secs(1) * round;
                assert_eq!(flight.time_out(now, now, 2, |_, _| {}), 2);
                for expected in [0, count - 1] {
                    let (sequence, _) = flight.next_lost().unwrap();
                    assert_eq!(sequence, expected);
                    flight.resent(sequence, now, datagram);
                    datagram += 1;
                }
                assert!(flight.next_lost().is_none() && flight.losses.is_empty());
            }
            let visited = VISITED.get();
            // Each acknowledged packet is left out once.
            assert!(
                visited <= count as usize + 10 * 1_000,
                "{visited} packets for 2,000 losses at a window of {count}"
            );
        }
    }

    #[test]
    fn what_is_acknowledged_after_it_was_lost_is_not_sent_again() {
        let now = Timestamp::now();
        let later = now + Duration::from_secs(1);
        let mut flight = Flight::default();
        for datagram in 0..100 {
            flight.push(packet(now, datagram));
        }
        assert_eq!(flight.time_out(later, later, 100, |_, _| {}), 100);
        flight.acknowledge_all(later, 9, None);
        for sequence in (10..100).step_by(2) {
            flight.acknowledge(later, sequence, None);
        }
        let mut resent = Vec::new();
        while let Some((sequence, _)) = flight.next_lost() {
            resent.push(sequence);
            flight.resent(sequence, later, 100 + sequence);
        }
        assert_eq!(resent, (11..100).step_by(2).collect::<Vec<_>>());
    }

    /// A peer can repeat them at line rate.
    #[test]
    fn a_repeated_acknowledgement_costs_the_same_whatever_the_window() {
        for count in [256, 30_000] {
            let now = Timestamp::now();
            let later = now + Duration::from_secs(1);
            let loss_delay = LossDelay { by_count: Duration::ZERO, by_time: Duration::from_millis(100) };
            let mut flight = Flight::default();
            for datagram in 0..count {
                flight.push(packet(now, datagram));
            }
            // Every second packet has arrived, a quarter is lost, and half of that has been sent again.
            for sequence in (1..count).step_by(2) {
                flight.acknowledge(later, sequence, None);
            }
            flight.detect_losses(later, loss_delay, |_| {});
            for datagram in count..count + count / 4 {
                let (sequence, _) = flight.next_lost().unwrap();
                flight.resent(sequence, later, datagram);
            }
            VISITED.set(0);
            for _ in 0..1_000 {
                for sequence in [1, (count / 2) | 1, count - 1] {
                    assert_eq!(flight.acknowledge(later, sequence, None).packets, 0);
                    flight.detect_losses(later, loss_delay, |_| {});
                    assert!(flight.timer_start().is_some() && flight.has_lost());
                }
            }
            let visited = VISITED.get();
            assert!(visited <= 4 * 3_000, "{visited} packets for 3,000 acknowledgements at a window of {count}");
        }
    }
}
