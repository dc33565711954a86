//! Datagrams from unknown addresses at a server, by the path that servers take.

use std::net::SocketAddr;

use bytes::BytesMut;
use soe_core::{AdmissionConfig, DisconnectReason, host, wire};

use super::{
    input::{Input, MS, start},
    server::Server,
};

/// The bytes are datagrams from a few addresses, and decisions of the application.
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
    let config = config.build().expect("within the ranges");
    let max_sessions = config.max_sessions;
    let mut server = Server::plain(now, config, [7; 16]);
    server.accepts = false;
    let ceiling = server.endpoint.memory_ceiling();
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
        server.run(now);
        assert!(server.endpoint.sessions() <= max_sessions);
        assert_eq!(server.endpoint.memory_ceiling(), ceiling);
        server.sent.clear();
    }
    // No more datagrams: nothing is left after a while.
    host::call(&mut server, now, |endpoint| endpoint.close(now));
    while let Some((key, _)) = host::call(&mut server, now, |endpoint| endpoint.poll_accept(now)) {
        host::call(&mut server, now, |endpoint| endpoint.accept(key));
    }
    for _ in 0..400 {
        now += MS * 1_000;
        server.run(now);
    }
    let stats = server.endpoint.stats();
    let left = (server.all().count(), server.routes(), stats.sessions, stats.lingering);
    assert_eq!(left, (0, 0, 0, 0));
}
