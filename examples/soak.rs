//! A soak on real sockets: a thousand sessions of mixed traffic, while strangers throw everything they have at the server.
//!
//! ```text
//! cargo run --release --example soak -- [--seconds 30] [--sessions 1000]
//! ```
//!
//! Every session sends numbered messages of many sizes on all four channels, closed-loop, and checks that each comes back once
//! and in order; some close and come again all the time. Attackers send garbage, datagrams with wrong CRCs, spoofable
//! two-byte packets, false requests and disconnects, from their own addresses. The verdict is the last line: nothing lost, no
//! session ended, memory flat after a warm-up. The exit code is 0 only then.

use std::{
    collections::VecDeque,
    error::Error,
    fs,
    net::{SocketAddr, UdpSocket},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use soe_tokio::{
    AdmissionConfig, Channel, DisconnectReason, Message, ReliableChannel, SessionConfig, SoeListener, SoeSession,
};
use tokio::task::JoinSet;

/// Memory may move by this much between the end of the warm-up and the end: the sizes of messages are drawn by lot.
const TOLERANCE: f64 = 0.10;
/// And by this many bytes, whatever there was.
const ALLOWANCE: u64 = 16 << 20;
const ATTACKERS: u64 = 4;

#[tokio::main]
async fn main() -> ExitCode {
    match soak().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What all tasks report to.
#[derive(Debug, Default)]
struct Tally {
    echoed: AtomicU64,
    bytes: AtomicU64,
    reconnected: AtomicU64,
    hostile: AtomicU64,
    is_over: AtomicBool,
}

impl Tally {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

async fn soak() -> Result<bool, Box<dyn Error>> {
    let (seconds, sessions) = arguments()?;
    let admission = AdmissionConfig::builder(config()?)
        // A thousand players behind the one address that this machine has.
        .response_rate_per_prefix(1_000_000)
        .response_burst_per_prefix(1_000_000)
        .build()?;
    let listener = Arc::new(SoeListener::bind("127.0.0.1:0", admission).await?);
    let address = listener.local_addr();
    let tally = Arc::new(Tally::default());
    tokio::spawn(serve(Arc::clone(&listener)));
    let mut players = JoinSet::new();
    for number in 0..sessions {
        players.spawn(play(address, number, Arc::clone(&tally)));
    }
    let attackers: Vec<_> = (0..ATTACKERS).map(|number| (number, Arc::clone(&tally))).collect();
    let attackers = attackers.into_iter().map(|(number, tally)| thread::spawn(move || attack(address, number, &tally)));
    let attackers: Vec<_> = attackers.collect();

    let mut samples = Vec::new();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(seconds) && players.len() == sessions as usize {
        tokio::time::sleep(Duration::from_secs(1)).await;
        samples.push(resident_bytes());
        if samples.len().is_multiple_of(10) {
            println!("{}", progress(start, &tally, &listener, &samples));
        }
        // A player that fails ends before its time.
        if let Some(failed) = players.try_join_next() {
            failed??;
            break;
        }
    }
    let in_time = players.len() == sessions as usize;
    tally.is_over.store(true, Ordering::Relaxed);
    while let Some(player) = players.join_next().await {
        player??;
    }
    for attacker in attackers {
        attacker.join().map_err(|_| "an attacker panicked")??;
    }
    println!("{}", progress(start, &tally, &listener, &samples));
    Ok(in_time & verdict(&samples, &tally, &listener))
}

fn verdict(samples: &[u64], tally: &Tally, listener: &SoeListener) -> bool {
    // Half of it to warm up: windows, rings and tables grow to what the traffic needs. A longer run sees smaller leaks.
    let steady = &samples[samples.len() / 2..];
    let half = steady.len() / 2;
    let (early, late) = (median(&steady[..half]), median(&steady[half..]));
    let is_flat = late <= early + ((early as f64 * TOLERANCE) as u64).max(ALLOWANCE);
    let was_attacked =
        tally.hostile.load(Ordering::Relaxed) > 1_000 && listener.stats().endpoint.admission.requests > 0;
    let was_busy = tally.echoed.load(Ordering::Relaxed) > 1_000;
    let passed = is_flat && was_attacked && was_busy;
    println!(
        "soak {}: nothing lost, nothing repeated; memory {} ({} -> {} KiB){}{}",
        if passed { "passed" } else { "FAILED" },
        if is_flat { "flat" } else { "GROWING" },
        early >> 10,
        late >> 10,
        if was_attacked { "" } else { "; the attackers were idle" },
        if was_busy { "" } else { "; hardly any traffic" },
    );
    passed
}

fn progress(start: Instant, tally: &Tally, listener: &SoeListener, samples: &[u64]) -> String {
    let stats = listener.stats();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    format!(
        "{:4} s: {} messages echoed ({} MB), {} sessions, {} reconnects, {} hostile datagrams, kernel drops {}, {} KiB",
        start.elapsed().as_secs(),
        read(&tally.echoed),
        read(&tally.bytes) / 1_000_000,
        stats.socket.sessions,
        read(&tally.reconnected),
        read(&tally.hostile),
        listener.kernel_drops().map_or_else(|| "unknown".to_owned(), |drops| drops.to_string()),
        samples.last().copied().unwrap_or_default() >> 10,
    )
}

fn config() -> Result<SessionConfig, soe_tokio::ConfigError> {
    SessionConfig::new("Soak")
}

async fn serve(listener: Arc<SoeListener>) {
    while let Some(incoming) = listener.accept().await {
        tokio::spawn(echo(incoming.accept()));
    }
}

async fn echo(mut session: SoeSession) {
    while let Some(Ok(message)) = session.recv().await {
        if session.send(message).await.is_err() {
            break;
        }
    }
}

/// One player: talks until the end, and fails on the first message that does not come back as it should.
async fn play(server: SocketAddr, number: u64, tally: Arc<Tally>) -> Result<(), String> {
    let mut rng = Rng(number << 17 | 1);
    let mut session = connect(server).await?;
    let mut awaited: [VecDeque<Vec<u8>>; ReliableChannel::COUNT] = Default::default();
    let mut stamp = 0_u64;
    while !tally.is_over() {
        // Chat, positions, and now and then a zone.
        let burst = 1 + rng.below(6);
        for _ in 0..burst {
            let channel = ReliableChannel::ALL[rng.below(4) as usize];
            let length = 8 + match rng.below(100) {
                0 => rng.below(60_000),
                1..10 => rng.below(3_000),
                _ => rng.below(120),
            };
            stamp += 1;
            let mut payload = vec![number as u8 | 1; length as usize];
            payload[..8].copy_from_slice(&stamp.to_be_bytes());
            session.send(Message::new(channel, payload.clone())).await.map_err(|error| error.to_string())?;
            awaited[channel.index()].push_back(payload);
        }
        for _ in 0..burst {
            let message = session.recv().await.ok_or("a session ended")?.map_err(|error| error.to_string())?;
            let Channel::Reliable(channel) = message.channel else {
                return Err("a message changed its channel".into());
            };
            let expected = awaited[channel.index()].pop_front().ok_or("a message was repeated")?;
            if message.payload != expected {
                return Err("a message was lost, or changed".into());
            }
            tally.echoed.fetch_add(1, Ordering::Relaxed);
            tally.bytes.fetch_add(expected.len() as u64, Ordering::Relaxed);
        }
        if rng.below(200) == 0 {
            session.close(DisconnectReason::Application).await;
            session = connect(server).await?;
            tally.reconnected.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(20 + rng.below(80))).await;
    }
    session.close(DisconnectReason::Application).await;
    Ok(())
}

async fn connect(server: SocketAddr) -> Result<SoeSession, String> {
    let config = config().map_err(|error| error.to_string())?;
    SoeSession::connect(server, config).await.map_err(|error| error.to_string())
}

/// Sends what no player would, from addresses that have no session, at a pace that leaves the players a machine.
fn attack(server: SocketAddr, number: u64, tally: &Tally) -> std::io::Result<()> {
    let mut rng = Rng(number << 40 | 3);
    let mut socket = UdpSocket::bind("127.0.0.1:0")?;
    let mut sent = 0_u64;
    while !tally.is_over() {
        for _ in 0..20 {
            let datagram = hostile(&mut rng);
            // The system may refuse to send what it knows to be unwanted.
            let _ = socket.send_to(&datagram, server);
            sent += 1;
        }
        tally.hostile.fetch_add(20, Ordering::Relaxed);
        if sent.is_multiple_of(1_000) {
            socket = UdpSocket::bind("127.0.0.1:0")?;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn hostile(rng: &mut Rng) -> Vec<u8> {
    let random = |rng: &mut Rng, length: u64| (0..length).map(|_| rng.below(256) as u8).collect::<Vec<_>>();
    let length = rng.below(600);
    let noise = random(rng, length);
    match rng.below(7) {
        // Garbage of any length.
        0 => noise,
        // Any op code with a body of noise, and with it a wrong CRC.
        1 => [&[0, rng.below(0x21) as u8][..], &noise].concat(),
        // UnknownSender, port alive and heartbeats: two bytes that anybody can spoof.
        2 => vec![0, [0x1d, 0x1c, 0x06][rng.below(3) as usize]],
        // A request: version 3, some id, udp length 512, and a protocol name that is right or not.
        3 => {
            let id = random(rng, 4);
            let name: &[u8] = if rng.below(2) == 0 { b"Soak\0" } else { b"Wrong\0" };
            [&[0, 1, 0, 0, 0, 3][..], &id, &[0, 0, 2, 0], name].concat()
        }
        // A disconnect for some session.
        4 => [&[0, 5][..], &random(rng, 6)].concat(),
        // A remap for some session.
        5 => [&[0, 0x1e][..], &random(rng, 8)].concat(),
        // A reliable packet far ahead.
        _ => [&[0, 9, 0x7f, 0xff][..], &noise].concat(),
    }
}

/// Random numbers that a seed decides (xorshift).
#[derive(Debug)]
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

/// What the process holds of the machine's memory; 0 where there is no /proc to ask.
fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kibibytes.unwrap_or_default() << 10
}

const USAGE: &str = "\
Runs traffic, reconnects and hostile datagrams over loopback UDP for a long time, and watches memory and messages.

usage: soak [--seconds N] [--sessions N]

  --seconds N         how long, 3 or more (30)
  --sessions N        how many sessions at a time, 1 or more (1000)

exit codes: 0 if nothing was lost and memory stayed flat, 1 otherwise";

fn arguments() -> Result<(u64, u64), Box<dyn Error>> {
    let (mut seconds, mut sessions) = (30, 1_000);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--help" {
            println!("{USAGE}");
            std::process::exit(0);
        }
        let mut value = || words.next().ok_or_else(|| format!("{word} wants a number"));
        match word.as_str() {
            "--seconds" => seconds = value()?.parse::<u64>()?.max(3),
            "--sessions" => sessions = value()?.parse::<u64>()?.max(1),
            other => return Err(format!("unknown argument {other}; try --seconds, --sessions").into()),
        }
    }
    Ok((seconds, sessions))
}
