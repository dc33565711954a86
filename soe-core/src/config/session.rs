use std::{fmt, ops::Deref, sync::Arc, time::Duration};

use super::{
    ChannelOptions, check,
    choices::{EscapeRule, Overflow, Oversized},
    fields::session_fields,
    setters,
};
use crate::{
    dialect::Dialect,
    error::ConfigError,
    framing::{Framing, Pass},
    message::ReliableChannel,
    wire,
};

/// The configuration of a session. Cloning it is cheap. [`Settings`] documents each setting.
#[derive(Clone)]
pub struct SessionConfig(Arc<Settings>);

impl SessionConfig {
    /// Returns the defaults of version 3 for an application protocol name such as `LoginUdp_9`.
    ///
    /// # Errors
    /// If the name is longer than 32 bytes or contains a NUL.
    pub fn new(protocol_name: impl Into<String>) -> Result<Self, ConfigError> {
        Self::builder(protocol_name).build()
    }

    /// Returns a builder with the defaults of version 3.
    pub fn builder(protocol_name: impl Into<String>) -> SessionConfigBuilder {
        Self::with_dialect(Dialect::version3()).protocol_name(protocol_name.into())
    }

    /// Returns a builder with the known settings of a game family.
    pub fn with_dialect(dialect: Dialect) -> SessionConfigBuilder {
        SessionConfigBuilder { settings: Settings::for_dialect(dialect) }
    }

