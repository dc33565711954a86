//! Many honest clients of a server that echoes: they connect, send on a schedule, and measure what comes back.
//!
//! The schedule is open-loop: when a message is due does not depend on the answers to those before it, and a round trip is
//! measured from the time at which its message was due. A server that stalls for a second is seen by every message that was
//! due in that second, not by the one that was under way (coordinated omission).
//!
//! There is no task and no thread per client: a client is a socket, a [`soe_core::Session`] and some counters.

mod budget;
mod client;
mod condition;
mod config;
mod memory;
mod payload;
mod report;
mod worker;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

pub use self::condition::{Condition, ConditionError, Judgement};
pub use self::config::{LoadConfig, LoadError, ramp_up};
pub use self::report::{LoadReport, Times};

use self::{
    client::Plan,
    worker::{Shared, Worker},
};

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadProgress {
    /// Since its start.
    pub elapsed: Duration,
    /// Clients that have got a session.
    pub connected: u64,
    /// Clients that got none, or lost it.
    pub failed: u64,
    /// Messages sent.
    pub sent: u64,
    /// Messages that came back.
    pub echoed: u64,
}

/// Runs a load, and shows about once a second how far it has come. When `stop` becomes true the clients close at once. Blocks
/// the thread until every session is over.
///
/// # Errors
/// If the configuration makes no sense or is over a limit, or a socket fails. Clients that get no session, or lose it, are no
/// error but counted.
pub fn run(
    config: &LoadConfig,
    stop: &AtomicBool,
    mut progress: impl FnMut(&LoadProgress),
) -> Result<LoadReport, LoadError> {
    config.validate()?;
    let start = Instant::now();
    let end = start + config.ramp_up + config.duration;
    let plan = Plan { config, start, end, secret: RandomState::new().hash_one(start) };
    let shared = Shared::default();
    let mut workers = Vec::new();
    for thread in 0..config.threads {
        workers.push(Worker::new(&plan, &shared, thread)?);
    }
    let memory_before = memory::resident();
    let mut memory_most = memory_before;
    let mut report = LoadReport::default();
    thread::scope(|scope| {
        let (sender, done) = mpsc::channel();
        for worker in workers {
            let sender = sender.clone();
            // The receiver is there until all have been heard.
            scope.spawn(move || drop(sender.send(worker.run())));
        }
        drop(sender);
        let (mut left, mut shown_at, mut failure) = (config.threads, start, None);
        while left > 0 {
            match done.recv_timeout(POLL_INTERVAL) {
                Ok(Ok(of_thread)) => {
                    report.add(&of_thread);
                    left -= 1;
                }
                Ok(Err(error)) => {
                    failure.get_or_insert(error);
                    shared.stop.store(true, Ordering::Relaxed);
                    left -= 1;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(failure.unwrap_or(LoadError::Panicked)),
            }
            if stop.load(Ordering::Relaxed) {
                shared.stop.store(true, Ordering::Relaxed);
            }
            memory_most = memory_most.max(memory::resident());
            if shown_at.elapsed() >= PERIOD {
                shown_at = Instant::now();
                progress(&shared.progress(start));
            }
        }
        failure.map_or(Ok(()), Err)
    })?;
    let grown = memory_most.zip(memory_before).map(|(most, before)| most.saturating_sub(before));
    // With few clients what belongs to none of them would count more than what does.
    let is_telling = config.clients >= MEMORY_SAMPLE;
    report.memory_per_client = grown.filter(|_| is_telling).map(|bytes| bytes / config.clients as u64);
    Ok(report)
}

impl Shared {
    fn progress(&self, start: Instant) -> LoadProgress {
        LoadProgress {
            elapsed: start.elapsed(),
            connected: self.connected.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            echoed: self.echoed.load(Ordering::Relaxed),
        }
    }
}

/// Clients from which on memory is reported.
const MEMORY_SAMPLE: usize = 1_000;
/// How often the threads are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How often progress is shown.
const PERIOD: Duration = Duration::from_secs(1);
