//! Time in which nobody drives a session is nobody's silence.

use soe_core::{DisconnectReason, Session};

use super::link::{Link, MS, SECOND, config, delay, plain};

fn reason(session: &Session) -> Option<DisconnectReason> {
    session.closed().map(|closed| closed.reason)
}

#[test]
fn an_inactivity_timer_that_is_called_late_asks_before_it_ends_anything() {
    for pause in [1, 5, 25, 31, 60, 3_600] {
        let mut link = Link::plain();
        link.run(10 * SECOND);
        // Nothing of the peer's waits to be read: its host was asleep as well.
        link.now += pause * SECOND;
        let before = link.sent[0].len();
        link.drive();
        link.take();
        link.flush();
        assert_eq!((reason(&link.client), reason(link.server())), (None, None), "after {pause} s");
        assert!(link.sent[0].len() > before || pause < 10, "the server is asked");
        link.run(120 * SECOND);
        assert!(link.client.is_connected() && link.server().is_connected(), "after {pause} s");
    }
}

#[test]
fn a_short_time_out_survives_a_blocked_thread_that_was_longer() {
    let short = config().inactivity_timeout(3 * SECOND).build().unwrap();
    let mut link = Link::connected(short.clone(), short, delay(20 * MS));
    for _ in 0..20 {
        link.run(2 * SECOND);
        link.now += 3_500 * MS;
        link.drive();
    }
    link.run(10 * SECOND);
    assert!(link.client.is_connected() && link.server().is_connected());
}

#[test]
fn a_peer_that_has_gone_is_noticed_within_a_third_of_the_time_out_after_a_pause() {
    for pause in [2, 10, 29, 40, 500] {
        let mut link = Link::plain();
        link.run(10 * SECOND);
        link.server = None;
        link.fate = Box::new(|_, _, _| None);
        let gone = link.now;
        link.now += pause * SECOND;
        let woken = link.now;
        link.drive();
        link.run(60 * SECOND);
        let (at, _) = link.events.last().copied().unwrap();
        assert_eq!(reason(&link.client), Some(DisconnectReason::Timeout));
        let closed = link.start + at;
        assert!(closed <= (gone + 40 * SECOND).max(woken + 10 * SECOND), "{:?} after the pause", closed - woken);
        assert!(closed >= woken + 5 * SECOND, "there was time to answer");
    }
}

#[test]
fn a_driver_that_is_always_late_notices_a_peer_that_has_gone_all_the_same() {
    for late in [MS * 300, SECOND, 3 * SECOND, 12 * SECOND] {
        let mut link = Link::plain();
        link.run(10 * SECOND);
        let gone = link.now;
        while link.client.closed().is_none() {
            link.now = link.client.poll_timeout().unwrap() + late;
            let now = link.now;
            link.client.handle_timeout(now);
            while link.client.poll_transmit(now, &mut Vec::new()).is_some() {}
            assert!(link.now < gone + 200 * SECOND, "never noticed when called {late:?} late");
        }
        let bound = if late <= 3 * SECOND { 40 * SECOND + late } else { 40 * SECOND + 12 * late };
        assert!(link.now <= gone + bound, "{:?} when called {late:?} late", link.now - gone);
    }
}

#[test]
fn a_client_that_was_paused_while_connecting_asks_again() {
    let mut link = Link::new(plain(), plain(), delay(10 * MS));
    link.flush();
    link.fate = Box::new(|_, _, _| None);
    link.run(3 * SECOND);
    link.fate = delay(10 * MS);
    link.now += 20 * SECOND;
    link.drive();
    assert_eq!(reason(&link.client), None);
    link.run(SECOND);
    assert!(link.client.is_connected());
}

#[test]
fn closing_that_was_paused_still_delivers() {
    let mut link = Link::plain();
    link.client.send(vec![1; 1_000].into()).unwrap();
    let now = link.now;
    link.client.close(now, DisconnectReason::Application);
    link.fate = Box::new(|_, _, _| None);
    link.run(SECOND);
    link.fate = delay(10 * MS);
    link.now += 20 * SECOND;
    link.drive();
    link.run(3 * SECOND);
    assert_eq!(link.received.len(), 1);
    assert_eq!(link.client.undelivered().messages, 0);
}

#[test]
fn reliable_packets_are_not_given_up_for_the_time_of_a_pause() {
    let mut link = Link::plain();
    link.fate = Box::new(|_, _, _| None);
    link.client.send(vec![1; 100].into()).unwrap();
    link.run(5 * SECOND);
    link.fate = delay(10 * MS);
    link.now += 100 * SECOND;
    link.drive();
    assert_eq!(reason(&link.client), None);
    link.run(5 * SECOND);
    assert_eq!(link.received.len(), 1);
}
