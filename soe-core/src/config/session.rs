use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use super::{ChannelOptions, check, setters};
use crate::{
    dialect::Dialect,
    error::ConfigError,
    framing::{Framing, Pass},
    message::ReliableChannel,
    wire,
};

/// How one's own messages that begin with 00 are told from packets (section 1 of `docs/protocol.md`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EscapeRule {
    /// Every message that begins with 00 gets one 00 in front: the original library's rule.
    #[default]
    Always,
    /// Only encrypted messages do, as some newer implementations have it. A plain message that begins with `00 19` is then
    /// misread by either side as a Group.
    WhenEncrypted,
}

/// What becomes of an unreliable message that no datagram can carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversized {
    /// It travels on reliable channel 0: the original library's rule.
    #[default]
    Promote,
    /// It is refused with [`SendError::TooLarge`](crate::SendError::TooLarge).
    Refuse,
}

/// What becomes of a session whose application sends more than the peer takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The message is given back with [`SendError::Blocked`](crate::SendError::Blocked): the application waits, or drops it.
    #[default]
    Block,
    /// The session ends with `ReliableOverflow`: the original library's choice for players who cannot keep up.
    Close,
}

/// The configuration of a session; a cheap clone. [`Settings`] has the knobs.
#[derive(Clone)]
pub struct SessionConfig(Arc<Settings>);

impl SessionConfig {
    /// The defaults of version 3 under this application protocol name, such as `LoginUdp_9`.
    ///
    /// # Errors
    /// If the name is longer than 32 bytes or has a NUL in it.
    pub fn new(protocol_name: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(protocol_name).build()
    }

    /// A builder that starts from the defaults of version 3.
    pub fn builder(protocol_name: impl Into<String>) -> SessionConfigBuilder {
        Self::with_dialect(Dialect::version3()).protocol_name(protocol_name.into())
    }

    /// A builder that starts from what a game family is known to use.
    pub fn with_dialect(dialect: Dialect) -> SessionConfigBuilder {
        SessionConfigBuilder { settings: Settings::for_dialect(dialect) }
    }

    /// A builder that starts from this configuration.
    pub fn to_builder(&self) -> SessionConfigBuilder {
        SessionConfigBuilder { settings: Settings::clone(&self.0) }
    }
}

impl Deref for SessionConfig {
    type Target = Settings;

    fn deref(&self) -> &Settings {
        &self.0
    }
}

