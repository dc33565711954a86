//! The routing table: sessions by address, by identity (id and seed), and claims to have moved.

mod claims;
mod index;

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hasher},
    net::SocketAddr,
    time::Instant,
};

use siphasher::sip::SipHasher13;

use self::{claims::Candidate, index::Index};
use super::address::Address;

/// Identifies a session of an endpoint. Cheap to copy, and never reused for another session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionKey {
    index: u32,
    generation: u32,
}

impl SessionKey {
    /// A small number that no other current session has, for storing sessions in a vector. It is reused after
    /// [`Action::Forget`](crate::Action::Forget).
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// The state of a session towards the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No session.
    Free,
    /// In the accept queue.
    Waiting,
    /// Removed from the queue, not decided yet.
    Offered,
    /// Accepted, refused or ignored.
    Decided,
}

/// One session, in 40 bytes: there is one for each idle player.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    address: Address,
    pub(super) stage: Stage,
    flags: u8,
    pub(super) session_id: u32,
    pub(super) seed: u32,
    generation: u32,
    /// The state of [`Suspicion`](super::suspicion::Suspicion) for the address. In a free slot: the next free one.
    pub(super) watch: u32,
}

const ROUTED: u8 = 1;
const ENDED: u8 = 2;
const DRAINED: u8 = 4;
const HAS_CANDIDATE: u8 = 8;
/// Opened from this side. Servers do not move.
const OWN: u8 = 16;

impl Slot {
    const FREE: Self =
        Self { address: Address::NONE, stage: Stage::Free, flags: 0, session_id: 0, seed: 0, generation: 0, watch: 0 };

    pub(super) fn has_ended(&self) -> bool {
        self.flags & ENDED != 0
    }

    pub(super) fn is_drained(&self) -> bool {
        self.flags & DRAINED != 0
    }

    /// Whether it has its address. Another session may have taken it.
    pub(super) fn is_routed(&self) -> bool {
        self.flags & ROUTED != 0
    }
}

/// Slots are allocated in chunks of this many: a vector that doubles could waste half of itself.
const CHUNK: usize = 64;
/// The same where there are no clients: most programs open one session from a socket.
const SMALL_CHUNK: usize = 4;
const NO_SLOT: u32 = u32::MAX;

/// All sessions of an endpoint, by number, address and identity.
///
/// An address belongs to at most one session, and a session has at most one address. A displaced session has no address
/// until it claims one. The hashes are keyed, because peers choose their addresses and ids.
#[derive(Debug)]
pub(super) struct Routes {
    hasher: Keyed,
    /// Slots in a chunk.
    chunk: usize,
    chunks: Vec<Box<[Slot]>>,
    free: u32,
    count: usize,
    by_address: Index,
    by_identity: Index,
    candidates: HashMap<SocketAddr, Candidate, Keyed>,
    /// The claimed address of each session with a claim.
    claims: BTreeMap<u32, SocketAddr>,
}

#[derive(Clone, Copy)]
struct Keyed([u8; 16]);

impl std::fmt::Debug for Keyed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyed(..)")
    }
}

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }
}

impl Routes {
    /// `has_clients`: sessions are opened by clients too.
    pub(super) fn new(key: [u8; 16], has_clients: bool) -> Self {
        let hasher = Keyed(key);
        Self {
            hasher,
            chunk: if has_clients { CHUNK } else { SMALL_CHUNK },
            chunks: Vec::new(),
            free: NO_SLOT,
            count: 0,
            by_address: Index::default(),
            by_identity: Index::default(),
            candidates: HashMap::with_hasher(hasher),
            claims: BTreeMap::new(),
        }
    }

    /// The number of sessions, including ended ones.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Adds a session and assigns its address to it. A session that had the address loses it.
    pub(super) fn insert(&mut self, address: SocketAddr, session_id: u32, seed: u32, stage: Stage) -> SessionKey {
        let key = self.add(address, session_id, seed, stage, 0);
        let hash = self.identity_hash(session_id, seed);
        let mut by_identity = std::mem::take(&mut self.by_identity);
        by_identity.insert(hash, key.index, |index| self.identity_hash_of(index));
        self.by_identity = by_identity;
        key
    }

