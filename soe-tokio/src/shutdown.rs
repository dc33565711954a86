//! Closing all sessions within a deadline, and reporting what was lost.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use soe_core::{Closed, DisconnectReason, Endpoint, Undelivered};
use tokio::time::{Instant, sleep_until, timeout_at};

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
    /// How it ended. `None` if a [`MessageHook`](crate::MessageHook) still held it at the deadline.
    pub closed: Option<Closed>,
    /// What the peer has not acknowledged; zero if a hook still held the session.
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
    // A session that cannot be asked, because a hook of the application holds it, has not ended.
    connections.retain(|connection| connection.is_busy_or_open());
    let mut held: Vec<_> = connections.iter().filter(|connection| !connection.try_close(reason)).collect();
    while !held.is_empty() && Instant::now() < cut_off {
        sleep_until(cut_off.min(Instant::now() + TRY_AGAIN)).await;
        held.retain(|connection| !connection.try_close(reason));
    }
    let mut report = ShutdownReport::default();
    let mut told = Vec::new();
    for connection in &connections {
        let in_time = timeout_at(cut_off, connection.closed()).await.is_ok();
        // Counted before `try_abort` drops the queue.
        let Some(session) = report_of(connection) else { continue };
        if !in_time {
            connection.try_abort(reason);
        }
        let is_cut_off = !in_time || session.closed.is_none_or(|closed| !closed.is_clean());
        report.add(session, is_cut_off);
        told.push(connection);
    }
    for (connection, session) in told.into_iter().zip(&mut report.sessions) {
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

fn report_of(connection: &Arc<Connection>) -> Option<SessionReport> {
    if let Some(state) = connection.try_lock() {
        return Some(SessionReport {
            peer_addr: state.address,
            session_id: state.session.session_id(),
            closed: state.session.closed(),
            undelivered: state.session.undelivered(),
            told: false,
        });
    }
    // `None` if it has been forgotten meanwhile, by whoever has ended it.
    let key = connection.key;
    let identity = |endpoint: &mut Endpoint| Some((endpoint.address(key)?, endpoint.session_id(key)?));
    let (peer_addr, session_id) = connection.shared.endpoint.with_endpoint(identity)?;
    Some(SessionReport { peer_addr, session_id, closed: None, undelivered: Undelivered::default(), told: false })
}

/// How much of the time at the end is kept for Disconnects: what a link of 100 ms takes for all of them.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a session is tried that a hook of the application holds.
const TRY_AGAIN: Duration = Duration::from_millis(5);
/// How long after the deadline the last datagrams may take to reach the kernel.
const LAST_DATAGRAMS: Duration = Duration::from_millis(100);
