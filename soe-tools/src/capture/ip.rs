//! IP and UDP headers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One UDP datagram of a capture.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Datagram<'a> {
    /// When it was captured, in nanoseconds since 1970.
    pub time: u64,
    /// Who sent it.
    pub from: SocketAddr,
    /// Who was to get it.
    pub to: SocketAddr,
    /// The UDP payload, as far as it was captured.
    pub payload: &'a [u8],
    /// Whether the capture kept only the front of the payload.
    pub is_cut: bool,
}

impl<'a> Datagram<'a> {
    /// A whole datagram.
    pub const fn new(time: u64, from: SocketAddr, to: SocketAddr, payload: &'a [u8]) -> Self {
        Self { time, from, to, payload, is_cut: false }
    }
}

/// What a frame was.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Extracted<'a> {
    /// A UDP datagram.
    Datagram(Datagram<'a>),
    /// A piece of a UDP datagram that IP had to cut. It is counted and not put together: every known peer keeps its
    /// datagrams below what IP cuts.
    Fragment,
    /// Something else, or malformed.
    Other,
}

const UDP: u8 = 17;
/// Extension headers of IPv6 that are skipped by their length.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
/// More extension headers than a router would pass on.
const MAX_EXTENSIONS: usize = 8;

pub(super) fn extract(time: u64, packet: &[u8], is_cut: bool) -> Extracted<'_> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4(time, packet, is_cut),
        Some(6) => ipv6(time, packet, is_cut),
        _ => None,
    }
    .unwrap_or(Extracted::Other)
}

fn ipv4(time: u64, packet: &[u8], is_cut: bool) -> Option<Extracted<'_>> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let length = usize::from(header[0] & 0x0F) * 4;
    if header[9] != UDP || length < header.len() {
        return None;
    }
    // More fragments follow, or this is not the first.
    if u16::from_be_bytes([header[6], header[7]]) & 0x3FFF != 0 {
        return Some(Extracted::Fragment);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    // A total of 0 is what a capture shows whose network card did the segmenting.
    let end = if total == 0 { packet.len() } else { total.min(packet.len()) };
    udp(time, packet.get(length..end)?, [address(12), address(16)], is_cut)
}

fn ipv6(time: u64, packet: &[u8], is_cut: bool) -> Option<Extracted<'_>> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let address = |at: usize| header[at..].first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes)));
    let addresses = [address(8)?, address(24)?];
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let mut rest = packet.get(40..)?;
    if length > 0 {
        rest = &rest[..length.min(rest.len())];
    }
    let mut next = header[6];
    for _ in 0..MAX_EXTENSIONS {
        match next {
            UDP => return udp(time, rest, addresses, is_cut),
            FRAGMENT => return (*rest.first()? == UDP).then_some(Extracted::Fragment),
            HOP_BY_HOP | ROUTING | OPTIONS => {
                let [following, length, ..] = *rest else { return None };
                next = following;
                rest = rest.get((usize::from(length) + 1) * 8..)?;
            }
            _ => return None,
        }
    }
    None
}

fn udp(time: u64, segment: &[u8], [source, destination]: [IpAddr; 2], is_cut: bool) -> Option<Extracted<'_>> {
    let header: &[u8; 8] = segment.first_chunk()?;
    let field = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let length = usize::from(field(4));
    if length != 0 && length < header.len() {
        return None;
    }
    let end = if length == 0 { segment.len() } else { length.min(segment.len()) };
    Some(Extracted::Datagram(Datagram {
        time,
        from: SocketAddr::new(source, field(0)),
        to: SocketAddr::new(destination, field(2)),
        payload: &segment[header.len()..end],
        is_cut: is_cut && length > segment.len(),
    }))
}
