use std::io::Write;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const SEED: u32 = 0x1a2b_3c4d;
const PASSES: [u8; 4] = [0, 1, 2, 4];
const CODECS: [ZlibCodec; 3] = [ZlibCodec::VERSION_3, ZlibCodec::EVERQUEST, ZlibCodec::STAR_WARS_GALAXIES];

fn framing(crc_length: u8, passes: [u8; 2], codecs: [ZlibCodec; 2]) -> Framing {
    let codecs = codecs.map(|codec| Some(codec.into()));
    Framing::new(SEED, crc_length, passes, &codecs).expect("supported values")
}

fn seal(framing: &Framing, packet: &[u8]) -> Vec<u8> {
    let mut datagram = packet.to_vec();
    framing.seal(&mut datagram, 0);
    datagram
}

/// A datagram of the version 3 zlib pass whose body is exactly this, with a valid CRC.
fn with_body(body: &[u8]) -> BytesMut {
    let checksum_only = framing(2, [0, 0], [ZlibCodec::VERSION_3; 2]);
    let mut datagram = vec![0, 9];
    datagram.extend_from_slice(body);
    BytesMut::from(&seal(&checksum_only, &datagram)[..])
}

fn zlib(content: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(content).expect("writing to memory");
    encoder.finish().expect("writing to memory")
}

fn deflated(content: &[u8]) -> BytesMut {
    let mut body = vec![1];
    body.extend(zlib(content));
    with_body(&body)
}

fn version_3() -> Framing {
    framing(2, [1, 0], [ZlibCodec::VERSION_3; 2])
}

/// Datagrams as games send them: some random, some that compress.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let random = vec(any::<u8>(), 1..520);
    let repetitive = (vec(any::<u8>(), 1..12), 1..60usize).prop_map(|(piece, times)| piece.repeat(times));
    prop_oneof![random, repetitive].prop_filter("application data is escaped", |packet| packet != &[0])
}

