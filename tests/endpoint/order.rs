//! The order of a turn: what has arrived counts before any timer.

use soe_core::{Message, SessionConfig};

use super::*;
use crate::net::{MS, Net, SECOND};

/// A server that gives up a silent peer after three seconds.
fn impatient() -> SessionConfig {
    SessionConfig::builder("LoginUdp_9").inactivity_timeout(3 * SECOND).build().unwrap()
}

#[test]
fn a_server_that_was_stopped_loses_nobody_who_went_on_sending() {
    for stopped in [1, 4, 10, 20, 28] {
        let mut net = Net::new(impatient(), 20 * MS);
        for n in 0..30 {
            net.join(player(n), &config(), n.into());
        }
        net.run(SECOND);
        net.is_stopped = true;
        for _ in 0..stopped {
            for client in net.clients.values_mut() {
                client.send(Message::unreliable(&b"position"[..])).unwrap();
            }
            net.run(SECOND);
        }
        net.is_stopped = false;
        net.run(2 * SECOND);
        assert_eq!(net.server.endpoint.sessions(), 30, "stopped for {stopped} s");
        assert!(net.clients.values().all(Session::is_connected));
    }
}

#[test]
fn a_peer_that_is_gone_is_noticed_though_a_flood_goes_on() {
    let mut net = Net::new(impatient(), 20 * MS);
    net.server = server::Server::plain(net.now, impatient(), [5; 16]).with_buffer(50_000);
    net.join(player(0), &config(), 0);
    net.run(SECOND);
    net.clients.clear();
    // A driver that never sees the socket empty: there is always more before it looks again.
    let mut ended = None;
    for n in 0..6_000u32 {
        net.now += MS;
        for m in 0..20u32 {
            net.server.arrive(player(5), &[&[0, 9][..], &(n * 20 + m).to_be_bytes()].concat());
        }
        net.server.run_steps(net.now, 2);
        net.server.sent.clear();
        if net.server.endpoint.sessions() == 0 {
            ended = ended.or(Some(n));
        }
    }
    let ended = ended.expect("it is noticed");
    assert!((1_900..4_500).contains(&ended), "after {ended} ms");
}
