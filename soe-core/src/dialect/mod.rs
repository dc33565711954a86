//! Dialects: what each family of games sends in the handshake and offers for the session.
//!
//! A [`Dialect`] is plain data. No other module depends on the game: the negotiated response decides how a session
//! runs, and the dialect decides what to offer and to accept.

mod presets;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::framing::{Codec, Framing, NegotiationError, Pass};

/// What distinguishes one family of games from another (sections 3, 6, 8 and 9 of `docs/protocol.md`).
///
/// Take the preset of a game and change what differs:
///
/// ```
/// use soe_core::{Dialect, Pass};
///
/// let dialect = Dialect::version3().with_name("my game").with_passes([Pass::UserCodec, Pass::None]);
/// assert_eq!(dialect.offer.udp_length, 512);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dialect {
    /// The name for logs and command lines.
    pub name: Cow<'static, str>,
    /// The form of the session request and response.
    pub handshake: Handshake,
    /// The values of a server's response.
    pub offer: Offer,
    /// The codecs of [`Pass::UserCodec`] and [`Pass::SecondUserCodec`]. A side without the required codec refuses the
    /// session.
    pub codecs: [Option<Codec>; 2],
    /// Behaviour that peers of this family rely on.
    pub policies: Policies,
    /// Times that this family uses instead of the session's defaults.
    pub timing: Timing,
}

/// The form of the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Handshake {
    /// The transport version that a client sends.
    pub version: u32,
    /// The versions that a server accepts.
    pub accepts: Versions,
    /// Whether the request carries the application's protocol name. Without it the request has 14 bytes.
    pub named: bool,
    /// The end of a server's response. A client accepts every form.
    pub trailer: ResponseTrailer,
}

/// The transport versions that a server accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Versions {
    /// Every version.
    Any,
    /// Only this one.
    Exactly(u32),
    /// One of these.
    OneOf(Arc<[u32]>),
}

impl Versions {
    /// Whether this version is accepted.
    pub fn accept(&self, version: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(only) => *only == version,
            Self::OneOf(several) => several.contains(&version),
        }
    }
}

/// The end of a session response, after the udp length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the response has two forms")]
pub enum ResponseTrailer {
    /// Nothing: 17 bytes in total.
    None,
    /// A version word: 21 bytes in total.
    Version(u32),
}

/// The values of a server's response, which clients use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Offer {
    /// The length of the CRC in bytes, 0 to 4.
    pub crc_length: u8,
    /// The two passes, in the order of sending.
    pub passes: [Pass; 2],
    /// The largest datagram that this side accepts, in bytes. Clients send it in their request too.
    pub udp_length: u32,
}

/// Behaviour that peers of one family rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policies {
    /// Whether a server answers a heartbeat with a heartbeat, if it has sent nothing recently.
    pub answers_heartbeat: bool,
    /// Whether a Disconnect carries a reason. Both forms are accepted.
    pub disconnect_reason: bool,
    /// Which side sends NetStatusRequests. Both sides always respond.
    pub asks_net_status: AsksNetStatus,
    /// When a server's session opens.
    pub opens_on: OpensOn,
}

/// The side that sends NetStatusRequests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "there are two sides")]
pub enum AsksNetStatus {
    /// The client, as in every known game.
    Client,
    /// The server.
    Server,
    /// Both sides.
    Both,
    /// Neither side.
    Nobody,
}

impl AsksNetStatus {
    /// Whether the connecting side sends them.
    pub const fn client(self) -> bool {
        matches!(self, Self::Client | Self::Both)
    }

    /// Whether the accepting side sends them.
    pub const fn server(self) -> bool {
        matches!(self, Self::Server | Self::Both)
    }
}

/// When a server's session opens and may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "no third moment exists")]
pub enum OpensOn {
    /// With the first valid datagram, which proves that the client received the response.
    FirstDatagram,
    /// With the response, for games whose server sends first.
    Response,
}

/// Times that a family uses. `None` is the session's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timing {
    /// The interval between NetStatusRequests.
    pub net_status_interval: Option<Duration>,
    /// The time without sending after which a heartbeat is sent.
    pub heartbeat_after: Option<Duration>,
    /// The longest delay of an acknowledgement.
    pub max_ack_delay: Option<Duration>,
}

