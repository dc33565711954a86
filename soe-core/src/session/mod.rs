//! One session as a value: input goes in, datagrams and messages come out.

mod channels;
mod cold;
mod keys;
mod life;
mod memory;
mod problem;
mod receive;
mod send;
mod stats;
mod types;

#[cfg(test)]
mod tests;

use std::{fmt, time::Instant};

pub(crate) use self::life::{PROOF, response};
pub use self::{
    problem::Problem,
    stats::SessionStats,
    types::{DatagramOutcome, Event, Receipt, Transmit, Undelivered},
};

use self::{
    channels::{IdleChannel, Reliable},
    cold::Cold,
    keys::Hooks,
    life::{ClockSync, Connecting, Ending, Timers, millis},
    send::{Outbox, Pacing, SendInterval},
    stats::Counters,
};
use crate::{
    channel::{
        congestion::Congestion,
        inbox::Inbox,
        rtt::RttEstimator,
        send::{SendLimits, Sender},
    },
    config::SessionConfig,
    error::Closed,
    framing::Framing,
    message::ReliableChannel,
    timestamp::Timestamp,
    wire::DisconnectReason,
};

/// What escape, flags and tags of a transform may add to a message on the wire, in bytes.
const TRANSFORM_OVERHEAD: usize = 64;

/// Which side of the handshake a session is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// Where a session stands.
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
    /// The application has closed; what it sent before is still being delivered.
    Closing(DisconnectReason),
    /// Over. Stragglers are told so until the ending says otherwise.
    Closed(Box<Ending>),
}

/// One session with one peer: the whole protocol, without a socket, a clock or a source of randomness.
///
/// Drive it like this, in this order, whenever something has happened:
///
/// 1. Feed what happened: [`handle_datagram`](Self::handle_datagram), [`handle_timeout`](Self::handle_timeout),
///    [`handle_unreachable`](Self::handle_unreachable), or a verb of the application such as [`send`](Self::send).
/// 2. Take messages with [`recv`](Self::recv) until `None`, as far as the application wants them. What it does not take
///    holds the peer back.
/// 3. Take events with [`poll_event`](Self::poll_event) until `None`.
/// 4. Send what [`poll_transmit`](Self::poll_transmit) gives, until `None`.
/// 5. Come back at [`poll_timeout`](Self::poll_timeout) at the latest.
///
/// Memory is bounded by [`SessionConfig::memory_ceiling`]: messages to send by
/// [`send_buffer`](crate::Settings::send_buffer) per channel, messages to read by
/// [`recv_buffer`](crate::Settings::recv_buffer), packets ahead of a gap by [`recv_window`](crate::Settings::recv_window)
/// datagrams per channel, and a message under way by [`max_message_size`](crate::Settings::max_message_size) per channel.
pub struct Session {
    config: SessionConfig,
    role: Role,
    state: State,
    session_id: u32,
    /// There has been a response: until then, also when it never comes, nothing that arrives proves anything.
    negotiated: bool,
    /// The largest datagram agreed on, in bytes.
    udp_length: u16,
    framing: Framing,
    /// Where the clock that the wire speaks of starts.
    epoch: Timestamp,
    last_received: Timestamp,
    last_sent: Timestamp,
    /// A client has reported itself connected; always true for a server.
    announced: bool,
    /// A valid datagram has come from the peer.
    confirmed: bool,
    /// The channels in use, and where those that are not go on.
    channels: [Option<Box<Reliable>>; ReliableChannel::COUNT],
    idle_channels: [IdleChannel; ReliableChannel::COUNT],
    inbox: Inbox,
    /// A reliable channel waits for the application to make room.
    stalled: bool,
    outbox: Outbox,
    /// Stamps of ordered messages, 1A and 1B: the last sent and the last accepted.
    ordered: [(u16, u16); 2],
    rtt: RttEstimator,
    congestion: Congestion,
    pacing: Pacing,
    /// The channel that goes first among equals.
    first_channel: u8,
    send_interval: SendInterval,
    /// Resend timers that have fired since the last acknowledgement of something new.
    backoff: u8,
    send_hooks: Option<Box<Hooks>>,
    recv_hooks: Option<Box<Hooks>>,
    clock: ClockSync,
    timers: Timers,
    cold: Option<Box<Cold>>,
    receipts: u64,
    /// Corrupt datagrams since the last wrong CRC: see [`corrupt`](Self::corrupt).
    corrupt_since_reject: u8,
    stats: Counters,
}

