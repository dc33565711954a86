//! The wire format against byte vectors: what other implementations and captures of known games show, byte for byte.
//!
//! CRC, passes and ciphers stand between these bytes and a datagram and are not looked at here.

use serde_json::Value;
use soe_core::wire::{
    Acknowledge, AcknowledgeAll, DecodeError, Disconnect, Group, MAX_MULTI_PIECE, MAX_NESTING, Multi, NetStatusRequest,
    NetStatusResponse, OrderedData, OrderedStream, Packet, Payload, ReliableData, RemapConnection, SessionRequest,
    SessionResponse, group, multi, unescape,
};
use soe_core::{DisconnectReason, ReliableChannel};

/// How the unit vectors of each kind are covered. What is counted with 0 here has no packet in it.
const UNIT_VECTORS: [(&str, usize); 19] = [
    ("append_crc", 0),
    ("bundle_encode", 2),
    ("crc32", 0),
    ("datagram_own", 5),
    ("decode", 4),
    ("encode", 8),
    ("encode+decode", 1),
    ("fragment_reassembly", 1),
    ("rc4", 0),
    ("sequence_widening", 0),
    ("validate", 4),
    ("varint_ambiguity", 2),
    ("varint_data_bundle", 4),
    ("varint_data_bundle_read", 2),
    ("varint_multi_packet", 9),
    ("varint_multi_packet_read", 5),
    ("xor_cipher", 0),
    ("zlib_inflate", 0),
    ("zlib_roundtrip", 0),
];

#[test]
fn every_unit_vector_about_the_wire_format_holds() {
    let vectors = vectors();
    let vectors = vectors["unit_vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 88);
    let mut covered = UNIT_VECTORS.map(|(kind, _)| (kind, 0));
    for vector in vectors {
        let kind = text(&vector["kind"]);
        let (_, count) = covered.iter_mut().find(|(known, _)| *known == kind).expect(kind);
        *count += usize::from(check(vector));
    }
    assert_eq!(covered, UNIT_VECTORS);
}

/// Checks one unit vector; `false` if it is not about the wire format.
fn check(vector: &Value) -> bool {
    let (name, inputs, expected) = (text(&vector["name"]), &vector["inputs"], &vector["expected"]);
    match text(&vector["kind"]) {
        "encode" | "encode+decode" => {
            let wire = hex(expected.get("packet_hex").unwrap_or_else(|| &expected["packet_hex_no_crc"]));
            let packet = packet_of(inputs);
            assert_eq!(encoded(packet), wire, "{name}");
            assert_eq!(Packet::decode(&wire), Ok(packet), "{name}");
        }
        "decode" => {
            let wire = hex(&inputs["packet_hex"]);
            let packet = decoded_packet_of(expected);
            assert_eq!(Packet::decode(&wire), Ok(packet.packet()), "{name}");
            assert_eq!(encoded(packet.packet()), wire, "{name}");
        }
        "datagram_own" => return check_own_datagram(name, &hex(&inputs["body_hex"])),
        "validate" => return check_without_crc(name, &hex(&inputs["packet_hex"])),
        "varint_multi_packet" => check_multi_length(name, number(&inputs["value"]), expected),
        "varint_data_bundle" => check_group_length(name, number(&inputs["value"]), expected),
        "varint_multi_packet_read" => {
            let body = completed(&hex(&inputs["hex"]), expected);
            let pieces: Vec<_> = Multi::new(&body).pieces().collect();
            assert_eq!(pieces, [Ok(&body[number(&expected["consumed"])..])], "{name}");
        }
        "varint_data_bundle_read" => {
            let body = completed(&hex(&inputs["hex"]), expected);
            let elements: Vec<_> = Group::new(&body).elements().collect();
            assert_eq!(elements, [Ok(&body[number(&expected["consumed"])..])], "{name}");
        }
        "varint_ambiguity" => check_ambiguity(name, inputs, expected),
        "bundle_encode" => check_bundle(name, inputs, &hex(&expected["reliable_body_hex"])),
        "fragment_reassembly" => check_fragments(inputs, &hex(&expected["reassembled_hex"])),
        _ => return false,
    }
    true
}

/// The packet that the fields of an `encode` vector describe.
fn packet_of(inputs: &Value) -> Packet<'_> {
    let field = |name: &str| u32::try_from(number(&inputs[name])).unwrap();
    let byte = |name: &str| u8::try_from(number(&inputs[name])).unwrap();
    let channel = ReliableChannel::ZERO;
    match text(&inputs["packet"]) {
        "SessionRequest" => Packet::SessionRequest(SessionRequest {
            version: field("version"),
            session_id: field("session_id"),
            udp_length: field("udp_length"),
            protocol_name: Some(text(&inputs["protocol"]).as_bytes()),
        }),
        "SessionResponse" => Packet::SessionResponse(SessionResponse {
            session_id: field("session_id"),
            crc_seed: field("crc_seed"),
            crc_length: byte("crc_length"),
            passes: [byte("encrypt1"), byte("encrypt2")],
            udp_length: field("udp_length"),
            version: Some(field("version")),
        }),
        "Disconnect" => {
            let reason = DisconnectReason::from(u16::from(byte("reason")));
            Packet::Disconnect(Disconnect { session_id: field("session_id"), reason: Some(reason) })
        }
        "RemapConnection" => {
            Packet::RemapConnection(RemapConnection { session_id: field("session_id"), crc_seed: field("crc_seed") })
        }
        "UnknownSender" => Packet::UnknownSender,
        "Heartbeat" => Packet::Heartbeat,
        "AcknowledgeAll(0x15)" => {
            Packet::AcknowledgeAll(AcknowledgeAll { channel, sequence: field("sequence") as u16 })
        }
        "Acknowledge(0x11)" => Packet::Acknowledge(Acknowledge { channel, sequence: field("sequence") as u16 }),
        other => panic!("a packet that this test does not know: {other}"),
    }
}

