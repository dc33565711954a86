//! Many clients on one server, none of which may notice the others or a limit.

use std::{net::SocketAddr, time::Duration};

use soe_core::SessionConfig;

use super::{MS, SECOND, address, finish};
use crate::{
    app::{Plan, Reading},
    network::{Bottleneck, Faults},
    pattern::Sizes,
    rng::Rng,
    runner::Outcome,
    world::World,
};

/// Hundreds of sessions, each over another kind of link.
pub(crate) fn hundreds(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 140);
    let config =
        SessionConfig::builder("Game").compression(rng.chance(0.5)).connect_timeout(30 * SECOND).build().unwrap();
    let mut world = World::new(seed, config.clone());
    for n in 0..rng.size(200, 300) {
        let faults =
            [(); 2].map(|()| Faults { jitter: rng.millis(0, 20), ..Faults::lossy(rng.range(1, 150), rng.share(0.05)) });
        let mut plan = || {
            let plan = Plan::send(rng.range(1, 10), Sizes::Orders(1_000)).and(4, 5, Sizes::Range(6, 100));
            plan.paced(2, rng.millis(10, 500))
        };
        let plans = [plan(), plan()];
        world.connect(config.clone(), address(n), faults, plans);
        world.run_for(rng.millis(0, 5));
    }
    world.run_for(20 * SECOND);
    world.calm();
    finish(world, 60 * SECOND)
}

/// 200 players behind one address join within two seconds, under default limits.
pub(crate) fn cafe(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 141);
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    for n in 0..200 {
        let faults = [(); 2].map(|()| Faults { jitter: 10 * MS, ..Faults::lossy(20, 0.02) });
        let place = SocketAddr::new(address(0).ip(), 40_000 + n);
        let plan = Plan::send(2, Sizes::Range(20, 300));
        world.connect(config.clone(), place, faults, [plan.clone(), plan]);
        world.run_for(rng.millis(0, 20));
    }
    let joined = |world: &World| {
        world.server.endpoint.sessions() == 200 && world.clients.iter().all(|client| client.endpoint.connected)
    };
    assert!(world.run_until(9 * SECOND, joined), "{} players have joined", world.server.endpoint.sessions());
    let stats = world.server.endpoint.stats().admission;
    let limited = stats.rate_limited + stats.over_capacity + stats.evicted + stats.mismatched;
    assert_eq!(limited, 0, "{stats:?}");
    world.calm();
    finish(world, 60 * SECOND)
}

/// A player enters a zone: 2 MB at once, over an ordinary line, under default limits.
pub(crate) fn zone_in(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 142);
    let config = SessionConfig::builder("Game").compression(rng.chance(0.3)).build().unwrap();
    let mut world = World::new(seed, config.clone());
    let bottleneck = Some(Bottleneck { rate: rng.range(500_000, 5_000_000), queue: rng.range(30_000, 200_000) });
    let down = Faults { bottleneck, ..Faults::lossy(rng.range(5, 60), rng.share(0.01)) };
    let burst = Plan::send(700, Sizes::Range(100, 6_000));
    let movement = Plan::idle().and(4, 200, Sizes::Range(20, 60)).paced(1, 50 * MS);
    world.connect(config, address(0), [Faults::lossy(30, rng.share(0.01)), down], [movement, burst]);
    let all = world.run_until(30 * SECOND, |world| world.clients[0].endpoint.app.has_all());
    assert!(all, "the zone has not loaded after {:?}", world.elapsed());
    world.calm();
    finish(world, 60 * SECOND)
}

/// A client whose program hangs for a while, then reads again, beside one that goes on undisturbed.
pub(crate) fn hanging(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 143);
    let config = SessionConfig::builder("Game").recv_buffer(rng.size(1, 50_000)).build().unwrap();
    let mut world = World::new(seed, config.clone());
    let bulk = Plan::send(100, Sizes::Range(1, 2_000));
    let faults = || [Faults::delay(20), Faults::delay(20)];
    let hanging = Plan { reading: Reading::Never, ..Plan::idle() };
    world.connect(config.clone(), address(0), faults(), [hanging, bulk.clone()]);
    world.connect(config, address(1), faults(), [bulk.clone(), bulk]);
    let undisturbed = |world: &World| world.clients[1].endpoint.app.has_all();
    assert!(world.run_until(10 * SECOND, undisturbed));
    world.run_for(Duration::from_secs(rng.range(0, 60)));
    assert_eq!(world.client(0).app.taken(), 0);
    world.client(0).app.plan.reading = Reading::AtOnce;
    world.touch(0);
    finish(world, 60 * SECOND)
}
