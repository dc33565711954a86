//! The peer's receive window: named by one of ours, assumed of everybody else (section 8.1 of `docs/protocol.md`).

use std::time::Duration;

use soe_testing::{Fault, LinkProfile, Loss, Network};
use soe_tokio::{SessionConfig, SessionStats, SoeSession};
use tokio::time::Instant;

use super::{
    MILLISECOND, SECOND,
    holder::{Beyond, Holder, HolderPeer, Seen, Status},
};
use crate::support::config;

const DELAY: Duration = Duration::from_millis(25);

fn link(loss: f64) -> LinkProfile {
    LinkProfile::lossless().delay(DELAY).loss(if loss > 0.0 { Loss::Uniform(loss) } else { Loss::None })
}

/// A message that says which it is. The 1 in front is no packet's first byte.
fn message(number: u32, length: usize) -> Vec<u8> {
    let mut message = vec![1; length];
    message[1..5].copy_from_slice(&number.to_be_bytes());
    message
}

/// Megabytes a second of 8 MiB in messages of 1 KiB, between two ends of ours.
async fn load(seed: u64, loss: f64, from_client: bool, config: SessionConfig) -> (f64, [SessionStats; 2]) {
    const COUNT: u32 = 8 << 10;
    let network = Network::new(seed);
    network.link(link(loss));
    let (client, server) = network.pair(config).await.expect("the server answers");
    let (mut from, mut to) = if from_client { (client, server) } else { (server, client) };
    let start = Instant::now();
    let send = async {
        for number in 0..COUNT {
            from.send(message(number, 1 << 10)).await.expect("open");
        }
        from
    };
    let receive = async {
        for number in 0..COUNT {
            let received = to.recv().await.expect("open").expect("well");
            assert_eq!(received.payload[1..5], number.to_be_bytes());
        }
        (Instant::now(), to)
    };
    let (from, (end, to)) = tokio::join!(send, receive);
    if loss > 0.0 {
        network.stats().assert_happened_at_least(Fault::Lost, 100);
    }
    ((8 << 20) as f64 / 1e6 / (end - start).as_secs_f64(), [from.stats(), to.stats()])
}

/// The median over a few seeds and both directions.
async fn median(loss: f64, config: &SessionConfig) -> f64 {
    let mut rates = Vec::new();
    for seed in 0..3 {
        for from_client in [true, false] {
            rates.push(load(seed, loss, from_client, config.clone()).await.0);
        }
    }
    rates.sort_by(f64::total_cmp);
    println!("{loss}: {rates:.1?} MB/s");
    rates[rates.len() / 2]
}

#[tokio::test(start_paused = true)]
async fn two_ends_of_ours_fill_a_long_link_without_configuration() {
    for (loss, goal) in [(0.0, 16.0), (0.01, 9.0), (0.05, 6.0)] {
        let rate = median(loss, &config()).await;
        assert!(rate >= goal, "{rate:.1} MB/s at {loss} loss");
    }
}

#[tokio::test(start_paused = true)]
async fn either_end_can_keep_to_the_assumed_window() {
    let fixed = config().to_builder().window_discovery(false).build().expect("valid");
    let (rate, stats) = load(1, 0.0, true, fixed.clone()).await;
    assert_eq!(stats.map(|stats| stats.peer_window), [None, None]);
    assert!(rate < 2.0, "{rate:.1} MB/s");
    let (_, stats) = load(1, 0.0, true, config()).await;
    assert_eq!(stats.map(|stats| stats.peer_window), [Some(6_144), Some(6_144)]);
    for (client, server) in [(config(), fixed.clone()), (fixed, config())] {
        let network = Network::new(1);
        let listener = network.listener(server).expect("a simulated socket can be bound");
        let (client, incoming) = tokio::join!(network.client(client), listener.accept());
        let (client, server) = (client.expect("the server answers"), incoming.expect("lives").accept());
        tokio::time::sleep(SECOND).await;
        assert_eq!([client, server].map(|session| session.stats().peer_window), [None, None]);
    }
}

/// Sends so many messages of 1,000 bytes to such a receiver, and returns what it and the session saw.
async fn bulk(seed: u64, loss: f64, holder: Holder, config: SessionConfig, to_client: bool) -> (Seen, SessionStats) {
    const COUNT: u32 = 600;
    let network = Network::new(seed);
    network.link(link(loss));
    let (mut peer, session): (HolderPeer, SoeSession);
    let mut _listener = None;
    if to_client {
        let listener = network.listener(config).expect("a simulated socket can be bound");
        let (connected, incoming) = tokio::join!(HolderPeer::connect(&network, holder), listener.accept());
        (peer, session) = (connected, incoming.expect("the listener lives").accept());
        _listener = Some(listener);
    } else {
        let (accepted, connected) = tokio::join!(HolderPeer::accept(&network, holder), network.client(config));
        (peer, session) = (accepted, connected.expect("the server answers"));
    }
    let mut session = session;
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            if session.send(message(number, 1_000)).await.is_err() {
                break;
            }
        }
        session
    });
    let seen = peer.take(COUNT, 120 * SECOND).await;
    let session = sending.await.expect("no panic");
    (seen, session.stats())
}

