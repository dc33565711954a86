//! The end of every run: all sessions end, and afterwards the accounts agree and nothing is left.

use std::time::{Duration, Instant};

use soe_core::{DisconnectReason, Origin};

use super::{account, runner::Outcome, world::World};

/// How the sessions that are left at the end of a run are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    ClientCloses,
    ServerCloses,
    /// The client's program is killed, and the server has to notice.
    ClientIsGone,
    /// The server's program is killed, and the clients have to notice.
    ServerIsGone,
}

/// How long whoever has ended may take to drain: Disconnects, late datagrams, refused handshakes.
const DRAIN: Duration = Duration::from_secs(120);
/// A close of a session with nothing under way.
const CLOSE: Duration = Duration::from_secs(30);

/// Ends all sessions of a run and expects what holds in every run. Every scenario ends with it.
pub(crate) fn settle(mut world: World) -> Outcome {
    let outcome = Outcome::of(&world);
    world.calm();
    world.settles = true;
    let begin = world.now;
    let way = way(&world);
    let noticed = match way {
        Way::ClientCloses | Way::ServerCloses => CLOSE.max(close_timeout(&world)),
        Way::ClientIsGone | Way::ServerIsGone => longest_timeout(&world) * 4 / 3 + Duration::from_secs(1),
    };
    end_all(&mut world, way);
    let ended = world.run_until(noticed, |world| all_ended(world, way));
    assert!(ended, "{way:?} at {:?}: not noticed within {noticed:?}: {:?}", begin - world.epoch, open_ends(&world));
    verify_reasons(&world, way, begin);
    world.run_for(DRAIN);
    world.read_all();
    for [client, server] in &world.accounts {
        account::verify(&client.get(), &server.get());
        account::verify(&server.get(), &client.get());
    }
    if way != Way::ServerIsGone {
        verify_server(&mut world);
    }
    if way != Way::ClientIsGone {
        verify_clients(&world);
    }
    outcome
}

fn way(world: &World) -> Way {
    let times_out = longest_timeout(world) > Duration::ZERO && shortest_timeout(world) > Duration::ZERO;
    match world.seed % 4 {
        1 => Way::ServerCloses,
        2 if times_out => Way::ClientIsGone,
        3 if times_out => Way::ServerIsGone,
        _ => Way::ClientCloses,
    }
}

fn timeouts(world: &World) -> impl Iterator<Item = Duration> {
    let clients = world.clients.iter().map(|client| client.endpoint.session.config().inactivity_timeout);
    clients.chain([world.session.inactivity_timeout])
}

fn longest_timeout(world: &World) -> Duration {
    timeouts(world).max().unwrap_or_default()
}

fn shortest_timeout(world: &World) -> Duration {
    timeouts(world).min().unwrap_or_default()
}

fn close_timeout(world: &World) -> Duration {
    world.session.close_timeout * 2
}

fn end_all(world: &mut World, way: Way) {
    for n in 0..world.clients.len() {
        let now = world.now;
        match way {
            Way::ClientCloses => {
                world.client(n).session.close(now, DisconnectReason::Application);
                world.client(n).app.stop();
                world.touch(n);
            }
            Way::ServerCloses if world.has_peer(n) => {
                world.peer(n).session.close(now, DisconnectReason::Application);
                world.peer(n).app.stop();
                world.touch(n);
            }
            Way::ServerCloses => {}
            Way::ClientIsGone => world.kill(n),
            Way::ServerIsGone => {}
        }
    }
    if way == Way::ServerIsGone {
        world.kill_server();
    }
}

fn open_ends(world: &World) -> Vec<String> {
    let open = |account: &account::Account| account.end.is_none() && !account.is_killed;
    let all = world.accounts.iter().flatten().map(|account| account.get());
    all.filter(open).map(|account| format!("{account:?}")).collect()
}

/// Whether everybody has ended who lives, and has ever had a session.
fn all_ended(world: &World, way: Way) -> bool {
    let clients = world.clients.iter().all(|client| way == Way::ClientIsGone || client.endpoint.closed.is_some());
    let server = world.server.all().all(|peer| way == Way::ServerIsGone || peer.resident.closed.is_some());
    clients && server
}

/// Who lives is ended by an application, here or there, and by nothing else.
fn verify_reasons(world: &World, way: Way, begin: Instant) {
    let accounts = world.accounts.iter().flatten().map(|account| account.get());
    for (closed, _, at) in accounts.filter_map(|account| account.end) {
        let is_gone = matches!(way, Way::ClientIsGone | Way::ServerIsGone);
        if at >= begin && !is_gone {
            // Some dialects give no reason.
            let is_told = closed.origin == Origin::Peer && closed.reason == DisconnectReason::None;
            let expected =
                is_told || closed.reason == DisconnectReason::Application && closed.origin != Origin::Transport;
            assert!(expected, "{way:?}: {closed}");
        }
    }
}

/// The server's tables and timers are empty.
fn verify_server(world: &mut World) {
    let stats = world.server.endpoint.stats();
    let left = [stats.sessions, stats.waiting, stats.lingering, world.server.all().count(), world.server.timers()];
    assert_eq!(left, [0; 5], "sessions open, waiting, lingering and kept, and timers, of a server without sessions");
    let now = world.now;
    world.server.close(now);
    world.run_for(Duration::from_secs(4));
    assert!(world.server.endpoint.is_finished(), "a closed server without sessions is not done");
}

/// A session that has ended keeps nothing and waits for nothing.
fn verify_clients(world: &World) {
    for client in &world.clients {
        let session = &client.endpoint.session;
        assert!(session.is_drained() && session.poll_timeout().is_none(), "{session:?}");
        assert!(!session.is_readable() && session.held() == 0, "{} bytes are left", session.held());
    }
}
