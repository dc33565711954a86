//! Clock synchronisation and loss in both directions, from the exchange of statistics (section 8 of
//! `docs/protocol.md`).

use std::time::Duration;

use crate::{
    timestamp::Timestamp,
    wire::{NetStatusRequest, NetStatusResponse},
};

/// The counters of both sides at one exchange, modulo 2^32. Only differences between two exchanges are used.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    sent: u32,
    arrived: u32,
    peer_sent: u32,
    received: u32,
}

/// The results of the exchanges of statistics.
#[derive(Clone, Debug)]
pub(crate) struct ClockSync {
    last: Counts,
    /// The loss to the peer and from the peer.
    loss: Option<(f32, f32)>,
    /// The latest round trip in milliseconds as reported by the requesting peer, or [`UNREPORTED`]. Not an `Option`: it
    /// would cost every session 8 bytes.
    reported: u32,
    /// State of the side that sends the requests. Allocated with the first request.
    asked: Option<Box<Asked>>,
}

/// The results of the responses.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Round trips in milliseconds.
    low: u32,
    high: u32,
    average: u32,
    latest: u32,
    exchanges: u32,
    offset: Option<Offset>,
    /// The clock of the last request.
    clock: u16,
    outstanding: bool,
}

/// One measurement of the server's clock minus this side's, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct Offset {
    value: u32,
    round_trip: u32,
    /// This side's clock at the measurement.
    measured: u32,
}

/// The assumed drift between two clocks, in milliseconds per million: 100 for each, twice what common quartz is
/// specified for.
const DRIFT: u64 = 200;
/// The rounding error of one measurement, in milliseconds, both sides together.
const ROUNDING: u64 = 2;

impl Offset {
    /// The error bound of this measurement at a time of this side's clock: half a round trip, as if the path were
    /// one-sided, plus the drift since.
    fn uncertainty(&self, clock: u32) -> u64 {
        u64::from(self.round_trip / 2) + u64::from(clock.wrapping_sub(self.measured)) * DRIFT / 1_000_000
    }

    /// Whether a newer measurement replaces this one: if its error bound is smaller by now, or if the two contradict
    /// each other. In that case one of the clocks was set, or drifts faster than assumed.
    fn is_outdone_by(&self, newer: &Self) -> bool {
        let (old, new) = (self.uncertainty(newer.measured), newer.uncertainty(newer.measured));
        let apart = u64::from((newer.value.wrapping_sub(self.value) as i32).unsigned_abs());
        new <= old || apart > old + new + ROUNDING
    }
}

/// No round trip has been reported.
const UNREPORTED: u32 = u32::MAX;

impl Default for ClockSync {
    fn default() -> Self {
        Self { last: Counts::default(), loss: None, reported: UNREPORTED, asked: None }
    }
}

impl ClockSync {
    /// Bytes that may be allocated in addition.
    pub(crate) const BOXED: usize = size_of::<Asked>();

    /// Returns a request. `sent` includes it.
    pub(crate) fn request(&mut self, clock: u32, sent: u64, received: u64) -> NetStatusRequest {
        let asked = self.asked.get_or_insert_default();
        (asked.clock, asked.outstanding) = (clock as u16, true);
        NetStatusRequest {
            clock: clock as u16,
            master: asked.average,
            average: asked.average,
            low: asked.low,
            high: asked.high,
            last: asked.latest,
            sent,
            received,
        }
    }

    /// Returns the response to a request. `sent` includes it.
    pub(crate) fn respond(
        &mut self,
        clock: u32,
        request: &NetStatusRequest,
        sent: u64,
        received: u64,
    ) -> NetStatusResponse {
        // The requester has not counted this response yet.
        let before = sent.saturating_sub(1);
        // The first request of a session has no round trip to report yet.
        if self.loss.is_some() {
            self.reported = request.last;
        }
        self.update(before, request.received, request.sent, received);
        NetStatusResponse {
            request_clock: request.clock,
            responder_clock: clock,
            requester_sent: request.sent,
            requester_received: request.received,
            responder_sent: sent,
            responder_received: received,
        }
    }

