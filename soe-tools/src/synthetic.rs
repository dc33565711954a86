//! Captures of simulated sessions: a client and a server of `soe-core` in virtual time, over a link that delays and loses.
//!
//! The capture is made at the client: what it sends is in the capture whether or not it arrives, what is lost on the way
//! back is not. The same [`Plan`] gives the same bytes, so that a capture of any size can be made again instead of stored.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use soe_core::{Action, Channel, ConfigError, Dialect, Endpoint, Message, ReliableChannel, Session, SessionConfig};

use crate::analysis::Direction;
use crate::capture::{Datagram, PcapngWriter};

/// What is simulated.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Plan {
    /// The game family.
    pub dialect: Dialect,
    /// Where the random numbers start.
    pub seed: u64,
    /// Datagrams lost each way, 0 to 1.
    pub loss: f64,
    /// One way, in virtual time.
    pub delay: Duration,
    /// Messages that each side sends every 10 ms.
    pub messages: u32,
    /// The longest message, in bytes.
    pub longest: usize,
    /// Encrypts reliable messages in both directions with this RC4 key, from the first on.
    pub key: Option<Vec<u8>>,
    /// Ends when the capture has this many bytes of UDP payload.
    pub bytes: u64,
}

impl Plan {
    /// A small session of this family over a good link.
    pub fn new(dialect: Dialect) -> Self {
        let delay = Duration::from_millis(20);
        Self { dialect, seed: 1, loss: 0.0, delay, messages: 3, longest: 300, key: None, bytes: 200_000 }
    }
}

/// One message that was delivered to an application of the simulation.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Delivered {
    /// Which way it travelled.
    pub direction: Direction,
    /// The message.
    pub message: Message,
}

/// What one simulation wrote.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Written {
    /// Datagrams in the capture.
    pub datagrams: u64,
    /// Bytes of UDP payload in it.
    pub bytes: u64,
    /// Datagrams that the link lost.
    pub lost: u64,
    /// The reliable messages that arrived, in order per direction and channel, up to the first 10,000.
    pub delivered: Vec<Delivered>,
}

const STEP: Duration = Duration::from_millis(10);
const MAX_DELIVERED: usize = 10_000;
/// 2026-01-01, in nanoseconds since 1970.
const EPOCH: u64 = 1_767_225_600_000_000_000;

/// Simulates a session from `client` to `server` and writes what the client's network card sees.
///
/// # Errors
///
/// Those of the writer, and a dialect that is not valid as [`io::ErrorKind::InvalidInput`].
pub fn write<W: Write>(
    plan: &Plan,
    client: SocketAddr,
    server: SocketAddr,
    writer: &mut PcapngWriter<W>,
) -> io::Result<Written> {
    let mut world =
        World::new(plan, client, server).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    if let Some(key) = &plan.key {
        let id = world.client.session_id();
        let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        writer.secrets(&format!("SOE_KEY {id:08x} to-server 0 rc4 {key}\nSOE_KEY {id:08x} to-client 0 rc4 {key}\n"))?;
    }
    while world.written.bytes < plan.bytes {
        world.step(plan, writer)?;
    }
    world.client.close(world.now, soe_core::DisconnectReason::Application);
    for _ in 0..100 {
        world.deliver(plan, writer)?;
    }
    Ok(world.written)
}

/// A datagram under way: when it arrives, its number, whether it is for the client, and its bytes.
type UnderWay = (Instant, u64, bool, Vec<u8>);

struct World {
    start: Instant,
    now: Instant,
    random: u64,
    addresses: [SocketAddr; 2],
    client: Session,
    endpoint: Endpoint,
    server: Option<Session>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sent: u64,
    /// To the server, to the client.
    last_arrivals: [Instant; 2],
    buf: Vec<u8>,
    written: Written,
}

impl World {
    fn new(plan: &Plan, client: SocketAddr, server: SocketAddr) -> Result<Self, ConfigError> {
        let start = Instant::now();
        let config = SessionConfig::with_dialect(plan.dialect.clone()).protocol_name("Synthetic_1".into()).build()?;
        let mut session = Session::connect(start, config.clone(), (plan.seed as u32).wrapping_mul(0x9E37_79B9) | 1);
        if let Some(key) = &plan.key {
            let _ = session.set_send_key(Some(key)).and_then(|()| session.set_recv_key(Some(key)));
        }
        Ok(Self {
            start,
            now: start,
            random: plan.seed,
            addresses: [client, server],
            client: session,
            endpoint: Endpoint::new(start, config.into(), [plan.seed as u8; 16]),
            server: None,
            under_way: BinaryHeap::new(),
            sent: 0,
            last_arrivals: [start; 2],
            buf: Vec::new(),
            written: Written::default(),
        })
    }

    fn random(&mut self, below: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^= mixed >> 27;
        (mixed >> 11) as usize % below.max(1)
    }

