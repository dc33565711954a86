//! Under which addresses sockets appear.

use std::{collections::HashMap, net::SocketAddr};

/// Address translation: a socket appears under its own address unless an entry says otherwise.
#[derive(Debug, Default)]
pub(crate) struct Nat {
    /// By the address that a socket is bound to.
    shown: HashMap<SocketAddr, SocketAddr>,
    /// The other way round.
    hidden: HashMap<SocketAddr, SocketAddr>,
    fresh: u16,
}

impl Nat {
    /// Under which address a socket appears.
    pub(crate) fn outside(&self, socket: SocketAddr) -> SocketAddr {
        self.shown.get(&socket).copied().unwrap_or(socket)
    }

    /// Which socket appears under an address, if it could be one.
    pub(crate) fn inside(&self, address: SocketAddr) -> Option<SocketAddr> {
        match self.hidden.get(&address) {
            Some(socket) => Some(*socket),
            None if self.shown.contains_key(&address) => None,
            None => Some(address),
        }
    }

    /// Lets `socket` appear under `address`. The socket that did so until now gets a new port from the router;
    /// `is_bound` says whether one is bound to `address` itself.
    pub(crate) fn rebind(&mut self, socket: SocketAddr, address: SocketAddr, is_bound: bool) {
        let previous = self
            .inside(address)
            .filter(|previous| *previous != socket && (is_bound || self.hidden.contains_key(&address)));
        self.show(socket, address);
        if let Some(previous) = previous {
            self.fresh += 1;
            self.show(previous, SocketAddr::new(address.ip(), FIRST_FRESH_PORT + self.fresh));
        }
    }

    /// Lets two sockets appear under each other's addresses.
    pub(crate) fn swap(&mut self, one: SocketAddr, other: SocketAddr) {
        let (first, second) = (self.outside(one), self.outside(other));
        self.show(one, second);
        self.show(other, first);
    }

    fn show(&mut self, socket: SocketAddr, address: SocketAddr) {
        if let Some(old) = self.shown.remove(&socket)
            && self.hidden.get(&old) == Some(&socket)
        {
            self.hidden.remove(&old);
        }
        self.shown.insert(socket, address);
        self.hidden.insert(address, socket);
    }
}

const FIRST_FRESH_PORT: u16 = 61_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_moved_reused_and_swapped() {
        let [a, b, c] = [1, 2, 3].map(|port| SocketAddr::from(([10, 0, 0, 2], port)));
        let mut nat = Nat::default();
        nat.rebind(a, c, false);
        assert_eq!((nat.outside(a), nat.inside(c), nat.inside(a)), (c, Some(a), None));
        nat.rebind(b, c, false);
        assert_eq!((nat.outside(b), nat.inside(c)), (c, Some(b)));
        let elsewhere = nat.outside(a);
        assert!(elsewhere.port() > FIRST_FRESH_PORT && nat.inside(elsewhere) == Some(a));
        nat.swap(a, b);
        assert_eq!((nat.outside(a), nat.outside(b)), (c, elsewhere));
        assert_eq!((nat.inside(c), nat.inside(elsewhere)), (Some(a), Some(b)));
        nat.rebind(a, a, true);
        assert_eq!((nat.outside(a), nat.inside(a), nat.inside(c)), (a, Some(a), Some(c)));
    }
}