impl fmt::Debug for SessionConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The knobs of a session. In brackets in each description: the default. No duration may be longer than a year,
/// and no interval at which something is sent shorter than 1 ms.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The game family: handshake form, passes, codec, habits. \[version 3\]
    pub dialect: Dialect,
    /// The application protocol name that the client asks for and the server expects, up to 32 bytes without NUL; unused by
    /// dialects whose requests carry none. \[empty\]
    pub protocol_name: String,
    /// The largest datagram in bytes that this side offers to take, 64 to 8192; both sides use the smaller of the two
    /// offers. 40 bytes must be left beside the CRC and what the codecs of [`passes`](Self::passes) may add: a peer that offers
    /// less is refused. \[the dialect's: 512, or 496 for Star Wars Galaxies\]
    pub udp_length: u32,
    /// Bytes of CRC that a server offers, 1 to 4, or 0 with [`allow_unchecked`](Self::allow_unchecked). \[the dialect's: 2\]
    pub crc_length: u8,
    /// Whether [`crc_length`](Self::crc_length) may be 0. Without a CRC nothing tells the peer from a stranger, and nothing tells
    /// an old session from a new one: a client that restarts and comes back from the same port talks to its old session, whose
    /// application gets its messages. For closed networks and for peers that know no CRC. A client takes what its server says,
    /// whatever this is. \[off\]
    pub allow_unchecked: bool,
    /// The two passes that a server offers (section 3 of `docs/protocol.md`). A user codec must be one that the dialect has.
    /// \[the dialect's: none for version 3\]
    pub passes: [Pass; 2],
    /// Reliable packets held per channel from the next expected one on, 1 to 30,000. \[256: what a version 3 server holds\]
    pub recv_window: usize,
    /// Reliable packets under way per channel, 1 to 30,000. More than the peer holds is sent in vain. \[256: every known
    /// receiver holds as many; a version 3 server uses 196\]
    pub send_window: usize,
    /// Bytes under way per channel, 2 KiB or more. \[128 KiB: the smallest known receiver holds 140 KB\]
    pub send_window_bytes: usize,
    /// This many packets are acknowledged without waiting for data to ride with, 1 or more. \[32\]
    pub ack_packets: u32,
    /// Every packet is acknowledged at once. \[off\]
    pub ack_every_packet: bool,
    /// How long an acknowledgement waits for data to ride with, up to 100 ms. \[2 ms\]
    pub max_ack_delay: Duration,
    /// How long an acknowledgement waits instead when this side sends messages in a steady rhythm and the next one, which can
    /// carry it, is due within this time; zero disables it, at most 100 ms. \[60 ms: the next message of a game that sends 20 a
    /// second, and well below the shortest resend timer known, 150 ms\]
    pub ack_ride_limit: Duration,
    /// A heartbeat leaves when this side has sent nothing for so long, or for as long as
    /// it would wait before it asks the peer for a sign of life, if that is shorter
    /// ([`inactivity_timeout`](Self::inactivity_timeout)); zero disables it. \[25 s\]
    pub heartbeat_after: Duration,
    /// The session ends with `Timeout` when nothing valid has arrived for so long; zero disables it. The peer is asked for a
    /// sign of life from a quarter of it on, by servers from five sixteenths on if it has answered before, and four times a
    /// second in its last eighth: between two sides of this library an outage of up to two thirds of it ends nothing. Time in which nobody drove the session does not count: see
    /// [`Session::handle_timeout`](crate::Session::handle_timeout). \[30 s\]
    pub inactivity_timeout: Duration,
    /// The session ends with `UnacknowledgedTimeout` when a reliable packet has been under way for so long and the peer has
    /// acknowledged nothing on its channel in that time, not even again what it had already; zero disables it. \[90 s: the
    /// original's\]
    pub unacknowledged_timeout: Duration,
    /// The session ends with `PeerNotReading` when a reliable packet has been under way for so long, whatever else the peer
    /// acknowledges: its application does not take what has arrived. Zero disables it. \[10 min\]
    pub unread_timeout: Duration,
    /// How long a client asks for a session before it gives up, above zero. \[10 s\]
    pub connect_timeout: Duration,
    /// How long a client that has a response waits, beside a round trip, for a refusal before it reports the session as connected; anything
    /// else that arrives from the server ends the wait. Servers refuse right behind the response (section 6 of
    /// `docs/protocol.md`). The round trip is that of the handshake, up to 250 ms: the answer to the client's first datagram
    /// also tells a refusal that was lost. Up to 1 s; zero does not wait. \[20 ms\]
    pub refusal_grace: Duration,
    /// How long closing gracefully may take to deliver what is queued. \[5 s\]
    pub close_timeout: Duration,
    /// How long a closed session remembers its peer. In this time the Disconnect is repeated, up to six times in all, and
    /// stragglers get it again. Zero sends it once. \[2 s\]
    pub linger: Duration,
    /// How often a side that asks for clock and statistics does so: each time the [`ping`](crate::SessionStats::ping) is measured.
    /// Zero disables it. \[45 s\]
    pub net_status_interval: Duration,
    /// ICMP errors are tolerated for so long after the first, while the peer is asked for a sign of life; any valid datagram
    /// clears them. \[5 s\]
    pub icmp_grace: Duration,
    /// How long a client that its server does not know any more asks to be remapped. \[5 s\]
    pub remap_timeout: Duration,
    /// The largest message in bytes, sent or received, 1 byte to 2 GiB. A longer reliable message that arrives ends the session,
    /// a longer unreliable one is dropped. \[10 MiB\]
    pub max_message_size: usize,
    /// Bytes that wait to be sent for the first time, above which a message is refused, overhead of 64 bytes a message
    /// included. \[1 MiB\]
    pub send_buffer: usize,
    /// Bytes that wait for the application, above which nothing more is delivered and the peer is held back, overhead of 64
    /// bytes a message included. \[1 MiB\]
    pub recv_buffer: usize,
    /// What becomes of the session when a send buffer is full. \[the message is given back\]
    pub overflow: Overflow,
    /// How each reliable channel behaves on this side.
    pub channels: [ChannelOptions; ReliableChannel::COUNT],
    /// A datagram that dies on the way leaves when this side has sent nothing for so long, to keep the port mapping of a
    /// router alive; zero disables it. \[off\]
    pub port_alive_interval: Duration,
    /// How many routers that datagram passes, 1 or more. \[5: the original's\]
    pub port_alive_hops: u8,
    /// What becomes of an unreliable message that no datagram can carry. \[promoted\]
    pub oversized_unreliable: Oversized,
    /// Whether unreliable messages share datagrams with other packets, in a Multi. Some implementations take such a piece for
    /// an unknown packet and close. \[on\]
    pub bundle_unreliable: bool,
    /// How messages that begin with 00 are escaped. \[always\]
    pub escape: EscapeRule,
    /// Whether ordered messages (op codes 1A and 1B) that begin with 00 are escaped when sent; implementations differ, none
    /// removes the escape on receipt. \[off\]
    pub escape_ordered: bool,
}

