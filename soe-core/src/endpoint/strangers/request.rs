//! A session request and the result of handling a datagram.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::{pending::Name, question::Question};
use crate::{
    config::RequestInfo,
    endpoint::{capacity::Room, types::NewSession},
    wire::{RemapConnection, SessionRequest},
};

/// The state of the address of a datagram, and whether a session may open.
#[derive(Clone, Copy, Debug)]
pub(in crate::endpoint) struct Standing {
    pub(in crate::endpoint) resident: Resident,
    /// The seed of the session that has the address, which may have ended.
    pub(in crate::endpoint) seed: Option<u32>,
    pub(in crate::endpoint) room: Room,
}

/// Who has the address of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::endpoint) enum Resident {
    Nobody,
    /// A live session, or one that may be about to move there. A new client must [prove](crate::evidence::Evidence) itself.
    Live,
    /// A session that has been silent for long, was asked for a sign of life, and has not answered.
    Gone,
}

impl Resident {
    /// Whether a session would have to go.
    pub(in crate::endpoint) fn is_somebody(self) -> bool {
        self != Self::Nobody
    }
}

/// The result of handling a datagram.
#[derive(Debug)]
pub(in crate::endpoint) enum Outcome {
    /// It was answered, or dropped and counted.
    Done,
    /// It opened a session.
    Open(Box<NewSession>),
    /// It would open a session if the accept queue had room.
    Park(BytesMut),
    /// The application must answer a question first.
    Ask(Question),
    /// A client claims that the session with this id and seed continues from this address.
    Remap(RemapConnection),
    /// It came from the address of a live session and belongs to no handshake.
    Unclaimed,
    /// It came from the address of a live session and belongs to a handshake, and is not enough to replace that session.
    Unproven,
}

/// A session request, without borrowed data.
#[derive(Clone, Debug)]
pub(in crate::endpoint) struct Asked {
    pub(super) version: u32,
    pub(super) session_id: u32,
    pub(super) udp_length: u32,
    pub(super) name: Name,
    /// The size of the datagram in bytes.
    pub(super) length: usize,
}

impl Asked {
    pub(super) fn new(request: &SessionRequest<'_>, length: usize) -> Self {
        let SessionRequest { version, session_id, udp_length, protocol_name } = *request;
        Self { version, session_id, udp_length, name: Name::new(protocol_name.unwrap_or_default()), length }
    }

    pub(super) fn info(&self, address: SocketAddr) -> RequestInfo {
        RequestInfo {
            address,
            version: self.version,
            session_id: self.session_id,
            udp_length: self.udp_length,
            protocol_name: String::from_utf8_lossy(self.name.as_bytes()).into_owned(),
        }
    }
}