    /// The same for a session that this side opens: it does not move, and is not found by its identity.
    pub(super) fn insert_own(&mut self, address: SocketAddr, session_id: u32) -> SessionKey {
        self.add(address, session_id, 0, Stage::Decided, OWN)
    }

    fn add(&mut self, address: SocketAddr, session_id: u32, seed: u32, stage: Stage, flags: u8) -> SessionKey {
        let index = self.take_free();
        let generation = self.slot_at(index).generation.wrapping_add(1);
        *self.slot_at_mut(index) =
            Slot { address: address.into(), stage, flags, session_id, seed, generation, watch: 0 };
        self.count += 1;
        let key = SessionKey { index, generation };
        self.route(key, address);
        key
    }

    /// Removes a session. Its number becomes free.
    pub(super) fn remove(&mut self, key: SessionKey) {
        if self.get(key).is_none() {
            return;
        }
        self.unroute(key);
        self.drop_claim(key);
        if self.get(key).is_some_and(|slot| slot.flags & OWN == 0) {
            let hash = self.identity_hash_of(key.index);
            let mut by_identity = std::mem::take(&mut self.by_identity);
            by_identity.remove(hash, key.index, |index| self.identity_hash_of(index));
            self.by_identity = by_identity;
        }
        let next = std::mem::replace(&mut self.free, key.index);
        *self.slot_at_mut(key.index) = Slot { generation: key.generation, watch: next, ..Slot::FREE };
        self.count -= 1;
    }

    pub(super) fn get(&self, key: SessionKey) -> Option<&Slot> {
        let slot = self.chunks.get(key.index() / self.chunk)?.get(key.index() % self.chunk)?;
        (slot.generation == key.generation && slot.stage != Stage::Free).then_some(slot)
    }

    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Slot> {
        let slot = self.chunks.get_mut(key.index() / self.chunk)?.get_mut(key.index() % self.chunk)?;
        (slot.generation == key.generation && slot.stage != Stage::Free).then_some(slot)
    }

    /// The address of a session's peer.
    pub(super) fn address(&self, key: SessionKey) -> Option<SocketAddr> {
        self.get(key).map(|slot| slot.address.socket())
    }

    /// The session at this address, including an ended one.
    pub(super) fn resident(&self, address: SocketAddr) -> Option<SessionKey> {
        let address = Address::from(address);
        let index =
            self.by_address.find(self.address_hash(&address), |index| self.slot_at(index).address == address)?;
        Some(SessionKey { index, generation: self.slot_at(index).generation })
    }

    /// The live session with this id and seed, opened by a client: only those move.
    pub(super) fn by_identity(&self, session_id: u32, seed: u32) -> Option<SessionKey> {
        let is_meant = |index| {
            let slot = self.slot_at(index);
            (slot.session_id, slot.seed) == (session_id, seed) && slot.flags & ENDED == 0
        };
        let index = self.by_identity.find(self.identity_hash(session_id, seed), is_meant)?;
        Some(SessionKey { index, generation: self.slot_at(index).generation })
    }

    /// Marks a session as ended. Returns false if it already was.
    pub(super) fn end(&mut self, key: SessionKey) -> bool {
        self.drop_claim(key);
        self.set_flag(key, ENDED)
    }

    /// Marks a session as drained and frees its address.
    pub(super) fn drain(&mut self, key: SessionKey) {
        self.unroute(key);
        self.set_flag(key, DRAINED);
    }

