//! The same test for many seeds.

use std::future::Future;

/// Runs `test` for the seeds from 0 up to `default`, each in a runtime of its own with one thread and a paused clock. A run
/// that panics names its seed.
///
/// Environment variables change which seeds: `SOE_SEED=7` runs that one alone, `SOE_SEEDS=1000` runs so many.
///
/// # Panics
///
/// If a run panics, or the system has no resources for a runtime.
pub fn for_seeds<F: Future<Output = ()>>(default: u64, test: impl Fn(u64) -> F) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seeds = match number("SOE_SEED") {
        Some(seed) => seed..seed.saturating_add(1),
        None => 0..number("SOE_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let _failing = Failing(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        match runtime {
            Ok(runtime) => runtime.block_on(test(seed)),
            Err(error) => panic!("no runtime: {error}"),
        }
    }
}

/// Says which seed was at work, if a panic drops it.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with SOE_SEED={}", self.0);
        }
    }
}
