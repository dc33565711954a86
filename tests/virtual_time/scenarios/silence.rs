//! Peers that are gone without a word, and peers that are merely silent.

use soe_testing::{Fault, LinkProfile, Network};
use soe_tokio::DisconnectReason;
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND, Server, patient};
use crate::{
    checker::{Habit, Side},
    support::config,
};

/// A third above the time-out, and a moment for the timers.
fn noticed_within(timeout: std::time::Duration) -> std::time::Duration {
    timeout + timeout / 3 + 50 * MILLISECOND
}

#[tokio::test(start_paused = true)]
async fn who_is_gone_is_noticed_within_the_time_out_and_a_third() {
    let idle = Habit::listener();
    let chatty = Habit::talker(100_000, 700 * MILLISECOND);
    for (ours, theirs) in [(idle, idle), (chatty, idle), (idle, chatty), (chatty, chatty)] {
        for timeout in [3, 12, 30] {
            let network = Network::new(timeout);
            let timeout = u32::try_from(timeout).expect("short") * SECOND;
            let server = Server::start(&network, patient(timeout), ours);
            for _ in 0..3 {
                server.join(patient(timeout), theirs).await;
            }
            sleep(40 * SECOND + 300 * MILLISECOND).await;
            assert!(server.checker.ends(Side::Server).is_empty(), "nobody was gone yet");
            let gone = Instant::now();
            network.blackout(10_000 * SECOND);
            server.expect_end(2 * noticed_within(timeout) + 20 * SECOND).await;
            server.checker.verify();
            for side in [Side::Client, Side::Server] {
                for (closed, at) in server.checker.ends(side) {
                    assert_eq!(closed.reason, DisconnectReason::Timeout);
                    let after = at - gone;
                    assert!(after <= noticed_within(timeout), "{side:?}: {after:?} at a time-out of {timeout:?}");
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_thirds_of_the_time_out_ends_no_idle_session() {
    for seed in 0..3 {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().delay(30 * MILLISECOND));
        let server = Server::start(&network, config(), Habit::listener());
        // They join over half a minute, so that the outage meets each at another moment of its habits.
        for _ in 0..100 {
            server.join(config(), Habit::listener().closes_after(200 * SECOND)).await;
            sleep(300 * MILLISECOND).await;
        }
        sleep(u32::try_from(seed).expect("small") * 11 * SECOND).await;
        network.blackout(20 * SECOND);
        server.expect_end(400 * SECOND).await;
        server.checker.verify_all_lived();
        network.stats().assert_happened_at_least(Fault::BlackedOut, 20);
    }
}

#[tokio::test(start_paused = true)]
async fn idle_sessions_live_for_an_hour_on_a_link_that_loses_three_of_ten_datagrams() {
    let network = Network::new(3);
    network.link(LinkProfile::transatlantic().loss(soe_testing::Loss::Uniform(0.3)));
    let config = config().to_builder().connect_timeout(60 * SECOND).build().expect("valid");
    let server = Server::start(&network, config.clone(), Habit::listener());
    for _ in 0..20 {
        server.join(config.clone(), Habit::listener().closes_after(3600 * SECOND)).await;
    }
    server.expect_end(4000 * SECOND).await;
    server.checker.verify_all_lived();
    assert!(network.stats().loss() > 0.25);
}