    /// Moves a session to the address that it has claimed, and returns the former one. `None`: it has no such claim. A session
    /// that was there lives on without an address, and may claim one itself. Its next valid datagram from there brings it back;
    /// the one that it sends away then has no such right, so that two cannot fight over an address for ever.
    pub(super) fn relocate(&mut self, now: Instant, key: SessionKey, to: SocketAddr) -> Option<SocketAddr> {
        self.candidate(now, to).filter(|&claimant| claimant == key)?;
        let from = self.address(key)?;
        let returns = self.candidates.get(&to).is_some_and(|candidate| candidate.is_return);
        self.drop_candidate(to);
        // Not one that says itself that it has gone elsewhere.
        let may_return = |slot: &Slot| !slot.has_ended() && slot.flags & HAS_CANDIDATE == 0;
        let displaced = self.resident(to).filter(|&there| !returns && self.get(there).is_some_and(may_return));
        self.unroute(key);
        if let Some(slot) = self.get_mut(key) {
            slot.address = to.into();
        }
        self.route(key, to);
        if let Some(displaced) = displaced {
            self.put_claim(to, Candidate { key: displaced, claimed: now, is_return: true });
        }
        Some(from)
    }

    /// Sets a flag. Returns false if it was already set.
    fn set_flag(&mut self, key: SessionKey, flag: u8) -> bool {
        let Some(slot) = self.get_mut(key) else { return false };
        let was_set = slot.flags & flag != 0;
        slot.flags |= flag;
        !was_set
    }

    fn route(&mut self, key: SessionKey, address: SocketAddr) {
        if let Some(before) = self.resident(address) {
            self.unroute(before);
        }
        let hash = self.address_hash(&address.into());
        let mut by_address = std::mem::take(&mut self.by_address);
        by_address.insert(hash, key.index, |index| self.address_hash(&self.slot_at(index).address));
        self.by_address = by_address;
        self.set_flag(key, ROUTED);
    }

    fn unroute(&mut self, key: SessionKey) {
        let Some(slot) = self.get_mut(key).filter(|slot| slot.is_routed()) else { return };
        slot.flags &= !ROUTED;
        let hash = self.address_hash(&self.slot_at(key.index).address);
        let mut by_address = std::mem::take(&mut self.by_address);
        by_address.remove(hash, key.index, |index| self.address_hash(&self.slot_at(index).address));
        self.by_address = by_address;
    }

    fn take_free(&mut self) -> u32 {
        if self.free == NO_SLOT {
            let first = (self.chunks.len() * self.chunk) as u32;
            let mut chunk = vec![Slot::FREE; self.chunk].into_boxed_slice();
            for (n, slot) in chunk.iter_mut().enumerate() {
                slot.watch = if n + 1 < self.chunk { first + n as u32 + 1 } else { NO_SLOT };
            }
            self.chunks.push(chunk);
            self.free = first;
        }
        let index = self.free;
        self.free = self.slot_at(index).watch;
        index
    }

    fn slot_at(&self, index: u32) -> &Slot {
        &self.chunks[index as usize / self.chunk][index as usize % self.chunk]
    }

    fn slot_at_mut(&mut self, index: u32) -> &mut Slot {
        &mut self.chunks[index as usize / self.chunk][index as usize % self.chunk]
    }

    fn address_hash(&self, address: &Address) -> u64 {
        self.hash(&address.words())
    }

    fn identity_hash(&self, session_id: u32, seed: u32) -> u64 {
        let words = u64::from(session_id) << 32 | u64::from(seed);
        self.hash(&words.to_ne_bytes())
    }

    /// In one write: a hasher that is fed in parts takes twice as long.
    fn hash(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }

    fn identity_hash_of(&self, index: u32) -> u64 {
        let slot = self.slot_at(index);
        self.identity_hash(slot.session_id, slot.seed)
    }
}

