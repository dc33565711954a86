//! Two sessions and an endpoint, over a link in virtual time.

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

#[test]
fn a_session_opens_and_messages_of_all_sizes_arrive_in_order() {
    let mut link = Link::plain();
    let messages: Vec<_> = [1, 2, 505, 506, 507, 508, 5_000, 100_000, 3].map(|n| pattern(n, n as u8)).into();
    for message in &messages {
        link.client.send(message.clone().into()).unwrap();
    }
    link.run(Duration::from_secs(5));
    assert_eq!(link.received(), messages);
    assert!(link.client.is_idle() && link.server().is_idle());
}

#[test]
fn messages_that_begin_with_zero_arrive_as_they_are() {
    let mut link = Link::plain();
    let messages = [&[0][..], &[0, 0], &[0, 0x19, 5], &[0, 9, 0, 0, 1], &[0; 600]].map(Bytes::copy_from_slice);
    for message in &messages {
        link.client.send(message.clone().into()).unwrap();
        link.client.send(Message::unreliable(message.clone())).unwrap();
        link.run(MS * 50);
    }
    let mut received = link.received();
    received.sort();
    let mut expected = [messages.clone(), messages].concat();
    expected.sort();
    assert_eq!(received, expected);
}

#[test]
fn a_tenth_lost_each_way_is_made_good() {
    let mut link = Link::plain();
    link.lose = |_, n| n % 10 == 0;
    let messages: Vec<_> = (0..200).map(|n| pattern(1 + n * 37 % 2_000, n as u8)).collect();
    for message in &messages {
        link.client.send(message.clone().into()).unwrap();
    }
    link.run(Duration::from_secs(20));
    assert_eq!(link.received(), messages);
    assert!(link.client.stats(link.now).resent_lost > 0);
    assert!(link.client.is_idle());
}

#[test]
fn a_processor_that_is_busy_now_and_then_makes_hardly_anything_be_sent_again() {
    let mut link = Link::plain();
    link.delay = MS / 10;
    let play = |link: &mut Link, ticks| {
        for n in 0..ticks {
            link.client.send(pattern(40, n as u8).into()).unwrap();
            link.server().send(pattern(200, n as u8).into()).unwrap();
            link.run(20 * MS);
            link.received();
            while link.client.recv().is_some() {}
        }
        let now = link.now;
        [link.client.stats(now), link.server().stats(now)]
    };
    let calm = play(&mut link, 500);
    link.stall = |n| if n % 37 == 0 { MS * (40 + n as u32 % 41) } else { Duration::ZERO };
    let busy = play(&mut link, 3_000);
    for (calm, busy) in calm.iter().zip(&busy) {
        let (sent, again) = (busy.reliable_sent - calm.reliable_sent, busy.resent_timeout + busy.resent_lost);
        assert!(sent > 2_000 && again * 100 < sent, "{again} of {sent} packets were sent again");
    }
}

#[test]
fn a_lost_last_acknowledgement_is_sent_again() {
    let mut link = Link::plain();
    link.client.send(pattern(10, 1).into()).unwrap();
    link.lose = |to_client, _| to_client;
    link.run(100 * MS);
    assert_eq!(link.received().len(), 1);
    assert!(!link.client.is_idle());
    link.lose = |_, _| false;
    link.run(Duration::from_secs(3));
    assert!(link.client.is_idle());
    let now = link.now;
    assert!(link.server().stats(now).duplicates > 0);
    assert!(link.received().is_empty());
}

#[test]
fn a_client_without_an_answer_gives_up() {
    let mut link = Link::new(config().build().unwrap(), config().build().unwrap());
    link.lose = |_, _| true;
    link.run(Duration::from_secs(11));
    assert!(link.sent[0] >= 5, "{} requests", link.sent[0]);
    let closed = link.client.closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ConnectFail, crate::Origin::Transport));
}

#[test]
fn another_protocol_is_refused_in_a_way_the_client_can_read() {
    let other = SessionConfig::new("Other").unwrap();
    let mut link = Link::new(SessionConfig::new("LoginUdp_9").unwrap(), other);
    link.run(Duration::from_secs(1));
    assert!(link.server.is_none());
    let closed = link.client.closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ProtocolMismatch, crate::Origin::Peer));
    assert!(!link.events.contains(&Event::Connected));
}