    /// Returns a builder that starts from this configuration.
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

/// The settings of a session. No duration may exceed a year. No interval at which something is sent may be shorter than
/// 1 ms. The default is in brackets at the end of each description.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// The game family: form of the handshake, passes, codec, timing. \[version 3\]
    pub dialect: Dialect,
    /// The application protocol name that a client requests and a server expects: up to 32 bytes, without NUL. Not used
    /// by dialects whose requests carry no name. \[empty\]
    pub protocol_name: String,
    /// The largest datagram that this side accepts, in bytes, 64 to 8192. The session uses the smaller of the two
    /// sides' values. At least 40 bytes must remain after the CRC and after what the codecs of [`passes`](Self::passes)
    /// may add; a peer that offers less is refused. \[the dialect's: 512, or 496 for Star Wars Galaxies\]
    pub udp_length: u32,
    /// The length of the CRC that a server offers, in bytes: 1 to 4, or 0 with
    /// [`allow_unchecked`](Self::allow_unchecked). A client uses what the server offers. \[the dialect's: 2\]
    pub crc_length: u8,
    /// Allows a [`crc_length`](Self::crc_length) of 0. Use it only in closed networks and with peers that have no CRC.
    /// Without a CRC, forged datagrams are accepted. A client that restarts on the same port also reaches its old
    /// session, and that session's application receives its messages. Applies to servers: a client accepts a length of
    /// 0 in any case. \[off\]
    pub allow_unchecked: bool,
    /// The two passes that a server offers (section 3 of `docs/protocol.md`). The dialect must have the codec of each
    /// user pass. \[the dialect's: none for version 3\]
    pub passes: [Pass; 2],
    /// Packets that each reliable channel holds from the next expected sequence on, 1 to 30,000. While little arrives, a
    /// channel takes fewer: 256, what has arrived within the last second or two, and what it holds already. A stranger
    /// who guesses sequences then finds a small window. \[6,144: what [`recv_window_bytes`](Self::recv_window_bytes)
    /// holds of full datagrams\]
    pub recv_window: usize,
    /// Bytes that each reliable channel holds ahead of a gap, 2 KiB or more. The first 256 packets are held in any case: a
    /// peer that knows nothing of this limit sends as many. \[3 MiB: 16 MB/s over a round trip of 50 ms,
    /// with losses that take two more round trips to repair\]
    pub recv_window_bytes: usize,
    /// The most unacknowledged packets per reliable channel, 1 to 30,000. Until the peer has named its window, the limit is
    /// [`assumed_window`](Self::assumed_window). \[6,144\]
    pub send_window: usize,
    /// The most unacknowledged bytes per reliable channel, 2 KiB or more. Until the peer has named its window, the limit is
    /// [`assumed_window_bytes`](Self::assumed_window_bytes). \[3 MiB\]
    pub send_window_bytes: usize,
    /// Packets that a peer is assumed to hold for each reliable channel, 1 to 30,000. A value above the peer's receive
    /// window causes resends under loss, and corrupts the stream of some peers (section 13 of `docs/protocol.md`).
    /// \[256: every known receiver holds as many; a version 3 server sends 196\]
    pub assumed_window: usize,
    /// Bytes that a peer is assumed to hold for each reliable channel, 2 KiB or more. \[128 KiB: the smallest known receiver
    /// holds 140 KB\]
    pub assumed_window_bytes: usize,
    /// Whether this side names its receive window in the exchange of statistics, and uses the one that the peer names there
    /// (section 8.1 of `docs/protocol.md`). Only peers that use this library do; old peers do not notice. A client that
    /// sends no statistics, see [`net_status_interval`](Self::net_status_interval), names nothing. \[on\]
    pub window_discovery: bool,
    /// Received packets after which an acknowledgement is sent without waiting for data, 1 or more. \[32\]
    pub ack_packets: u32,
    /// Acknowledges each packet at once, in a packet of its own. \[off\]
    pub ack_every_packet: bool,
    /// How long an acknowledgement waits for a datagram with data, up to 100 ms. \[2 ms\]
    pub max_ack_delay: Duration,
    /// The longer wait for an acknowledgement while this side sends messages at a steady interval: it waits for the
    /// next message if that is due within this time. Up to 100 ms; zero disables it. \[60 ms: covers a game that sends
    /// 20 messages a second, and stays well below the shortest known resend timer, 150 ms\]
    pub ack_ride_limit: Duration,
    /// Time without sending after which a heartbeat is sent; zero disables it. If the first probe of
    /// [`inactivity_timeout`](Self::inactivity_timeout) is due earlier, the heartbeat is sent then. \[25 s\]
    pub heartbeat_after: Duration,
    /// Time without a valid datagram from the peer after which the session ends with `Timeout`; zero disables it.
    ///
    /// The peer is probed from 1/4 of this time on, and four times a second in the last 1/8. A server probes from 5/16
    /// on, and only if the peer has answered a probe before. Between two sides of this library, an outage of up to 2/3
    /// of this time ends nothing. Time in which the session was not driven does not count: see
    /// [`Session::handle_timeout`](crate::Session::handle_timeout). \[30 s\]
    pub inactivity_timeout: Duration,
    /// Age of an unacknowledged reliable packet at which the session ends with `UnacknowledgedTimeout`, if the peer has
    /// also acknowledged nothing on that channel in this time. A repeated acknowledgement counts as one. Zero disables
    /// it. \[90 s, as in the original library\]
    pub unacknowledged_timeout: Duration,
    /// Age of an unacknowledged reliable packet at which the session ends with `PeerNotReading`, even if the peer still
    /// sends acknowledgements: its application does not read. Zero disables it. \[10 min\]
    pub unread_timeout: Duration,
    /// How long a client repeats its session request before it gives up; above zero. \[10 s\]
    pub connect_timeout: Duration,
    /// How long a client waits for a refusal after the response, in addition to one round trip, before it reports the
    /// session as connected. Up to 1 s; zero does not wait.
    ///
    /// Servers send a refusal directly after the response (section 6 of `docs/protocol.md`). Any other valid datagram
    /// from the server ends the wait. The round trip is that of the handshake, up to 250 ms: the answer to the client's
    /// first datagram repeats a refusal that was lost. \[20 ms\]
    pub refusal_grace: Duration,
    /// How long a graceful close may take to deliver the queued messages. \[5 s\]
    pub close_timeout: Duration,
    /// How long a closed session answers late datagrams. In this time it repeats its Disconnect, up to six in all. Zero
    /// sends one Disconnect. \[2 s\]
    pub linger: Duration,
    /// Interval between NetStatusRequests, on the side that sends them. Each measures the
    /// [`ping`](crate::SessionStats::ping). Zero disables them. \[45 s\]
    pub net_status_interval: Duration,
    /// How long the session tolerates ICMP errors after the first one. Meanwhile the peer is probed. A valid datagram
    /// clears the errors. \[5 s\]
    pub icmp_grace: Duration,
    /// How long a client requests a remap after its server stopped recognising it. \[5 s\]
    pub remap_timeout: Duration,
    /// The largest message in bytes, in both directions, 1 byte to 2 GiB. A longer reliable message from the peer ends
    /// the session; a longer unreliable one is dropped. \[10 MiB\]
    pub max_message_size: usize,
    /// Bytes per channel that may wait for their first transmission. When it is full, `send` refuses messages. Each
    /// message counts 64 bytes extra. \[1 MiB\]
    pub send_buffer: usize,
    /// Bytes per session that may wait for the application. When it is full, unreliable messages are dropped, and reliable
    /// packets wait in the receive window, which then fills and stops the peer. Each message counts 64 bytes extra.
    /// \[1 MiB\]
    pub recv_buffer: usize,
    /// What to do when a send buffer is full. \[the message is returned\]
    pub overflow: Overflow,
    /// Options of each reliable channel on this side.
    pub channels: [ChannelOptions; ReliableChannel::COUNT],
    /// Time without sending after which a datagram with a small time to live is sent. It refreshes the port mapping of
    /// a home router and does not reach the peer. Zero disables it. \[off\]
    pub port_alive_interval: Duration,
    /// The time to live of that datagram, in hops, 1 or more. \[5, as in the original library\]
    pub port_alive_hops: u8,
    /// What to do with an unreliable message that does not fit one datagram. \[promoted\]
    pub oversized_unreliable: Oversized,
    /// Whether unreliable messages may share a datagram with other packets, in a Multi. Some implementations treat such
    /// a piece as an unknown packet and close the session. \[on\]
    pub bundle_unreliable: bool,
    /// Which messages that begin with 00 are escaped. \[always\]
    pub escape: EscapeRule,
    /// Whether ordered messages (op codes 1A and 1B) that begin with 00 are escaped when sent. Implementations differ;
    /// none removes the escape on receipt. \[off\]
    pub escape_ordered: bool,
}

