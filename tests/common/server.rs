//! The server of all simulations: an endpoint, the sessions that it has let in, and a socket's buffer, driven by the same
//! functions as sockets are.
#![allow(dead_code, reason = "each test target uses its own part")]

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{
    AdmissionConfig, DatagramOutcome, DisconnectReason, Endpoint, IoLoop, Opened, Path, Session, SessionKey, Step,
    host::{self, Fed, Host},
};

/// What a server keeps for each session: the session itself, or one with an application and checks around it.
pub(crate) trait Resident {
    fn session(&self) -> &Session;
    fn session_mut(&mut self) -> &mut Session;

    /// When it wants to be woken.
    fn next_wake(&self) -> Option<Instant> {
        self.session().poll_timeout()
    }

    /// Lets expired timers fire.
    fn wake(&mut self, now: Instant) {
        self.session_mut().handle_timeout(now);
    }

    /// Takes everything that leaves now.
    fn serve(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) {
        transmit(now, self.session_mut(), send);
    }
}

impl Resident for Session {
    fn session(&self) -> &Session {
        self
    }

    fn session_mut(&mut self) -> &mut Session {
        self
    }
}

/// Takes all datagrams that a session has to send.
pub(crate) fn transmit(now: Instant, session: &mut Session, send: &mut dyn FnMut(&[u8])) {
    let mut buffer = Vec::new();
    let mut asks = session.has_transmit(now);
    while asks {
        asks = false;
        if let Some(transmit) = session.poll_transmit(now, &mut buffer) {
            buffer.chunks(transmit.segment_size).for_each(&mut *send);
            asks = true;
        }
        buffer.clear();
    }
}

/// One session of the server.
#[derive(Debug)]
pub(crate) struct Peer<R> {
    pub(crate) key: SessionKey,
    pub(crate) path: Path,
    pub(crate) resident: R,
    pub(crate) moves: Vec<(SocketAddr, SocketAddr)>,
    is_dirty: bool,
    is_ended: bool,
    is_drained: bool,
    alarm: Option<Instant>,
}

pub(crate) type Seat<R> = Box<dyn FnMut(Instant, Opened) -> R>;

/// How many datagrams are taken out of the socket at once.
const BATCH: usize = 32;
/// More steps than this in one turn are a loop.
const MAX_STEPS: u32 = 1_000_000;

pub(crate) struct Server<R> {
    pub(crate) endpoint: Endpoint,
    pub(crate) peers: Vec<Option<Peer<R>>>,
    hint: HashMap<SocketAddr, SessionKey>,
    seat: Seat<R>,
    turn: IoLoop,
    /// What waits in the socket's buffer.
    socket: VecDeque<(Path, BytesMut)>,
    socket_bytes: usize,
    buffer: usize,
    /// Datagrams that the socket's buffer had no room for.
    pub(crate) overflowed: u64,
    alarms: BTreeSet<(Instant, usize)>,
    dirty: VecDeque<usize>,
    /// What has left, oldest first.
    pub(crate) sent: Vec<(Path, Vec<u8>)>,
    is_acceptable: bool,
    /// Whether the application accepts everybody at once.
    pub(crate) accepts: bool,
    pub(crate) accepted: Vec<SessionKey>,
    /// Forgotten sessions that their application has not read up.
    pub(crate) held: Vec<R>,
    /// Whether the application's code panics when it is asked.
    pub(crate) panics: bool,
}

impl Server<Session> {
    /// A server of plain sessions.
    pub(crate) fn plain(now: Instant, config: impl Into<AdmissionConfig>, key: [u8; 16]) -> Self {
        Self::new(now, config, key, Box::new(|_, opened| opened.session))
    }
}

impl<R: Resident> Server<R> {
    pub(crate) fn new(now: Instant, config: impl Into<AdmissionConfig>, key: [u8; 16], seat: Seat<R>) -> Self {
        let buffer = 4 << 20;
        Self {
            endpoint: Endpoint::new(now, config.into(), key),
            peers: Vec::new(),
            hint: HashMap::new(),
            seat,
            turn: IoLoop::new(buffer),
            socket: VecDeque::new(),
            socket_bytes: 0,
            buffer,
            overflowed: 0,
            alarms: BTreeSet::new(),
            dirty: VecDeque::new(),
            sent: Vec::new(),
            is_acceptable: false,
            accepts: true,
            accepted: Vec::new(),
            held: Vec::new(),
            panics: false,
        }
    }

    /// With a socket whose buffer holds so many bytes.
    pub(crate) fn with_buffer(mut self, bytes: usize) -> Self {
        (self.buffer, self.turn) = (bytes, IoLoop::new(bytes));
        self
    }