/// A packet with what it borrows.
enum Decoded {
    Plain(Packet<'static>),
    Ordered { stamp: u16, payload: Vec<u8> },
}

impl Decoded {
    fn packet(&self) -> Packet<'_> {
        match self {
            Self::Plain(packet) => *packet,
            Self::Ordered { stamp, payload } => {
                Packet::Ordered(OrderedData { stream: OrderedStream::Two, stamp: *stamp, payload })
            }
        }
    }
}

/// The packet that a `decode` vector expects.
fn decoded_packet_of(expected: &Value) -> Decoded {
    let field = |name: &str| number(&expected[name]);
    match field("opcode") {
        0x07 => Decoded::Plain(Packet::NetStatusRequest(NetStatusRequest {
            clock: field("time_stamp") as u16,
            master: field("master_ping") as u32,
            average: field("average_ping") as u32,
            low: field("low_ping") as u32,
            high: field("high_ping") as u32,
            last: field("last_ping") as u32,
            sent: field("our_sent") as u64,
            received: field("our_received") as u64,
        })),
        0x08 => Decoded::Plain(Packet::NetStatusResponse(NetStatusResponse {
            request_clock: field("time_stamp") as u16,
            responder_clock: field("server_sync_stamp") as u32,
            requester_sent: field("your_sent") as u64,
            requester_received: field("your_received") as u64,
            responder_sent: field("our_sent") as u64,
            responder_received: field("our_received") as u64,
        })),
        0x1B => Decoded::Ordered { stamp: field("ordered_stamp") as u16, payload: hex(&expected["payload_hex"]) },
        other => panic!("an op code that this test does not know: {other}"),
    }
}

/// The datagrams without a compression flag are packets as they stand.
fn check_own_datagram(name: &str, body: &[u8]) -> bool {
    let channel = ReliableChannel::THREE;
    let expected = match name {
        "own_unreliable_hi" => Packet::Data(b"hi"),
        "own_ack_ch3" => Packet::Acknowledge(Acknowledge { channel, sequence: 7 }),
        "own_multi_unreliable_ack" => Packet::Multi(Multi::new(&body[2..])),
        "own_ordered1" => Packet::Ordered(OrderedData { stream: OrderedStream::One, stamp: 1, payload: b"pos" }),
        "own_terminate" => {
            Packet::Disconnect(Disconnect { session_id: 0xCAFE_BABE, reason: Some(DisconnectReason::Application) })
        }
        _ => return false,
    };
    assert_eq!(Packet::decode(body), Ok(expected), "{name}");
    assert_eq!(encoded(expected), body, "{name}");
    if let Packet::Multi(multi) = expected {
        let pieces: Vec<_> = multi.pieces().map(|piece| Packet::decode(piece.unwrap())).collect();
        let channel = ReliableChannel::ZERO;
        let acknowledge_all = Packet::AcknowledgeAll(AcknowledgeAll { channel, sequence: 7 });
        assert_eq!(pieces, [Ok(Packet::Data(b"hi")), Ok(acknowledge_all)]);
    }
    true
}

