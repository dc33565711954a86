//! The handshake of a peer that is simulated datagram by datagram.

use std::net::SocketAddr;

use soe_testing::{Network, RawPeer};
use soe_tokio::soe_core::{
    Dialect, Framing,
    wire::{Packet, SessionRequest, SessionResponse},
};
use tokio::time::timeout;

use super::SECOND;

/// Asks the server at [`Network::SERVER`] for a session, every second until it answers.
pub(super) async fn request(raw: &mut RawPeer, session_id: u32) -> SessionResponse {
    let name = Some(&b"Simulated"[..]);
    let request = SessionRequest { version: 3, session_id, udp_length: 512, protocol_name: name };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    loop {
        raw.send(Network::SERVER, &bytes);
        let Ok((_, datagram)) = timeout(SECOND, raw.recv()).await else { continue };
        if let Ok(Packet::SessionResponse(response)) = Packet::decode(&datagram) {
            return response;
        }
    }
}

/// Waits for the request of a client. Returns its address and session id.
pub(super) async fn requested(raw: &mut RawPeer) -> (SocketAddr, u32) {
    loop {
        let (from, datagram) = raw.recv().await;
        if let Ok(Packet::SessionRequest(request)) = Packet::decode(&datagram) {
            return (from, request.session_id);
        }
    }
}

/// The framing of a session without passes.
pub(super) fn framing(seed: u32, crc_length: u8) -> Framing {
    Framing::new(seed, crc_length, [0, 0], &Dialect::version3().codecs).expect("ordinary lengths")
}