#[test]
fn a_short_request_is_refused_without_amplifying_it() {
    let mut link = Link::new(SessionConfig::new("A").unwrap(), SessionConfig::new("Other").unwrap());
    link.run(Duration::from_secs(1));
    assert!(link.server.is_none());
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::ProtocolMismatch));
}

#[test]
fn closing_delivers_what_is_queued_and_tells_the_peer() {
    let mut link = Link::plain();
    let message = pattern(50_000, 3);
    link.client.send(message.clone().into()).unwrap();
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    assert!(matches!(link.client.send(message.clone().into()), Err(SendError::Closed(_))));
    link.run(Duration::from_secs(1));
    assert_eq!(link.received(), [message]);
    let closed = link.server().closed().unwrap();
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, crate::Origin::Peer));
    assert_eq!(link.client.undelivered(), Undelivered::default());
    link.run(Duration::from_secs(3));
    assert!(link.client.is_drained() && link.server().is_drained());
    assert_eq!(link.client.poll_timeout(), None);
}

#[test]
fn a_silent_peer_times_out() {
    let mut link = Link::plain();
    link.lose = |_, _| true;
    link.run(Duration::from_secs(31));
    for closed in [link.client.closed(), link.server().closed()] {
        assert_eq!(closed.map(|closed| closed.reason), Some(DisconnectReason::Timeout));
    }
}

#[test]
fn heartbeats_keep_an_idle_session_alive_at_little_cost() {
    let mut link = Link::plain();
    let before = link.sent;
    link.run(Duration::from_secs(600));
    assert!(link.client.is_connected());
    assert!(link.sent[0] - before[0] < 90 && link.sent[1] - before[1] < 90, "{:?}", link.sent);
}

#[test]
fn a_key_switch_is_exact_within_one_group() {
    let mut link = Link::plain();
    link.client.send(Bytes::from_static(b"plain").into()).unwrap();
    link.client.set_send_key(Some(b"secret")).unwrap();
    link.client.send(Bytes::from_static(b"first").into()).unwrap();
    link.client.send(Bytes::from_static(b"second").into()).unwrap();
    link.client.set_send_key(None).unwrap();
    link.client.send(Bytes::from_static(b"plain again").into()).unwrap();
    let before = link.sent[0];
    link.run(15 * MS);
    assert_eq!(link.sent[0], before + 1);
    let mut next = || link.server.as_mut().unwrap().recv().unwrap().payload;
    assert_eq!(next(), "plain");
    link.server().set_recv_key(Some(b"secret")).unwrap();
    let mut next = || link.server.as_mut().unwrap().recv().unwrap().payload;
    assert_eq!((next(), next()), (Bytes::from("first"), Bytes::from("second")));
    link.server().set_recv_key(None).unwrap();
    assert_eq!(link.received(), ["plain again"]);
}

#[test]
fn every_dialect_carries_messages_both_ways() {
    for name in Dialect::ALL_NAMES {
        let dialect = Dialect::by_name(name).unwrap();
        let config = SessionConfig::with_dialect(dialect).protocol_name("Game".into()).build().unwrap();
        let mut link = Link::connected(config.clone(), config);
        let messages = [pattern(5, 1), pattern(2_000, 2), Bytes::from(vec![9; 400])];
        for message in &messages {
            link.client.send(message.clone().into()).unwrap();
            link.server().send(message.clone().into()).unwrap();
        }
        link.run(Duration::from_secs(1));
        assert_eq!(link.received(), messages, "{name}");
        let back: Vec<_> = std::iter::from_fn(|| link.client.recv()).map(|message| message.payload).collect();
        assert_eq!(back, messages, "{name}");
    }
}

#[test]
fn small_packets_and_acknowledgements_share_a_datagram() {
    let mut link = Link::plain();
    link.client.send(pattern(60, 1).into()).unwrap();
    link.flush();
    link.now += link.delay;
    link.arrive();
    let echo = link.server().recv().unwrap();
    link.server().send(echo).unwrap();
    let before = link.sent[1];
    link.flush();
    assert_eq!(link.sent[1], before + 1);
    link.run(100 * MS);
    assert_eq!(link.sent[1], before + 1, "the acknowledgement rode with the echo");
    assert!(link.server().is_idle());
}

