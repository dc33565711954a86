//! What one direction of one channel has sent and the other has not acknowledged, as an onlooker sees it.

use std::collections::VecDeque;

use super::Transmission;

/// Packets that are remembered between the oldest unacknowledged and the newest. The wire can name no more than 30,000.
const MAX_TRACKED: usize = 32_768;
/// Places that are kept for packets to come.
const MAX_IDLE: usize = 512;
/// What the largest known receiver holds, in packets (section 7 of `docs/protocol.md`).
const MAX_WINDOW: u64 = 400;

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    first: u64,
    last: u64,
    /// Numbers the transmissions of the direction: the last of this packet.
    order: u64,
    length: u32,
    copies: u32,
    is_acked: bool,
}

/// What all channels of a direction share.
#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Transmissions so far.
    order: u64,
    /// The latest transmission that was acknowledged: what was sent before it and is not acknowledged is a gap.
    newest_acked: u64,
}

/// The packets from the oldest that is not acknowledged to the newest.
#[derive(Debug)]
pub(super) struct Flight {
    /// The sequence number of the first slot: everything before it is acknowledged.
    base: u64,
    slots: VecDeque<Slot>,
    bytes: usize,
    packets: usize,
    /// The first transmission of the newest packet.
    newest_sent: u64,
    /// When an acknowledgement brought something new last, or when something was sent into an empty flight.
    progress: u64,
}

/// What came of a packet.
pub(super) struct Sent {
    pub(super) sequence: u64,
    pub(super) transmission: Transmission,
    /// Since the last transmission, in nanoseconds.
    pub(super) after: u64,
    pub(super) copies: u32,
    /// By how much it is ahead of the window of any known receiver; 0 if it is not.
    pub(super) beyond: u64,
}

/// What came of an acknowledgement.
#[derive(Default)]
pub(super) struct Acked {
    pub(super) sequence: u64,
    /// It names something that was never sent.
    pub(super) is_of_unsent: bool,
    /// Of the packet that it names, when that was sent once only.
    pub(super) round_trip: Option<u64>,
    /// The run in which packets stand that it covers and nobody saw, and how many those are.
    pub(super) missing: Option<(u64, u64)>,
    pub(super) missing_count: u64,
    /// For how long nothing had been acknowledged, and the bytes that waited.
    pub(super) waited: Option<(u64, usize)>,
}

impl Flight {
    pub(super) fn new(base: u64, time: u64) -> Self {
        let slots = VecDeque::new();
        Self { base, slots, bytes: 0, packets: 0, newest_sent: 0, progress: time }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that are held.
    pub(super) fn held(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// Forgets what is under way.
    pub(super) fn clear(&mut self, time: u64) {
        *self = Self::new(self.next(), time);
    }

    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    /// For how long the data under way has waited, if there is any.
    pub(super) fn waiting(&self, time: u64) -> Option<(u64, usize)> {
        (self.packets > 0).then(|| (time.saturating_sub(self.progress), self.bytes))
    }

    /// The sequence number behind the newest.
    pub(super) fn next(&self) -> u64 {
        self.base + self.slots.len() as u64
    }

    /// A packet travels. `round_trip` is the shortest that is known.
    pub(super) fn sent(
        &mut self,
        clock: &mut Clock,
        time: u64,
        low: u16,
        length: usize,
        round_trip: Option<u64>,
    ) -> Sent {
        clock.order += 1;
        let sequence = widen(self.next(), low);
        if sequence < self.base {
            let transmission = Transmission::ResendNeedless;
            return Sent { sequence, transmission, after: 0, copies: 2, beyond: 0 };
        }
        let index = (sequence - self.base) as usize;
        let beyond = (sequence - self.base).saturating_sub(MAX_WINDOW);
        if index >= MAX_TRACKED {
            // Nothing on the wire can be so far ahead: what is remembered is of no use any more.
            *self = Self { base: sequence, ..Self::new(sequence, time) };
            return Sent {
                transmission: self.first(0, clock.order, time, length),
                sequence,
                after: 0,
                copies: 1,
                beyond,
            };
        }
        let is_newest = index >= self.slots.len();
        if is_newest {
            self.slots.resize(index + 1, Slot::default());
        }
        let slot = self.slots[index];
        if is_newest {
            let transmission = self.first(index, clock.order, time, length);
            self.newest_sent = time;
            return Sent { sequence, transmission, after: 0, copies: 1, beyond };
        }
        if slot.copies == 0 {
            let _ = self.first(index, clock.order, time, length);
            let after = time.saturating_sub(self.newest_sent);
            return Sent { sequence, transmission: Transmission::Late, after, copies: 1, beyond };
        }
        let after = time.saturating_sub(slot.last);
        let transmission = match round_trip {
            _ if slot.is_acked => Transmission::ResendNeedless,
            _ if clock.newest_acked > slot.order => Transmission::ResendAfterGap,
            Some(round_trip) if after < round_trip => Transmission::ResendEarly,
            _ => Transmission::ResendAfterTimeout,
        };
        let slot = &mut self.slots[index];
        slot.last = time;
        slot.order = clock.order;
        slot.copies = slot.copies.saturating_add(1);
        Sent { sequence, transmission, after, copies: slot.copies, beyond }
    }

    fn first(&mut self, index: usize, order: u64, time: u64, length: usize) -> Transmission {
        if self.packets == 0 {
            self.progress = time;
        }
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::default());
        }
        self.slots[index] = Slot { first: time, last: time, order, length: length as u32, copies: 1, is_acked: false };
        self.bytes += length;
        self.packets += 1;
        Transmission::First
    }

