//! Two sessions and an endpoint, over a link in virtual time.

mod channels;
mod life;
mod transfer;

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::{
    Action, ChannelOptions, Dialect, DisconnectReason, Endpoint, Message, Overflow, SendError, SessionConfigBuilder,
};

const MS: Duration = Duration::from_millis(1);
const ID: u32 = 0x1234_5678;

fn config() -> SessionConfigBuilder {
    SessionConfig::builder("Test")
}

/// A client and a server with a fixed delay between them, and a say in which datagrams get through.
struct Link {
    now: Instant,
    client: Session,
    endpoint: Endpoint,
    server: Option<Session>,
    /// To the server, and to the client: when it arrives, and what.
    wires: [VecDeque<(Instant, Vec<u8>)>; 2],
    delay: Duration,
    /// Whether the n-th datagram in this direction is lost.
    lose: fn(to_client: bool, n: u64) -> bool,
    /// How late both ends are served the n-th time: their processor is busy.
    stall: fn(n: u64) -> Duration,
    served: u64,
    sent: [u64; 2],
    events: Vec<Event>,
}

impl Link {
    fn new(client: SessionConfig, server: SessionConfig) -> Self {
        let now = Instant::now();
        Self {
            now,
            client: Session::connect(now, client, ID),
            endpoint: Endpoint::new(now, server.into(), [7; 16]),
            server: None,
            wires: Default::default(),
            delay: 10 * MS,
            lose: |_, _| false,
            stall: |_| Duration::ZERO,
            served: 0,
            sent: [0; 2],
            events: Vec::new(),
        }
    }

    fn connected(client: SessionConfig, server: SessionConfig) -> Self {
        let mut link = Self::new(client, server);
        link.run(100 * MS);
        assert_eq!(link.events, [Event::Connected]);
        assert!(link.server.is_some());
        link
    }

    fn plain() -> Self {
        let config = config().build().unwrap();
        Self::connected(config.clone(), config)
    }

    fn address() -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], 7))
    }

    fn put(&mut self, to_client: bool, datagram: &[u8]) {
        let wire = usize::from(to_client);
        self.sent[wire] += 1;
        if !(self.lose)(to_client, self.sent[wire]) {
            self.wires[wire].push_back((self.now + self.delay, datagram.to_vec()));
        }
    }

    fn flush(&mut self) {
        for to_client in [false, true] {
            loop {
                let mut buf = Vec::new();
                let now = self.now;
                let session = if to_client { self.server.as_mut() } else { Some(&mut self.client) };
                let Some(transmit) = session.and_then(|session| session.poll_transmit(now, &mut buf)) else { break };
                assert_eq!(transmit.size, buf.len());
                for datagram in buf.chunks(transmit.segment_size) {
                    self.put(to_client, datagram);
                }
            }
        }
    }

    fn arrive(&mut self) {
        let now = self.now;
        while let Some((_, datagram)) = self.wires[1].pop_front_if_due(now) {
            let _ = self.client.handle_datagram(now, datagram[..].into());
        }
        while let Some((_, datagram)) = self.wires[0].pop_front_if_due(now) {
            let path = Self::address().into();
            match (&mut self.server, self.endpoint.at(Self::address())) {
                (Some(server), Some(key)) => match server.handle_datagram(now, datagram[..].into()) {
                    DatagramOutcome::Rejected(datagram) | DatagramOutcome::ForEndpoint(datagram) => {
                        self.endpoint.handle_returned(now, path, key, server.last_heard(), datagram);
                    }
                    _ => {}
                },
                _ => self.endpoint.handle_datagram(now, path, datagram[..].into()),
            }
            while let Some(action) = self.endpoint.poll_action() {
                match action {
                    Action::Open(opened) => self.server = Some(opened.session),
                    Action::Send { datagram, .. } => self.put(true, &datagram),
                    _ => {}
                }
            }
        }
        self.events.extend(std::iter::from_fn(|| self.client.poll_event()));
    }

    /// Lets time pass, from one thing that happens to the next.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..1_000_000 {
            self.flush();
            let timers = [self.client.poll_timeout(), self.server.as_ref().and_then(Session::poll_timeout)];
            let arrivals = self.wires.iter().filter_map(|wire| wire.front().map(|(at, _)| *at));
            let next = timers.into_iter().flatten().chain(arrivals).min();
            let Some(next) = next.filter(|&next| next <= end) else {
                self.now = self.now.max(end);
                return;
            };
            self.served += 1;
            self.now = self.now.max(next) + (self.stall)(self.served);
            self.arrive();
            let now = self.now;
            self.client.handle_timeout(now);
            if let Some(server) = &mut self.server {
                server.handle_timeout(now);
            }
        }
        panic!("time stands still");
    }

    fn server(&mut self) -> &mut Session {
        self.server.as_mut().unwrap()
    }

    fn received(&mut self) -> Vec<Bytes> {
        std::iter::from_fn(|| self.server().recv()).map(|message| message.payload).collect()
    }
}

trait PopDue {
    fn pop_front_if_due(&mut self, now: Instant) -> Option<(Instant, Vec<u8>)>;
}

impl PopDue for VecDeque<(Instant, Vec<u8>)> {
    fn pop_front_if_due(&mut self, now: Instant) -> Option<(Instant, Vec<u8>)> {
        self.front().is_some_and(|(at, _)| *at <= now).then(|| self.pop_front()).flatten()
    }
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length).map(|n| (n as u8).wrapping_mul(31).wrapping_add(seed)).collect::<Vec<_>>().into()
}

fn tuned(tune: impl FnOnce(SessionConfigBuilder) -> SessionConfigBuilder) -> Link {
    let config = tune(config()).build().unwrap();
    Link::connected(config.clone(), config)
}
