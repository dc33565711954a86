//! The wire format: bytes to [`Packet`] and back, without state.
//!
//! A datagram without its CRC and passes is one packet. So is each piece of a [`Multi`]. A reliable payload and each
//! element of a [`Group`] are a [`Payload`], in which only the escape and the Group have a meaning. [`Packet::decode`]
//! does not open Multis and Groups; the caller that does must limit the depth to [`MAX_NESTING`].
//!
//! Integers are big-endian. The sources are the sections of `docs/protocol.md`.
#![expect(clippy::exhaustive_structs, reason = "the fields of a packet are what the wire has, no more can come")]

mod control;
pub mod group;
mod handshake;
pub mod multi;
mod net_status;
pub mod opcode;
mod reader;
mod reliable;
pub mod schema;
mod window;

use thiserror::Error;

pub use control::{Disconnect, DisconnectReason};
pub use group::{Group, GroupElements};
pub use handshake::{MAX_PROTOCOL_NAME, RemapConnection, SessionRequest, SessionResponse};
pub use multi::{MAX_MULTI_PIECE, Multi, MultiPieces};
pub use net_status::{NetStatusRequest, NetStatusResponse};
pub use reliable::{
    Acknowledge, AcknowledgeAll, OrderedData, OrderedStream, ReliableData, ReliableFragment, SEQUENCED_HEADER_LEN,
};
pub use window::NamedWindow;

use reader::Reader;

/// The length of an op code in bytes.
pub const HEADER_LEN: usize = 2;

/// The deepest nesting of Multis and Groups that is accepted.
///
/// No known peer exceeds 2. A datagram could hold thousands. Source: section 5 of `docs/protocol.md`.
pub const MAX_NESTING: usize = 8;