/// What other implementations refuse here is partly data by the original's rules.
fn check_without_crc(name: &str, bytes: &[u8]) -> bool {
    let expected = match name {
        "validate_short" => Ok(Packet::Data(&[1])),
        "validate_unknown_op_00" => Ok(Packet::Data(&[0])),
        "validate_unknown_op_ff" => Err(DecodeError::UnknownOpCode(0xFF)),
        "validate_unknown_sender" => Ok(Packet::UnknownSender),
        _ => return false,
    };
    assert_eq!(Packet::decode(bytes), expected, "{name}");
    true
}

/// Lengths before a piece: written only where all peers agree, read however a peer writes them.
fn check_multi_length(name: &str, length: usize, expected: &Value) {
    let prefix = hex(&expected["sanctuary_rust_psemu_hex"]);
    match multi::length_byte(length) {
        Some(byte) => {
            assert_eq!(prefix, [byte], "{name}");
            assert_eq!(prefix, hex(&expected["udplibrary_osfr_eqemu_hex"]), "{name}");
        }
        None => assert!(length > MAX_MULTI_PIECE && expected["udplibrary_osfr_eqemu_hex"].is_null(), "{name}"),
    }
    let piece = filler(length);
    let body = [&prefix[..], &piece].concat();
    let read: Result<Vec<_>, _> = Multi::new(&body).pieces().collect();
    assert_eq!(read.unwrap().concat(), piece, "{name}");
}

/// Lengths before an element: written as both families write them, read in every form a vector has.
fn check_group_length(name: &str, length: usize, expected: &Value) {
    let mut prefix = Vec::new();
    group::put_length(&mut prefix, length);
    assert_eq!(prefix.len(), group::length_size(length), "{name}");
    assert_eq!(prefix, hex(&expected["sanctuary_write_hex"]), "{name}");
    assert_eq!(prefix, hex(&expected["udplibrary_write_hex"]), "{name}");
    let forms = expected["read_any_of_hex"].as_array().unwrap();
    assert!(!forms.is_empty());
    for form in forms {
        let element = filler(length);
        let body = [&hex(form)[..], &element].concat();
        let read: Vec<_> = Group::new(&body).elements().collect();
        assert_eq!(read, [Ok(&element[..])], "{name}");
    }
}

/// The bytes of a read vector, followed by as much as their length promises.
fn completed(prefix: &[u8], expected: &Value) -> Vec<u8> {
    let (length, consumed) = (number(&expected["value"]), number(&expected["consumed"]));
    let mut body = prefix.to_vec();
    let missing = (consumed + length) - body.len();
    body.extend(filler(missing));
    body
}

fn check_ambiguity(name: &str, inputs: &Value, expected: &Value) {
    match name {
        "ambiguity_multi_ff00xx" => {
            let prefix = hex(&inputs["hex_prefix"]);
            let body = [&prefix[..], &filler(1 + 255 - prefix.len())].concat();
            let pieces: Vec<_> = Multi::new(&body).pieces().collect();
            assert_eq!(pieces, [Ok(&body[1..])]);
            assert!(matches!(Packet::decode(&body[1..]), Ok(Packet::Reliable(_))));
        }
        "ambiguity_group_ffff" => {
            let mut written = Vec::new();
            group::put_length(&mut written, number(&inputs["value"]));
            assert_eq!(written, hex(&expected["must_use"]));
        }
        other => panic!("an ambiguity that this test does not know: {other}"),
    }
}

