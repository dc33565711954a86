//! Paths that lose, reorder and repeat.

use bytes::Bytes;
use futures_util::future::join_all;
use soe_core::{Channel, DisconnectReason, Origin};

use crate::{
    common::{Pair, ROLES, Role, Scene, payload, within},
    relay::{Faults, Relay},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_a_path_that_loses_reorders_and_repeats() {
    for (role, seed) in ROLES.into_iter().zip(1..) {
        let faults = Faults { seed, lost: 50, late: 50, repeated: 20, spared: 2 };
        let scene = Scene { faults: Some(faults), ..Scene::plain() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            for round in 0..10 {
                let messages: Vec<Bytes> = (0..30).map(|salt| payload(1 + salt * 97, round + salt)).collect();
                pair.exchange(Channel::default(), &messages).await;
            }
            let tally = pair.relay.as_ref().map(Relay::tally).expect("the scene has a relay");
            assert!(tally.lost > 10 && tally.late > 10 && tally.repeated > 2, "{tally:?}");
        })
        .await;
    }
}

/// The handshake takes part where it is repeated: by our client. Enough sessions that some of them lose a piece of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_over_a_path_that_loses_a_twentieth_lose_no_message() {
    for role in ROLES {
        let spared = match role {
            Role::OurServer => 1,
            Role::OurClient => 0,
        };
        let sessions = (100..120).map(|seed| async move {
            let faults = Faults { seed, lost: 50, late: 0, repeated: 0, spared };
            let mut pair = Pair::meet(role, &Scene { faults: Some(faults), ..Scene::plain() }).await;
            let messages: Vec<Bytes> = (0..20).map(|salt| payload(1 + salt * 150, salt)).collect();
            pair.exchange(Channel::default(), &messages).await;
            let closed = pair.ours.close(DisconnectReason::Application).await.expect("the runtime goes on");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Local));
            pair.relay.as_ref().map(Relay::tally).expect("the scene has a relay").lost
        });
        let lost: u64 = within(role, join_all(sessions)).await.into_iter().sum();
        assert!(lost > 40, "{role:?}: {lost} datagrams lost");
    }
}
