//! What is sent again, when, and how much of it.

use std::time::Duration;

use super::manual_peer::{MS, ManualPeer, SECOND, config, payload};

/// The packets of channel 0 among these, by their sequences.
fn sequences(packets: &[Vec<u8>]) -> Vec<u16> {
    let data = packets.iter().filter(|packet| packet[..2] == [0, 9] || packet[..2] == [0, 0x0d]);
    data.map(|packet| u16::from_be_bytes([packet[2], packet[3]])).collect()
}

/// A peer 60 ms away that has acknowledged ten messages: the session knows the link.
fn acquainted() -> ManualPeer {
    let mut peer = ManualPeer::connected(config());
    for n in 0..10 {
        peer.send(payload(400));
        assert_eq!(sequences(&peer.taken()), [n]);
        let _ = peer.wait(60 * MS);
        peer.acknowledge_all(n);
        let _ = peer.taken();
    }
    peer
}

/// Sends so many messages of one packet each, the first of which has this sequence, as far as the window takes them.
fn burst(peer: &mut ManualPeer, first: u16, count: u16) {
    (0..count).for_each(|_| peer.send(payload(400)));
    let mut sent = sequences(&peer.taken());
    sent.extend(sequences(&peer.wait(20 * MS)));
    assert_eq!(sent, (first..first + count).collect::<Vec<_>>());
}

#[test]
fn a_late_timer_call_fires_the_resend_timer_once() {
    for late in [100 * MS, 300 * MS, SECOND, 10 * SECOND] {
        let mut peer = acquainted();
        burst(&mut peer, 10, 40);
        let before = peer.session.stats(peer.now);
        peer.now += late;
        peer.session.handle_timeout(peer.now);
        let after = peer.session.stats(peer.now);
        assert_eq!(after.resend_timeouts - before.resend_timeouts, 1, "{late:?} late");
        assert_eq!(after.congestion_window, before.congestion_window, "{late:?} late");
        assert_eq!(sequences(&peer.taken()), [10, 11], "{late:?} late");
        // All that was waiting in the socket: nothing has been lost, and nothing more is sent again.
        peer.acknowledge_all(49);
        assert!(sequences(&peer.wait(5 * SECOND)).is_empty(), "{late:?} late");
        assert!(peer.session.is_idle());
    }
}

#[test]
fn a_late_call_is_followed_by_a_whole_interval() {
    let mut peer = acquainted();
    burst(&mut peer, 10, 40);
    peer.now += 10 * SECOND;
    peer.session.handle_timeout(peer.now);
    let _ = peer.taken();
    assert!(sequences(&peer.wait(100 * MS)).is_empty(), "the timer fired again at once");
    // Then it is the turn of more of them than before, the oldest first.
    let again = sequences(&peer.wait(200 * MS));
    assert_eq!(again, [12, 13, 14, 15]);
}

#[test]
fn a_lost_tail_is_made_good_after_one_timer_towards_a_peer_that_acknowledges_cumulatively() {
    let mut peer = acquainted();
    burst(&mut peer, 10, 20);
    let begin = peer.now;
    // All are lost. The peer acknowledges what has arrived without a gap every 2 ms, and 60 ms away.
    let (mut arrived, mut expected, mut under_way) = (std::collections::BTreeSet::new(), 10, Vec::new());
    while !peer.session.is_idle() {
        assert!(peer.now < begin + SECOND, "{expected} of 30 after a second");
        for sequence in sequences(&peer.wait(2 * MS)) {
            under_way.push((peer.now + 60 * MS, sequence));
        }
        let now = peer.now;
        under_way.retain(|&(at, sequence)| at > now || !arrived.insert(sequence));
        let before = expected;
        while arrived.contains(&expected) {
            expected += 1;
        }
        if expected > before {
            peer.acknowledge_all(expected - 1);
        }
    }
    let stats = peer.session.stats(peer.now);
    assert!(stats.resend_timeouts <= 2, "{} timers", stats.resend_timeouts);
    assert!(peer.now - begin < 300 * MS, "{:?}", peer.now - begin);
}

#[test]
fn silence_for_three_timers_closes_the_congestion_window() {
    let mut peer = acquainted();
    burst(&mut peer, 10, 40);
    let open = peer.session.stats(peer.now).congestion_window;
    let _ = peer.wait(5 * SECOND);
    let stats = peer.session.stats(peer.now);
    assert!(stats.resend_timeouts >= 3 && open > 2_048, "{stats:?}");
    assert_eq!(stats.congestion_window, 2_048);
}

#[test]
fn a_packet_ahead_of_a_gap_is_acknowledged_each_time_that_it_comes() {
    let mut peer = ManualPeer::connected(config());
    for _ in 0..5 {
        peer.data(1, b"ahead");
        let told = peer.wait(200 * MS);
        assert!(told.contains(&vec![0, 0x11, 0, 1]), "{told:x?}");
    }
    assert!(peer.messages().is_empty());
}

#[test]
fn an_acknowledgement_from_further_back_than_any_window_acknowledges_nothing() {
    let mut peer = ManualPeer::connected(config().unacknowledged_timeout(Duration::ZERO));
    // Far enough that what is 30,001 behind is not before the beginning.
    for n in 0..31_000u16 {
        peer.send(payload(20));
        let _ = peer.taken();
        peer.acknowledge_all(n);
    }
    peer.send(payload(20));
    let _ = peer.taken();
    let bogus = |peer: &ManualPeer| peer.session.stats(peer.now).bogus_acks;
    peer.acknowledge_all(31_001 - 30_000);
    assert_eq!(bogus(&peer), 0, "30,000 behind is old, and within the range");
    peer.acknowledge_all(31_001 - 30_001);
    peer.acknowledge(31_001 - 30_001);
    assert_eq!(bogus(&peer), 2);
}
