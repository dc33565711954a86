//! Capture files: formats, link layers, and what is no capture at all.

mod common;

use std::net::SocketAddr;

use common::{client, datagrams, plan, server, simulated};
use proptest::{collection::vec, prelude::*};
use soe_tools::analysis::{Analyzer, Event, Options};
use soe_tools::capture::{CaptureError, CaptureReader, Datagram, Extracted, Frame, Item, PcapngWriter};

/// The IP packet of one datagram, as the writer makes it.
fn ip_packet(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    writer.datagram(&Datagram::new(7, from, to, payload)).unwrap();
    let bytes = writer.finish().unwrap();
    let mut reader = CaptureReader::new(&bytes[..]).unwrap();
    match reader.next().unwrap() {
        Some(Item::Frame(frame)) => frame.bytes.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// A pcap file of one frame.
fn pcap(is_big_endian: bool, magic: u32, link: u32, frame: &[u8]) -> Vec<u8> {
    let word = |value: u32| if is_big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let length = frame.len() as u32;
    let header = [magic, 0x0004_0002, 0, 0, 65_535, link].map(word).concat();
    let record = [1_700_000_000, 5, length, length].map(word).concat();
    [&header[..], &record, frame].concat()
}

fn only_datagram(capture: &[u8]) -> (u64, SocketAddr, SocketAddr, Vec<u8>) {
    let mut all = datagrams(capture);
    assert_eq!(all.len(), 1);
    all.remove(0)
}

#[test]
fn every_link_type_leads_to_the_datagram() {
    let payload = b"\x00\x06";
    let (v4, v6) = (ip_packet(client(), server(), payload), {
        let address = |last: u16, port| SocketAddr::from(([0xFE80, 0, 0, 0, 0, 0, 0, last], port));
        ip_packet(address(1, 1000), address(2, 2000), payload)
    });
    for (packet, ether_type) in [(&v4, [0x08, 0x00]), (&v6, [0x86, 0xDD])] {
        let ethernet = [&[0; 12], &ether_type[..], packet].concat();
        let vlan = [&[0; 12], &[0x81, 0x00, 0, 5][..], &ether_type, packet].concat();
        let stacked = [&[0; 12], &[0x88, 0xA8, 0, 5, 0x81, 0x00, 0, 6][..], &ether_type, packet].concat();
        let cooked = [&[0; 14], &ether_type[..], packet].concat();
        let cooked_2 = [&ether_type[..], &[0; 18], packet].concat();
        let loopback = [&[2, 0, 0, 0], &packet[..]].concat();
        let frames = [
            (1, ethernet),
            (1, vlan),
            (1, stacked),
            (113, cooked),
            (276, cooked_2),
            (0, loopback),
            (101, packet.clone()),
        ];
        for (link, frame) in frames {
            let (_, _, _, found) = only_datagram(&pcap(false, 0xA1B2_C3D4, link, &frame));
            assert_eq!(found, payload, "link type {link}");
        }
    }
}

#[test]
fn pcap_is_read_in_both_byte_orders_and_both_resolutions() {
    let packet = ip_packet(client(), server(), b"hi");
    for is_big_endian in [false, true] {
        for (magic, nanoseconds) in [(0xA1B2_C3D4, 5000), (0xA1B2_3C4D, 5)] {
            let (time, from, to, payload) = only_datagram(&pcap(is_big_endian, magic, 101, &packet));
            assert_eq!(time, 1_700_000_000_000_000_000 + nanoseconds);
            assert_eq!((from, to, &payload[..]), (client(), server(), &b"hi"[..]));
        }
    }
}

#[test]
fn fragments_of_ip_are_counted_and_not_read() {
    let mut packet = ip_packet(client(), server(), b"hi");
    packet[6] = 0x20;
    let capture = pcap(false, 0xA1B2_C3D4, 101, &packet);
    let mut reader = CaptureReader::new(&capture[..]).unwrap();
    let Some(Item::Frame(frame)) = reader.next().unwrap() else { panic!("no frame") };
    assert!(matches!(frame.extract(), Extracted::Fragment));
}

#[test]
fn a_capture_that_was_cut_off_gives_what_is_before() {
    let (capture, _) = simulated(&plan("version3"));
    let mut reader = CaptureReader::new(&capture[..capture.len() - 3]).unwrap();
    let mut frames = 0;
    let error = loop {
        match reader.next() {
            Ok(Some(_)) => frames += 1,
            Ok(None) => panic!("no error"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CaptureError::CutOff(_)), "{error}");
    assert_eq!(frames + 1, datagrams(&capture).len());
}

#[test]
fn what_is_no_capture_is_refused() {
    for bytes in [&b""[..], b"abc", b"just some text that is long enough"] {
        assert!(matches!(CaptureReader::new(bytes), Err(CaptureError::NotACapture)));
    }
}

#[test]
fn secrets_come_through_in_their_place() {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    writer.secrets("SOE_KEY 00000001 to-server 0 rc4 00\n").unwrap();
    let bytes = writer.finish().unwrap();
    let mut reader = CaptureReader::new(&bytes[..]).unwrap();
    let Some(Item::Secrets(lines)) = reader.next().unwrap() else { panic!("no secrets") };
    assert_eq!(lines, b"SOE_KEY 00000001 to-server 0 rc4 00\n");
}

/// Reads everything, whatever it is.
fn swallow(capture: &[u8]) -> usize {
    let Ok(mut reader) = CaptureReader::new(capture) else { return 0 };
    let mut analyzer = Analyzer::new(Options::default());
    let mut events = 0;
    let mut sink = |_: &Event<'_>| {
        events += 1;
        Ok(())
    };
    while let Ok(Some(item)) = reader.next() {
        match item {
            Item::Secrets(lines) => analyzer.secrets(lines),
            Item::Frame(frame) => {
                let frame: Frame<'_> = frame;
                if let Extracted::Datagram(datagram) = frame.extract() {
                    analyzer.datagram(&datagram, &mut sink).unwrap();
                }
            }
            other => panic!("{other:?}"),
        }
    }
    analyzer.finish(&mut sink).unwrap();
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The same capture with bytes changed, cut out and repeated: nothing panics, and most is still understood.
    #[test]
    fn a_damaged_capture_never_panics(seed in any::<u64>(), changes in vec((any::<u32>(), any::<u8>(), 0..4u8), 1..80)) {
        let mut small = plan(if seed % 2 == 0 { "star-wars-galaxies" } else { "h1z1" });
        (small.bytes, small.seed, small.loss) = (20_000, seed % 8, 0.05);
        let (mut capture, _) = simulated(&small);
        prop_assert!(swallow(&capture) > 100);
        for (place, value, how) in changes {
            let place = place as usize % capture.len();
            match how {
                0 => capture[place] = value,
                1 => capture[place] ^= 1 << (value % 8),
                2 => capture.truncate(capture.len().saturating_sub(usize::from(value))),
                _ => {
                    let end = (place + usize::from(value)).min(capture.len());
                    capture.extend_from_within(place..end);
                }
            }
            if capture.is_empty() {
                break;
            }
        }
        swallow(&capture);
    }

    /// Datagrams of a live session damaged behind a valid CRC, and arbitrary ones.
    #[test]
    fn hostile_datagrams_never_panic(packets in vec(vec(any::<u8>(), 0..80), 1..60), passes in 0..3usize, typed in any::<bool>()) {
        let passes = [[0, 0], [1, 0], [1, 4]][passes];
        let framing = soe_core::Dialect::star_wars_galaxies().framing(7, 2, passes).unwrap();
        let response = [&[0, 2, 0, 0, 0, 1, 0, 0, 0, 7, 2][..], &passes, &[0, 0, 2, 0]].concat();
        let mut all = vec![(1, server(), client(), response)];
        for (index, mut packet) in packets.into_iter().enumerate() {
            if typed && packet.len() > 1 {
                packet[0] = 0;
                packet[1] %= 0x21;
            }
            if packet.is_empty() {
                continue;
            }
            framing.seal(&mut packet, 0);
            let (from, to) = if index % 3 == 0 { (server(), client()) } else { (client(), server()) };
            all.push((index as u64 * 1_000_000_000, from, to, packet));
        }
        let heard = common::analysed(&all, Options::default());
        prop_assert_eq!(heard.opened.len(), 1);
    }
}
