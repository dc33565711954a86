//! The receive window that a side of this library names in the exchange of statistics.

use super::{NetStatusRequest, NetStatusResponse};

/// The upper half of the word when a client names its window: "WC". As a round trip in milliseconds it would be 16 days, and
/// the stamps that other implementations measure with wrap after 65 s.
const CLIENT: u32 = 0x5743;
/// The same for a server: "WS". A peer that returns the words it has received is not taken for one that names a window.
const SERVER: u32 = 0x5753;

/// A receive window named by a side of this library: how many packets from the next expected one on it holds for each reliable
/// channel.
///
/// It takes the place of the master round trip in a [`NetStatusRequest`], and of the upper half of an echoed count in a
/// [`NetStatusResponse`]. Both packets keep their length. Other implementations show the first as a figure at most, and are
/// never sent the second. Source: section 8.1 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NamedWindow {
    /// Whether the client names it; otherwise the server.
    pub by_client: bool,
    /// Packets, 1 to 30,000. Larger values must not be used: sequences have 16 bits.
    pub packets: u16,
}

impl NamedWindow {
    fn from_word(word: u32) -> Option<Self> {
        let by_client = match word >> 16 {
            CLIENT => true,
            SERVER => false,
            _ => return None,
        };
        let packets = word as u16;
        (packets > 0).then_some(Self { by_client, packets })
    }

    fn word(self) -> u32 {
        let side = if self.by_client { CLIENT } else { SERVER };
        side << 16 | u32::from(self.packets)
    }
}

impl NetStatusRequest {
    /// The window that the requester names, if it does.
    pub fn window(&self) -> Option<NamedWindow> {
        NamedWindow::from_word(self.master)
    }

    /// The same request, naming a window in place of [`master`](Self::master).
    #[must_use]
    pub fn with_window(mut self, window: NamedWindow) -> Self {
        self.master = window.word();
        self
    }
}

impl NetStatusResponse {
    /// The window that the responder names, if it does.
    pub fn window(&self) -> Option<NamedWindow> {
        NamedWindow::from_word((self.requester_received >> 32) as u32)
    }

    /// The same response, naming a window in the upper half of [`requester_received`](Self::requester_received). Only for a
    /// requester that has named its own: for others it would be a wrong count.
    #[must_use]
    pub fn with_window(mut self, window: NamedWindow) -> Self {
        self.requester_received = u64::from(window.word()) << 32 | u64::from(self.requester_received as u32);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_window_comes_back_from_both_packets_and_the_counts_stay() {
        for window in [
            NamedWindow { by_client: true, packets: 4_096 },
            NamedWindow { by_client: false, packets: 1 },
            NamedWindow { by_client: false, packets: u16::MAX },
        ] {
            let request = NetStatusRequest { average: 7, sent: 1, ..NetStatusRequest::default() };
            let named = request.with_window(window);
            assert_eq!((named.window(), named.average, named.sent), (Some(window), 7, 1));
            let response = NetStatusResponse { requester_received: 9, requester_sent: 8, ..Default::default() };
            let named = response.with_window(window);
            assert_eq!((named.window(), named.requester_received as u32, named.requester_sent), (Some(window), 9, 8));
        }
    }

    #[test]
    fn no_round_trip_and_no_count_names_a_window() {
        for millis in (0..=u32::from(u16::MAX)).chain([86_400_000, u32::MAX, 1 << 31]) {
            let request = NetStatusRequest { master: millis, ..NetStatusRequest::default() };
            assert_eq!(request.window(), None, "{millis} ms");
        }
        for count in [0, 1, u64::from(u32::MAX), 1 << 32, 1 << 48, u64::MAX] {
            let response = NetStatusResponse { requester_received: count, ..Default::default() };
            assert_eq!(response.window(), None, "{count} packets");
        }
        let empty = NamedWindow { by_client: true, packets: 0 };
        assert_eq!(NetStatusRequest::default().with_window(empty).window(), None);
    }
}