    /// The peer has exactly this packet.
    pub(super) fn acknowledge(&mut self, clock: &mut Clock, time: u64, low: u16) -> Acked {
        let sequence = widen(self.next(), low);
        if sequence >= self.next() {
            return Acked { sequence, is_of_unsent: true, ..Acked::default() };
        }
        let Some(index) = sequence.checked_sub(self.base) else { return Acked { sequence, ..Acked::default() } };
        let waiting = self.waiting(time);
        let (round_trip, is_new) = self.take(clock, index as usize, time);
        let is_missing = is_new && self.slots[index as usize].copies == 0;
        let missing = is_missing.then_some((sequence, sequence));
        let waited = waiting.filter(|_| is_new);
        if is_new {
            self.progress = time;
        }
        Acked { sequence, round_trip, missing, missing_count: is_missing.into(), waited, is_of_unsent: false }
    }

    /// The peer has everything up to and including this packet.
    pub(super) fn acknowledge_all(&mut self, clock: &mut Clock, time: u64, low: u16) -> Acked {
        let sequence = widen(self.next(), low);
        if sequence >= self.next() {
            return Acked { sequence, is_of_unsent: true, ..Acked::default() };
        }
        if sequence < self.base {
            return Acked { sequence, ..Acked::default() };
        }
        let waiting = self.waiting(time);
        let mut acked = Acked { sequence, ..Acked::default() };
        while self.base <= sequence {
            let (round_trip, is_new) = self.take(clock, 0, time);
            acked.round_trip = round_trip;
            if is_new {
                acked.waited = waiting;
                self.progress = time;
            }
            if self.slots.pop_front().is_some_and(|slot| slot.copies == 0 && is_new) {
                let from = acked.missing.map_or(self.base, |(from, _)| from);
                acked.missing = Some((from, self.base));
                acked.missing_count += 1;
            }
            self.base += 1;
        }
        // One packet far ahead of the others makes many places: they are given back once it has passed.
        if self.slots.capacity() > MAX_IDLE && self.slots.len() < self.slots.capacity() / 8 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
        acked
    }

    /// Takes a packet out of what is under way.
    fn take(&mut self, clock: &mut Clock, index: usize, time: u64) -> (Option<u64>, bool) {
        let Some(slot) = self.slots.get_mut(index) else { return (None, false) };
        if std::mem::replace(&mut slot.is_acked, true) {
            return (None, false);
        }
        if slot.copies == 0 {
            return (None, true);
        }
        self.bytes -= slot.length as usize;
        self.packets -= 1;
        clock.newest_acked = clock.newest_acked.max(slot.order);
        ((slot.copies == 1).then(|| time.saturating_sub(slot.first)), true)
    }

    /// Acknowledgements of a stream that was never seen: everything up to there has passed.
    pub(super) fn skip_to(&mut self, low: u16) {
        if self.slots.is_empty() {
            self.base = u64::from(low) + 1;
        }
    }
}

/// The sequence number with these low 16 bits that is nearest to `reference`.
pub(super) fn widen(reference: u64, low: u16) -> u64 {
    let ahead = low.wrapping_sub(reference as u16);
    let behind = 0u16.wrapping_sub(ahead);
    if ahead <= behind || u64::from(behind) > reference {
        reference + u64::from(ahead)
    } else {
        reference - u64::from(behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_nearest_sequence_number_is_meant() {
        assert_eq!(widen(0, 5), 5);
        assert_eq!(widen(65_536, 65_535), 65_535);
        assert_eq!(widen(65_530, 3), 65_539);
        assert_eq!(widen(10, 65_535), 65_535);
    }

    #[test]
    fn resends_are_told_apart_by_what_the_peer_had_said() {
        let (mut flight, mut clock) = (Flight::new(0, 0), Clock::default());
        let clock = &mut clock;
        for sequence in 0..3 {
            let sent = flight.sent(clock, MS * u64::from(sequence), sequence, 100, None);
            assert_eq!(sent.transmission, Transmission::First);
        }
        assert_eq!(flight.sent(clock, 10 * MS, 0, 100, Some(50 * MS)).transmission, Transmission::ResendEarly);
        assert_eq!(flight.sent(clock, 500 * MS, 0, 100, Some(50 * MS)).transmission, Transmission::ResendAfterTimeout);
        assert_eq!(flight.acknowledge(clock, 501 * MS, 2).round_trip, Some(499 * MS));
        assert_eq!(flight.sent(clock, 502 * MS, 1, 100, Some(50 * MS)).transmission, Transmission::ResendAfterGap);
        assert_eq!(flight.sent(clock, 503 * MS, 2, 100, Some(50 * MS)).transmission, Transmission::ResendNeedless);
        assert_eq!((flight.bytes(), flight.packets()), (200, 2));
        let acked = flight.acknowledge_all(clock, 600 * MS, 2);
        assert_eq!(acked.waited, Some((99 * MS, 200)));
        assert_eq!((flight.bytes(), flight.packets()), (0, 0));
        assert_eq!(flight.sent(clock, 700 * MS, 1, 100, None).transmission, Transmission::ResendNeedless);
    }

    #[test]
    fn what_was_acknowledged_and_never_seen_is_missing() {
        let (mut flight, mut clock) = (Flight::new(0, 0), Clock::default());
        let clock = &mut clock;
        let _ = flight.sent(clock, 0, 0, 10, None);
        let _ = flight.sent(clock, 0, 4, 10, None);
        assert_eq!(flight.sent(clock, 1, 2, 10, None).transmission, Transmission::Late);
        let acked = flight.acknowledge_all(clock, 2, 4);
        assert_eq!((acked.missing, acked.missing_count), (Some((1, 3)), 2));
        assert!(flight.acknowledge_all(clock, 3, 9).is_of_unsent);
    }
}
