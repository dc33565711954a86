//! A client, a server and an application on each side, in virtual time. Two worlds with the same seed live the same life,
//! unless something that is not part of it has an effect.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::{
    AdmissionConfig, Channel, Closed, DatagramOutcome, DisconnectReason, Event, Framing, Message, ReliableChannel,
    Session, SessionConfig, SessionStats, wire::opcode,
};

use crate::{
    rng::Rng,
    server::{Server, transmit},
};

pub(crate) const STEP: Duration = Duration::from_millis(5);
const DELAY: Duration = Duration::from_millis(20);
pub(crate) const SESSION_ID: u32 = 0x5E55_1041;

/// One of the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What the server is doing besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Situation {
    /// The application has accepted the session.
    Accepted,
    /// The session waits to be accepted, and the queue is full.
    Queued,
    /// The server has one place, and the session has it.
    Full,
    /// The client's port changes again and again, back to the first one at last.
    Moving,
    /// The server takes no new sessions any more, from one second on.
    Closing,
}

/// When a moving client's port changes.
const MOVES: [(Duration, u16); 4] = [
    (Duration::from_millis(1_500), 1),
    (Duration::from_millis(2_000), 2),
    (Duration::from_millis(2_700), 1),
    (Duration::from_millis(3_300), 0),
];
/// A session that has heard nothing for this long is asked for a sign of life if somebody else sends from its address.
const SILENT: Duration = Duration::from_secs(1);

/// What an observer of one step sees.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Trace {
    pub(crate) sent: Vec<(usize, Vec<u8>)>,
    /// Where the server's datagrams went.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) events: Vec<(usize, Event)>,
    pub(crate) delivered: Vec<(usize, Message)>,
    pub(crate) timers: [Option<Instant>; 2],
    pub(crate) memory: [usize; 2],
    pub(crate) ended: [Option<Closed>; 2],
    pub(crate) stats: [Option<SessionStats>; 2],
}

/// When what happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// The server hears nothing before.
    pub(crate) reachable: Duration,
    /// The client closes, in the midst of traffic.
    pub(crate) close: Duration,
    /// Nothing gets through any more, either way.
    pub(crate) silence: Duration,
    pub(crate) end: Duration,
}

pub(crate) struct World {
    pub(crate) now: Instant,
    start: Instant,
    script: Script,
    pub(crate) client: Session,
    pub(crate) server: Server<Session>,
    situation: Situation,
    /// Where the client is.
    address: SocketAddr,
    /// What is under way to the server, and from where, and to the client.
    wires: [VecDeque<(Instant, SocketAddr, Vec<u8>)>; 2],
    rng: Rng,
    /// Datagrams that strangers have made the server send.
    pub(crate) provoked: usize,
    /// Those of them that asked a silent session's client for a sign of life, and that told whoever is there that it is
    /// unknown.
    pub(crate) probes: usize,
    pub(crate) told: usize,
}

impl World {
    pub(crate) fn new(start: Instant, config: &SessionConfig, script: Script, seed: u64) -> Self {
        Self::in_situation(start, config, script, Situation::Accepted, seed)
    }

    pub(crate) fn in_situation(
        start: Instant,
        config: &SessionConfig,
        script: Script,
        situation: Situation,
        seed: u64,
    ) -> Self {
        let few = if situation == Situation::Accepted { 1_000 } else { 1 };
        // Rates are limits of their own, with tests of their own.
        let admission = AdmissionConfig::builder(config.clone())
            .max_sessions(if situation == Situation::Full { 1 } else { 1_000 })
            .accept_backlog(few)
            .unknown_sender_rate(1_000_000)
            .unknown_sender_rate_per_prefix(1_000_000);
        let mut server = Server::plain(start, admission.build().expect("valid"), [9; 16]);
        server.accepts = situation != Situation::Queued;
        Self {
            now: start,
            start,
            script,
            client: Session::connect(start, config.clone(), SESSION_ID),
            server,
            situation,
            address: Self::address(),
            wires: Default::default(),
            rng: Rng::new(seed),
            provoked: 0,
            probes: 0,
            told: 0,
        }
    }

    pub(crate) fn address() -> SocketAddr {
        Self::port(0)
    }