impl Session {
    fn new(now: Instant, config: SessionConfig, role: Role, state: State, session_id: u32) -> Self {
        let congestion = Congestion::new(config.send_window_bytes.saturating_mul(ReliableChannel::COUNT));
        Self {
            role,
            state,
            session_id,
            negotiated: false,
            udp_length: config.udp_length as u16,
            framing: Framing::plain(),
            epoch: now.into(),
            last_received: now.into(),
            last_sent: now.into(),
            announced: false,
            confirmed: false,
            channels: [const { None }; ReliableChannel::COUNT],
            idle_channels: [IdleChannel::default(); ReliableChannel::COUNT],
            inbox: Inbox::default(),
            stalled: false,
            outbox: Outbox::default(),
            ordered: [(0, 0); 2],
            rtt: RttEstimator::default(),
            congestion,
            pacing: Pacing::default(),
            first_channel: 0,
            send_interval: SendInterval::default(),
            backoff: 0,
            send_hooks: None,
            recv_hooks: None,
            clock: ClockSync::default(),
            timers: Timers::default(),
            cold: None,
            receipts: 0,
            corrupt_since_reject: 0,
            stats: Counters::default(),
            config,
        }
    }

    /// What happened, oldest first. [`Event::Closed`] is the last.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.cold.as_mut()?.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do. `None`: never.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Whether the session is open: messages can be sent, and the handshake is done.
    pub fn is_connected(&self) -> bool {
        self.announced && matches!(self.state, State::Open)
    }

    /// Whether a client still waits for its server's response.
    pub fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting(_))
    }

    /// How the session ended; `None` while it has not.
    pub fn closed(&self) -> Option<Closed> {
        match &self.state {
            State::Closed(ending) => Some(ending.closed),
            _ => None,
        }
    }

    /// Whether the session can be forgotten: it has ended, and so has the time in which stragglers are told.
    pub fn is_drained(&self) -> bool {
        matches!(&self.state, State::Closed(ending) if ending.is_over())
    }

    /// When the last valid datagram came from the peer; when the session began, if none has.
    pub fn last_heard(&self) -> Instant {
        self.last_received.instant()
    }

    /// The id that the client chose.
    pub fn session_id(&self) -> u32 {
        self.session_id
    }

    /// The seed of the CRC, zero before the handshake. With the session id it is all that tells the peer from a stranger:
    /// keep it secret.
    pub fn crc_seed(&self) -> u32 {
        self.framing.seed()
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &SessionConfig {
        &self.config
    }

    /// What was taken from the application and is not known to have arrived.
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

    /// Whether nothing waits in either direction: everything sent has been acknowledged, everything that arrived has been
    /// taken, and no acknowledgement is owed.
    pub fn is_idle(&self) -> bool {
        let mut channels = self.channels.iter().flatten();
        let idle = channels.all(|reliable| reliable.is_idle());
        idle && self.inbox.is_empty() && !self.outbox.has_unreliable()
    }

    /// The server's clock in milliseconds, modulo 2^32, as the exchanges of statistics have shown it; on the side that asks
    /// for them.
    pub fn server_clock(&self, now: Instant) -> Option<u32> {
        self.clock.offset().map(|offset| millis(self.epoch, now).wrapping_add(offset))
    }

    /// Counters and measurements at this moment.
    pub fn stats(&self, now: Instant) -> SessionStats {
        let senders = || self.channels.iter().flatten().map(|reliable| &reliable.sender);
        let loss = self.clock.loss();
        let (ping, ping_min) = self.clock.ping();
        SessionStats {
            rtt: self.rtt.smoothed(),
            rtt_min: self.rtt.minimum(),
            rtt_last: self.rtt.latest(),
            ping,
            ping_min,
            loss_sent: loss.map(|(sent, _)| sent),
            loss_received: loss.map(|(_, received)| received),
            clock_offset: self.clock.offset(),
            pending_bytes: senders().map(Sender::queued_bytes).sum::<usize>() + self.outbox.unreliable_bytes(),
            in_flight_bytes: self.in_flight(),
            congestion_window: self.congestion.window(),
            unread_bytes: self.inbox.bytes(),
            oldest_unacknowledged: senders()
                .filter_map(Sender::oldest_first_sent)
                .min()
                .map(|sent| now.saturating_duration_since(sent)),
            since_received: self.confirmed.then(|| now.saturating_duration_since(self.last_received.instant())),
            ..self.stats.snapshot()
        }
    }

    /// Bytes of reliable packets under way, over all channels.
    fn in_flight(&self) -> usize {
        self.channels.iter().flatten().map(|reliable| reliable.sender.flying_bytes()).sum()
    }

    fn udp_length(&self) -> usize {
        usize::from(self.udp_length)
    }

    /// The most bytes of one packet in a datagram of its own.
    fn packet_limit(&self) -> usize {
        self.udp_length() - self.framing.overhead()
    }

    fn send_limits(&self) -> SendLimits {
        SendLimits {
            window_packets: self.config.send_window,
            window_bytes: self.config.send_window_bytes,
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
