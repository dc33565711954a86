//! Paths that drop large datagrams, while small messages of another channel pass.

use std::{cell::Cell, rc::Rc, time::Duration};

use soe_core::{Event, Message, ReliableChannel};

use super::link::{Link, MS, Numbers, SECOND, To, config, pattern};

/// A client on a path that takes datagrams of up to so many bytes, which the test may change.
fn narrow(latency: Duration, mtu: &Rc<Cell<usize>>) -> Link {
    let mtu = Rc::clone(mtu);
    let session = config().udp_length(1_400).build().unwrap();
    Link::connected(
        session.clone(),
        session,
        Box::new(move |_, _, datagram| (datagram.len() <= mtu.get()).then_some(latency)),
    )
}

/// The client says something small at this interval.
fn talk(link: &mut Link, count: u32, interval: Duration) {
    for n in 0..count {
        link.client.send(pattern(20, n as u8).into()).unwrap();
        link.run(interval);
    }
}

/// When the client has learnt that large datagrams are lost.
fn narrowed(link: &Link) -> Vec<Duration> {
    let lost = link.events.iter().filter(|(_, event)| matches!(event, Event::LargeDatagramsLost { .. }));
    lost.map(|(at, _)| *at).collect()
}

/// Nothing at all arrives on the channel of the large message, or its last piece only, so that nothing of its own overtakes what
/// is lost. Each acknowledgement of a small message restarts the resend timer, so that no NetStatus is asked for either.
#[test]
fn small_messages_of_another_channel_show_that_large_datagrams_are_lost() {
    for (latency, interval) in [(20, 15), (20, 50), (50, 20), (50, 60), (100, 60)] {
        for (pieces, tail) in [(10, 100), (10, 500), (99, 100), (99, 900)] {
            let case = format!("{latency} ms, a message each {interval} ms, {pieces} pieces and {tail} bytes");
            let mtu = Rc::new(Cell::new(700));
            let mut link = narrow(latency * MS, &mtu);
            talk(&mut link, 20, interval * MS);
            // A piece has 1,400 bytes less two of CRC and four of head; the first also has the length.
            let large = pattern(1_390 + pieces * 1_394 + tail, 0);
            link.client.send(Message::new(ReliableChannel::ONE, large.clone())).unwrap();
            let (begin, count) = (link.now - link.start, 30_000 / interval);
            talk(&mut link, count, interval * MS);
            link.run(SECOND);
            let [learnt] = narrowed(&link)[..] else { panic!("{case}: {:?}", link.events) };
            assert!(learnt - begin < 8 * SECOND, "{case}: after {:?}", learnt - begin);
            assert!(link.received.len() >= 20 + count as usize, "{case}: {} of {count}", link.received.len());
            mtu.set(usize::MAX);
            link.run(4 * SECOND);
            assert_eq!(link.received.last().map(|message| message.payload.len()), Some(large.len()), "{case}");
        }
    }
}

/// A peer with a queue for each channel repeats its acknowledgement for what it cannot take. Some of these are lost.
#[test]
fn a_channel_that_nobody_reads_does_not_make_the_path_look_narrow() {
    let mut numbers = Numbers::new(5);
    let refused = Rc::new(Cell::new(0));
    let count = Rc::clone(&refused);
    let is_of_channel_one = |datagram: &[u8]| datagram[..2] == [0, 0x0A];
    let fate = move |to, _, datagram: &[u8]| {
        let is_refused = to == To::Server && is_of_channel_one(datagram) && datagram[2..4] != [0, 0];
        count.set(count.get() + u32::from(is_refused));
        (!is_refused).then_some(20 * MS)
    };
    let session = config().udp_length(1_400).unread_timeout(Duration::ZERO).build().unwrap();
    let mut link = Link::connected(session.clone(), session, Box::new(fate));
    for n in 0..10 {
        link.client.send(Message::new(ReliableChannel::ONE, pattern(1_300, n))).unwrap();
    }
    let mut repeated = 0;
    for _ in 0..5_000 {
        talk(&mut link, 1, 60 * MS);
        for _ in 0..refused.take() {
            if numbers.chance(0.8) {
                let acknowledgement = link.sealed(&[0, 0x16, 0, 0]);
                let _ = link.client.handle_datagram(link.now, acknowledgement);
                repeated += 1;
            }
        }
    }
    assert!(repeated > 200, "{repeated}");
    assert_eq!(narrowed(&link), [], "{:?}", link.events);
    assert!(link.client.is_connected() && link.received.len() >= 5_000);
}
