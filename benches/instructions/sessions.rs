//! Sessions of soe-core joined in memory.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use soe_core::{Endpoint, Message, SessionConfig};

use crate::pair::{Pair, drain, echo as echo_all, join, send};

fn config() -> SessionConfig {
    SessionConfig::new("Count").expect("a valid name")
}

fn pair() -> Pair {
    Pair::connected(config())
}

/// Messages of 64 bytes, so many of which are under way.
pub(crate) fn echo(outstanding: u64, count: u64) {
    let (mut pair, message) = (pair(), Message::reliable(Bytes::from_static(&[7; 64])));
    for _ in 0..outstanding {
        send(&mut pair.client, message.clone());
    }
    let mut received = 0;
    while received < count {
        pair.run(|client, server| {
            echo_all(server);
            let arrived = drain(client);
            for _ in 0..arrived {
                send(client, message.clone());
            }
            received += arrived as u64;
            arrived > 0
        });
    }
}

/// Messages of 256 KiB, one after the other.
pub(crate) fn bulk(count: u64) {
    let (mut pair, message) = (pair(), Message::reliable(vec![7; 256 * 1024]));
    for _ in 0..count {
        send(&mut pair.client, message.clone());
        let mut arrived = 0;
        pair.run(|client, server| {
            arrived += drain(server);
            arrived == 1 && client.is_idle()
        });
    }
}

/// Sessions of so many clients with one endpoint.
pub(crate) fn set_up(count: u64) {
    let now = Instant::now();
    let mut endpoint = Endpoint::new(now, config().into(), [7; 16]);
    for port in 1..=u16::try_from(count).expect("a port for each") {
        let (client, server) = join(now, &mut endpoint, SocketAddr::from(([192, 0, 2, 1], port)), config());
        assert_eq!(client.crc_seed(), server.crc_seed());
    }
}

/// Turns of both ends, each from one timer to the next.
pub(crate) fn idle(count: u64) {
    let (mut pair, mut turns) = (pair(), 0);
    pair.run(|_, _| {
        turns += 1;
        turns >= count
    });
}
