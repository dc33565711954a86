//! Virtual time: clients, a server, the links between them, and what happens when.

use std::{
    cell::RefCell,
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use soe_core::{
    AdmissionConfig, Closed, DisconnectReason, Framing, Opened, Origin, Session, SessionConfig, SessionKey,
    recording::RecordOptions, wire::opcode,
};

use super::{
    account::SharedAccount,
    app::{App, Plan, Reading},
    endpoint::Endpoint,
    network::{Counts, Faults, Link},
    rng::{Rng, Trace},
    server::Server,
};

/// Whom something happens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Client(usize),
    Peer,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    ToServer(SocketAddr, Vec<u8>),
    ToClient(SocketAddr, Vec<u8>),
    Alarm(usize),
    /// The server has something to do.
    Server,
}

/// A client, and the path between it and the server.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: Endpoint,
    /// As the server sees it.
    pub(crate) address: SocketAddr,
    pub(crate) up: Link,
    pub(crate) down: Link,
}

/// Everything there is, at one moment.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) epoch: Instant,
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    queue: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    happenings: u64,
    pub(crate) server: Server<Endpoint>,
    /// When the server is to be woken.
    server_alarm: Option<Instant>,
    /// How the server's sessions have ended that nobody has looked at yet.
    server_endings: Rc<RefCell<Vec<Closed>>>,
    pub(crate) session: SessionConfig,
    /// Whether clients that connect from now on are recorded.
    record: Option<RecordOptions>,
    pub(crate) clients: Vec<Client>,
    by_address: BTreeMap<SocketAddr, usize>,
    counterparts: Rc<RefCell<Counterparts>>,
    pub(crate) trace: Trace,
    pub(crate) steps: u64,
    /// Steps since time last advanced.
    stuck: u32,
    allowed: Vec<DisconnectReason>,
    pub(crate) endings: Vec<(Place, Closed)>,
    /// The accounts of all sessions that there have been, the client's first.
    pub(crate) accounts: Vec<[SharedAccount; 2]>,
    /// The run is over: how sessions end from now on is looked at afterwards.
    pub(crate) settles: bool,
    is_server_dead: bool,
    buf: Vec<u8>,
}

/// More steps than this without time advancing are a loop.
const MAX_STUCK: u32 = 100_000;

