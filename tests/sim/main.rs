//! The protocol whole, in virtual time, over a bad network, through the public API of soe-core.
//!
//! Everything follows from one seed: a failing one is printed with the command that replays it (`SOE_SIM_SEED`). A long run:
//! `SOE_SIM_SEEDS=1000000 cargo test --release --test sim -- --nocapture`.

mod app;
mod endpoint;
mod network;
mod pattern;
mod rng;
mod runner;
mod scenarios;
mod server;
mod world;

use runner::{assert_reproducible, sweep};
use scenarios::random;

#[test]
fn whatever_is_chosen_at_random_every_message_arrives_once_and_in_order() {
    let name = "whatever_is_chosen_at_random_every_message_arrives_once_and_in_order";
    let Some(total) = sweep(name, 3_000, random::everything) else { return };
    let network = total.network;
    assert!(network.lost > 0 && network.lost_in_bursts > 0 && network.queue_full > 0, "{network:?}");
    assert!(network.duplicated > 0 && network.overtaking > 0, "{network:?}");
    assert!(network.corrupted > 0 && network.truncated > 0, "{network:?}");
    assert!(total.key_switches > 1_000 && total.refused > 0);
}

#[test]
fn one_seed_gives_one_trace() {
    assert_reproducible(random::everything);
}
