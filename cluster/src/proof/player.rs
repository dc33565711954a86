//! A player, as a game client would be written: it logs in, plays, goes where it is sent, and comes back when its zone is gone.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use soe_tokio::{DisconnectReason, SessionConfig, SoeConnector};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    Error,
    wire::{FromLogin, FromZone, ToLogin, ToZone, Way, decode, encode, session_config},
};

/// What a player has seen.
#[derive(Debug)]
pub(super) struct Seen {
    /// Where it plays now, and since when.
    pub(super) zone: Option<String>,
    pub(super) entered: Instant,
    pub(super) points: u64,
    /// Points that a zone had forgotten when it entered the next.
    pub(super) lost_points: u64,
    pub(super) last_played: Instant,
    /// The longest time between two answers of whatever zone, since [`Player::begin`].
    pub(super) longest_gap: Duration,
    /// How often a session ended, or a zone fell silent, without the player having been sent on.
    pub(super) drops: usize,
    pub(super) heard: HashSet<String>,
}

#[derive(Debug)]
enum Command {
    Say(String),
    Move(String),
}

#[derive(Debug)]
pub(super) struct Player {
    pub(super) name: String,
    seen: Arc<Mutex<Seen>>,
    commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Player {
    pub(super) async fn start(name: String, login: SocketAddr) -> Result<Self, Error> {
        let connector = SoeConnector::bind("127.0.0.1:0").await?;
        let config = session_config()?.to_builder().connect_timeout(PATIENCE).build()?;
        let seen = Arc::new(Mutex::new(Seen {
            zone: None,
            entered: Instant::now(),
            points: 0,
            lost_points: 0,
            last_played: Instant::now(),
            longest_gap: Duration::ZERO,
            drops: 0,
            heard: HashSet::new(),
        }));
        let (commands, orders) = mpsc::unbounded_channel();
        let game = Game { name: name.clone(), login, connector, config, seen: Arc::clone(&seen), orders, number: 0 };
        Ok(Self { name, seen, commands, task: tokio::spawn(game.run()) })
    }

    pub(super) fn say(&self, text: String) {
        let _ = self.commands.send(Command::Say(text));
    }

    pub(super) fn go_to(&self, zone: &str) {
        let _ = self.commands.send(Command::Move(zone.into()));
    }

    /// Begins to measure anew.
    pub(super) fn begin(&self) {
        let mut seen = self.see();
        (seen.longest_gap, seen.drops, seen.lost_points) = (Duration::ZERO, 0, 0);
    }

    pub(super) fn see(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it plays: its zone has answered just now.
    pub(super) fn is_playing(&self) -> bool {
        let seen = self.see();
        let has_played = seen.zone.is_some() && seen.last_played > seen.entered;
        has_played && seen.last_played.elapsed() < 2 * TICK + Duration::from_millis(500)
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Game {
    name: String,
    login: SocketAddr,
    connector: SoeConnector,
    config: SessionConfig,
    seen: Arc<Mutex<Seen>>,
    orders: mpsc::UnboundedReceiver<Command>,
    number: u64,
}

impl Game {
    async fn run(mut self) {
        let (mut next, mut avoid) = (None, None);
        loop {
            let way = match next.take() {
                Some(way) => way,
                None => match self.log_in(avoid.clone()).await {
                    Some(way) => way,
                    None => {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let zone = way.zone.clone();
            next = self.stay(way).await;
            if next.is_none() {
                let mut seen = self.see();
                (seen.drops, seen.zone) = (seen.drops + 1, None);
                drop(seen);
                avoid = Some(zone);
            }
        }
    }

    async fn log_in(&self, avoid: Option<String>) -> Option<Way> {
        let mut session = self.connector.connect(self.login, self.config.clone()).await.ok()?;
        let player = self.name.clone();
        session.send(encode(&ToLogin { player, avoid })).await.ok()?;
        let message = timeout(LOGIN, session.recv()).await.ok()??.ok()?;
        let _ = session.close(DisconnectReason::Application).await;
        decode::<FromLogin>(&message.payload).map(|answer| answer.way)
    }

    /// Plays in one zone. Where to go on, or `None` if the zone is gone.
    async fn stay(&mut self, way: Way) -> Option<Way> {
        let mut session = self.connector.connect(way.address, self.config.clone()).await.ok()?;
        let enter = ToZone::Enter { player: self.name.clone(), ticket: way.ticket };
        session.send(encode(&enter)).await.ok()?;
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut has_entered, mut heard) = (false, Instant::now());
        loop {
            let patience = if has_entered { PATIENCE } else { LOGIN };
            tokio::select! {
                message = session.recv() => {
                    let Some(Ok(message)) = message else { return None };
                    match decode(&message.payload)? {
                        FromZone::Entered { points } => {
                            (has_entered, heard) = (true, Instant::now());
                            let mut seen = self.see();
                            seen.lost_points += seen.points.saturating_sub(points);
                            (seen.points, seen.zone, seen.entered) = (points, Some(way.zone.clone()), heard);
                        }
                        FromZone::Played { points, .. } => {
                            heard = Instant::now();
                            let mut seen = self.see();
                            let gap = seen.last_played.elapsed();
                            seen.longest_gap = seen.longest_gap.max(gap);
                            (seen.points, seen.last_played) = (points, heard);
                        }
                        FromZone::Said { text, .. } => {
                            self.see().heard.insert(text);
                        }
                        FromZone::Go { way } => {
                            self.see().zone = None;
                            // The farewell is said in the background.
                            tokio::spawn(async move { session.close(DisconnectReason::Application).await });
                            return Some(way);
                        }
                        FromZone::Refused { .. } => {
                            let _ = session.close(DisconnectReason::Application).await;
                            return None;
                        }
                    }
                }
                _ = tick.tick() => {
                    if heard.elapsed() > patience {
                        session.abort(DisconnectReason::Timeout, true);
                        return None;
                    }
                    if has_entered {
                        self.number += 1;
                        let play = ToZone::Play { number: self.number };
                        session.send(encode(&play)).await.ok()?;
                    }
                }
                order = self.orders.recv(), if has_entered => {
                    let order = match order? {
                        Command::Say(text) => ToZone::Say { text },
                        Command::Move(to) => ToZone::Move { to },
                    };
                    session.send(encode(&order)).await.ok()?;
                }
            }
        }
    }

    fn see(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a player plays.
pub(super) const TICK: Duration = Duration::from_millis(200);
/// How long a zone may be silent.
const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long a ticket, and the way in, are waited for: longer than NATS is away.
const LOGIN: Duration = Duration::from_secs(60);
