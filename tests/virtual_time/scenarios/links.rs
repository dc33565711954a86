//! Links as players have them.

use soe_testing::{Fault, LinkProfile, Network};
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND, Server};
use crate::{
    checker::{Habit, Side},
    support::config,
};

/// Sessions that talk for two minutes, both ways.
async fn conversation(seed: u64, link: LinkProfile) -> (Network, u64) {
    let network = Network::new(seed);
    network.link(link);
    let config = config().to_builder().connect_timeout(60 * SECOND).build().expect("valid");
    let server = Server::start(&network, config.clone(), Habit::talker(400, 250 * MILLISECOND));
    for _ in 0..3 {
        server.join(config.clone(), Habit::talker(400, 250 * MILLISECOND).closes_after(20 * SECOND)).await;
    }
    server.expect_end(400 * SECOND).await;
    server.checker.verify_all_lived();
    assert_eq!((server.checker.received(Side::Server), server.checker.received(Side::Client)), (1200, 1200));
    (network, server.checker.resent())
}

#[tokio::test(start_paused = true)]
async fn players_talk_over_bad_wireless_networks() {
    for seed in 0..2 {
        let (network, _) = conversation(seed, LinkProfile::wifi_bad()).await;
        network.stats().assert_happened_at_least(Fault::Lost, 50);
    }
}

#[tokio::test(start_paused = true)]
async fn players_talk_from_moving_phones() {
    for seed in 0..2 {
        let (network, _) = conversation(seed, LinkProfile::mobile()).await;
        network.stats().assert_happened(Fault::BlackedOut);
    }
}

#[tokio::test(start_paused = true)]
async fn players_talk_over_modems_and_oceans() {
    conversation(1, LinkProfile::dial_up()).await;
    let (network, _) = conversation(2, LinkProfile::transatlantic()).await;
    network.stats().assert_happened(Fault::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_link_of_eight_hundred_milliseconds_each_way_carries_a_conversation_without_needless_resends() {
    let (network, resent) = conversation(1, LinkProfile::lossless().delay(800 * MILLISECOND)).await;
    // Only what is sent before a round trip is known: a round trip of it, a few times.
    assert!(resent < 100, "{resent} of 2,400 messages are sent again; {} datagrams", network.stats().sent());
}

#[tokio::test(start_paused = true)]
async fn a_megabyte_over_eight_hundred_milliseconds_each_way_arrives_within_a_minute() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(800 * MILLISECOND));
    let (mut client, mut server) = network.pair(config()).await.expect("the server answers");
    let start = Instant::now();
    let (sent, received) = tokio::join!(client.send(vec![7; 1_000_000]), server.recv());
    sent.expect("open");
    assert_eq!(received.expect("open").expect("well").payload.len(), 1_000_000);
    assert!(start.elapsed() < 60 * SECOND, "{:?}", start.elapsed());
}

/// How long 1 MB takes on a link whose datagrams are up to 30 ms late, after so many seconds of light play.
async fn load_after_play(seed: u64, play: u32) -> std::time::Duration {
    let network = Network::new(seed);
    network.link(LinkProfile::lossless().delay(25 * MILLISECOND).jitter(30 * MILLISECOND).rate(10_000_000, 1_000_000));
    let (mut client, mut server) = network.pair(config()).await.expect("the server answers");
    for _ in 0..play * 20 {
        server.send(vec![1; 64]).await.expect("open");
        sleep(50 * MILLISECOND).await;
    }
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = client.recv().await {
            if message.payload.len() == 1_000_000 {
                break;
            }
        }
    });
    let start = Instant::now();
    server.send(vec![7; 1_000_000]).await.expect("open");
    reader.await.expect("it arrives");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_zone_loads_after_a_minute_of_play_on_a_jittery_link_as_it_does_at_once() {
    for seed in 0..3 {
        let (fresh, later) = (load_after_play(seed, 0).await, load_after_play(seed, 60).await);
        assert!(later <= fresh * 3 / 2, "{later:?} after a minute of play, {fresh:?} at once");
    }
}
