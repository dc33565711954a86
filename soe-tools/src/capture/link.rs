//! Link layers: what stands in front of the IP header.

use super::{Extracted, Frame, ip};

/// What the first byte of a frame belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LinkType {
    /// Loopback of the BSDs: the address family as 4 bytes of the capturing machine's order (0), or big-endian (108).
    Loopback,
    /// Ethernet, with or without VLAN tags (1).
    Ethernet,
    /// An IP header, version 4 or 6 (12, 14, 101, 228, 229).
    Ip,
    /// Linux "any" interface (113).
    LinuxCooked,
    /// Linux "any" interface, version 2 (276).
    LinuxCooked2,
    /// Anything else, by its number. Its frames are counted and not looked into.
    Other(u16),
}

impl LinkType {
    /// The type that the capture formats number so.
    pub const fn from_number(number: u16) -> Self {
        match number {
            0 | 108 => Self::Loopback,
            1 => Self::Ethernet,
            12 | 14 | 101 | 228 | 229 => Self::Ip,
            113 => Self::LinuxCooked,
            276 => Self::LinuxCooked2,
            other => Self::Other(other),
        }
    }

    /// The number that is written for this type.
    pub const fn number(self) -> u16 {
        match self {
            Self::Loopback => 0,
            Self::Ethernet => 1,
            Self::Ip => 101,
            Self::LinuxCooked => 113,
            Self::LinuxCooked2 => 276,
            Self::Other(number) => number,
        }
    }
}

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86DD;
/// VLAN tags: 802.1Q, 802.1ad, and the number used before it.
const VLAN: [u16; 3] = [0x8100, 0x88A8, 0x9100];
/// No network nests more.
const MAX_TAGS: usize = 4;

pub(super) fn extract<'a>(frame: &Frame<'a>) -> Extracted<'a> {
    let bytes = frame.bytes;
    let packet = match frame.link {
        LinkType::Ip => Some(bytes),
        LinkType::Loopback => bytes.get(4..),
        LinkType::Ethernet => tagged(bytes, 12),
        LinkType::LinuxCooked => tagged(bytes, 14),
        LinkType::LinuxCooked2 => ether_type(bytes, 0).filter(|kind| is_ip(*kind)).and_then(|_| bytes.get(20..)),
        LinkType::Other(_) => None,
    };
    packet.map_or(Extracted::Other, |packet| ip::extract(frame.time, packet, frame.is_cut))
}

/// What follows the EtherType at `at`, if that says IP, VLAN tags skipped.
fn tagged(bytes: &[u8], mut at: usize) -> Option<&[u8]> {
    for _ in 0..=MAX_TAGS {
        let kind = ether_type(bytes, at)?;
        if is_ip(kind) {
            return bytes.get(at + 2..);
        }
        if !VLAN.contains(&kind) {
            return None;
        }
        at += 4;
    }
    None
}

fn ether_type(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|kind| u16::from_be_bytes(*kind))
}

const fn is_ip(kind: u16) -> bool {
    matches!(kind, IPV4 | IPV6)
}
