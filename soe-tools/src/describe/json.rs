//! One JSON object a line.

use std::io::{self, Write};

use serde_json::json;
use soe_core::wire::schema::{FieldValue, PacketSchema, Rest};
use soe_core::wire::{MAX_NESTING, Packet, Payload, opcode, unescape};

use super::object::{Object, put_hex};
use crate::analysis::{Carrier, Event, EventKind, Message, Severity, Sink};

/// Writes events as JSON, one object a line.
pub(crate) struct JsonLines<W> {
    write: W,
    line: String,
    pub(crate) worst: Option<Severity>,
}

impl<W: Write> JsonLines<W> {
    pub(crate) fn new(write: W) -> Self {
        Self { write, line: String::new(), worst: None }
    }

    /// Writes a line that is no event.
    pub(crate) fn put(&mut self, value: &serde_json::Value) -> io::Result<()> {
        writeln!(self.write, "{value}")
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
        self.line.clear();
        put_event(&mut self.line, event);
        self.line.push('\n');
        self.write.write_all(self.line.as_bytes())
    }
}

fn put_event(out: &mut String, event: &Event<'_>) {
    let mut object = Object::begin(out);
    object.word("event", name(&event.kind));
    object.number("time", event.time);
    object.number("session", event.session.into());
    object.word("direction", event.direction.name());
    match event.kind {
        EventKind::Opened(info) => object.fields(info),
        EventKind::Datagram { length, packet, is_checked } => {
            object.number("length", length as u64);
            object.flag("crc_checked", is_checked);
            put_packet(object.name("packet"), packet, 0);
        }
        EventKind::Reliable { channel, sequence, length, is_fragment, transmission } => {
            object.number("channel", channel.index() as u64);
            object.number("sequence", sequence);
            object.number("length", length as u64);
            object.flag("fragment", is_fragment);
            object.value("transmission", &transmission);
        }
        EventKind::Acknowledged { channel, sequence, is_cumulative } => {
            object.number("channel", channel.index() as u64);
            object.number("sequence", sequence);
            object.flag("cumulative", is_cumulative);
        }
        EventKind::RoundTrip { time } => object.number("nanoseconds", time),
        EventKind::InFlight { direction, bytes, packets } => {
            object.word("of", direction.name());
            object.number("bytes", bytes as u64);
            object.number("packets", packets as u64);
        }
        EventKind::Message(message) => put_message(&mut object, &message),
        EventKind::Finding(finding) => {
            object.fields(finding);
            object.value("severity", &finding.severity());
            object.value("text", &finding.to_string());
        }
        EventKind::Closed(summary) => object.fields(summary),
    }
    object.end();
}

const fn name(kind: &EventKind<'_>) -> &'static str {
    match kind {
        EventKind::Opened(_) => "opened",
        EventKind::Datagram { .. } => "datagram",
        EventKind::Reliable { .. } => "reliable",
        EventKind::Acknowledged { .. } => "acknowledged",
        EventKind::RoundTrip { .. } => "round-trip",
        EventKind::InFlight { .. } => "in-flight",
        EventKind::Message(_) => "message",
        EventKind::Finding(_) => "finding",
        EventKind::Closed(_) => "closed",
    }
}

fn put_message(object: &mut Object<'_>, message: &Message<'_>) {
    match message.carrier {
        Carrier::Reliable(channel, sequence) => {
            object.word("carrier", "reliable");
            object.number("channel", channel.index() as u64);
            object.number("sequence", sequence);
            object.number("number", message.number);
        }
        Carrier::Unreliable => object.word("carrier", "unreliable"),
        Carrier::Ordered(second, stamp) => {
            object.word("carrier", if second { "ordered-2" } else { "ordered" });
            object.number("stamp", stamp.into());
        }
    }
    object.number("length", message.payload.len() as u64);
    object.hex("payload", message.payload);
    object.flag("decrypted", message.is_decrypted);
    object.number("packets", message.packets.into());
    object.number("took", message.took);
}

/// A packet with the fields that the table of `soe-core` names, and what it contains.
pub(crate) fn packet_json(bytes: &[u8]) -> String {
    let mut text = String::new();
    put_packet(&mut text, bytes, 0);
    text
}

fn put_packet(out: &mut String, bytes: &[u8], depth: usize) {
    let decoded = match Packet::decode(bytes) {
        Ok(decoded) => decoded,
        Err(error) => return put_corrupt(out, &error.to_string(), bytes),
    };
    let mut object = Object::begin(out);
    if let Packet::Data(data) = decoded {
        object.word("name", "data");
        object.hex("payload", data);
        return object.end();
    }
    let code = opcode::of(bytes).unwrap_or_default();
    let Some(schema) = PacketSchema::of(code) else {
        object.word("name", "reserved");
        object.number("op", code.into());
        return object.end();
    };
    object.word("name", schema.name);
    object.number("op", code.into());
    if schema.per_channel {
        object.number("channel", (code - schema.opcode).into());
    }
    let (values, rest) = schema.read(bytes);
    for (field, value) in values {
        match value {
            FieldValue::Number(number) => object.number(field.name, number),
            FieldValue::Name(name) => object.value(field.name, &String::from_utf8_lossy(name)),
        }
    }
    match (schema.rest, decoded) {
        (Rest::Payload, _) => put_payload(&mut object, rest),
        (Rest::Fragment | Rest::Data, _) if !rest.is_empty() => object.hex("payload", rest),
        (Rest::Pieces, Packet::Multi(multi)) => object.list("pieces", multi.pieces(), |out, piece| match piece {
            Ok(piece) if depth < MAX_NESTING => put_packet(out, piece, depth + 1),
            Ok(piece) => put_corrupt(out, "nested too deep", piece),
            Err(error) => put_corrupt(out, &error.to_string(), &[]),
        }),
        (Rest::Elements, _) => put_payload(&mut object, bytes),
        _ => {}
    }
    object.end();
}

fn put_corrupt(out: &mut String, error: &str, bytes: &[u8]) {
    let mut object = Object::begin(out);
    object.word("name", "corrupt");
    object.value("error", &error);
    object.hex("bytes", bytes);
    object.end();
}

/// A message, or the elements of a Group.
fn put_payload(object: &mut Object<'_>, bytes: &[u8]) {
    match Payload::classify(bytes) {
        Payload::Message(raw) => object.hex("payload", unescape(raw)),
        Payload::Group(group) => object.list("elements", group.elements(), |out, element| match element {
            Ok(element) => put_hex(out, unescape(element)),
            Err(error) => out.push_str(&json!({ "error": error.to_string() }).to_string()),
        }),
    }
}
