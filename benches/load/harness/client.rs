//! The client's side of every workload, over whichever implementation.

use std::collections::VecDeque;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::duty::{clock, quantile};
use super::spec::{Kind, OUTSTANDING, Spec};

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// How many sessions are being set up at a time.
const ADMISSIONS: usize = 64;
/// How long a session may take to be set up before another attempt is made.
const SETUP_PATIENCE: Duration = Duration::from_secs(3);

/// One session, as the workloads see it.
pub(crate) trait Client: Send + Sized + 'static {
    /// Opens a session. Whether the server knows of it already is left to the implementation.
    fn connect(server: SocketAddr, spec: &Spec) -> impl Future<Output = Result<Self, Failure>> + Send;

    /// Gives a message to the session, waiting while the session has no room for it.
    fn send(&mut self, message: Bytes) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The next message; an empty one stands for a loss that the implementation does not repair. May be cancelled.
    fn recv(&mut self) -> impl Future<Output = Result<Bytes, Failure>> + Send;
}

/// What a run says to the orchestrator: `begin` when the sessions are there, `end` with its figures as `name=value` words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    pub(crate) begin: fn(),
    pub(crate) end: fn(String),
}

/// Runs one workload.
pub(crate) async fn run<C: Client>(server: SocketAddr, spec: &Spec, voice: Voice) -> Result<(), Failure> {
    let figures = match spec.kind {
        Kind::Setup => {
            (voice.begin)();
            let started = Instant::now();
            let sessions = establish::<C>(server, spec).await?;
            let rate = sessions.len() as f64 / started.elapsed().as_secs_f64();
            format!("sessions_per_s={rate:.0}")
        }
        Kind::Idle => {
            let sessions = establish::<C>(server, spec).await?;
            // What setting up has left to do is not the cost of an idle session.
            sleep(spec.rest()).await;
            (voice.begin)();
            sleep(Duration::from_secs_f64(spec.seconds)).await;
            // The server is asked while the sessions are open.
            (voice.end)(format!("sessions={}", sessions.len()));
            return Ok(());
        }
        Kind::Bulk => {
            let session = connect::<C>(server, spec).await?;
            (voice.begin)();
            bulk(session, spec).await?
        }
        Kind::Echo => {
            let sessions = establish::<C>(server, spec).await?;
            (voice.begin)();
            echo(sessions, spec).await?
        }
        Kind::Game | Kind::Thin => {
            let mut sessions = Vec::new();
            for _ in 0..spec.sessions {
                sessions.push(connect::<C>(server, spec).await?);
            }
            (voice.begin)();
            paced(sessions, spec).await?
        }
    };
    (voice.end)(figures);
    Ok(())
}

/// A session, in as many attempts as it takes: a path may lose what an implementation does not repeat.
async fn connect<C: Client>(server: SocketAddr, spec: &Spec) -> Result<C, Failure> {
    loop {
        if let Ok(session) = timeout(SETUP_PATIENCE, C::connect(server, spec)).await {
            return session;
        }
    }
}

/// Sets up the sessions of a workload, each ready when its first message has come back.
async fn establish<C: Client>(server: SocketAddr, spec: &Spec) -> Result<Vec<C>, Failure> {
    let permits = Arc::new(Semaphore::new(ADMISSIONS));
    let mut attempts = JoinSet::new();
    for _ in 0..spec.sessions {
        let (permits, spec) = (Arc::clone(&permits), spec.clone());
        attempts.spawn(async move {
            let _permit = permits.acquire_owned().await?;
            loop {
                let attempt = async {
                    let mut session = C::connect(server, &spec).await?;
                    session.send(filler(spec.size)).await?;
                    while session.recv().await?.is_empty() {
                        session.send(filler(spec.size)).await?;
                    }
                    Ok::<_, Failure>(session)
                };
                if let Ok(session) = timeout(SETUP_PATIENCE, attempt).await {
                    return session;
                }
            }
        });
    }
    let mut sessions = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        sessions.push(attempt??);
    }
    Ok(sessions)
}

/// A message without meaning. It begins with another byte than zero.
fn filler(size: usize) -> Bytes {
    (0..size).map(|index| 1 + (index * 31 % 255) as u8).collect()
}

async fn bulk<C: Client>(mut session: C, spec: &Spec) -> Result<String, Failure> {
    let message = filler(spec.size);
    let started = Instant::now();
    let mut left = spec.bytes;
    while left > 0 {
        let length = left.min(spec.size as u64) as usize;
        session.send(message.slice(..length)).await?;
        left -= length as u64;
    }
    while session.recv().await?.is_empty() {}
    let seconds = started.elapsed().as_secs_f64();
    Ok(format!("mb_per_s={:.2} seconds={seconds:.3}", spec.bytes as f64 / 1e6 / seconds))
}

async fn echo<C: Client>(sessions: Vec<C>, spec: &Spec) -> Result<String, Failure> {
    let started = Instant::now();
    let end = started + Duration::from_secs_f64(spec.seconds);
    let mut running = JoinSet::new();
    for mut session in sessions {
        let message = filler(spec.size);
        running.spawn(async move {
            let mut sent: VecDeque<Instant> = VecDeque::new();
            let mut times = Vec::new();
            let mut ended = pin!(sleep_until(end));
            loop {
                while sent.len() < OUTSTANDING {
                    sent.push_back(Instant::now());
                    session.send(message.clone()).await?;
                }
                let heard = tokio::select! {
                    heard = session.recv() => heard?,
                    () = &mut ended => return Ok::<_, Failure>(times),
                };
                if heard.is_empty() {
                    sent.clear();
                } else if let Some(sent) = sent.pop_front() {
                    times.push(sent.elapsed().as_micros() as u64);
                }
            }
        });
    }
    let mut times = Vec::new();
    while let Some(session) = running.join_next().await {
        times.extend(session??);
    }
    times.sort_unstable();
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let (p50, p99) = (quantile(&times, 0.5), quantile(&times, 0.99));
    Ok(format!("messages_per_s={rate:.0} messages={} p50_us={p50} p99_us={p99}", times.len()))
}

/// Sends at a fixed pace whatever comes back, sessions spread evenly over the interval.
async fn paced<C: Client>(sessions: Vec<C>, spec: &Spec) -> Result<String, Failure> {
    let (pace, size) = match spec.kind {
        Kind::Thin => (Duration::from_millis(20), 64),
        _ => (Duration::from_millis(50), 128),
    };
    let end = Instant::now() + Duration::from_secs_f64(spec.seconds);
    let count = sessions.len() as u32;
    let mut running = JoinSet::new();
    for (index, mut session) in (0..).zip(sessions) {
        let rest = filler(size - 8);
        running.spawn(async move {
            sleep(pace * index / count).await;
            let mut clockwork = interval(pace);
            clockwork.set_missed_tick_behavior(MissedTickBehavior::Skip);
            let (mut said, mut heard) = (0_u64, 0_u64);
            loop {
                tokio::select! {
                    _ = clockwork.tick(), if Instant::now() < end => {
                        let message = [&clock().to_be_bytes()[..], &rest].concat();
                        session.send(message.into()).await?;
                        said += 1;
                    }
                    message = session.recv() => heard += u64::from(!message?.is_empty()),
                    // What is on its way at the end still arrives.
                    () = sleep_until(end + Duration::from_millis(500)) => return Ok::<_, Failure>((said, heard)),
                }
            }
        });
    }
    let (mut said, mut heard) = (0, 0);
    while let Some(session) = running.join_next().await {
        let (of_session, to_session) = session??;
        said += of_session;
        heard += to_session;
    }
    Ok(format!("said={said} heard={heard}"))
}
