//! A client, a server and an application on each side, in virtual time. Two worlds with the same seed live the same life,
//! unless something that is not part of it has an effect.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::{
    Admission, Admit, Channel, Closed, DisconnectReason, Event, Framing, Message, ReliableChannel, Session,
    SessionConfig, SessionStats, Verdict, wire::opcode,
};

use crate::rng::Rng;

pub(crate) const STEP: Duration = Duration::from_millis(5);
const DELAY: Duration = Duration::from_millis(20);
pub(crate) const SESSION_ID: u32 = 0x5E55_1041;

/// One of the two sides of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// What an observer of one step sees.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Trace {
    pub(crate) sent: Vec<(usize, Vec<u8>)>,
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
    pub(crate) server: Option<Session>,
    pub(crate) admission: Admission,
    wires: [VecDeque<(Instant, Vec<u8>)>; 2],
    rng: Rng,
    /// Responses to requests that came again, and answers of the admission to what the session gave back.
    pub(crate) provoked: usize,
}

impl World {
    pub(crate) fn new(start: Instant, config: &SessionConfig, script: Script, seed: u64) -> Self {
        Self {
            now: start,
            start,
            script,
            client: Session::connect(start, config.clone(), SESSION_ID),
            server: None,
            admission: Admission::new(start, config.clone().into(), [9; 16]),
            wires: Default::default(),
            rng: Rng::new(seed),
            provoked: 0,
        }
    }

    pub(crate) fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 40_000))
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
        self.arrive();
        let now = self.now;
        for session in [Some(&mut self.client), self.server.as_mut()].into_iter().flatten() {
            session.handle_timeout(now);
        }
        self.run_applications(&mut trace);
        self.flush(&mut trace);
        for (index, session) in [Some(&self.client), self.server.as_ref()].into_iter().enumerate() {
            let Some(session) = session else { continue };
            trace.timers[index] = session.poll_timeout();
            trace.memory[index] = session.memory();
            trace.ended[index] = session.closed().map(plain);
            trace.stats[index] = Some(without_counters(session.stats(now)));
        }
        trace
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn arrive(&mut self) {
        for to_client in [false, true] {
            let side = if to_client { Side::Client } else { Side::Server };
            while let Some(datagram) = self.arrived(to_client) {
                self.inject(side, &datagram);
            }
        }
    }

    fn arrived(&mut self, to_client: bool) -> Option<Vec<u8>> {
        let wire = &mut self.wires[usize::from(to_client)];
        wire.front().filter(|(arrives, _)| *arrives <= self.now)?;
        wire.pop_front().map(|(_, datagram)| datagram)
    }

    /// Gives a datagram to one side, whoever sent it. Returns whether its CRC was right.
    pub(crate) fn inject(&mut self, side: Side, datagram: &[u8]) -> bool {
        let now = self.now;
        if side == Side::Client {
            return self.client.handle_datagram(now, datagram.into()) == Verdict::Authentic;
        }
        let admit = match &mut self.server {
            None => self.admission.handle_datagram(now, Self::address(), datagram.into()),
            Some(server) => match server.handle_datagram(now, datagram.into()) {
                Verdict::Rejected(datagram) | Verdict::Stranger(datagram) => {
                    let admit = self.admission.handle_returned(now, Self::address(), datagram);
                    assert!(!matches!(admit, Admit::Opened(_)), "a stranger has taken the place of a live session");
                    self.answer(true);
                    return false;
                }
                verdict => return verdict == Verdict::Authentic,
            },
        };
        if let Admit::Opened(newcomer) = admit {
            self.server = Some(newcomer.session);
        }
        self.answer(false);
        false
    }

    fn answer(&mut self, provoked: bool) {
        let mut reply = Vec::new();
        while self.admission.poll_transmit(&mut reply).is_some() {
            assert_ne!(reply[..2], [0, opcode::UNKNOWN_SENDER], "a live session's peer was told that it is unknown");
            if provoked {
                self.provoked += 1;
                // It reaches the client, to whom it means nothing; unless the server's session is over, and a stranger asks
                // for the same one again: then it may well learn that.
                let live = self.server.as_ref().is_some_and(|server| server.closed().is_none());
                // The answers to strangers have seeds of their own, and so the chances of a guess.
                let lucky = crate::is_valid(self.framing().as_ref(), &reply);
                if live && !lucky {
                    assert_ne!(self.client.handle_datagram(self.now, reply[..].into()), Verdict::Authentic);
                }
            } else {
                self.wires[1].push_back((self.now + DELAY, reply.clone()));
            }
            reply.clear();
        }
    }

    fn run_applications(&mut self, trace: &mut Trace) {
        let (now, elapsed) = (self.now, self.elapsed());
        let sessions = [Some(&mut self.client), self.server.as_mut()];
        for (index, session) in sessions.into_iter().enumerate() {
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
        let now = self.now;
        for index in [0, 1] {
            loop {
                let mut buffer = Vec::new();
                let session = if index == 0 { Some(&mut self.client) } else { self.server.as_mut() };
                let Some(transmit) = session.and_then(|session| session.poll_transmit(now, &mut buffer)) else { break };
                for datagram in buffer.chunks(transmit.segment_size) {
                    if datagram[..2] == [0, opcode::SESSION_RESPONSE] {
                        self.provoked += 1;
                        continue;
                    }
                    trace.sent.push((index, datagram.to_vec()));
                    self.put(1 - index, datagram);
                }
            }
        }
    }

    fn put(&mut self, to: usize, datagram: &[u8]) {
        let elapsed = self.elapsed();
        let lost = elapsed >= self.script.silence || elapsed < self.script.reachable || self.rng.one_in(30);
        if !lost {
            self.wires[1 - to].push_back((self.now + DELAY, datagram.to_vec()));
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
