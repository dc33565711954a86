//! What an endpoint decides about addresses, places, moves and Disconnects, driven as sockets drive it, in virtual time.

#[path = "../common/net.rs"]
mod net;
#[path = "../common/server.rs"]
mod server;

mod accepting;
mod crowds;
mod endings;
mod moves;
mod order;
mod rates;
mod restarts;
mod strangers;

use std::{net::SocketAddr, time::Instant};

use soe_core::{
    Framing, Session, SessionConfig,
    wire::{Packet, SessionRequest},
};

use self::net::Net;

fn config() -> SessionConfig {
    SessionConfig::new("LoginUdp_9").unwrap()
}

fn player(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 10_000 + n))
}

fn request(session_id: u32) -> Vec<u8> {
    let mut datagram = Vec::new();
    let protocol_name = Some(&b"LoginUdp_9"[..]);
    SessionRequest { version: 3, session_id, udp_length: 512, protocol_name }.encode(&mut datagram);
    datagram
}

/// What seals datagrams for a session under this configuration.
fn framing(config: &SessionConfig, seed: u32) -> Framing {
    Framing::new(seed, config.crc_length, config.passes.map(u8::from), &config.dialect.codecs).unwrap()
}

fn framing_of(session: &Session) -> Framing {
    framing(session.config(), session.crc_seed())
}

fn sealed(framing: &Framing, packet: &[u8]) -> Vec<u8> {
    let mut datagram = packet.to_vec();
    framing.seal(&mut datagram, 0);
    datagram
}

const HEARTBEAT: [u8; 2] = [0, 6];
/// Some heartbeats in one packet: the more, the longer.
fn heartbeats(number: usize) -> Vec<u8> {
    let pieces = [&[HEARTBEAT.len() as u8], &HEARTBEAT[..]].concat().repeat(number);
    [vec![0, 3], pieces].concat()
}

const UNKNOWN_SENDER: [u8; 2] = [0, 0x1D];

/// Asks for a session in the name of an address, and reads the seed in the answer over its shoulder.
fn offered_seed(net: &mut Net, from: SocketAddr, session_id: u32) -> u32 {
    net.server.handle(net.now, from, &request(session_id));
    let answers = std::mem::take(&mut net.server.sent);
    let (_, answer) = answers.iter().find(|(path, _)| path.remote == from).expect("requests are answered");
    let Ok(Packet::SessionResponse(response)) = Packet::decode(answer) else { panic!("no response: {answer:x?}") };
    assert_eq!(response.session_id, session_id);
    response.crc_seed
}

/// Like [`offered_seed`]: what seals datagrams for that session.
fn ask(net: &mut Net, from: SocketAddr, session_id: u32) -> Framing {
    let seed = offered_seed(net, from, session_id);
    framing(&net.server.endpoint.config().unwrap().session, seed)
}
