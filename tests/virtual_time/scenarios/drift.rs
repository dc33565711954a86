//! Clocks that run fast or slow.

use std::time::Duration;

use soe_testing::{LinkProfile, Machines};

use super::SECOND;
use crate::support::config;

/// How far a client's idea of the server's clock moves away from it, at most, in milliseconds; measured every minute.
fn worst_error(drift: f64, minutes: u32, link: impl Fn(u32) -> LinkProfile) -> i64 {
    let mut machines = Machines::new(1);
    let server = machines.add().expect("a runtime");
    let client = machines.add_with_drift(drift).expect("a runtime");
    let network = machines.network().clone();
    network.link(link(0));
    let listener = machines.enter(server, || network.listener(config()).expect("bound"));
    machines.spawn(server, async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(crate::support::echo(incoming.accept()));
        }
    });
    let joining = network.clone();
    let joined = machines.spawn(client, async move { joining.client(config()).await.expect("the server answers") });
    let session = machines.run_until_done(joined, 10 * SECOND);
    // Until it has asked several times.
    machines.run_for(200 * SECOND);
    let clock = |machines: &Machines| machines.enter(client, || session.server_clock());
    let (start, first) = (machines.elapsed(), clock(&machines).expect("it has asked"));
    let mut worst = 0;
    for minute in 0..minutes {
        network.link(link(minute));
        machines.run_for(60 * SECOND);
        let passed = (machines.elapsed() - start).as_millis() as i64;
        let shown = i64::from(clock(&machines).expect("it has asked").wrapping_sub(first));
        worst = worst.max((shown - passed).abs());
    }
    worst
}

fn delay(each_way: u64) -> LinkProfile {
    LinkProfile::lossless().delay(Duration::from_millis(each_way))
}

#[test]
fn the_servers_clock_is_known_within_half_a_round_trip_whatever_the_clients_clock_does() {
    for drift in [100.0, -50.0] {
        let worst = worst_error(drift, 8, |_| delay(20));
        // Both readings may be off by half a round trip and 5 ms.
        assert!(worst <= 2 * (20 + 5), "{worst} ms off at {drift} ppm");
    }
}

#[test]
fn a_link_that_becomes_slower_does_not_take_the_servers_clock_with_it() {
    let worst = worst_error(100.0, 12, |minute| delay(if minute < 4 { 5 } else { 30 }));
    assert!(worst <= 5 + 30 + 2 * 5, "{worst} ms off");
}

#[test]
fn sessions_between_clocks_that_drift_live_on() {
    for drift in [1000.0, -1000.0] {
        assert!(worst_error(drift, 5, |_| delay(20)) < 1_000);
    }
}
