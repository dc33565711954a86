//! Networks that lose, and what must arrive nevertheless.

use soe_core::{DisconnectReason, SessionConfig};

use super::{MS, SECOND, address, finish};
use crate::{
    app::Plan,
    network::{Burst, Faults},
    pattern::Sizes,
    rng::Rng,
    runner::Outcome,
    settle::settle,
    world::World,
};

/// The defaults, but for clients that take their time to get through.
fn patient() -> SessionConfig {
    SessionConfig::builder("Game").connect_timeout(300 * SECOND).build().unwrap()
}

/// A few dozen messages of all sizes, over some seconds.
fn traffic(rng: &mut Rng) -> Plan {
    let plan = Plan::send(rng.range(20, 60), Sizes::Orders(2_000)).and(1, rng.range(0, 10), Sizes::Orders(5_000));
    plan.paced(rng.range(1, 5), rng.millis(5, 100))
}

fn connected(seed: u64, config: &SessionConfig, faults: [Faults; 2], rng: &mut Rng) -> World {
    let mut world = World::new(seed, config.clone());
    let plans = [traffic(rng), traffic(rng)];
    world.connect(config.clone(), address(0), faults, plans);
    world
}

/// Half of what is sent is lost, each way.
pub(crate) fn half(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 101);
    let faults = [(); 2].map(|()| Faults::lossy(rng.range(1, 100), 0.5));
    let mut world = connected(seed, &patient(), faults, &mut rng);
    let done = |world: &World| {
        world.has_peer(0)
            && world.clients[0].endpoint.app.has_all()
            && world.peer_end(0).is_some_and(|end| end.app.has_all())
    };
    assert!(world.run_until(600 * SECOND, done), "a link that loses half of everything stops a session");
    world.calm();
    finish(world, 60 * SECOND)
}

/// Losses that come in bursts, of twenty datagrams on average at most.
pub(crate) fn bursts(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 102);
    let faults = [(); 2].map(|()| Faults {
        burst: Some(Burst { enter: 0.01 + rng.share(0.05), leave: 0.05 + rng.share(0.2), loss: 1.0 }),
        jitter: rng.millis(0, 20),
        ..Faults::delay(rng.range(1, 200))
    });
    let mut world = connected(seed, &patient(), faults, &mut rng);
    world.run_for(30 * SECOND);
    world.calm();
    finish(world, 60 * SECOND)
}

/// Nothing passes for 20 seconds, in both directions or in one, in the midst of the traffic. Nobody's default time-out is
/// reached.
pub(crate) fn blackout(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 103);
    let from = rng.millis(200, 3_000);
    let (up, down) = rng.pick(&[(true, true), (true, false), (false, true)]);
    let dark = |dark: bool, rng: &mut Rng| Faults {
        blackouts: if dark { vec![(from, from + 20 * SECOND)] } else { Vec::new() },
        ..Faults::delay(rng.range(1, 150))
    };
    let faults = [dark(up, &mut rng), dark(down, &mut rng)];
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    let plan = |rng: &mut Rng| Plan::send(200, Sizes::Orders(1_000)).paced(2, rng.millis(100, 200));
    let plans = [plan(&mut rng), plan(&mut rng)];
    world.connect(config, address(0), faults, plans);
    world.run_for(from + 20 * SECOND);
    // Once the link is back, it does not take long.
    let outcome = finish(world, 15 * SECOND);
    assert!(outcome.network.blacked_out > 0);
    outcome
}

/// 800 ms there and back, a tenth lost each way, under the defaults, in traffic and in silence.
pub(crate) fn far(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 104);
    let faults = [(); 2].map(|()| Faults { jitter: 20 * MS, ..Faults::lossy(400, 0.1) });
    let config = SessionConfig::new("Game").unwrap();
    let mut world = connected(seed, &config, faults, &mut rng);
    // Ten minutes of silence follow: heartbeats are lost as well.
    world.run_for(600 * SECOND);
    finish(world, 120 * SECOND)
}

/// A client whose datagrams leave every half second only, acknowledgements among them. Once the server has seen that, it
/// sends nothing twice.
pub(crate) fn lazy(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 105);
    let up = Faults { hold: Some(500 * MS), ..Faults::delay(rng.range(1, 80)) };
    let config = SessionConfig::new("Game").unwrap();
    // Half a second's acknowledgements arrive at once: few that cover much, or one for almost every packet.
    let few = config.to_builder().ack_packets(1_000).max_ack_delay(100 * MS).build().unwrap();
    let client = if rng.chance(0.5) { few } else { config.clone() };
    let mut world = World::new(seed, config);
    let plan = Plan::send(60, Sizes::Range(1, 400)).paced(1, rng.millis(10, 120));
    world.connect(client, address(0), [up, Faults::delay(rng.range(1, 80))], [Plan::idle(), plan]);
    assert!(world.run_until(60 * SECOND, |world| world.clients[0].endpoint.app.has_all()));
    world.run_for(2 * SECOND);
    let now = world.now;
    let resent = |world: &mut World| {
        let stats = world.peer(0).session.stats(now);
        stats.resent_lost + stats.resent_timeout
    };
    let before = resent(&mut world);
    world.peer(0).app.extend(now, [200, 0, 0, 0, 0, 0, 0], [0; 7]);
    world.client(0).app.extend(now, [0; 7], [200, 0, 0, 0, 0, 0, 0]);
    world.touch(0);
    assert!(world.run_until(120 * SECOND, |world| world.clients[0].endpoint.app.has_all()));
    assert_eq!(resent(&mut world), before, "sent again what was only acknowledged late");
    world.calm();
    finish(world, 60 * SECOND)
}

