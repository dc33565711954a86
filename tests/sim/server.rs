//! A whole server: an admission, the sessions that it has let in, and the way of a datagram to the right one.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use bytes::BytesMut;
use soe_core::{Admission, AdmissionConfig, Admit, DisconnectReason, Newcomer, Verdict, wire::RemapConnection};

use super::{app::App, endpoint::Endpoint};

/// A session on the server, and where its client is.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: Endpoint,
    pub(crate) address: SocketAddr,
    /// Where its client may have moved to.
    candidate: Option<SocketAddr>,
}

/// Makes the application for a newcomer, by its session id.
pub(crate) type Apps<'a> = &'a mut dyn FnMut(u32) -> App;

#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) admission: Admission,
    config: AdmissionConfig,
    /// Never shrinks: a place is a session's name. Those that are over and forgotten are `None`.
    pub(crate) peers: Vec<Option<Peer>>,
    routes: BTreeMap<SocketAddr, usize>,
    identities: BTreeMap<(u32, u32), usize>,
    pub(crate) live: usize,
}

/// Who has to be looked after, now that a datagram has been handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) peer: Option<usize>,
    pub(crate) replaced: Option<usize>,
}

impl Server {
    pub(crate) fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        Self {
            admission: Admission::new(now, config.clone(), key),
            config,
            peers: Vec::new(),
            routes: BTreeMap::new(),
            identities: BTreeMap::new(),
            live: 0,
        }
    }

    pub(crate) fn peer(&mut self, n: usize) -> Option<&mut Peer> {
        self.peers.get_mut(n)?.as_mut()
    }

    /// The session that serves this address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Peer> {
        self.peers[*self.routes.get(&address)?].as_ref()
    }

    pub(crate) fn find(&self, session_id: u32) -> Option<usize> {
        let mut found = self.identities.range((session_id, 0)..=(session_id, u32::MAX));
        found.next_back().map(|(_, n)| *n)
    }

    /// Hands a datagram to the session of its address, and to the admission if there is none or if it is not the session's.
    pub(crate) fn handle(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        apps: Apps<'_>,
        reply: &mut dyn FnMut(&[u8]),
    ) -> Touched {
        let mut touched = Touched { peer: self.routes.get(&from).copied(), replaced: None };
        let mut datagram = BytesMut::from(datagram);
        let mut returned = false;
        if let Some(n) = touched.peer
            && let Some(peer) = self.peer(n)
        {
            match peer.endpoint.session.handle_datagram(now, datagram) {
                Verdict::Authentic => {
                    self.moved(now, n, from);
                    return touched;
                }
                Verdict::Rejected(back) | Verdict::Stranger(back) => (datagram, returned) = (back, true),
                _ => return touched,
            }
        }
        self.admission.set_room(self.config.max_sessions - self.live);
        let admit = match returned {
            true => self.admission.handle_returned(now, from, datagram),
            false => self.admission.handle_datagram(now, from, datagram),
        };
        let mut answer = Vec::new();
        while self.admission.poll_transmit(&mut answer).is_some() {
            reply(&answer);
            answer.clear();
        }
        match admit {
            Admit::Opened(newcomer) => {
                let (peer, replaced) = self.enter(now, from, *newcomer, apps);
                touched = Touched { peer: Some(peer), replaced };
            }
            Admit::Remap(remap) => self.remap(from, remap),
            _ => {}
        }
        touched
    }

    fn enter(&mut self, now: Instant, from: SocketAddr, newcomer: Newcomer, apps: Apps<'_>) -> (usize, Option<usize>) {
        let Newcomer { request, session, .. } = newcomer;
        let n = self.peers.len();
        self.identities.insert((session.session_id(), session.crc_seed()), n);
        let endpoint = Endpoint::new(now, session, apps(request.session_id), request.udp_length);
        self.peers.push(Some(Peer { endpoint, address: from, candidate: None }));
        self.live += 1;
        let replaced = self.routes.insert(from, n);
        if let Some(old) = replaced.and_then(|old| self.peer(old)) {
            // The newcomer has proved that the address is its own: the client behind the old session is gone.
            old.endpoint.session.abort(now, DisconnectReason::NewConnectionAttempt, false);
        }
        (n, replaced)
    }

    /// Somebody knows a session's id and seed: its datagrams may come from there.
    fn remap(&mut self, from: SocketAddr, remap: RemapConnection) {
        let Some(&n) = self.identities.get(&(remap.session_id, remap.crc_seed)) else { return };
        let policy = self.config.remap;
        let Some(peer) = self.peers[n].as_mut() else { return };
        if !policy.allows(peer.address, from) || self.routes.contains_key(&from) {
            return;
        }
        if let Some(abandoned) = peer.candidate.replace(from) {
            self.routes.remove(&abandoned);
        }
        self.routes.insert(from, n);
    }

    /// A datagram with a valid CRC came from here. If the client was believed elsewhere, it has moved.
    fn moved(&mut self, now: Instant, n: usize, from: SocketAddr) {
        let Some(peer) = self.peers[n].as_mut() else { return };
        if peer.candidate != Some(from) {
            return;
        }
        peer.candidate = None;
        let old = std::mem::replace(&mut peer.address, from);
        peer.endpoint.session.handle_remap(now);
        self.routes.remove(&old);
    }

    /// Forgets a session that is over and has told its stragglers.
    pub(crate) fn forget_drained(&mut self, n: usize) {
        let drained = self.peer(n).is_some_and(|peer| peer.endpoint.session.is_drained());
        if !drained {
            return;
        }
        self.peers[n] = None;
        self.routes.retain(|_, route| *route != n);
        self.identities.retain(|_, identity| *identity != n);
        self.live -= 1;
    }
}
