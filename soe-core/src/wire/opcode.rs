//! The op codes: the second byte of every packet whose first byte is 0.
//!
//! Source: section 1 of `docs/protocol.md`.

use crate::message::ReliableChannel;

/// `00 00`: application data that itself begins with 0.
pub const ESCAPE: u8 = 0x00;
/// A client asks for a session.
pub const SESSION_REQUEST: u8 = 0x01;
/// The server answers with the session's parameters.
pub const SESSION_RESPONSE: u8 = 0x02;
/// Several packets in one datagram.
pub const MULTI: u8 = 0x03;
/// The session is over.
pub const DISCONNECT: u8 = 0x05;
/// Nothing but a sign of life.
pub const HEARTBEAT: u8 = 0x06;
/// A clock and statistics report that requests an answer.
pub const NET_STATUS_REQUEST: u8 = 0x07;
/// The answer to a [`NET_STATUS_REQUEST`].
pub const NET_STATUS_RESPONSE: u8 = 0x08;
/// Reliable data on channel 0; the next three op codes are channels 1 to 3.
pub const RELIABLE: u8 = 0x09;
/// A piece of a long reliable message on channel 0; the next three op codes are channels 1 to 3.
pub const FRAGMENT: u8 = 0x0D;
/// One packet of channel 0 arrived; the next three op codes are channels 1 to 3.
pub const ACKNOWLEDGE: u8 = 0x11;
/// All packets of channel 0 up to one arrived; the next three op codes are channels 1 to 3.
pub const ACKNOWLEDGE_ALL: u8 = 0x15;
/// Several messages in one reliable payload.
pub const GROUP: u8 = 0x19;
/// Ordered data, first stream.
pub const ORDERED: u8 = 0x1A;
/// Ordered data, second stream.
pub const ORDERED_2: u8 = 0x1B;
/// Keeps a port mapping alive; means nothing to the receiver.
pub const PORT_ALIVE: u8 = 0x1C;
/// The receiver of a packet has no session with its sender.
pub const UNKNOWN_SENDER: u8 = 0x1D;
/// A client asks that its session follow it to a new address.
pub const REMAP_CONNECTION: u8 = 0x1E;
/// Reserved; exempt from the CRC, never seen.
pub const RESERVED: u8 = 0x1F;
/// A query for the state of a server, outside any session.
pub const SERVER_STATUS: u8 = 0x20;

/// The op code of a datagram or piece; `None` for raw application data, which has none. The escape `00 00` counts as op
/// code 0 here, because it is in the position of an op code.
pub const fn of(bytes: &[u8]) -> Option<u8> {
    match bytes {
        [0, opcode, ..] => Some(*opcode),
        _ => None,
    }
}

/// Whether a datagram with this op code carries neither CRC nor passes.
///
/// These are the packets that must be readable without a session's seed. Source: section 2 of `docs/protocol.md`.
pub const fn is_exempt(opcode: u8) -> bool {
    matches!(
        opcode,
        SESSION_REQUEST | SESSION_RESPONSE | PORT_ALIVE | UNKNOWN_SENDER | REMAP_CONNECTION | RESERVED | SERVER_STATUS
    )
}

/// The op code of a family of four, for this channel.
pub(super) fn on_channel(family: u8, channel: ReliableChannel) -> u8 {
    family + channel.index() as u8
}

/// The channel that an op code of the four-wide families (09 to 18) names.
pub(super) fn channel_of(opcode: u8) -> ReliableChannel {
    ReliableChannel::ALL[usize::from(opcode.wrapping_sub(RELIABLE)) % ReliableChannel::COUNT]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_seven_op_codes_are_exempt_from_the_crc() {
        let exempt: Vec<u8> = (0..=u8::MAX).filter(|&opcode| is_exempt(opcode)).collect();
        assert_eq!(exempt, [0x01, 0x02, 0x1C, 0x1D, 0x1E, 0x1F, 0x20]);
    }

    #[test]
    fn net_status_packets_are_checked_like_any_other() {
        assert!(!is_exempt(NET_STATUS_REQUEST));
        assert!(!is_exempt(NET_STATUS_RESPONSE));
    }

    #[test]
    fn a_single_byte_and_raw_data_have_no_op_code() {
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[0]), None);
        assert_eq!(of(&[1, 5]), None);
        assert_eq!(of(&[0, 5]), Some(5));
    }

    #[test]
    fn every_family_names_its_four_channels() {
        for family in [RELIABLE, FRAGMENT, ACKNOWLEDGE, ACKNOWLEDGE_ALL] {
            for channel in ReliableChannel::ALL {
                assert_eq!(channel_of(on_channel(family, channel)), channel);
            }
        }
    }
}