#[test]
fn an_acknowledgement_that_finds_no_room_beside_data_follows_at_once_and_the_next_one_waits_again() {
    let mut link = Link::plain();
    let update = pattern(300, 2);
    // No piece of a Multi may be so long: each update goes alone.
    for round in 0..20 {
        link.client.send(pattern(60, 1).into()).unwrap();
        link.run(25 * MS);
        let before = link.sent[1];
        link.server().send(update.clone().into()).unwrap();
        link.flush();
        let at_once = link.sent[1] - before;
        link.run(25 * MS);
        assert_eq!(link.received().len(), 1);
        // The rhythm that acknowledgements wait for shows from the third update on.
        if round > 2 {
            assert_eq!(at_once, 2, "round {round}");
            assert_eq!(link.sent[1], before + 2, "round {round}: nothing came by itself");
        }
    }
}

#[test]
fn an_application_that_does_not_read_holds_only_its_own_peer_back() {
    let server = config().recv_buffer(20_000).build().unwrap();
    let mut link = Link::connected(config().build().unwrap(), server);
    let messages: Vec<_> = (0..400).map(|n| pattern(1_000, n as u8)).collect();
    for message in &messages {
        link.client.send(message.clone().into()).unwrap();
    }
    link.run(Duration::from_secs(5));
    let now = link.now;
    assert!(link.server().stats(now).unread_bytes < 22_000);
    assert!(!link.client.is_idle());
    let mut received = Vec::new();
    for _ in 0..400 {
        received.extend(link.received());
        link.run(Duration::from_millis(500));
    }
    assert_eq!(received, messages);
    assert!(link.client.is_idle());
}

fn tuned(tune: impl FnOnce(SessionConfigBuilder) -> SessionConfigBuilder) -> Link {
    let config = tune(config()).build().unwrap();
    Link::connected(config.clone(), config)
}

#[test]
fn a_receipt_comes_when_the_last_byte_is_acknowledged() {
    let mut link = Link::plain();
    link.lose = |to_client, _| to_client;
    let receipt = link.client.send_with_receipt(pattern(10_000, 1).into()).unwrap();
    link.run(MS * 300);
    assert_eq!(link.received().len(), 1);
    assert!(!link.events.contains(&Event::Delivered(receipt)));
    link.lose = |_, _| false;
    link.run(Duration::from_secs(3));
    assert_eq!(link.events.iter().filter(|event| **event == Event::Delivered(receipt)).count(), 1);
}

#[test]
fn a_trickle_rate_is_kept() {
    let rate = std::num::NonZeroU32::new(10_000).unwrap();
    let mut link =
        tuned(|config| config.channel(ReliableChannel::ONE, ChannelOptions::default().with_trickle_rate(rate)));
    link.client.send(Message::new(ReliableChannel::ONE, pattern(100_000, 1))).unwrap();
    link.run(Duration::from_secs(8));
    assert!(link.received().is_empty());
    link.client.send(pattern(100, 2).into()).unwrap();
    link.run(MS * 50);
    assert_eq!(link.received(), [pattern(100, 2)], "other channels do not wait");
    link.run(Duration::from_secs(3));
    assert_eq!(link.received(), [pattern(100_000, 1)]);
}

#[test]
fn a_channel_of_higher_priority_goes_first() {
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, ChannelOptions::default().with_priority(9)));
    link.client.send(pattern(400_000, 1).into()).unwrap();
    link.run(MS * 30);
    link.client.send(Message::new(ReliableChannel::TWO, pattern(100_000, 2))).unwrap();
    link.run(Duration::from_secs(5));
    assert_eq!(link.received(), [pattern(100_000, 2), pattern(400_000, 1)]);
}

#[test]
fn a_channel_whose_packets_are_long_overdue_goes_before_those_of_higher_priority() {
    let mut link = tuned(|config| config.channel(ReliableChannel::TWO, ChannelOptions::default().with_priority(9)));
    link.lose = |to_client, _| !to_client;
    link.client.send(Message::new(ReliableChannel::TWO, pattern(100, 2))).unwrap();
    link.run(Duration::from_secs(1));
    link.client.send(pattern(100, 0).into()).unwrap();
    assert_eq!(link.client.send_order(link.now.into())[3], ReliableChannel::TWO);
    link.run(Duration::from_millis(4_500));
    assert_eq!(link.client.send_order(link.now.into())[0], ReliableChannel::TWO);
}

