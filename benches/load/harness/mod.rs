//! What runs the workloads, whichever implementations there are: child processes for server and client, a link between
//! them, the figures of both.

pub(crate) mod client;
pub(crate) mod duty;
mod link;
pub(crate) mod process;
mod report;
pub(crate) mod spec;

use std::env;
use std::io::{BufRead, stdin};
use std::net::SocketAddr;
use std::process::{ExitCode, exit};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, Failure, Voice};
use link::Link;
use process::Worker;
use report::{Figures, Row};
use spec::{Kind, Spec};

const SERVER_CORE: usize = 0;
const CLIENT_CORE: usize = 1;
const PATIENCE: Duration = Duration::from_secs(10);

/// What carries the messages.
pub(crate) struct Implementation {
    pub(crate) name: &'static str,
    /// Whether this workload makes sense with it.
    pub(crate) can: fn(&Spec) -> bool,
    /// Serves for ever, once it has called the function with its address.
    pub(crate) serve: fn(&Spec, Ready) -> Result<(), Failure>,
    /// Runs the client's side.
    pub(crate) join: fn(SocketAddr, &Spec) -> Result<(), Failure>,
}

/// What a server calls with its address.
pub(crate) type Ready = fn(SocketAddr);

/// Runs on one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// The ordinary [`Implementation::join`].
pub(crate) fn join_with<C: Client>(server: SocketAddr, spec: &Spec) -> Result<(), Failure> {
    let begin = || println!("begin");
    let end = |figures| {
        println!("{figures}");
        // The orchestrator ends this process when it has asked the server, too.
        let _ = stdin().lock().lines().next();
    };
    block_on(client::run::<C>(server, spec, Voice { begin, end }))
}

/// The whole program: orchestrates, or plays a role as a child process of itself. The first implementation is the one that
/// the others are compared with.
pub(crate) fn run(implementations: &[Implementation]) -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("server" | "client") => play(implementations, &args),
        _ => orchestrate(implementations, &args),
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
fn play(implementations: &[Implementation], args: &[String]) -> Result<(), Failure> {
    let [role, name, address, spec @ ..] = args else { return Err("arguments are missing".into()) };
    let implementation = implementations.iter().find(|known| known.name == name).ok_or("unknown implementation")?;
    let spec = Spec::from_args(spec).ok_or("unknown workload")?;
    if role == "server" {
        thread::spawn(answer);
        return (implementation.serve)(&spec, |address| println!("{address}"));
    }
    (implementation.join)(address.parse()?, &spec)
}

/// Answers the orchestrator's questions about this server process until it has no more.
fn answer() {
    let resident_before = process::resident_bytes();
    let mut marked = (Instant::now(), process::cpu_seconds(), process::sent());
    for line in stdin().lock().lines().map_while(Result::ok) {
        if line == "mark" {
            marked = (Instant::now(), process::cpu_seconds(), process::sent());
            continue;
        }
        let cpu = process::cpu_seconds() - marked.1;
        let percent = 100.0 * cpu / marked.0.elapsed().as_secs_f64();
        let resident = process::resident_bytes().saturating_sub(resident_before);
        let sent = process::sent() - marked.2;
        let scrape = process::scrape_ms().map_or_else(String::new, |time| format!("scrape_ms={time:.3} "));
        let times = duty::one_way();
        let (p50, p99) = (duty::quantile(&times, 0.5) as f64 / 1e3, duty::quantile(&times, 0.99) as f64 / 1e3);
        println!(
            "server_cpu_percent={percent:.2} cpu_s={cpu} resident={resident} sent={sent} {scrape}arrived={} \
             one_way_p50_ms={p50} one_way_p99_ms={p99}",
            times.len()
        );
    }
    exit(0);
}

fn orchestrate(implementations: &[Implementation], args: &[String]) -> Result<(), Failure> {
    let mut args = args.iter();
    let (mut quick, mut only, mut with, mut runs, mut path) = (false, String::new(), String::new(), 1, None);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} wants a value"));
        match arg.as_str() {
            "--quick" => quick = true,
            "--only" => only.clone_from(value()?),
            "--with" => with.clone_from(value()?),
            "--runs" => runs = value()?.parse::<usize>()?.max(1),
            "--json" => path = Some(value()?.clone()),
            // Cargo says this to every benchmark.
            "--bench" => {}
            other => {
                return Err(format!("unknown argument {other}; try --quick, --only, --with, --runs, --json").into());
            }
        }
    }
    let mut rows = Vec::new();
    for spec in spec::workloads(quick).into_iter().filter(|spec| spec.name.contains(&only)) {
        let mut results = Vec::new();
        for implementation in implementations.iter().filter(|known| known.name.contains(&with) && (known.can)(&spec)) {
            let measured = (0..runs).map(|_| measure(implementation.name, &spec).ok()).collect();
            results.push((implementation.name, report::median(spec.kind, measured)));
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
fn measure(implementation: &str, spec: &Spec) -> Result<Figures, Failure> {
    let start = |role: &str, core, address: SocketAddr| {
        let mut args = vec![role.to_owned(), implementation.to_owned(), address.to_string()];
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
    let client = start("client", CLIENT_CORE, address)?;
    while client.hear(spec.patience())? != "begin" {}
    server.tell("mark")?;
    let mut figures = parse(&client.hear(spec.patience())?);
    server.tell("report")?;
    let of_server = parse(&server.hear(PATIENCE)?);
    derive(&mut figures, &of_server, spec);
    if let (Some(link), Kind::Bulk) = (&link, spec.kind) {
        figures.push(("wire_bytes_per_byte".to_owned(), link.bytes() as f64 / spec.bytes as f64));
    }
    Ok(figures)
}

/// Adds to the client's figures what the server's figures say about the workload.
fn derive(figures: &mut Figures, of_server: &Figures, spec: &Spec) {
    let find =
        |figures: &Figures, name: &str| figures.iter().find(|(of, _)| of == name).map_or(0.0, |(_, value)| *value);
    let messages = find(figures, "messages");
    let of_server = |name: &str| find(of_server, name);
    let mut add = |name: &str, value: f64| figures.push((name.to_owned(), value));
    add("server_cpu_percent", of_server("server_cpu_percent"));
    match spec.kind {
        Kind::Thin => {
            for name in ["one_way_p50_ms", "one_way_p99_ms", "arrived"] {
                add(name, of_server(name));
            }
        }
        Kind::Idle => {
            add("bytes_per_session", of_server("resident") / spec.sessions as f64);
            if of_server("scrape_ms") > 0.0 {
                add("scrape_ms", of_server("scrape_ms"));
            }
        }
        Kind::Game if of_server("sent") > 0.0 => add("server_datagrams_per_s", of_server("sent") / spec.seconds),
        Kind::Echo => {
            add("server_cpu_us_per_message", of_server("cpu_s") * 1e6 / messages.max(1.0));
            if of_server("sent") > 0.0 {
                add("messages_per_datagram", messages / of_server("sent"));
            }
        }
        _ => {}
    }
}

fn parse(line: &str) -> Figures {
    let word = |word: &str| {
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.parse().ok()?))
    };
    line.split_whitespace().filter_map(word).collect()
}
