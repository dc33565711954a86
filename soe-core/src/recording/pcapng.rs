//! The blocks of a pcapng file, as bytes: ordinary UDP datagrams with addresses, so that every tool reads them.
//!
//! Source: the pcapng file format as published by the tcpdump group.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// The type of a Section Header Block, the same in both byte orders.
pub const SECTION_HEADER: u32 = 0x0A0D_0D0A;
/// What a Section Header Block says of the byte order, as it is read in the right one.
pub const BYTE_ORDER: u32 = 0x1A2B_3C4D;
/// The type of an Interface Description Block.
pub const INTERFACE: u32 = 1;
/// The type of an Enhanced Packet Block.
pub const ENHANCED_PACKET: u32 = 6;
/// The type of a Decryption Secrets Block.
pub const SECRETS: u32 = 10;
/// The longest payload of a UDP datagram over IPv4, in bytes.
pub const MAX_PAYLOAD: usize = 65_535 - 28;

/// The secrets type of lines about sessions and keys: `SOEK`. Not registered; other programs skip what they do not know.
pub const SECRETS_KEYS: u32 = 0x534F_454B;
/// The secrets type of a piece of a recording: `SOER`.
pub const SECRETS_RECORDING: u32 = 0x534F_4552;

/// Link type 101: the frame begins with the IP header.
const LINK_RAW_IP: u16 = 101;
/// Link type 252, Wireshark's "exported PDU": tags that say where the frame is from, and then what an application would read.
pub const LINK_EXPORTED: u16 = 252;
const OPTION_COMMENT: u16 = 1;
const OPTION_FLAGS: u16 = 2;
const OPTION_APPLICATION: u16 = 4;
const OPTION_RESOLUTION: u16 = 9;
const UDP: u8 = 17;
/// The time to live that systems send with, in hops.
const HOPS: u8 = 64;

/// Which way a datagram went, seen from where it was captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "the format has no third")]
pub enum Inbound {
    /// It came in.
    Yes,
    /// It went out.
    No,
}

/// A UDP datagram, or an application message, to be written.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Packet<'a> {
    /// When it was seen, in nanoseconds since 1970.
    pub time: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who was to get it.
    pub to: SocketAddr,
    /// Its payload. Of a datagram, [`MAX_PAYLOAD`] bytes are written at most; of a message, 262,016.
    pub payload: &'a [u8],
    /// The time to live, in hops; `None`: 64.
    pub time_to_live: Option<u8>,
    /// Which way it went, if that is to be said.
    pub inbound: Option<Inbound>,
}

impl<'a> Packet<'a> {
    /// A datagram without particulars.
    pub const fn new(time: u64, from: SocketAddr, to: SocketAddr, payload: &'a [u8]) -> Self {
        Self { time, from, to, payload, time_to_live: None, inbound: None }
    }
}

/// Appends the head of a file of raw IP frames with times in nanoseconds: a section and its one interface. Says what wrote
/// it, and a comment, unless they are empty.
pub fn head(out: &mut Vec<u8>, application: &str, comment: &str) {
    head_of(out, LINK_RAW_IP, application, comment);
}

/// The same for a file of application messages, see [`message`].
pub fn message_head(out: &mut Vec<u8>, application: &str, comment: &str) {
    head_of(out, LINK_EXPORTED, application, comment);
}

fn head_of(out: &mut Vec<u8>, link: u16, application: &str, comment: &str) {
    block(out, SECTION_HEADER, |body| {
        body.extend_from_slice(&BYTE_ORDER.to_le_bytes());
        body.extend_from_slice(&[1, 0, 0, 0]);
        // The length of the section is not known.
        body.extend_from_slice(&[0xFF; 8]);
        options(body, |body| {
            text(body, OPTION_COMMENT, comment);
            text(body, OPTION_APPLICATION, application);
        });
    });
    block(out, INTERFACE, |body| {
        body.extend_from_slice(&link.to_le_bytes());
        body.extend_from_slice(&[0; 6]);
        options(body, |body| option(body, OPTION_RESOLUTION, &[9]));
    });
}

