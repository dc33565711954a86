//! Packets under way: sent, and not yet known to have arrived.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::push_back;

/// A packet is lost once a datagram sent this much later has been acknowledged (RFC 9002, section 6.1.1).
const REORDERING: u64 = 3;
/// How many packets are looked through for the resend timer, from the oldest under way on.
const TIMER_SCAN: usize = 32;
/// Packets sent again when the resend timer fires: enough to provoke an acknowledgement, too few to congest.
const PROBES: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Flying,
    /// Believed lost: waits to be sent again.
    Lost(Cause),
    Acked,
}

/// Why a packet is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Later datagrams have been acknowledged.
    Overtaken,
    /// No acknowledgement came in time.
    Timeout,
}

/// What precedes the payload on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    Data,
    FirstFragment { total: u32 },
    Fragment,
}

#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) head: Head,
    pub(crate) payload: Bytes,
    pub(crate) state: State,
    /// Messages whose last byte is in this packet.
    pub(crate) ends: u16,
    pub(crate) transmissions: u16,
    /// Copies that rode along since it was last sent.
    pub(crate) copies: u8,
    /// When it was first sent.
    pub(crate) first_sent: Instant,
    /// When it was last sent.
    pub(crate) sent: Instant,
    /// The number of the datagram that first carried it.
    pub(crate) first_datagram: u64,
    /// The number of the datagram that last carried it.
    pub(crate) datagram: u64,
}

impl Packet {
    /// Op code, sequence and, on the first fragment, the total length.
    pub(crate) fn size(&self) -> usize {
        let head = if matches!(self.head, Head::FirstFragment { .. }) { 8 } else { 4 };
        head + self.payload.len()
    }

    fn is_flying(&self) -> bool {
        self.state == State::Flying
    }

    fn is_lost(&self) -> bool {
        matches!(self.state, State::Lost(_))
    }
}

/// What an acknowledgement has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acked {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
    /// The age of a packet that was sent again too soon: its first acknowledgement was on the way.
    pub(crate) late: Option<Duration>,
    /// The ages of the newest and the oldest packet acknowledged that was sent only once.
    pub(crate) ages: Option<(Duration, Duration)>,
}

/// The acknowledgement of a packet that was sent again may be for either time. If it is for the second, everything sent before
/// that has been overtaken; if for the first, the timer was too short and everything is on its way, as further
/// acknowledgements will show in a moment. Taking the one for the other would send a whole window twice.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    /// The datagram that last carried the packet.
    datagram: u64,
    /// When to believe that it has arrived; set when losses are next looked for.
    deadline: Option<Instant>,
}

/// The packets from the oldest unacknowledged to the newest sent.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    /// The sequence of `packets[0]`, which is never `Acked`.
    base: u64,
    packets: VecDeque<Packet>,
    /// Bytes of the packets that are `Flying`.
    flying: usize,
    /// How many packets are `Lost`.
    lost: usize,
    /// No packet below this sequence is `Lost`.
    first_lost: u64,
    /// The latest datagram known to have arrived.
    newest_acked: u64,
    /// A packet that was sent again has been acknowledged: perhaps this datagram has arrived, with it. See [`Doubt`].
    doubt: Option<Doubt>,
}

