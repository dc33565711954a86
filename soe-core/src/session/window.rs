//! The peer's receive window: named by the peer, or assumed (section 8.1 of `docs/protocol.md`).

use std::time::Duration;

use super::{
    Session,
    life::{Timer, millis},
};
use crate::{
    channel::{opening, sequence::MAX_DISTANCE},
    config::Settings,
    message::ReliableChannel,
    timestamp::Timestamp,
    wire::{NamedWindow, NetStatusRequest, NetStatusResponse},
};

/// How often a client that has no answer asks again before the ordinary interval.
const QUESTIONS: u8 = 4;
/// When it asks again first; each time doubles the interval. Until it is answered a long link carries what the assumed window
/// lets through: half a second of that costs a transfer of 8 MiB a third of its rate.
const ASK_AGAIN: Duration = Duration::from_millis(150);

/// A session is young for this long: its first requests, repeated, and their way back.
const YOUNG: Duration = Duration::from_secs(5);

/// What is known of the peer's receive window.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerWindow {
    /// Packets, as the peer names them; 0 if it has not. Up to [`MAX_DISTANCE`].
    named: u16,
    /// Questions that were repeated early.
    asked: u8,
}

impl PeerWindow {
    /// The window that the peer has named, in packets for each channel.
    pub(super) fn named(self) -> Option<u32> {
        (self.named > 0).then_some(u32::from(self.named))
    }

    /// Packets that may be under way on each channel. What a peer claims is bounded by the configuration.
    pub(super) fn packets(self, settings: &Settings) -> usize {
        let holds = if self.named > 0 { usize::from(self.named) } else { settings.assumed_window };
        settings.send_window.min(holds)
    }

    /// Bytes that may be under way on each channel.
    pub(super) fn bytes(self, settings: &Settings) -> usize {
        let most = settings.send_window_bytes;
        if self.named > 0 { most } else { most.min(settings.assumed_window_bytes) }
    }
}

impl Settings {
    /// Bytes that a channel holds ahead of a gap, with datagrams of this size: enough for what a peer sends that knows of no
    /// window.
    pub(super) fn held_bytes(&self, datagram: usize) -> usize {
        self.recv_window_bytes.max(self.recv_window.min(opening::BASE) * datagram)
    }
}

impl Session {
    /// The receive window to name: so many packets that datagrams of full size fit the bytes.
    fn own_window(&self) -> NamedWindow {
        let settings = &*self.config;
        let packets = (settings.held_bytes(self.udp_length()) / self.udp_length()).clamp(1, settings.recv_window);
        NamedWindow { by_client: self.is_client(), packets: u16::try_from(packets).unwrap_or(u16::MAX) }
    }

    /// Names the own window in a request. A server does so only if the client has named its own: clients of games are shown
    /// what they know.
    pub(super) fn name_window(&self, request: NetStatusRequest) -> NetStatusRequest {
        let names = self.config.window_discovery && (self.is_client() || self.peer_window.named > 0);
        if names { request.with_window(self.own_window()) } else { request }
    }

    /// Names the own window in a response to a peer that has named its own.
    pub(super) fn return_window(&self, response: NetStatusResponse) -> NetStatusResponse {
        if self.peer_window.named > 0 { response.with_window(self.own_window()) } else { response }
    }

    /// A request of the peer has come, with this window or without one. While somebody may be guessing CRCs, it can name the
    /// first window of a young session only: a stranger would name one of a single packet, or of thousands.
    pub(super) fn window_in_request(&mut self, now: Timestamp, window: Option<NamedWindow>) {
        let is_first = self.peer_window.named == 0 && self.is_young(now);
        if is_first || !self.is_in_doubt(now) {
            self.take_window(window);
        }
    }

    /// A response that is [expected](Self::expects) has come: the next request is due after the ordinary interval.
    pub(super) fn window_in_response(&mut self, now: Timestamp, window: Option<NamedWindow>) {
        self.take_window(window);
        if std::mem::take(&mut self.peer_window.asked) > 0 && self.asks_net_status() {
            self.timers.set(Timer::NetStatus, now + self.config.net_status_interval);
        }
    }

    fn take_window(&mut self, window: Option<NamedWindow>) {
        let Some(window) = window.filter(|window| window.by_client != self.is_client()) else { return };
        let packets = window.packets.min(MAX_DISTANCE as u16);
        if self.config.window_discovery && packets != self.peer_window.named {
            self.peer_window.named = packets;
            self.congestion.set_limit(self.peer_window.bytes(&self.config).saturating_mul(ReliableChannel::COUNT));
        }
    }

    fn is_young(&self, now: Timestamp) -> bool {
        u128::from(millis(self.epoch, now).wrapping_sub(self.negotiated_at)) < YOUNG.as_millis()
    }

    /// The time from one request to the next.
    pub(super) fn question_interval(&mut self) -> Duration {
        let interval = self.config.net_status_interval;
        let known = self.clock.has_answers() || self.peer_window.named > 0;
        if !self.config.window_discovery || known || self.peer_window.asked >= QUESTIONS {
            return interval;
        }
        self.peer_window.asked += 1;
        interval.min(ASK_AGAIN * (1 << (self.peer_window.asked - 1)))
    }
}