    fn step<W: Write>(&mut self, plan: &Plan, writer: &mut PcapngWriter<W>) -> io::Result<()> {
        for _ in 0..plan.messages {
            for is_client in [true, false] {
                let (length, filler) = (1 + self.random(plan.longest), self.random(256) as u8);
                let mut payload: Vec<u8> = (0..length).map(|at| filler.wrapping_add((at / 8) as u8)).collect();
                payload[0] |= 1;
                let channel = match self.random(12) {
                    0 if length <= 200 => Channel::Unreliable,
                    1 if length <= 200 => Channel::Ordered,
                    2 => ReliableChannel::ONE.into(),
                    _ => Channel::default(),
                };
                let session = if is_client { Some(&mut self.client) } else { self.server.as_mut() };
                if let Some(session) = session.filter(|session| session.is_connected()) {
                    // What does not fit is not sent: the simulation keeps no queue.
                    let _ = session.send(Message::new(channel, payload));
                }
            }
        }
        self.deliver(plan, writer)
    }

    /// Ten milliseconds of the network.
    fn deliver<W: Write>(&mut self, plan: &Plan, writer: &mut PcapngWriter<W>) -> io::Result<()> {
        let until = self.now + STEP;
        loop {
            self.transmit(plan, writer)?;
            let arrival = self.under_way.peek().map(|Reverse((time, ..))| *time);
            let timers = [self.client.poll_timeout(), self.server.as_ref().and_then(Session::poll_timeout)];
            let next = timers.into_iter().flatten().chain(arrival).min().map_or(until, |next| next.max(self.now));
            if next >= until {
                self.now = until;
                return Ok(());
            }
            self.now = next;
            for session in [Some(&mut self.client), self.server.as_mut()].into_iter().flatten() {
                if session.poll_timeout().is_some_and(|at| at <= next) {
                    session.handle_timeout(next);
                }
            }
            while self.under_way.peek().is_some_and(|Reverse((time, ..))| *time <= next) {
                if let Some(Reverse((_, _, to_client, bytes))) = self.under_way.pop() {
                    self.arrive(plan, to_client, &bytes, writer)?;
                }
            }
        }
    }

    fn arrive<W: Write>(
        &mut self,
        plan: &Plan,
        to_client: bool,
        bytes: &[u8],
        writer: &mut PcapngWriter<W>,
    ) -> io::Result<()> {
        if to_client {
            self.record(Direction::ToClient, bytes, writer)?;
            let _ = self.client.handle_datagram(self.now, bytes.into());
        } else if let Some(server) = &mut self.server {
            let _ = server.handle_datagram(self.now, bytes.into());
        } else {
            self.endpoint.handle_datagram(self.now, self.addresses[0].into(), bytes.into());
            self.act(plan);
        }
        let sides = [(Direction::ToClient, Some(&mut self.client)), (Direction::ToServer, self.server.as_mut())];
        for (direction, session) in sides {
            let Some(session) = session else { continue };
            while session.poll_event().is_some() {}
            while let Some(message) = session.recv() {
                if message.channel.is_reliable() && self.written.delivered.len() < MAX_DELIVERED {
                    self.written.delivered.push(Delivered { direction, message });
                }
            }
        }
        Ok(())
    }

    /// Does what the endpoint wants done.
    fn act(&mut self, plan: &Plan) {
        while let Some(action) = self.endpoint.poll_action() {
            match action {
                Action::Open(opened) => {
                    let mut session = opened.session;
                    if let Some(key) = &plan.key {
                        let _ = session.set_send_key(Some(key)).and_then(|()| session.set_recv_key(Some(key)));
                    }
                    self.server = Some(session);
                }
                Action::Send { datagram, .. } => self.travel(plan, true, &datagram),
                _ => {}
            }
        }
    }

    fn transmit<W: Write>(&mut self, plan: &Plan, writer: &mut PcapngWriter<W>) -> io::Result<()> {
        let mut buf = std::mem::take(&mut self.buf);
        buf.clear();
        while let Some(transmit) = self.client.poll_transmit(self.now, &mut buf) {
            for datagram in buf.chunks(transmit.segment_size) {
                self.record(Direction::ToServer, datagram, writer)?;
                self.travel(plan, false, datagram);
            }
            buf.clear();
        }
        while let Some(transmit) = self.server.as_mut().and_then(|server| server.poll_transmit(self.now, &mut buf)) {
            for datagram in buf.chunks(transmit.segment_size) {
                self.travel(plan, true, datagram);
            }
            buf.clear();
        }
        self.buf = buf;
        Ok(())
    }

    fn travel(&mut self, plan: &Plan, to_client: bool, datagram: &[u8]) {
        if (self.random(1_000_000) as f64) < plan.loss * 1e6 {
            self.written.lost += 1;
            return;
        }
        self.sent += 1;
        // A microsecond behind the one before it: the link keeps the order.
        let last = &mut self.last_arrivals[usize::from(to_client)];
        let arrival = (self.now + plan.delay).max(*last + Duration::from_micros(1));
        *last = arrival;
        self.under_way.push(Reverse((arrival, self.sent, to_client, datagram.to_vec())));
    }

    fn record<W: Write>(
        &mut self,
        direction: Direction,
        payload: &[u8],
        writer: &mut PcapngWriter<W>,
    ) -> io::Result<()> {
        let [client, server] = self.addresses;
        let (from, to) = if direction == Direction::ToServer { (client, server) } else { (server, client) };
        let time = EPOCH + self.now.duration_since(self.start).as_nanos() as u64;
        self.written.datagrams += 1;
        self.written.bytes += payload.len() as u64;
        writer.datagram(&Datagram::new(time, from, to, payload))
    }
}
