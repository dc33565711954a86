//! What an endpoint wants done.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::{address::Path, question::Question, routes::SessionKey};
use crate::{config::RequestInfo, session::Session, wire::DisconnectReason};

/// What an endpoint wants done by its host, in the order given. The host performs it mechanically, while it does not hold
/// the endpoint's lock; [`perform`](crate::host::perform) does it by a host's methods.
#[derive(Debug)]
#[non_exhaustive]
pub enum Action {
    /// Send this datagram.
    Send {
        /// Where to, and from which local address.
        path: Path,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// Take a session that a client has opened, under this key, and report
    /// [`handle_opened`](crate::Endpoint::handle_opened).
    Open(Box<Opened>),
    /// Give this datagram to a session. If it takes it as authentic, report [`handle_moved`](crate::Endpoint::handle_moved);
    /// if it gives it back, [`handle_returned`](crate::Endpoint::handle_returned).
    Feed {
        /// The session.
        key: SessionKey,
        /// Where it came from.
        path: Path,
        /// The datagram.
        datagram: BytesMut,
    },
    /// Datagrams from this address belong to this session from here on: a hint for the host's own lookup.
    Route {
        /// The address.
        address: SocketAddr,
        /// The session.
        key: SessionKey,
    },
    /// Datagrams from this address belong to this session no more; to another one, if a [`Route`](Self::Route) has said so.
    Unroute {
        /// The address.
        address: SocketAddr,
        /// The session.
        key: SessionKey,
    },
    /// The session's peer has moved: send to the new path, and call [`Session::handle_remap`].
    Move {
        /// The session.
        key: SessionKey,
        /// Where the peer was.
        from: SocketAddr,
        /// Where it is.
        to: Path,
    },
    /// Ask the session's peer for a sign of life: [`Session::ask_for_life`].
    Probe(SessionKey),
    /// The network says that nobody is at the session's address: [`Session::handle_unreachable`].
    Unreachable(SessionKey),
    /// End the session: [`Session::abort`].
    End {
        /// The session.
        key: SessionKey,
        /// Why.
        reason: DisconnectReason,
        /// Whether the peer is told.
        tell_peer: bool,
    },
    /// Drop the session: its key means nothing any more.
    Forget(SessionKey),
    /// Have the application answer this, without any lock, and report [`handle_answer`](crate::Endpoint::handle_answer).
    Ask(Question),
    /// [`poll_accept`](crate::Endpoint::poll_accept) has something: wake the tasks that wait for it.
    Acceptable,
}

/// A session that a client has opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// Its name.
    pub key: SessionKey,
    /// Where the client is.
    pub path: Path,
    /// The session. It has been given the datagram that opened it.
    pub session: Session,
    /// What the client asked for.
    pub request: RequestInfo,
}

impl Opened {
    pub(super) fn new(key: SessionKey, path: Path, session: Session, request: RequestInfo) -> Box<Self> {
        Box::new(Self { key, path, session, request })
    }
}
