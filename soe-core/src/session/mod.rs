//! One session as a value: datagrams and calls of the application go in, datagrams and messages come out.
//!
//! `life` opens, keeps alive and ends the session, `send` builds datagrams, `receive` reads them.

mod channels;
mod cold;
mod keys;
mod life;
mod memory;
mod problem;
mod receive;
mod recorded;
mod send;
mod stats;
mod types;
mod window;

#[cfg(test)]
mod tests;

use std::{fmt, time::Instant};

pub(crate) use self::life::response;
pub use self::{
    problem::Problem,
    stats::{SessionStats, Vitals},
    types::{DatagramOutcome, Event, Receipt, Transmit, Undelivered},
};

use self::{
    channels::{IdleChannel, Reliable},
    cold::Cold,
    keys::Hooks,
    life::{ClockSync, Connecting, Ending, Lateness, Timers, millis},
    send::{Outbox, Pacing, SendInterval},
    stats::Counters,
    window::PeerWindow,
};
use crate::{
    channel::{congestion::Congestion, inbox::Inbox, limits::SendLimits, rtt::RttEstimator, send::Sender},
    config::SessionConfig,
    error::Closed,
    framing::Framing,
    message::ReliableChannel,
    recording::log,
    timestamp::Timestamp,
    wire::DisconnectReason,
};

/// Bytes that the escape and a hook may add to a message.
const TRANSFORM_OVERHEAD: usize = 64;

/// Which side of the handshake a session is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// The state of a session, with the data that is valid in it.
///
/// ```text
/// Connecting --response--> Open --close--> Closing --all acknowledged, or deadline--> Closed
///      \                      \                                                         ^
///       `--- time-out, bad response `--- Disconnect, time-out, corrupt, abort ----------'
/// ```
#[derive(Debug)]
enum State {
    /// A client waits for the response to its request.
    Connecting(Box<Connecting>),
    Open,
    /// The application has closed. Queued messages are still delivered.
    Closing(DisconnectReason),
    /// The session has ended. Late datagrams from the peer may still be answered with a Disconnect.
    Closed(Box<Ending>),
}

/// One session with one peer: the whole protocol, without socket, clock or random source.
///
/// After every event, drive the session in this order:
///
/// 1. Pass the event in: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout),
///    [`handle_unreachable`](Self::handle_unreachable), or a method of the application such as [`send`](Self::send).
/// 2. Take messages with [`recv`](Self::recv) until `None`, or as many as the application can handle. Messages left unread
///    slow the peer down.
/// 3. Take events with [`poll_event`](Self::poll_event) until `None`.
/// 4. Send what [`poll_transmit`](Self::poll_transmit) returns, until `None`.
/// 5. Call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
///
/// [`SessionConfig::memory_ceiling`] bounds the memory: outgoing messages by
/// [`send_buffer`](crate::Settings::send_buffer) per channel, incoming messages by
/// [`recv_buffer`](crate::Settings::recv_buffer), packets ahead of a gap by
/// [`recv_window`](crate::Settings::recv_window) and [`recv_window_bytes`](crate::Settings::recv_window_bytes) per channel,
/// and an incomplete message by [`max_message_size`](crate::Settings::max_message_size) per channel.
pub struct Session {
    config: SessionConfig,
    role: Role,
    state: State,
    session_id: u32,
    /// A response has been received or sent. Before that no datagram can be checked.
    negotiated: bool,
    /// The negotiated size of the largest datagram, in bytes.
    udp_length: u16,
    /// The time of the handshake, in milliseconds since `epoch`. Only differences count.
    negotiated_at: u32,
    framing: Framing,
    /// Time zero of the clock that this side reports on the wire.
    epoch: Timestamp,
    last_received: Timestamp,
    last_sent: Timestamp,
    /// `Event::Connected` has been reported; always true for a server.
    announced: bool,
    /// A valid datagram has come from the peer.
    confirmed: bool,
    /// The channels with packets in flight. `idle_channels` holds the next sequences of the others.
    channels: [Option<Box<Reliable>>; ReliableChannel::COUNT],
    idle_channels: [IdleChannel; ReliableChannel::COUNT],
    inbox: Inbox,
    /// A full receive buffer holds back a reliable channel.
    stalled: bool,
    /// The next message is taken though the send buffer is full: see [`reserve`](Self::reserve).
    reserved: bool,
    peer_window: PeerWindow,
    outbox: Outbox,
    /// Stamps of the ordered channels 1A and 1B: the last sent and the last accepted.
    ordered: [(u16, u16); 2],
    rtt: RttEstimator,
    congestion: Congestion,
    pacing: Pacing,
    lateness: Lateness,
    /// The channel that is served first among those with the same priority.
    first_channel: u8,
    send_interval: SendInterval,
    /// Resend timers that have fired since something new was acknowledged.
    backoff: u8,
    send_hooks: Option<Box<Hooks>>,
    recv_hooks: Option<Box<Hooks>>,
    clock: ClockSync,
    timers: Timers,
    cold: Option<Box<Cold>>,
    receipts: u64,
    stats: Counters,
}

