//! Whether a listener's cost grows linearly with its sessions: memory, timers, broadcast, restart and shutdown with up to
//! 100,000 of them.
//!
//! ```text
//! cargo bench --bench crowd [-- SESSIONS ...]      # 10,000, 50,000 and 100,000 by default; about 4 GB
//! ```
//!
//! Listener and clients share a network in memory, one thread and Tokio's paused clock, so that times are those of the processor,
//! of both ends together. Each figure is for one session; were all costs linear, a column would hold one number.

use std::{
    env,
    error::Error,
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::StreamExt;
use peak_alloc::PeakAlloc;
use soe_testing::{LinkProfile, Network};
use soe_tokio::{AdmissionConfig, SessionConfig, SlowReceiver, SoeListener, SoeSession, broadcast};
use tokio::{runtime::Builder, task::JoinSet, time::sleep};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

type Failure = Box<dyn Error>;

/// Clients that connect at once: a game's players do not come in one instant either.
const AT_ONCE: usize = 1_000;

fn main() -> Result<(), Failure> {
    let mut crowds = Vec::new();
    for argument in env::args().skip(1).filter(|argument| argument != "--bench") {
        crowds.push(argument.parse::<u32>().map_err(|_| format!("{argument:?} is no number of sessions"))?);
    }
    if crowds.is_empty() {
        crowds = vec![10_000, 50_000, 100_000];
    }
    println!("for each session, both ends: microseconds of the processor, and bytes");
    println!(
        "{:>9} {:>9} {:>9} {:>11} {:>9} {:>11} {:>9} {:>9} {:>9}",
        "sessions", "set-up", "bytes", "idle minute", "broadcast", "heard by", "noticed", "again", "shutdown"
    );
    for crowd in crowds {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build()?;
        runtime.block_on(row(crowd))?;
    }
    Ok(())
}

/// An address of its own for each client, with a port of its own for each time that it comes.
fn address(number: u32, time: u16) -> SocketAddr {
    let [_, high, middle, low] = number.to_be_bytes();
    SocketAddr::from(([10, high, middle, low], 1_000 + time))
}

fn config() -> Result<SessionConfig, Failure> {
    Ok(SessionConfig::new("Crowd")?)
}

fn listen(network: &Network, crowd: u32) -> Result<SoeListener, Failure> {
    let admission = AdmissionConfig::builder(config()?)
        .max_sessions(2 * crowd as usize)
        .accept_backlog(2 * AT_ONCE)
        // All notice the restart at once.
        .unknown_sender_rate(10 * crowd);
    Ok(network.listener_at(SocketAddr::from(([10, 255, 255, 1], 20_060)), admission.build()?)?)
}

/// Brings the whole crowd in. Returns the ends of the clients and of the server.
async fn enter(
    network: &Network,
    listener: &SoeListener,
    crowd: u32,
    time: u16,
) -> Result<[Vec<SoeSession>; 2], Failure> {
    let (mut clients, mut players) = (Vec::new(), Vec::new());
    let numbers: Vec<_> = (0..crowd).collect();
    for some in numbers.chunks(AT_ONCE) {
        let mut connecting = JoinSet::new();
        for &number in some {
            let (connector, config, server) =
                (network.connector(address(number, time))?, config()?, listener.local_addr());
            connecting.spawn(async move { connector.connect(server, config).await });
        }
        while players.len() < clients.len() + some.len() {
            players.push(listener.accept().await.ok_or("the listener is closed")?.accept());
        }
        while let Some(client) = connecting.join_next().await {
            clients.push(client??);
        }
    }
    Ok([clients, players])
}

/// Microseconds of the processor for each of so many sessions since then.
fn each(since: Instant, crowd: u32) -> f64 {
    since.elapsed().as_secs_f64() * 1e6 / f64::from(crowd)
}

async fn row(crowd: u32) -> Result<(), Failure> {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(20)));
    let listener = listen(&network, crowd)?;
    let before = MEMORY.current_usage();

    let begin = Instant::now();
    let [mut clients, players] = enter(&network, &listener, crowd, 0).await?;
    let set_up = each(begin, crowd);
    // What setting up has left to do is not the cost of an idle session; memory is given back after five seconds.
    sleep(Duration::from_secs(90)).await;
    let bytes = (MEMORY.current_usage() - before) / crowd as usize;

    let begin = Instant::now();
    sleep(Duration::from_secs(60)).await;
    let idle = each(begin, crowd);

    let handles: Vec<_> = listener.sessions().collect();
    let begin = Instant::now();
    let report = broadcast(&handles, "the server restarts", SlowReceiver::Skip);
    let called = each(begin, crowd);
    if report.sent != crowd as usize {
        return Err(format!("{} of {crowd} were sent to", report.sent).into());
    }
    for client in &mut clients {
        client.next().await.ok_or("ended")??;
    }
    let heard = each(begin, crowd);

    // The server is gone without a word, and another one comes in its place: the clients find out and come again.
    network.unplug(listener.local_addr());
    drop((listener, players));
    sleep(Duration::from_secs(10)).await;
    let listener = listen(&network, crowd)?;
    let begin = Instant::now();
    for client in &mut clients {
        if let Some(Ok(_)) = client.next().await {
            return Err("a message from a server that has restarted".into());
        }
    }
    let noticed = each(begin, crowd);
    drop(clients);
    let begin = Instant::now();
    let [clients, players] = enter(&network, &listener, crowd, 1).await?;
    let again = each(begin, crowd);

    let begin = Instant::now();
    let leaving = tokio::spawn(async move {
        let mut clients = clients;
        for client in &mut clients {
            while client.next().await.is_some() {}
        }
    });
    let report = listener.shutdown(Duration::from_secs(30)).await;
    leaving.await?;
    let shutdown = each(begin, crowd);
    drop(players);
    if report.sessions.len() != crowd as usize {
        return Err(format!("{} of {crowd} were ended", report.sessions.len()).into());
    }
    println!(
        "{crowd:>9} {set_up:>9.1} {bytes:>9} {idle:>11.1} {called:>9.2} {heard:>11.1} {noticed:>9.1} {again:>9.1} {shutdown:>9.1}"
    );
    Ok(())
}
