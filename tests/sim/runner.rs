//! Many seeds of a scenario on all processors, and the one that failed by itself.

use std::{
    env,
    ops::AddAssign,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use super::{
    network::Counts,
    rng::{Trace, mix},
    world::World,
};

/// What a run of one seed has shown, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) trace: Trace,
    pub(crate) network: Counts,
    pub(crate) steps: u64,
    /// Reliable messages that arrived.
    pub(crate) messages: u64,
    pub(crate) key_switches: u64,
    /// Times that an application found its send buffer full.
    pub(crate) refused: u64,
    pub(crate) remapped: u64,
    pub(crate) closed: u64,
    /// Sessions whose recordings were replayed.
    pub(crate) replayed: u64,
    pub(crate) peak_memory: usize,
}

impl Outcome {
    pub(crate) fn of(world: &World) -> Self {
        let mut outcome = Self {
            trace: world.trace,
            network: world.counts(),
            steps: world.steps,
            closed: world.endings.len() as u64,
            ..Self::default()
        };
        let peers = world.server.all().map(|peer| &peer.resident);
        for endpoint in world.clients.iter().map(|client| &client.endpoint).chain(peers) {
            outcome.messages += endpoint.app.taken();
            outcome.key_switches += endpoint.app.key_switches;
            outcome.refused += endpoint.app.refused;
            outcome.remapped += u64::from(endpoint.remapped);
            outcome.peak_memory = outcome.peak_memory.max(endpoint.peak_memory);
        }
        outcome
    }
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, other: Self) {
        // Independent of the order in which seeds finish.
        self.trace.0 ^= mix(other.trace.0);
        self.network += other.network;
        self.steps += other.steps;
        self.messages += other.messages;
        self.key_switches += other.key_switches;
        self.refused += other.refused;
        self.remapped += other.remapped;
        self.closed += other.closed;
        self.replayed += other.replayed;
        self.peak_memory = self.peak_memory.max(other.peak_memory);
    }
}

/// Whether every datagram is printed: while one seed is replayed, with `SOE_SIM_TRACE` set.
pub(crate) fn prints_datagrams() -> bool {
    static PRINTS: OnceLock<bool> = OnceLock::new();
    *PRINTS.get_or_init(|| env::var_os("SOE_SIM_TRACE").is_some())
}

fn number(variable: &str) -> Option<u64> {
    let value = env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is {value:?}, not a number")))
}

/// Runs a scenario under `seeds` seeds of `all` in an ordinary run, or under the same share of `SOE_SIM_SEEDS`, or under
/// `SOE_SIM_SEED` alone. `SOE_SIM_BASE` is the first seed, 0 by default. `name` is the name of the test. Fails if any seed does,
/// and says how to run it again.
///
/// `None` when one seed was replayed or there were fewer than in an ordinary run: then the sum says nothing.
pub(crate) fn sweep(name: &str, seeds: u64, all: u64, scenario: impl Fn(u64) -> Outcome + Sync) -> Option<Outcome> {
    if let Some(seed) = number("SOE_SIM_SEED") {
        println!("{name}, seed {seed}: {:?}", scenario(seed));
        return None;
    }
    let ordinary = seeds;
    let seeds = number("SOE_SIM_SEEDS").map_or(seeds, |wanted| (wanted * seeds).div_ceil(all));
    let base = number("SOE_SIM_BASE").unwrap_or(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, total, failed) = (AtomicU64::new(0), Mutex::new(Outcome::default()), Mutex::new(Vec::new()));
    let begin = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let nth = next.fetch_add(1, Ordering::Relaxed);
                    let seed = base.wrapping_add(nth);
                    if nth >= seeds || failed.lock().unwrap().len() >= 10 {
                        break;
                    }
                    match catch_unwind(AssertUnwindSafe(|| scenario(seed))) {
                        Ok(outcome) => *total.lock().unwrap() += outcome,
                        Err(_) => failed.lock().unwrap().push(seed),
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap();
    failed.sort_unstable();
    for seed in &failed {
        eprintln!("seed {seed} failed; again: SOE_SIM_SEED={seed} cargo test --test sim {name} -- --exact --nocapture");
    }
    assert!(failed.is_empty(), "{name} failed under seeds {failed:?}");
    let total = total.into_inner().unwrap();
    let rate = seeds as f64 / begin.elapsed().as_secs_f64();
    println!("{name}: {seeds} seeds, {rate:.0} a second, {total:?}");
    (seeds >= ordinary).then_some(total)
}

/// Runs a scenario twice under a few seeds: each must put the same bytes on the wire at the same times.
pub(crate) fn assert_reproducible(scenario: impl Fn(u64) -> Outcome) {
    let mut traces = Vec::new();
    for seed in 0..8 {
        let (first, second) = (scenario(seed), scenario(seed));
        assert_eq!(first, second, "seed {seed} gave two traces");
        assert!(!traces.contains(&first.trace), "two seeds gave one trace");
        traces.push(first.trace);
    }
}
