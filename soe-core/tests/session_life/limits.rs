//! Durations that a builder takes are valid for ever; a peer that does not read is not one that does not answer.

use std::time::Duration;

use soe_core::{AdmissionConfig, DisconnectReason, Event, ReliableChannel, SessionConfigBuilder};

use super::link::{Link, MS, SECOND, config, delay, pattern, plain};

type Knob = fn(SessionConfigBuilder, Duration) -> SessionConfigBuilder;

const KNOBS: [(&str, Knob); 14] = [
    ("heartbeat_after", SessionConfigBuilder::heartbeat_after),
    ("inactivity_timeout", SessionConfigBuilder::inactivity_timeout),
    ("unacknowledged_timeout", SessionConfigBuilder::unacknowledged_timeout),
    ("unread_timeout", SessionConfigBuilder::unread_timeout),
    ("connect_timeout", SessionConfigBuilder::connect_timeout),
    ("refusal_grace", SessionConfigBuilder::refusal_grace),
    ("close_timeout", SessionConfigBuilder::close_timeout),
    ("linger", SessionConfigBuilder::linger),
    ("net_status_interval", SessionConfigBuilder::net_status_interval),
    ("icmp_grace", SessionConfigBuilder::icmp_grace),
    ("remap_timeout", SessionConfigBuilder::remap_timeout),
    ("port_alive_interval", SessionConfigBuilder::port_alive_interval),
    ("max_ack_delay", SessionConfigBuilder::max_ack_delay),
    ("ack_ride_limit", SessionConfigBuilder::ack_ride_limit),
];

#[test]
fn every_duration_that_is_taken_is_valid_for_ever() {
    let year = 365 * 24 * 3_600 * SECOND;
    let lengths = [Duration::ZERO, Duration::from_nanos(1), MS, 100 * MS, SECOND, year, year + MS, Duration::MAX];
    for (name, knob) in KNOBS {
        for length in lengths {
            let Ok(config) = knob(config(), length).build() else { continue };
            assert!(length <= year, "{name} takes {length:?}");
            let mut n = 0;
            let mut link = Link::new(
                config.clone(),
                config,
                Box::new(move |_, _, _| {
                    n += 1;
                    (n != 6).then_some(10 * MS)
                }),
            );
            link.run(2 * SECOND);
            for seed in 0..10 {
                link.client.send(pattern(400, seed).into()).ok();
                link.run(5 * MS);
            }
            link.run(2 * SECOND);
            let now = link.now;
            link.client.handle_unreachable(now);
            let _ = link.client.handle_datagram(now, [0, 0x1D][..].into());
            link.run(SECOND);
            link.now += 5 * SECOND;
            link.drive();
            let now = link.now;
            link.client.close(now, DisconnectReason::Application);
            link.run(5 * SECOND);
        }
    }
}

#[test]
fn durations_over_a_year_are_refused_by_name() {
    for (name, knob) in KNOBS {
        assert_eq!(knob(config(), Duration::MAX).build().unwrap_err().field, name);
    }
}

#[test]
fn a_server_takes_a_bounded_number_of_sessions() {
    let refused = AdmissionConfig::builder(plain()).max_sessions(usize::MAX).build().unwrap_err();
    assert_eq!(refused.field, "max_sessions");
}

/// A server whose application does not read, and a client that has more to say than the server holds.
fn unread(tune: impl FnOnce(SessionConfigBuilder) -> SessionConfigBuilder) -> Link {
    let server = config().recv_buffer(20_000).recv_window(256).build().unwrap();
    let mut link = Link::connected(tune(config()).build().unwrap(), server, delay(10 * MS));
    link.server_reads = false;
    for n in 0..800 {
        link.client.send(pattern(1_000, n as u8).into()).unwrap();
    }
    link
}

#[test]
fn an_application_that_pauses_for_minutes_loses_nothing() {
    let mut link = unread(|config| config);
    link.run(300 * SECOND);
    assert_eq!(link.client.closed(), None);
    let told = link.events.iter().filter(|(_, event)| *event == Event::PeerNotReading(ReliableChannel::ZERO)).count();
    assert_eq!(told, 1, "once");
    link.server_reads = true;
    link.run(60 * SECOND);
    assert_eq!(link.received.len(), 800);
}

#[test]
fn an_application_that_never_reads_ends_its_session_for_that_reason() {
    let mut link = unread(|config| config.unread_timeout(60 * SECOND));
    link.run(50 * SECOND);
    assert_eq!(link.client.closed(), None);
    link.run(20 * SECOND);
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::PeerNotReading));
    // On the wire it is a reason that old peers know.
    assert_eq!(link.server().closed().map(|closed| closed.reason), Some(DisconnectReason::ReliableOverflow));
}

#[test]
fn a_peer_that_acknowledges_nothing_is_given_up_though_it_is_heard() {
    let mut link = Link::plain();
    // Nothing reliable gets through, as where a path takes no full datagrams.
    link.fate = Box::new(|_, _, datagram| (datagram[1] != 9).then_some(10 * MS));
    link.client.send(pattern(400, 1).into()).unwrap();
    link.run(80 * SECOND);
    assert!(link.client.is_connected());
    link.run(15 * SECOND);
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::UnacknowledgedTimeout));
}