/// The receivers of section 13 and of the table in section 7.4, and smaller ones.
fn receivers() -> Vec<(&'static str, Holder)> {
    let plain = Holder {
        holds: 256,
        beyond: Beyond::Dropped,
        status: Status::Answered,
        ack_delay: Duration::ZERO,
        selective: true,
    };
    vec![
        ("soe-protocol 2.3", Holder { beyond: Beyond::TakesAPlace, status: Status::Unanswered, ..plain }),
        ("the same, if it answered", Holder { beyond: Beyond::TakesAPlace, ..plain }),
        (
            "eq-network-transport",
            Holder { holds: 2_048, beyond: Beyond::Fails, ack_delay: 100 * MILLISECOND, selective: false, ..plain },
        ),
        ("h1z1-server", Holder { ack_delay: 24 * MILLISECOND, ..plain }),
        ("PlanetSide 2 client", Holder { ack_delay: 500 * MILLISECOND, ..plain }),
        ("EverQuest client", Holder { holds: 300, ..plain }),
        ("the original", Holder { holds: 400, ack_delay: 50 * MILLISECOND, ..plain }),
        ("196 packets", Holder { holds: 196, ..plain }),
        ("64 packets", Holder { holds: 64, ..plain }),
        ("32 packets", Holder { holds: 32, ..plain }),
        ("32 packets, acknowledged together", Holder { holds: 32, selective: false, ..plain }),
        ("one that returns what it is told", Holder { status: Status::Mirrored, ..plain }),
        ("the same, with a place to take", Holder { status: Status::Mirrored, beyond: Beyond::TakesAPlace, ..plain }),
    ]
}

#[tokio::test(start_paused = true)]
async fn who_names_no_window_is_sent_no_more_than_before_and_as_fast() {
    let fixed = config().to_builder().window_discovery(false).build().expect("valid");
    for (name, holder) in receivers() {
        for to_client in [true, false] {
            for loss in [0.0, 0.02] {
                let (seen, stats) = bulk(3, loss, holder, config(), to_client).await;
                let (before, _) = bulk(3, loss, holder, fixed.clone(), to_client).await;
                let what = format!("{name}, to a client: {to_client}, {loss} lost: {seen:?}, before {before:?}");
                assert!(seen.furthest < 256, "{what}");
                assert_eq!((seen.wrong, seen.failed, stats.peer_window), (0, false, None), "{what}");
                if holder.status == Status::Unanswered && !to_client {
                    // It is asked three times more, which changes what is lost.
                    let more = seen.bytes.saturating_sub(before.bytes);
                    assert!(loss > 0.0 || more * 100 < before.bytes && seen.elapsed <= before.elapsed, "{what}");
                } else {
                    assert_eq!((seen.bytes, seen.elapsed), (before.bytes, before.elapsed), "{what}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_models_fail_where_the_implementations_do() {
    // A fixed window larger than theirs shows that the scenarios above would notice.
    let large = config().to_builder().window(4_096, 2 << 20).build().expect("valid");
    let (mut wrong, mut failed) = (0, false);
    for (_, holder) in receivers() {
        let (seen, _) = bulk(3, 0.02, holder, large.clone(), false).await;
        wrong += seen.wrong;
        failed |= seen.failed;
    }
    assert!(wrong > 0, "no packet has taken the place of another");
    let holder = Holder { holds: 300, beyond: Beyond::Fails, ..receivers()[0].1 };
    failed |= bulk(3, 0.02, holder, large, false).await.0.failed;
    assert!(failed, "no packet was too far ahead");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_names_fewer_packets_is_sent_no_more() {
    for (to_client, names) in [(true, 40), (false, 40), (true, 1), (false, 200)] {
        let holder = Holder {
            holds: 256,
            beyond: Beyond::Fails,
            status: Status::Names(names),
            ack_delay: Duration::ZERO,
            selective: true,
        };
        let (seen, stats) = bulk(5, 0.02, holder, config(), to_client).await;
        assert_eq!((seen.wrong, seen.failed, stats.peer_window), (0, false, Some(u32::from(names))));
        assert!(seen.furthest < names.max(64 + 1), "{seen:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_makes_its_peer_wait_and_not_repeat() {
    const COUNT: u32 = 12 << 10;
    let network = Network::new(2);
    network.link(link(0.0));
    let (mut client, mut server) = network.pair(config()).await.expect("the server answers");
    let sending = tokio::spawn(async move {
        for number in 0..COUNT {
            client.send(message(number, 1 << 10)).await.expect("open");
        }
        client
    });
    for number in 0..COUNT {
        // A megabyte a second.
        if number % 64 == 0 {
            tokio::time::sleep(64 * MILLISECOND).await;
        }
        let received = server.recv().await.expect("open").expect("well");
        assert_eq!(received.payload[1..5], number.to_be_bytes());
    }
    let stats = sending.await.expect("no panic").stats();
    let again = stats.resent_lost + stats.resent_timeout;
    assert!(again * 20 < stats.reliable_sent, "{again} of {} packets are sent again", stats.reliable_sent);
}
