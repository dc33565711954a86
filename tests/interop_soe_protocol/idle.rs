//! Two minutes of silence, four inactivity time-outs of both sides.

use std::time::Duration;

use soe_testing::Network;
use tokio::time::sleep;

use crate::{
    common::Scene,
    virtual_time::{Foreign, client, network, talk, theirs_joins_ours},
};

const IDLE: Duration = Duration::from_secs(120);
/// The datagrams of both sides in that time: at most about one in three seconds from each.
const IDLE_COST: u64 = 80;

#[tokio::test(start_paused = true)]
async fn an_idle_client_of_theirs_stays_on_our_server() {
    let (net, scene) = (network(), Scene::plain());
    let listener = net.listener(scene.ours.clone()).unwrap();
    let mut theirs = Foreign::new(&net, client(0), &scene);
    let mut ours = theirs_joins_ours(&mut theirs, &listener).await;
    stays_idle(&net).await;
    talk(&mut ours, &mut theirs).await;
}

async fn stays_idle(net: &Network) {
    let before = net.stats().sent();
    sleep(IDLE).await;
    let sent = net.stats().sent() - before;
    assert!((2..=IDLE_COST).contains(&sent), "{sent} datagrams in {IDLE:?}");
}
