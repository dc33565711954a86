//! What holds for every packet and for all bytes.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::ReliableChannel;

fn channel() -> impl Strategy<Value = ReliableChannel> {
    prop::sample::select(&ReliableChannel::ALL[..])
}

/// Checks that the packet can be decoded from its bytes, and that its encoded length is correct.
fn comes_back(packet: Packet<'_>) -> Result<(), TestCaseError> {
    let mut out = vec![0xAA];
    packet.encode(&mut out);
    let bytes = &out[1..];
    prop_assert_eq!(out[0], 0xAA, "encoding appends");
    prop_assert_eq!(bytes.len(), packet.encoded_len());
    prop_assert_eq!(Packet::decode(bytes), Ok(packet));
    Ok(())
}

/// Bytes in which lengths, zeros and the mark FF are far more frequent than chance has them.
fn lengthy_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(0xFF), Just(0), Just(1), 0..8_u8, any::<u8>()];
    vec(byte, 0..600)
}

/// Multis as peers of every kind write them, in which the lengths can often be read in several ways to the end.
fn ambiguous_multi() -> impl Strategy<Value = Vec<u8>> {
    let fill = || prop_oneof![8 => Just(0), 1 => 0..4_u8, 1 => Just(0xFF)];
    let short = vec(fill(), 0..8).prop_map(|piece| [&[piece.len() as u8], &piece[..]].concat());
    let literal = vec(fill(), 255).prop_map(|piece| [&[0xFF], &piece[..]].concat());
    let long = vec(fill(), 0..300).prop_map(|piece| {
        let [high, low] = (piece.len() as u16).to_be_bytes();
        [&[0xFF, high, low], &piece[..]].concat()
    });
    let longest =
        vec(fill(), 0..8).prop_map(|piece| [&[0xFF, 0xFF, 0xFF, 0, 0, 0, piece.len() as u8], &piece[..]].concat());
    vec(prop_oneof![short, literal, long, longest], 0..5).prop_map(|pieces| pieces.concat())
}

/// Checks that the slices are consecutive in `body`, are not empty, and that nothing follows an error.
fn are_in_order<'a>(
    body: &'a [u8],
    mut items: impl Iterator<Item = Result<&'a [u8], DecodeError>>,
) -> Result<(), TestCaseError> {
    let range = body.as_ptr_range();
    let mut end = range.start;
    for _ in 0..=body.len() {
        match items.next() {
            None => return Ok(()),
            Some(Err(_)) => {
                prop_assert!(items.next().is_none(), "something follows an error");
                return Ok(());
            }
            Some(Ok(item)) => {
                prop_assert!(!item.is_empty());
                let item = item.as_ptr_range();
                prop_assert!(end <= item.start && item.end <= range.end);
                end = item.end;
            }
        }
    }
    Err(TestCaseError::fail("more items than bytes"))
}