#[cfg(test)]
mod tests {
    use super::{claims::CLAIM_LIFETIME, *};

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn insert(routes: &mut Routes, port: u16, id: u32) -> SessionKey {
        routes.insert(at(port), id, id + 1_000, Stage::Decided)
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Slot>(), 40);
    }

    #[test]
    fn a_session_is_found_by_address_and_identity_until_it_is_removed() {
        let mut routes = Routes::new([1; 16], true);
        let keys: Vec<_> = (0..500).map(|n| insert(&mut routes, n, n.into())).collect();
        for (n, &key) in (0..500u16).zip(&keys) {
            assert_eq!(routes.resident(at(n)), Some(key));
            assert_eq!(routes.by_identity(n.into(), u32::from(n) + 1_000), Some(key));
            assert_eq!(routes.address(key), Some(at(n)));
        }
        keys.iter().for_each(|&key| routes.remove(key));
        assert_eq!((routes.len(), routes.resident(at(3)), routes.by_identity(3, 1_003)), (0, None, None));
    }

    #[test]
    fn a_key_is_never_the_name_of_another_session() {
        let mut routes = Routes::new([1; 16], true);
        let old = insert(&mut routes, 1, 1);
        routes.remove(old);
        let new = insert(&mut routes, 1, 2);
        assert_eq!(old.index(), new.index());
        assert!(routes.get(old).is_none() && routes.get(new).is_some());
        routes.remove(old);
        assert_eq!(routes.resident(at(1)), Some(new));
    }

    #[test]
    fn an_ended_session_has_no_identity_and_keeps_its_address_until_it_is_drained() {
        let mut routes = Routes::new([1; 16], true);
        let key = insert(&mut routes, 1, 1);
        assert!(routes.end(key) && !routes.end(key));
        assert_eq!((routes.by_identity(1, 1_001), routes.resident(at(1))), (None, Some(key)));
        routes.drain(key);
        assert_eq!(routes.resident(at(1)), None);
        assert!(routes.get(key).is_some_and(Slot::is_drained));
    }

    #[test]
    fn two_sessions_swap_their_addresses() {
        let (now, mut routes) = (Instant::now(), Routes::new([1; 16], true));
        let (a, b) = (insert(&mut routes, 1, 1), insert(&mut routes, 2, 2));
        routes.claim(now, at(2), a);
        assert_eq!(routes.relocate(now, b, at(2)), None, "only the claimant");
        assert_eq!(routes.relocate(now + 2 * CLAIM_LIFETIME, a, at(2)), None, "the claim has lapsed");
        assert_eq!(routes.relocate(now, a, at(2)), Some(at(1)));
        assert_eq!((routes.resident(at(1)), routes.resident(at(2))), (None, Some(a)));
        routes.claim(now, at(1), b);
        assert_eq!(routes.relocate(now, b, at(1)), Some(at(2)));
        assert_eq!((routes.resident(at(1)), routes.resident(at(2))), (Some(b), Some(a)));
    }

    #[test]
    fn a_session_claims_one_address_and_an_address_has_one_claimant() {
        let (now, mut routes) = (Instant::now(), Routes::new([1; 16], true));
        let (a, b) = (insert(&mut routes, 1, 1), insert(&mut routes, 2, 2));
        routes.claim(now, at(3), a);
        routes.claim(now, at(4), a);
        assert_eq!((routes.candidate(now, at(3)), routes.candidate(now, at(4))), (None, Some(a)));
        routes.claim(now, at(4), b);
        assert_eq!(routes.candidate(now, at(4)), Some(b));
        routes.claim(now, at(5), a);
        assert_eq!(routes.candidate(now, at(5)), Some(a));
        routes.end(a);
        assert_eq!(routes.candidate(now, at(5)), None);
        assert_eq!(routes.candidate(now + CLAIM_LIFETIME * 2, at(4)), None);
        routes.expire(now + CLAIM_LIFETIME * 2);
        assert!(routes.candidates.is_empty() && routes.claims.is_empty());
    }

    #[test]
    fn a_right_to_return_lasts_as_long_as_its_session() {
        let (now, mut routes) = (Instant::now(), Routes::new([1; 16], true));
        let [away, there, other] = [1, 2, 3].map(|n| insert(&mut routes, n, n.into()));
        routes.claim(now, at(1), there);
        assert_eq!(routes.relocate(now, there, at(1)), Some(at(2)));
        let later = now + CLAIM_LIFETIME * 2;
        routes.expire(later);
        routes.claim(later, at(1), other);
        assert_eq!(routes.candidate(later, at(1)), Some(away));
        routes.end(away);
        assert_eq!(routes.candidate(later, at(1)), None);
    }
}