/// The longest duration that a knob takes: a year. Deadlines can then be added up on every platform.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The range of [`Settings::udp_length`], in bytes (section 6 of `docs/protocol.md`).
pub(crate) const UDP_LENGTH: std::ops::RangeInclusive<u32> = 64..=8192;

/// The least that a datagram must carry beside its CRC and the growth of codecs, in bytes: the largest packet that cannot be
/// cut, a NetStatusRequest or its answer.
pub(crate) const SMALLEST_PACKET: usize = wire::NetStatusRequest::ENCODED_LEN;

/// The largest buffer or window in bytes: sums over all channels and directions do not overflow.
const LARGEST_BUFFER: usize = usize::MAX / 64;

impl Settings {
    fn for_dialect(dialect: Dialect) -> Self {
        Self {
            protocol_name: String::new(),
            udp_length: dialect.offer.udp_length,
            crc_length: dialect.offer.crc_length,
            allow_unchecked: false,
            passes: dialect.offer.passes,
            recv_window: 256,
            send_window: 256,
            send_window_bytes: 128 * 1024,
            ack_packets: 32,
            ack_every_packet: false,
            max_ack_delay: dialect.timing.max_ack_delay.unwrap_or(Duration::from_millis(2)),
            ack_ride_limit: Duration::from_millis(60),
            heartbeat_after: dialect.timing.heartbeat_after.unwrap_or(Duration::from_secs(25)),
            inactivity_timeout: Duration::from_secs(30),
            unacknowledged_timeout: Duration::from_secs(90),
            unread_timeout: Duration::from_secs(600),
            connect_timeout: Duration::from_secs(10),
            refusal_grace: Duration::from_millis(20),
            close_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(2),
            net_status_interval: dialect.timing.net_status_interval.unwrap_or(Duration::from_secs(45)),
            icmp_grace: Duration::from_secs(5),
            remap_timeout: Duration::from_secs(5),
            max_message_size: 10 << 20,
            send_buffer: 1 << 20,
            recv_buffer: 1 << 20,
            overflow: Overflow::default(),
            channels: [ChannelOptions::default(); ReliableChannel::COUNT],
            port_alive_interval: Duration::ZERO,
            port_alive_hops: 5,
            oversized_unreliable: Oversized::default(),
            bundle_unreliable: true,
            escape: EscapeRule::default(),
            escape_ordered: false,
            dialect,
        }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        let name = &self.protocol_name;
        check(name.len() <= wire::MAX_PROTOCOL_NAME, "protocol_name", name, "but has at most 32 bytes on the wire")?;
        check(!name.contains('\0'), "protocol_name", name.escape_debug(), "but ends at its first NUL on the wire")?;
        check(UDP_LENGTH.contains(&self.udp_length), "udp_length", self.udp_length, "not within 64..=8192 bytes")?;
        check(self.crc_length <= 4, "crc_length", self.crc_length, "more than 4 bytes")?;
        let checked = self.crc_length > 0 || self.allow_unchecked;
        check(checked, "crc_length", 0, "which tells nobody from a stranger, and wants allow_unchecked")?;
        self.validate_framing()?;
        let window = 1..=crate::channel::sequence::MAX_DISTANCE as usize;
        let rule = "not within 1..=30000 packets: 16 bits of sequence name no more";
        check(window.contains(&self.recv_window), "recv_window", self.recv_window, rule)?;
        check(window.contains(&self.send_window), "send_window", self.send_window, rule)?;
        self.validate_sizes()?;
        check(self.ack_packets > 0, "ack_packets", self.ack_packets, "but acknowledgements must leave at some time")?;
        let millis = |duration: Duration| format!("{duration:?}");
        let durations = [
            ("heartbeat_after", self.heartbeat_after),
            ("inactivity_timeout", self.inactivity_timeout),
            ("unacknowledged_timeout", self.unacknowledged_timeout),
            ("unread_timeout", self.unread_timeout),
            ("connect_timeout", self.connect_timeout),
            ("close_timeout", self.close_timeout),
            ("linger", self.linger),
            ("net_status_interval", self.net_status_interval),
            ("icmp_grace", self.icmp_grace),
            ("remap_timeout", self.remap_timeout),
            ("port_alive_interval", self.port_alive_interval),
        ];
        for (field, duration) in durations {
            check(duration <= LONGEST, field, millis(duration), "over a year")?;
        }
        let intervals = [
            ("heartbeat_after", self.heartbeat_after),
            ("net_status_interval", self.net_status_interval),
            ("port_alive_interval", self.port_alive_interval),
        ];
        for (field, interval) in intervals {
            let rule = "below 1 ms, which floods the peer";
            check(interval.is_zero() || interval >= Duration::from_millis(1), field, millis(interval), rule)?;
        }
        let delay = self.max_ack_delay;
        check(delay <= Duration::from_millis(100), "max_ack_delay", millis(delay), "over 100 ms: peers resend sooner")?;
        let ride = self.ack_ride_limit;
        check(ride <= Duration::from_millis(100), "ack_ride_limit", millis(ride), "over 100 ms: peers resend sooner")?;
        let timeout = self.connect_timeout;
        check(!timeout.is_zero(), "connect_timeout", millis(timeout), "but nothing answers in no time")?;
        let grace = self.refusal_grace;
        check(grace <= Duration::from_secs(1), "refusal_grace", millis(grace), "over 1 s")?;
        check(self.port_alive_hops > 0, "port_alive_hops", 0, "but a datagram passes at least one router")
    }

