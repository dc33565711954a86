//! What the world is put through: each scenario is a function of a seed, from which it draws its parameters.

pub(crate) mod crowd;
pub(crate) mod dialects;
pub(crate) mod long;
pub(crate) mod loss;
pub(crate) mod moves;
pub(crate) mod play;
pub(crate) mod random;
pub(crate) mod replayed;

use std::{net::SocketAddr, time::Duration};

use super::{endpoint::Endpoint, runner::Outcome, settle::settle, world::World};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// Somebody's address: each number gives another.
pub(crate) fn address(n: usize) -> SocketAddr {
    let n = n as u32;
    SocketAddr::from(([198, 18, (n >> 8) as u8, n as u8], 20_000))
}

/// Lets everything arrive, asserts that both ends of each session have it all and that nothing goes on without need, and ends
/// the run.
pub(crate) fn finish(mut world: World, time: Duration) -> Outcome {
    quiet(&mut world, time);
    settle(world)
}

/// The same, for a scenario that looks at its world before it ends the run.
pub(crate) fn quiet(world: &mut World, time: Duration) {
    let clients = world.clients.len();
    let done = world.run_until(time, all_quiet);
    if !done {
        for n in 0..clients {
            let (client, peer) = (&world.clients[n].endpoint, world.peer_end(n));
            if !client.is_quiet() || !peer.is_some_and(|peer| peer.is_quiet()) {
                for endpoint in peer.into_iter().chain([client]) {
                    eprintln!("{:#?}\n{:#?}\n{:#?}", endpoint.session, endpoint.app, endpoint.session.stats(world.now));
                }
                break;
            }
        }
        panic!("not quiet after {:?}", world.elapsed());
    }
    world.calm();
    rest(world);
}

fn all_quiet(world: &World) -> bool {
    (0..world.clients.len())
        .all(|n| world.peer_end(n).is_some_and(Endpoint::is_quiet) && world.clients[n].endpoint.is_quiet())
}

/// When it is quiet, no timer fires and nothing leaves but signs of life and statistics.
fn rest(world: &mut World) {
    const REST: Duration = Duration::from_secs(60);
    world.run_for(10 * SECOND);
    let before: Vec<_> = ends(world).iter().map(|end| (end.fired, end.datagrams)).collect();
    world.run_for(REST);
    let (mut sent, mut signs) = (0, 0);
    for (end, (fired, datagrams)) in ends(world).into_iter().zip(before) {
        assert!(end.session.is_idle(), "no longer quiet");
        let (fired, most) = (end.fired - fired, end.timers_in(REST));
        assert!(fired <= most, "{fired} timers fired in a minute of silence, {most} had reason to");
        sent += end.datagrams - datagrams;
        signs += most;
    }
    // Everything that one side sends may be answered by the other.
    assert!(sent <= 2 * signs, "{sent} datagrams in a minute of silence, {signs} timers had reason to fire");
}

fn ends(world: &World) -> Vec<&Endpoint> {
    let peers = world.server.all().map(|peer| &peer.resident);
    world.clients.iter().map(|client| &client.endpoint).chain(peers).collect()
}
