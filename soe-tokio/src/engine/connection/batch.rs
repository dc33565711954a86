//! Requests service for many connections at once.

use std::sync::Arc;

use super::{Connection, state::ConnectionState};
use crate::engine::clock::now;

/// Connections that need their drivers, which are woken when this is dropped: a driver that is woken by the first of a
/// thousand connections would compete for the locks of the others.
#[derive(Debug, Default)]
pub(crate) struct ServiceBatch {
    connections: Vec<Arc<Connection>>,
}

impl ServiceBatch {
    /// Like [`Connection::try_act`], but requests the driver's service later.
    pub(crate) fn try_act<T>(
        &mut self,
        on: &Arc<Connection>,
        work: impl FnOnce(&mut ConnectionState) -> T,
    ) -> Option<T> {
        let (done, marked) = on.try_work_on(work)?;
        if marked {
            self.connections.push(Arc::clone(on));
        }
        Some(done)
    }
}

impl Drop for ServiceBatch {
    fn drop(&mut self) {
        let mut waiting = std::mem::take(&mut self.connections);
        while let Some(shared) = waiting.first().map(|first| Arc::clone(&first.shared)) {
            let is_there = |connection: &Arc<Connection>| Arc::ptr_eq(&connection.shared, &shared);
            let (mut there, elsewhere): (Vec<_>, _) = waiting.into_iter().partition(is_there);
            if shared.push_all_dirty(&mut there).is_err() {
                there.iter().for_each(|connection| connection.stop_and_remove(now()));
            }
            waiting = elsewhere;
        }
    }
}
