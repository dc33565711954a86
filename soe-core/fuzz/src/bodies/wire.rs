//! Bytes to packets and back.

use soe_core::{
    Dialect, Framing,
    framing::{Codec, MAX_INFLATED, OpenError},
    wire::{self, Packet},
};

use super::input::Input;

const SEED: u32 = 0x1122_3344;

fn codecs(choice: u8) -> [Option<Codec>; 2] {
    match choice % 3 {
        0 => Dialect::version3().codecs,
        1 => Dialect::everquest_zone().codecs,
        _ => Dialect::star_wars_galaxies().codecs,
    }
}

/// Any body with a right CRC through every codec: it expands to 8 KiB at most, or is corrupt.
pub fn inflate(data: &[u8]) {
    let mut input = Input(data);
    let (choice, first) = (input.byte(), input.byte());
    let mut datagram = if choice & 0x10 == 0 { vec![0, first] } else { vec![first | 1] };
    datagram.extend_from_slice(input.0);
    let checked = Framing::new(SEED, 2, [0, 0], &[None, None]).expect("a CRC of two bytes");
    checked.seal(&mut datagram, 0);
    for passes in [[1, 0], [1, 4], [4, 1]] {
        let framing = Framing::new(SEED, 2, passes, &codecs(choice)).expect("all dialects have the codec");
        match framing.open(datagram[..].into()) {
            Ok(packet) => assert!(packet.len() <= MAX_INFLATED + 2, "{} bytes", packet.len()),
            Err(OpenError::Corrupt(_)) => {}
            Err(error) => panic!("the CRC is right: {error:?}"),
        }
    }
}

/// What has been read is written as it was understood, and what has been sealed opens as it was.
pub fn round_trip(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        let mut out = Vec::new();
        packet.encode(&mut out);
        assert_eq!(out.len(), packet.encoded_len());
        assert_eq!(Packet::decode(&out), Ok(packet), "{data:x?}");
    }
    if data.is_empty() || *data == [0] || data.len() > MAX_INFLATED {
        return;
    }
    for choice in 0..3 {
        for (crc_length, passes) in [(0, [0, 0]), (2, [1, 0]), (4, [4, 0]), (2, [1, 4])] {
            let framing = Framing::new(SEED, crc_length, passes, &codecs(choice)).expect("a known framing");
            let mut datagram = data.to_vec();
            framing.seal(&mut datagram, 0);
            assert!(datagram.len() <= data.len() + framing.overhead());
            assert!(framing.verify(&datagram));
            assert_eq!(framing.open(datagram[..].into()).expect("sealed a moment ago"), data);
        }
    }
    let mut group = Vec::new();
    wire::group::put_header(&mut group);
    let elements: Vec<_> = data.split(|&byte| byte == b'|').filter(|element| !element.is_empty()).collect();
    elements.iter().for_each(|element| wire::group::put_element(&mut group, element));
    let Ok(Packet::Group(read)) = Packet::decode(&group) else { panic!("a Group is not read as one") };
    assert!(read.elements().map(Result::unwrap).eq(elements));
}