    fn port(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 40_000 + n))
    }

    /// An address that strangers send from: the client's, of now, before, or later.
    pub(crate) fn some_address(&self, rng: &mut Rng) -> SocketAddr {
        match self.situation {
            Situation::Moving => Self::port(rng.below(3) as u16),
            _ => Self::address(),
        }
    }

    /// The server's end of the client's session.
    pub(crate) fn session(&self) -> Option<&Session> {
        self.server.all().map(|peer| &peer.resident).find(|session| session.session_id() == SESSION_ID)
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        let key = self.server.all().find(|peer| peer.resident.session_id() == SESSION_ID)?.key;
        self.server.peer_mut(key).map(|peer| &mut peer.resident)
    }

    /// Whether the server has heard nothing for so long that it asks, if somebody else sends from there.
    pub(crate) fn is_silent(&self) -> bool {
        self.session().is_some_and(|session| self.now.saturating_duration_since(session.last_heard()) >= SILENT)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.now >= self.start + self.script.end
    }

    /// What checks datagrams of this session, once there is one.
    pub(crate) fn framing(&self) -> Option<Framing> {
        // The client has the seed first.
        let (seed, config) = (self.client.crc_seed(), self.client.config());
        if seed == 0 {
            return None;
        }
        let passes = config.passes.map(u8::from);
        Framing::new(seed, config.crc_length, passes, &config.dialect.codecs).ok()
    }

    /// Lets one step of time pass.
    pub(crate) fn step(&mut self) -> Trace {
        self.now += STEP;
        let mut trace = Trace::default();
        self.take_place();
        self.arrive();
        let now = self.now;
        self.server.run(now);
        self.client.handle_timeout(now);
        self.run_applications(&mut trace);
        self.flush(&mut trace);
        for (index, session) in [Some(&self.client), self.session()].into_iter().enumerate() {
            let Some(session) = session else { continue };
            trace.timers[index] = session.poll_timeout();
            trace.memory[index] = session.memory();
            trace.ended[index] = session.closed().map(plain);
            trace.stats[index] = Some(without_counters(session.stats(now)));
        }
        trace
    }

    /// Sees to the situation.
    fn take_place(&mut self) {
        let (elapsed, now) = (self.elapsed(), self.now);
        if self.situation == Situation::Moving
            && let Some((_, port)) = MOVES.iter().rev().find(|(at, _)| *at <= elapsed)
        {
            self.address = Self::port(*port);
        }
        if self.situation == Situation::Closing && elapsed >= SILENT {
            self.server.close(now);
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn arrive(&mut self) {
        while let Some((from, datagram)) = self.arrived(false) {
            self.server.arrive(from, &datagram);
        }
        while let Some((to, datagram)) = self.arrived(true) {
            if to == self.address {
                let _ = self.client.handle_datagram(self.now, datagram[..].into());
            }
        }
    }

    fn arrived(&mut self, to_client: bool) -> Option<(SocketAddr, Vec<u8>)> {
        let wire = &mut self.wires[usize::from(to_client)];
        wire.front().filter(|(arrives, ..)| *arrives <= self.now)?;
        wire.pop_front().map(|(_, address, datagram)| (address, datagram))
    }

    /// Gives a stranger's datagram to one side, in the name of this address if it is the server. Returns whether the client
    /// took it for authentic.
    pub(crate) fn inject(&mut self, side: Side, from: SocketAddr, datagram: &[u8]) -> bool {
        let now = self.now;
        if side == Side::Client {
            return self.client.handle_datagram(now, datagram.into()) == DatagramOutcome::Authentic;
        }
        let authentic = self.session().map(|session| session.stats(now).datagrams_authentic);
        let (live, silent) = (self.session().is_some_and(|session| session.closed().is_none()), self.is_silent());
        self.server.handle(now, from, datagram);
        assert_eq!(self.session().map(|session| session.stats(now).datagrams_authentic), authentic, "{datagram:x?}");
        let stats = self.server.endpoint.stats();
        assert!(!live || stats.replaced == 0, "a stranger has taken the place of a live session");
        for (path, reply) in std::mem::take(&mut self.server.sent) {
            self.provoked += 1;
            let is_here =
                live && self.server.at(path.remote).is_some_and(|peer| peer.resident.session_id() == SESSION_ID);
            match reply[..2] {
                [0, opcode::UNKNOWN_SENDER] => {
                    assert!(!is_here || silent, "a live session's peer was told that it is unknown");
                    self.told += usize::from(is_here);
                }
                [0, opcode::NET_STATUS_REQUEST] if silent => self.probes += 1,
                // It reaches the client, to whom it means nothing; unless the server's session is over, and a stranger asks for
                // the same one again: then it may well learn that. The answers to strangers have seeds of their own, and so
                // the chances of a guess.
                _ if live && !crate::is_valid(self.framing().as_ref(), &reply) => {
                    assert_ne!(self.client.handle_datagram(now, reply[..].into()), DatagramOutcome::Authentic);
                }
                _ => {}
            }
        }
        false
    }

    fn run_applications(&mut self, trace: &mut Trace) {
        let (now, elapsed) = (self.now, self.elapsed());
        let key = self.server.all().find(|peer| peer.resident.session_id() == SESSION_ID).map(|peer| peer.key);
        let there = key.and_then(|key| self.server.peer_mut(key)).map(|peer| &mut peer.resident);
        for (index, session) in [Some(&mut self.client), there].into_iter().enumerate() {
            let Some(session) = session else { continue };
            trace.events.extend(std::iter::from_fn(|| session.poll_event()).map(|event| (index, plain_event(event))));
            trace.delivered.extend(std::iter::from_fn(|| session.recv()).map(|message| (index, message)));
            if self.rng.one_in(4) {
                let most = if self.rng.one_in(50) { 20_000 } else { 300 };
                let length = 1 + self.rng.below(most);
                let channel = match self.rng.below(8) {
                    0 => Channel::Unreliable,
                    1 => Channel::Ordered,
                    2 => Channel::Reliable(ReliableChannel::THREE),
                    _ => Channel::default(),
                };
                let payload: Vec<u8> = (0..length).map(|n| (n / 7) as u8).collect();
                // Refusals are part of the life: before the response, over the buffer, after the end.
                let _ = session.send(Message::new(channel, payload));
            }
            if index == 0 && elapsed >= self.script.close {
                session.close(now, DisconnectReason::Application);
            }
        }
    }

    fn flush(&mut self, trace: &mut Trace) {
        let (now, from) = (self.now, self.address);
        let mut sent = Vec::new();
        transmit(now, &mut self.client, &mut |datagram| sent.push(datagram.to_vec()));
        for datagram in sent {
            trace.sent.push((0, datagram.clone()));
            self.put(0, from, datagram);
        }
        let key = self.server.all().find(|peer| peer.resident.session_id() == SESSION_ID).map(|peer| peer.key);
        key.into_iter().for_each(|key| self.server.touch(key));
        self.server.run(now);
        for (path, datagram) in std::mem::take(&mut self.server.sent) {
            trace.sent.push((1, datagram.clone()));
            trace.addresses.push(path.remote);
            self.put(1, path.remote, datagram);
        }
    }

    fn put(&mut self, wire: usize, address: SocketAddr, datagram: Vec<u8>) {
        let elapsed = self.elapsed();
        let lost = elapsed >= self.script.silence || elapsed < self.script.reachable || self.rng.one_in(30);
        if !lost {
            self.wires[wire].push_back((self.now + DELAY, address, datagram));
        }
    }
}

/// An ending as it would be without a stranger's requests: they give nobody's silence another name, no more.
fn plain(mut closed: Closed) -> Closed {
    if let DisconnectReason::ConnectingToSelf | DisconnectReason::ConnectError = closed.reason {
        closed.reason = DisconnectReason::ConnectFail;
    }
    closed
}

fn plain_event(event: Event) -> Event {
    if let Event::Closed(closed) = event { Event::Closed(plain(closed)) } else { event }
}

/// Statistics without the counters that anybody may move.
fn without_counters(mut stats: SessionStats) -> SessionStats {
    stats.datagrams_received = 0;
    stats.bytes_received = 0;
    stats.crc_rejects = 0;
    stats.ignored = 0;
    stats.unknown_sender = 0;
    // Answers to requests that came again.
    stats.datagrams_sent = 0;
    stats.bytes_sent = 0;
    stats
}
