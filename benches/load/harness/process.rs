//! Child processes: each has one core, tells what it used, and ends with its parent.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Processor seconds that this process has used, on Linux; zero elsewhere.
pub(crate) fn cpu_seconds() -> f64 {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0.0 };
    let of_task = |task: io::Result<std::fs::DirEntry>| {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    };
    tasks.filter_map(of_task).sum::<u64>() as f64 / 1e9
}

/// Resident memory of this process in bytes, on Linux; zero elsewhere.
pub(crate) fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// A child process that speaks in lines.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    lines: Receiver<String>,
}

impl Worker {
    /// Runs this program again with other arguments, on the given core where `taskset` exists.
    pub(crate) fn start(core: usize, args: &[String]) -> io::Result<Self> {
        let program = env::current_exe()?;
        let spawn = |mut command: Command| command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut pinned = Command::new("taskset");
        pinned.arg("-c").arg(core.to_string()).arg(&program);
        let mut child = match spawn(pinned) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => spawn(Command::new(&program))?,
            other => other?,
        };
        let output = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let lines = read_lines(output);
        Ok(Self { child, lines })
    }

    /// Says one line to the child.
    pub(crate) fn tell(&mut self, line: &str) -> io::Result<()> {
        match &mut self.child.stdin {
            Some(input) => writeln!(input, "{line}"),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The child's next line; an error if it ends or does not speak in time.
    pub(crate) fn hear(&self, patience: Duration) -> io::Result<String> {
        self.lines.recv_timeout(patience).map_err(|error| match error {
            RecvTimeoutError::Timeout => io::ErrorKind::TimedOut.into(),
            RecvTimeoutError::Disconnected => io::ErrorKind::BrokenPipe.into(),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(output: ChildStdout) -> Receiver<String> {
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Tells how many datagrams this process has sent.
type Count = Box<dyn Fn() -> u64 + Send + Sync>;

static SENT: OnceLock<Count> = OnceLock::new();

/// Names the function that tells how many datagrams this server has sent; a server without one reports none.
pub(crate) fn count_sent_with(count: impl Fn() -> u64 + Send + Sync + 'static) {
    let _ = SENT.set(Box::new(count));
}

/// The datagrams that this server has sent; 0 if it does not say.
pub(crate) fn sent() -> u64 {
    SENT.get().map_or(0, |count| count())
}

type Scrape = Box<dyn Fn() + Send + Sync>;

static SCRAPE: OnceLock<Scrape> = OnceLock::new();

/// Names the function that answers a monitoring system once.
pub(crate) fn scrape_with(scrape: impl Fn() + Send + Sync + 'static) {
    let _ = SCRAPE.set(Box::new(scrape));
}

/// How long that takes, in milliseconds, the best of three; `None` if this server has no such function.
pub(crate) fn scrape_ms() -> Option<f64> {
    let scrape = SCRAPE.get()?;
    let timed = || {
        let start = Instant::now();
        scrape();
        start.elapsed().as_secs_f64() * 1e3
    };
    Some((0..3).map(|_| timed()).fold(f64::INFINITY, f64::min))
}
