//! Claims of sessions to have moved to another address, and rights to return to one.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{HAS_CANDIDATE, Routes, SessionKey};

/// A claim to have moved, with the right id and seed. A valid datagram has yet to prove it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: SessionKey,
    pub(super) claimed: Instant,
    /// It lived there until another session took the address. It may return as long as it lives, and no other claim replaces
    /// this: the one who took the address may have forged all that it did.
    pub(super) is_return: bool,
}

impl Candidate {
    fn is_current(&self, now: Instant) -> bool {
        self.is_return || now.saturating_duration_since(self.claimed) <= CLAIM_LIFETIME
    }
}

/// How long a claim waits for a valid datagram.
pub(super) const CLAIM_LIFETIME: Duration = Duration::from_secs(30);

impl Routes {
    /// The session that claims to have moved to this address.
    pub(in crate::endpoint) fn candidate(&self, now: Instant, address: SocketAddr) -> Option<SessionKey> {
        let candidate = self.candidates.get(&address)?;
        candidate.is_current(now).then_some(candidate.key)
    }

    /// Stores a claim. It replaces earlier claims of the session and for the address, but not the right of a live session to
    /// return there.
    pub(in crate::endpoint) fn claim(&mut self, now: Instant, address: SocketAddr, key: SessionKey) {
        if self.candidates.get(&address).is_some_and(|candidate| candidate.is_return) {
            return;
        }
        self.put_claim(address, Candidate { key, claimed: now, is_return: false });
    }

    pub(super) fn put_claim(&mut self, address: SocketAddr, candidate: Candidate) {
        self.drop_claim(candidate.key);
        self.drop_candidate(address);
        if self.set_flag(candidate.key, HAS_CANDIDATE) {
            self.candidates.insert(address, candidate);
            self.claims.insert(candidate.key.index, address);
        }
    }

    /// The session that lives at this address was heard at `heard`: a claim from before that is void. Not the claim of the
    /// session that lived there before: that one has been there longer.
    pub(in crate::endpoint) fn refute_claim(&mut self, address: SocketAddr, heard: Instant) {
        if self.candidates.get(&address).is_some_and(|candidate| !candidate.is_return && candidate.claimed < heard) {
            self.drop_candidate(address);
        }
    }

    /// The network says that nobody is at this address: a claim to it is void. Anybody can forge that, so that a session keeps its
    /// right to return.
    pub(in crate::endpoint) fn unreachable(&mut self, address: SocketAddr) {
        if self.candidates.get(&address).is_some_and(|candidate| !candidate.is_return) {
            self.drop_candidate(address);
        }
    }

    /// Removes the claim for this address.
    pub(in crate::endpoint) fn drop_candidate(&mut self, address: SocketAddr) {
        if let Some(candidate) = self.candidates.remove(&address) {
            self.claims.remove(&candidate.key.index);
            if let Some(slot) = self.get_mut(candidate.key) {
                slot.flags &= !HAS_CANDIDATE;
            }
        }
    }

    /// Removes claims that were not proved in time.
    pub(in crate::endpoint) fn expire(&mut self, now: Instant) {
        let expired: Vec<_> = self
            .candidates
            .iter()
            .filter(|(_, candidate)| !candidate.is_current(now))
            .map(|(address, _)| *address)
            .collect();
        expired.into_iter().for_each(|address| self.drop_candidate(address));
    }

    pub(super) fn drop_claim(&mut self, key: SessionKey) {
        if self.get(key).is_some_and(|slot| slot.flags & HAS_CANDIDATE != 0)
            && let Some(address) = self.claims.get(&key.index).copied()
        {
            self.drop_candidate(address);
        }
    }
}
