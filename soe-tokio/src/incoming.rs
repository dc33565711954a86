//! A session that waits for the application to decide about it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use soe_core::{DisconnectReason, Endpoint, Relay, RequestInfo, SessionKey};

use crate::{engine::connection::Connection, session::SoeSession};

/// A session that a client has opened and the application has not accepted yet. The client has proved its address, and
/// the session is open for it; what it sends is kept in the session's receive buffer. Dropping this refuses the
/// session, with [`DisconnectReason::ConnectionRefused`]. It cannot be accepted under another configuration: the
/// server's response, which fixes CRC, passes and datagram length, was sent before the client had proved its address.
/// To choose a configuration by the client's version and protocol name, see
/// [`AdmissionSettings::others`](soe_core::AdmissionSettings::others).
#[derive(Debug)]
#[must_use = "dropping it refuses the session"]
pub struct Incoming {
    connection: Arc<Connection>,
    is_decided: bool,
    address: SocketAddr,
    request: RequestInfo,
}

impl Incoming {
    pub(crate) fn new((connection, request): (Arc<Connection>, RequestInfo)) -> Self {
        let address = connection.lock().address;
        Self { connection, is_decided: false, address, request }
    }

    /// Where the client is.
    pub fn peer_addr(&self) -> SocketAddr {
        self.address
    }

    /// The local address that the client spoke to. `None` if the listener is bound to a wildcard address and the system does
    /// not say which one it was.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip()
    }

    /// The proxy that the client comes through, like [`SoeSession::relay`].
    pub fn relay(&self) -> Option<Relay> {
        self.connection.relay()
    }

    /// The protocol version of its request.
    pub fn version(&self) -> u32 {
        self.request.version
    }

    /// The protocol name of its request; empty if its version has no names.
    pub fn protocol_name(&self) -> &str {
        &self.request.protocol_name
    }

    /// The session id that the client chose.
    pub fn session_id(&self) -> u32 {
        self.request.session_id
    }

    /// Accepts the session.
    pub fn accept(mut self) -> SoeSession {
        self.is_decided = true;
        let key = self.connection.key;
        let session = SoeSession::new(Arc::clone(&self.connection));
        self.connection.shared.endpoint.call(|endpoint| endpoint.accept(key));
        session
    }

    /// Ends the session and sends the client this reason.
    pub fn refuse(mut self, reason: DisconnectReason) {
        self.decide(|endpoint, key| endpoint.refuse(key, reason));
    }

    /// Ends the session without notifying the client, which notices by its time-out.
    pub fn ignore(mut self) {
        self.decide(Endpoint::ignore);
    }

    fn decide(&mut self, decision: impl FnOnce(&mut Endpoint, SessionKey)) {
        if !std::mem::replace(&mut self.is_decided, true) {
            let key = self.connection.key;
            self.connection.shared.endpoint.call(|endpoint| decision(endpoint, key));
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.decide(|endpoint, key| endpoint.refuse(key, DisconnectReason::ConnectionRefused));
    }
}