impl World {
    pub(crate) fn new(seed: u64, config: impl Into<AdmissionConfig>) -> Self {
        let (now, config) = (Instant::now(), config.into());
        let mut rng = Rng::of(seed, 0);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&rng.next().to_le_bytes());
        key[8..].copy_from_slice(&rng.next().to_le_bytes());
        let counterparts = Rc::<RefCell<Counterparts>>::default();
        let server_endings = Rc::default();
        let session = config.session.clone();
        let seat = seat(Rc::clone(&counterparts), Rc::clone(&server_endings));
        Self {
            now,
            epoch: now,
            seed,
            rng,
            queue: BinaryHeap::new(),
            happenings: 0,
            session,
            record: None,
            server: Server::new(now, config, key, seat),
            server_alarm: None,
            server_endings,
            clients: Vec::new(),
            by_address: BTreeMap::new(),
            counterparts,
            trace: Trace::default(),
            steps: 0,
            stuck: 0,
            allowed: Vec::new(),
            endings: Vec::new(),
            accounts: Vec::new(),
            settles: false,
            is_server_dead: false,
            buf: Vec::new(),
        }
    }

    /// Sessions may end for these reasons from now on; until then, for none.
    pub(crate) fn allow(&mut self, reasons: &[DisconnectReason]) {
        self.allowed.extend_from_slice(reasons);
    }

    /// A client that connects now. Returns its number.
    pub(crate) fn connect(
        &mut self,
        config: SessionConfig,
        address: SocketAddr,
        [up, down]: [Faults; 2],
        [client, server]: [Plan; 2],
    ) -> usize {
        let n = self.clients.len();
        let [app, counterpart] = App::pair(self.rng.next(), client, server);
        self.accounts.push([app.account.clone(), counterpart.account.clone()]);
        let id = self.rng.next() as u32;
        let session = self.session(config, id);
        let peer_limit = self.session.udp_length;
        self.clients.push(Client {
            endpoint: Endpoint::new(self.now, session, app, peer_limit),
            address,
            up: Link::new(self.epoch, up, Rng::of(self.seed, 0x7570 + n as u64 * 0x10000)),
            down: Link::new(self.epoch, down, Rng::of(self.seed, 0x646F + n as u64 * 0x10000)),
        });
        self.counterparts.borrow_mut().wanted.insert(id, counterpart);
        self.by_address.insert(address, n);
        self.serve(n);
        n
    }

    /// The program behind a client is started again: the old session is gone without a word.
    pub(crate) fn restart(&mut self, n: usize, [client, server]: [Plan; 2]) {
        let [app, counterpart] = App::pair(self.rng.next(), client, server);
        self.accounts.push([app.account.clone(), counterpart.account.clone()]);
        let id = self.rng.next() as u32;
        let config = self.clients[n].endpoint.session.config().clone();
        self.clients[n].endpoint.app.account.note(|account| account.is_killed = account.end.is_none());
        let session = self.session(config, id);
        self.clients[n].endpoint = Endpoint::new(self.now, session, app, self.session.udp_length);
        self.counterparts.borrow_mut().wanted.insert(id, counterpart);
        self.serve(n);
    }

    /// From now on the server may open sessions that nobody has asked for, and several under one id: a request that was
    /// repeated may arrive when its session has ended, and damage may make another packet look like a request.
    pub(crate) fn expect_strays(&self) {
        self.counterparts.borrow_mut().expects_strays = true;
    }

    /// Records all sessions that open from now on, at both ends.
    pub(crate) fn record_sessions(&mut self) {
        let options = RecordOptions::new(self.now, 0).limit(usize::MAX);
        self.server.endpoint.record(Some(options.clone()));
        self.record = Some(options);
    }

    fn session(&self, config: SessionConfig, id: u32) -> Session {
        let mut session = Session::connect(self.now, config, id);
        assert!(self.record.as_ref().is_none_or(|options| session.record(options)));
        session
    }

    /// The network gives a client another address; what is under way to the old one is lost.
    pub(crate) fn readdress(&mut self, n: usize, address: SocketAddr) {
        let old = std::mem::replace(&mut self.clients[n].address, address);
        self.by_address.remove(&old);
        self.by_address.insert(address, n);
    }

    /// The program behind a client is gone without a word.
    pub(crate) fn kill(&mut self, n: usize) {
        let Client { endpoint, address, .. } = &mut self.clients[n];
        endpoint.alarm = None;
        endpoint.app.account.note(|account| account.is_killed = account.end.is_none());
        self.by_address.remove(address);
    }

    /// The server is gone without a word, and nobody says that its port is closed.
    pub(crate) fn kill_server(&mut self) {
        self.is_server_dead = true;
        for [_, server] in &self.accounts {
            server.note(|account| account.is_killed = account.end.is_none());
        }
    }

    /// All applications read what their sessions still hold.
    pub(crate) fn read_all(&mut self) {
        let now = self.now;
        let clients = self.clients.iter_mut().map(|client| &mut client.endpoint);
        for end in clients.chain(&mut self.server.held) {
            end.app.plan.reading = Reading::AtOnce;
            end.app.act(now, &mut end.session);
        }
    }

    pub(crate) fn client(&mut self, n: usize) -> &mut Endpoint {
        &mut self.clients[n].endpoint
    }

    /// The server's session with the present session of a client: the newest of that id.
    pub(crate) fn peer_of(&self, n: usize) -> Option<SessionKey> {
        let id = self.clients[n].endpoint.session.session_id();
        let mut all = self.server.all().filter(|peer| peer.resident.session.session_id() == id);
        all.next_back().map(|peer| peer.key)
    }

    /// The server's end of a client's session.
    pub(crate) fn peer(&mut self, n: usize) -> &mut Endpoint {
        let peer = self.peer_of(n).expect("the server has let the client in");
        &mut self.server.peer_mut(peer).expect("the session is remembered").resident
    }

    /// The same, to look at, if it is there.
    pub(crate) fn peer_end(&self, n: usize) -> Option<&Endpoint> {
        self.server.peer(self.peer_of(n)?).map(|peer| &peer.resident)
    }

    pub(crate) fn has_peer(&self, n: usize) -> bool {
        self.peer_end(n).is_some()
    }

    /// Something outside of the network has changed a session: its application did something.
    pub(crate) fn touch(&mut self, n: usize) {
        self.serve(n);
        if let Some(peer) = self.peer_of(n) {
            self.server.touch(peer);
            self.run_server();
        }
    }

    pub(crate) fn calm(&mut self) {
        for client in &mut self.clients {
            client.up.calm();
            client.down.calm();
        }
    }

    /// What the network has done, over all links.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for client in &self.clients {
            counts += client.up.counts;
            counts += client.down.counts;
        }
        counts
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.now - self.epoch
    }

    pub(crate) fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until the condition holds. Returns whether it did within this time.
    pub(crate) fn run_until(&mut self, time: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + time;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
    }

    /// Goes on to the next thing that happens, if that is not after `end`.
    fn step(&mut self, end: Instant) -> bool {
        if self.queue.peek().is_none_or(|Reverse((at, ..))| *at > end) {
            return false;
        }
        let Some(Reverse((at, _, happening))) = self.queue.pop() else { return false };
        self.stuck = if at > self.now { 0 } else { self.stuck + 1 };
        assert!(self.stuck < MAX_STUCK, "time stands still at {:?}", self.elapsed());
        self.now = self.now.max(at);
        self.steps += 1;
        match happening {
            Happening::ToServer(from, datagram) => {
                self.server.arrive(from, &datagram);
                self.run_server();
            }
            Happening::Server => {
                if self.server_alarm == Some(self.now) {
                    self.server_alarm = None;
                    self.run_server();
                }
            }
            Happening::ToClient(address, datagram) => {
                let Some(&n) = self.by_address.get(&address) else { return true };
                let session = &mut self.clients[n].endpoint.session;
                if session.is_drained() {
                    return true;
                }
                let _ = session.handle_datagram(self.now, datagram[..].into());
                self.serve(n);
            }
            Happening::Alarm(n) => self.alarm(n),
        }
        true
    }

    /// Lets the server do what is to be done now, and sees to it that it goes on in time.
    fn run_server(&mut self) {
        if self.is_server_dead {
            return;
        }
        let wanted = self.server.run(self.now);
        let earlier = wanted.filter(|at| self.server_alarm.is_none_or(|alarm| *at < alarm));
        if let Some(at) = earlier {
            self.server_alarm = Some(at.max(self.now));
            self.push(at.max(self.now), Happening::Server);
        }
        for (path, datagram) in std::mem::take(&mut self.server.sent) {
            self.send_to_client(path.remote, &datagram);
        }
        let endings = std::mem::take(&mut *self.server_endings.borrow_mut());
        endings.into_iter().for_each(|closed| self.ended(Place::Peer, closed));
    }

    fn alarm(&mut self, n: usize) {
        let (now, endpoint) = (self.now, &mut self.clients[n].endpoint);
        if endpoint.alarm != Some(now) {
            return;
        }
        endpoint.alarm = None;
        endpoint.wake(now);
        self.serve(n);
    }

    /// Lets a client act on what has happened to it, and sees to it that it wakes in time.
    fn serve(&mut self, n: usize) {
        let (now, mut buf) = (self.now, std::mem::take(&mut self.buf));
        let mut datagrams = Vec::new();
        let endpoint = &mut self.clients[n].endpoint;
        let was_open = endpoint.closed.is_none();
        endpoint.serve(now, &mut buf, |datagram| datagrams.push(datagram.to_vec()));
        let closed = endpoint.closed.filter(|_| was_open);
        let wanted = [endpoint.session.poll_timeout(), endpoint.app.tick].into_iter().flatten().min();
        let earlier = wanted.filter(|at| endpoint.alarm.is_none_or(|alarm| *at < alarm));
        if let Some(at) = earlier {
            endpoint.alarm = Some(at.max(now));
            self.push(at.max(now), Happening::Alarm(n));
        }
        self.buf = buf;
        datagrams.iter().for_each(|datagram| self.send_to_server(n, datagram));
        if let Some(closed) = closed {
            self.ended(Place::Client(n), closed);
        }
    }

    fn ended(&mut self, place: Place, closed: Closed) {
        let replaced = closed.reason == DisconnectReason::NewConnectionAttempt;
        // Who gives up before it has an answer says so unsealed. To a session without CRC the reason may then be anything.
        let unsealed = closed.origin == Origin::Peer && self.counterparts.borrow().expects_strays;
        assert!(
            self.settles || unsealed || self.allowed.contains(&closed.reason) || (replaced && place == Place::Peer),
            "{place:?} closed at {:?}: {closed}",
            self.elapsed()
        );
        self.endings.push((place, closed));
    }

    fn push(&mut self, at: Instant, happening: Happening) {
        self.happenings += 1;
        self.queue.push(Reverse((at, self.happenings, happening)));
    }

    fn send_to_server(&mut self, n: usize, datagram: &[u8]) {
        self.record(b'>', n, datagram);
        let framing = self.framing(n);
        let Client { address, up, .. } = &mut self.clients[n];
        let (address, queue, happenings) = (*address, &mut self.queue, &mut self.happenings);
        up.carry(
            self.now,
            datagram,
            |damaged| detectable(&framing, datagram, damaged),
            |at, datagram| {
                *happenings += 1;
                queue.push(Reverse((at, *happenings, Happening::ToServer(address, datagram))));
            },
        );
    }

    fn send_to_client(&mut self, address: SocketAddr, datagram: &[u8]) {
        // Nobody is there any more: it travels nevertheless, and the trace knows it.
        let Some(&n) = self.by_address.get(&address) else { return self.record(b'x', usize::MAX, datagram) };
        self.record(b'<', n, datagram);
        let framing = self.framing(n);
        let (down, queue, happenings) = (&mut self.clients[n].down, &mut self.queue, &mut self.happenings);
        down.carry(
            self.now,
            datagram,
            |damaged| detectable(&framing, datagram, damaged),
            |at, datagram| {
                *happenings += 1;
                queue.push(Reverse((at, *happenings, Happening::ToClient(address, datagram))));
            },
        );
    }

    fn record(&mut self, direction: u8, n: usize, datagram: &[u8]) {
        self.trace.word(self.elapsed().as_nanos() as u64);
        self.trace.word(u64::from(direction) << 56 ^ n as u64);
        self.trace.bytes(datagram);
        if super::runner::prints_datagrams() {
            let head = &datagram[..datagram.len().min(24)];
            println!("{:12.6} {}{n} {:4} {head:02x?}", self.elapsed().as_secs_f64(), direction as char, datagram.len());
        }
    }

    /// What tells whether damage to this client's datagrams would be noticed.
    fn framing(&self, n: usize) -> Option<Framing> {
        let session = &self.clients[n].endpoint.session;
        let length = self.session.crc_length;
        let faults = [&self.clients[n].up.faults, &self.clients[n].down.faults];
        if length == 0 || faults.iter().all(|faults| faults.corrupt + faults.truncate == 0.0) {
            return None;
        }
        Framing::new(session.crc_seed(), length, [0, 0], &[None, None]).ok()
    }
}

