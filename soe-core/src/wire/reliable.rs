//! Reliable and ordered data, and acknowledgements.

use bytes::BufMut;

use super::{DecodeError, HEADER_LEN, opcode, reader::Reader};
use crate::message::ReliableChannel;

/// A reliable packet that is whole: one message, or a Group of several (see [`Payload`](super::Payload)).
///
/// ```text
///  0     2            4
/// +-----+------------+---------------------+
/// |00 09|u16 sequence|payload, 1 byte or   |   09 to 0C: channel 0 to 3
/// |     |            |more                 |
/// +-----+------------+---------------------+
/// ```
///
/// Source: sections 1 and 7 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReliableData<'a> {
    /// The channel whose sequence this is.
    pub channel: ReliableChannel,
    /// The low 16 bits of the packet's sequence number.
    pub sequence: u16,
    /// What it carries; never empty when decoded.
    pub payload: &'a [u8],
}

impl<'a> ReliableData<'a> {
    pub(super) fn decode(opcode: u8, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { channel: opcode::channel_of(opcode), sequence: body.u16()?, payload: body.some_rest()? })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        SEQUENCED_HEADER_LEN + self.payload.len()
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_sequenced(out, opcode::on_channel(opcode::RELIABLE, self.channel), self.sequence);
        out.extend_from_slice(self.payload);
    }
}

/// A reliable packet that is part of a series: the pieces of one message too long for a datagram.
///
/// ```text
///  0     2            4                 8
/// +-----+------------+-----------------+--------+
/// |00 0D|u16 sequence|u32 total length,|data    |   0D to 10: channel 0 to 3
/// |     |            |first only       |        |
/// +-----+------------+-----------------+--------+
///                    |<-        body          ->|
/// ```
///
/// Nothing in the packet tells a first fragment from a later one. It is the first when no series is open on its channel,
/// so the channel, not the decoder, reads the total length. Source: sections 1 and 7 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReliableFragment<'a> {
    /// The channel whose sequence this is.
    pub channel: ReliableChannel,
    /// The low 16 bits of the packet's sequence number.
    pub sequence: u16,
    /// What follows the sequence number; never empty when decoded.
    pub body: &'a [u8],
}

impl<'a> ReliableFragment<'a> {
    pub(super) fn decode(opcode: u8, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { channel: opcode::channel_of(opcode), sequence: body.u16()?, body: body.some_rest()? })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        SEQUENCED_HEADER_LEN + self.body.len()
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_sequenced(out, opcode::on_channel(opcode::FRAGMENT, self.channel), self.sequence);
        out.extend_from_slice(self.body);
    }
}

/// Exactly this packet arrived, ahead of a gap.
///
/// ```text
///  0     2            4
/// +-----+------------+
/// |00 11|u16 sequence|   11 to 14: channel 0 to 3
/// +-----+------------+
/// ```
///
/// Source: sections 1 and 7 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Acknowledge {
    /// The channel whose sequence this is.
    pub channel: ReliableChannel,
    /// The low 16 bits of the sequence number that arrived.
    pub sequence: u16,
}

impl Acknowledge {
    /// How many bytes [`encode`](Self::encode) appends.
    pub const ENCODED_LEN: usize = SEQUENCED_HEADER_LEN;

    pub(super) fn decode(opcode: u8, mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { channel: opcode::channel_of(opcode), sequence: body.u16()? })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_sequenced(out, opcode::on_channel(opcode::ACKNOWLEDGE, self.channel), self.sequence);
    }
}

/// This packet and all before it arrived.
///
/// ```text
///  0     2            4
/// +-----+------------+
/// |00 15|u16 sequence|   15 to 18: channel 0 to 3
/// +-----+------------+
/// ```
///
/// Source: sections 1 and 7 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AcknowledgeAll {
    /// The channel whose sequence this is.
    pub channel: ReliableChannel,
    /// The low 16 bits of the last sequence number of the unbroken run that arrived.
    pub sequence: u16,
}

impl AcknowledgeAll {
    /// How many bytes [`encode`](Self::encode) appends.
    pub const ENCODED_LEN: usize = SEQUENCED_HEADER_LEN;

