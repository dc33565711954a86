//! The actions that an endpoint requests from its host.

use std::net::SocketAddr;

use bytes::BytesMut;

use super::{address::Path, routes::SessionKey, strangers::question::Question};
use crate::{config::RequestInfo, session::Session, wire::DisconnectReason};

/// An action for the endpoint's host. Perform the actions in order, without holding the endpoint's lock.
/// [`perform`](crate::host::perform) does it with the methods of a [`Host`](crate::host::Host).
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
    /// Store a session that a client has opened under its key, and report
    /// [`handle_opened`](crate::Endpoint::handle_opened).
    Open(Box<Opened>),
    /// Pass this datagram to a session. If the session finds it authentic, report
    /// [`handle_moved`](crate::Endpoint::handle_moved); if it returns it,
    /// [`handle_returned`](crate::Endpoint::handle_returned).
    Feed {
        /// The session.
        key: SessionKey,
        /// Where it came from.
        path: Path,
        /// The datagram.
        datagram: BytesMut,
    },
    /// From now on, datagrams from this address belong to this session, and to no other one that had the address. Update
    /// the lookup.
    Route {
        /// The address.
        address: SocketAddr,
        /// The session.
        key: SessionKey,
    },
    /// Datagrams from this address no longer belong to this session. If a [`Route`](Self::Route) has assigned the
    /// address to another one, nothing changes.
    Unroute {
        /// The address.
        address: SocketAddr,
        /// The session.
        key: SessionKey,
    },
    /// The session's peer has moved. Send to the new path, and call [`Session::handle_remap`].
    Move {
        /// The session.
        key: SessionKey,
        /// Where the peer was.
        from: SocketAddr,
        /// Where it is.
        to: Path,
    },
    /// Ask the session's peer for a sign of life: [`Session::ask_for_life`].
    AskForLife(SessionKey),
    /// Report an ICMP error about the session's address with [`Session::handle_unreachable`].
    Unreachable(SessionKey),
    /// End the session with [`Session::abort`].
    End {
        /// The session.
        key: SessionKey,
        /// Why.
        reason: DisconnectReason,
        /// Whether to send the peer a Disconnect.
        tell_peer: bool,
    },
    /// Drop the session. Its key is no longer valid.
    Forget(SessionKey),
    /// Let the application answer this question, without holding a lock, and report
    /// [`handle_answer`](crate::Endpoint::handle_answer).
    Ask(Question),
    /// [`poll_accept`](crate::Endpoint::poll_accept) has a session: wake the tasks that wait for it.
    Acceptable,
}

/// A session that a client has opened.
#[derive(Debug)]
#[non_exhaustive]
pub struct Opened {
    /// The session's key.
    pub key: SessionKey,
    /// The client's address.
    pub path: Path,
    /// The session. It has already handled the datagram that opened it.
    pub session: Session,
    /// The client's request.
    pub request: RequestInfo,
}

impl Opened {
    pub(super) fn new(key: SessionKey, path: Path, session: Session, request: RequestInfo) -> Box<Self> {
        Box::new(Self { key, path, session, request })
    }
}