#[test]
fn channels_of_the_same_priority_share_the_window() {
    let mut link = Link::plain();
    link.client.send(pattern(400_000, 1).into()).unwrap();
    link.run(MS * 30);
    link.client.send(Message::new(ReliableChannel::TWO, pattern(50_000, 2))).unwrap();
    link.run(Duration::from_secs(5));
    assert_eq!(link.received(), [pattern(50_000, 2), pattern(400_000, 1)]);
}

#[test]
fn an_unordered_channel_does_not_wait_for_what_is_lost() {
    let options = ChannelOptions::default().with_unordered(true);
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, options));
    let lost = link.sent[0] + 1;
    assert_eq!(lost, 3, "the loss below hits the first message");
    link.lose = |to_client, n| !to_client && n == 3;
    link.client.send(pattern(10, 1).into()).unwrap();
    link.run(MS);
    link.client.send(pattern(10, 2).into()).unwrap();
    link.run(MS * 15);
    assert_eq!(link.received(), [pattern(10, 2)]);
    link.run(Duration::from_secs(1));
    assert_eq!(link.received(), [pattern(10, 1)]);
}

#[test]
fn on_a_redundant_channel_a_loss_costs_one_send_interval() {
    let options = ChannelOptions::default().with_redundancy(true);
    let mut link = tuned(|config| config.channel(ReliableChannel::ZERO, options));
    link.lose = |to_client, n| !to_client && n == 3;
    link.client.send(pattern(10, 1).into()).unwrap();
    link.run(MS * 5);
    link.client.send(pattern(10, 2).into()).unwrap();
    link.run(MS * 11);
    assert_eq!(link.received(), [pattern(10, 1), pattern(10, 2)]);
    link.run(Duration::from_secs(2));
    let now = link.now;
    assert_eq!(link.client.stats(now).redundant_copies, 1);
    assert!(link.client.is_idle() && link.received().is_empty());
}

#[test]
fn a_port_is_kept_alive_by_datagrams_that_die_on_the_way() {
    let mut link = tuned(|config| config.port_alive_interval(Duration::from_secs(5)).port_alive_hops(3));
    let mut buf = Vec::new();
    let now = link.now + Duration::from_secs(6);
    link.client.handle_timeout(now);
    let transmit = link.client.poll_transmit(now, &mut buf).unwrap();
    assert_eq!((transmit.time_to_live, &buf[..]), (Some(3), &[0, 0x1C][..]));
    let received = link.server().stats(now).since_received;
    let outcome = link.server().handle_datagram(now, BytesMut::from(&buf[..]));
    assert_eq!(outcome, DatagramOutcome::Unproven);
    assert_eq!(link.server().stats(now).since_received, received, "it refreshes no timer");
}

#[test]
fn an_overflow_gives_the_message_back_or_ends_the_session_by_choice() {
    let mut link = tuned(|config| config.send_buffer(1_000));
    let send = |link: &mut Link| (0..100).find_map(|n| link.client.send(pattern(500, n).into()).err());
    assert!(matches!(send(&mut link), Some(SendError::Blocked(_))));
    assert!(link.client.closed().is_none());
    let mut link = tuned(|config| config.send_buffer(1_000).overflow(Overflow::Close));
    assert!(matches!(send(&mut link), Some(SendError::Closed(_))));
    assert_eq!(link.client.closed().map(|closed| closed.reason), Some(DisconnectReason::ReliableOverflow));
}

#[test]
fn a_client_knows_its_servers_clock() {
    let mut link = Link::plain();
    let now = link.now + Duration::from_secs(1);
    let server = link.server().epoch.instant();
    let expected = now.duration_since(server).as_millis() as u32;
    let clock = link.client.server_clock(now).unwrap();
    assert!(clock.abs_diff(expected) <= 1, "{clock} {expected}");
}