/// The applications that the server has for its sessions.
#[derive(Debug, Default)]
struct Counterparts {
    /// For sessions asked for, by their ids: made together with the clients'.
    wanted: BTreeMap<u32, App>,
    /// Sessions may open that nobody has asked for, and several under one id.
    expects_strays: bool,
}

impl Counterparts {
    fn take(&mut self, id: u32) -> App {
        let wanted = self.wanted.remove(&id);
        if !self.expects_strays {
            return wanted.expect("one session for each that is asked for");
        }
        let app = wanted.unwrap_or_else(App::idle);
        self.wanted.insert(id, app.again());
        app
    }
}

/// Makes what the server keeps for each session.
fn seat(
    counterparts: Rc<RefCell<Counterparts>>,
    endings: Rc<RefCell<Vec<Closed>>>,
) -> Box<dyn FnMut(Instant, Opened) -> Endpoint> {
    Box::new(move |now, opened| {
        let Opened { request, session, .. } = opened;
        let app = counterparts.borrow_mut().take(request.session_id);
        let mut endpoint = Endpoint::new(now, session, app, request.udp_length);
        endpoint.endings = Some(Rc::clone(&endings));
        endpoint
    })
}

/// Handshakes carry no CRC, so damage to them goes unnoticed; the checksum of UDP is what protects them.
fn detectable(framing: &Option<Framing>, datagram: &[u8], damaged: &[u8]) -> bool {
    let Some(framing) = framing else { return false };
    let sealed = |datagram: &[u8]| !opcode::of(datagram).is_some_and(opcode::is_exempt);
    sealed(datagram) && framing.verify(datagram) && !(sealed(damaged) && framing.verify(damaged))
}