/// The longest duration that a setting accepts: a year. Sums of deadlines then stay valid on every platform.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3_600);

/// The range of [`Settings::udp_length`], in bytes (section 6 of `docs/protocol.md`).
pub(crate) const UDP_LENGTH: std::ops::RangeInclusive<u32> = 64..=8192;

/// The space that a datagram needs besides its CRC and the growth of codecs, in bytes: the size of the largest packet
/// that cannot be split, a NetStatusRequest or its response.
pub(crate) const SMALLEST_PACKET: usize = wire::NetStatusRequest::ENCODED_LEN;

/// The largest buffer or window in bytes. Sums over all channels and directions then do not overflow.
const LARGEST_BUFFER: usize = usize::MAX / 64;

impl Settings {
    fn for_dialect(dialect: Dialect) -> Self {
        Self {
            protocol_name: String::new(),
            udp_length: dialect.offer.udp_length,
            crc_length: dialect.offer.crc_length,
            allow_unchecked: false,
            passes: dialect.offer.passes,
            recv_window: 6_144,
            recv_window_bytes: 3 << 20,
            send_window: 6_144,
            send_window_bytes: 3 << 20,
            assumed_window: 256,
            assumed_window_bytes: 128 * 1024,
            window_discovery: true,
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
        check(name.len() <= wire::MAX_PROTOCOL_NAME, "protocol_name", name, "over 32 bytes")?;
        check(!name.contains('\0'), "protocol_name", name.escape_debug(), "which contains a NUL")?;
        check(UDP_LENGTH.contains(&self.udp_length), "udp_length", self.udp_length, "not within 64..=8192 bytes")?;
        check(self.crc_length <= 4, "crc_length", self.crc_length, "more than 4 bytes")?;
        let checked = self.crc_length > 0 || self.allow_unchecked;
        check(checked, "crc_length", 0, "which accepts forged datagrams and needs allow_unchecked")?;
        self.validate_framing()?;
        // A window above half of the sequence space would make old and new packets indistinguishable.
        let window = 1..=crate::channel::sequence::MAX_DISTANCE as usize;
        let rule = "not within 1..=30000 packets: sequences have 16 bits";
        let windows = [
            ("recv_window", self.recv_window),
            ("send_window", self.send_window),
            ("assumed_window", self.assumed_window),
        ];
        for (field, packets) in windows {
            check(window.contains(&packets), field, packets, rule)?;
        }
        self.validate_sizes()?;
        check(self.ack_packets > 0, "ack_packets", self.ack_packets, "below 1: acknowledgements must be sent")?;
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
            check(duration <= LONGEST, field, format_args!("{duration:?}"), "over a year")?;
        }
        let intervals = [
            ("heartbeat_after", self.heartbeat_after),
            ("net_status_interval", self.net_status_interval),
            ("port_alive_interval", self.port_alive_interval),
        ];
        for (field, interval) in intervals {
            let rule = "below 1 ms, which floods the peer";
            let is_fine = interval.is_zero() || interval >= Duration::from_millis(1);
            check(is_fine, field, format_args!("{interval:?}"), rule)?;
        }
        for (field, delay) in [("max_ack_delay", self.max_ack_delay), ("ack_ride_limit", self.ack_ride_limit)] {
            let rule = "over 100 ms: peers resend sooner";
            check(delay <= Duration::from_millis(100), field, format_args!("{delay:?}"), rule)?;
        }
        let timeout = self.connect_timeout;
        check(!timeout.is_zero(), "connect_timeout", format_args!("{timeout:?}"), "too short for an answer")?;
        let grace = self.refusal_grace;
        check(grace <= Duration::from_secs(1), "refusal_grace", format_args!("{grace:?}"), "over 1 s")?;
        check(self.port_alive_hops > 0, "port_alive_hops", 0, "below 1")
    }

