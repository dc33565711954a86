//! Two sessions in virtual time, and a link about which the test decides.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use soe_core::{
    Action, AdmissionConfig, Answer, DatagramOutcome, Dialect, Endpoint, Event, Framing, Message, Path, Session,
    SessionConfig, SessionConfigBuilder,
};

pub(crate) const MS: Duration = Duration::from_millis(1);
pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const ID: u32 = 0x1234_5678;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum To {
    Server,
    Client,
}

/// When a datagram arrives, after so long, or not at all: whither it goes, when it left, and what it says.
pub(crate) type Fate = Box<dyn FnMut(To, Instant, &[u8]) -> Option<Duration>>;

pub(crate) fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Test")
}

pub(crate) fn plain() -> SessionConfig {
    config().build().unwrap()
}

pub(crate) fn address() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 7))
}

pub(crate) fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed) | 1).collect::<Vec<_>>().into()
}

pub(crate) fn endpoint(now: Instant, session: SessionConfig) -> Endpoint {
    Endpoint::new(now, AdmissionConfig::from(session), [7; 16])
}

/// Gives a server a datagram from an address without a session. Returns the session that it opens, and what it answers.
pub(crate) fn knock(endpoint: &mut Endpoint, now: Instant, datagram: &[u8]) -> (Option<Session>, Vec<Vec<u8>>) {
    let (mut session, mut replies) = (None, Vec::new());
    endpoint.handle_datagram(now, Path::from(address()), datagram.into());
    while let Some(action) = endpoint.poll_action() {
        match action {
            Action::Send { datagram, .. } => replies.push(datagram),
            Action::Open(opened) => session = Some(opened.session),
            Action::Ask(question) => {
                let answer: Answer = question.answer();
                endpoint.handle_answer(now, answer);
            }
            _ => {}
        }
    }
    (session, replies)
}

/// Every datagram arrives after this long.
pub(crate) fn delay(delay: Duration) -> Fate {
    Box::new(move |_, _, _| Some(delay))
}

pub(crate) struct Link {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) client: Session,
    pub(crate) server: Option<Session>,
    endpoint: Endpoint,
    pub(crate) fate: Fate,
    pub(crate) server_reads: bool,
    pub(crate) received: Vec<Message>,
    /// What the client has reported, and when.
    pub(crate) events: Vec<(Duration, Event)>,
    pub(crate) server_events: Vec<(Duration, Event)>,
    /// Datagrams that have left for the server and for the client.
    pub(crate) sent: [Vec<Vec<u8>>; 2],
    wire: BTreeMap<(Instant, u64), (To, Vec<u8>)>,
    order: u64,
}

impl Link {
    pub(crate) fn new(client: SessionConfig, server: SessionConfig, fate: Fate) -> Self {
        let now = Instant::now();
        Self {
            start: now,
            now,
            client: Session::connect(now, client, ID),
            server: None,
            endpoint: endpoint(now, server),
            fate,
            server_reads: true,
            received: Vec::new(),
            events: Vec::new(),
            server_events: Vec::new(),
            sent: [Vec::new(), Vec::new()],
            wire: BTreeMap::new(),
            order: 0,
        }
    }

    /// A session that is open, and has been for two seconds.
    pub(crate) fn connected(client: SessionConfig, server: SessionConfig, fate: Fate) -> Self {
        let mut link = Self::new(client, server, fate);
        link.run(2 * SECOND);
        assert!(link.client.is_connected() && link.server.is_some());
        link
    }

    pub(crate) fn plain() -> Self {
        Self::connected(plain(), plain(), delay(10 * MS))
    }

    /// The server forgets everything, as after a restart.
    pub(crate) fn restart_server(&mut self) {
        (self.server, self.endpoint) = (None, endpoint(self.now, plain()));
    }

    pub(crate) fn server(&mut self) -> &mut Session {
        self.server.as_mut().unwrap()
    }

    /// The framing of the session as its client has it.
    pub(crate) fn framing(&self) -> Framing {
        let crc = self.client.config().crc_length;
        Dialect::version3().framing(self.client.crc_seed(), crc, [0, 0]).unwrap()
    }

    pub(crate) fn sealed(&self, packet: &[u8]) -> BytesMut {
        let mut datagram = packet.to_vec();
        self.framing().seal(&mut datagram, 0);
        datagram[..].into()
    }

    fn put(&mut self, to: To, datagram: &[u8]) {
        self.sent[to as usize].push(datagram.to_vec());
        if let Some(delay) = (self.fate)(to, self.now, datagram) {
            self.order += 1;
            self.wire.insert((self.now + delay, self.order), (to, datagram.to_vec()));
        }
    }

    /// Sends what is to leave.
    pub(crate) fn flush(&mut self) {
        for to in [To::Server, To::Client] {
            let mut buf = Vec::new();
            let now = self.now;
            loop {
                let session = if to == To::Client { self.server.as_mut() } else { Some(&mut self.client) };
                let Some(transmit) = session.and_then(|session| session.poll_transmit(now, &mut buf)) else { break };
                for datagram in std::mem::take(&mut buf).chunks(transmit.segment_size) {
                    self.put(to, datagram);
                }
            }
        }
    }

    /// Takes messages and events.
    pub(crate) fn take(&mut self) {
        while self.client.recv().is_some() {}
        let at = self.now - self.start;
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()).map(|event| (at, event)));
        let Some(server) = &mut self.server else { return };
        if self.server_reads {
            self.received.extend(std::iter::from_fn(|| server.recv()));
        }
        self.server_events.extend(std::iter::from_fn(|| server.poll_event()).map(|event| (at, event)));
    }

    /// Delivers what has arrived by now.
    pub(crate) fn arrive(&mut self) {
        while let Some(((at, _), _)) = self.wire.first_key_value()
            && *at <= self.now
        {
            let Some((_, (to, datagram))) = self.wire.pop_first() else { break };
            match to {
                To::Client => _ = self.client.handle_datagram(self.now, datagram[..].into()),
                To::Server => self.arrive_at_server(&datagram),
            }
        }
    }

    fn arrive_at_server(&mut self, datagram: &[u8]) {
        let now = self.now;
        if let Some(server) = &mut self.server {
            let _: DatagramOutcome = server.handle_datagram(now, datagram.into());
            return;
        }
        let (session, replies) = knock(&mut self.endpoint, now, datagram);
        self.server = session;
        for reply in replies {
            self.put(To::Client, &reply);
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        let server = self.server.as_ref().and_then(Session::poll_timeout);
        let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
        [self.client.poll_timeout(), server, arrival].into_iter().flatten().min()
    }

    /// Lets time pass, from one thing that happens to the next: first what arrives, then timers, then what leaves.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..50_000_000 {
            self.take();
            self.flush();
            let Some(next) = self.next().filter(|next| *next <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(next);
            self.arrive();
            self.drive();
        }
        panic!("time stands still");
    }

    /// Calls the timers of both sides.
    pub(crate) fn drive(&mut self) {
        let now = self.now;
        self.client.handle_timeout(now);
        if let Some(server) = &mut self.server {
            server.handle_timeout(now);
        }
    }

    pub(crate) fn delivered(&self) -> usize {
        self.events.iter().filter(|(_, event)| matches!(event, Event::Delivered(_))).count()
    }
}

/// Numbers that look random, the same ones each time.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// True for this share of the calls.
    pub(crate) fn chance(&mut self, share: f64) -> bool {
        ((self.next() >> 11) as f64 / (1u64 << 53) as f64) < share
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
