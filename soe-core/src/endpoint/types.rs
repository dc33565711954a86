//! What an endpoint hands out: newcomers, counts.

use super::capacity::CapacityStats;
use crate::{config::RequestInfo, session::Session};

/// A session that a stranger has opened.
#[derive(Debug)]
pub(super) struct NewSession {
    /// What it asked for.
    pub(super) request: RequestInfo,
    /// The session. It has already been given the datagram that opened it.
    pub(super) session: Session,
}

/// Counts of what strangers have done. All start with the admission.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionStats {
    /// Session requests received.
    pub requests: u64,
    /// Responses sent.
    pub responses: u64,
    /// Sessions opened.
    pub opened: u64,
    /// Requests refused for their version or protocol name, or with a udp length below 64 bytes.
    pub mismatched: u64,
    /// Requests refused, or first datagrams dropped, for want of room.
    pub over_capacity: u64,
    /// Answers not sent because a limit was reached: the sum of the next two.
    pub rate_limited: u64,
    /// Answers not sent because the limit of their prefix was reached.
    pub rate_limited_prefix: u64,
    /// Answers not sent because the limit of all addresses together was reached.
    pub rate_limited_all: u64,
    /// Sessions that were to open with the response and had to wait for a first valid datagram instead: too many at once, or
    /// from the address of a live session.
    pub opening_deferred: u64,
    /// Strangers forgotten because others needed the place.
    pub evicted: u64,
    /// First datagrams with a wrong CRC.
    pub crc_rejects: u64,
    /// Valid datagrams that were not enough to end the live session at their address.
    pub more_proof_wanted: u64,
    /// Packets from addresses without a session.
    pub unknown_senders: u64,
    /// UnknownSender replies sent.
    pub unknown_sender_replies: u64,
    /// Requests for a remap.
    pub remaps: u64,
    /// Everything else that was dropped.
    pub ignored: u64,
}

/// Counts of everything that an endpoint has decided, and how much there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// What strangers have done.
    pub admission: AdmissionStats,
    /// What capacity has decided.
    pub capacity: CapacityStats,
    /// Sessions that have not ended, now.
    pub sessions: usize,
    /// Sessions that wait to be accepted, now.
    pub waiting: usize,
    /// Sessions that have ended and are not forgotten yet, now.
    pub lingering: usize,
    /// Sessions that have moved to another address.
    pub moves: u64,
    /// Claims to have moved that [`RemapPolicy`](crate::RemapPolicy) does not allow.
    pub moves_refused: u64,
    /// Live sessions whose place a newcomer at the same address has taken.
    pub replaced: u64,
    /// Times that a silent session's peer was asked for a sign of life, because somebody else sends from its address.
    pub probes: u64,
    /// Reports of unreachable addresses that concern no session.
    pub unreachable_ignored: u64,
}
