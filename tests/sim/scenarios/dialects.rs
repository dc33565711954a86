//! Whole sessions of every game family.

use soe_core::{Dialect, SessionConfig};

use super::{SECOND, address, finish};
use crate::{app::Plan, network::Faults, pattern::Sizes, rng::Rng, runner::Outcome, world::World};

/// Every preset in turn, once without loss and once with 5 % each way: messages of all sizes in both directions, on two
/// channels, as each family's passes, CRC and datagrams carry them.
pub(crate) fn presets(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 400);
    let names = Dialect::ALL_NAMES;
    let name = names[seed as usize % names.len()];
    let loss = if (seed as usize / names.len()).is_multiple_of(2) { 0.0 } else { 0.05 };
    let dialect = Dialect::by_name(name).expect("a preset has its name");
    let config = SessionConfig::with_dialect(dialect).protocol_name("Game".into()).connect_timeout(60 * SECOND).build();
    let config = config.expect("a preset is valid");
    let mut world = World::new(seed, config.clone());
    let mut plan = || {
        let plan = Plan::send(40, Sizes::Orders(20_000)).and(2, 10, Sizes::Range(1, 300));
        plan.paced(rng.range(1, 4), rng.millis(5, 60))
    };
    let plans = [plan(), plan()];
    let faults = [(); 2].map(|()| Faults::lossy(rng.range(1, 80), loss));
    world.connect(config, address(0), faults, plans);
    let done = |world: &World| {
        world.has_peer(0)
            && world.clients[0].endpoint.app.has_all()
            && world.peer_end(0).is_some_and(|end| end.app.has_all())
    };
    assert!(world.run_until(120 * SECOND, done), "{name} at a loss of {loss}: not everything arrived");
    world.calm();
    finish(world, 60 * SECOND)
}
