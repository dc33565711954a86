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

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_before_the_accept_reaches_the_application_though_the_client_has_closed() {
    for wait in [0, 1, 100, 3_000, 20_000] {
        let network = Network::new(wait);
        network.link(LinkProfile::lossless().delay(5 * MILLISECOND));
        let (listener, checker) = (listen(&network, backlog(1024)), Checker::default());
        for _ in 0..40 {
            let session = network.client(config()).await.expect("the server answers");
            let visit = Habit::talker(2, Duration::ZERO).closes_after(50 * MILLISECOND);
            tokio::spawn(checker.clone().live(session, Side::Client, visit));
        }
        sleep(u32::try_from(wait).expect("small") * MILLISECOND).await;
        tokio::spawn(accept_all(Arc::clone(&listener), checker.clone(), Habit::listener()));
        sleep(60 * SECOND).await;
        checker.verify();
        assert_eq!(checker.received(Side::Server), 80, "accepted {wait} ms late");
        expect_empty(&listener).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_accept_queue_whose_clients_have_gone_lets_others_in() {
    let network = Network::new(1);
    let listener = listen(&network, backlog(4));
    for _ in 0..4 {
        let session = network.client(config()).await.expect("the server answers");
        session.close(soe_tokio::DisconnectReason::Application).await;
    }
    sleep(40 * SECOND).await;
    let late = tokio::spawn({
        let network = network.clone();
        async move { network.client(config()).await }
    });
    sleep(3 * SECOND).await;
    let mut accepted = Vec::new();
    while let Ok(Some(incoming)) = tokio::time::timeout(SECOND, listener.accept()).await {
        accepted.push(incoming.accept().session_id());
    }
    let late = late.await.expect("no panic").expect("there is room").session_id();
    assert!(accepted.contains(&late), "{late:08x} is not among {accepted:08x?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_accept_queue_does_not_silence_the_status_query() {
    let network = Network::new(1);
    let admission = AdmissionConfig::builder(config())
        .accept_backlog(2)
        .server_status(Some(soe_core::StatusReply::new(|_| Some("open".into()))))
        .build()
        .expect("valid");
    let listener = listen(&network, admission.into());
    let mut waiting = Vec::new();
    for _ in 0..5 {
        let network = network.clone();
        waiting.push(tokio::spawn(async move { network.client(config()).await }));
    }
    sleep(2 * SECOND).await;
    let asks = network.connector(Network::client_address(100)).expect("bound");
    let answer = asks.query_status(Network::SERVER, 5 * SECOND).await.expect("an answer");
    assert_eq!(answer, "open");
    waiting.iter().for_each(|task| task.abort());
    drop(listener);
}

#[tokio::test(start_paused = true)]
async fn a_listener_that_is_dropped_while_clients_knock_leaves_no_session_open() {
    for seed in 0..20_u64 {
        let network = Network::new(seed);
        network.link(LinkProfile::lossless().jitter(20 * MILLISECOND)).report_unreachable(true);
        let listener = listen(&network, backlog(8));
        let knocking: Vec<_> = (0..20)
            .map(|_| {
                let network = network.clone();
                tokio::spawn(async move {
                    match network.client(config()).await {
                        Ok(session) => session.closed().await.is_some(),
                        Err(_) => true,
                    }
                })
            })
            .collect();
        sleep(Duration::from_millis(5 + 3 * seed)).await;
        drop(listener);
        for knock in knocking {
            // Who had an answer when the socket was closed finds out by itself.
            let ended = tokio::time::timeout(config().inactivity_timeout * 4 / 3, knock).await;
            assert!(ended.is_ok_and(|ended| ended.expect("no panic")), "a session stays open that nobody has");
        }
    }
}
