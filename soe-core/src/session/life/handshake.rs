//! The handshake (section 6 of `docs/protocol.md`).

use std::time::{Duration, Instant};

use super::{clock::millis, timer::Timer};
use crate::{
    config::{RequestInfo, SMALLEST_PACKET, SessionConfig, UDP_LENGTH},
    dialect::ResponseTrailer,
    framing::{Framing, NegotiationError},
    session::{Role, Session, State, types::Event},
    timestamp::Timestamp,
    wire::{DisconnectReason, SessionRequest, SessionResponse},
};

/// The time before the first repetition of a session request.
const REQUEST_INTERVAL: Duration = Duration::from_secs(1);
/// The increase of that time for each further repetition.
const REQUEST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest time between two requests.
const MAX_REQUEST_INTERVAL: Duration = Duration::from_secs(3);
/// The most that the round trip adds to the wait for a refusal.
const MAX_REFUSAL_WAIT: Duration = Duration::from_millis(250);
/// The bytes that a server may send to an unproven address for each byte received from there (RFC 9000, section 8.1).
/// Applies if the server sends first.
const AMPLIFICATION: u64 = 3;
/// The least time between two responses to repeated requests of a live session.
const RESPONSE_INTERVAL: Duration = Duration::from_millis(250);

/// The state of a client that waits for the response.
#[derive(Clone, Debug, Default)]
pub(in crate::session) struct Connecting {
    /// Requests sent.
    attempts: u32,
    last_request: Option<Timestamp>,
    pub(in crate::session) request_due: bool,
    /// The reason to report if no response comes: a session request came from the server's address instead.
    met: Option<DisconnectReason>,
}

fn interval(attempts: u32) -> Duration {
    (REQUEST_INTERVAL + REQUEST_BACKOFF * attempts.saturating_sub(1)).min(MAX_REQUEST_INTERVAL)
}

/// Returns the response to a request. It is the same for each repetition of the request.
pub(crate) fn response(config: &SessionConfig, session_id: u32, crc_seed: u32) -> SessionResponse {
    SessionResponse {
        session_id,
        crc_seed,
        crc_length: config.crc_length,
        passes: config.passes.map(u8::from),
        udp_length: config.udp_length,
        version: match config.dialect.handshake.trailer {
            ResponseTrailer::None => None,
            ResponseTrailer::Version(version) => Some(version),
        },
    }
}

impl Session {
    /// Creates a client's session. It sends a session request with this id until it is answered, refused, or
    /// [`connect_timeout`](crate::Settings::connect_timeout) has passed. [`Event::Connected`] or [`Event::Closed`]
    /// reports the result.
    ///
    /// Messages may be queued before; they are sent after the response. The id must come from a secure random
    /// generator: before the response it is the only secret that an attacker must guess.
    pub fn connect(now: Instant, config: SessionConfig, session_id: u32) -> Self {
        let now = Timestamp::from(now);
        let connecting = Connecting { request_due: true, ..Connecting::default() };
        let mut session = Self::new(now, config, Role::Client, State::Connecting(Box::new(connecting)), session_id);
        session.timers.set(Timer::Connect, now + session.config.connect_timeout);
        session
    }

    /// Creates a server's session for a client that has been sent the response.
    pub(crate) fn accept(
        now: Timestamp,
        epoch: Timestamp,
        config: SessionConfig,
        request: &RequestInfo,
        crc_seed: u32,
    ) -> Result<Self, NegotiationError> {
        let mut session = Self::new(now, config, Role::Server, State::Open, request.session_id);
        let passes = session.config.passes.map(u8::from);
        session.negotiate(crc_seed, session.config.crc_length, passes, request.udp_length)?;
        session.epoch = epoch;
        session.announced = true;
        // The handshake counts in the exchange of statistics. Otherwise the client would see its request and the
        // response as lost.
        session.stats.datagrams_received = 1;
        session.stats.datagrams_sent = 1;
        session.start_timers(now);
        Ok(session)
    }

    /// Queues the response to the request that created this session, which had `length` bytes.
    pub(crate) fn answer_request(&mut self, length: usize) {
        self.outbox.response_due = true;
        self.stats.bytes_received = length as u64;
    }

    /// The bytes that may be sent. Limited until the client has proved its address with a valid datagram, because the
    /// request may be forged.
    pub(in crate::session) fn credit(&self) -> usize {
        if self.confirmed || self.is_client() {
            return usize::MAX;
        }
        let allowed = self.stats.bytes_received.saturating_mul(AMPLIFICATION);
        usize::try_from(allowed.saturating_sub(self.stats.bytes_sent)).unwrap_or(usize::MAX)
    }

    /// Whether a repeated request of this session is answered. Anybody who has seen the request can repeat it, so the
    /// rate is limited.
    pub(in crate::session) fn may_answer_again(&mut self, now: Timestamp) -> bool {
        let last = &mut self.cold().answered_at;
        if last.is_some_and(|last| now < last + RESPONSE_INTERVAL) {
            self.stats.cold().ignored += 1;
            return false;
        }
        *last = Some(now);
        true
    }

