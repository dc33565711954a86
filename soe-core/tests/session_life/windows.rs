//! A send window that is wider than what the peer holds.

use std::time::Duration;

use super::link::{Link, MS, Numbers, SECOND, config};

/// Sends 10,000 packets to a peer that holds 256, and returns how many were sent again and how long it took.
fn transfer(send_window: usize, loss: f64) -> (u64, Duration) {
    const MESSAGES: usize = 10_000;
    let client = config().window(send_window, 1 << 20).build().unwrap();
    let server = config().recv_window(256).window_discovery(false).build().unwrap();
    let mut numbers = Numbers::new(7);
    let fate = move |_, _, _: &[u8]| (!numbers.chance(loss)).then_some(30 * MS);
    let mut link = Link::connected(client, server, Box::new(fate));
    let begin = link.now;
    let mut queued = 0;
    while link.received.len() < MESSAGES {
        while queued < MESSAGES && link.client.send(vec![queued as u8 | 1; 480].into()).is_ok() {
            queued += 1;
        }
        link.run(5 * MS);
        assert!(link.now - begin < 300 * SECOND, "{} of {MESSAGES} have arrived", link.received.len());
    }
    let stats = link.client.stats(link.now);
    (stats.resent_lost + stats.resent_timeout, link.now - begin)
}

#[test]
fn a_window_wider_than_the_peers_costs_nothing_without_loss() {
    let (fitting, wide) = (transfer(256, 0.0), transfer(1_024, 0.0));
    assert_eq!((fitting.0, wide.0), (0, 0), "sent again");
    assert!(wide.1 <= fitting.1, "{wide:?} against {fitting:?}");
}

/// What is beyond the peer's window when a gap opens is sent for nothing, and no more than that.
#[test]
fn a_window_wider_than_the_peers_costs_a_bounded_share_where_one_datagram_of_a_hundred_is_lost() {
    let (fitting, wide) = (transfer(256, 0.01), transfer(1_024, 0.01));
    assert!(fitting.0 <= 10_000 / 50 && wide.0 <= 10_000 / 4, "{fitting:?} and {wide:?} were sent again");
    assert!(wide.1 <= fitting.1, "{wide:?} against {fitting:?}");
}
