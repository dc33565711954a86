//! Datagrams of strangers at a server, by the path that servers take.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use bytes::BytesMut;
use soe_core::{
    AdmissionConfig, DatagramOutcome, DisconnectReason, Endpoint, Opened, Path, Session, SessionKey,
    host::{self, Fed, Host},
    wire,
};

use super::input::{Input, MS, start};

/// A server without sockets.
struct Server {
    endpoint: Endpoint,
    sessions: BTreeMap<SessionKey, (Path, Session)>,
    hint: BTreeMap<SocketAddr, SessionKey>,
    sent: Vec<(Path, Vec<u8>)>,
}

impl Host for Server {
    type Session = SessionKey;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        work(&mut self.endpoint)
    }

    fn lookup(&mut self, address: SocketAddr) -> Option<SessionKey> {
        self.hint.get(&address).copied()
    }

    fn session(&mut self, key: SessionKey) -> Option<SessionKey> {
        self.sessions.contains_key(&key).then_some(key)
    }

    fn feed(&mut self, now: Instant, key: &SessionKey, _: Path, datagrams: &mut dyn Iterator<Item = BytesMut>) -> Fed {
        let mut fed = Fed::new(*key, now);
        let (_, session) = self.sessions.get_mut(key).expect("a routed session is there");
        for datagram in datagrams {
            match session.handle_datagram(now, datagram) {
                DatagramOutcome::Authentic => fed.is_authentic = true,
                DatagramOutcome::Rejected(datagram) | DatagramOutcome::ForEndpoint(datagram) => {
                    fed.returned.push(datagram)
                }
                _ => {}
            }
        }
        fed.heard = session.last_heard();
        fed
    }

    fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.sent.push((path, datagram));
    }

    fn open(&mut self, _: Instant, opened: Opened) {
        let Opened { key, path, session, .. } = opened;
        assert!(self.sessions.insert(key, (path, session)).is_none(), "a key names two sessions");
    }

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.hint.insert(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        if self.hint.get(&address) == Some(&key) {
            self.hint.remove(&address);
        }
    }

    fn relocate(&mut self, now: Instant, key: &SessionKey, _: SocketAddr, to: Path) {
        let Some((path, session)) = self.sessions.get_mut(key) else { return };
        *path = to;
        session.handle_remap(now);
    }

    fn probe(&mut self, _: Instant, key: &SessionKey) {
        self.sessions.get_mut(key).expect("it is there").1.ask_for_life();
    }

    fn unreachable(&mut self, now: Instant, key: &SessionKey) {
        self.sessions.get_mut(key).expect("it is there").1.handle_unreachable(now);
    }

    fn end(&mut self, now: Instant, key: &SessionKey, reason: DisconnectReason, tell_peer: bool) {
        self.sessions.get_mut(key).expect("it is there").1.abort(now, reason, tell_peer);
    }

    fn forget(&mut self, key: SessionKey) {
        assert!(self.sessions.remove(&key).is_some(), "forgotten twice");
        assert!(!self.hint.values().any(|routed| *routed == key), "a forgotten session is routed");
    }
}

impl Server {
    /// Lets the sessions' timers fire, and reports those that have ended.
    fn serve(&mut self, now: Instant) {
        for key in self.sessions.keys().copied().collect::<Vec<_>>() {
            let Some((path, session)) = self.sessions.get_mut(&key) else { continue };
            session.handle_timeout(now);
            let mut out = Vec::new();
            while session.poll_transmit(now, &mut out).is_some() {
                self.sent.push((*path, std::mem::take(&mut out)));
            }
            let (closed, readable, drained) = (session.closed(), session.is_readable(), session.is_drained());
            if closed.is_some() {
                host::ended(self, now, key, readable);
            }
            if drained {
                host::drained(self, now, key);
            }
        }
    }
}

/// Strangers from a few addresses, who send what the bytes say, and an application that does what they say.
pub fn datagram_to_endpoint(data: &[u8]) {
    let mut input = Input(data);
    let others = vec![input.config()];
    let config = AdmissionConfig::builder(input.config())
        .others(others)
        .max_pending_handshakes(1 + usize::from(input.byte()))
        .max_sessions(1 + usize::from(input.byte() & 7))
        .accept_backlog(2)
        .response_rate_per_prefix(10)
        .response_burst_per_prefix(50);
    let mut now = start();
    let endpoint = Endpoint::new(now, config.build().expect("within the ranges"), [7; 16]);
    let (ceiling, max_sessions) =
        (endpoint.memory_ceiling(), endpoint.config().map_or(0, |config| config.max_sessions));
    let mut server = Server { endpoint, sessions: BTreeMap::new(), hint: BTreeMap::new(), sent: Vec::new() };
    while !input.is_empty() {
        let op = input.byte();
        let from = match op & 3 {
            0 => SocketAddr::from(([192, 0, 2, op >> 4], 7)),
            1 => SocketAddr::from(([0xFE80, 0, 0, 0, 0, 0, 0, u16::from(op >> 4)], 7)),
            _ => SocketAddr::from(([192, 0, 2, 1], u16::from(op >> 4))),
        };
        now += MS * u32::from(op >> 2 & 3) * 50;
        host::call(&mut server, now, |endpoint| endpoint.handle_timeout(now));
        let datagram = input.chunk();
        host::receive(&mut server, now, [(from.into(), BytesMut::from(datagram))]);
        let answer: Vec<u8> = server.sent.drain(..).flat_map(|(_, datagram)| datagram).collect();
        // Only a valid CRC, which proves the address, may be answered with more.
        let opcode = wire::opcode::of(datagram);
        if opcode.is_some_and(wire::opcode::is_exempt) || answer == [0, wire::opcode::UNKNOWN_SENDER] {
            assert!(answer.len() * 2 <= datagram.len() * 3, "{} bytes for {}", answer.len(), datagram.len());
        }
        match op {
            0xF0..=0xF7 => host::call(&mut server, now, |endpoint| {
                if let Some((key, _)) = endpoint.poll_accept(now) {
                    match op & 3 {
                        0 => endpoint.refuse(key, DisconnectReason::ConnectionRefused),
                        1 => endpoint.ignore(key),
                        _ => endpoint.accept(key),
                    }
                }
            }),
            0xF8 => host::unreachable(&mut server, now, Some(from)),
            0xF9 => host::unreachable(&mut server, now, None),
            0xFF => host::call(&mut server, now, |endpoint| endpoint.close(now)),
            _ => {}
        }
        server.serve(now);
        assert!(server.endpoint.sessions() <= max_sessions);
        assert_eq!(server.endpoint.memory_ceiling(), ceiling);
        server.sent.clear();
    }
    // Everybody falls silent: nothing is left after a while.
    host::call(&mut server, now, |endpoint| endpoint.close(now));
    while let Some((key, _)) = host::call(&mut server, now, |endpoint| endpoint.poll_accept(now)) {
        host::call(&mut server, now, |endpoint| endpoint.accept(key));
    }
    for _ in 0..400 {
        now += MS * 1_000;
        server.serve(now);
    }
    let stats = server.endpoint.stats();
    assert_eq!((server.sessions.len(), server.hint.len(), stats.sessions, stats.lingering), (0, 0, 0, 0));
}