    /// A datagram arrives, and waits in the socket's buffer.
    pub(crate) fn arrive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let takes = datagram.len() + 128;
        if self.socket_bytes + takes > self.buffer {
            self.overflowed += 1;
            return;
        }
        self.socket_bytes += takes;
        self.socket.push_back((from.into(), datagram.into()));
    }

    /// Lets the server do everything that is to be done now. Returns when it wants to go on.
    pub(crate) fn run(&mut self, now: Instant) -> Option<Instant> {
        self.run_steps(now, MAX_STEPS).expect("a turn ends")
    }

    /// The same, for so many steps at most. `None` if there is more to do.
    pub(crate) fn run_steps(&mut self, now: Instant, steps: u32) -> Option<Option<Instant>> {
        self.turn.wake();
        for _ in 0..steps {
            match self.turn.next(now, self.due()) {
                Step::Receive => self.receive(now),
                Step::Fire(due) => self.fire(now, due),
                Step::Transmit => self.serve(now),
                Step::Sleep(due) => return Some(due),
                step => panic!("an unknown step: {step:?}"),
            }
        }
        None
    }

    /// A datagram arrives and is handled.
    pub(crate) fn handle(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.arrive(from, datagram);
        self.run(now);
    }

    /// The next session that waits to be accepted, accepted.
    pub(crate) fn accept(&mut self, now: Instant) -> Option<SessionKey> {
        let (key, _) = host::call(self, now, |endpoint| endpoint.poll_accept(now))?;
        self.accepted.push(key);
        host::call(self, now, |endpoint| endpoint.accept(key));
        Some(key)
    }

    pub(crate) fn close(&mut self, now: Instant) {
        host::call(self, now, |endpoint| endpoint.close(now));
        self.run(now);
    }

    pub(crate) fn peer(&self, key: SessionKey) -> Option<&Peer<R>> {
        self.peers.get(key.index())?.as_ref().filter(|peer| peer.key == key)
    }

    pub(crate) fn peer_mut(&mut self, key: SessionKey) -> Option<&mut Peer<R>> {
        self.peers.get_mut(key.index())?.as_mut().filter(|peer| peer.key == key)
    }

    /// The session that is routed from an address.
    pub(crate) fn at(&self, address: SocketAddr) -> Option<&Peer<R>> {
        self.peer(self.endpoint.at(address)?)
    }

    pub(crate) fn at_mut(&mut self, address: SocketAddr) -> Option<&mut Peer<R>> {
        let key = self.endpoint.at(address)?;
        self.peer_mut(key)
    }

    pub(crate) fn all(&self) -> impl DoubleEndedIterator<Item = &Peer<R>> {
        self.peers.iter().flatten()
    }

    /// Addresses that are routed to a session.
    pub(crate) fn routes(&self) -> usize {
        self.hint.len()
    }

    /// Timers that run, routes, and sessions and datagrams that wait for the server.
    pub(crate) fn timers(&self) -> usize {
        self.alarms.len() + self.hint.len() + self.dirty.len() + self.socket.len()
    }

    /// The application has done something to a session.
    pub(crate) fn touch(&mut self, key: SessionKey) {
        if let Some(peer) = self.peer_mut(key)
            && !std::mem::replace(&mut peer.is_dirty, true)
        {
            self.dirty.push_back(key.index());
        }
    }

    /// When the first timer is due.
    fn due(&self) -> Option<Instant> {
        [self.alarms.first().map(|(at, _)| *at), self.endpoint.poll_timeout()].into_iter().flatten().min()
    }

    fn receive(&mut self, now: Instant) {
        let batch: Vec<_> = self.socket.drain(..self.socket.len().min(BATCH)).collect();
        if batch.is_empty() {
            return self.turn.found_empty();
        }
        let bytes: usize = batch.iter().map(|(_, datagram)| datagram.len()).sum();
        self.socket_bytes -= bytes + 128 * batch.len();
        self.turn.received(batch.len(), bytes);
        host::receive(self, now, batch);
    }

    fn fire(&mut self, now: Instant, due: Instant) {
        if self.endpoint.poll_timeout().is_some_and(|at| at <= due) {
            host::call(self, now, |endpoint| endpoint.handle_timeout(now));
        }
        while let Some((_, index)) = self.alarms.first().copied().filter(|(at, _)| *at <= due) {
            self.alarms.pop_first();
            let Some(peer) = self.peers[index].as_mut() else { continue };
            peer.alarm = None;
            peer.resident.wake(now);
            let key = peer.key;
            self.touch(key);
        }
    }

    fn serve(&mut self, now: Instant) {
        host::perform(self, now);
        if self.accepts && std::mem::take(&mut self.is_acceptable) {
            while self.accept(now).is_some() {}
        }
        while let Some(index) = self.dirty.pop_front() {
            let Some(peer) = self.peers[index].as_mut() else { continue };
            peer.is_dirty = false;
            self.serve_one(now, index);
        }
    }

    fn serve_one(&mut self, now: Instant, index: usize) {
        let Some(peer) = self.peers[index].as_mut() else { return };
        let (path, sent) = (peer.path, &mut self.sent);
        peer.resident.serve(now, &mut |datagram| sent.push((path, datagram.to_vec())));
        let session = peer.resident.session();
        let (key, is_readable) = (peer.key, session.is_readable());
        let has_ended = session.closed().is_some() && !std::mem::replace(&mut peer.is_ended, true);
        let is_drained = session.is_drained() && !std::mem::replace(&mut peer.is_drained, true);
        let wanted = if session.is_drained() { None } else { peer.resident.next_wake() };
        if wanted != peer.alarm {
            if let Some(at) = std::mem::replace(&mut peer.alarm, wanted) {
                self.alarms.remove(&(at, index));
            }
            self.alarms.extend(wanted.map(|at| (at, index)));
        }
        if has_ended {
            host::ended(self, now, key, is_readable);
        }
        if is_drained {
            host::drained(self, now, key);
        }
    }
}

