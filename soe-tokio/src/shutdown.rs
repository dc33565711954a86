//! Closing all sessions within a deadline, and reporting what was lost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use soe_core::{Closed, DisconnectReason, Undelivered};
use tokio::time::{Instant, timeout_at};

use crate::{
    config::FOREVER,
    engine::{connection::Connection, shared_endpoint::SharedEndpoint, shared_socket::SharedSocket},
};

/// What became of the sessions of a listener that was shut down.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Sessions that ended with everything delivered.
    pub clean: usize,
    /// Sessions that did not: cut off at the deadline, or failed before it.
    pub cut_off: usize,
    /// Messages that were queued or unacknowledged when their session ended.
    pub messages_lost: usize,
    /// Bytes in them.
    pub bytes_lost: usize,
    /// Each session that was alive when the shutdown began.
    pub sessions: Vec<SessionReport>,
}

/// What became of one session.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionReport {
    /// Where the peer was.
    pub peer_addr: SocketAddr,
    /// The session's id.
    pub session_id: u32,
    /// How it ended.
    pub closed: Option<Closed>,
    /// What the peer has not acknowledged.
    pub undelivered: Undelivered,
    /// Whether the peer was told of the end as often as it takes to get through where 30 % of all datagrams are lost, or has
    /// itself ended the session. Otherwise it may have to wait for its time-out.
    pub told: bool,
}

impl ShutdownReport {
    fn add(&mut self, session: SessionReport, is_cut_off: bool) {
        let Undelivered { messages, bytes, .. } = session.undelivered;
        self.messages_lost += messages;
        self.bytes_lost += bytes;
        if is_cut_off || messages > 0 {
            self.cut_off += 1;
        } else {
            self.clean += 1;
        }
        self.sessions.push(session);
    }
}

/// Closes all sessions of sockets that take no new ones any more, then the sockets.
pub(crate) async fn run(
    endpoint: &SharedEndpoint<Connection>,
    sockets: &[Arc<SharedSocket<Connection>>],
    reason: DisconnectReason,
    deadline: Duration,
) -> ShutdownReport {
    let deadline = deadline.min(FOREVER);
    let now = Instant::now();
    // Disconnects are repeated, since they are not acknowledged: the last part of the time is kept for them.
    let (cut_off, end) = (now + deadline - FAREWELL.min(deadline / 4), now + deadline);
    let mut connections = endpoint.connections();
    connections.retain(|connection| !connection.is_closed());
    for connection in &connections {
        connection.close(reason);
    }
    let mut report = ShutdownReport::default();
    for connection in &connections {
        let in_time = timeout_at(cut_off, connection.closed()).await.is_ok();
        // Counted before `abort` drops the queue.
        let session = report_of(connection);
        if !in_time {
            connection.abort(reason, true);
        }
        let is_cut_off = !in_time || session.closed.is_none_or(|closed| !closed.is_clean());
        report.add(session, is_cut_off);
    }
    for (connection, session) in connections.iter().zip(&mut report.sessions) {
        session.told = timeout_at(end, connection.disconnect_sent()).await.unwrap_or(false);
    }
    // Clients that had been answered but had not opened their session yet are refused.
    let _ = timeout_at(end, endpoint.until_settled()).await;
    // Only a few datagrams are left. A socket that is still full must not delay the shutdown.
    let end = end.max(Instant::now()) + LAST_DATAGRAMS;
    for connection in &connections {
        let _ = timeout_at(end, connection.flushed()).await;
    }
    for socket in sockets {
        socket.stop();
    }
    for socket in sockets {
        // If the runtime of the sockets does not run, nothing closes them.
        let _ = timeout_at(end, socket.closed_by_driver()).await;
    }
    report
}

fn report_of(connection: &Arc<Connection>) -> SessionReport {
    let state = connection.lock();
    SessionReport {
        peer_addr: state.address,
        session_id: state.session.session_id(),
        closed: state.session.closed(),
        undelivered: state.session.undelivered(),
        told: false,
    }
}

/// How much of the time at the end is kept for Disconnects: what a link of 100 ms takes for all of them.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long after the deadline the last datagrams may take to reach the kernel.
const LAST_DATAGRAMS: Duration = Duration::from_millis(100);
