//! A table of all packets with a meaning: op codes, names and fields, for tools that describe or generate packets.
//!
//! [`Packet::decode`](super::Packet::decode) does not use it. A test checks that both agree on every field. Source:
//! section 1 of `docs/protocol.md`.

use super::{HEADER_LEN, opcode};

/// One packet, or a family of four that differ in the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketSchema {
    /// The op code, or that of channel 0.
    pub opcode: u8,
    /// Whether the next three op codes are channels 1 to 3.
    pub per_channel: bool,
    /// A short name in lower case, such as `session-request`.
    pub name: &'static str,
    /// The fields in the order of the wire, from the byte behind the op code on.
    pub fields: &'static [Field],
    /// What follows the fields.
    pub rest: Rest,
}

/// One field of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// A short name in lower case, such as `session_id`.
    pub name: &'static str,
    /// Its form.
    pub kind: FieldKind,
    /// Whether the packet may end before it.
    pub is_optional: bool,
}

/// The form of a [`Field`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these forms")]
pub enum FieldKind {
    /// An unsigned number of so many bytes, big-endian: 1, 2, 4 or 8.
    Number(usize),
    /// Text up to a NUL or the end of the packet, in requests above version 2 only.
    Name,
}

/// What follows the fields of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these forms")]
pub enum Rest {
    /// Nothing that means anything.
    Nothing,
    /// A message or a Group: see [`Payload`](super::Payload).
    Payload,
    /// A piece of a message; in the first of a series, a u32 with the total length precedes it.
    Fragment,
    /// Packets with their lengths: see [`Multi`](super::Multi).
    Pieces,
    /// Messages with their lengths: see [`Group`](super::Group).
    Elements,
    /// Application data.
    Data,
}

const fn number(name: &'static str, bytes: usize) -> Field {
    Field { name, kind: FieldKind::Number(bytes), is_optional: false }
}

const fn optional(name: &'static str, bytes: usize) -> Field {
    Field { is_optional: true, ..number(name, bytes) }
}

const SEQUENCE: &[Field] = &[number("sequence", 2)];

const fn packet(opcode: u8, name: &'static str, fields: &'static [Field], rest: Rest) -> PacketSchema {
    PacketSchema { opcode, per_channel: false, name, fields, rest }
}

const fn family(opcode: u8, name: &'static str, rest: Rest) -> PacketSchema {
    PacketSchema { per_channel: true, ..packet(opcode, name, SEQUENCE, rest) }
}

/// Every packet of section 1 of `docs/protocol.md`, but for op codes without a known meaning.
pub const PACKETS: [PacketSchema; 18] = [
    packet(
        opcode::SESSION_REQUEST,
        "session-request",
        &[
            number("version", 4),
            number("session_id", 4),
            number("udp_length", 4),
            Field { name: "protocol_name", kind: FieldKind::Name, is_optional: true },
        ],
        Rest::Nothing,
    ),
    packet(
        opcode::SESSION_RESPONSE,
        "session-response",
        &[
            number("session_id", 4),
            number("crc_seed", 4),
            number("crc_length", 1),
            number("pass_0", 1),
            number("pass_1", 1),
            number("udp_length", 4),
            optional("version", 4),
        ],
        Rest::Nothing,
    ),
    packet(opcode::MULTI, "multi", &[], Rest::Pieces),
    packet(opcode::DISCONNECT, "disconnect", &[number("session_id", 4), optional("reason", 2)], Rest::Nothing),
    packet(opcode::HEARTBEAT, "heartbeat", &[], Rest::Nothing),
    packet(
        opcode::NET_STATUS_REQUEST,
        "net-status-request",
        &[
            number("clock", 2),
            number("master", 4),
            number("average", 4),
            number("low", 4),
            number("high", 4),
            number("last", 4),
            number("sent", 8),
            number("received", 8),
        ],
        Rest::Nothing,
    ),
    packet(
        opcode::NET_STATUS_RESPONSE,
        "net-status-response",
        &[
            number("request_clock", 2),
            number("responder_clock", 4),
            number("requester_sent", 8),
            number("requester_received", 8),
            number("responder_sent", 8),
            number("responder_received", 8),
        ],
        Rest::Nothing,
    ),
    family(opcode::RELIABLE, "reliable", Rest::Payload),
    family(opcode::FRAGMENT, "fragment", Rest::Fragment),
    family(opcode::ACKNOWLEDGE, "acknowledge", Rest::Nothing),
    family(opcode::ACKNOWLEDGE_ALL, "acknowledge-all", Rest::Nothing),
    packet(opcode::GROUP, "group", &[], Rest::Elements),
    packet(opcode::ORDERED, "ordered", &[number("stamp", 2)], Rest::Data),
    packet(opcode::ORDERED_2, "ordered-2", &[number("stamp", 2)], Rest::Data),
    packet(opcode::PORT_ALIVE, "port-alive", &[], Rest::Nothing),
    packet(opcode::UNKNOWN_SENDER, "unknown-sender", &[], Rest::Nothing),
    packet(
        opcode::REMAP_CONNECTION,
        "remap-connection",
        &[number("session_id", 4), number("crc_seed", 4)],
        Rest::Nothing,
    ),
    packet(opcode::SERVER_STATUS, "server-status", &[], Rest::Data),
];

