//! Work that the driver defers while the application, in a cipher or hook, holds a session's lock.

use std::{collections::VecDeque, net::SocketAddr, sync::Arc};

use bytes::BytesMut;
use soe_core::{DisconnectReason, Path};

/// Deferred work, oldest first.
#[derive(Debug)]
pub(crate) struct Deferred<T> {
    work: VecDeque<(Arc<T>, Work)>,
}

/// One piece of work on a session.
#[derive(Debug)]
pub(crate) enum Work {
    /// Received datagrams. At most [`MAX_DATAGRAMS`] are kept; the rest are dropped, as on a full link.
    Datagrams(Path, Vec<BytesMut>),
    /// Its timer has expired.
    Timer,
    /// Its peer has moved.
    Move(SocketAddr, Path),
    /// Ask the peer for a sign of life.
    AskForLife,
    /// The network reported the peer's address as unreachable.
    Unreachable,
    /// The endpoint ends the session. The flag: whether to send a Disconnect.
    End(DisconnectReason, bool),
}

impl<T> Default for Deferred<T> {
    fn default() -> Self {
        Self { work: VecDeque::new() }
    }
}

impl<T> Deferred<T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.work.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.work.len()
    }

    pub(crate) fn push(&mut self, session: Arc<T>, work: Work) {
        self.work.push_back((session, work));
    }

    pub(crate) fn pop(&mut self) -> Option<(Arc<T>, Work)> {
        self.work.pop_front()
    }

    /// Keeps datagrams for a session, behind those already kept of the same path.
    pub(crate) fn keep(&mut self, session: &Arc<T>, path: Path, datagrams: impl Iterator<Item = BytesMut>) {
        let known = self.work.iter_mut().find_map(|(other, work)| match work {
            Work::Datagrams(other_path, kept) if Arc::ptr_eq(other, session) && *other_path == path => Some(kept),
            _ => None,
        });
        match known {
            // A bound on the work of a peer that floods a session whose application is slow.
            Some(kept) => kept.extend(datagrams.take(MAX_DATAGRAMS - kept.len())),
            None => self.push(Arc::clone(session), Work::Datagrams(path, datagrams.take(MAX_DATAGRAMS).collect())),
        }
    }

    /// Whether datagrams of the session are deferred; later ones must be deferred too, to keep the order.
    pub(crate) fn holds_datagrams_of(&self, session: &Arc<T>) -> bool {
        let is_of = |(other, work): &(Arc<T>, Work)| Arc::ptr_eq(other, session) && matches!(work, Work::Datagrams(..));
        self.work.iter().any(is_of)
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<T>> {
        self.work.drain(..).map(|(session, _)| session)
    }
}

/// Datagrams kept for one session and path: more than a congestion window of small datagrams.
const MAX_DATAGRAMS: usize = 1024;
