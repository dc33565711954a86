//! The headers that proxies write in front of datagrams: PROXY protocol version 2, and Cloudflare's Simple Proxy Protocol.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What stands at the beginning of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// No header.
    Absent,
    /// A header that says nothing that can be used: cut short, of another version or transport, or with an address that no
    /// player can have.
    Malformed,
    /// The proxy speaks for itself (LOCAL), or does not know for whom (UNSPEC).
    OfProxy {
        /// The length of the header in bytes.
        length: usize,
    },
    /// A player's datagram.
    OfPlayer {
        /// The length of the header in bytes.
        length: usize,
        /// Where the player is.
        player: SocketAddr,
        /// The address of the proxy that the player spoke to.
        entrance: SocketAddr,
    },
}

/// Reads a header of the PROXY protocol, version 2 (section 2.2 of its specification).
pub(super) fn read_v2(datagram: &[u8]) -> Header {
    let Some(after) = datagram.strip_prefix(&SIGNATURE) else { return Header::Absent };
    let Some((&[version_command, family, high, low], after)) = after.split_first_chunk() else {
        return Header::Malformed;
    };
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let length = SIGNATURE.len() + 4 + announced;
    // What follows the addresses (TLVs) is skipped.
    let Some(addresses) = after.get(..announced) else { return Header::Malformed };
    match (version_command, family) {
        (V2_LOCAL, _) | (V2_PROXY, UNSPEC) => Header::OfProxy { length },
        (V2_PROXY, UDP_OVER_IPV4) => of_player(length, addresses, 4),
        (V2_PROXY, UDP_OVER_IPV6) => of_player(length, addresses, 16),
        _ => Header::Malformed,
    }
}

/// Reads a header of the Simple Proxy Protocol.
pub(super) fn read_simple(datagram: &[u8]) -> Header {
    match datagram.strip_prefix(&MAGIC).and_then(|after| after.get(..SIMPLE_LENGTH - MAGIC.len())) {
        Some(addresses) => of_player(SIMPLE_LENGTH, addresses, 16),
        None => Header::Absent,
    }
}

/// The header of the Simple Proxy Protocol for an answer: the same that came with the player's datagrams.
pub(super) fn write_simple(player: SocketAddr, entrance: SocketAddr) -> [u8; SIMPLE_LENGTH] {
    let mut header = [0; SIMPLE_LENGTH];
    header[..2].copy_from_slice(&MAGIC);
    header[2..18].copy_from_slice(&octets(player.ip()));
    header[18..34].copy_from_slice(&octets(entrance.ip()));
    header[34..36].copy_from_slice(&player.port().to_be_bytes());
    header[36..].copy_from_slice(&entrance.port().to_be_bytes());
    header
}

/// Reads what both protocols write in the same order: two addresses, then two ports.
fn of_player(length: usize, addresses: &[u8], ip_length: usize) -> Header {
    let address = |n: usize| {
        let ip = ip(addresses.get(n * ip_length..(n + 1) * ip_length)?)?;
        let port = addresses.get(2 * ip_length + 2 * n..)?.first_chunk().map(|port| u16::from_be_bytes(*port))?;
        Some(SocketAddr::new(ip, port))
    };
    match (address(0), address(1)) {
        (Some(player), Some(entrance)) if can_be_a_player(player) => Header::OfPlayer { length, player, entrance },
        _ => Header::Malformed,
    }
}

/// IPv4 as IPv4, whichever form it comes in: one player has one address.
fn ip(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(|octets| Ipv6Addr::from(octets).to_canonical())).ok()
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn can_be_a_player(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !(ip.is_unspecified() || ip.is_multicast() || is_broadcast)
}

