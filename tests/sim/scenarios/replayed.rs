//! Sessions that are recorded, and replayed once they are over.

use std::time::Instant;

use soe_core::{
    Closed, DisconnectReason, Session, SessionStats, Undelivered,
    replay::{Replay, ReplayError},
};

use super::{SECOND, random};
use crate::{rng::Rng, runner::Outcome, world::World};

/// Two ends of a session with everything chosen at random. One of them ends it, or the network does.
pub(crate) fn everything(seed: u64) -> Outcome {
    let mut rng = Rng::of(seed, 500);
    let mut world = random::drawn(seed, 8, World::record_sessions);
    world.expect_strays();
    world.allow(&[DisconnectReason::Application, DisconnectReason::Timeout, DisconnectReason::UnacknowledgedTimeout]);
    world.allow(&[DisconnectReason::ConnectFail, DisconnectReason::None]);
    let quiet = |world: &World| {
        let peer = world.peer_end(0).is_some_and(|peer| peer.is_quiet());
        peer && world.clients[0].endpoint.is_quiet()
    };
    // Some are ended in the midst of it.
    let time = rng.pick(&[1, 2, 5]) * SECOND;
    world.run_until(time, quiet);
    let now = world.now;
    world.client(0).app.stop();
    if world.has_peer(0) {
        world.peer(0).app.stop();
    }
    match rng.below(4) {
        0 => world.client(0).session.close(now, DisconnectReason::Application),
        1 => world.client(0).session.abort(now, DisconnectReason::Application, true),
        2 if world.has_peer(0) => world.peer(0).session.close(now, DisconnectReason::Application),
        _ => {}
    }
    world.touch(0);
    // Shorter than sessions that have ended are remembered: their recordings go with them.
    world.run_for(3 * SECOND / 2);
    let mut outcome = Outcome::of(&world);
    let World { clients, server, .. } = &mut world;
    let held = server.held.iter_mut();
    let peers = server.peers.iter_mut().flatten().map(|peer| &mut peer.resident);
    for endpoint in clients.iter_mut().map(|client| &mut client.endpoint).chain(peers).chain(held) {
        outcome.replayed += u64::from(replays(seed, &mut endpoint.session));
    }
    outcome
}

/// Replays the recording of a session.
fn replays(seed: u64, session: &mut Session) -> bool {
    let Some(mut recorder) = session.stop_recording() else { return false };
    assert!(recorder.is_complete());
    let mut replay = Replay::new();
    for piece in recorder.take_pieces() {
        match replay.feed(&piece) {
            Ok(()) => {}
            Err(ReplayError::Differs(difference)) => panic!("seed {seed}: {difference:#?}"),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    let replayed = replay.session().expect("there was a first piece");
    // What no call has shown is the same as well.
    assert_eq!(figures(replayed), figures(session), "seed {seed}");
    assert!(replay.calls() > 0);
    true
}

/// What can be asked of a session, but for ages.
fn figures(session: &Session) -> (SessionStats, Option<Closed>, Undelivered, usize, usize) {
    let mut stats = session.stats(Instant::now());
    (stats.oldest_unacknowledged, stats.since_received) = (None, None);
    (stats, session.closed(), session.undelivered(), session.held(), session.memory())
}
