//! Sessions from opening to the end: the accept queue, the application's decision, and removal.

use std::time::Instant;

use super::{
    Action, Endpoint, HANDSHAKE_LINGER, Opened, Path, SessionKey,
    capacity::Room,
    routes::{Slot, Stage},
    types::NewSession,
};
use crate::{config::RequestInfo, wire::DisconnectReason};

impl Endpoint {
    pub(super) fn open(&mut self, path: Path, new_session: NewSession) {
        let NewSession { request, session } = new_session;
        let before = self.routes.resident(path.remote);
        // The new client has proved the address, so a claim of another session to it is false.
        self.routes.drop_candidate(path.remote);
        let key = self.routes.insert(path.remote, session.session_id(), session.crc_seed(), Stage::Waiting);
        if let Some(before) = before {
            // The new client has proved the address, so the client of the old session is gone. An ended session must
            // also stop: its Disconnect would reach the new one.
            self.actions.push_back(end(before, DisconnectReason::NewConnectionAttempt, false));
            if self.is_live(before) {
                self.counts.replaced += 1;
                self.mark_ended(before);
            }
        }
        self.capacity.enqueue(key, request.clone());
        self.actions.push_back(Action::Open(Opened::new(key, path, session, request)));
        self.actions.push_back(Action::Route { address: path.remote, key });
    }

    /// Reports that the host has stored a session from [`Action::Open`]. It can now be accepted.
    pub fn handle_opened(&mut self, key: SessionKey) {
        self.capacity.ready(key);
        let Some(slot) = self.routes.get(key) else { return };
        // Another thread may have performed the action that ends it before the host had it. One that ended later than that
        // tells its peer, which must go on.
        if slot.has_ended() && !slot.is_routed() {
            self.actions.push_back(end(key, DisconnectReason::NewConnectionAttempt, false));
        } else if slot.stage == Stage::Decided && !slot.has_ended() {
            self.actions.push_back(end(key, DisconnectReason::ConnectionRefused, true));
        }
        // Also one that has ended: it may have messages to read.
        if slot.stage == Stage::Waiting {
            self.actions.push_back(Action::Acceptable);
        }
    }

    /// Returns the next session to accept. Decide it with [`accept`](Self::accept), [`refuse`](Self::refuse) or
    /// [`ignore`](Self::ignore). It may already have ended and still have unread messages.
    pub fn poll_accept(&mut self, now: Instant) -> Option<(SessionKey, RequestInfo)> {
        let next = self.capacity.dequeue()?;
        self.set_stage(next.0, Stage::Offered);
        self.retry_parked(now);
        Some(next)
    }

    /// Whether the endpoint is closed: [`poll_accept`](Self::poll_accept) returns nothing more.
    pub fn is_closed(&self) -> bool {
        self.capacity.is_closed
    }

    /// Accepts a session.
    pub fn accept(&mut self, key: SessionKey) {
        self.decided(key);
    }

    /// Refuses a session. Its client gets a Disconnect with this reason.
    pub fn refuse(&mut self, key: SessionKey, reason: DisconnectReason) {
        self.actions.push_back(end(key, reason, true));
        self.decided(key);
    }

    /// Drops a session without telling its client.
    pub fn ignore(&mut self, key: SessionKey) {
        self.actions.push_back(end(key, DisconnectReason::ConnectionRefused, false));
        self.decided(key);
    }

    /// Stops accepting sessions. Sessions in the accept queue and new requests are refused, and so are clients that have
    /// been answered but have not opened their session yet: see [`is_lingering`](Self::is_lingering). Accepted sessions
    /// continue.
    pub fn close(&mut self, now: Instant) {
        if std::mem::replace(&mut self.capacity.is_closed, true) {
            return;
        }
        for key in self.capacity.withdraw_all() {
            self.capacity.stats.refused_on_close += 1;
            self.refuse(key, DisconnectReason::ConnectionRefused);
        }
        while let Some((path, datagram)) = self.capacity.take_parked() {
            self.unclaimed(now, path, datagram, None);
        }
        self.closed_at = Some(now);
        let newest = self.handshakes.as_ref().and_then(|handshakes| handshakes.newest_age(now));
        let left = newest.and_then(|age| HANDSHAKE_LINGER.checked_sub(age));
        self.lingers_until = left.map(|left| now + left);
    }

    /// Reports that a session has ended, for any reason. `is_readable`: it has unread messages. It then stays in the
    /// accept queue, because acknowledged messages must reach the application.
    pub fn handle_session_ended(&mut self, now: Instant, key: SessionKey, is_readable: bool) {
        self.mark_ended(key);
        let waits = self.routes.get(key).is_some_and(|slot| slot.stage == Stage::Waiting);
        if waits && !is_readable && self.capacity.withdraw(key) {
            self.capacity.stats.ended_in_queue += 1;
            self.decided(key);
        }
        self.retry_parked(now);
    }

    /// Reports that an ended session answers no more late datagrams. [`Action::Forget`] follows when the application
    /// has decided about it.
    pub fn handle_session_drained(&mut self, now: Instant, key: SessionKey) {
        self.handle_session_ended(now, key, true);
        let Some(address) = self.routes.address(key) else { return };
        self.routes.drain(key);
        self.actions.push_back(Action::Unroute { address, key });
        if self.routes.get(key).is_some_and(|slot| slot.stage == Stage::Decided) {
            self.forget(key);
        }
    }

    fn mark_ended(&mut self, key: SessionKey) {
        if !self.routes.end(key) {
            return;
        }
        let routes = &self.routes;
        let lingers = |key| routes.get(key).is_some_and(|slot| slot.has_ended() && slot.stage == Stage::Decided);
        if let Some(oldest) = self.capacity.end(key, lingers) {
            if let Some(address) = self.routes.address(oldest) {
                self.actions.push_back(Action::Unroute { address, key: oldest });
            }
            self.forget(oldest);
        }
    }

    fn decided(&mut self, key: SessionKey) {
        self.set_stage(key, Stage::Decided);
        if self.routes.get(key).is_some_and(Slot::is_drained) {
            self.forget(key);
        }
    }

    fn forget(&mut self, key: SessionKey) {
        self.routes.remove(key);
        self.capacity.forget();
        self.actions.push_back(Action::Forget(key));
    }

    fn set_stage(&mut self, key: SessionKey, stage: Stage) {
        if let Some(slot) = self.routes.get_mut(key) {
            slot.stage = stage;
        }
    }

    /// Handles first datagrams that wait, as long as there is room.
    pub(super) fn retry_parked(&mut self, now: Instant) {
        while self.capacity.room(false) == Room::Free
            && let Some((path, datagram)) = self.capacity.take_parked()
        {
            let is_pending = self.handshakes.as_ref().is_some_and(|handshakes| handshakes.is_pending(now, path.remote));
            if is_pending {
                self.unclaimed(now, path, datagram, None);
            }
        }
    }
}

pub(super) fn end(key: SessionKey, reason: DisconnectReason, tell_peer: bool) -> Action {
    Action::End { key, reason, tell_peer }
}