/// The value of a [`Field`] in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these forms")]
pub enum FieldValue<'a> {
    /// A number.
    Number(u64),
    /// A name, without its NUL; arbitrary bytes when it comes from a peer.
    Name(&'a [u8]),
}

impl PacketSchema {
    /// The packet with this op code; `None` for an unknown one and for the escape.
    pub fn of(opcode: u8) -> Option<&'static Self> {
        let is_meant = |schema: &&Self| {
            let last = if schema.per_channel { schema.opcode + 3 } else { schema.opcode };
            (schema.opcode..=last).contains(&opcode)
        };
        PACKETS.iter().find(is_meant)
    }

    /// The fields of a packet of this kind, op code included, as far as the packet reaches, and what follows them.
    pub fn read<'a>(&self, packet: &'a [u8]) -> (Vec<(&'static Field, FieldValue<'a>)>, &'a [u8]) {
        let mut rest = packet.get(HEADER_LEN..).unwrap_or_default();
        let mut values = Vec::with_capacity(self.fields.len());
        for field in self.fields {
            match field.kind {
                FieldKind::Number(bytes) => {
                    let Some((value, behind)) = rest.split_at_checked(bytes) else { break };
                    rest = behind;
                    let value = value.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
                    values.push((field, FieldValue::Number(value)));
                }
                FieldKind::Name => {
                    let is_named = matches!(values.first(), Some((_, FieldValue::Number(3..))));
                    if rest.is_empty() || !is_named {
                        continue;
                    }
                    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
                    values.push((field, FieldValue::Name(&rest[..end])));
                    rest = &[];
                }
            }
        }
        (values, rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::wire::{DecodeError, OrderedData, Packet};

    type Described<'a> = (Vec<(&'static str, FieldValue<'a>)>, &'a [u8]);

    /// The same from what decoding gives.
    fn described<'a>(packet: &Packet<'a>) -> Described<'a> {
        let number = |name, value: u64| (name, FieldValue::Number(value));
        let mut values = Vec::new();
        let mut rest: &[u8] = &[];
        match *packet {
            Packet::SessionRequest(request) => {
                values.push(number("version", request.version.into()));
                values.push(number("session_id", request.session_id.into()));
                values.push(number("udp_length", request.udp_length.into()));
                values.extend(request.protocol_name.map(|name| ("protocol_name", FieldValue::Name(name))));
            }
            Packet::SessionResponse(response) => {
                let [first, second] = response.passes;
                values.push(number("session_id", response.session_id.into()));
                values.push(number("crc_seed", response.crc_seed.into()));
                values.push(number("crc_length", response.crc_length.into()));
                values.push(number("pass_0", first.into()));
                values.push(number("pass_1", second.into()));
                values.push(number("udp_length", response.udp_length.into()));
                values.extend(response.version.map(|version| number("version", version.into())));
            }
            Packet::Multi(multi) => rest = multi.body(),
            Packet::Disconnect(disconnect) => {
                values.push(number("session_id", disconnect.session_id.into()));
                values.extend(disconnect.reason.map(|reason| number("reason", u16::from(reason).into())));
            }
            Packet::NetStatusRequest(status) => {
                values.push(number("clock", status.clock.into()));
                values.push(number("master", status.master.into()));
                values.push(number("average", status.average.into()));
                values.push(number("low", status.low.into()));
                values.push(number("high", status.high.into()));
                values.push(number("last", status.last.into()));
                values.push(number("sent", status.sent));
                values.push(number("received", status.received));
            }
            Packet::NetStatusResponse(status) => {
                values.push(number("request_clock", status.request_clock.into()));
                values.push(number("responder_clock", status.responder_clock.into()));
                values.push(number("requester_sent", status.requester_sent));
                values.push(number("requester_received", status.requester_received));
                values.push(number("responder_sent", status.responder_sent));
                values.push(number("responder_received", status.responder_received));
            }
            Packet::Reliable(data) => {
                values.push(number("sequence", data.sequence.into()));
                rest = data.payload;
            }
            Packet::Fragment(fragment) => {
                values.push(number("sequence", fragment.sequence.into()));
                rest = fragment.body;
            }
            Packet::Acknowledge(ack) => values.push(number("sequence", ack.sequence.into())),
            Packet::AcknowledgeAll(ack) => values.push(number("sequence", ack.sequence.into())),
            Packet::Group(group) => rest = group.body(),
            Packet::Ordered(OrderedData { stamp, payload, .. }) => {
                values.push(number("stamp", stamp.into()));
                rest = payload;
            }
            Packet::RemapConnection(remap) => {
                values.push(number("session_id", remap.session_id.into()));
                values.push(number("crc_seed", remap.crc_seed.into()));
            }
            Packet::ServerStatus(body) => rest = body,
            Packet::Heartbeat | Packet::PortAlive | Packet::UnknownSender | Packet::Reserved | Packet::Data(_) => {}
        }
        (values, rest)
    }

    proptest! {
        #[test]
        fn the_table_and_the_decoder_read_the_same_fields(opcode in 1u8..=0x20, mut body in vec(any::<u8>(), 0..60), small in any::<bool>()) {
            // The version is the first field of a request: versions below 3 have no name.
            if small && body.len() > 4 {
                body[..3].fill(0);
                body[3] %= 5;
            }
            let bytes = [&[0, opcode], &body[..]].concat();
            let schema = PacketSchema::of(opcode);
            match Packet::decode(&bytes) {
                Ok(packet) => if let Some(schema) = schema {
                    let (fields, rest) = schema.read(&bytes);
                    let fields: Vec<_> = fields.into_iter().map(|(field, value)| (field.name, value)).collect();
                    let (expected, body) = described(&packet);
                    prop_assert_eq!(fields, expected);
                    if schema.rest != Rest::Nothing {
                        prop_assert_eq!(rest, body);
                    }
                } else {
                    prop_assert_eq!(packet, Packet::Reserved);
                },
                Err(DecodeError::Truncated { .. }) => if let Some(schema) = schema {
                    let mandatory = schema.fields.iter().filter(|field| !field.is_optional).count();
                    let (fields, rest) = schema.read(&bytes);
                    prop_assert!(fields.len() < mandatory || rest.is_empty());
                },
                Err(DecodeError::UnknownOpCode(unknown)) => prop_assert_eq!((unknown, schema), (4, None)),
                Err(error) => prop_assert_eq!(error, DecodeError::NameTooLong),
            }
        }
    }

    #[test]
    fn every_op_code_but_the_reserved_ones_is_in_the_table_once() {
        for code in 1..=opcode::SERVER_STATUS {
            let known = PACKETS.iter().filter(|schema| PacketSchema::of(code) == Some(*schema)).count();
            assert_eq!(known, usize::from(!matches!(code, 4 | opcode::RESERVED)), "{code:02X}");
        }
    }
}