proptest! {
    #[test]
    fn what_is_sealed_opens_as_it_was(
        packet in packet(),
        before in vec(any::<u8>(), 0..8),
        crc_length in 0..=4u8,
        passes in [select(&PASSES[..]), select(&PASSES[..])],
        codecs in [select(&CODECS[..]), select(&CODECS[..])],
    ) {
        let framing = framing(crc_length, passes, codecs);
        let mut buf = before.clone();
        buf.extend_from_slice(&packet);
        framing.seal(&mut buf, before.len());
        prop_assert_eq!(&buf[..before.len()], &before[..]);
        let datagram = &buf[before.len()..];
        prop_assert!(datagram.len() <= packet.len() + framing.overhead());
        prop_assert!(framing.is_variable() || datagram.len() == packet.len() + framing.overhead());
        prop_assert!(framing.verify(datagram));
        prop_assert_eq!(framing.open(datagram.into()), Ok(packet.into()));
    }

    #[test]
    fn one_flipped_bit_is_caught_from_two_bytes_of_crc_on_and_the_datagram_comes_back(
        packet in packet(),
        crc_length in 2..=4u8,
        passes in [select(&PASSES[..]), select(&PASSES[..])],
        place in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let framing = framing(crc_length, passes, [ZlibCodec::VERSION_3; 2]);
        let mut datagram = seal(&framing, &packet);
        *place.get_mut(&mut datagram[..]) ^= 1u8 << bit;
        match framing.open(datagram[..].into()) {
            Err(OpenError::Checksum(untouched)) => prop_assert_eq!(&untouched[..], &datagram[..]),
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn arbitrary_datagrams_never_panic(
        datagram in vec(any::<u8>(), 0..600),
        crc_length in 0..=4u8,
        passes in [select(&PASSES[..]), select(&PASSES[..])],
        codecs in [select(&CODECS[..]), select(&CODECS[..])],
    ) {
        let framing = framing(crc_length, passes, codecs);
        framing.verify(&datagram);
        if let Ok(packet) = framing.open(datagram[..].into()) {
            prop_assert!(packet.len() <= 2 * (MAX_INFLATED + 2));
        }
    }

    #[test]
    fn arbitrary_bodies_behind_a_valid_crc_never_panic(body in vec(any::<u8>(), 0..600), stream in any::<bool>()) {
        let mut body = body;
        if stream {
            body.splice(..0, [1, 0x78, 0x9c]);
        }
        let opened = version_3().open(with_body(&body));
        prop_assert!(matches!(opened, Ok(_) | Err(OpenError::Corrupt(_))), "{opened:?}");
    }
}

#[test]
fn a_framing_is_small_enough_to_sit_in_every_session() {
    assert!(size_of::<Framing>() <= 64, "{} bytes", size_of::<Framing>());
}

#[test]
fn the_overhead_is_the_crc_and_a_byte_per_user_codec() {
    assert_eq!(Framing::plain().overhead(), 0);
    assert_eq!(framing(2, [0, 0], CODECS_V3).overhead(), 2);
    assert_eq!(framing(2, [1, 4], CODECS_V3).overhead(), 3);
    assert_eq!(framing(4, [1, 2], CODECS_V3).overhead(), 6);
}

#[test]
fn only_user_codecs_make_sizes_vary() {
    assert!(!framing(2, [4, 0], CODECS_V3).is_variable());
    assert!(framing(2, [4, 1], CODECS_V3).is_variable());
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let codecs = [Some(Codec::from(ZlibCodec::VERSION_3)), None];
    let refusal = |crc_length, passes| Framing::new(SEED, crc_length, passes, &codecs).err();
    assert_eq!(refusal(4, [1, 4]), None);
    assert_eq!(refusal(9, [0, 0]), Some(NegotiationError::CrcLength(9)));
    assert_eq!(refusal(2, [3, 0]), Some(NegotiationError::UnsupportedPass(3)));
    assert_eq!(refusal(2, [0, 200]), Some(NegotiationError::UnsupportedPass(200)));
    assert_eq!(refusal(2, [2, 0]), Some(NegotiationError::MissingCodec(2)));
}

#[test]
fn nothing_in_front_of_the_crc_is_too_short() {
    for crc_length in 0..=4 {
        let framing = framing(crc_length, [0, 0], CODECS_V3);
        let datagram = BytesMut::from(&seal(&framing, &[])[..]);
        assert!(!framing.verify(&datagram));
        assert_eq!(framing.open(datagram.clone()), Err(OpenError::TooShort(datagram)));
    }
}

#[test]
fn the_packet_keeps_the_datagrams_buffer() {
    for passes in [[0, 0], [4, 0], [1, 0]] {
        let framing = framing(2, passes, CODECS_V3);
        let datagram = BytesMut::from(&seal(&framing, &[0, 9, 0, 0, 1, 2, 3])[..]);
        let end = datagram.as_ptr_range().end;
        let packet = framing.open(datagram).expect("own datagram");
        let crc = framing.crc_length();
        assert_eq!(packet.as_ptr_range().end, end.wrapping_sub(crc), "{passes:?}");
    }
}

#[test]
fn sealing_into_a_buffer_with_room_stays_in_it() {
    for passes in [[0, 0], [4, 0], [1, 4]] {
        let framing = framing(2, passes, CODECS_V3);
        let mut buf = Vec::with_capacity(300 + framing.overhead());
        buf.resize(300, 7);
        let place = buf.as_ptr();
        framing.seal(&mut buf, 100);
        assert_eq!(buf.as_ptr(), place, "{passes:?}");
    }
}

#[test]
fn a_body_is_compressed_from_the_minimum_size_on_and_only_if_it_shrinks() {
    let packet = |length| [vec![0, 9], vec![7; length]].concat();
    for codec in CODECS {
        let framing = framing(0, [1, 0], [codec; 2]);
        let minimum = usize::from(codec.min_size);
        assert_eq!(seal(&framing, &packet(minimum - 1)).len(), 2 + minimum, "{codec:?}");
        assert!(seal(&framing, &packet(minimum)).len() < 2 + minimum, "{codec:?}");
    }
    let noise: Vec<u8> = (0..=255).collect();
    assert_eq!(seal(&framing(0, [1, 0], CODECS_V3), &noise)[2], 0);
}

#[test]
fn an_empty_body_gets_its_flag_all_the_same() {
    assert_eq!(seal(&version_3(), &[0, 6])[..3], [0, 6, 0]);
    let trailing = framing(0, [1, 0], [ZlibCodec::STAR_WARS_GALAXIES; 2]);
    assert_eq!(seal(&trailing, b"x"), [b'x', 0]);
}

#[test]
fn a_body_without_its_flag_is_corrupt() {
    assert_eq!(version_3().open(with_body(&[])), Err(OpenError::Corrupt(CodecError::MissingFlag)));
}

#[test]
fn an_unknown_flag_is_read_as_raw() {
    assert_eq!(version_3().open(with_body(&[2, b'h', b'i'])), Ok(Bytes::from_static(b"\0\x09hi")));
}

#[test]
fn a_stream_that_ends_early_is_corrupt() {
    let whole = deflated(&[7; 100]);
    let shorter = &whole[2..whole.len() - 4];
    assert!(version_3().open(whole.clone()).is_ok());
    assert_eq!(version_3().open(with_body(shorter)), Err(OpenError::Corrupt(CodecError::Malformed)));
}

#[test]
fn bytes_behind_the_stream_are_ignored() {
    let mut body = deflated(&[7; 100])[2..].to_vec();
    body.truncate(body.len() - 2);
    body.extend_from_slice(b"surplus");
    assert_eq!(version_3().open(with_body(&body)).map(|packet| packet.len()), Ok(102));
}

#[test]
fn inflating_stops_at_the_limit() {
    let opened = version_3().open(deflated(&[0; MAX_INFLATED]));
    assert_eq!(opened.map(|packet| packet.len()), Ok(2 + MAX_INFLATED));
    let too_long = OpenError::Corrupt(CodecError::TooLong { limit: MAX_INFLATED });
    assert_eq!(version_3().open(deflated(&[0; MAX_INFLATED + 1])), Err(too_long));
    let bomb = deflated(&[0; 1 << 20]);
    assert!(bomb.len() < 1100);
    assert!(matches!(version_3().open(bomb), Err(OpenError::Corrupt(CodecError::TooLong { .. }))));
}

#[test]
fn a_failed_inflation_leaves_nothing_behind_for_the_next() {
    let framing = version_3();
    let good = deflated(b"the same twenty-four bytes, the same twenty-four bytes");
    let expected = framing.open(good.clone());
    assert!(expected.is_ok());
    for _ in 0..3 {
        assert!(framing.open(deflated(&[0; MAX_INFLATED + 1])).is_err());
        assert!(framing.open(with_body(&[1, 0xff, 0xff])).is_err());
        assert_eq!(framing.open(good.clone()), expected);
    }
}

#[test]
fn debug_output_does_not_give_the_seed_away() {
    let shown = format!("{:?} {:#?}", version_3(), version_3());
    assert!(!shown.contains(&SEED.to_string()) && !shown.contains(&format!("{SEED:x}")), "{shown}");
}

/// Inverts every bit, after a flag byte.
#[derive(Debug)]
struct Turning;

impl UserCodec for Turning {
    fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        out.push(0x42);
        out.extend(body.iter().map(|byte| !byte));
    }

    fn decode(&self, body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError> {
        match body {
            [0x42, rest @ ..] if rest.len() <= limit => {
                out.extend(rest.iter().map(|byte| !byte));
                Ok(())
            }
            _ => Err(CodecError::Other("not turned")),
        }
    }
}

#[test]
fn an_application_can_bring_its_own_codec() {
    let codecs = [Some(ZlibCodec::VERSION_3.into()), Some(Codec::Custom(Arc::new(Turning)))];
    let framing = Framing::new(SEED, 2, [2, 4], &codecs).expect("supported values");
    assert_eq!(framing.overhead(), 3);
    let datagram = seal(&framing, b"\0\x09hello");
    assert_eq!(datagram.len(), 7 + 3);
    assert_eq!(framing.open(datagram[..].into()), Ok(Bytes::from_static(b"\0\x09hello")));
    let plain = Framing::new(SEED, 2, [2, 0], &codecs).expect("supported values");
    assert_eq!(plain.open(with_body(b"hello")), Err(OpenError::Corrupt(CodecError::Other("not turned"))));
}

const CODECS_V3: [ZlibCodec; 2] = [ZlibCodec::VERSION_3; 2];