impl Dialect {
    /// The framing for a session response with these values.
    ///
    /// # Errors
    ///
    /// Those of [`Framing::new`].
    pub fn framing(&self, crc_seed: u32, crc_length: u8, passes: [u8; 2]) -> Result<Framing, NegotiationError> {
        Framing::new(crc_seed, crc_length, passes, &self.codecs)
    }

    /// The same dialect under another name.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.name = name.into();
        self
    }

    /// The same dialect, with this transport version for clients.
    #[must_use]
    pub const fn with_version(mut self, version: u32) -> Self {
        self.handshake.version = version;
        self
    }

    /// The same dialect, with these transport versions accepted by servers.
    #[must_use]
    pub fn with_accepted_versions(mut self, versions: Versions) -> Self {
        self.handshake.accepts = versions;
        self
    }

    /// The same dialect with or without a protocol name in the request.
    #[must_use]
    pub const fn with_protocol_name(mut self, named: bool) -> Self {
        self.handshake.named = named;
        self
    }

    /// The same dialect, with this end of the response.
    #[must_use]
    pub const fn with_trailer(mut self, trailer: ResponseTrailer) -> Self {
        self.handshake.trailer = trailer;
        self
    }

    /// The same dialect offering a CRC of this many bytes, 0 to 4.
    #[must_use]
    pub const fn with_crc_length(mut self, bytes: u8) -> Self {
        self.offer.crc_length = bytes;
        self
    }

    /// The same dialect offering these passes.
    #[must_use]
    pub const fn with_passes(mut self, passes: [Pass; 2]) -> Self {
        self.offer.passes = passes;
        self
    }

    /// The same dialect, accepting datagrams of up to this many bytes.
    #[must_use]
    pub const fn with_udp_length(mut self, bytes: u32) -> Self {
        self.offer.udp_length = bytes;
        self
    }

    /// The same dialect, with this codec for [`Pass::UserCodec`].
    #[must_use]
    pub fn with_codec(mut self, codec: impl Into<Codec>) -> Self {
        self.codecs[0] = Some(codec.into());
        self
    }

    /// The same dialect, with this codec for [`Pass::SecondUserCodec`].
    #[must_use]
    pub fn with_second_codec(mut self, codec: impl Into<Codec>) -> Self {
        self.codecs[1] = Some(codec.into());
        self
    }

    /// The same dialect, with or without answers to heartbeats.
    #[must_use]
    pub const fn with_heartbeat_answers(mut self, answers: bool) -> Self {
        self.policies.answers_heartbeat = answers;
        self
    }

    /// The same dialect, with or without a reason in the Disconnect.
    #[must_use]
    pub const fn with_disconnect_reason(mut self, present: bool) -> Self {
        self.policies.disconnect_reason = present;
        self
    }

    /// The same dialect, with NetStatusRequests from this side.
    #[must_use]
    pub const fn with_net_status(mut self, asks: AsksNetStatus) -> Self {
        self.policies.asks_net_status = asks;
        self
    }

    /// The same dialect, with server sessions that open at this time.
    #[must_use]
    pub const fn with_opening(mut self, opens_on: OpensOn) -> Self {
        self.policies.opens_on = opens_on;
        self
    }

    /// The same dialect, with these times.
    #[must_use]
    pub const fn with_timing(mut self, timing: Timing) -> Self {
        self.timing = timing;
        self
    }
}

impl Timing {
    /// The same times with this interval between requests for statistics.
    #[must_use]
    pub const fn with_net_status_interval(mut self, interval: Duration) -> Self {
        self.net_status_interval = Some(interval);
        self
    }

    /// The same times, with a heartbeat after this long without sending.
    #[must_use]
    pub const fn with_heartbeat_after(mut self, silence: Duration) -> Self {
        self.heartbeat_after = Some(silence);
        self
    }

    /// The same times, with this longest delay of an acknowledgement.
    #[must_use]
    pub const fn with_max_ack_delay(mut self, delay: Duration) -> Self {
        self.max_ack_delay = Some(delay);
        self
    }
}

impl Default for Dialect {
    /// [`Dialect::version3`].
    fn default() -> Self {
        Self::version3()
    }
}