/// What an ambiguous Multi means by the book, in exponential time: the first tiling in the order of preference.
fn tiling(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let Some((&first, rest)) = bytes.split_first() else { return Some(Vec::new()) };
    let literal = (1_usize, usize::from(first));
    let readings = match rest {
        _ if first != 0xFF => vec![literal],
        [0xFF, 0xFF, a, b, c, d, ..] => vec![(7, u32::from_be_bytes([*a, *b, *c, *d]) as usize), literal],
        [0xFF, 0xFF, ..] => vec![literal],
        [0, low, ..] => vec![literal, (3, usize::from(*low))],
        [high, low, ..] => vec![(3, usize::from(*high) << 8 | usize::from(*low)), literal],
        _ => vec![literal],
    };
    readings.into_iter().find_map(|(start, length)| {
        let piece = bytes.get(start..start.checked_add(length)?)?;
        let rest = tiling(&bytes[start + length..])?;
        Some((!piece.is_empty()).then_some(piece).into_iter().chain(rest).collect())
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_decode_or_fail_but_never_panic(bytes in vec(any::<u8>(), 0..100)) {
        let _ = Packet::decode(&bytes);
    }

    #[test]
    fn arbitrary_bodies_decode_or_fail_but_never_panic(opcode in 0..0x22_u8, body in vec(any::<u8>(), 0..100)) {
        let bytes = [&[0, opcode], &body[..]].concat();
        if let Ok(packet) = Packet::decode(&bytes) {
            comes_back(packet)?;
        }
    }

    #[test]
    fn a_session_request_comes_back(
        version in 0..5_u32,
        session_id: u32,
        udp_length: u32,
        name in option::of(vec(1..=u8::MAX, 0..=MAX_PROTOCOL_NAME)),
    ) {
        let protocol_name = name.as_deref().filter(|_| version > 2);
        comes_back(Packet::SessionRequest(SessionRequest { version, session_id, udp_length, protocol_name }))?;
    }

    #[test]
    fn a_session_response_comes_back(
        ids: (u32, u32),
        crc_length: u8,
        passes: [u8; 2],
        udp_length: u32,
        version: Option<u32>,
    ) {
        let (session_id, crc_seed) = ids;
        let response = SessionResponse { session_id, crc_seed, crc_length, passes, udp_length, version };
        comes_back(Packet::SessionResponse(response))?;
        comes_back(Packet::RemapConnection(RemapConnection { session_id, crc_seed }))?;
    }

    #[test]
    fn a_disconnect_comes_back(session_id: u32, reason: Option<u16>) {
        let reason = reason.map(DisconnectReason::from);
        comes_back(Packet::Disconnect(Disconnect { session_id, reason }))?;
    }

    #[test]
    fn net_status_comes_back(clock: u16, times: [u32; 5], counts: [u64; 4], responder_clock: u32) {
        let [master, average, low, high, last] = times;
        let [requester_sent, requester_received, responder_sent, responder_received] = counts;
        let (sent, received) = (requester_sent, requester_received);
        let request = NetStatusRequest { clock, master, average, low, high, last, sent, received };
        comes_back(Packet::NetStatusRequest(request))?;
        comes_back(Packet::NetStatusResponse(NetStatusResponse {
            request_clock: clock,
            responder_clock,
            requester_sent,
            requester_received,
            responder_sent,
            responder_received,
        }))?;
    }

    #[test]
    fn everything_with_a_sequence_comes_back(
        channel in channel(),
        sequence: u16,
        payload in vec(any::<u8>(), 1..600),
        second: bool,
    ) {
        comes_back(Packet::Reliable(ReliableData { channel, sequence, payload: &payload }))?;
        comes_back(Packet::Fragment(ReliableFragment { channel, sequence, body: &payload }))?;
        comes_back(Packet::Acknowledge(Acknowledge { channel, sequence }))?;
        comes_back(Packet::AcknowledgeAll(AcknowledgeAll { channel, sequence }))?;
        let stream = if second { OrderedStream::Two } else { OrderedStream::One };
        comes_back(Packet::Ordered(OrderedData { stream, stamp: sequence, payload: &payload }))?;
    }

    #[test]
    fn containers_and_data_come_back(bytes in vec(prop_oneof![Just(0), any::<u8>()], 1..100)) {
        comes_back(Packet::Multi(Multi::new(&bytes)))?;
        comes_back(Packet::Group(Group::new(&bytes)))?;
        comes_back(Packet::ServerStatus(&bytes))?;
        comes_back(Packet::Data(&bytes))?;
    }

    #[test]
    fn every_message_survives_its_escape(message in vec(prop_oneof![Just(0), Just(0x19), any::<u8>()], 1..20)) {
        let mut out = Vec::new();
        put_escaped(&mut out, &message);
        prop_assert_eq!(out.len(), escaped_len(&message));
        prop_assert_eq!(Payload::classify(&out), Payload::Message(&out));
        prop_assert_eq!(unescape(&out), &message[..]);
    }

    #[test]
    fn the_elements_of_a_group_come_back(elements in vec(vec(any::<u8>(), 1..600), 0..8)) {
        let mut body = Vec::new();
        for element in &elements {
            group::put_element(&mut body, element);
        }
        let read: Result<Vec<_>, _> = Group::new(&body).elements().collect();
        prop_assert_eq!(read, Ok(elements.iter().map(Vec::as_slice).collect()));
    }

    #[test]
    fn the_pieces_of_a_multi_come_back(pieces in vec(vec(any::<u8>(), 1..=MAX_MULTI_PIECE), 0..8)) {
        let mut body = Vec::new();
        for piece in &pieces {
            body.extend(multi::length_byte(piece.len()));
            body.extend_from_slice(piece);
        }
        let read: Result<Vec<_>, _> = Multi::new(&body).pieces().collect();
        prop_assert_eq!(read, Ok(pieces.iter().map(Vec::as_slice).collect()));
    }

    #[test]
    fn containers_of_arbitrary_bytes_yield_what_is_in_them_and_end(body in lengthy_bytes()) {
        are_in_order(&body, Group::new(&body).elements())?;
        are_in_order(&body, Multi::new(&body).pieces())?;
    }

    #[test]
    fn a_multi_is_read_the_first_way_that_comes_out_even(body in prop_oneof![lengthy_bytes(), ambiguous_multi()]) {
        let read: Result<Vec<_>, _> = Multi::new(&body).pieces().collect();
        prop_assert_eq!(read.ok(), tiling(&body));
    }
}
