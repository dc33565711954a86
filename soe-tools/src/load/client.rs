//! One client: a socket, a session, and the times at which its messages are due.

use std::{
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use mio::{Interest, Registry, Token, net::UdpSocket};
use soe_core::{Closed, DisconnectReason, Event, Message, Session};

use super::{
    LoadConfig, LoadReport,
    budget::Budget,
    payload::{self, Numbers},
};
use crate::{link::mix, sockets::is_about_a_peer};

/// What all clients of a thread share.
pub(super) struct Plan<'a> {
    pub(super) config: &'a LoadConfig,
    /// Where the times in messages begin.
    pub(super) start: Instant,
    /// After this no message is due.
    pub(super) end: Instant,
    /// Decides secrets and phases.
    pub(super) secret: u64,
}

/// Memory counts here: there are thousands, and most wait.
pub(super) struct Client {
    socket: UdpSocket,
    session: Session,
    /// When its handshake was due.
    started: Instant,
    /// When its first message is due; `None` before it is connected.
    first_due: Option<Instant>,
    /// The number of its next message, which is also how many it has sent.
    next: u32,
    /// Messages that came back whole.
    echoed: u32,
    numbers: Numbers,
    secret: u64,
    /// The transport had no room at the last try.
    is_blocked: bool,
    is_connected: bool,
    is_closing: bool,
    /// How it ended has been counted.
    is_over: bool,
    /// When the loop has been told to come back.
    pub(super) armed: Option<Instant>,
}

/// Buffers of a thread.
pub(super) struct Scratch {
    pub(super) datagram: Vec<u8>,
    pub(super) out: Vec<u8>,
}

impl Client {
    /// Opens a socket and asks for a session.
    pub(super) fn open(
        plan: &Plan<'_>,
        now: Instant,
        due: Instant,
        number: usize,
        index: usize,
        registry: &Registry,
    ) -> io::Result<Self> {
        let target = plan.config.target;
        let mut socket = UdpSocket::bind(local_address(target))?;
        socket.connect(target)?;
        registry.register(&mut socket, Token(index), Interest::READABLE)?;
        let secret = mix(plan.secret ^ number as u64);
        let session = Session::connect(now, plan.config.session.clone(), mix(secret) as u32);
        Ok(Self {
            socket,
            session,
            started: due,
            first_due: None,
            next: 0,
            echoed: 0,
            numbers: Numbers::default(),
            secret,
            is_blocked: false,
            is_connected: false,
            is_closing: false,
            is_over: false,
            armed: None,
        })
    }

    /// Takes what has arrived, up to a batch. Returns whether there may be more.
    pub(super) fn receive(&mut self, now: Instant, scratch: &mut Scratch) -> io::Result<bool> {
        for _ in 0..BATCH {
            match self.socket.recv(&mut scratch.datagram) {
                // Whatever it is, the session counts it.
                Ok(length) => drop(self.session.handle_datagram(now, BytesMut::from(&scratch.datagram[..length]))),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if is_about_a_peer(&error) => self.session.handle_unreachable(now),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Does everything that is due, as far as the budget goes.
    pub(super) fn drive(
        &mut self,
        plan: &Plan<'_>,
        now: Instant,
        budget: &mut Budget,
        report: &mut LoadReport,
        scratch: &mut Scratch,
    ) -> io::Result<()> {
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.session.handle_timeout(now);
        }
        while let Some(message) = self.session.recv() {
            self.take(plan, now, &message, report);
        }
        self.take_events(plan, now, report);
        self.send_due(plan, now, budget, report);
        loop {
            self.transmit(now, scratch)?;
            // What has left may have been the last, and its ending has something to say.
            if !self.take_events(plan, now, report) {
                return Ok(());
            }
        }
    }

    /// Returns whether there were any.
    fn take_events(&mut self, plan: &Plan<'_>, now: Instant, report: &mut LoadReport) -> bool {
        let mut is_any = false;
        while let Some(event) = self.session.poll_event() {
            is_any = true;
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    report.connected += 1;
                    report.connect.record(now - self.started);
                    // Each at a moment of its own, so that the clients do not send in step.
                    let phase = (mix(self.secret) >> 11) as f64 / (1_u64 << 53) as f64;
                    self.first_due = interval(plan.config).map(|interval| now + interval.mul_f64(phase));
                }
                Event::Closed(closed) => self.count_end(closed, report),
                _ => {}
            }
        }
        is_any
    }

