//! New sessions and counters.

use thiserror::Error;

use super::capacity::CapacityStats;
use crate::{config::RequestInfo, session::Session};

/// A session that a client has opened.
#[derive(Debug)]
pub(super) struct NewSession {
    /// The client's request.
    pub(super) request: RequestInfo,
    /// The session. It has already handled the datagram that opened it.
    pub(super) session: Session,
}

/// Why an endpoint does not take a session that this side wants to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NotRegistered {
    /// A live session has the address already, and the protocol identifies a session by its address.
    #[error("a live session has this address")]
    Occupied,
    /// The endpoint is closed.
    #[error("the endpoint is closed")]
    Closed,
}

/// Counters of handshakes and of datagrams without a session. All start at zero with the endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Session requests received.
    pub requests: u64,
    /// Responses sent.
    pub responses: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Requests refused for their version, their protocol name, or a udp length that is too small.
    pub mismatched: u64,
    /// Requests refused, or first datagrams dropped, because there was no room.
    pub over_capacity: u64,
    /// Answers not sent because a limit was reached: the sum of the next two.
    pub rate_limited: u64,
    /// Answers not sent because of the limit per prefix.
    pub rate_limited_prefix: u64,
    /// Answers not sent because of the limit over all addresses.
    pub rate_limited_all: u64,
    /// Sessions that should have opened with the response and waited for a valid datagram instead, because of the rate
    /// limit or because a live session had the address.
    pub opening_deferred: u64,
    /// Pending handshakes removed to make room for newer ones.
    pub evicted: u64,
    /// First datagrams with a wrong CRC.
    pub crc_rejects: u64,
    /// Valid datagrams that were not enough to replace the live session at their address.
    pub more_proof_wanted: u64,
    /// Packets from addresses without a session.
    pub unknown_senders: u64,
    /// UnknownSender replies sent.
    pub unknown_sender_replies: u64,
    /// Requests for a remap.
    pub remaps: u64,
    /// Other datagrams that were dropped.
    pub ignored: u64,
}

/// Counters of an endpoint, and its current sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Handshakes and datagrams without a session.
    pub admission: AdmissionStats,
    /// Accept queue and ended sessions.
    pub capacity: CapacityStats,
    /// Sessions that have not ended.
    pub sessions: usize,
    /// Sessions that wait to be accepted.
    pub waiting: usize,
    /// Ended sessions that still answer late datagrams.
    pub lingering: usize,
    /// Sessions that moved to another address.
    pub moves: u64,
    /// Remap requests that [`RemapPolicy`](crate::RemapPolicy) does not allow.
    pub moves_refused: u64,
    /// Live sessions replaced by a new client at the same address.
    pub replaced: u64,
    /// Sessions probed because another peer sent from their address.
    pub probes: u64,
    /// ICMP errors that concern no session.
    pub unreachable_ignored: u64,
}
