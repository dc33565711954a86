//! The Tokio layer over a simulated network, with the runtime's clock paused: what only passes of time, moves of address, or
//! thousands of runs can show, in no time.
//!
//! `SOE_SEEDS=100000 cargo test --release --test virtual_time` makes the runs that draw their faults more numerous. A run that fails
//! names its seed; `SOE_SEED=<seed>` makes it alone, the same again.

mod callbacks;
mod cancellation;
mod checker;
mod codecs;
mod connecting;
mod endings;
mod fairness;
mod guesses;
mod handles;
mod healing;
mod hooks;
mod limits;
mod logs;
mod operating;
mod panics;
mod proxies;
mod reconnecting;
mod reports;
mod scenarios;
mod sessions;
mod shutdowns;
mod support;
mod waiting;
mod wakeups;
