//! Clients that move, come again, or leave.

use std::net::SocketAddr;

use soe_core::{DisconnectReason, Origin, SessionConfig};

use super::{MS, SECOND, address, quiet};
use crate::{app::Plan, network::Faults, pattern::Sizes, rng::Rng, runner::Outcome, settle::settle, world::World};

fn bulk(rng: &mut Rng) -> Plan {
    Plan::send(rng.range(50, 150), Sizes::Orders(3_000)).paced(5, rng.millis(20, 100))
}

/// The same host under another port.
fn port(n: u64) -> SocketAddr {
    SocketAddr::new(address(0).ip(), 30_000 + n as u16)
}

/// The client's router gives it another port in the midst of a transfer, more than once.
pub(crate) fn remap(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 120);
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    let loss = if rng.chance(0.5) { rng.share(0.1) } else { 0.0 };
    let faults = [Faults::lossy(rng.range(1, 100), loss), Faults::lossy(rng.range(1, 100), loss)];
    // Only one side may have something to say.
    let plans = match rng.below(3) {
        0 => [bulk(&mut rng), Plan::idle()],
        1 => [Plan::idle(), bulk(&mut rng)],
        _ => [bulk(&mut rng), bulk(&mut rng)],
    };
    world.connect(config, address(0), faults, plans);
    let open = world.run_until(20 * SECOND, |world| world.has_peer(0) && world.clients[0].endpoint.connected);
    assert!(open);
    let peer = world.peer_of(0);
    let moves = rng.range(1, 4);
    for n in 0..moves {
        world.run_for(rng.millis(100, 1_000));
        world.readdress(0, port(n));
        world.run_for(rng.millis(1, 6_000));
    }
    world.calm();
    quiet(&mut world, 60 * SECOND);
    assert!(world.endings.is_empty() && world.peer_of(0) == peer, "the session has kept its identity");
    let found = world.server.at(port(moves - 1)).is_some();
    assert!(found, "the server does not know where its client is");
    settle(world)
}

/// The client's program is started again within a second, on the same address. The new session replaces the old one as
/// soon as it has proved itself.
pub(crate) fn restart(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 121);
    let config = SessionConfig::builder("Game").crc_length(4).build().unwrap();
    let mut world = World::new(seed, config.clone());
    let loss = if rng.chance(0.5) { rng.share(0.2) } else { 0.0 };
    let faults = || Faults { jitter: 20 * MS, ..Faults::lossy(30, loss) };
    let plans = [bulk(&mut rng), bulk(&mut rng)];
    world.connect(config, address(0), [faults(), faults()], plans);
    world.run_until(9 * SECOND, |world| world.has_peer(0));
    world.run_for(rng.millis(0, 3_000));
    let restarts = rng.range(1, 3);
    for _ in 0..restarts {
        let plans = [bulk(&mut rng), bulk(&mut rng)];
        world.restart(0, plans);
        world.run_for(rng.millis(500, 5_000));
    }
    world.calm();
    quiet(&mut world, 60 * SECOND);
    assert!(world.endings.iter().all(|(_, closed)| closed.reason == DisconnectReason::NewConnectionAttempt));
    assert_eq!(world.server.all().count(), 1, "an old session lives on");
    settle(world)
}

/// One side closes in the midst of the traffic: what it had given to its session arrives, and the other is told why.
pub(crate) fn close(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 122);
    let config = SessionConfig::builder("Game").close_timeout(60 * SECOND).build().unwrap();
    let mut world = World::new(seed, config.clone());
    let loss = if rng.chance(0.5) { rng.share(0.1) } else { 0.0 };
    let faults = [Faults::lossy(rng.range(1, 100), loss), Faults::lossy(rng.range(1, 100), loss)];
    let plans = [bulk(&mut rng), bulk(&mut rng)];
    world.connect(config, address(0), faults, plans);
    assert!(world.run_until(20 * SECOND, |world| world.has_peer(0)));
    world.run_for(rng.millis(0, 3_000));
    // Whoever misses all three Disconnects finds out by itself.
    use DisconnectReason as Reason;
    world.allow(&[Reason::Application, Reason::UnreachableConnection, Reason::Timeout, Reason::UnacknowledgedTimeout]);
    let (now, by_client) = (world.now, rng.chance(0.5));
    let peer = world.peer_of(0).unwrap();
    let closer = if by_client { world.client(0) } else { world.peer(0) };
    closer.session.close(now, Reason::Application);
    closer.app.stop();
    let given = closer.app.given();
    world.touch(0);
    let mut taken = 0;
    let ended = world.run_until(120 * SECOND, |world| {
        let other = if by_client {
            world.server.peer(peer).map(|peer| &peer.resident)
        } else {
            Some(&world.clients[0].endpoint)
        };
        taken = other.map_or(taken, |other| other.app.taken());
        world.endings.len() == 2
    });
    assert!(ended, "{:?}", world.endings);
    assert_eq!(taken, given, "closing lost what had been given");
    let local = world.endings.iter().filter(|(_, closed)| closed.origin == Origin::Local).count();
    assert_eq!(local, 1, "{:?}", world.endings);
    world.run_for(10 * SECOND);
    assert!(world.clients[0].endpoint.session.is_drained() && world.server.all().count() == 0);
    settle(world)
}
