//! A client's and a server's session joined in memory, in virtual time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use soe_core::{Action, DatagramOutcome, Endpoint, Message, Session, SessionConfig};

/// How long a datagram is under way.
const HOP: Duration = Duration::from_micros(50);
/// Receive buffers are made for so many bytes and sliced, as a driver does it.
const SLAB: usize = 64 * 1024;
/// Turns of the network within which any of the benchmarks has got on.
const PATIENCE: usize = 10_000;

pub(crate) struct Pair {
    now: Instant,
    pub(crate) client: Session,
    pub(crate) server: Session,
    out: Vec<u8>,
    slab: BytesMut,
}

impl Pair {
    pub(crate) fn connected(config: SessionConfig) -> Self {
        let now = Instant::now();
        let mut endpoint = Endpoint::new(now, config.clone().into(), [7; 16]);
        let from = SocketAddr::from(([192, 0, 2, 1], 20_060));
        let (client, server) = join(now, &mut endpoint, from, config);
        Self { now, client, server, out: Vec::new(), slab: BytesMut::new() }
    }

    /// Sends what both have to send, until `done`, which takes the messages out; time goes on as it has to.
    pub(crate) fn run(&mut self, mut done: impl FnMut(&mut Session, &mut Session) -> bool) {
        for _ in 0..PATIENCE {
            self.now += HOP;
            let mut moved = self.carry(true);
            self.now += HOP;
            moved |= self.carry(false);
            if done(&mut self.client, &mut self.server) {
                return;
            }
            if !moved {
                let due = [&self.client, &self.server].into_iter().filter_map(Session::poll_timeout).min();
                self.now = self.now.max(due.expect("a session that lives has timers"));
            }
            for session in [&mut self.client, &mut self.server] {
                if session.poll_timeout().is_some_and(|due| due <= self.now) {
                    session.handle_timeout(self.now);
                }
            }
        }
        unreachable!("a session gets on without loss");
    }

    /// Everything one side has to send, to the other; says whether that was anything.
    fn carry(&mut self, to_server: bool) -> bool {
        let (from, to) =
            if to_server { (&mut self.client, &mut self.server) } else { (&mut self.server, &mut self.client) };
        let mut moved = false;
        loop {
            self.out.clear();
            let Some(transmit) = from.poll_transmit(self.now, &mut self.out) else { return moved };
            moved = true;
            for datagram in self.out.chunks(transmit.segment_size) {
                if self.slab.capacity() < datagram.len() {
                    self.slab = BytesMut::with_capacity(SLAB);
                }
                self.slab.extend_from_slice(datagram);
                let verdict = to.handle_datagram(self.now, self.slab.split());
                assert!(matches!(verdict, DatagramOutcome::Authentic), "a datagram of the peer is valid");
            }
        }
    }
}

/// Opens a session with an endpoint: the client's end, and the server's.
pub(crate) fn join(
    now: Instant,
    endpoint: &mut Endpoint,
    from: SocketAddr,
    config: SessionConfig,
) -> (Session, Session) {
    let mut client = Session::connect(now, config, 0x1234_5678);
    let mut out = Vec::new();
    for _ in 0..PATIENCE {
        out.clear();
        while client.poll_transmit(now, &mut out).is_some() {
            endpoint.handle_datagram(now, from.into(), out[..].into());
            out.clear();
        }
        while let Some(action) = endpoint.poll_action() {
            match action {
                Action::Open(opened) => return (client, opened.session),
                Action::Send { datagram, .. } => _ = client.handle_datagram(now, datagram[..].into()),
                _ => {}
            }
        }
    }
    unreachable!("an endpoint answers requests");
}

/// Takes all messages that have arrived; gives how many they were.
pub(crate) fn drain(session: &mut Session) -> usize {
    std::iter::from_fn(|| session.recv()).count()
}

/// Takes all messages that have arrived and sends them back; gives how many they were.
pub(crate) fn echo(session: &mut Session) -> usize {
    let mut echoed = 0;
    while let Some(message) = session.recv() {
        send(session, message);
        echoed += 1;
    }
    echoed
}

pub(crate) fn send(session: &mut Session, message: Message) {
    session.send(message).expect("there is room for what is under way at once");
}