    /// Checks that the offered passes have codecs and that a datagram has room left.
    fn validate_framing(&self) -> Result<(), ConfigError> {
        let passes = self.passes.map(u8::from);
        let framing = Framing::new(0, self.crc_length, passes, &self.dialect.codecs);
        let offer = || format!("{}, {}", self.passes[0], self.passes[1]);
        let framing = framing.map_err(|_| ConfigError {
            field: "passes",
            value: offer(),
            rule: "but the dialect has no codec for one of the passes",
        })?;
        let room = (self.udp_length as usize).saturating_sub(framing.overhead());
        let rule = "which leaves less than 40 bytes after the CRC and the growth of the codecs";
        check(room >= SMALLEST_PACKET, "udp_length", self.udp_length, rule)
    }

    /// The smallest udp length of a peer, in bytes, that works with this side's offer.
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
        let rule = "not within 2048 bytes to 1/64 of the address space";
        let windows = [
            ("recv_window_bytes", self.recv_window_bytes),
            ("send_window_bytes", self.send_window_bytes),
            ("assumed_window_bytes", self.assumed_window_bytes),
        ];
        for (field, bytes) in windows {
            check((2048..=LARGEST_BUFFER).contains(&bytes), field, bytes, rule)?;
        }
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
    /// Sets whether a server offers the dialect's compression: pass 0 becomes the dialect's codec, or none.
    pub fn compression(mut self, on: bool) -> Self {
        self.settings.passes[0] = if on { Pass::UserCodec } else { Pass::None };
        self
    }

    /// Sets the options of one reliable channel.
    pub fn channel(mut self, channel: ReliableChannel, options: ChannelOptions) -> Self {
        self.settings.channels[channel.index()] = options;
        self
    }

    /// Validates the settings.
    ///
    /// # Errors
    /// [`ConfigError`] names the first setting that is out of range.
    pub fn build(self) -> Result<SessionConfig, ConfigError> {
        self.settings.validate()?;
        Ok(SessionConfig(Arc::new(self.settings)))
    }
}

session_fields!(setters! { SessionConfigBuilder, Settings, });

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
    fn passes_without_a_codec_are_refused() {
        let refused = |builder: SessionConfigBuilder| builder.build().unwrap_err().field;
        let without_codecs = || SessionConfig::with_dialect(Dialect::everquest2());
        assert_eq!(refused(without_codecs().compression(true)), "passes");
        assert_eq!(refused(without_codecs().passes([Pass::None, Pass::SecondUserCodec])), "passes");
        assert!(without_codecs().passes([Pass::Xor, Pass::Xor]).build().is_ok());
        assert!(SessionConfig::builder("x").udp_length(64).compression(true).build().is_ok());
    }

    #[test]
    fn a_crc_length_of_zero_must_be_allowed() {
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
