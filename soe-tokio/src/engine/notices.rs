//! What the driver learns under the lock of a session, and acts on once no lock is held.

use std::{net::SocketAddr, sync::Arc, task::Waker, time::Instant};

use soe_core::SessionKey;
use tracing::warn;

use crate::engine::connection::Connection;

#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Tasks to wake; each session's once per batch.
    pub(crate) wakers: Vec<Waker>,
    /// Sessions that have ended, and whether they have messages to read.
    pub(crate) ended: Vec<(SessionKey, bool)>,
    /// Sessions that have nothing more to say.
    pub(crate) drained: Vec<SessionKey>,
    /// Addresses that the network has reported as unreachable.
    pub(crate) unreachable: Vec<SocketAddr>,
}

impl Notices {
    /// A session panicked in the driver's hands, in an application's codec or by a bug of ours: it is over, and nobody else
    /// notices.
    pub(crate) fn fail_after_panic(&mut self, connection: &Arc<Connection>, now: Instant) {
        warn!(session = connection.session_id, "a session panicked; it is ended");
        connection.stop(now);
        self.ended.push((connection.key, true));
        self.drained.push(connection.key);
    }

    pub(crate) fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
