//! This library: one task per session on the server, one socket per session on the client.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio, id};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use soe_core::{AdmissionConfig, ChannelOptions, ConfigError, Message, ReliableChannel, SessionConfig};
use soe_tokio::{
    BusyPoll, ListenerConfig, RecordWhen, RecorderConfig, RecordingPart, RecordingSink, SendHalf, SocketConfig,
    SoeConnector, SoeListener, SoeSession,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::client::{Client, Failure};
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::process::{count_sent_with, scrape_with};
use crate::harness::spec::{Kind, Spec};
use crate::harness::{Implementation, block_on, join_with};

const PROTOCOL: &str = "Load";
const MAX_SESSIONS: usize = 20_000;

/// Everything comes from one address here, as if thousands of players joined from one house in a second.
const REQUESTS_PER_SECOND: u32 = 1_000_000;
/// A window that fills long and fast links, as both sides may agree on where neither is an old game client.
const WIDE_PACKETS: usize = 16_384;
const WIDE_BYTES: usize = 8 << 20;

/// The rows of this library. The first is the one that others are compared with.
pub(crate) fn implementations() -> [Implementation; 6] {
    [
        Implementation {
            name: "soe-tokio",
            can: |_| true,
            serve: |spec, ready| block_on(serve(spec, Tuning::DEFAULT, ready)),
            join: join_with::<OurClient<0>>,
        },
        Implementation {
            name: "soe-tokio wide",
            // Between two processes on one machine the default windows are never full.
            can: |spec| spec.delay > 0 && spec.kind == Kind::Bulk,
            serve: |spec, ready| block_on(serve(spec, Tuning::WIDE, ready)),
            join: join_with::<OurClient<1>>,
        },
        Implementation {
            name: "soe-tokio asleep",
            // Looking for more instead of sleeping matters where one side waits for the other.
            can: |spec| spec.kind == Kind::Echo && spec.sessions == 1,
            serve: |spec, ready| block_on(serve(spec, Tuning::ASLEEP, ready)),
            join: join_with::<OurClient<2>>,
        },
        Implementation {
            name: "soe-tokio redundant",
            can: |spec| spec.kind == Kind::Thin,
            serve: |spec, ready| block_on(serve(spec, Tuning::REDUNDANT, ready)),
            join: join_with::<OurClient<3>>,
        },
        Implementation {
            name: "soe-tokio recorded",
            can: |spec| spec.kind == Kind::Echo,
            serve: |spec, ready| block_on(serve(spec, Tuning::RECORDED, ready)),
            join: join_with::<OurClient<0>>,
        },
        Implementation {
            name: "soe-tokio 2 shards",
            // The clients keep a core busy: a server that could use more than what they leave would show nothing.
            can: |spec| spec.kind == Kind::Game,
            serve: |spec, ready| on_two_threads(serve(spec, Tuning::SHARDS, ready)),
            join: join_with::<OurClient<0>>,
        },
    ]
}

/// Drops what is recorded: the row shows what recording costs, and not the disk.
#[derive(Debug)]
struct Dropped;

impl RecordingSink for Dropped {
    fn take(&self, _: RecordingPart) -> bool {
        true
    }
}

/// What differs between the rows of this library.
#[derive(Clone, Copy)]
struct Tuning {
    wide: bool,
    redundant: bool,
    shards: usize,
    recorded: bool,
    busy_poll: BusyPoll,
}

impl Tuning {
    const DEFAULT: Self =
        Self { wide: false, redundant: false, shards: 1, recorded: false, busy_poll: BusyPoll::WhileItPays };
    const WIDE: Self = Self { wide: true, ..Self::DEFAULT };
    const ASLEEP: Self = Self { busy_poll: BusyPoll::Never, ..Self::DEFAULT };

    const REDUNDANT: Self = Self { redundant: true, ..Self::DEFAULT };
    const SHARDS: Self = Self { shards: 2, ..Self::DEFAULT };
    const RECORDED: Self = Self { recorded: true, ..Self::DEFAULT };

    const ALL: [Self; 4] = [Self::DEFAULT, Self::WIDE, Self::ASLEEP, Self::REDUNDANT];
}

/// Runs on two threads and two cores, the second of which is the clients' as well.
fn on_two_threads(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    // The harness has given this process one core, by the same means; without them there was no such limit.
    let _ = Command::new("taskset").args(["-acp", "0-1", &id().to_string()]).stdout(Stdio::null()).status();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(work)
}

fn config(spec: &Spec, tuning: Tuning) -> Result<SessionConfig, ConfigError> {
    let options = ChannelOptions::default().with_redundancy(tuning.redundant);
    let config = SessionConfig::builder(PROTOCOL).udp_length(spec.udp as u32).channel(ReliableChannel::ZERO, options);
    if !tuning.wide {
        return config.build();
    }
    config.window(WIDE_PACKETS, WIDE_BYTES).send_buffer(WIDE_BYTES).recv_buffer(WIDE_BYTES).build()
}

/// Serves for ever.
async fn serve(spec: &Spec, tuning: Tuning, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let admission = AdmissionConfig::builder(config(spec, tuning)?)
        .max_sessions(MAX_SESSIONS)
        .response_rate(REQUESTS_PER_SECOND)
        .response_rate_per_prefix(REQUESTS_PER_SECOND)
        .response_burst_per_prefix(REQUESTS_PER_SECOND);
    let socket = SocketConfig::default().busy_poll(tuning.busy_poll);
    let mut config = ListenerConfig::new(admission.build()?).socket(socket).shards(tuning.shards);
    if tuning.recorded {
        config = config.recorder(RecorderConfig::new(Dropped).when(RecordWhen::Continuously));
    }
    let listener = Arc::new(SoeListener::bind((Ipv4Addr::LOCALHOST, 0), config).await?);
    ready(listener.local_addr());
    let counted = Arc::clone(&listener);
    count_sent_with(move || counted.stats().socket.datagrams_sent);
    let scraped = Arc::clone(&listener);
    scrape_with(move || {
        let mut text = String::new();
        scraped.metrics().encode_openmetrics(&mut text);
        assert!(text.ends_with("# EOF\n"), "the text is whole");
    });
    let (players, newcomers) = unbounded_channel();
    if spec.kind == Kind::Game {
        tokio::spawn(update_all(newcomers));
    }
    while let Some(incoming) = listener.accept().await {
        let session = incoming.accept();
        let duty = Duty::new(spec);
        match spec.kind {
            Kind::Game => drop(tokio::spawn(play(session, duty, players.clone()))),
            _ => drop(tokio::spawn(attend(session, duty))),
        }
    }
    Ok(())
}

async fn attend(mut session: SoeSession, mut duty: Duty) {
    while let Some(Ok(message)) = session.next().await {
        let Some(reply) = duty.hear(message.payload) else { continue };
        if session.send(Message::new(message.channel, reply)).await.is_err() {
            break;
        }
    }
}

async fn play(session: SoeSession, mut duty: Duty, players: UnboundedSender<SendHalf>) {
    let (sender, mut receiver) = session.split();
    // The receiver lives as long as the process.
    let _ = players.send(sender);
    while let Some(Ok(message)) = receiver.next().await {
        let _ = duty.hear(message.payload);
    }
}

/// The heartbeat of a game server: an update for everybody at once.
async fn update_all(mut newcomers: UnboundedReceiver<SendHalf>) {
    let mut players: Vec<SendHalf> = Vec::new();
    let update = Bytes::from_static(&[7; GAME_UPDATE]);
    let mut clockwork = interval(GAME_TICK);
    clockwork.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        clockwork.tick().await;
        while let Ok(newcomer) = newcomers.try_recv() {
            players.push(newcomer);
        }
        players.retain_mut(|player| player.try_send(update.clone()).is_ok());
    }
}

/// One session with its own socket, under the n-th of the tunings.
#[derive(Debug)]
struct OurClient<const N: usize> {
    session: SoeSession,
    bulk: bool,
}

impl<const N: usize> Client for OurClient<N> {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let tuning = Tuning::ALL[N];
        let socket = SocketConfig::default().busy_poll(tuning.busy_poll);
        let connector = SoeConnector::bind_with((Ipv4Addr::LOCALHOST, 0), socket).await?;
        let session = connector.connect(server, config(spec, tuning)?).await?;
        Ok(Self { session, bulk: spec.kind == Kind::Bulk })
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        if self.bulk {
            // The flush before the wait for the receipt sends what is left.
            self.session.feed(Message::reliable(message)).await?;
        } else {
            self.session.send(message).await?;
        }
        Ok(())
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        if self.bulk {
            self.session.flush().await?;
        }
        match self.session.next().await {
            Some(message) => Ok(message?.payload),
            None => Err("the session ended".into()),
        }
    }
}
