//! What waits to be accepted.

use std::{sync::Arc, time::Duration};

use soe_testing::{LinkProfile, Network};
use soe_tokio::{AdmissionConfig, ListenerConfig, SoeListener};
use tokio::time::{Instant, sleep};

use super::{MILLISECOND, SECOND};
use crate::{
    checker::{Checker, Habit, Side, accept_all, expect_empty},
    support::config,
};

fn backlog(sessions: usize) -> ListenerConfig {
    AdmissionConfig::builder(config()).accept_backlog(sessions).build().expect("valid").into()
}

fn listen(network: &Network, config: ListenerConfig) -> Arc<SoeListener> {
    Arc::new(network.listener(config).expect("bound"))
}

#[tokio::test(start_paused = true)]
async fn fifty_clients_get_through_a_short_accept_queue_within_a_second_and_a_half() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(10 * MILLISECOND));
    let (listener, checker) = (listen(&network, backlog(4)), Checker::default());
    tokio::spawn(accept_all(Arc::clone(&listener), checker.clone(), Habit::listener()));
    let start = Instant::now();
    let joining: Vec<_> = (0..50)
        .map(|_| {
            let (network, checker) = (network.clone(), checker.clone());
            tokio::spawn(async move {
                let session = network.client(config()).await.expect("the server answers");
                let joined = start.elapsed();
                checker.live(session, Side::Client, Habit::talker(3, SECOND).closes_after(SECOND)).await;
                joined
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for joined in joining {
        longest = longest.max(joined.await.expect("no client fails"));
    }
    sleep(10 * SECOND).await;
    checker.verify_all_lived();
    assert_eq!(checker.count(Side::Server), 50);
    expect_empty(&listener).await;
    assert!(longest < 1500 * MILLISECOND, "the last was in after {longest:?}");
}
