//! Figures of sockets and listeners. Those of one session are [`crate::SessionStats`].

use std::sync::atomic::{AtomicU64, Ordering};

use soe_core::AdmissionStats;

use crate::endpoint::Shared;

/// What a socket has done since it was bound.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SocketStats {
    /// Datagrams received, whoever sent them.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Batches that they came in; each is one system call.
    pub receive_batches: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Calls that tried to send.
    pub send_calls: u64,
    /// Runs of datagrams that the kernel refused for good; the sessions repeat what mattered in them.
    pub send_errors: u64,
    /// Receive calls that failed.
    pub receive_errors: u64,
    /// Reports that somebody could not be reached (ICMP).
    pub unreachable_reports: u64,
    /// Sessions that live on this socket now, those included that are just ending.
    pub sessions: usize,
}

/// What a listener has done since it was bound.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListenerStats {
    /// The socket.
    pub socket: SocketStats,
    /// What strangers asked for and got.
    pub admission: AdmissionStats,
}

impl SocketStats {
    pub(crate) fn of(shared: &Shared) -> Self {
        let counters = &shared.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            datagrams_received: read(&counters.datagrams_received),
            bytes_received: read(&counters.bytes_received),
            receive_batches: read(&counters.receive_batches),
            datagrams_sent: read(&counters.datagrams_sent),
            bytes_sent: read(&counters.bytes_sent),
            send_calls: read(&counters.send_calls),
            send_errors: read(&counters.send_errors),
            receive_errors: read(&counters.receive_errors),
            unreachable_reports: read(&counters.unreachable_reports),
            sessions: shared.session_count(),
        }
    }
}