impl<R: Resident> Host for Server<R> {
    type Session = SessionKey;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        work(&mut self.endpoint)
    }

    fn lookup(&mut self, address: SocketAddr) -> Option<SessionKey> {
        self.hint.get(&address).copied()
    }

    fn session(&mut self, key: SessionKey) -> Option<SessionKey> {
        self.peer(key).map(|peer| peer.key)
    }

    fn feed(
        &mut self,
        now: Instant,
        key: &SessionKey,
        path: Path,
        datagrams: &mut dyn Iterator<Item = BytesMut>,
    ) -> Fed {
        let mut fed = Fed::new(*key, now);
        let Some(peer) = self.peer_mut(*key) else {
            fed.returned.extend(datagrams);
            return fed;
        };
        let session = peer.resident.session_mut();
        for datagram in datagrams {
            match session.handle_datagram(now, datagram) {
                DatagramOutcome::Authentic => fed.is_authentic = true,
                DatagramOutcome::Rejected(datagram) | DatagramOutcome::ForEndpoint(datagram) => {
                    fed.returned.push(datagram)
                }
                _ => {}
            }
        }
        fed.heard = session.last_heard();
        if fed.is_authentic && peer.path.remote == path.remote {
            // Answers leave from the address that was spoken to last.
            peer.path = path;
        }
        self.touch(*key);
        fed
    }

    fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.sent.push((path, datagram));
    }

    fn open(&mut self, now: Instant, opened: Opened) {
        let (key, path) = (opened.key, opened.path);
        let resident = (self.seat)(now, opened);
        if self.peers.len() <= key.index() {
            self.peers.resize_with(key.index() + 1, || None);
        }
        let (moves, is_dirty, is_ended, is_drained, alarm) = Default::default();
        let before =
            self.peers[key.index()].replace(Peer { key, path, resident, moves, is_dirty, is_ended, is_drained, alarm });
        assert!(before.is_none(), "the place of a session was given away");
        self.touch(key);
    }

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.hint.insert(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        if self.hint.get(&address) == Some(&key) {
            self.hint.remove(&address);
        }
    }

    fn relocate(&mut self, now: Instant, key: &SessionKey, from: SocketAddr, to: Path) {
        let Some(peer) = self.peer_mut(*key) else { return };
        peer.path = to;
        peer.moves.push((from, to.remote));
        peer.resident.session_mut().handle_remap(now);
        self.touch(*key);
    }

    fn ask_for_life(&mut self, _: Instant, key: &SessionKey) {
        let Some(peer) = self.peer_mut(*key) else { return };
        peer.resident.session_mut().ask_for_life();
        self.touch(*key);
    }

    fn unreachable(&mut self, now: Instant, key: &SessionKey) {
        let Some(peer) = self.peer_mut(*key) else { return };
        peer.resident.session_mut().handle_unreachable(now);
        self.touch(*key);
    }

    fn end(&mut self, now: Instant, key: &SessionKey, reason: DisconnectReason, tell_peer: bool) {
        let Some(peer) = self.peer_mut(*key) else { return };
        peer.resident.session_mut().abort(now, reason, tell_peer);
        self.touch(*key);
    }

    fn forget(&mut self, key: SessionKey) {
        let Some(peer) = self.peers[key.index()].take() else { panic!("forgotten twice") };
        assert_eq!(peer.key, key);
        assert_ne!(self.hint.get(&peer.path.remote), Some(&key), "a forgotten session is routed");
        if let Some(at) = peer.alarm {
            self.alarms.remove(&(at, key.index()));
        }
        // The application has it still, and may read what is left.
        if peer.resident.session().is_readable() && self.accepted.contains(&key) {
            self.held.push(peer.resident);
        }
    }

    fn answer(&mut self, question: soe_core::Question) -> Option<soe_core::Answer> {
        (!self.panics).then(|| question.answer())
    }

    fn acceptable(&mut self) {
        // Not from within: the application is a task of its own.
        self.is_acceptable = true;
    }
}

impl<R> std::fmt::Debug for Server<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
