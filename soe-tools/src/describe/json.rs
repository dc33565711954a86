//! One JSON object a line.

use std::io::{self, Write};

use serde_json::{Map, Value, json};
use soe_core::wire::schema::{FieldValue, PacketSchema, Rest};
use soe_core::wire::{MAX_NESTING, Packet, Payload, opcode, unescape};

use crate::analysis::{Carrier, Event, EventKind, Message, Severity, Sink};

/// Writes events as JSON, one object a line.
pub(crate) struct JsonLines<W> {
    write: W,
    pub(crate) worst: Option<Severity>,
}

impl<W: Write> JsonLines<W> {
    pub(crate) fn new(write: W) -> Self {
        Self { write, worst: None }
    }

    pub(crate) fn put(&mut self, value: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.write, value)?;
        self.write.write_all(b"\n")
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.write.flush()?;
        Ok(self.write)
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        if let EventKind::Finding(finding) = &event.kind {
            self.worst = self.worst.max(Some(finding.severity()));
        }
        self.put(&event_json(event)?)
    }
}

fn event_json(event: &Event<'_>) -> io::Result<Value> {
    let (name, mut fields) = match event.kind {
        EventKind::Opened(info) => ("opened", serde_json::to_value(info)?),
        EventKind::Datagram { length, packet, is_checked } => {
            ("datagram", json!({ "length": length, "crc_checked": is_checked, "packet": packet_json(packet) }))
        }
        EventKind::Reliable { channel, sequence, length, is_fragment, transmission } => (
            "reliable",
            json!({ "channel": channel.index(), "sequence": sequence, "length": length, "fragment": is_fragment,
                "transmission": transmission }),
        ),
        EventKind::Acknowledged { channel, sequence, is_cumulative } => {
            ("acknowledged", json!({ "channel": channel.index(), "sequence": sequence, "cumulative": is_cumulative }))
        }
        EventKind::RoundTrip { time } => ("round-trip", json!({ "nanoseconds": time })),
        EventKind::InFlight { direction, bytes, packets } => {
            ("in-flight", json!({ "of": direction, "bytes": bytes, "packets": packets }))
        }
        EventKind::Message(message) => ("message", message_json(&message)),
        EventKind::Finding(finding) => {
            let mut value = serde_json::to_value(finding)?;
            if let Value::Object(fields) = &mut value {
                fields.insert("severity".into(), json!(finding.severity()));
                fields.insert("text".into(), finding.to_string().into());
            }
            ("finding", value)
        }
        EventKind::Closed(summary) => ("closed", serde_json::to_value(summary)?),
    };
    if let Value::Object(fields) = &mut fields {
        fields.insert("event".into(), name.into());
        fields.insert("time".into(), event.time.into());
        fields.insert("session".into(), event.session.into());
        fields.insert("direction".into(), event.direction.name().into());
    }
    Ok(fields)
}

fn message_json(message: &Message<'_>) -> Value {
    let mut fields = match message.carrier {
        Carrier::Reliable(channel, sequence) => {
            json!({ "carrier": "reliable", "channel": channel.index(), "sequence": sequence, "number": message.number })
        }
        Carrier::Unreliable => json!({ "carrier": "unreliable" }),
        Carrier::Ordered(second, stamp) => {
            json!({ "carrier": if second { "ordered-2" } else { "ordered" }, "stamp": stamp })
        }
    };
    if let Value::Object(fields) = &mut fields {
        fields.insert("length".into(), message.payload.len().into());
        fields.insert("payload".into(), hex(message.payload).into());
        fields.insert("decrypted".into(), message.is_decrypted.into());
        fields.insert("packets".into(), message.packets.into());
        fields.insert("took".into(), message.took.into());
    }
    fields
}

/// A packet with the fields that the table of `soe-core` names, and what it contains.
pub(crate) fn packet_json(bytes: &[u8]) -> Value {
    packet(bytes, 0)
}

fn packet(bytes: &[u8], depth: usize) -> Value {
    let decoded = match Packet::decode(bytes) {
        Ok(decoded) => decoded,
        Err(error) => return json!({ "name": "corrupt", "error": error.to_string(), "bytes": hex(bytes) }),
    };
    if let Packet::Data(data) = decoded {
        return json!({ "name": "data", "payload": hex(data) });
    }
    let code = opcode::of(bytes).unwrap_or_default();
    let Some(schema) = PacketSchema::of(code) else { return json!({ "name": "reserved", "op": code }) };
    let mut fields = Map::new();
    fields.insert("name".into(), schema.name.into());
    fields.insert("op".into(), code.into());
    if schema.per_channel {
        fields.insert("channel".into(), (code - schema.opcode).into());
    }
    let (values, rest) = schema.read(bytes);
    for (field, value) in values {
        let value = match value {
            FieldValue::Number(number) => number.into(),
            FieldValue::Name(name) => String::from_utf8_lossy(name).into(),
        };
        fields.insert(field.name.into(), value);
    }
    match (schema.rest, decoded) {
        (Rest::Payload, _) => payload(&mut fields, rest),
        (Rest::Fragment | Rest::Data, _) if !rest.is_empty() => {
            fields.insert("payload".into(), hex(rest).into());
        }
        (Rest::Pieces, Packet::Multi(multi)) => {
            let pieces = multi.pieces().map(|piece| match piece {
                Ok(piece) if depth < MAX_NESTING => packet(piece, depth + 1),
                Ok(_) => json!({ "name": "corrupt", "error": "nested too deep" }),
                Err(error) => json!({ "name": "corrupt", "error": error.to_string() }),
            });
            fields.insert("pieces".into(), pieces.collect());
        }
        (Rest::Elements, _) => payload(&mut fields, bytes),
        _ => {}
    }
    Value::Object(fields)
}

/// A message, or the elements of a Group.
fn payload(fields: &mut Map<String, Value>, bytes: &[u8]) {
    match Payload::classify(bytes) {
        Payload::Message(raw) => {
            fields.insert("payload".into(), hex(unescape(raw)).into());
        }
        Payload::Group(group) => {
            let elements = group.elements().map(|element| match element {
                Ok(element) => Value::from(hex(unescape(element))),
                Err(error) => json!({ "error": error.to_string() }),
            });
            fields.insert("elements".into(), elements.collect());
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(digit(byte >> 4));
        text.push(digit(*byte));
    }
    text
}