impl Session {
    fn new(now: Timestamp, config: SessionConfig, role: Role, state: State, session_id: u32) -> Self {
        let congestion = Congestion::new(PeerWindow::default().bytes(&config).saturating_mul(ReliableChannel::COUNT));
        Self {
            role,
            state,
            session_id,
            negotiated: false,
            udp_length: config.udp_length as u16,
            negotiated_at: 0,
            framing: Framing::plain(),
            epoch: now,
            last_received: now,
            last_sent: now,
            announced: false,
            confirmed: false,
            channels: [const { None }; ReliableChannel::COUNT],
            idle_channels: [IdleChannel::default(); ReliableChannel::COUNT],
            inbox: Inbox::default(),
            stalled: false,
            reserved: false,
            peer_window: PeerWindow::default(),
            outbox: Outbox::default(),
            ordered: [(0, 0); 2],
            rtt: RttEstimator::default(),
            congestion,
            pacing: Pacing::default(),
            lateness: Lateness::default(),
            first_channel: 0,
            send_interval: SendInterval::default(),
            backoff: 0,
            send_hooks: None,
            recv_hooks: None,
            clock: ClockSync::default(),
            timers: Timers::default(),
            cold: None,
            receipts: 0,
            stats: Counters::default(),
            config,
        }
    }

    /// Returns the next event, oldest first. [`Event::Closed`] is the last.
    pub fn poll_event(&mut self) -> Option<Event> {
        let cold = self.cold.as_mut()?;
        let event = cold.events.pop_front()?;
        if let Some(recorder) = &mut cold.recorder {
            recorder.gave(log::EVENT, &event);
        }
        Some(event)
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called; `None` if no timer is set.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next().map(Timestamp::instant)
    }

    /// Whether the handshake is done and messages can be sent.
    pub fn is_connected(&self) -> bool {
        self.announced && matches!(self.state, State::Open)
    }

    /// Whether a client still waits for the response of its server.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    /// Whether the session still delivers what was queued before [`close`](Self::close).
    pub fn is_closing(&self) -> bool {
        matches!(self.state, State::Closing(_))
    }

    /// How the session ended; `None` while it lasts.
    pub fn closed(&self) -> Option<Closed> {
        match &self.state {
            State::Closed(ending) => Some(ending.closed),
            _ => None,
        }
    }

    /// Whether the session can be dropped: it has ended and answers no more late datagrams.
    pub fn is_drained(&self) -> bool {
        matches!(&self.state, State::Closed(ending) if ending.is_over())
    }

    /// When the last valid datagram came from the peer, or when the session began.
    pub fn last_heard(&self) -> Instant {
        self.last_received.instant()
    }

    /// The session id that the client chose.
    pub fn session_id(&self) -> u32 {
        self.session_id
    }

    /// The seed of the CRC; zero before the handshake. Keep it secret: with it and the session id, anyone can forge the
    /// peer's datagrams.
    pub fn crc_seed(&self) -> u32 {
        self.framing.seed()
    }