/// A Group is written for two messages or more, a single one is the payload itself.
fn check_bundle(name: &str, inputs: &Value, reliable_body: &[u8]) {
    let messages: Vec<Vec<u8>> = inputs["messages_hex"].as_array().unwrap().iter().map(hex).collect();
    let mut payload = Vec::new();
    match &messages[..] {
        [single] => payload.extend_from_slice(single),
        several => {
            group::put_header(&mut payload);
            several.iter().for_each(|message| group::put_element(&mut payload, message));
        }
    }
    let sequence = inputs.get("sequence").map_or(0, number) as u16;
    let packet = ReliableData { channel: ReliableChannel::ZERO, sequence, payload: &payload };
    let mut out = Vec::new();
    packet.encode(&mut out);
    assert_eq!(out[2..], *reliable_body, "{name}");

    let read = match Payload::classify(&payload) {
        Payload::Message(message) => vec![message],
        Payload::Group(group) => group.elements().collect::<Result<_, _>>().unwrap(),
    };
    assert_eq!(read, messages, "{name}");
}

fn check_fragments(inputs: &Value, reassembled: &[u8]) {
    let bodies: Vec<Vec<u8>> = inputs["bodies_without_seq_hex"].as_array().unwrap().iter().map(hex).collect();
    let mut joined = Vec::new();
    for (sequence, body) in bodies.iter().enumerate() {
        let datagram = [&[0x00, 0x0D, 0x00, sequence as u8], &body[..]].concat();
        let Ok(Packet::Fragment(fragment)) = Packet::decode(&datagram) else { panic!("no fragment") };
        assert_eq!(usize::from(fragment.sequence), sequence);
        joined.extend_from_slice(fragment.body);
    }
    let (total, message) = joined.split_first_chunk().unwrap();
    assert_eq!((u32::from_be_bytes(*total) as usize, message), (reassembled.len(), reassembled));
}

#[test]
fn every_packet_of_every_dialect_is_decoded_and_encoded_to_the_same_bytes() {
    let vectors = vectors();
    let vectors = vectors["dialect_vectors"].as_array().unwrap();
    let (mut in_session, mut handshakes, mut keystreams) = (0, 0, 0);
    for vector in vectors {
        let id = text(&vector["id"]);
        if vector["compare"] == "keystream" {
            keystreams += 1;
            continue;
        }
        // The packets of a handshake are not under CRC and passes: they go as they are.
        let bytes = if vector["plain"].is_null() { hex(&vector["wire"]) } else { hex(&vector["plain"]) };
        let packet = Packet::decode(&bytes).unwrap_or_else(|error| panic!("{id}: {error}"));
        assert_eq!(encoded(packet), bytes, "{id}");
        assert_eq!(packet.encoded_len(), bytes.len(), "{id}");
        match packet {
            Packet::SessionRequest(_) | Packet::SessionResponse(_) => handshakes += 1,
            _ => in_session += 1,
        }
    }
    assert_eq!((in_session, handshakes, keystreams), (133, 6, 2));
    assert_eq!(vectors.len(), 141);
}

#[test]
fn multis_and_groups_of_every_dialect_open_down_to_the_messages() {
    let vectors = vectors();
    let (mut multis, mut groups, mut messages) = (0, 0, 0);
    for vector in vectors["dialect_vectors"].as_array().unwrap() {
        if vector["plain"].is_null() {
            continue;
        }
        let bytes = hex(&vector["plain"]);
        let mut waiting = vec![(&bytes[..], 0)];
        while let Some((bytes, depth)) = waiting.pop() {
            assert!(depth <= MAX_NESTING);
            match Packet::decode(bytes).unwrap() {
                Packet::Multi(multi) => {
                    multis += 1;
                    waiting.extend(multi.pieces().map(|piece| (piece.unwrap(), depth + 1)));
                }
                Packet::Reliable(packet) => match Payload::classify(packet.payload) {
                    Payload::Message(_) => messages += 1,
                    Payload::Group(group) => {
                        groups += 1;
                        messages += group.elements().map(Result::unwrap).count();
                    }
                },
                _ => {}
            }
        }
    }
    assert_eq!((multis, groups), (11, 8));
    assert_eq!(messages, 58);
}