    /// A server can keep its offer, and a datagram has room beside it.
    fn validate_framing(&self) -> Result<(), ConfigError> {
        let passes = self.passes.map(u8::from);
        let framing = Framing::new(0, self.crc_length, passes, &self.dialect.codecs);
        let offer = || format!("{}, {}", self.passes[0], self.passes[1]);
        let framing = framing.map_err(|_| ConfigError {
            field: "passes",
            value: offer(),
            rule: "but the dialect has no codec for one of them",
        })?;
        let room = (self.udp_length as usize).saturating_sub(framing.overhead());
        let rule = "which leaves less than 40 bytes beside the CRC and what the codecs may add";
        check(room >= SMALLEST_PACKET, "udp_length", self.udp_length, rule)
    }

    /// The smallest udp length of a peer with which this side's offer works, in bytes.
    pub(crate) fn smallest_udp_length(&self) -> u32 {
        let passes = self.passes.map(u8::from);
        let framing = Framing::new(0, self.crc_length, passes, &self.dialect.codecs);
        let needed = framing.map_or(0, |framing| framing.overhead().saturating_add(SMALLEST_PACKET));
        (*UDP_LENGTH.start()).max(u32::try_from(needed).unwrap_or(u32::MAX))
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let largest = (u32::MAX as usize / 2).min(LARGEST_BUFFER);
        let message = self.max_message_size;
        check((1..=largest).contains(&message), "max_message_size", message, "not within 1 byte to 2 GiB")?;
        let (window, least) = (self.send_window_bytes, 2048);
        let rule = "not within 2048 bytes to 1/64 of the address space";
        check((least..=LARGEST_BUFFER).contains(&window), "send_window_bytes", window, rule)?;
        let rule = "not within 1 byte to 1/64 of the address space";
        for (field, buffer) in [("send_buffer", self.send_buffer), ("recv_buffer", self.recv_buffer)] {
            check((1..=LARGEST_BUFFER).contains(&buffer), field, buffer, rule)?;
        }
        Ok(())
    }
}

/// Builds a [`SessionConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionConfigBuilder {
    settings: Settings,
}

impl SessionConfigBuilder {
    /// Whether a server offers the dialect's compression: pass 0 becomes the dialect's codec, or none.
    pub fn compression(mut self, on: bool) -> Self {
        self.settings.passes[0] = if on { Pass::UserCodec } else { Pass::None };
        self
    }

    /// Sets how one reliable channel behaves.
    pub fn channel(mut self, channel: ReliableChannel, options: ChannelOptions) -> Self {
        self.settings.channels[channel.index()] = options;
        self
    }

    /// The finished configuration.
    ///
    /// # Errors
    /// If a knob is out of its range.
    pub fn build(self) -> Result<SessionConfig, ConfigError> {
        self.settings.validate()?;
        Ok(SessionConfig(Arc::new(self.settings)))
    }
}

