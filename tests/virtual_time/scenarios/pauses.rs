//! Processes that stop for a while: a laptop that sleeps, a machine that is moved, a debugger.

use std::time::Duration;

use soe_testing::{Fault, LinkProfile, SocketLimits};
use soe_tokio::{DisconnectReason, SessionConfig};

use super::{MILLISECOND, SECOND, Worlds, patient};
use crate::{
    checker::{Habit, Side},
    support::config,
};

const TALKERS: usize = 6;

/// Clients that talk and clients that are idle, around a pause of one of the machines.
fn lives_through(seed: u64, pause: Duration, server: &SessionConfig, client: &SessionConfig, server_stops: bool) {
    let habit = Habit::talker(60, 2 * SECOND);
    let mut worlds = Worlds::start(seed, server.clone(), habit);
    worlds.machines.network().link(LinkProfile::lossless().delay(20 * MILLISECOND));
    for _ in 0..TALKERS {
        worlds.join(client, Habit::talker(200, 500 * MILLISECOND).closes_after(20 * SECOND + pause));
    }
    for _ in 0..2 {
        worlds.join(client, Habit::listener().closes_after(120 * SECOND + pause));
    }
    worlds.machines.run_for(3 * SECOND);
    let stopped = if server_stops { worlds.server } else { worlds.clients };
    worlds.machines.pause(stopped, pause);
    worlds.expect_end(300 * SECOND + pause);
    worlds.checker.verify_all_lived();
    assert_eq!(worlds.checker.count(Side::Server), TALKERS + 2);
    worlds.machines.network().stats().assert_happened(Fault::Paused);
}

#[test]
fn a_server_that_is_stopped_for_less_than_the_time_out_loses_nobody() {
    for (seed, pause) in [(1, 1), (2, 7), (3, 20)] {
        lives_through(seed, pause * SECOND, &config(), &config(), true);
    }
}

#[test]
fn a_server_that_is_stopped_for_longer_than_its_time_out_ends_no_session_whose_client_went_on() {
    for (seed, pause) in [(1, 32), (2, 60)] {
        lives_through(seed, pause * SECOND, &config(), &patient(200 * SECOND), true);
    }
}

#[test]
fn a_client_that_slept_longer_than_its_time_out_goes_on_with_a_server_that_waited() {
    for (seed, pause) in [(1, 10), (2, 45)] {
        lives_through(seed, pause * SECOND, &patient(200 * SECOND), &config(), false);
    }
}

#[test]
fn a_thread_that_is_blocked_for_longer_than_a_short_time_out_ends_nobody() {
    for seed in 1..4 {
        lives_through(seed, 3500 * MILLISECOND, &patient(3 * SECOND), &patient(30 * SECOND), true);
    }
}

#[test]
fn a_receive_buffer_that_overflows_during_a_pause_ends_nobody() {
    let mut worlds = Worlds::start(5, config(), Habit::listener());
    let network = worlds.machines.network().clone();
    network.set_socket_limits_of(soe_testing::Network::SERVER, SocketLimits::default().recv_buffer(16_000));
    for _ in 0..8 {
        worlds.join(&patient(200 * SECOND), Habit::talker(300, 200 * MILLISECOND).closes_after(30 * SECOND));
    }
    worlds.machines.run_for(SECOND);
    worlds.machines.pause(worlds.server, 32 * SECOND);
    worlds.expect_end(300 * SECOND);
    worlds.checker.verify_all_lived();
    network.stats().assert_happened_at_least(Fault::BufferFull, 50);
}

#[test]
fn who_is_gone_when_a_stopped_server_continues_is_still_noticed() {
    let mut worlds = Worlds::start(1, patient(12 * SECOND), Habit::listener());
    for _ in 0..4 {
        worlds.join(&config(), Habit::talker(1000, SECOND));
    }
    worlds.machines.run_for(5 * SECOND);
    worlds.machines.pause(worlds.server, 20 * SECOND);
    worlds.machines.kill(worlds.clients);
    worlds.checker.all_killed(Side::Client);
    worlds.machines.run_for(20 * SECOND);
    assert!(worlds.checker.ends(Side::Server).is_empty());
    worlds.machines.run_for(16 * SECOND + 100 * MILLISECOND);
    let ends = worlds.checker.ends(Side::Server);
    assert_eq!(ends.len(), 4, "noticed within the time-out and a third");
    assert!(ends.iter().all(|(closed, _)| closed.reason == DisconnectReason::Timeout), "{ends:?}");
    worlds.expect_end(10 * SECOND);
    worlds.checker.verify();
}

/// How many datagrams a transfer on a link of 30 ms takes, whose sender or receiver is called late once.
fn datagrams_of_transfer(stall: Duration, sender_stalls: bool) -> u64 {
    let mut worlds = Worlds::start(1, config(), Habit::listener());
    worlds.machines.network().link(LinkProfile::lossless().delay(15 * MILLISECOND));
    let bulk = Habit { size: 1000, ..Habit::talker(2000, 2 * MILLISECOND) };
    let (network, checker) = (worlds.machines.network().clone(), worlds.checker.clone());
    worlds.join(&config(), bulk.closes_after(SECOND));
    worlds.machines.run_for(2 * SECOND);
    assert!(network.stats().sent() > 500, "the stall comes too early");
    let stalls = if sender_stalls { worlds.clients } else { worlds.server };
    worlds.machines.pause(stalls, stall);
    worlds.expect_end(60 * SECOND);
    checker.verify_all_lived();
    network.stats().sent()
}

#[test]
fn a_late_timer_call_sends_nothing_again_whose_acknowledgement_waits_in_the_socket() {
    let smooth = datagrams_of_transfer(Duration::ZERO, true);
    for stall in [250, 1000, 3000] {
        let late = datagrams_of_transfer(stall * MILLISECOND, true);
        assert!(late <= smooth + 20, "{late} datagrams with a stall of {stall} ms, {smooth} without");
    }
}

#[test]
fn a_receiver_that_is_called_late_costs_its_sender_few_resends() {
    let smooth = datagrams_of_transfer(Duration::ZERO, false);
    for stall in [250, 1000, 3000] {
        let late = datagrams_of_transfer(stall * MILLISECOND, false);
        assert!(late <= smooth + 300, "{late} datagrams with a stall of {stall} ms, {smooth} without");
    }
}

#[test]
fn a_whole_world_that_stops_at_once_continues_where_it_was() {
    for pause in [5, 31, 3600] {
        let mut worlds = Worlds::start(pause, config(), Habit::talker(20, SECOND));
        for _ in 0..4 {
            worlds.join(&config(), Habit::talker(20, SECOND).closes_after(10 * SECOND));
        }
        worlds.machines.run_for(5 * SECOND);
        let (pause, both) = (Duration::from_secs(pause), [worlds.server, worlds.clients]);
        both.into_iter().for_each(|machine| worlds.machines.pause(machine, pause));
        worlds.expect_end(120 * SECOND + pause);
        worlds.checker.verify_all_lived();
    }
}