/// The content of a datagram, or of one piece of a Multi.
///
/// Source: section 1 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Packet<'a> {
    /// 01: a client requests a session.
    SessionRequest(SessionRequest<'a>),
    /// 02: the server's response.
    SessionResponse(SessionResponse),
    /// 03: several packets.
    Multi(Multi<'a>),
    /// 05: the sender has ended the session.
    Disconnect(Disconnect),
    /// 06: keep-alive. Bytes after the op code are ignored.
    Heartbeat,
    /// 07: clock and statistics, request.
    NetStatusRequest(NetStatusRequest),
    /// 08: clock and statistics, response.
    NetStatusResponse(NetStatusResponse),
    /// 09 to 0C: a whole reliable packet.
    Reliable(ReliableData<'a>),
    /// 0D to 10: a fragment of a long reliable message.
    Fragment(ReliableFragment<'a>),
    /// 11 to 14: one reliable packet arrived.
    Acknowledge(Acknowledge),
    /// 15 to 18: all reliable packets up to one arrived.
    AcknowledgeAll(AcknowledgeAll),
    /// 19: several messages outside of a reliable packet. Unusual but valid.
    Group(Group<'a>),
    /// 1A or 1B: ordered data.
    Ordered(OrderedData<'a>),
    /// 1C: keeps a port mapping alive; ignored on receipt. What follows the op code is ignored too.
    PortAlive,
    /// 1D: the peer has no session for this address. Some peers append 4 bytes, which are ignored.
    UnknownSender,
    /// 1E: a client moves its session to a new address.
    RemapConnection(RemapConnection),
    /// 1F: reserved, never seen. What follows the op code is ignored.
    Reserved,
    /// 20: a query for the state of the server, with the bytes after the op code.
    ServerStatus(&'a [u8]),
    /// Application data, with its escape off: whatever the bytes, they are the application's.
    ///
    /// ```text
    /// XX ...       first byte not 0, or a single byte: the data as it is
    /// 00 00 ...    the data from the second byte on
    /// ```
    Data(&'a [u8]),
}

impl<'a> Packet<'a> {
    /// Reads a datagram whose CRC and passes are off, or one piece of a Multi. Copies nothing.
    ///
    /// Bytes after the last known field are ignored, as every known peer ignores them.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] when the bytes are no packet. The contents of Multi and Group are not checked here: their
    /// iterators report errors of their own.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let Some(opcode) = opcode::of(bytes) else {
            return if bytes.is_empty() { Err(DecodeError::Empty) } else { Ok(Self::Data(bytes)) };
        };
        let body = Reader::new(opcode, bytes);
        Ok(match opcode {
            opcode::ESCAPE => Self::Data(&bytes[1..]),
            opcode::SESSION_REQUEST => Self::SessionRequest(SessionRequest::decode(body)?),
            opcode::SESSION_RESPONSE => Self::SessionResponse(SessionResponse::decode(body)?),
            opcode::MULTI => Self::Multi(Multi::new(body.rest())),
            opcode::DISCONNECT => Self::Disconnect(Disconnect::decode(body)?),
            opcode::HEARTBEAT => Self::Heartbeat,
            opcode::NET_STATUS_REQUEST => Self::NetStatusRequest(NetStatusRequest::decode(body)?),
            opcode::NET_STATUS_RESPONSE => Self::NetStatusResponse(NetStatusResponse::decode(body)?),
            0x09..=0x0C => Self::Reliable(ReliableData::decode(opcode, body)?),
            0x0D..=0x10 => Self::Fragment(ReliableFragment::decode(opcode, body)?),
            0x11..=0x14 => Self::Acknowledge(Acknowledge::decode(opcode, body)?),
            0x15..=0x18 => Self::AcknowledgeAll(AcknowledgeAll::decode(opcode, body)?),
            opcode::GROUP => Self::Group(Group::new(body.rest())),
            opcode::ORDERED => Self::Ordered(OrderedData::decode(OrderedStream::One, body)?),
            opcode::ORDERED_2 => Self::Ordered(OrderedData::decode(OrderedStream::Two, body)?),
            opcode::PORT_ALIVE => Self::PortAlive,
            opcode::UNKNOWN_SENDER => Self::UnknownSender,
            opcode::REMAP_CONNECTION => Self::RemapConnection(RemapConnection::decode(body)?),
            opcode::RESERVED => Self::Reserved,
            opcode::SERVER_STATUS => Self::ServerStatus(body.rest()),
            unknown => return Err(DecodeError::UnknownOpCode(unknown)),
        })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::SessionRequest(packet) => packet.encoded_len(),
            Self::SessionResponse(packet) => packet.encoded_len(),
            Self::Multi(packet) => packet.encoded_len(),
            Self::Disconnect(packet) => packet.encoded_len(),
            Self::NetStatusRequest(_) => NetStatusRequest::ENCODED_LEN,
            Self::NetStatusResponse(_) => NetStatusResponse::ENCODED_LEN,
            Self::Reliable(packet) => packet.encoded_len(),
            Self::Fragment(packet) => packet.encoded_len(),
            Self::Acknowledge(_) => Acknowledge::ENCODED_LEN,
            Self::AcknowledgeAll(_) => AcknowledgeAll::ENCODED_LEN,
            Self::Group(packet) => packet.encoded_len(),
            Self::Ordered(packet) => packet.encoded_len(),
            Self::RemapConnection(packet) => packet.encoded_len(),
            Self::ServerStatus(body) => HEADER_LEN + body.len(),
            Self::Data(data) => escaped_len(data),
            Self::Heartbeat | Self::PortAlive | Self::UnknownSender | Self::Reserved => HEADER_LEN,
        }
    }

    /// Appends the packet to `out`, as a datagram before passes and CRC, or as a piece of a Multi.
    ///
    /// Data that begins with 0 is escaped. Empty data has no form on the wire and appends nothing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::SessionRequest(packet) => packet.encode(out),
            Self::SessionResponse(packet) => packet.encode(out),
            Self::Multi(packet) => packet.encode(out),
            Self::Disconnect(packet) => packet.encode(out),
            Self::Heartbeat => out.extend_from_slice(&[0, opcode::HEARTBEAT]),
            Self::NetStatusRequest(packet) => packet.encode(out),
            Self::NetStatusResponse(packet) => packet.encode(out),
            Self::Reliable(packet) => packet.encode(out),
            Self::Fragment(packet) => packet.encode(out),
            Self::Acknowledge(packet) => packet.encode(out),
            Self::AcknowledgeAll(packet) => packet.encode(out),
            Self::Group(packet) => packet.encode(out),
            Self::Ordered(packet) => packet.encode(out),
            Self::PortAlive => out.extend_from_slice(&[0, opcode::PORT_ALIVE]),
            Self::UnknownSender => out.extend_from_slice(&[0, opcode::UNKNOWN_SENDER]),
            Self::RemapConnection(packet) => packet.encode(out),
            Self::Reserved => out.extend_from_slice(&[0, opcode::RESERVED]),
            Self::ServerStatus(body) => {
                out.extend_from_slice(&[0, opcode::SERVER_STATUS]);
                out.extend_from_slice(body);
            }
            Self::Data(data) => put_escaped(out, data),
        }
    }
}

/// What a reliable payload, a reassembled message or an element of a [`Group`] is.
///
/// Only `00 19` and `00 00` mean anything in these places. Peers put nothing else there that begins with 0, except those
/// that escape encrypted messages only; theirs is a message as it is. Source: section 1 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "nothing else means anything inside a reliable payload")]
pub enum Payload<'a> {
    /// One message, *with* its escape: [`unescape`] removes it, if it is known that one was added.
    Message(&'a [u8]),
    /// Several.
    Group(Group<'a>),
}

impl<'a> Payload<'a> {
    /// Tells which of the two these bytes are. There is nothing that they could not be.
    pub fn classify(bytes: &'a [u8]) -> Self {
        match bytes {
            [0, opcode::GROUP, body @ ..] => Self::Group(Group::new(body)),
            message => Self::Message(message),
        }
    }
}

/// Whether a message must be sent with one extra 0 in front: it begins with 0.
///
/// Source: section 1 of `docs/protocol.md`.
pub const fn needs_escape(message: &[u8]) -> bool {
    matches!(message, [0, ..])
}

/// How many bytes [`put_escaped`] appends.
pub const fn escaped_len(message: &[u8]) -> usize {
    message.len() + needs_escape(message) as usize
}

/// Appends a message, with one extra 0 in front if it needs that.
pub fn put_escaped(out: &mut Vec<u8>, message: &[u8]) {
    if needs_escape(message) {
        out.push(0);
    }
    out.extend_from_slice(message);
}

/// The message without its escape: one 0 is taken off, and only from the front of two.
pub const fn unescape(bytes: &[u8]) -> &[u8] {
    match bytes.split_first() {
        Some((0, message)) if needs_escape(message) => message,
        _ => bytes,
    }
}

/// The bytes are not a valid packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// There are no bytes at all.
    #[error("the packet is empty")]
    Empty,
    /// The op code has no meaning.
    #[error("op code {0:#04x} is unknown")]
    UnknownOpCode(u8),
    /// The packet ends before its last mandatory field.
    #[error("a packet with op code {opcode:#04x} cannot be only {length} bytes long")]
    Truncated {
        /// Of the packet.
        opcode: u8,
        /// Of the whole packet, in bytes.
        length: usize,
    },
    /// The protocol name of a session request is longer than [`MAX_PROTOCOL_NAME`].
    #[error("the protocol name is longer than {MAX_PROTOCOL_NAME} bytes")]
    NameTooLong,
    /// The Group ends within the length of an element.
    #[error("the length of an element is cut off")]
    TruncatedLength,
    /// The length of a piece or an element reaches beyond the packet.
    #[error("a length of {length} exceeds the {left} bytes left")]
    LengthBeyondEnd {
        /// As read, in bytes.
        length: u32,
        /// In the packet after the length, in bytes.
        left: usize,
    },
    /// The length byte FF occurs in a Multi, and no reading of it makes the last piece end with the packet.
    #[error("no reading of the piece lengths ends with the packet")]
    NoPieceBoundary,
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(packet: Packet<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        packet.encode(&mut out);
        out
    }

    #[test]
    fn nothing_is_no_packet() {
        assert_eq!(Packet::decode(&[]), Err(DecodeError::Empty));
    }

    #[test]
    fn a_single_byte_is_data_whatever_it_is() {
        for byte in 0..=u8::MAX {
            assert_eq!(Packet::decode(&[byte]), Ok(Packet::Data(&[byte])));
        }
    }

    #[test]
    fn what_does_not_begin_with_zero_is_data() {
        assert_eq!(Packet::decode(&[5, 0, 3]), Ok(Packet::Data(&[5, 0, 3])));
    }

    #[test]
    fn exactly_one_zero_of_escaped_data_is_taken_off() {
        assert_eq!(Packet::decode(&[0, 0]), Ok(Packet::Data(&[0])));
        assert_eq!(Packet::decode(&[0, 0, 0, 9]), Ok(Packet::Data(&[0, 0, 9])));
        assert_eq!(Packet::decode(&[0, 0, 0x19]), Ok(Packet::Data(&[0, 0x19])));
    }

    #[test]
    fn data_that_looks_like_a_packet_is_escaped() {
        assert_eq!(encoded(Packet::Data(&[0, 0x19, 1])), [0, 0, 0x19, 1]);
        assert_eq!(encoded(Packet::Data(&[0])), [0, 0]);
        assert_eq!(encoded(Packet::Data(&[9, 0])), [9, 0]);
    }

    #[test]
    fn op_codes_without_meaning_are_errors() {
        for opcode in [0x04, 0x21, 0x7F, 0xFF] {
            assert_eq!(Packet::decode(&[0, opcode, 1, 2, 3, 4]), Err(DecodeError::UnknownOpCode(opcode)));
        }
    }

    #[test]
    fn packets_without_a_body_ignore_what_follows() {
        let bare = [
            (0x06, Packet::Heartbeat),
            (0x1C, Packet::PortAlive),
            (0x1D, Packet::UnknownSender),
            (0x1F, Packet::Reserved),
        ];
        for (opcode, packet) in bare {
            assert_eq!(Packet::decode(&[0, opcode]), Ok(packet));
            assert_eq!(Packet::decode(&[0, opcode, 1, 2, 3, 4]), Ok(packet));
            assert_eq!(encoded(packet), [0, opcode]);
        }
    }

    #[test]
    fn a_plain_message_that_begins_like_a_group_stays_a_message_once_escaped() {
        let mut payload = Vec::new();
        put_escaped(&mut payload, &[0, 0x19, 1, 2]);
        assert_eq!(Payload::classify(&payload), Payload::Message(&[0, 0, 0x19, 1, 2]));
        assert_eq!(unescape(&payload), [0, 0x19, 1, 2]);
    }

    #[test]
    fn inside_a_payload_no_other_op_code_means_anything() {
        for opcode in (0..=u8::MAX).filter(|&opcode| opcode != opcode::GROUP) {
            let bytes = [0, opcode, 1];
            assert_eq!(Payload::classify(&bytes), Payload::Message(&bytes));
        }
        assert_eq!(Payload::classify(&[0, 0x19]), Payload::Group(Group::new(&[])));
        assert_eq!(Payload::classify(&[0]), Payload::Message(&[0]));
        assert_eq!(Payload::classify(&[]), Payload::Message(&[]));
    }

    #[test]
    fn a_lone_zero_is_not_unescaped() {
        assert_eq!(unescape(&[0]), [0]);
        assert_eq!(unescape(&[0, 5]), [0, 5]);
        assert_eq!(unescape(&[0, 0]), [0]);
        assert_eq!(unescape(&[0, 0, 0]), [0, 0]);
        assert!(unescape(&[]).is_empty());
    }
}
