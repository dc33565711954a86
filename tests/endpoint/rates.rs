//! How much an endpoint answers to addresses that have proved nothing.

use soe_core::{AdmissionConfig, Dialect};

use super::*;
use crate::net::{MS, Net, SECOND};

/// An address of its own prefix for each `n`.
fn elsewhere(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from(([10, 1, high, low], 5_000))
}

/// How many datagrams the server sends for 300 of these in one instant, and for 300 more a second later.
fn answers(net: &mut Net, from: fn(u16) -> SocketAddr, datagram: impl Fn(u16) -> Vec<u8>) -> [usize; 2] {
    [0, 300].map(|first| {
        for n in first..first + 300 {
            net.server.handle(net.now, from(n), &datagram(n));
        }
        net.now += SECOND;
        std::mem::take(&mut net.server.sent).len()
    })
}

#[test]
fn unknown_sender_goes_out_at_the_rates_that_the_configuration_gives() {
    let settings = AdmissionConfig::builder(config()).unknown_sender_rate(50).unknown_sender_rate_per_prefix(20);
    let settings = settings.build().unwrap();
    let datagram = |n: u16| [&[0, 9, 0, 0][..], &n.to_be_bytes(), &[3, 3]].concat();
    assert_eq!(answers(&mut Net::new(settings.clone(), 20 * MS), player, datagram), [20, 20], "to one prefix");
    let mut net = Net::new(settings, 20 * MS);
    assert_eq!(answers(&mut net, elsewhere, datagram), [50, 50], "to all");
    let stats = net.server.endpoint.stats().admission;
    assert_eq!((stats.unknown_senders, stats.unknown_sender_replies), (600, 100));
    assert_eq!((stats.rate_limited, stats.rate_limited_all, stats.rate_limited_prefix), (500, 500, 0));
}

#[test]
fn requests_are_answered_at_the_rates_that_the_configuration_gives() {
    let settings = AdmissionConfig::builder(config()).response_rate(100).response_rate_per_prefix(20);
    let settings = settings.response_burst_per_prefix(40).build().unwrap();
    let datagram = |n: u16| request(n.into());
    assert_eq!(answers(&mut Net::new(settings.clone(), 20 * MS), player, datagram), [40, 20], "to one prefix");
    let mut net = Net::new(settings, 20 * MS);
    assert_eq!(answers(&mut net, elsewhere, datagram), [100, 100], "to all");
    assert_eq!(net.server.endpoint.stats().admission.rate_limited_all, 400);
}

/// Such a session counts until it times out, though its client may be forged.
#[test]
fn sessions_open_before_their_clients_have_proved_themselves_at_a_limited_rate_only() {
    let everquest2 = SessionConfig::with_dialect(Dialect::everquest2()).build().unwrap();
    let settings = AdmissionConfig::builder(everquest2).unproven_rate(5).build().unwrap();
    let mut net = Net::new(settings, 20 * MS);
    let opened = [0u16, 300].map(|first| {
        for n in first..first + 300 {
            let mut forged = Vec::new();
            let request = SessionRequest { version: 2, session_id: n.into(), udp_length: 512, protocol_name: None };
            request.encode(&mut forged);
            net.server.handle(net.now, elsewhere(n), &forged);
        }
        net.now += SECOND;
        net.server.endpoint.sessions()
    });
    assert_eq!(opened, [50, 55]);
    assert_eq!(net.server.endpoint.stats().admission.opening_deferred, 545);
}
