//! Addresses: the two ends of a path, and a compact form of a peer's address.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

/// A peer's address, and the local address that it sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Path {
    /// The peer's address.
    pub remote: SocketAddr,
    /// The local address that the datagram was sent to, if the system reports it. Answers are sent from it.
    pub local: Option<IpAddr>,
}

impl Path {
    /// A path between a peer and a local address.
    pub fn new(remote: SocketAddr, local: Option<IpAddr>) -> Self {
        Self { remote, local }
    }
}

impl From<SocketAddr> for Path {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

/// A socket address in 22 bytes without alignment; there is one for each session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    pub(super) fn hash(&self, hasher: &mut impl Hasher) {
        hasher.write(&self.ip);
        hasher.write(&self.port);
        hasher.write(&self.scope);
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
    fn an_address_comes_back_as_it_was() {
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
}
