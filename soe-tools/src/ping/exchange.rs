//! A socket that talks to one server, and the datagrams to and from it.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use soe_core::Framing;
use soe_core::wire::{Packet, opcode};

/// The longest datagram that is taken.
const MAX_DATAGRAM: usize = 65_536;

pub(super) struct Exchange {
    socket: UdpSocket,
    buf: Vec<u8>,
}

impl Exchange {
    pub(super) fn new(to: SocketAddr) -> io::Result<Self> {
        let local: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(local)?;
        // Others cannot answer in the server's place.
        socket.connect(to)?;
        Ok(Self { socket, buf: vec![0; MAX_DATAGRAM] })
    }

    /// Sends a packet as it is, or under a framing. What an ICMP error says of an earlier one is no reason to stop.
    pub(super) fn send(&self, packet: &Packet<'_>, framing: Option<&Framing>) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(64);
        packet.encode(&mut datagram);
        if let Some(framing) = framing {
            framing.seal(&mut datagram, 0);
        }
        match self.socket.send(&datagram) {
            Err(error) if error.kind() != ErrorKind::ConnectionRefused => Err(error),
            _ => Ok(()),
        }
    }

    /// The next datagram, until `deadline`.
    pub(super) fn receive(&mut self, deadline: Instant) -> io::Result<Option<&[u8]>> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.socket.recv(&mut self.buf) {
                Ok(length) => return Ok(Some(&self.buf[..length])),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    // Nobody listens there, for now: wait as if nothing had come, but do not spin.
                    ErrorKind::ConnectionRefused => std::thread::sleep(left.min(Duration::from_millis(10))),
                    _ => return Err(error),
                },
            }
        }
    }
}

/// The packet in a datagram of the session; `None` if it is not one.
pub(super) fn opened(datagram: &[u8], framing: &Framing) -> Option<Bytes> {
    match opcode::of(datagram) {
        Some(code) if opcode::is_exempt(code) => None,
        _ => framing.open(BytesMut::from(datagram)).ok(),
    }
}

/// Calls `take` with each packet in a packet, those in a Multi included; Multis within Multis are left out.
pub(super) fn each(packet: &[u8], mut take: impl FnMut(Packet<'_>)) {
    match Packet::decode(packet) {
        Ok(Packet::Multi(multi)) => {
            multi.pieces().flatten().filter_map(|piece| Packet::decode(piece).ok()).for_each(take)
        }
        Ok(packet) => take(packet),
        Err(_) => {}
    }
}
