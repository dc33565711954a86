//! What the driver collects under the lock of a session and handles once no lock is held.

use std::{net::SocketAddr, task::Waker};

use soe_core::SessionKey;

#[derive(Debug, Default)]
pub(crate) struct Notices {
    /// Tasks to wake; each session's once per batch.
    pub(crate) wakers: Vec<Waker>,
    /// Sessions that have ended, and whether they have messages to read.
    pub(crate) ended: Vec<(SessionKey, bool)>,
    /// Sessions that have nothing left to send.
    pub(crate) drained: Vec<SessionKey>,
    /// Addresses that the network has reported as unreachable.
    pub(crate) unreachable: Vec<SocketAddr>,
}

impl Notices {
    /// Whether the endpoint knows of everything.
    pub(crate) fn are_settled(&self) -> bool {
        self.ended.is_empty() && self.drained.is_empty() && self.unreachable.is_empty()
    }

    pub(crate) fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }
}
