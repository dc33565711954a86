//! Asks a server what it offers, and measures round trip and loss, over one UDP socket.

mod exchange;
mod probe;

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use soe_core::Dialect;

pub(crate) use self::probe::probe;

/// How to ask.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) to: SocketAddr,
    /// The forms of request to try, in order.
    pub(crate) dialects: Vec<Dialect>,
    /// The application's name for what it speaks, in requests of version 3.
    pub(crate) protocol: String,
    /// Questions for clock and statistics.
    pub(crate) count: u32,
    pub(crate) interval: Duration,
    /// How long each form of request, and the last question, may wait for an answer.
    pub(crate) timeout: Duration,
}

/// What a server offers in its response.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Offer {
    /// The version that the request named.
    pub(crate) version: u32,
    pub(crate) session_id: u32,
    pub(crate) crc_length: u8,
    pub(crate) passes: [u8; 2],
    pub(crate) udp_length: u32,
    /// The word at the end of the response, where there is one.
    pub(crate) trailing_version: Option<u32>,
    /// Presets whose servers answer so.
    pub(crate) dialects: Vec<String>,
    /// From the request to the response, in nanoseconds.
    pub(crate) took: u64,
    /// Why the server will not have us, if it said so.
    pub(crate) refused: Option<String>,
}

/// What the questions for clock and statistics brought. Times in nanoseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct RoundTrips {
    pub(crate) sent: u32,
    pub(crate) answered: u32,
    /// In the order of the questions; `None` where none came.
    pub(crate) times: Vec<Option<u64>>,
    pub(crate) min: Option<u64>,
    pub(crate) average: Option<u64>,
    pub(crate) max: Option<u64>,
    /// Shares lost on the way to the server and back, by the server's own counts.
    pub(crate) lost_to_server: Option<f64>,
    pub(crate) lost_to_client: Option<f64>,
    /// Other datagrams that came: a server that speaks first.
    pub(crate) others: u32,
}

/// Everything that one probe found out.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Found {
    pub(crate) server: SocketAddr,
    /// The reply to a ServerStatus query, which most servers do not give.
    pub(crate) status: Option<String>,
    pub(crate) offer: Option<Offer>,
    pub(crate) round_trips: RoundTrips,
}

impl RoundTrips {
    fn sum_up(&mut self) {
        let times: Vec<u64> = self.times.iter().flatten().copied().collect();
        self.answered = times.len() as u32;
        self.min = times.iter().min().copied();
        self.max = times.iter().max().copied();
        self.average = times.iter().sum::<u64>().checked_div(times.len() as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_questions_count_as_lost_and_in_no_average() {
        let mut round_trips = RoundTrips { sent: 3, times: vec![Some(10), None, Some(30)], ..RoundTrips::default() };
        round_trips.sum_up();
        assert_eq!((round_trips.answered, round_trips.average), (2, Some(20)));
        let mut none = RoundTrips { sent: 1, times: vec![None], ..RoundTrips::default() };
        none.sum_up();
        assert_eq!((none.answered, none.average, none.max), (0, None, None));
    }
}
