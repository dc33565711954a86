//! A small world on real UDP sockets that ends by itself: a login server hands each of 300 players a key, a zone server lets
//! them in with it; they chat, load maps and move about, all at once, and everything is verified.

#[path = "../common/mod.rs"]
mod common;
mod player;
mod servers;
mod summary;

use std::{
    error::Error,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use common::Args;
use player::Outcome;
use servers::{Servers, World};
use tokio::{sync::Barrier, task::JoinSet, time::timeout};

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "\
Runs a login server, a zone server and a few hundred players on loopback UDP for about ten seconds, verifies
everything that is reliable, and prints a summary.

usage: demo [--players N]

  --players N         how many players, 1 to 2000 (default 300)

exit codes: 0 if nothing reliable was lost or wrong, 1 otherwise, 2 for wrong arguments";

/// How many players hear each other.
const ROOM: u32 = 10;
/// What each player says, and how often.
const LINES: u32 = 40;
const LINE_EVERY: Duration = Duration::from_millis(200);
const MOVE_EVERY: Duration = Duration::from_millis(200);
/// What each player loads, in messages of this many bytes.
const MAPS: u32 = 5;
const MAP_SIZE: usize = 20_000;
const MAP_EVERY: Duration = Duration::from_millis(1500);
/// The whole takes a little more than `LINES * LINE_EVERY`. Far beyond that something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse(USAGE, &["players"], &[]);
    let players = args.optional("players").unwrap_or(300_u32);
    if !(1..=2000).contains(&players) {
        args.refuse("--players: 1 to 2000");
    }
    let outcome = match timeout(PATIENCE, run(players)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("not done after {} s", PATIENCE.as_secs()).into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", common::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(players: u32) -> Result<(), BoxError> {
    let start = Instant::now();
    let world = Arc::new(World::new(players));
    let servers = Servers::start(&world).await?;
    println!("login server on {}, zone server on {}, {players} players", servers.login, servers.zone);

    let together = Arc::new(Barrier::new(players as usize));
    let mut tasks = JoinSet::new();
    for _ in 0..players {
        tasks.spawn(player::play(servers.login, Arc::clone(&world), Arc::clone(&together)));
    }
    let progress = tokio::spawn(report_progress(Arc::clone(&world), start));
    let mut outcomes = Vec::new();
    while let Some(outcome) = tasks.join_next().await {
        // The first failure ends everything: `tasks` takes the others with it.
        outcomes.push(outcome??);
    }
    progress.abort();
    let elapsed = start.elapsed();
    let served = servers.stop().await?;
    summary::print(&Outcome::sum(outcomes), &served, players, elapsed);
    Ok(())
}

async fn report_progress(world: Arc<World>, start: Instant) {
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.tick().await;
    loop {
        every.tick().await;
        let [players, lines, maps, moves] =
            [&world.joined, &world.lines, &world.maps, &world.moves].map(|count| count.load(Ordering::Relaxed));
        let seconds = start.elapsed().as_secs();
        println!("{seconds:>3} s: {players} players, {lines} lines heard, {maps} maps loaded, {moves} moves seen");
    }
}
