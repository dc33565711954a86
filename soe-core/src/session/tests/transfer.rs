//! Messages and acknowledgements between two sessions.

use super::*;

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
fn ten_percent_loss_each_way_is_repaired() {
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
fn a_processor_that_is_sometimes_busy_causes_few_resends() {
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
fn an_acknowledgement_without_room_beside_data_follows_at_once_and_the_next_one_is_delayed_again() {
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
fn an_application_that_does_not_read_slows_down_only_its_own_peer() {
    let server = config().recv_buffer(20_000).recv_window(256).build().unwrap();
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

#[test]
fn a_cancelled_probe_opens_no_window() {
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
fn an_idle_channel_continues_where_it_was() {
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