#[test]
fn a_probe_that_is_not_needed_any_more_opens_no_window() {
    let mut link = Link::plain();
    link.client.send(pattern(100, 1).into()).unwrap();
    link.flush();
    let expired = link.client.poll_timeout().unwrap().max(link.now + Duration::from_secs(2));
    link.client.handle_timeout(expired);
    assert_eq!(link.client.outbox.probes, 1);
    // The acknowledgement comes before the probe has left.
    link.now = expired;
    let now = link.now;
    while let Some((_, datagram)) = link.wires[0].pop_front() {
        let _ = link.server().handle_datagram(now, datagram[..].into());
    }
    let mut ack = Vec::new();
    let later = now + Duration::from_millis(100);
    link.server().handle_timeout(later);
    while link.server().poll_transmit(later, &mut ack).is_some() {
        let _ = link.client.handle_datagram(later, ack[..].into());
        ack.clear();
    }
    link.client.send(pattern(200_000, 2).into()).unwrap();
    while link.client.poll_transmit(later, &mut ack).is_some() {}
    let stats = link.client.stats(later);
    assert!(stats.in_flight_bytes <= stats.congestion_window, "{stats:?}");
}

#[test]
fn a_wrong_checksum_changes_nothing() {
    let mut link = Link::plain();
    let now = link.now;
    let before = link.server().poll_timeout();
    for n in 0..=255u8 {
        let outcome = link.server().handle_datagram(now, BytesMut::from(&[0, n % 0x19, 0, 0, 1, 2, 3, n][..]));
        assert!(!matches!(outcome, DatagramOutcome::Authentic), "{n}");
    }
    assert_eq!(link.server().poll_timeout(), before);
    assert!(link.server().closed().is_none());
    assert!(link.server().stats(now).crc_rejects > 0);
}

#[test]
fn unknown_sender_from_a_forger_closes_nothing() {
    let mut link = Link::plain();
    for _ in 0..200 {
        let now = link.now;
        let _ = link.client.handle_datagram(now, BytesMut::from(&[0, 0x1D][..]));
        link.run(50 * MS);
    }
    assert!(link.client.is_connected());
}

#[test]
fn unknown_sender_from_a_server_that_forgot_us_ends_the_session() {
    let mut link = Link::plain();
    link.server = None;
    link.endpoint = Endpoint::new(link.now, link.client.config().clone().into(), [8; 16]);
    for n in 0..30 {
        let _ = link.client.send(pattern(10, n).into());
        link.run(500 * MS);
    }
    let closed = link.client.closed().unwrap();
    assert_eq!(closed.reason, DisconnectReason::UnreachableConnection);
}

#[test]
fn a_channel_that_has_rested_goes_on_where_it_was() {
    let mut link = Link::plain();
    for round in 0..3u8 {
        let large = pattern(20_000, round);
        link.client.send(large.clone().into()).unwrap();
        link.server().send(pattern(300, round).into()).unwrap();
        link.flush();
        let (data, of_server) = (link.wires[0][0].1.clone(), link.wires[1][0].1.clone());
        link.run(Duration::from_secs(1));
        let mut late = vec![0, 0x15, 0, 0];
        link.client.framing.seal(&mut late, 0);
        assert_eq!(link.received(), [large]);
        assert_eq!(link.client.recv().map(|message| message.payload), Some(pattern(300, round)));
        assert!(link.client.channels[0].is_some() && link.server().channels[0].is_some());
        link.run(Duration::from_secs(12));
        assert!(link.client.channels[0].is_none() && link.server().channels[0].is_none(), "both rest");
        // What comes late or twice finds them as they were.
        let acks = (link.sent[0], link.sent[1]);
        link.put(false, &data);
        link.put(true, &of_server);
        link.put(false, &late);
        link.run(100 * MS);
        assert!(link.sent[0] > acks.0 + 2 && link.sent[1] > acks.1 + 1, "what came twice is acknowledged again");
        assert_eq!((link.received(), link.client.recv()), (Vec::new(), None));
        let (now, client) = (link.now, link.client.stats(link.now));
        let server = link.server().stats(now);
        assert!(server.duplicates > u64::from(round) && client.duplicates > u64::from(round));
        assert_eq!((client.bogus_acks, server.bogus_acks), (0, 0));
        link.run(Duration::from_secs(12));
    }
}
