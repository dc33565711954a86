//! Datagrams that belong to no session: their senders may open one, move one, or query the server.

use std::{net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{
    Action, Endpoint, HANDSHAKE_LINGER, Path, SessionKey,
    capacity::Room,
    strangers::{
        handshakes::Handshakes,
        request::{Outcome, Resident, Standing},
    },
    suspicion::Suspicion,
};
use crate::wire::{RemapConnection, opcode};

impl Endpoint {
    /// Handles a datagram from an address without a session: from a session that claims to have moved there, or from an
    /// unknown client.
    pub(super) fn try_candidate(&mut self, now: Instant, path: Path, datagram: BytesMut) {
        let is_exempt = opcode::of(&datagram).is_some_and(opcode::is_exempt);
        match self.routes.candidate(now, path.remote).filter(|_| !is_exempt) {
            Some(key) => self.actions.push_back(Action::Feed { key, path, datagram }),
            None => self.unclaimed(now, path, datagram, None),
        }
    }

    /// Handles a datagram that belongs to no session. `resident` is the session at the address that returned it, and
    /// when that one was last heard.
    pub(super) fn unclaimed(
        &mut self,
        now: Instant,
        path: Path,
        datagram: BytesMut,
        resident: Option<(SessionKey, Instant)>,
    ) {
        let standing = self.standing(now, path.remote, resident.map(|(_, heard)| heard));
        let is_repeated = self.repeats_a_session(path, &datagram);
        let Some(handshakes) = &mut self.handshakes else { return };
        if is_repeated {
            handshakes.ignored();
            return;
        }
        // Needed below, after the datagram has been consumed.
        let head = datagram.first_chunk::<2>().copied();
        let outcome = handshakes.handle(now, path, datagram, standing);
        match (outcome, resident) {
            (Outcome::Unclaimed, Some((key, heard))) => self.suspect(now, path, key, heard, &head.unwrap_or_default()),
            (Outcome::Unproven, Some((key, heard))) => _ = self.probe(now, key, heard),
            (Outcome::Remap(remap), _) => self.claim(now, path, remap, resident),
            (outcome, _) => return self.conclude(now, path, outcome),
        }
        self.conclude(now, path, Outcome::Done);
    }

    /// Whether this is a request for a live session that has moved away from this address. A response would reveal its
    /// seed, and the session's datagrams would be taken for a new client's.
    fn repeats_a_session(&self, path: Path, datagram: &[u8]) -> bool {
        if self.counts.moves == 0 {
            return false;
        }
        let Some(handshakes) = &self.handshakes else { return false };
        let Some(session_id) = Handshakes::requested_id(datagram) else { return false };
        let mut sessions = handshakes
            .cookies
            .seeds(path.remote, session_id)
            .filter_map(|seed| self.routes.by_identity(session_id, seed));
        sessions.any(|key| self.routes.resident(path.remote) != Some(key))
    }

    /// Handles a datagram from a session's address that is not the session's.
    fn suspect(&mut self, now: Instant, path: Path, key: SessionKey, heard: Instant, head: &[u8]) {
        if self.probe(now, key, heard) == Suspicion::UnknownSender
            && let Some(handshakes) = &mut self.handshakes
        {
            handshakes.unknown_sender(now, path.remote, head);
        }
    }

    /// Asks a session for a sign of life, if it has been silent while somebody else sends from its address.
    fn probe(&mut self, now: Instant, key: SessionKey, heard: Instant) -> Suspicion {
        let Some(slot) = self.routes.get_mut(key) else { return Suspicion::Nothing };
        let suspicion = Suspicion::of(self.epoch, now, heard, &mut slot.watch);
        if suspicion == Suspicion::Probe {
            self.counts.probes += 1;
            self.actions.push_back(Action::AskForLife(key));
        }
        suspicion
    }

    /// The state of an address. `heard` tells when the session there was last heard, where that is known.
    pub(super) fn standing(&self, now: Instant, address: SocketAddr, heard: Option<Instant>) -> Standing {
        let slot = self.routes.resident(address).and_then(|key| self.routes.get(key));
        let taken = slot.filter(|slot| !slot.has_ended());
        let is_gone = |watch| heard.is_some_and(|heard| Suspicion::has_gone(self.epoch, now, heard, watch));
        let resident = match taken {
            _ if self.routes.candidate(now, address).is_some() => Resident::Live,
            Some(slot) if is_gone(slot.watch) => Resident::Gone,
            Some(_) => Resident::Live,
            None => Resident::Nobody,
        };
        // A client that replaces a session does not need another place.
        let room = match self.capacity.room(taken.is_some()) {
            Room::Closed if !self.refuses_newcomers(now) => Room::Over,
            room => room,
        };
        Standing { resident, seed: slot.map(|slot| slot.seed), room }
    }

    /// Whether this closed endpoint answers new requests. Each answer makes it linger, so there must be an end to them.
    fn refuses_newcomers(&self, now: Instant) -> bool {
        self.capacity.live() > 0 || self.closed_at.is_some_and(|closed| now < closed + HANDSHAKE_LINGER)
    }

    pub(super) fn conclude(&mut self, now: Instant, path: Path, outcome: Outcome) {
        let mut owes_refusal = false;
        if let Some(handshakes) = &mut self.handshakes {
            while let Some(datagram) = handshakes.poll_reply() {
                self.actions.push_back(Action::Send { path, datagram });
            }
            owes_refusal = std::mem::take(&mut handshakes.owes_refusal);
        }
        if owes_refusal && self.capacity.is_closed && self.refuses_newcomers(now) {
            self.lingers_until = Some(now + HANDSHAKE_LINGER);
        }
        match outcome {
            Outcome::Open(new_session) => self.open(path, *new_session),
            Outcome::Park(datagram) => self.capacity.park(path, datagram),
            Outcome::Ask(question) => self.actions.push_back(Action::Ask(question)),
            Outcome::Done | Outcome::Unclaimed | Outcome::Unproven | Outcome::Remap(_) => {}
        }
    }

    /// Handles a RemapConnection: a client with the id and seed of a session claims to be at this address now. `returned_by` is
    /// the session there that returned it, and when that was last heard.
    fn claim(&mut self, now: Instant, path: Path, remap: RemapConnection, returned_by: Option<(SessionKey, Instant)>) {
        let Some(key) = self.routes.by_identity(remap.session_id, remap.crc_seed) else { return };
        let (Some(old), Some(config)) = (self.routes.address(key), self.config()) else { return };
        if !config.remap.allows(old, path.remote) {
            self.counts.moves_refused += 1;
            return;
        }
        if let Some(resident) = self.routes.resident(path.remote).filter(|&resident| self.is_live(resident)) {
            // It lives there already, or nobody knows when the one who lives there was last heard.
            let Some((_, heard)) = returned_by.filter(|&(by, _)| by == resident && by != key) else { return };
            // Anybody who has a session can write another's address on a claim. It counts once the one who lives there was
            // asked and has not answered; clients repeat it.
            self.suspect(now, path, resident, heard, &[0, opcode::REMAP_CONNECTION]);
            let watch = self.routes.get(resident).map_or(0, |slot| slot.watch);
            if !Suspicion::is_unanswered(self.epoch, now, heard, watch) {
                return;
            }
        }
        self.routes.claim(now, path.remote, key);
    }
}
