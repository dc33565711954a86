//! The end of a session and its reason.

use std::fmt;

use bytes::BufMut;

use super::{DecodeError, HEADER_LEN, opcode, reader::Reader};

/// The sender has ended the session. Never acknowledged, never answered.
///
/// ```text
///  0     2           6          8
/// +-----+-----------+----------+
/// |00 05|u32 session|u16 reason|
/// |     |    id     |(optional)|
/// +-----+-----------+----------+
/// ```
///
/// Source: sections 1 and 9 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Disconnect {
    /// The id of the session that ends; 0 in a refusal without a session.
    pub session_id: u32,
    /// The reason; `None` if the packet has none, as with EverQuest's peers.
    pub reason: Option<DisconnectReason>,
}

impl Disconnect {
    pub(super) fn decode(mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { session_id: body.u32()?, reason: body.u16().ok().map(DisconnectReason::from) })
    }

    /// How many bytes [`encode`](Self::encode) appends: 6, or 8 with a reason.
    pub fn encoded_len(&self) -> usize {
        HEADER_LEN + 4 + self.reason.map_or(0, |_| 2)
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::DISCONNECT]);
        out.put_u32(self.session_id);
        if let Some(reason) = self.reason {
            out.put_u16(reason.into());
        }
    }
}

/// The reason why a session ended, as sent on the wire.
///
/// Source: section 9 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// 0: no reason.
    #[default]
    None,
    /// 1: the network reported the peer's address as unreachable.
    IcmpError,
    /// 2: the peer was silent for too long.
    Timeout,
    /// 3: the peer had already ended the session.
    OtherSideTerminated,
    /// 4: the whole endpoint shut down.
    ManagerDeleted,
    /// 5: the session was not established in time.
    ConnectFail,
    /// 6: the application ended it.
    Application,
    /// 7: the peer has no such session and a remap failed.
    UnreachableConnection,
    /// 8: a reliable packet was not acknowledged for too long.
    UnacknowledgedTimeout,
    /// 9: a new session was requested from the same address.
    NewConnectionAttempt,
    /// 10: the server refuses the session.
    ConnectionRefused,
    /// 11: both sides requested a session from each other.
    ConnectError,
    /// 12: the session would connect to itself.
    ConnectingToSelf,
    /// 13: too much reliable data waits.
    ReliableOverflow,
    /// 14: the application dropped the session without closing it.
    ApplicationReleased,
    /// 15: a packet had a valid CRC and invalid content.
    CorruptPacket,
    /// 16: the two sides have different protocols or versions.
    ProtocolMismatch,
    /// The peer acknowledges, but its application has not read for too long. It is sent as 13, which old peers know,
    /// and is never received.
    PeerNotReading,
    /// A number without a known meaning. Made from a number by [`From`], which never makes it for 0 to 16.
    Other(u16),
}

impl From<u16> for DisconnectReason {
    fn from(number: u16) -> Self {
        match number {
            0 => Self::None,
            1 => Self::IcmpError,
            2 => Self::Timeout,
            3 => Self::OtherSideTerminated,
            4 => Self::ManagerDeleted,
            5 => Self::ConnectFail,
            6 => Self::Application,
            7 => Self::UnreachableConnection,
            8 => Self::UnacknowledgedTimeout,
            9 => Self::NewConnectionAttempt,
            10 => Self::ConnectionRefused,
            11 => Self::ConnectError,
            12 => Self::ConnectingToSelf,
            13 => Self::ReliableOverflow,
            14 => Self::ApplicationReleased,
            15 => Self::CorruptPacket,
            16 => Self::ProtocolMismatch,
            other => Self::Other(other),
        }
    }
}

impl From<DisconnectReason> for u16 {
    fn from(reason: DisconnectReason) -> Self {
        match reason {
            DisconnectReason::None => 0,
            DisconnectReason::IcmpError => 1,
            DisconnectReason::Timeout => 2,
            DisconnectReason::OtherSideTerminated => 3,
            DisconnectReason::ManagerDeleted => 4,
            DisconnectReason::ConnectFail => 5,
            DisconnectReason::Application => 6,
            DisconnectReason::UnreachableConnection => 7,
            DisconnectReason::UnacknowledgedTimeout => 8,
            DisconnectReason::NewConnectionAttempt => 9,
            DisconnectReason::ConnectionRefused => 10,
            DisconnectReason::ConnectError => 11,
            DisconnectReason::ConnectingToSelf => 12,
            DisconnectReason::ReliableOverflow | DisconnectReason::PeerNotReading => 13,
            DisconnectReason::ApplicationReleased => 14,
            DisconnectReason::CorruptPacket => 15,
            DisconnectReason::ProtocolMismatch => 16,
            DisconnectReason::Other(number) => number,
        }
    }
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no reason given",
            Self::IcmpError => "the peer's address is unreachable",
            Self::Timeout => "the peer fell silent",
            Self::OtherSideTerminated => "the other side had ended it",
            Self::ManagerDeleted => "the endpoint shut down",
            Self::ConnectFail => "it could not be established in time",
            Self::Application => "ended by the application",
            Self::UnreachableConnection => "the peer does not know the session",
            Self::UnacknowledgedTimeout => "reliable data was not acknowledged in time",
            Self::NewConnectionAttempt => "replaced by a new session from the same address",
            Self::ConnectionRefused => "connection refused",
            Self::ConnectError => "both sides tried to connect to each other",
            Self::ConnectingToSelf => "it was a connection to itself",
            Self::ReliableOverflow => "too much reliable data was waiting",
            Self::ApplicationReleased => "released by the application",
            Self::CorruptPacket => "a packet was corrupt",
            Self::ProtocolMismatch => "the protocols do not match",
            Self::PeerNotReading => "the peer does not read what it is sent",
            Self::Other(number) => return write!(f, "reason {number}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::wire::Packet;

    #[test]
    fn every_number_survives_the_way_through_a_reason() {
        for number in 0..=u16::MAX {
            assert_eq!(u16::from(DisconnectReason::from(number)), number);
        }
    }

    #[test]
    fn only_numbers_above_16_are_unknown() {
        assert!((0..=16).all(|number| !matches!(DisconnectReason::from(number), DisconnectReason::Other(_))));
        assert_eq!(DisconnectReason::from(17), DisconnectReason::Other(17));
        assert_eq!(DisconnectReason::from(16), DisconnectReason::ProtocolMismatch);
    }

    #[test]
    fn no_two_reasons_read_alike() {
        let words: HashSet<String> = (0..=17).map(|number| DisconnectReason::from(number).to_string()).collect();
        assert_eq!(words.len(), 18);
    }

    #[test]
    fn a_disconnect_without_a_reason_field_is_not_one_with_reason_none() {
        let bare = Disconnect { session_id: 0x0102_0304, reason: None };
        assert_eq!(Packet::decode(&[0, 5, 1, 2, 3, 4]), Ok(Packet::Disconnect(bare)));
        let given = Disconnect { reason: Some(DisconnectReason::None), ..bare };
        assert_eq!(Packet::decode(&[0, 5, 1, 2, 3, 4, 0, 0]), Ok(Packet::Disconnect(given)));
    }

    #[test]
    fn half_a_reason_is_none() {
        let Ok(Packet::Disconnect(disconnect)) = Packet::decode(&[0, 5, 1, 2, 3, 4, 9]) else { panic!("refused") };
        assert_eq!(disconnect.reason, None);
    }
}