/// The path takes no more than small datagrams for some seconds: messages wait, none is lost.
pub(crate) fn narrow(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 106);
    let config = SessionConfig::builder("Game").udp_length(1_400).build().unwrap();
    let faults = [(); 2].map(|()| Faults { mtu: Some(rng.size(200, 1_300)), ..Faults::delay(rng.range(1, 100)) });
    let mut world = connected(seed, &config, faults, &mut rng);
    for n in [0, 1] {
        let plan = Plan::send(1, Sizes::Fixed(5_000));
        world.connect(config.clone(), address(n + 1), [Faults::delay(10), Faults::delay(10)], [plan.clone(), plan]);
    }
    world.run_for(rng.millis(1_000, 20_000));
    world.calm();
    finish(world, 30 * SECOND)
}

/// A path that never takes a full datagram: the session ends, for the reason that it has.
pub(crate) fn too_narrow(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 107);
    let config = SessionConfig::builder("Game").udp_length(8_192).build().unwrap();
    let up = Faults { mtu: Some(1_472), ..Faults::delay(rng.range(1, 100)) };
    let mut world = World::new(seed, config.clone());
    world.connect(config, address(0), [up, Faults::delay(20)], [Plan::send(1, Sizes::Fixed(20_000)), Plan::idle()]);
    world.allow(&[DisconnectReason::UnacknowledgedTimeout]);
    world.run_for(120 * SECOND);
    assert!(world.counts().over_mtu > 0);
    assert_eq!(world.endings.len(), 2, "{:?}", world.endings);
    assert_eq!(world.client(0).narrowed, 1, "what is wrong was not told once");
    settle(world)
}

/// A path that does not take what one channel has to send for some time: the others go on as if nothing were, the application is
/// told, and the channel goes on when the path does.
pub(crate) fn one_channel_too_large(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 110);
    let udp_length = rng.pick(&[1_400, 8_192]);
    let config = SessionConfig::builder("Game").udp_length(udp_length).build().unwrap();
    let mtu = Some(rng.size(548, 1_300));
    let latency = rng.range(5, 100);
    let loss = rng.pick(&[0.0, 0.05]);
    let mut world = World::new(seed, config.clone());
    let small = Plan::send(2_000, Sizes::Range(20, 60)).and(1, 0, Sizes::Fixed(200_000)).paced(1, 100 * MS);
    let up = Faults { mtu, ..Faults::lossy(latency, loss) };
    world.connect(config, address(0), [up, Faults::lossy(latency, loss)], [small, Plan::idle()]);
    world.run_for(rng.millis(0, 5_000));
    let now = world.now;
    let large = [0, 1, 0, 0, 0, 0, 0];
    world.client(0).app.extend(now, large, [0; 7]);
    assert!(world.run_until(5 * SECOND, |world| world.has_peer(0)));
    world.peer(0).app.extend(now, [0; 7], large);
    world.touch(0);
    world.run_for(60 * SECOND);
    let (sent, arrived) = (world.client(0).app.sent_on(0), world.peer(0).app.arrived[0]);
    assert!(sent > 1_000 && arrived + 50 >= sent, "{arrived} of {sent} small messages have arrived");
    assert_eq!(world.client(0).narrowed, 1, "what is wrong was not told once");
    assert_eq!(world.peer(0).app.arrived[1], 0);
    world.clients[0].up.faults.mtu = None;
    let arrived = world.run_until(10 * SECOND, |world| world.peer_end(0).is_some_and(|end| end.app.arrived[1] == 1));
    assert!(arrived, "the path takes everything again, and the large message has not arrived");
    finish(world, 120 * SECOND)
}

/// The last acknowledgements of a transfer are lost, for up to ten seconds: the receiver says them again when asked.
pub(crate) fn last_acknowledgement(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 108);
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    let links = [Faults::delay(rng.range(1, 100)), Faults::delay(rng.range(1, 100))];
    world.connect(config, address(0), links, [Plan::idle(), Plan::idle()]);
    world.run_for(SECOND);
    let now = world.now;
    world.clients[0].down.faults.loss = 1.0;
    let count = rng.range(1, 20);
    world.client(0).app.extend(now, [count, 0, 0, 0, 0, 0, 0], [0; 7]);
    world.peer(0).app.extend(now, [0; 7], [count, 0, 0, 0, 0, 0, 0]);
    world.touch(0);
    world.run_for(rng.millis(500, 10_000));
    assert!(world.peer(0).app.has_all() && !world.client(0).session.is_idle());
    world.clients[0].down.faults.loss = 0.0;
    let done = world.run_until(10 * SECOND, |world| world.clients[0].endpoint.session.is_idle());
    assert!(done, "still sending what has arrived");
    let now = world.now;
    assert!(world.peer(0).session.stats(now).duplicates > 0);
    finish(world, 5 * SECOND)
}

/// An hour of game traffic at five percent loss each way.
pub(crate) fn evening(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 109);
    let faults = [(); 2].map(|()| Faults {
        jitter: 10 * MS,
        reorder: 0.01,
        reorder_by: 50 * MS,
        ..Faults::lossy(rng.range(5, 150), 0.05)
    });
    let config = SessionConfig::new("Game").unwrap();
    let mut world = World::new(seed, config.clone());
    let plan = Plan::send(3_600, Sizes::Range(10, 300)).and(4, 3_600, Sizes::Range(6, 200)).paced(2, 2 * SECOND);
    world.connect(config, address(0), faults, [plan.clone(), plan]);
    finish(world, 7_200 * SECOND)
}
