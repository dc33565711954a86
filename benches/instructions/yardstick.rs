//! The same work as in `sessions` by the crate `soe-protocol`: its state machine, in virtual time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use soe_protocol::{SessionParameters, SocketConfig, SocketEvent, SoeMultiplexer};

type Core = SoeMultiplexer<SocketAddr>;

/// How long a datagram is under way.
const HOP: Duration = Duration::from_micros(50);

struct Pair {
    now: Instant,
    client: Core,
    server: Core,
    address: SocketAddr,
}

impl Pair {
    fn connected() -> Self {
        let default_session_params =
            SessionParameters { application_protocol: "Count".to_owned(), ..SessionParameters::default() };
        let config = SocketConfig { default_session_params, ..SocketConfig::default() };
        let (client, server) = (Core::new(config.clone()), Core::new(config));
        let address = ([192, 0, 2, 1], 20_060).into();
        let mut pair = Self { now: Instant::now(), client, server, address };
        pair.client.connect(address, pair.now);
        while !pair.client.take_events().iter().any(|event| matches!(event, SocketEvent::SessionOpened { .. })) {
            pair.turn();
        }
        pair
    }

    /// Carries what both ends have to send.
    fn turn(&mut self) {
        self.now += HOP;
        self.client.run_tick(self.now);
        for (_, datagram) in self.client.take_outgoing() {
            self.server.process_incoming(self.address, datagram, self.now);
        }
        self.now += HOP;
        self.server.run_tick(self.now);
        for (_, datagram) in self.server.take_outgoing() {
            self.client.process_incoming(self.address, datagram, self.now);
        }
    }
}

/// The messages that have arrived.
fn received(core: &mut Core) -> impl Iterator<Item = Bytes> + use<> {
    core.take_events().into_iter().filter_map(|event| match event {
        SocketEvent::DataReceived { data, .. } => Some(data),
        _ => None,
    })
}

fn enqueue(core: &mut Core, to: SocketAddr, message: &[u8]) {
    assert!(core.enqueue_data(&to, message), "the session is open");
}

/// Messages of 64 bytes, so many of which are under way.
pub(crate) fn echo(outstanding: u64, count: u64) {
    let mut pair = Pair::connected();
    for _ in 0..outstanding {
        enqueue(&mut pair.client, pair.address, &[7; 64]);
    }
    let mut echoed = 0;
    while echoed < count {
        pair.turn();
        for message in received(&mut pair.server) {
            enqueue(&mut pair.server, pair.address, &message);
        }
        for message in received(&mut pair.client) {
            enqueue(&mut pair.client, pair.address, &message);
            echoed += 1;
        }
    }
}

/// Messages of 64 KiB, one after the other.
pub(crate) fn bulk(count: u64) {
    let (mut pair, message) = (Pair::connected(), vec![7; 64 * 1024]);
    for _ in 0..count {
        enqueue(&mut pair.client, pair.address, &message);
        while received(&mut pair.server).next().is_none() {
            pair.turn();
        }
    }
}