#[test]
fn the_handshakes_of_every_dialect_say_what_is_known_of_them() {
    let session_id = 0x0102_0304;
    let request = |id: &str| match Packet::decode(&wire_of(id)) {
        Ok(Packet::SessionRequest(request)) => {
            let name = request.protocol_name.map(|name| String::from_utf8(name.to_vec()).unwrap());
            (request.version, request.session_id, request.udp_length, name)
        }
        other => panic!("{id}: {other:?}"),
    };
    assert_eq!(request("eq-01"), (2, session_id, 512, None));
    assert_eq!(request("eq-114"), (2, 0x9C84_68C1, 512, None));
    assert_eq!(request("eq-149"), (3, session_id, 512, Some("Everquest".to_owned())));

    let response = |id: &str| match Packet::decode(&wire_of(id)) {
        Ok(Packet::SessionResponse(response)) => response,
        other => panic!("{id}: {other:?}"),
    };
    let galaxies = SessionResponse {
        session_id,
        crc_seed: 0x6A31_0A79,
        crc_length: 2,
        passes: [1, 4],
        udp_length: 496,
        version: None,
    };
    assert_eq!(response("swg-02"), galaxies);
    let plain = SessionResponse { passes: [0, 0], udp_length: 512, version: Some(0), ..galaxies };
    assert_eq!(response("eq-148"), SessionResponse { crc_seed: 0x1122_3344, ..plain });
    assert_eq!(response("eq2-02"), SessionResponse { crc_seed: 0x3362_4702, ..plain });
}

#[test]
fn an_everquest_multi_has_a_piece_of_255_bytes_behind_a_literal_ff() {
    let bytes = plain_of("eq-146");
    let Ok(Packet::Multi(multi)) = Packet::decode(&bytes) else { panic!("no multi") };
    let pieces: Vec<_> = multi.pieces().map(Result::unwrap).collect();
    assert_eq!(pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>(), [4, 255]);
    assert!(matches!(Packet::decode(pieces[1]), Ok(Packet::Reliable(_))));
}

#[test]
fn an_everquest_group_has_an_element_of_254_bytes_behind_a_long_length() {
    let bytes = plain_of("eq-147");
    let Ok(Packet::Reliable(packet)) = Packet::decode(&bytes) else { panic!("no reliable data") };
    let Payload::Group(group) = Payload::classify(packet.payload) else { panic!("no group") };
    assert_eq!(group.body()[..3], [0xFF, 0x00, 0xFE]);
    assert_eq!(group.elements().next().unwrap().unwrap().len(), 254);
}

#[test]
fn an_everquest_disconnect_has_no_reason() {
    let bytes = plain_of("eq-22");
    assert_eq!(Packet::decode(&bytes), Ok(Packet::Disconnect(Disconnect { session_id: 0x0102_0304, reason: None })));
}

#[test]
fn escaped_raw_data_loses_one_zero() {
    let bytes = plain_of("v3-19");
    assert_eq!(bytes, [0x00, 0x00, 0x11, 0x22]);
    assert_eq!(Packet::decode(&bytes), Ok(Packet::Data(&[0x00, 0x11, 0x22])));
}

#[test]
fn an_escaped_message_of_a_foreign_client_is_one_message() {
    let bytes = plain_of("eq-116");
    let Ok(Packet::Reliable(packet)) = Packet::decode(&bytes) else { panic!("no reliable data") };
    let Payload::Message(raw) = Payload::classify(packet.payload) else { panic!("no message") };
    assert_eq!(raw[..4], [0x00, 0x00, 0x22, 0x00]);
    assert_eq!(unescape(raw)[..3], [0x00, 0x22, 0x00]);
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/vectors.json")).unwrap()
}

fn dialect_vector(id: &str) -> Value {
    let vectors = vectors();
    vectors["dialect_vectors"].as_array().unwrap().iter().find(|vector| vector["id"] == id).expect(id).clone()
}

fn plain_of(id: &str) -> Vec<u8> {
    hex(&dialect_vector(id)["plain"])
}

fn wire_of(id: &str) -> Vec<u8> {
    hex(&dialect_vector(id)["wire"])
}

fn encoded(packet: Packet<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    packet.encode(&mut out);
    out
}

/// Data to fill a packet with.
fn filler(length: usize) -> Vec<u8> {
    vec![0x41; length]
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn number(value: &Value) -> usize {
    usize::try_from(value.as_u64().unwrap()).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let digits = text(value);
    assert!(digits.len().is_multiple_of(2));
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}
