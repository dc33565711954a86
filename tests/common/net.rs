//! Clients around the simulated server, in virtual time.
#![allow(dead_code, reason = "each test target uses its own part")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::{AdmissionConfig, Message, Session, SessionConfig};

use super::server::{Server, transmit};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// What becomes of a datagram to the server or from it: when it arrives, if at all.
pub(crate) type Fate = Box<dyn FnMut(Direction, SocketAddr, &[u8]) -> Option<Duration>>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

#[derive(Debug)]
enum Flying {
    ToServer(SocketAddr, Vec<u8>),
    ToClient(SocketAddr, Vec<u8>),
}

pub(crate) struct Net {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) server: Server<Session>,
    pub(crate) clients: BTreeMap<SocketAddr, Session>,
    flying: BTreeMap<(Instant, u64), Flying>,
    order: u64,
    fate: Fate,
    /// The server is not polled; what arrives waits in its socket.
    pub(crate) is_stopped: bool,
    wakes: Option<Instant>,
    /// The least time between two steps: crowds are served in steps of some milliseconds.
    pub(crate) tick: Duration,
    /// Bytes to and from each address.
    pub(crate) bytes: BTreeMap<SocketAddr, [usize; 2]>,
    /// Messages that the server's application has read.
    pub(crate) received: Vec<(u32, Message)>,
    /// Whether the server's application reads what sessions hold that it has accepted.
    pub(crate) reads: bool,
}

impl Net {
    pub(crate) fn new(config: impl Into<AdmissionConfig>, delay: Duration) -> Self {
        Self::with_fate(config, Box::new(move |_, _, _| Some(delay)))
    }

    pub(crate) fn with_fate(config: impl Into<AdmissionConfig>, fate: Fate) -> Self {
        let now = Instant::now();
        let mut server = Server::plain(now, config, [5; 16]);
        let wakes = server.run(now);
        Self {
            start: now,
            now,
            server,
            clients: BTreeMap::new(),
            flying: BTreeMap::new(),
            order: 0,
            fate,
            is_stopped: false,
            wakes,
            tick: Duration::ZERO,
            bytes: BTreeMap::new(),
            received: Vec::new(),
            reads: true,
        }
    }

    pub(crate) fn join(&mut self, address: SocketAddr, config: &SessionConfig, session_id: u32) {
        self.clients.insert(address, Session::connect(self.now, config.clone(), session_id));
    }

    pub(crate) fn client(&mut self, address: SocketAddr) -> &mut Session {
        self.clients.get_mut(&address).expect("a client is there")
    }

    /// The network gives a client another address.
    pub(crate) fn readdress(&mut self, from: SocketAddr, to: SocketAddr) {
        let client = self.clients.remove(&from).expect("a client is there");
        self.clients.insert(to, client);
    }

    /// The server's session with this id that lives.
    pub(crate) fn session_of(&self, session_id: u32) -> Option<&Session> {
        let mut all = self.server.all().map(|peer| &peer.resident);
        all.find(|session| session.session_id() == session_id && session.closed().is_none())
    }

    /// Somebody sends to the server in the name of an address.
    pub(crate) fn forge(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.bytes.entry(from).or_default()[0] += datagram.len();
        self.server.arrive(from, datagram);
        self.poll_server();
    }

    pub(crate) fn poll_server(&mut self) {
        if self.is_stopped {
            return;
        }
        self.read();
        self.wakes = self.server.run(self.now);
        self.read();
        for (path, datagram) in std::mem::take(&mut self.server.sent) {
            self.bytes.entry(path.remote).or_default()[1] += datagram.len();
            self.fly(Direction::ToClient, path.remote, datagram);
        }
    }

    fn read(&mut self) {
        if !self.reads {
            return;
        }
        for mut session in std::mem::take(&mut self.server.held) {
            let id = session.session_id();
            self.received.extend(std::iter::from_fn(|| session.recv()).map(|message| (id, message)));
        }
        for key in self.server.accepted.clone() {
            let Some(peer) = self.server.peer_mut(key) else { continue };
            let id = peer.resident.session_id();
            let before = self.received.len();
            while let Some(message) = peer.resident.recv() {
                self.received.push((id, message));
            }
            if self.received.len() > before {
                self.server.touch(key);
            }
        }
    }

    fn fly(&mut self, direction: Direction, address: SocketAddr, datagram: Vec<u8>) {
        let Some(delay) = (self.fate)(direction, address, &datagram) else { return };
        self.order += 1;
        let flying = match direction {
            Direction::ToServer => Flying::ToServer(address, datagram),
            Direction::ToClient => Flying::ToClient(address, datagram),
        };
        self.flying.insert((self.now + delay, self.order), flying);
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for address in self.clients.keys().copied().collect::<Vec<_>>() {
                self.serve_client(address);
            }
            self.poll_server();
            let clients = self.clients.values().filter_map(Session::poll_timeout).min();
            let server = self.wakes.filter(|_| !self.is_stopped);
            let arrival = self.flying.first_key_value().map(|((at, _), _)| *at);
            let next = [clients, server, arrival].into_iter().flatten().min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = next.max(self.now + self.tick);
            self.arrive();
        }
        self.now = end;
        self.poll_server();
    }

    fn arrive(&mut self) {
        while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now) {
            match entry.remove() {
                Flying::ToServer(from, datagram) => {
                    self.bytes.entry(from).or_default()[0] += datagram.len();
                    self.server.arrive(from, &datagram);
                }
                Flying::ToClient(to, datagram) => {
                    if let Some(client) = self.clients.get_mut(&to) {
                        let _ = client.handle_datagram(self.now, datagram[..].into());
                    }
                }
            }
        }
    }

    fn serve_client(&mut self, address: SocketAddr) {
        let now = self.now;
        let client = self.client(address);
        if client.poll_timeout().is_some_and(|at| at <= now) {
            client.handle_timeout(now);
        }
        let mut datagrams = Vec::new();
        transmit(now, client, &mut |datagram| datagrams.push(datagram.to_vec()));
        datagrams.into_iter().for_each(|datagram| self.fly(Direction::ToServer, address, datagram));
    }
}
