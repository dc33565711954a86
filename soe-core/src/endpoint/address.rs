//! Addresses: the two ends of a path, the relay between them, and a compact form of a peer's address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// A peer's address, the local address that it sends to, and the relay between the two, if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Path {
    /// The peer's own address, also behind a relay.
    pub remote: SocketAddr,
    /// The local address that the datagram was sent to, if the system reports it. Answers are sent from it.
    pub local: Option<IpAddr>,
    /// The relay that forwarded the datagram. Answers are sent there.
    pub relay: Option<Relay>,
}

impl Path {
    /// A path between a peer and a local address.
    pub fn new(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self { remote, local, relay: None }
    }

    /// The same path by way of a relay.
    #[must_use]
    pub fn with_relay(self, relay: Option<Relay>) -> Self {
        Self { relay, ..self }
    }
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self::new(remote, None)
    }
}

/// A proxy or load balancer that forwards the datagrams of a peer with the peer's address. It is part of a [`Path`] and
/// so belongs to each received datagram: a forged datagram through another relay is answered through that relay, and
/// does not change the path of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Relay {
    address: Address,
    entrance: Address,
}

impl Relay {
    /// A relay at this address. `entrance` is the relay's address that the peer sends to.
    pub fn new(address: SocketAddr, entrance: Option<SocketAddr>) -> Self {
        Self { address: address.into(), entrance: entrance.map_or(Address::NONE, Address::from) }
    }

    /// The source of its datagrams, and the destination of datagrams for the peer.
    pub fn address(&self) -> SocketAddr {
        self.address.socket()
    }

    /// The relay's address that the peer sends to, if the relay reports it.
    pub fn entrance(&self) -> Option<SocketAddr> {
        (self.entrance != Address::NONE).then(|| self.entrance.socket())
    }
}

/// A socket address in 22 bytes without alignment; there is one for each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    ip: [u8; 16],
    port: [u8; 2],
    scope: [u8; 4],
}

/// Marks an IPv4 address. The mapped IPv6 form counts as a different address: a socket sends to one of the two forms.
const IPV4: [u8; 4] = [0xFF; 4];

impl Address {
    pub(super) const NONE: Self = Self { ip: [0; 16], port: [0; 2], scope: [0; 4] };

    pub(super) fn socket(self) -> SocketAddr {
        let port = u16::from_be_bytes(self.port);
        let ip = Ipv6Addr::from(self.ip);
        match ip.to_ipv4_mapped() {
            Some(ip) if self.scope == IPV4 => SocketAddr::from((ip, port)),
            _ => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, u32::from_be_bytes(self.scope))),
        }
    }

    /// The address in whole words, which a hasher takes at once.
    pub(super) fn words(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..16].copy_from_slice(&self.ip);
        bytes[16..18].copy_from_slice(&self.port);
        bytes[18..22].copy_from_slice(&self.scope);
        bytes
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let port = address.port().to_be_bytes();
        match address {
            SocketAddr::V4(v4) => Self { ip: v4.ip().to_ipv6_mapped().octets(), port, scope: IPV4 },
            SocketAddr::V6(v6) => Self { ip: v6.ip().octets(), port, scope: v6.scope_id().to_be_bytes() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_round_trip() {
        for text in ["192.0.2.1:7", "[::ffff:192.0.2.1]:7", "[2001:db8::1]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Address::from(address).socket(), address);
        }
        assert_ne!(
            Address::from(SocketAddr::from(([1, 2, 3, 4], 5))),
            Address::from("[::ffff:1.2.3.4]:5".parse::<SocketAddr>().unwrap())
        );
        assert_eq!(size_of::<Address>(), 22);
    }

    #[test]
    fn a_relay_has_its_address_and_the_entrance_of_the_peer() {
        let (inside, outside) = (SocketAddr::from(([10, 0, 0, 9], 4000)), "[2001:db8::1]:20060".parse().unwrap());
        let relay = Relay::new(inside, Some(outside));
        assert_eq!((relay.address(), relay.entrance()), (inside, Some(outside)));
        assert_eq!(Relay::new(inside, None).entrance(), None);
    }
}