    /// The configuration of the session.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What the application has sent and the peer has not acknowledged.
    pub fn undelivered(&self) -> Undelivered {
        if let State::Closed(ending) = &self.state {
            return ending.undelivered;
        }
        let mut undelivered = Undelivered::default();
        for reliable in self.channels.iter().flatten() {
            let (bytes, messages) = reliable.sender.undelivered();
            undelivered.bytes += bytes;
            undelivered.messages += messages;
        }
        undelivered
    }

    /// Whether nothing waits in either direction: every message sent is acknowledged, every message received is read,
    /// and no acknowledgement is owed.
    pub fn is_idle(&self) -> bool {
        let mut channels = self.channels.iter().flatten();
        let idle = channels.all(|reliable| reliable.is_idle());
        idle && self.inbox.is_empty() && !self.outbox.has_unreliable()
    }

    /// The server's clock at `now`, in milliseconds modulo 2^32. `None` before the first exchange of statistics, and on
    /// the side that does not ask for them.
    pub fn server_clock(&self, now: Instant) -> Option<u32> {
        let now = Timestamp::from(now);
        self.clock.offset().map(|offset| millis(self.epoch, now).wrapping_add(offset))
    }

    /// Counters and measurements at `now`.
    pub fn stats(&self, now: Instant) -> SessionStats {
        let now = Timestamp::from(now);
        let senders = || self.channels.iter().flatten().map(|reliable| &reliable.sender);
        let Vitals { rtt, loss_sent, pending_bytes } = self.vitals();
        let (ping, ping_min) = self.clock.ping();
        SessionStats {
            rtt,
            rtt_min: self.rtt.minimum(),
            rtt_last: self.rtt.latest(),
            ping,
            ping_min,
            loss_sent,
            loss_received: self.clock.loss().map(|(_, received)| received),
            clock_offset: self.clock.offset(),
            pending_bytes,
            in_flight_bytes: self.in_flight(),
            congestion_window: self.congestion.window(),
            peer_window: self.peer_window.named(),
            unread_bytes: self.inbox.bytes(),
            oldest_unacknowledged: senders()
                .filter_map(Sender::oldest_first_sent)
                .min()
                .map(|sent| now.saturating_duration_since(sent)),
            since_received: self.confirmed.then(|| now.saturating_duration_since(self.last_received)),
            ..self.stats.snapshot()
        }
    }

    /// Those of the [`stats`](Self::stats) that tell best how a session does. For a look at thousands of sessions: it reads a
    /// small part of each, and takes half as long.
    pub fn vitals(&self) -> Vitals {
        let queued = self.channels.iter().flatten().map(|reliable| reliable.sender.queued_bytes()).sum::<usize>();
        Vitals {
            rtt: self.rtt.smoothed(),
            loss_sent: self.clock.loss().map(|(sent, _)| sent),
            pending_bytes: queued + self.outbox.unreliable_bytes(),
        }
    }

    /// Reliable bytes under way, over all channels.
    fn in_flight(&self) -> usize {
        self.channels.iter().flatten().map(|reliable| reliable.sender.in_flight_bytes()).sum()
    }

    fn udp_length(&self) -> usize {
        usize::from(self.udp_length)
    }

    /// The largest packet that fits a datagram, in bytes.
    fn packet_limit(&self) -> usize {
        self.udp_length() - self.framing.overhead()
    }

    fn send_limits(&self) -> SendLimits {
        SendLimits {
            window_packets: self.peer_window.packets(&self.config),
            is_named: self.peer_window.named().is_some(),
            window_bytes: self.peer_window.bytes(&self.config),
            packet: self.packet_limit(),
            group: self.gathers(),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("role", &self.role)
            .field("session_id", &format_args!("{:08x}", self.session_id))
            .field("state", &self.state)
            .field("udp_length", &self.udp_length)
            .field("framing", &self.framing)
            .finish_non_exhaustive()
    }
}
