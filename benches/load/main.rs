//! The load benchmark: workloads on loopback against this library, the crate `soe-protocol` and bare sockets. Server and
//! client are processes of their own with one core each.
//!
//! ```text
//! cargo bench --bench load -- [--quick] [--only TEXT] [--runs N] [--json PATH]
//! ```

mod client;
mod duty;
mod link;
mod process;
mod raw;
mod report;
mod soe_protocol;
mod spec;

use std::env;
use std::io::{BufRead, stdin};
use std::net::SocketAddr;
use std::process::{ExitCode, exit};
use std::thread;
use std::time::{Duration, Instant};

use client::Failure;
use link::Link;
use process::Worker;
use report::{Figures, Row};
use spec::{Kind, Spec};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Implementation {
    SoeProtocol,
    Raw,
}

impl Implementation {
    /// In the order of the table's columns.
    const ALL: [Self; 2] = [Self::SoeProtocol, Self::Raw];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SoeProtocol => "soe-protocol",
            Self::Raw => "raw",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|implementation| implementation.name() == name)
    }

    /// Bare sockets have no sessions and repair no loss.
    fn can(self, spec: &Spec) -> bool {
        self != Self::Raw || (spec.delay == 0 && spec.kind != Kind::Idle)
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("server") => work(&args, serve),
        Some("client") => work(&args, join),
        _ => orchestrate(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The roles of a child process: `server IMPLEMENTATION ADDRESS WORKLOAD...` and `client ...` alike.
fn work(args: &[String], role: fn(Implementation, SocketAddr, &Spec) -> Result<(), Failure>) -> Result<(), Failure> {
    let [_, implementation, address, spec @ ..] = args else { return Err("arguments are missing".into()) };
    let implementation = Implementation::named(implementation).ok_or("unknown implementation")?;
    role(implementation, address.parse()?, &Spec::from_args(spec).ok_or("unknown workload")?)
}

fn serve(implementation: Implementation, _: SocketAddr, spec: &Spec) -> Result<(), Failure> {
    thread::spawn(answer);
    let ready = |address| println!("{address}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match implementation {
        Implementation::SoeProtocol => runtime.block_on(soe_protocol::serve(spec, ready)),
        Implementation::Raw => Ok(raw::serve(spec, ready)?),
    }
}

/// Answers the orchestrator's questions about this server process until it has no more.
fn answer() {
    let resident_before = process::resident_bytes();
    let mut marked = (Instant::now(), process::cpu_seconds());
    for line in stdin().lock().lines().map_while(Result::ok) {
        if line == "mark" {
            marked = (Instant::now(), process::cpu_seconds());
            continue;
        }
        let cpu = process::cpu_seconds() - marked.1;
        let percent = 100.0 * cpu / marked.0.elapsed().as_secs_f64();
        let resident = process::resident_bytes().saturating_sub(resident_before);
        let times = duty::one_way();
        let (p50, p99) = (duty::quantile(&times, 0.5) as f64 / 1e3, duty::quantile(&times, 0.99) as f64 / 1e3);
        println!(
            "server_cpu_percent={percent:.2} cpu_s={cpu} resident={resident} arrived={} one_way_p50_ms={p50} \
             one_way_p99_ms={p99}",
            times.len()
        );
    }
    exit(0);
}

fn join(implementation: Implementation, server: SocketAddr, spec: &Spec) -> Result<(), Failure> {
    let begin = || println!("begin");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let figures = runtime.block_on(async {
        match implementation {
            Implementation::SoeProtocol => client::run::<soe_protocol::SoeProtocolClient>(server, spec, begin).await,
            Implementation::Raw => client::run::<raw::RawClient>(server, spec, begin).await,
        }
    })?;
    println!("{figures}");
    // The orchestrator asks the server before the sessions end.
    let _ = stdin().lock().lines().next();
    exit(0);
}

fn orchestrate(args: &[String]) -> Result<(), Failure> {
    let mut args = args.iter();
    let (mut quick, mut only, mut runs, mut path) = (false, String::new(), 1, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--quick" => quick = true,
            "--only" => only = value()?.clone(),
            "--runs" => runs = value()?.parse::<usize>()?.max(1),
            "--json" => path = Some(value()?.clone()),
            // Cargo says this to every benchmark.
            "--bench" => {}
            other => return Err(format!("unknown argument {other}; try --quick, --only, --runs, --json").into()),
        }
    }
    let mut rows = Vec::new();
    for spec in spec::workloads(quick).into_iter().filter(|spec| spec.name.contains(&only)) {
        let mut results = Vec::new();
        for implementation in Implementation::ALL.into_iter().filter(|implementation| implementation.can(&spec)) {
            let measured = (0..runs).map(|_| measure(implementation, &spec).ok()).collect();
            results.push((implementation, report::median(spec.kind, measured)));
        }
        rows.push(Row { spec, results });
        print!("{}", report::table(&rows[rows.len() - 1..]));
    }
    if let Some(path) = path {
        std::fs::write(path, report::json(&rows))?;
    }
    Ok(())
}

/// One run of one workload.
fn measure(implementation: Implementation, spec: &Spec) -> Result<Figures, Failure> {
    let start = |role: &str, core, address: SocketAddr| {
        let mut args = vec![role.to_owned(), implementation.name().to_owned(), address.to_string()];
        args.extend(spec.to_args());
        Worker::start(core, &args)
    };
    let mut server = start("server", SERVER_CORE, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let mut address: SocketAddr = server.hear(PATIENCE)?.parse()?;
    let link = match spec.delay {
        0 => None,
        delay => Some(Link::start(address, Duration::from_millis(delay), spec.loss)?),
    };
    if let Some(link) = &link {
        address = link.address;
    }
    let mut client = start("client", CLIENT_CORE, address)?;
    while client.hear(spec.patience())? != "begin" {}
    server.tell("mark")?;
    let mut figures = parse(&client.hear(spec.patience())?);
    server.tell("report")?;
    let of_server = parse(&server.hear(PATIENCE)?);
    let of_server = |name: &str| of_server.iter().find(|(of, _)| of == name).map_or(0.0, |(_, value)| *value);
    let mut add = |name: &str, value: f64| figures.push((name.to_owned(), value));
    add("server_cpu_percent", of_server("server_cpu_percent"));
    match spec.kind {
        Kind::Thin => {
            for name in ["one_way_p50_ms", "one_way_p99_ms", "arrived"] {
                add(name, of_server(name));
            }
        }
        Kind::Idle => add("bytes_per_session", of_server("resident") / spec.sessions as f64),
        _ => {}
    }
    if let (Some(link), Kind::Bulk) = (&link, spec.kind) {
        add("wire_bytes_per_byte", link.bytes() as f64 / spec.bytes as f64);
    }
    if let Some((_, messages)) = figures.iter().find(|(name, _)| name == "messages").cloned() {
        figures.push(("server_cpu_us_per_message".to_owned(), of_server("cpu_s") * 1e6 / messages.max(1.0)));
    }
    Ok(figures)
}

fn parse(line: &str) -> Figures {
    let word = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(word).collect()
}
