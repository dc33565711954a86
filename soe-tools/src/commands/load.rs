//! `soe load`.

use std::{
    io::{self, IsTerminal, Write},
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use clap::Args;
use soe_core::{Channel, Dialect, ReliableChannel, SessionConfig};

use crate::{
    Exit,
    load::{self, Condition, LoadConfig, LoadProgress, ramp_up},
    units,
};

/// Many honest clients of a server that echoes: round trips, loss and failures under load.
///
/// The server must send every message back on the channel that it came on, as the example echo_server of this project does.
#[derive(Args, Debug)]
#[command(after_long_help = HELP)]
#[non_exhaustive]
pub struct Load {
    /// The server, such as 127.0.0.1:20060.
    #[arg(value_name = "HOST:PORT")]
    pub target: String,
    /// The application protocol name to ask for; dialects without names need none.
    #[arg(long, default_value = "", value_name = "NAME")]
    pub protocol: String,
    /// The game family, see `soe ping --help`.
    #[arg(long, default_value = "version3", value_parser = dialect, value_name = "NAME")]
    pub dialect: Dialect,
    /// Take datagrams of up to N bytes, 64 to 8192.
    #[arg(long, value_name = "N")]
    pub udp_length: Option<u32>,
    /// How many clients.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub clients: usize,
    /// Messages that each client sends in a second; 0: it only holds its session.
    #[arg(long, default_value_t = 10.0, value_name = "N")]
    pub rate: f64,
    /// Bytes of the messages, taken in turn, 16 or more each.
    #[arg(long, value_delimiter = ',', default_value = "64", value_name = "A,B,...")]
    pub sizes: Vec<usize>,
    /// Channels of the messages, taken in turn: 0, 1, 2, 3, unreliable, ordered.
    #[arg(long, value_delimiter = ',', value_parser = channel, default_value = "0", value_name = "A,B,...")]
    pub channels: Vec<Channel>,
    /// The time over which the clients connect, evenly. [default: 1s for each 500 clients]
    #[arg(long, value_parser = units::duration, value_name = "TIME")]
    pub ramp_up: Option<Duration>,
    /// How long they go on sending after that.
    #[arg(long, value_parser = units::duration, default_value = "10s", value_name = "TIME")]
    pub duration: Duration,
    /// How long late answers are waited for at the end.
    #[arg(long, value_parser = units::duration, default_value = "5s", value_name = "TIME")]
    pub drain: Duration,
    /// Messages per second over all clients that are never exceeded; a load that wants more is refused.
    #[arg(long, default_value_t = 20_000.0, value_name = "N")]
    pub rate_cap: f64,
    /// Threads that drive the clients.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Fails with exit code 5 if this holds, such as 'rtt.p99>80ms'; may be given several times.
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Vec<Condition>,
    /// The server is yours to load. Without this only loopback addresses are taken.
    #[arg(long)]
    pub target_is_mine: bool,
    /// Prints the measurements as JSON.
    #[arg(long)]
    pub json: bool,
}

const HELP: &str = "\
The schedule is open-loop: messages are due whether or not those before them have been answered, and a round trip counts
from the time at which its message was due. `lag` says how late the load itself was.

Conditions of --fail-if, with >, >=, < or <=:
  rtt.p99>80ms       the round trip; also min, mean, max, p50, p99.9, ...
  connect.p99>1s     from the start of a handshake to the open session
  lag.max>50ms       how late messages were sent
  loss>1%            messages that were due and did not come back
  failed>0           clients that got no session or lost it; a number, or a share: failed>1%
  wrong>0            messages that came back damaged
  throughput<900     messages that came back, per second
A time without a sample fails its condition.

Each client takes a socket: see `ulimit -n` for how many there may be. A listener made with soe-tokio takes them all from
one address by default; another server may have a limit of its own.

Exit codes: 0 done and no condition holds; 1 a socket failed, or no client got a session; 2 wrong usage, or a load over the
caps, or a target that is not this machine without --target-is-mine; 5 a condition of --fail-if holds.";

/// Runs the load. Ctrl-C closes the clients, and what has been measured until then is reported.
///
/// # Errors
/// If the load is refused, or a socket fails.
pub fn run(command: &Load) -> io::Result<Exit> {
    let config = match config(command) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("soe: {error}");
            return Ok(Exit::Usage);
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    stop_on_interrupt(stop.clone())?;
    let is_shown = io::stderr().is_terminal();
    let report = load::run(&config, &stop, |progress| {
        if is_shown {
            show(progress);
        }
    })
    .map_err(io::Error::other)?;
    if is_shown {
        eprint!("\r\x1b[K");
    }
    if command.json {
        println!("{}", report.to_json(&command.fail_if));
    } else {
        print!("{}", report.to_text(&command.fail_if));
    }
    io::stdout().flush()?;
    let has_failed = command.fail_if.iter().any(|condition| condition.judge(&report).failed);
    Ok(match (has_failed, report.connected) {
        (true, _) => Exit::ConditionHolds,
        (false, 0) => Exit::Failed,
        (false, _) => Exit::Done,
    })
}

fn config(command: &Load) -> io::Result<LoadConfig> {
    let target: SocketAddr = command
        .target
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{} has no address", command.target)))?;
    let mut session = SessionConfig::with_dialect(command.dialect.clone()).protocol_name(command.protocol.clone());
    if let Some(length) = command.udp_length {
        session = session.udp_length(length);
    }
    let mut config = LoadConfig::new(target, session.build().map_err(io::Error::other)?);
    config.target_is_mine = command.target_is_mine;
    config.clients = command.clients;
    config.rate = command.rate;
    config.sizes.clone_from(&command.sizes);
    config.channels.clone_from(&command.channels);
    config.ramp_up = command.ramp_up.unwrap_or_else(|| ramp_up(command.clients));
    (config.duration, config.drain) = (command.duration, command.drain);
    (config.rate_cap, config.threads) = (command.rate_cap, command.threads);
    config.validate().map_err(io::Error::other)?;
    Ok(config)
}

/// The load itself needs no runtime: this waits for the signal on a thread of its own.
fn stop_on_interrupt(stop: Arc<AtomicBool>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                stop.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}

fn show(progress: &LoadProgress) {
    let LoadProgress { elapsed, connected, failed, sent, echoed, .. } = progress;
    let seconds = elapsed.as_secs();
    eprint!("\r\x1b[K{seconds} s: {connected} connected, {failed} failed, {sent} sent, {echoed} echoed");
}

fn dialect(name: &str) -> Result<Dialect, String> {
    Dialect::by_name(name).ok_or_else(|| format!("not one of {}", Dialect::ALL_NAMES.join(", ")))
}

fn channel(name: &str) -> Result<Channel, &'static str> {
    match name {
        "unreliable" => Ok(Channel::Unreliable),
        "ordered" => Ok(Channel::Ordered),
        _ => {
            let number = name.parse().ok().and_then(ReliableChannel::new);
            number.map(Channel::Reliable).ok_or("a channel is 0, 1, 2, 3, unreliable or ordered")
        }
    }
}