/// Appends a datagram with comments, which other tools show beside it. Of a comment, 65,535 bytes are kept.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>, comments: &[&str]) {
    frame(out, packet, comments, put_frame);
}

/// Appends an application message with comments: the payload is what an application reads, and the addresses are
/// those of its two sides. Wireshark shows it as data between them. The file must begin with [`message_head`].
pub fn message(out: &mut Vec<u8>, packet: &Packet<'_>, comments: &[&str]) {
    frame(out, packet, comments, put_exported);
}

/// `put` writes the frame, and says how many bytes of it were left out.
fn frame(out: &mut Vec<u8>, packet: &Packet<'_>, comments: &[&str], put: fn(&mut Vec<u8>, &Packet<'_>) -> usize) {
    block(out, ENHANCED_PACKET, |body| {
        body.extend_from_slice(&[0; 4]);
        body.extend_from_slice(&((packet.time >> 32) as u32).to_le_bytes());
        body.extend_from_slice(&(packet.time as u32).to_le_bytes());
        let lengths = body.len();
        body.extend_from_slice(&[0; 8]);
        let start = body.len();
        let left_out = put(body, packet);
        let length = body.len() - start;
        body[lengths..lengths + 4].copy_from_slice(&(length as u32).to_le_bytes());
        body[lengths + 4..start].copy_from_slice(&((length + left_out) as u32).to_le_bytes());
        pad(body);
        options(body, |body| {
            comments.iter().for_each(|comment| text(body, OPTION_COMMENT, comment));
            if let Some(inbound) = packet.inbound {
                let flags: u32 = if inbound == Inbound::Yes { 1 } else { 2 };
                option(body, OPTION_FLAGS, &flags.to_le_bytes());
            }
        });
    });
}

/// Appends secrets. They must stand before the datagrams that need them.
pub fn secrets(out: &mut Vec<u8>, kind: u32, secrets: &[u8]) {
    block(out, SECRETS, |body| {
        body.extend_from_slice(&kind.to_le_bytes());
        body.extend_from_slice(&(secrets.len() as u32).to_le_bytes());
        body.extend_from_slice(secrets);
    });
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    // Blocks begin at multiples of four of their own start, so what is before them does not matter.
    let mut block = Vec::new();
    block.extend_from_slice(&kind.to_le_bytes());
    block.extend_from_slice(&[0; 4]);
    body(&mut block);
    pad(&mut block);
    let length = (block.len() as u32 + 4).to_le_bytes();
    block[4..8].copy_from_slice(&length);
    block.extend_from_slice(&length);
    out.extend_from_slice(&block);
}

fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Appends options and their end, if there are any.
fn options(body: &mut Vec<u8>, put: impl FnOnce(&mut Vec<u8>)) {
    let before = body.len();
    put(body);
    if body.len() > before {
        body.extend_from_slice(&[0; 4]);
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend_from_slice(&code.to_le_bytes());
    body.extend_from_slice(&(value.len() as u16).to_le_bytes());
    body.extend_from_slice(value);
    pad(body);
}

fn text(body: &mut Vec<u8>, code: u16, text: &str) {
    let most = text.len().min(usize::from(u16::MAX));
    let end = (0..=most).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    if end > 0 {
        option(body, code, &text.as_bytes()[..end]);
    }
}

fn put_frame(out: &mut Vec<u8>, packet: &Packet<'_>) -> usize {
    let payload = &packet.payload[..packet.payload.len().min(MAX_PAYLOAD)];
    let hops = packet.time_to_live.unwrap_or(HOPS);
    let length = 8 + payload.len() as u16;
    let start = out.len();
    // What the checksum of UDP covers beside the datagram itself: addresses, protocol, length.
    let pseudo = u64::from(UDP) + u64::from(length);
    let pseudo = match (packet.from.ip(), packet.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(20 + length).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, hops, UDP, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            let checksum = checksum(sum(&out[start..]));
            out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            pseudo + sum(&from.octets()) + sum(&to.octets())
        }
        (from, to) => {
            let (from, to) = (wide(from).octets(), wide(to).octets());
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[UDP, hops]);
            out.extend_from_slice(&from);
            out.extend_from_slice(&to);
            pseudo + sum(&from) + sum(&to)
        }
    };
    let udp = out.len();
    out.extend_from_slice(&packet.from.port().to_be_bytes());
    out.extend_from_slice(&packet.to.port().to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(payload);
    // Zero says that there is none, which IPv6 does not allow: a sum of zero is written as its other form.
    let checksum = match checksum(pseudo + sum(&out[udp..])) {
        0 => u16::MAX,
        checksum => checksum,
    };
    out[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
    0
}

/// Tags as in Wireshark's `exported_pdu.h`, their values filled to whole words, and the message.
fn put_exported(out: &mut Vec<u8>, packet: &Packet<'_>) -> usize {
    let mut tag = |tag: u16, value: &[u8]| {
        out.extend_from_slice(&tag.to_be_bytes());
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    };
    tag(TAG_DISSECTOR, b"data");
    match (packet.from.ip(), packet.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            tag(TAG_IPV4_FROM, &from.octets());
            tag(TAG_IPV4_TO, &to.octets());
        }
        (from, to) => {
            tag(TAG_IPV6_FROM, &wide(from).octets());
            tag(TAG_IPV6_TO, &wide(to).octets());
        }
    }
    tag(TAG_PORT_TYPE, &PORTS_ARE_UDP.to_be_bytes());
    tag(TAG_PORT_FROM, &u32::from(packet.from.port()).to_be_bytes());
    tag(TAG_PORT_TO, &u32::from(packet.to.port()).to_be_bytes());
    tag(TAG_END, &[]);
    let (shown, left_out) = packet.payload.split_at(packet.payload.len().min(MAX_MESSAGE));
    out.extend_from_slice(shown);
    left_out.len()
}

