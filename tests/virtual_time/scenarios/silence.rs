//! Peers that are gone without a word, and peers that are merely silent.

use soe_testing::Network;
use soe_tokio::DisconnectReason;
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND, Server, patient};
use crate::checker::{Habit, Side};

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