    pub(super) fn decode(opcode: u8, mut body: Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { channel: opcode::channel_of(opcode), sequence: body.u16()? })
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_sequenced(out, opcode::on_channel(opcode::ACKNOWLEDGE_ALL, self.channel), self.sequence);
    }
}

/// Which of the two counters stamps an [`OrderedData`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the wire has two op codes for ordered data")]
pub enum OrderedStream {
    /// Op code 1A, which may ride in a Multi.
    One,
    /// Op code 1B, which is never in a Multi.
    Two,
}

/// Unreliable data that is dropped on arrival when newer data has overtaken it.
///
/// ```text
///  0     2         4
/// +-----+---------+-----------+
/// |00 1A|u16 stamp|payload    |   1A or 1B: the stream
/// +-----+---------+-----------+
/// ```
/// Peers differ in whether a payload that begins with 0 is escaped, so this is the payload as on the wire. Source:
/// sections 1 and 7 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrderedData<'a> {
    /// The counter that the stamp is from.
    pub stream: OrderedStream,
    /// Counts the packets of the stream, from 1.
    pub stamp: u16,
    /// What it carries; may be empty when it comes from a peer.
    pub payload: &'a [u8],
}

impl<'a> OrderedData<'a> {
    pub(super) fn decode(stream: OrderedStream, mut body: Reader<'a>) -> Result<Self, DecodeError> {
        Ok(Self { stream, stamp: body.u16()?, payload: body.rest() })
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub fn encoded_len(&self) -> usize {
        SEQUENCED_HEADER_LEN + self.payload.len()
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let opcode = match self.stream {
            OrderedStream::One => opcode::ORDERED,
            OrderedStream::Two => opcode::ORDERED_2,
        };
        put_sequenced(out, opcode, self.stamp);
        out.extend_from_slice(self.payload);
    }
}

/// Bytes of op code and sequence number (or stamp) in front of every payload of this family.
pub const SEQUENCED_HEADER_LEN: usize = HEADER_LEN + 2;

fn put_sequenced(out: &mut Vec<u8>, opcode: u8, sequence: u16) {
    out.extend_from_slice(&[0, opcode]);
    out.put_u16(sequence);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    #[test]
    fn reliable_data_and_fragments_carry_at_least_one_byte() {
        for opcode in 0x09..=0x10 {
            assert_eq!(Packet::decode(&[0, opcode, 0, 7]), Err(DecodeError::Truncated { opcode, length: 4 }));
            assert!(Packet::decode(&[0, opcode, 0, 7, 1]).is_ok());
        }
    }

    #[test]
    fn each_op_code_of_a_family_is_a_channel() {
        let channels = |family: u8| {
            (family..family + 4).map(|opcode| match Packet::decode(&[0, opcode, 0, 1, 0, 0, 0, 9, 1]) {
                Ok(Packet::Reliable(packet)) => packet.channel.index(),
                Ok(Packet::Fragment(packet)) => packet.channel.index(),
                Ok(Packet::Acknowledge(packet)) => packet.channel.index(),
                Ok(Packet::AcknowledgeAll(packet)) => packet.channel.index(),
                other => panic!("{opcode:02X} decodes as {other:?}"),
            })
        };
        for family in [0x09, 0x0D, 0x11, 0x15] {
            assert!(channels(family).eq(0..4), "family {family:02X}");
        }
    }

    #[test]
    fn the_total_length_of_a_first_fragment_stays_in_its_body() {
        let Ok(Packet::Fragment(fragment)) = Packet::decode(&[0, 0x0D, 0, 1, 0, 0, 3, 0x86, 5]) else { panic!() };
        assert_eq!((fragment.sequence, fragment.body), (1, &[0, 0, 3, 0x86, 5][..]));
    }

    #[test]
    fn an_ordered_payload_keeps_the_zero_it_begins_with() {
        let Ok(Packet::Ordered(ordered)) = Packet::decode(&[0, 0x1B, 0, 1, 0, 0, 9]) else { panic!() };
        assert_eq!((ordered.stream, ordered.stamp, ordered.payload), (OrderedStream::Two, 1, &[0, 0, 9][..]));
        let mut out = Vec::new();
        ordered.encode(&mut out);
        assert_eq!(out, [0, 0x1B, 0, 1, 0, 0, 9]);
    }
}
