//! Clock synchronisation and packet counts.

use bytes::BufMut;

use super::{DecodeError, HEADER_LEN, opcode, reader::Reader};

/// Link statistics of the sender, usually the client; requests an immediate answer.
///
/// ```text
///  0     2         4          8           12      16       20       24       32           40
/// +-----+---------+----------+-----------+-------+--------+--------+--------+------------+
/// |00 07|u16 clock|u32 master|u32 average|u32 low|u32 high|u32 last|u64 sent|u64 received|
/// +-----+---------+----------+-----------+-------+--------+--------+--------+------------+
/// ```
///
/// The round trips are in milliseconds. Bytes beyond the fortieth are ignored. Source: section 8 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetStatusRequest {
    /// The low 16 bits of the sender's clock in milliseconds.
    pub clock: u16,
    /// The round trip that the sender reckons with at present. A side of this library names its receive window here: see
    /// [`window`](Self::window).
    pub master: u32,
    /// The average of its measured round trips.
    pub average: u32,
    /// The shortest round trip measured.
    pub low: u32,
    /// The longest round trip measured.
    pub high: u32,
    /// The round trip measured last.
    pub last: u32,
    /// Packets that the sender has sent in this session, this one included.
    pub sent: u64,
    /// Packets that the sender has received in this session.
    pub received: u64,
}

impl NetStatusRequest {
    pub(super) fn decode(mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            clock: body.u16()?,
            master: body.u32()?,
            average: body.u32()?,
            low: body.u32()?,
            high: body.u32()?,
            last: body.u32()?,
            sent: body.u64()?,
            received: body.u64()?,
        })
    }

    /// The length of the packet in bytes. Some peers drop shorter ones.
    pub const ENCODED_LEN: usize = HEADER_LEN + 38;

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::NET_STATUS_REQUEST]);
        out.put_u16(self.clock);
        for round_trip in [self.master, self.average, self.low, self.high, self.last] {
            out.put_u32(round_trip);
        }
        out.put_u64(self.sent);
        out.put_u64(self.received);
    }
}

/// The answer to a [`NetStatusRequest`].
///
/// ```text
///  0     2         4           8           16          24          32          40
/// +-----+---------+-----------+-----------+-----------+-----------+-----------+
/// |00 08|u16      |u32        |u64        |u64        |u64        |u64        |
/// |     |request's|responder's|requester  |requester  |responder  |responder  |
/// |     |clock    |clock      |has sent   |received   |has sent   |received   |
/// +-----+---------+-----------+-----------+-----------+-----------+-----------+
/// ```
///
/// Bytes beyond the fortieth are ignored. Source: section 8 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NetStatusResponse {
    /// The clock in the request, echoed: the requester's now less this, modulo 2^16, is the round trip.
    pub request_clock: u16,
    /// The clock of the side that answers, in milliseconds.
    pub responder_clock: u32,
    /// Packets sent by the side that asked, echoed from the request.
    pub requester_sent: u64,
    /// Packets received by the side that asked, echoed from the request. A side of this library that has been named a window
    /// names its own in the upper half: see [`window`](Self::window).
    pub requester_received: u64,
    /// Packets sent by the side that answers.
    pub responder_sent: u64,
    /// Packets received by the side that answers.
    pub responder_received: u64,
}

impl NetStatusResponse {
    pub(super) fn decode(mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            request_clock: body.u16()?,
            responder_clock: body.u32()?,
            requester_sent: body.u64()?,
            requester_received: body.u64()?,
            responder_sent: body.u64()?,
            responder_received: body.u64()?,
        })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub const ENCODED_LEN: usize = HEADER_LEN + 38;

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[0, opcode::NET_STATUS_RESPONSE]);
        out.put_u16(self.request_clock);
        out.put_u32(self.responder_clock);
        for count in [self.requester_sent, self.requester_received, self.responder_sent, self.responder_received] {
            out.put_u64(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    #[test]
    fn both_packets_are_forty_bytes_and_no_fewer() {
        let mut request = Vec::new();
        NetStatusRequest::default().encode(&mut request);
        let mut response = Vec::new();
        NetStatusResponse::default().encode(&mut response);
        for bytes in [request, response] {
            assert_eq!(bytes.len(), 40);
            let opcode = bytes[1];
            assert_eq!(Packet::decode(&bytes[..39]), Err(DecodeError::Truncated { opcode, length: 39 }));
            assert_eq!(Packet::decode(&[&bytes[..], &[1, 2]].concat()), Packet::decode(&bytes));
        }
    }
}