/// What every header of version 2 of the PROXY protocol begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2 and the command: the sender's own datagram, or one that it passes on.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
/// Address family and transport.
const UNSPEC: u8 = 0x00;
const UDP_OVER_IPV4: u8 = 0x12;
const UDP_OVER_IPV6: u8 = 0x22;
/// What every header of the Simple Proxy Protocol begins with.
const MAGIC: [u8; 2] = [0x56, 0xEC];
/// The length of a header of the Simple Proxy Protocol, in bytes.
pub(super) const SIMPLE_LENGTH: usize = 38;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::{ParseConfig, Protocol, ProxiedAddress, ProxyHeader, Tlv};

    use super::*;

    /// What an implementation of another hand makes of it.
    fn read_by_oracle(datagram: &[u8]) -> Header {
        if !datagram.starts_with(&SIGNATURE) {
            return Header::Absent;
        }
        let config = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };
        match ProxyHeader::parse(datagram, config) {
            Err(_) => Header::Malformed,
            Ok((header, length)) => match header.proxied_address() {
                None => Header::OfProxy { length },
                Some(ProxiedAddress { protocol: Protocol::Datagram, source, destination, .. }) => {
                    let canonical = |address: &SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
                    let (player, entrance) = (canonical(source), canonical(destination));
                    if can_be_a_player(player) {
                        Header::OfPlayer { length, player, entrance }
                    } else {
                        Header::Malformed
                    }
                }
                Some(_) => Header::Malformed,
            },
        }
    }

    fn any_pair() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
        let v4 = any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
        let v6 = any::<([u8; 16], u16, [u8; 16], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into()));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn headers_of_another_hand_are_read_as_it_reads_them(
            (source, destination) in any_pair(), is_stream: bool, tlv: Vec<u8>, payload: Vec<u8>, cut: prop::sample::Index,
        ) {
            let address = if is_stream { ProxiedAddress::stream } else { ProxiedAddress::datagram };
            let mut header = ProxyHeader::with_address(address(source, destination));
            header.append_tlv(Tlv::Custom(0xE5, tlv.into()));
            let mut datagram = Vec::new();
            header.encode_v2(&mut datagram).unwrap();
            let length = datagram.len();
            datagram.extend(payload);
            let ours = read_v2(&datagram);
            prop_assert_eq!(ours, read_by_oracle(&datagram));
            if !is_stream && can_be_a_player(source) {
                let is_right = matches!(ours, Header::OfPlayer { length: read, .. } if read == length);
                prop_assert!(is_right, "{ours:?}");
            }
            datagram.truncate(cut.index(length));
            let ours = read_v2(&datagram);
            prop_assert!(matches!(ours, Header::Absent | Header::Malformed), "{ours:?}");
        }

        #[test]
        fn whatever_follows_the_signature_names_the_player_that_another_hand_finds(
            mut body: Vec<u8>, version_command in prop_oneof![Just(0x20_u8), Just(0x21), any::<u8>()],
            family in prop_oneof![Just(0x12_u8), Just(0x22), Just(0), any::<u8>()], length in 0_u16..80,
        ) {
            let mut datagram = SIGNATURE.to_vec();
            datagram.extend([version_command, family]);
            datagram.extend(length.to_be_bytes());
            datagram.append(&mut body);
            let ours = read_v2(&datagram);
            match ours {
                Header::OfPlayer { .. } => prop_assert_eq!(ours, read_by_oracle(&datagram)),
                // Of what a proxy says of itself, the family and everything else is to be ignored; the other hand reads on.
                Header::OfProxy { length } => prop_assert!(length <= datagram.len()),
                Header::Absent | Header::Malformed => {
                    let theirs = read_by_oracle(&datagram);
                    prop_assert!(!matches!(theirs, Header::OfPlayer { .. }), "{theirs:?}");
                }
            }
        }

        #[test]
        fn no_bytes_upset_the_readers(datagram: Vec<u8>) {
            read_v2(&datagram);
            read_simple(&datagram);
            read_simple(&[&MAGIC[..], &datagram].concat());
            read_v2(&[&SIGNATURE[..], &datagram].concat());
        }

        #[test]
        fn a_simple_header_is_written_as_it_was_read(mut header: [u8; SIMPLE_LENGTH], payload: Vec<u8>) {
            header[..2].copy_from_slice(&MAGIC);
            let datagram = [&header[..], &payload].concat();
            if let Header::OfPlayer { length, player, entrance } = read_simple(&datagram) {
                prop_assert_eq!(length, SIMPLE_LENGTH);
                prop_assert_eq!(write_simple(player, entrance), header);
            }
        }
    }

    #[test]
    fn a_simple_header_is_the_documented_structure() {
        let mut bytes = vec![0x56, 0xEC];
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF, 203, 0, 113, 7]);
        bytes.extend([0x20, 0x01, 0x0D, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend([0xAB, 0xCD, 0x4E, 0x5C]);
        bytes.extend(b"payload");
        let player = "203.0.113.7:43981".parse().unwrap();
        let entrance = "[2001:db8::1]:20060".parse().unwrap();
        assert_eq!(read_simple(&bytes), Header::OfPlayer { length: 38, player, entrance });
        assert_eq!(read_simple(&bytes[..37]), Header::Absent);
    }

    #[test]
    fn who_cannot_be_answered_is_no_player() {
        let entrance = "192.0.2.1:20060".parse().unwrap();
        for player in ["0.0.0.0:7", "224.0.0.1:7", "255.255.255.255:7", "192.0.2.9:0", "[::]:7", "[ff02::1]:7"] {
            assert_eq!(read_simple(&write_simple(player.parse().unwrap(), entrance)), Header::Malformed, "{player}");
        }
    }
}