impl Flight {
    pub(crate) fn starting_at(base: u64) -> Self {
        Self { base, first_lost: base, ..Self::default() }
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

    pub(crate) fn flying_bytes(&self) -> usize {
        self.flying
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.lost > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Payload bytes and messages not known to have arrived. What was acknowledged behind a gap counts as well: the peer's
    /// application gets it only once the gap is filled.
    pub(crate) fn unacknowledged(&self) -> (usize, usize) {
        let open = self.packets.iter().skip_while(|packet| packet.state == State::Acked);
        open.fold((0, 0), |(bytes, messages), packet| {
            (bytes + packet.payload.len(), messages + usize::from(packet.ends))
        })
    }

    pub(crate) fn push(&mut self, packet: Packet) {
        self.flying += packet.size();
        push_back(&mut self.packets, packet);
    }

    /// The packet that is to be sent again next, with its sequence.
    pub(crate) fn next_lost(&mut self) -> Option<(u64, &mut Packet)> {
        if self.lost == 0 {
            return None;
        }
        let skip = self.first_lost.saturating_sub(self.base) as usize;
        let index = self.packets.range(skip.min(self.packets.len())..).position(Packet::is_lost)? + skip;
        self.first_lost = self.base + index as u64;
        self.packets.get_mut(index).map(|packet| (self.first_lost, packet))
    }

    /// The packet that `next_lost` gave has been written again.
    pub(crate) fn resent(&mut self, sequence: u64, now: Instant, datagram: u64) {
        let Some(packet) = self.packets.get_mut((sequence - self.base) as usize) else { return };
        packet.state = State::Flying;
        packet.copies = 0;
        packet.transmissions = packet.transmissions.saturating_add(1);
        packet.sent = now;
        packet.datagram = datagram;
        self.flying += packet.size();
        self.lost -= 1;
        self.first_lost = sequence + 1;
    }

    /// The newest packet of at most `largest` bytes that may ride along in this datagram: one that has been sent before, and
    /// not yet copied `copies` times.
    pub(crate) fn next_copy(&mut self, datagram: u64, largest: usize, copies: u8) -> Option<(u64, &mut Packet)> {
        let index = self.packets.iter().enumerate().rev().take(TIMER_SCAN).find(|(_, packet)| {
            packet.state == State::Flying
                && packet.copies < copies
                && packet.datagram < datagram
                && packet.size() <= largest
        })?;
        let index = index.0;
        self.packets.get_mut(index).map(|packet| (self.base + index as u64, packet))
    }

    /// Everything up to and including `sequence` has arrived.
    pub(crate) fn acknowledge_all(&mut self, now: Instant, sequence: u64, soonest: Option<Duration>) -> Acked {
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
    pub(crate) fn acknowledge(&mut self, now: Instant, sequence: u64, soonest: Option<Duration>) -> Acked {
        let mut acked = Acked::default();
        if let Some(index) = sequence.checked_sub(self.base) {
            self.mark_acked(index as usize, now, soonest, &mut acked);
            self.trim();
        }
        acked
    }

    fn mark_acked(&mut self, index: usize, now: Instant, soonest: Option<Duration>, acked: &mut Acked) {
        let Some(packet) = self.packets.get_mut(index) else { return };
        let age = now.saturating_duration_since(packet.sent);
        match std::mem::replace(&mut packet.state, State::Acked) {
            State::Acked => return,
            State::Flying => self.flying -= packet.size(),
            State::Lost(_) => self.lost -= 1,
        }
        acked.packets += 1;
        acked.bytes += packet.size();
        // An acknowledgement that comes sooner after a resend than the link allows is for the first transmission; so is every
        // one of a packet that was sent once. Otherwise it may be for either, and measures nothing (Karn's rule).
        let first_age = now.saturating_duration_since(packet.first_sent);
        let arrived = if packet.transmissions == 1 {
            let (newest, oldest) = acked.ages.unwrap_or((first_age, first_age));
            acked.ages = Some((newest.min(first_age), oldest.max(first_age)));
            packet.first_datagram
        } else if soonest.is_some_and(|soonest| age < soonest) {
            acked.late = Some(first_age);
            packet.first_datagram
        } else {
            let datagram = self.doubt.map_or(packet.datagram, |doubt| doubt.datagram.max(packet.datagram));
            let deadline = self.doubt.and_then(|doubt| doubt.deadline);
            self.doubt = Some(Doubt { datagram, deadline });
            packet.first_datagram
        };
        self.newest_acked = self.newest_acked.max(arrived);
        if packet.transmissions == 1 && self.doubt.is_some_and(|doubt| packet.datagram < doubt.datagram) {
            self.doubt = None;
        }
        packet.payload = Bytes::new();
    }

    fn trim(&mut self) {
        while self.packets.front().is_some_and(|packet| packet.state == State::Acked) {
            self.packets.pop_front();
            self.base += 1;
        }
    }

    /// Declares lost what later datagrams have overtaken: by count, or by time. `loss_delay` is the time threshold. Returns
    /// the bytes newly lost and when the next packet will cross the time threshold.
    pub(crate) fn detect_losses(&mut self, now: Instant, loss_delay: Duration) -> (usize, Option<Instant>) {
        let (mut bytes, mut next) = (0, self.resolve_doubt(now, loss_delay));
        for (index, packet) in self.packets.iter_mut().enumerate() {
            // First transmissions leave in the order of their sequences: nothing behind this one has been overtaken.
            if packet.transmissions == 1 && packet.copies == 0 && packet.datagram >= self.newest_acked {
                break;
            }
            if packet.state != State::Flying || packet.datagram >= self.newest_acked {
                continue;
            }
            let deadline = packet.sent + loss_delay;
            if packet.datagram + REORDERING <= self.newest_acked || deadline <= now {
                packet.state = State::Lost(Cause::Overtaken);
                bytes += packet.size();
                self.lost += 1;
                self.first_lost = self.first_lost.min(self.base + index as u64);
            } else {
                next = Some(next.map_or(deadline, |next: Instant| next.min(deadline)));
            }
        }
        self.flying -= bytes;
        (bytes, next)
    }

    /// Believes in the second transmission once nothing has spoken for the first. Returns when to come back.
    fn resolve_doubt(&mut self, now: Instant, loss_delay: Duration) -> Option<Instant> {
        let doubt = self.doubt.as_mut()?;
        let deadline = *doubt.deadline.get_or_insert(now + loss_delay / 8);
        if now < deadline {
            return Some(deadline);
        }
        self.newest_acked = self.newest_acked.max(doubt.datagram);
        self.doubt = None;
        None
    }

    /// When the oldest packet under way was sent: the start of the resend timer.
    pub(crate) fn oldest_sent(&self) -> Option<Instant> {
        // Before the first there may be any number of lost ones that wait for the congestion window.
        let flying = self.packets.iter().skip_while(|packet| !packet.is_flying()).take(TIMER_SCAN);
        flying.filter(|packet| packet.is_flying()).map(|packet| packet.sent).min()
    }

    /// When the oldest packet not known to have arrived was first sent.
    pub(crate) fn oldest_first_sent(&self) -> Option<Instant> {
        self.packets.front().map(|packet| packet.first_sent)
    }

    pub(crate) fn newest_acked(&self) -> u64 {
        self.newest_acked
    }

    /// The resend timer fired: the oldest packets sent before `deadline` go again. Returns how many.
    pub(crate) fn probe(&mut self, deadline: Instant) -> usize {
        let mut probes = 0;
        let oldest = self.packets.iter_mut().enumerate().skip_while(|(_, packet)| !packet.is_flying());
        for (index, packet) in oldest.take(TIMER_SCAN) {
            if probes == PROBES {
                break;
            }
            if packet.is_flying() && packet.sent <= deadline {
                packet.state = State::Lost(Cause::Timeout);
                self.flying -= packet.size();
                self.lost += 1;
                self.first_lost = self.first_lost.min(self.base + index as u64);
                probes += 1;
            }
        }
        probes
    }

    /// Memory held, fragments not counted: they are parts of messages, which are.
    pub(crate) fn memory(&self) -> usize {
        let data = self.packets.iter().filter(|packet| packet.head == Head::Data);
        data.map(|packet| packet.payload.len()).sum::<usize>() + self.packets.capacity() * size_of::<Packet>()
    }

    /// The most memory that this takes.
    pub(crate) const fn memory_ceiling(window: usize, packet: usize) -> usize {
        // A list that has just grown is half empty.
        window * packet + 2 * window * size_of::<Packet>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(now: Instant, datagram: u64) -> Packet {
        Packet {
            head: Head::Data,
            payload: Bytes::from_static(b"payload"),
            state: State::Flying,
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
        let now = Instant::now();
        let mut flight = Flight::default();
        let count = 3 * TIMER_SCAN as u64;
        for datagram in 0..count {
            flight.push(packet(now, datagram));
        }
        flight.acknowledge(now, count - 2, None);
        flight.detect_losses(now, Duration::from_secs(1));
        assert_eq!(flight.oldest_sent(), Some(now));
        let probes = flight.probe(now);
        assert!(probes > 0 && flight.next_lost().is_some());
    }
}
