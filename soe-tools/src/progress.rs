//! Says on a terminal how far long work has come.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often the line is written anew.
const INTERVAL: Duration = Duration::from_millis(200);
/// The clock is looked at once in so many steps.
const STEPS: u32 = 4096;

/// One line on standard error that is written over and over; nothing where that is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    total: u64,
    started: Instant,
    next: Instant,
    steps: u32,
    is_shown: bool,
}

impl Progress {
    /// For work of so many bytes; 0 if that is not known.
    pub(crate) fn new(total: u64) -> Self {
        let now = Instant::now();
        // A timeline on the same terminal is progress enough.
        let is_shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
        Self { total, started: now, next: now + INTERVAL, steps: 0, is_shown }
    }

    pub(crate) fn step(&mut self, done: u64) {
        self.steps = self.steps.wrapping_add(1);
        if !self.is_shown || !self.steps.is_multiple_of(STEPS) || Instant::now() < self.next {
            return;
        }
        self.next = Instant::now() + INTERVAL;
        let megabytes = done as f64 / 1e6;
        let rate = megabytes / self.started.elapsed().as_secs_f64();
        let percent =
            (done * 100).checked_div(self.total).map_or_else(String::new, |percent| format!("{percent:3} %  "));
        let _ = write!(io::stderr(), "\r{percent}{megabytes:.0} MB  {rate:.0} MB/s   ");
    }

    pub(crate) fn finish(&self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r{:40}\r", "");
        }
    }
}
