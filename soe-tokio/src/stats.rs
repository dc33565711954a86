//! Statistics of sockets and listeners. Those of one session are [`crate::SessionStats`].

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
};

use soe_core::EndpointStats;

use crate::{
    engine::{connection::Connection, reports::ended::EndedSessions, shared_socket::SharedSocket},
    socket::proxied::Proxies,
};

/// Statistics of a socket since it was bound. `{}` shows them in one line, `{:#}` in full.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SocketStats {
    /// Datagrams received, from any sender.
    pub datagrams_received: u64,
    /// Bytes in them.
    pub bytes_received: u64,
    /// Batches received; each is one system call.
    pub receive_batches: u64,
    /// Datagrams handed to the kernel.
    pub datagrams_sent: u64,
    /// Bytes in them.
    pub bytes_sent: u64,
    /// Calls that tried to send.
    pub send_calls: u64,
    /// Segment runs that were dropped after the kernel refused them; the sessions resend the reliable packets in them.
    pub send_errors: u64,
    /// Receive calls that failed.
    pub receive_errors: u64,
    /// Reports of unreachable addresses (ICMP).
    pub unreachable_reports: u64,
    /// Sessions that were opened on this socket and have not been removed, including those that are closing.
    pub sessions: usize,
}

/// Statistics of a listener since it was bound. `{}` shows the most important ones in one line, `{:#}` shows all.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ListenerStats {
    /// All sockets together.
    pub socket: SocketStats,
    /// Each socket, see [`crate::ListenerConfig::shards`].
    pub shards: Vec<SocketStats>,
    /// Handshakes, refusals, sessions and address changes.
    pub endpoint: EndpointStats,
    /// The memory of all sessions, in bytes, each as last counted by the driver: see
    /// [`crate::ListenerConfig::memory_limit`].
    pub memory_held: usize,
    /// Sessions that were ended because of that limit.
    pub memory_overflows: u64,
    /// What came through proxies, and what did not. `None` without [`crate::ListenerConfig::behind_proxy`].
    pub proxy: Option<ProxyStats>,
    /// The totals of the sessions that have ended, and their reasons.
    pub ended: EndedSessions,
}

/// What a listener behind proxies has received since it was bound, in datagrams.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct ProxyStats {
    /// Datagrams of players whose address a proxy has named.
    pub proxied: u64,
    /// Dropped: from outside of the trusted networks, whatever is in them.
    pub untrusted: u64,
    /// Dropped: from a trusted network, with no header where there has to be one.
    pub headerless: u64,
    /// Dropped: from a trusted network, with a header that names no UDP address of a player.
    pub malformed: u64,
    /// Dropped: with a header that names another player for a flow that has one
    /// ([`crate::ProxyHeader::ProxyV2First`]).
    pub disputed: u64,
    /// Datagrams served under the address of the proxy: its own, and those of flows whose header was lost
    /// ([`crate::ProxyConfig::serve_unnamed`]).
    pub unnamed: u64,
    /// Flows that are remembered ([`crate::ProxyHeader::ProxyV2First`]).
    pub flows: usize,
    /// Flows that were forgotten to make room for others ([`crate::ProxyConfig::max_flows`]).
    pub flows_evicted: u64,
}

impl ProxyStats {
    pub(crate) fn of(proxies: &Proxies) -> Self {
        let counters = &proxies.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (flows, flows_evicted) = proxies.flows();
        Self {
            proxied: read(&counters.proxied),
            untrusted: read(&counters.untrusted),
            headerless: read(&counters.headerless),
            malformed: read(&counters.malformed),
            disputed: read(&counters.disputed),
            unnamed: read(&counters.unnamed),
            flows,
            flows_evicted,
        }
    }
}

impl SocketStats {
    pub(crate) fn of(shared: &SharedSocket<Connection>) -> Self {
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
            sessions: shared.sessions.load(Ordering::Relaxed),
        }
    }

    /// The sum over the sockets of one listener.
    pub(crate) fn total(sockets: &[Self]) -> Self {
        let sum = |figure: fn(&Self) -> u64| sockets.iter().map(figure).sum();
        Self {
            datagrams_received: sum(|socket| socket.datagrams_received),
            bytes_received: sum(|socket| socket.bytes_received),
            receive_batches: sum(|socket| socket.receive_batches),
            datagrams_sent: sum(|socket| socket.datagrams_sent),
            bytes_sent: sum(|socket| socket.bytes_sent),
            send_calls: sum(|socket| socket.send_calls),
            send_errors: sum(|socket| socket.send_errors),
            receive_errors: sum(|socket| socket.receive_errors),
            unreachable_reports: sum(|socket| socket.unreachable_reports),
            sessions: sockets.iter().map(|socket| socket.sessions).sum(),
        }
    }
}

impl fmt::Display for SocketStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return write!(f, "{self:#?}");
        }
        let Self { sessions, datagrams_received, bytes_received, datagrams_sent, bytes_sent, .. } = self;
        write!(f, "{sessions} sessions, received {datagrams_received} datagrams ({bytes_received} bytes), ")?;
        write!(f, "sent {datagrams_sent} ({bytes_sent} bytes) in {} calls, ", self.send_calls)?;
        write!(f, "{} errors, ", self.send_errors + self.receive_errors)?;
        write!(f, "{} reports of unreachable peers", self.unreachable_reports)
    }
}

impl fmt::Display for ListenerStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.alternate() {
            return write!(f, "{self:#?}");
        }
        let Self { socket, endpoint, ended, .. } = self;
        write!(f, "{socket}, {} opened, ", endpoint.admission.opened)?;
        write!(f, "{} refused over capacity, {} waiting, ", endpoint.admission.over_capacity, endpoint.waiting)?;
        write!(f, "{} ended (resent {} of {}), ", ended.sessions, ended.resent, ended.reliable_sent)?;
        write!(f, "{} bytes held", self.memory_held)
    }
}