    fn negotiate(
        &mut self,
        crc_seed: u32,
        crc_length: u8,
        passes: [u8; 2],
        udp_length: u32,
    ) -> Result<(), NegotiationError> {
        if udp_length < *UDP_LENGTH.start() {
            return Err(NegotiationError::UdpLength(udp_length));
        }
        let framing = Framing::new(crc_seed, crc_length, passes, &self.config.dialect.codecs)?;
        // The smaller value holds in both directions: known peers send no larger datagrams than they accept.
        let udp_length = self.config.udp_length.min(udp_length);
        let overhead = framing.overhead();
        if (udp_length as usize).saturating_sub(overhead) < SMALLEST_PACKET {
            return Err(NegotiationError::TooSmall { udp_length, overhead });
        }
        self.framing = framing;
        self.negotiated = true;
        self.udp_length = udp_length as u16;
        self.congestion.set_datagram(self.udp_length);
        Ok(())
    }

    fn start_timers(&mut self, now: Timestamp) {
        let settings = &*self.config;
        let after = |period: Duration| (!period.is_zero()).then(|| now + period);
        let ask = after(settings.inactivity_timeout).map(|_| now + self.first_silence());
        let heartbeat = after(self.heartbeat_interval());
        self.timers.set(Timer::Inactivity, ask);
        self.timers.set(Timer::Heartbeat, heartbeat);
        self.last_received = now;
        self.negotiated_at = millis(self.epoch, now);
        let port_alive = after(self.config.port_alive_interval);
        self.timers.set(Timer::PortAlive, port_alive);
        if self.asks_net_status() {
            let next = now + self.question_interval();
            self.timers.set(Timer::NetStatus, next);
        }
    }

    pub(in crate::session) fn asks_net_status(&self) -> bool {
        let asks = match self.role {
            Role::Client => self.config.dialect.policies.asks_net_status.client(),
            Role::Server => self.config.dialect.policies.asks_net_status.server(),
        };
        asks && !self.config.net_status_interval.is_zero()
    }

    /// Returns the session request if one is due.
    pub(in crate::session) fn take_request(&mut self, now: Timestamp) -> Option<SessionRequest<'_>> {
        let State::Connecting(connecting) = &mut self.state else { return None };
        if !std::mem::take(&mut connecting.request_due) {
            return None;
        }
        connecting.attempts += 1;
        connecting.last_request = Some(now);
        self.timers.set(Timer::Handshake, now + interval(connecting.attempts));
        let handshake = &self.config.dialect.handshake;
        let named = handshake.named;
        Some(SessionRequest {
            version: handshake.version,
            session_id: self.session_id,
            udp_length: self.config.udp_length,
            protocol_name: named.then_some(self.config.protocol_name.as_bytes()),
        })
    }

    /// Handles a response. Only the first one with this session's id counts; it may be forged.
    pub(in crate::session) fn handle_response(&mut self, now: Timestamp, response: &SessionResponse) {
        let State::Connecting(connecting) = &self.state else {
            self.stats.cold().ignored += 1;
            return;
        };
        if response.session_id != self.session_id {
            self.stats.cold().ignored += 1;
            return;
        }
        let mut round_trip = Duration::ZERO;
        if let (1, Some(sent)) = (connecting.attempts, connecting.last_request) {
            round_trip = now.saturating_duration_since(sent);
            self.rtt.seed(round_trip);
        }
        let SessionResponse { crc_seed, crc_length, passes, udp_length, .. } = *response;
        if let Err(error) = self.negotiate(crc_seed, crc_length, passes, udp_length) {
            self.refuse_response(now, error);
            return;
        }
        self.state = State::Open;
        self.timers.stop(Timer::Handshake);
        self.start_timers(now);
        self.promote_oversized();
        self.open(now);
        match self.config.refusal_grace {
            Duration::ZERO => self.announce(),
            // Wait for the answer to the first datagram: it repeats a refusal that was lost.
            grace => {
                let wait = grace + round_trip.min(MAX_REFUSAL_WAIT);
                self.timers.set(Timer::Connect, now + wait);
            }
        }
    }

    /// Sends a datagram with a CRC. The server opens the session on the first valid one. Repeated until a valid
    /// datagram comes from the server.
    pub(in crate::session) fn open(&mut self, now: Timestamp) {
        if self.asks_net_status() {
            self.outbox.net_status_due = true;
        } else {
            self.outbox.heartbeat_due = true;
        }
        self.timers.set(Timer::Handshake, now + REQUEST_INTERVAL);
    }

    pub(in crate::session) fn announce(&mut self) {
        self.timers.stop(Timer::Connect);
        if !std::mem::replace(&mut self.announced, true) {
            self.push_event(Event::Connected);
        }
    }

    /// Handles the end of the time to connect, or to be refused.
    pub(in crate::session) fn connect_timer(&mut self, now: Timestamp) {
        match &self.state {
            State::Connecting(connecting) => {
                let reason = connecting.met.unwrap_or(DisconnectReason::ConnectFail);
                self.unanswered(now, reason);
            }
            _ => self.announce(),
        }
    }

    /// Handles a session request at a client. The client has connected to itself, or to another client. Either is
    /// reported only if no response arrives: anyone can forge a request, or reflect this side's own.
    pub(in crate::session) fn handle_own_request(&mut self, request: &SessionRequest<'_>) {
        let State::Connecting(connecting) = &mut self.state else { return };
        if request.session_id == self.session_id {
            connecting.met = Some(DisconnectReason::ConnectingToSelf);
        } else {
            connecting.met.get_or_insert(DisconnectReason::ConnectError);
        }
    }
}