    fn take(&mut self, plan: &Plan<'_>, now: Instant, message: &Message, report: &mut LoadReport) {
        let Some(echo) = payload::verify(self.secret, &message.payload).filter(|echo| echo.number < self.next) else {
            report.wrong += 1;
            return;
        };
        if !self.numbers.insert(echo.number) {
            report.repeated += 1;
            return;
        }
        self.echoed += 1;
        report.echoed += 1;
        report.bytes += message.payload.len() as u64;
        report.rtt.record(now.saturating_duration_since(plan.start + echo.due));
    }

    /// Sends what is due by the schedule, however late: the messages keep the times at which they were due.
    fn send_due(&mut self, plan: &Plan<'_>, now: Instant, budget: &mut Budget, report: &mut LoadReport) {
        let config = plan.config;
        while budget.has_room()
            && let Some(due) = self.next_due(plan).filter(|due| *due <= now)
        {
            let (number, index) = (self.next, self.next as usize);
            let size = config.sizes[index % config.sizes.len()];
            let channel = config.channels[index % config.channels.len()];
            let bytes = payload::message(self.secret, number, due - plan.start, size);
            match self.session.send(Message::new(channel, bytes)) {
                Ok(()) => {
                    self.next += 1;
                    budget.spend();
                    report.sent += 1;
                    report.lag.record(now - due);
                    self.is_blocked = false;
                }
                // No room, or the end of the session, of which an event tells.
                Err(_) => {
                    self.is_blocked = true;
                    return;
                }
            }
        }
    }

    fn transmit(&mut self, now: Instant, scratch: &mut Scratch) -> io::Result<()> {
        loop {
            scratch.out.clear();
            let Some(transmit) = self.session.poll_transmit(now, &mut scratch.out) else { return Ok(()) };
            for datagram in scratch.out.chunks(transmit.segment_size.max(1)) {
                match self.socket.send(datagram) {
                    Ok(_) => {}
                    // A full socket loses the datagram, as a network would; the transport sends it again if it matters.
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) if is_about_a_peer(&error) => self.session.handle_unreachable(now),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    /// When the next message is due; `None` if no more are.
    fn next_due(&self, plan: &Plan<'_>) -> Option<Instant> {
        let interval = interval(plan.config)?;
        let due = self.first_due? + interval.mul_f64(f64::from(self.next));
        (!self.is_closing && !self.is_over && due < plan.end).then_some(due)
    }

    /// When [`drive`](Self::drive) has something to do, apart from what arrives.
    pub(super) fn wake_at(&self, plan: &Plan<'_>) -> Option<Instant> {
        // A blocked client goes on when an acknowledgement arrives.
        let due = self.next_due(plan).filter(|_| !self.is_blocked);
        [due, self.session.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether every message that was due has been sent and has come back.
    pub(super) fn is_answered(&self, plan: &Plan<'_>) -> bool {
        self.is_over || (self.is_connected && self.next_due(plan).is_none() && self.echoed >= self.next)
    }

    /// Ends the session gracefully.
    pub(super) fn close(&mut self, now: Instant) {
        self.is_closing = true;
        self.session.close(now, DisconnectReason::Application);
    }

    /// Whether the session is over.
    pub(super) fn is_closed(&self) -> bool {
        self.is_over
    }

    /// How many messages were due until `until`.
    pub(super) fn due(&self, plan: &Plan<'_>, until: Instant) -> u64 {
        let (Some(first), Some(interval)) = (self.first_due, interval(plan.config)) else { return 0 };
        let until = until.min(plan.end);
        if until <= first {
            return u64::from(self.next);
        }
        let due = ((until - first).as_secs_f64() / interval.as_secs_f64()).ceil() as u64;
        due.max(u64::from(self.next))
    }

    fn count_end(&mut self, closed: Closed, report: &mut LoadReport) {
        self.is_over = true;
        let reasons = match (self.is_connected, self.is_closing) {
            (true, true) => return,
            (true, false) => &mut report.ended_early,
            (false, _) => &mut report.refused,
        };
        *reasons.entry(closed.to_string()).or_default() += 1;
    }
}

/// Between two messages of a client; `None` if it sends none.
fn interval(config: &LoadConfig) -> Option<Duration> {
    (config.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / config.rate))
}

/// Where a socket towards the target is bound.
fn local_address(target: SocketAddr) -> SocketAddr {
    let ip = match target.ip() {
        ip if ip.is_loopback() => ip,
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    SocketAddr::new(ip, 0)
}

/// Datagrams that are taken before other clients are served.
const BATCH: usize = 32;
