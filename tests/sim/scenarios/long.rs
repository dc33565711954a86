//! Sessions that last.

use soe_core::SessionConfig;

use super::{MS, SECOND, address, finish};
use crate::{app::Plan, network::Faults, pattern::Sizes, rng::Rng, runner::Outcome, world::World};

/// Sixteen bits of sequence.
const ROUND: u64 = 1 << 16;

/// A channel's sequence wraps ten times, each packet with one small message.
pub(crate) fn ten_rounds(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 160);
    // Two messages of 30 bytes share no packet of 58.
    let config = SessionConfig::builder("Game").udp_length(64).window(1_000, 1 << 20).build().unwrap();
    let mut world = World::new(seed, config.clone());
    let faults = [(); 2].map(|()| Faults { jitter: 2 * MS, ..Faults::lossy(rng.range(1, 10), 0.01) });
    let plan = Plan::send(10 * ROUND + 100, Sizes::Fixed(30));
    world.connect(config, address(0), faults, [plan, Plan::idle()]);
    let all = world.run_until(3_600 * SECOND, |world| world.peer_end(0).is_some_and(|end| end.app.has_all()));
    assert!(all, "{} messages after {:?}", world.peer(0).app.taken(), world.elapsed());
    let now = world.now;
    let sent = world.client(0).session.stats(now).reliable_sent;
    assert!(sent > 10 * ROUND, "{sent} packets");
    world.calm();
    finish(world, 60 * SECOND)
}

/// A day: idle most of the time, with a few words now and then.
pub(crate) fn day(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 161);
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    let links = [Faults::delay(rng.range(1, 100)), Faults::delay(rng.range(1, 100))];
    world.connect(config, address(0), links, [Plan::idle(), Plan::idle()]);
    world.run_for(SECOND);
    while world.elapsed() < 24 * 3_600 * SECOND {
        let words = |rng: &mut Rng| {
            let mut words = [0; 7];
            for channel in [0, 2, 4] {
                words[channel] = rng.range(0, 5);
            }
            words
        };
        let (now, up, down) = (world.now, words(&mut rng), words(&mut rng));
        world.client(0).app.extend(now, up, down);
        world.peer(0).app.extend(now, down, up);
        world.touch(0);
        let longest = rng.pick(&[1_000, 60_000, 7_200_000]);
        world.run_for(rng.millis(0, longest));
    }
    let datagrams = world.client(0).datagrams + world.peer(0).datagrams;
    assert!(datagrams < 60_000, "{datagrams} datagrams in a day of little to say");
    finish(world, 60 * SECOND)
}
