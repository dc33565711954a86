//! What is sent again, when, and how much of it.

use std::time::Duration;

use super::hand::{Hand, MS, SECOND, config, payload};

/// The packets of channel 0 among these, by their sequences.
fn sequences(packets: &[Vec<u8>]) -> Vec<u16> {
    let data = packets.iter().filter(|packet| packet[..2] == [0, 9] || packet[..2] == [0, 0x0d]);
    data.map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect()
}

/// A peer 60 ms away that has acknowledged ten messages: the session knows the link.
fn acquainted() -> Hand {
    let mut hand = Hand::shake(config());
    for n in 0..10 {
        hand.send(payload(400));
        assert_eq!(sequences(&hand.taken()), [n]);
        let _ = hand.wait(60 * MS);
        hand.acknowledge_all(n);
        let _ = hand.taken();
    }
    hand
}

/// Sends so many messages of one packet each, the first of which has this sequence, as far as the window takes them.
fn burst(hand: &mut Hand, first: u16, count: u16) {
    (0..count).for_each(|_| hand.send(payload(400)));
    let mut sent = sequences(&hand.taken());
    sent.extend(sequences(&hand.wait(20 * MS)));
    assert_eq!(sent, (first..first + count).collect::<Vec<_>>());
}

#[test]
fn a_late_timer_call_fires_the_resend_timer_once() {
    for late in [100 * MS, 300 * MS, SECOND, 10 * SECOND] {
        let mut hand = acquainted();
        burst(&mut hand, 10, 40);
        let before = hand.session.stats(hand.now);
        hand.now += late;
        hand.session.handle_timeout(hand.now);
        let after = hand.session.stats(hand.now);
        assert_eq!(after.resend_timeouts - before.resend_timeouts, 1, "{late:?} late");
        assert_eq!(after.congestion_window, before.congestion_window, "{late:?} late");
        assert_eq!(sequences(&hand.taken()), [10, 11], "{late:?} late");
        // All that was waiting in the socket: nothing has been lost, and nothing more is sent again.
        hand.acknowledge_all(49);
        assert!(sequences(&hand.wait(5 * SECOND)).is_empty(), "{late:?} late");
        assert!(hand.session.is_idle());
    }
}

#[test]
fn a_late_call_is_followed_by_a_whole_interval() {
    let mut hand = acquainted();
    burst(&mut hand, 10, 40);
    hand.now += 10 * SECOND;
    hand.session.handle_timeout(hand.now);
    let _ = hand.taken();
    assert!(sequences(&hand.wait(100 * MS)).is_empty(), "the timer fired again at once");
    // Then it is the turn of more of them than before, the oldest first.
    let again = sequences(&hand.wait(200 * MS));
    assert_eq!(again, [12, 13, 14, 15]);
}

#[test]
fn a_lost_tail_is_made_good_after_one_timer_towards_a_peer_that_acknowledges_cumulatively() {
    let mut hand = acquainted();
    burst(&mut hand, 10, 20);
    let begin = hand.now;
    // All are lost. The peer acknowledges what has arrived without a gap every 2 ms, and 60 ms away.
    let (mut arrived, mut expected, mut under_way) = (std::collections::BTreeSet::new(), 10, Vec::new());
    while !hand.session.is_idle() {
        assert!(hand.now < begin + SECOND, "{expected} of 30 after a second");
        for sequence in sequences(&hand.wait(2 * MS)) {
            under_way.push((hand.now + 60 * MS, sequence));
        }
        let now = hand.now;
        under_way.retain(|&(at, sequence)| at > now || !arrived.insert(sequence));
        let before = expected;
        while arrived.contains(&expected) {
            expected += 1;
        }
        if expected > before {
            hand.acknowledge_all(expected - 1);
        }
    }
    let stats = hand.session.stats(hand.now);
    assert!(stats.resend_timeouts <= 2, "{} timers", stats.resend_timeouts);
    assert!(hand.now - begin < 300 * MS, "{:?}", hand.now - begin);
}

#[test]
fn silence_for_three_timers_closes_the_congestion_window() {
    let mut hand = acquainted();
    burst(&mut hand, 10, 40);
    let open = hand.session.stats(hand.now).congestion_window;
    let _ = hand.wait(5 * SECOND);
    let stats = hand.session.stats(hand.now);
    assert!(stats.resend_timeouts >= 3 && open > 2_048, "{stats:?}");
    assert_eq!(stats.congestion_window, 2_048);
}

#[test]
fn a_packet_ahead_of_a_gap_is_acknowledged_each_time_that_it_comes() {
    let mut hand = Hand::shake(config());
    for _ in 0..5 {
        hand.data(1, b"ahead");
        let told = hand.wait(200 * MS);
        assert!(told.contains(&vec![0, 0x11, 0, 1]), "{told:x?}");
    }
    assert!(hand.messages().is_empty());
}

#[test]
fn an_acknowledgement_from_further_back_than_any_window_acknowledges_nothing() {
    let mut hand = Hand::shake(config().unacknowledged_timeout(Duration::ZERO));
    // Far enough that what is 30,001 behind is not before the beginning.
    for n in 0..31_000u16 {
        hand.send(payload(20));
        let _ = hand.taken();
        hand.acknowledge_all(n);
    }
    hand.send(payload(20));
    let _ = hand.taken();
    let bogus = |hand: &Hand| hand.session.stats(hand.now).bogus_acks;
    hand.acknowledge_all(31_001 - 30_000);
    assert_eq!(bogus(&hand), 0, "30,000 behind is old, and within the range");
    hand.acknowledge_all(31_001 - 30_001);
    hand.acknowledge(31_001 - 30_001);
    assert_eq!(bogus(&hand), 2);
}