setters!(
    SessionConfigBuilder,
    Settings {
        protocol_name: String,
        udp_length: u32,
        crc_length: u8,
        allow_unchecked: bool,
        passes: [Pass; 2],
        recv_window: usize,
        send_window: usize,
        send_window_bytes: usize,
        ack_packets: u32,
        ack_every_packet: bool,
        max_ack_delay: Duration,
        ack_ride_limit: Duration,
        heartbeat_after: Duration,
        inactivity_timeout: Duration,
        unacknowledged_timeout: Duration,
        unread_timeout: Duration,
        connect_timeout: Duration,
        refusal_grace: Duration,
        close_timeout: Duration,
        linger: Duration,
        net_status_interval: Duration,
        icmp_grace: Duration,
        remap_timeout: Duration,
        max_message_size: usize,
        send_buffer: usize,
        recv_buffer: usize,
        overflow: Overflow,
        channels: [ChannelOptions; ReliableChannel::COUNT],
        port_alive_interval: Duration,
        port_alive_hops: u8,
        oversized_unreliable: Oversized,
        bundle_unreliable: bool,
        escape: EscapeRule,
        escape_ordered: bool,
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        let config = SessionConfig::new("LoginUdp_9").unwrap();
        assert_eq!(config.udp_length, 512);
        assert_eq!(config.crc_length, 2);
    }

    #[test]
    fn an_offer_that_cannot_be_kept_is_refused() {
        let refused = |builder: SessionConfigBuilder| builder.build().unwrap_err().field;
        let without_codecs = || SessionConfig::with_dialect(Dialect::everquest2());
        assert_eq!(refused(without_codecs().compression(true)), "passes");
        assert_eq!(refused(without_codecs().passes([Pass::None, Pass::SecondUserCodec])), "passes");
        assert!(without_codecs().passes([Pass::Xor, Pass::Xor]).build().is_ok());
        assert!(SessionConfig::builder("x").udp_length(64).compression(true).build().is_ok());
    }

    #[test]
    fn no_crc_at_all_wants_to_be_allowed() {
        let unchecked = || SessionConfig::builder("x").crc_length(0);
        assert_eq!(unchecked().build().unwrap_err().field, "crc_length");
        assert!(unchecked().allow_unchecked(true).build().is_ok());
    }

    #[test]
    fn sizes_are_refused_where_sums_of_them_would_overflow() {
        let largest = LARGEST_BUFFER;
        let sizes = |bytes: usize| {
            let builder = SessionConfig::builder("x").recv_window(30_000).window(30_000, bytes);
            builder.send_buffer(bytes).recv_buffer(bytes).udp_length(8192).max_message_size(u32::MAX as usize / 2)
        };
        assert!(sizes(largest).build().unwrap().memory_ceiling() > largest);
        assert!(sizes(largest + 1).build().is_err());
        let refused = |builder: SessionConfigBuilder| builder.build().unwrap_err().field;
        assert_eq!(refused(SessionConfig::builder("x").send_buffer(usize::MAX)), "send_buffer");
        assert_eq!(refused(SessionConfig::builder("x").recv_buffer(usize::MAX)), "recv_buffer");
        assert_eq!(refused(SessionConfig::builder("x").send_window_bytes(usize::MAX)), "send_window_bytes");
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let refused = |builder: SessionConfigBuilder| builder.build().unwrap_err().field;
        let builder = || SessionConfig::builder("x");
        assert_eq!(refused(builder().udp_length(63)), "udp_length");
        assert_eq!(refused(builder().udp_length(8193)), "udp_length");
        assert_eq!(refused(builder().crc_length(5)), "crc_length");
        assert_eq!(refused(builder().recv_window(0)), "recv_window");
        assert_eq!(refused(builder().send_window(30_001)), "send_window");
        assert_eq!(refused(builder().max_message_size(0)), "max_message_size");
        assert_eq!(refused(builder().ack_packets(0)), "ack_packets");
        assert_eq!(refused(builder().max_ack_delay(Duration::from_secs(1))), "max_ack_delay");
        assert_eq!(refused(SessionConfig::builder("x".repeat(33))), "protocol_name");
        assert_eq!(refused(SessionConfig::builder("a\0b")), "protocol_name");
    }

    #[test]
    fn an_error_says_what_was_wrong() {
        let error = SessionConfig::builder("x").crc_length(9).build().unwrap_err();
        assert_eq!(error.to_string(), "crc_length is 9, more than 4 bytes");
    }
}
