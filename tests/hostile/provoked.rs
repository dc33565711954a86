//! What strangers can make a session send, and that it stays without consequence.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use soe_core::{DisconnectReason, Session, SessionConfig, wire::SessionRequest};

use crate::{
    config,
    world::{SESSION_ID, STEP, Script, Side, World},
};

const CALM: Script = Script { silence: Duration::from_secs(1_000), end: Duration::from_secs(60), ..crate::SILENCE };

pub(crate) fn request(session_id: u32) -> Vec<u8> {
    let mut datagram = Vec::new();
    SessionRequest { version: 3, session_id, udp_length: 512, protocol_name: Some(b"Test") }.encode(&mut datagram);
    datagram
}

#[test]
fn a_request_sent_again_while_its_client_is_heard_is_not_answered_and_changes_nothing() {
    let config = config().build().unwrap();
    let start = Instant::now();
    let (mut quiet, mut attacked) = (World::new(start, &config, CALM, 5), World::new(start, &config, CALM, 5));
    while !quiet.is_over() {
        if attacked.session().is_some() {
            (0..20).for_each(|_| assert!(!attacked.inject(Side::Server, World::address(), &request(SESSION_ID))));
        }
        let (expected, found) = (quiet.step(), attacked.step());
        assert_eq!(expected, found);
    }
    assert_eq!((quiet.provoked, attacked.provoked), (0, 0));
}

#[test]
fn unknown_sender_from_a_stranger_makes_a_client_ask_and_ends_nothing() {
    let config = config().build().unwrap();
    let start = Instant::now();
    let (mut quiet, mut attacked) = (World::new(start, &config, CALM, 6), World::new(start, &config, CALM, 6));
    let (mut expected, mut found, mut extra) = (Vec::new(), Vec::new(), 0);
    while !quiet.is_over() {
        if attacked.client.is_connected() {
            (0..20).for_each(|n| {
                assert!(!attacked.inject(
                    Side::Client,
                    World::address(),
                    &[&[0, 0x1D][..], &[0; 4][..n % 2 * 4]].concat()
                ))
            });
        }
        let (calm, stormy) = (quiet.step(), attacked.step());
        assert_eq!(calm.ended, stormy.ended);
        assert_eq!(calm.events, stormy.events);
        let asks = |(_, datagram): &&(usize, Vec<u8>)| [[0, 0x1E], [0, 7]].contains(&[datagram[0], datagram[1]]);
        extra += stormy.sent.iter().filter(asks).count();
        let reliable = |(_, message): &(usize, soe_core::Message)| message.channel.is_reliable();
        expected.extend(calm.delivered.into_iter().filter(reliable).map(|(side, message)| (side, message.channel)));
        found.extend(stormy.delivered.into_iter().filter(reliable).map(|(side, message)| (side, message.channel)));
    }
    assert!(attacked.client.is_connected());
    // The path is no longer the same, since asking takes datagrams that may be lost in place of others.
    assert!(expected.len().abs_diff(found.len()) < expected.len() / 10, "{} and {}", expected.len(), found.len());
    let seconds = CALM.end.as_secs() as usize;
    assert!((seconds..=8 * seconds + 8).contains(&extra), "{extra} datagrams to ask");
}

#[test]
fn a_server_that_strangers_keep_busy_still_sends_its_heartbeats() {
    let builder = config().heartbeat_after(Duration::from_secs(5)).net_status_interval(Duration::ZERO);
    let mut world = Silent::open(&builder.build().unwrap());
    let mut heartbeats = 0;
    for _ in 0..20_000 {
        world.now += STEP;
        let _ = world.server.handle_datagram(world.now, BytesMut::from(&request(SESSION_ID)[..]));
        world.server.handle_timeout(world.now);
        let mut buffer = Vec::new();
        while world.server.poll_transmit(world.now, &mut buffer).is_some() {
            heartbeats += usize::from(buffer[..2] == [0, 6]);
            buffer.clear();
        }
        if world.server.closed().is_some() {
            break;
        }
    }
    assert!(heartbeats >= 5, "{heartbeats} heartbeats within the 30 s that the server waits for its client");
    assert_eq!(world.server.closed().map(|closed| closed.reason), Some(DisconnectReason::Timeout));
}

/// A server's session whose client has fallen silent.
struct Silent {
    now: Instant,
    server: Session,
}

impl Silent {
    fn open(config: &SessionConfig) -> Self {
        let mut world = World::new(Instant::now(), config, CALM, 1);
        while world.session().is_none() {
            let _ = world.step();
        }
        let server = world.server.peers[0].take().expect("the first").resident;
        Self { now: world.now, server }
    }
}

#[test]
fn a_client_that_hears_its_own_request_goes_on_asking() {
    let config = config().build().unwrap();
    let mut now = Instant::now();
    let mut client = Session::connect(now, config, SESSION_ID);
    let _ = client.handle_datagram(now, BytesMut::from(&request(SESSION_ID)[..]));
    let _ = client.handle_datagram(now, BytesMut::from(&request(1)[..]));
    assert_eq!(client.closed(), None);
    now += Duration::from_secs(10);
    client.handle_timeout(now);
    assert_eq!(client.closed().map(|closed| closed.reason), Some(DisconnectReason::ConnectingToSelf));
}
