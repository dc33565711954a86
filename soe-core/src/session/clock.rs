//! Clock sync and the loss both ways, from the exchange of statistics (section 8 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use crate::wire::{NetStatusRequest, NetStatusResponse};

/// What both sides had sent and received at an exchange, as far as this side knows.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u64,
    arrived: u64,
    peer_sent: u64,
    received: u64,
}

/// What the exchanges of statistics have shown.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClockSync {
    last: Counts,
    /// The share lost to the peer and from the peer.
    loss: Option<(f32, f32)>,
    /// Round trips in milliseconds.
    low: u32,
    high: u32,
    average: u32,
    latest: u32,
    exchanges: u32,
    /// The server's clock less this side's, from the exchange with the lowest round trip of late.
    offset: Option<(u32, u32)>,
    pub(crate) outstanding: bool,
}

/// An offset is replaced by one measured over a round trip at most this much longer than its own, in milliseconds.
const OFFSET_SLACK: u32 = 20;

impl ClockSync {
    /// The request that asks for the next exchange. `sent` counts it already.
    pub(crate) fn request(&mut self, clock: u32, sent: u64, received: u64) -> NetStatusRequest {
        self.outstanding = true;
        NetStatusRequest {
            clock: clock as u16,
            master: self.average,
            average: self.average,
            low: self.low,
            high: self.high,
            last: self.latest,
            sent,
            received,
        }
    }

    /// The answer to a request. `sent` counts it already.
    pub(crate) fn respond(
        &mut self,
        clock: u32,
        request: &NetStatusRequest,
        sent: u64,
        received: u64,
    ) -> NetStatusResponse {
        // The answer itself has not been counted by the requester yet.
        let before = sent.saturating_sub(1);
        self.update(Counts { sent: before, arrived: request.received, peer_sent: request.sent, received });
        NetStatusResponse {
            request_clock: request.clock,
            responder_clock: clock,
            requester_sent: request.sent,
            requester_received: request.received,
            responder_sent: sent,
            responder_received: received,
        }
    }

    /// An answer has come. `received` counts it already. Returns the round trip.
    pub(crate) fn answered(&mut self, clock: u32, response: &NetStatusResponse, received: u64) -> Duration {
        self.outstanding = false;
        let round_trip = u32::from((clock as u16).wrapping_sub(response.request_clock));
        self.update(Counts {
            sent: response.requester_sent,
            arrived: response.responder_received,
            peer_sent: response.responder_sent,
            received,
        });
        self.exchanges = self.exchanges.saturating_add(1);
        self.latest = round_trip;
        self.high = self.high.max(round_trip);
        self.low = if self.exchanges == 1 { round_trip } else { self.low.min(round_trip) };
        self.average = if self.exchanges == 1 { round_trip } else { (self.average * 3 + round_trip) / 4 };
        if self.offset.is_none_or(|(_, measured)| round_trip <= measured + OFFSET_SLACK) {
            let offset = response.responder_clock.wrapping_sub(clock).wrapping_add(round_trip / 2);
            self.offset = Some((offset, round_trip));
        }
        Duration::from_millis(u64::from(round_trip))
    }

    fn update(&mut self, counts: Counts) {
        let share = |sent: u64, arrived: u64| {
            if sent == 0 { 0.0 } else { (1.0 - arrived as f32 / sent as f32).clamp(0.0, 1.0) }
        };
        let last = std::mem::replace(&mut self.last, counts);
        let up = share(counts.sent.wrapping_sub(last.sent), counts.arrived.wrapping_sub(last.arrived));
        let down = share(counts.peer_sent.wrapping_sub(last.peer_sent), counts.received.wrapping_sub(last.received));
        self.loss = Some((up, down));
    }

    /// The share of datagrams lost to the peer and from the peer.
    pub(crate) fn loss(&self) -> Option<(f32, f32)> {
        self.loss
    }

    /// The server's clock less this side's, in milliseconds.
    pub(crate) fn offset(&self) -> Option<u32> {
        self.offset.map(|(offset, _)| offset)
    }
}

/// Milliseconds since the session's epoch, as the wire counts them.
pub(crate) fn millis(epoch: Instant, now: Instant) -> u32 {
    now.saturating_duration_since(epoch).as_millis() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_round_trip_survives_a_wrap_of_the_stamp() {
        let mut clock = ClockSync::default();
        let request = clock.request(65_530, 1, 0);
        let response = ClockSync::default().respond(1_000, &request, 1, 1);
        assert_eq!(clock.answered(65_550, &response, 1), Duration::from_millis(20));
    }

    #[test]
    fn the_offset_leads_to_the_servers_clock() {
        let mut clock = ClockSync::default();
        let request = clock.request(100, 1, 0);
        let response = ClockSync::default().respond(5_000, &request, 1, 1);
        clock.answered(140, &response, 1);
        assert_eq!(clock.offset().map(|offset| 140 + offset), Some(5_020));
    }

    #[test]
    fn loss_is_told_for_each_way_between_two_exchanges() {
        let mut clock = ClockSync::default();
        let exchange = |clock: &mut ClockSync, sent, arrived, peer_sent, received| {
            let request = clock.request(0, sent, 0);
            let mut response = ClockSync::default().respond(0, &request, peer_sent, arrived);
            response.requester_sent = sent;
            clock.answered(0, &response, received);
        };
        exchange(&mut clock, 100, 100, 50, 50);
        assert_eq!(clock.loss(), Some((0.0, 0.0)));
        exchange(&mut clock, 200, 175, 150, 140);
        let (up, down) = clock.loss().unwrap();
        assert!((up - 0.25).abs() < 1e-6 && (down - 0.1).abs() < 1e-6, "{up} {down}");
    }
}