    /// Whether a response is expected.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.outstanding)
    }

    /// Whether the last request was of this time: who echoes it has seen it.
    pub(crate) fn has_asked_at(&self, clock: u16) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.outstanding && asked.clock == clock)
    }

    /// Whether the peer has ever responded.
    pub(crate) fn has_answers(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.exchanges > 0)
    }

    /// Handles a response. `received` includes it. Returns the round trip.
    pub(crate) fn answered(&mut self, clock: u32, response: &NetStatusResponse, received: u64) -> Duration {
        let NetStatusResponse { requester_sent, responder_received, responder_sent, .. } = *response;
        self.update(requester_sent, responder_received, responder_sent, received);
        let round_trip = u32::from((clock as u16).wrapping_sub(response.request_clock));
        let asked = self.asked.get_or_insert_default();
        asked.outstanding = false;
        asked.exchanges = asked.exchanges.saturating_add(1);
        let first = asked.exchanges == 1;
        asked.latest = round_trip;
        asked.high = asked.high.max(round_trip);
        asked.low = if first { round_trip } else { asked.low.min(round_trip) };
        asked.average = if first { round_trip } else { (asked.average * 3 + round_trip) / 4 };
        let value = response.responder_clock.wrapping_sub(clock).wrapping_add(round_trip / 2);
        let offset = Offset { value, round_trip, measured: clock };
        if asked.offset.is_none_or(|last| last.is_outdone_by(&offset)) {
            asked.offset = Some(offset);
        }
        Duration::from_millis(u64::from(round_trip))
    }

    fn update(&mut self, sent: u64, arrived: u64, peer_sent: u64, received: u64) {
        let share = |sent: u32, arrived: u32| {
            if sent == 0 { 0.0 } else { (1.0 - arrived as f32 / sent as f32).clamp(0.0, 1.0) }
        };
        let [sent, arrived, peer_sent, received] = [sent, arrived, peer_sent, received].map(|count| count as u32);
        let last = std::mem::replace(&mut self.last, Counts { sent, arrived, peer_sent, received });
        let up = share(sent.wrapping_sub(last.sent), arrived.wrapping_sub(last.arrived));
        let down = share(peer_sent.wrapping_sub(last.peer_sent), received.wrapping_sub(last.received));
        self.loss = Some((up, down));
    }

    /// The share of datagrams lost to the peer and from the peer.
    pub(crate) fn loss(&self) -> Option<(f32, f32)> {
        self.loss
    }

    /// The latest and the lowest round trip of an exchange: measured by the requesting side. The other side gets the
    /// latest alone, from the report of the next request.
    pub(crate) fn ping(&self) -> (Option<Duration>, Option<Duration>) {
        let measured = self.asked.as_ref().filter(|asked| asked.exchanges > 0);
        let reported = (self.reported != UNREPORTED).then_some(self.reported);
        let latest = measured.map(|asked| asked.latest).or(reported);
        let millis = |millis: u32| Duration::from_millis(millis.into());
        (latest.map(millis), measured.map(|asked| millis(asked.low)))
    }

    /// The server's clock minus this side's, in milliseconds.
    pub(crate) fn offset(&self) -> Option<u32> {
        self.asked.as_ref()?.offset.map(|offset| offset.value)
    }
}

/// Milliseconds since the session's epoch, as sent on the wire.
pub(crate) fn millis(epoch: Timestamp, now: Timestamp) -> u32 {
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
    fn the_side_that_answers_knows_the_ping_from_the_second_request_on() {
        let (mut asks, mut answers) = (ClockSync::default(), ClockSync::default());
        let mut exchange = |at: u32| {
            let request = asks.request(at, 1, 0);
            let response = answers.respond(at, &request, 1, 1);
            asks.answered(at + 30, &response, 1);
            (asks.ping().0, answers.ping().0)
        };
        let ping = Some(Duration::from_millis(30));
        assert_eq!(exchange(100), (ping, None));
        assert_eq!(exchange(200), (ping, ping));
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