/// Bytes of a message that are written: Wireshark refuses frames of more than 262,144.
const MAX_MESSAGE: usize = 262_144 - 128;

const TAG_END: u16 = 0;
const TAG_DISSECTOR: u16 = 12;
const TAG_IPV4_FROM: u16 = 20;
const TAG_IPV4_TO: u16 = 21;
const TAG_IPV6_FROM: u16 = 22;
const TAG_IPV6_TO: u16 = 23;
const TAG_PORT_TYPE: u16 = 24;
const TAG_PORT_FROM: u16 = 25;
const TAG_PORT_TO: u16 = 26;
const PORTS_ARE_UDP: u32 = 3;

const fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(narrow) => narrow.to_ipv6_mapped(),
        IpAddr::V6(wide) => wide,
    }
}

/// The sum of the 16-bit words; an odd byte at the end is the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |byte| u64::from(*byte) << 8);
    words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>() + odd
}

fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let [from, to]: [SocketAddr; 2] = [from, to].map(|address| address.parse().unwrap());
        let mut frame = Vec::new();
        put_frame(&mut frame, &Packet::new(0, from, to, payload));
        frame
    }

    #[test]
    fn checksums_are_those_that_a_receiver_computes() {
        // Values from tshark, which calls them good.
        let v4 = frame("192.0.2.1:20060", "192.0.2.2:50000", b"odd");
        assert_eq!((&v4[10..12], &v4[26..28]), (&[0xb6, 0xca][..], &[0x96, 0xc2][..]), "{v4:02x?}");
        let v6 = frame("[::1]:20060", "[::1]:50000", b"even");
        assert_eq!(v6[46..48], [0x23, 0x43], "{v6:02x?}");
        // All words of this one add up to FFFF, which makes a checksum of zero.
        let v6 = frame("[::]:0", "[::]:0", &[0xFF, 0xFF - 17 - 20]);
        assert_eq!(v6[46..48], [0xFF, 0xFF]);
    }

    #[test]
    fn a_block_says_its_length_at_both_ends_and_fills_whole_words() {
        let mut out = Vec::new();
        let [from, to] = ["192.0.2.1:1", "192.0.2.2:2"].map(|address| address.parse().unwrap());
        packet(&mut out, &Packet::new(5, from, to, b"odd"), &["a comment"]);
        assert_eq!(out.len() % 4, 0);
        assert_eq!(out[4..8], (out.len() as u32).to_le_bytes());
        assert_eq!(out[out.len() - 4..], out[4..8]);
    }
}
