//! What an analysis reports.

use std::io;
use std::net::SocketAddr;

use serde::Serialize;
use soe_core::ReliableChannel;

use super::finding::Finding;

/// Takes what an analysis reports, in the order of the capture.
pub trait Sink {
    /// Takes one event.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from going on, such as a closed pipe: the analysis stops with it.
    fn event(&mut self, event: &Event<'_>) -> io::Result<()>;
}

impl<F: FnMut(&Event<'_>) -> io::Result<()>> Sink for F {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self(event)
    }
}

/// Which way something travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[expect(clippy::exhaustive_enums, reason = "a session has two sides")]
pub enum Direction {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
}

impl Direction {
    /// The other one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }

    /// 0 to the server, 1 to the client.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name that JSON and options use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ToServer => "to-server",
            Self::ToClient => "to-client",
        }
    }
}

/// One thing that happened in a session, or outside of any.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// The session, numbered from 1 in the order of appearance; 0 outside of any.
    pub session: u32,
    /// Which way the datagram travelled that brought it.
    pub direction: Direction,
    /// What it is.
    pub kind: EventKind<'a>,
}

/// The kinds of [`Event`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// A session begins, or is first seen.
    Opened(&'a SessionInfo),
    /// A datagram of the session, CRC and passes off.
    Datagram {
        /// Bytes of UDP payload on the wire.
        length: usize,
        /// The plain packet.
        packet: &'a [u8],
        /// Whether a CRC was there and held.
        is_checked: bool,
    },
    /// A reliable packet or fragment, the first time or again.
    Reliable {
        /// Its channel.
        channel: ReliableChannel,
        /// Its sequence number, widened.
        sequence: u64,
        /// Bytes of the whole packet.
        length: usize,
        /// Whether it is a fragment.
        is_fragment: bool,
        /// The how-manieth of its kind it is.
        transmission: Transmission,
    },
    /// An acknowledgement.
    Acknowledged {
        /// The channel that it is about; the data travels the other way.
        channel: ReliableChannel,
        /// The sequence number, widened.
        sequence: u64,
        /// Whether it speaks for everything before it too.
        is_cumulative: bool,
    },
    /// The time from a packet that was sent once to its acknowledgement, as seen where the capture was made.
    RoundTrip {
        /// In nanoseconds.
        time: u64,
    },
    /// Reliable bytes and packets under way against the direction of the event, after an acknowledgement; or along it,
    /// after a packet.
    InFlight {
        /// Which way they travel.
        direction: Direction,
        /// Bytes of packets not acknowledged, over all channels.
        bytes: usize,
        /// Packets.
        packets: usize,
    },
    /// A whole application message.
    Message(Message<'a>),
    /// Something is wrong, or worth knowing.
    Finding(&'a Finding),
    /// The session is over, or the capture is.
    Closed(&'a SessionSummary),
}

/// Why a reliable packet is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Transmission {
    /// The first time.
    First,
    /// The first time, behind newer packets: it was overtaken, or lost before the capture and sent again.
    Late,
    /// Again, after the peer had acknowledged something newer.
    ResendAfterGap,
    /// Again, after a time without such a hint.
    ResendAfterTimeout,
    /// Again within one round trip, without any hint: a copy made in advance.
    ResendEarly,
    /// Again although it had been acknowledged.
    ResendNeedless,
}

impl Transmission {
    /// Whether it was seen before.
    pub const fn is_resend(self) -> bool {
        !matches!(self, Self::First | Self::Late)
    }
}

/// How a message travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these kinds")]
pub enum Carrier {
    /// On a reliable channel, with the sequence number of its first packet.
    Reliable(ReliableChannel, u64),
    /// As raw data.
    Unreliable,
    /// Ordered, under this stamp; the flag tells 1B from 1A.
    Ordered(bool, u16),
}

/// One whole application message.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Message<'a> {
    /// How it travelled.
    pub carrier: Carrier,
    /// Numbers the reliable messages of the direction from 0, over all channels; what keys count by.
    pub number: u64,
    /// The bytes, its escape off, decrypted where a key was at hand.
    pub payload: &'a [u8],
    /// Whether a key was applied.
    pub is_decrypted: bool,
    /// Packets that it came in; 1 unless it was cut into fragments.
    pub packets: u32,
    /// From the first packet of it to the last, in nanoseconds.
    pub took: u64,
}

/// Who talks to whom, and how.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SessionInfo {
    /// The side that asked for the session, or is taken for it.
    pub client: SocketAddr,
    /// The other side.
    pub server: SocketAddr,
    /// Where the rest is known from.
    pub origin: Origin,
    /// The game family whose codec is used.
    pub dialect: String,
    /// The client's id for the session.
    pub session_id: Option<u32>,
    /// What the CRC and the XOR chain start from.
    pub crc_seed: Option<u32>,
    /// Bytes of CRC, 0 to 4.
    pub crc_length: u8,
    /// The two passes.
    pub passes: [u8; 2],
    /// The smaller of the two offers, in bytes.
    pub udp_length: Option<u32>,
    /// The transport version that the client sent.
    pub version: Option<u32>,
    /// The application's name for what it speaks.
    pub protocol_name: Option<String>,
    /// What was found out without being told, in words.
    pub inferred: Vec<String>,
}

/// Where a session's parameters are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Origin {
    /// From its handshake.
    Handshake,
    /// From the file's secrets or from options.
    Given,
    /// From the datagrams themselves.
    Inferred,
}

/// What there was in a session, in each direction: to the server, to the client.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct SessionSummary {
    /// Who talked to whom, and how.
    pub info: SessionInfo,
    /// When it was first seen, in nanoseconds since 1970.
    pub first: u64,
    /// When it was last seen.
    pub last: u64,
    /// How it ended, if a Disconnect was seen.
    pub ended: Option<String>,
    /// To the server, to the client.
    pub directions: [Counters; 2],
}

/// Counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams.
    pub datagrams: u64,
    /// Bytes of UDP payload.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// Reliable packets, each counted once.
    pub reliable_packets: u64,
    /// Reliable packets sent again, by [`Transmission`].
    pub resent_after_gap: u64,
    /// See above.
    pub resent_after_timeout: u64,
    /// See above.
    pub resent_early: u64,
    /// See above.
    pub resent_needlessly: u64,
    /// Packets first seen behind newer ones.
    pub late: u64,
    /// Packets that were acknowledged and are not in the capture.
    pub missing: u64,
    /// Datagrams whose CRC is wrong.
    pub bad_crc: u64,
    /// Datagrams that are impossible behind a valid CRC.
    pub corrupt: u64,
    /// Findings of any kind.
    pub findings: u64,
    /// Round trips measured for data of this direction.
    pub round_trips: u64,
    /// The shortest, in nanoseconds.
    pub round_trip_min: u64,
    /// Their smoothed average.
    pub round_trip_smoothed: u64,
    /// The longest.
    pub round_trip_max: u64,
    /// The most bytes under way at once.
    pub in_flight_max: u64,
}

impl Counters {
    /// Reliable packets sent again, for whatever reason.
    pub const fn resent(&self) -> u64 {
        self.resent_after_gap + self.resent_after_timeout + self.resent_early + self.resent_needlessly
    }
}
