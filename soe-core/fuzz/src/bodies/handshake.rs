//! A client and a server that the bytes configure, and what strangers say in between.

use std::net::SocketAddr;

use bytes::BytesMut;
use soe_core::{Action, AdmissionConfig, Endpoint, Message, Session, wire};

use super::input::{Input, MS, start};

const SESSION_ID: u32 = 7;

/// Whatever strangers send, the handshake comes about if the two agree on a dialect, and messages get through. Only a
/// response with the session's own id can spoil it.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let (client, server) = (input.config(), input.config());
    let agree = client.dialect.name == server.dialect.name;
    let mut now = start();
    let admission = AdmissionConfig::builder(server).max_pending_handshakes(1).build().expect("within the ranges");
    let mut endpoint = Endpoint::new(now, admission, [7; 16]);
    let mut client = Session::connect(now, client, SESSION_ID);
    let mut server: Option<Session> = None;
    let message = Message::reliable(vec![9; 1 + usize::from(input.byte()) * 10]);
    client.send(message.clone()).expect("the buffer is empty");
    let [here, there] = [1, 2].map(|host| SocketAddr::from(([192, 0, 2, host], 7)));
    let (mut spoiled, mut received) = (false, None);
    for _ in 0..400 {
        let mut out = Vec::new();
        if let Some(transmit) = client.poll_transmit(now, &mut out) {
            for datagram in out.chunks(transmit.segment_size) {
                if let Some(server) = &mut server {
                    let _ = server.handle_datagram(now, datagram.into());
                } else {
                    endpoint.handle_datagram(now, here.into(), datagram.into());
                }
            }
        }
        while let Some(action) = endpoint.poll_action() {
            match action {
                Action::Open(opened) => server = Some(opened.session),
                Action::Send { datagram, .. } => _ = client.handle_datagram(now, datagram[..].into()),
                _ => {}
            }
        }
        if let Some(server) = &mut server {
            server.handle_timeout(now);
            received = received.or_else(|| server.recv());
            let mut out = Vec::new();
            while let Some(transmit) = server.poll_transmit(now, &mut out) {
                for datagram in out.chunks(transmit.segment_size) {
                    let _ = client.handle_datagram(now, datagram.into());
                }
                out.clear();
            }
        }
        if received.is_some() {
            break;
        }
        if !input.is_empty() {
            let stranger = input.chunk();
            spoiled |= spoils(stranger);
            endpoint.handle_datagram(now, there.into(), BytesMut::from(stranger));
            while endpoint.poll_action().is_some() {}
            if wire::opcode::of(stranger).is_some_and(wire::opcode::is_exempt) {
                let _ = client.handle_datagram(now, BytesMut::from(stranger));
            }
        }
        now += MS * 25;
        client.handle_timeout(now);
    }
    if agree && !spoiled {
        assert_eq!(received.map(|message| message.payload), Some(message.payload));
    }
}

/// Whether a stranger's datagram is more than a stranger could know, or takes the one place in the table.
fn spoils(datagram: &[u8]) -> bool {
    match wire::Packet::decode(datagram) {
        Ok(wire::Packet::SessionResponse(response)) => response.session_id == SESSION_ID,
        Ok(wire::Packet::SessionRequest(_)) => true,
        _ => false,
    }
}
