//! The protocol whole, in virtual time, over a bad network, through the public API of soe-core.
//!
//! Everything follows from one seed: a failing one is printed with the command that replays it (`SOE_SIM_SEED`). A long run:
//! `SOE_SIM_SEEDS=1000000 cargo test --release --test sim -- --nocapture`. `SOE_SIM_BASE` is the first seed: another run tries
//! other seeds.

mod account;
mod app;
mod endpoint;
mod network;
mod pattern;
mod rng;
mod runner;
mod scenarios;
#[path = "../common/server.rs"]
mod server;
mod settle;
mod traps;
mod world;

use runner::{Outcome, assert_reproducible, sweep};
use scenarios::{crowd, dialects, long, loss, moves, play, random, replayed};

/// A test that runs a scenario under so many seeds, and asserts of all of them together that it was put to the test.
macro_rules! scenarios {
    ($($name:ident: $seeds:literal of $scenario:path, $put_to_the_test:expr;)*) => {
        /// Seeds of all scenarios together in an ordinary run.
        const ALL_SEEDS: u64 = 0 $(+ $seeds)*;
        $(
        #[test]
        fn $name() {
            let put_to_the_test: fn(&Outcome) -> bool = $put_to_the_test;
            if let Some(total) = sweep(stringify!($name), $seeds, ALL_SEEDS, $scenario) {
                assert!(put_to_the_test(&total), "nothing was tested: {total:?}");
            }
        }
    )*};
}

scenarios! {
    whatever_is_chosen_at_random_every_message_arrives_once_and_in_order: 2_500 of random::everything, |total| {
        let network = total.network;
        let losses = network.lost > 0 && network.lost_in_bursts > 0 && network.queue_full > 0;
        let others = network.duplicated > 0 && network.overtaking > 0 && network.corrupted > 0 && network.truncated > 0;
        losses && others && total.key_switches > 1_000 && total.refused > 0
    };
    a_link_that_loses_half_each_way_delivers_everything: 300 of loss::half,
        |total| (4..6).contains(&(total.network.lost * 10 / total.network.offered)) ;
    losses_in_bursts_are_made_good: 300 of loss::bursts, |total| total.network.lost_in_bursts > 1_000;
    a_blackout_of_twenty_seconds_closes_nothing: 300 of loss::blackout, |total| total.network.blacked_out > 1_000;
    a_far_and_lossy_client_plays_under_the_defaults: 300 of loss::far, |total| total.network.lost > 1_000;
    who_acknowledges_every_half_second_is_sent_nothing_twice: 200 of loss::lazy, |total| total.messages > 10_000;
    a_path_that_is_narrow_for_a_while_loses_no_message: 200 of loss::narrow, |total| total.network.over_mtu > 0;
    a_path_that_stays_too_narrow_ends_the_session_with_a_reason: 20 of loss::too_narrow, |total| total.closed > 0;
    what_a_path_does_not_take_holds_up_its_own_channel_only: 24 of loss::one_channel_too_large,
        |total| total.network.over_mtu > 500;
    a_lost_last_acknowledgement_is_sent_again: 300 of loss::last_acknowledgement, |total| total.network.lost > 300;
    an_hour_of_game_traffic_at_five_percent_loss: 10 of loss::evening, |total| total.network.lost > 1_000;
    a_transfer_goes_on_when_the_client_gets_another_port: 300 of moves::remap, |total| total.remapped > 200;
    a_client_that_starts_again_at_once_is_let_in: 300 of moves::restart, |total| total.closed > 200;
    closing_in_the_midst_of_traffic_delivers_what_was_given: 400 of moves::close, |total| total.closed > 400;
    hundreds_of_sessions_share_a_server: 10 of crowd::hundreds, |total| total.network.lost > 1_000;
    two_hundred_players_behind_one_address_join_within_two_seconds: 20 of crowd::cafe, |total| total.network.lost > 100;
    a_zone_of_two_megabytes_loads_under_the_defaults: 40 of crowd::zone_in, |total| total.network.queue_full > 0;
    a_zone_loads_after_play_as_it_does_at_once: 80 of play::zone_after_play, |total| total.messages > 50_000;
    a_map_arrives_beside_movement_after_a_blackout: 16 of play::map_beside_movement, |total| total.network.blacked_out > 100;
    a_link_that_reorders_by_far_loads_a_zone_as_one_that_keeps_the_order: 24 of play::zone_over_reordering,
        |total| total.network.overtaking > 10_000;
    a_far_link_that_loses_three_of_ten_fills_a_wide_window: 4 of play::far_and_wide, |total| total.network.lost > 4_000;
    a_client_that_hangs_disturbs_nobody: 100 of crowd::hanging, |total| total.messages > 10_000;
    a_sequence_wraps_ten_times: 1 of long::ten_rounds, |total| total.messages > 10 << 16;
    sessions_of_every_preset_work_at_no_loss_and_at_five_percent: 100 of dialects::presets,
        |total| total.network.lost > 100 && total.messages > 5_000;
    every_recorded_session_is_replayed_and_says_the_same: 5_100 of replayed::everything, |total| {
        let network = total.network;
        network.lost > 0 && network.corrupted > 0 && total.key_switches > 1_000 && total.replayed >= 10_000
    };
    a_day_of_little_to_say: 20 of long::day, |total| total.messages > 100;
}

#[test]
fn one_seed_gives_one_trace() {
    for scenario in [random::everything, loss::half, moves::remap, moves::restart, crowd::hanging] {
        assert_reproducible(scenario);
    }
}
