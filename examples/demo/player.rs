//! One player: logs in, joins the zone, and verifies everything that comes.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use soe_tokio::{Channel, DisconnectReason, Message, SessionConfig, SessionStats, SocketStats, SoeConnector};
use tokio::{
    sync::Barrier,
    time::{Instant, interval_at, sleep_until, timeout_at},
};

use crate::{
    BoxError, LINE_EVERY, LINES, MAP_EVERY, MAPS, MOVE_EVERY, ROOM,
    common::game::{self, BULK, CHAT, LOGIN_PROTOCOL, Packet, ZONE_PROTOCOL},
    servers::{World, map},
};

/// Who hears nothing for so long has lost something: the transport has long given up or repeated it.
const SILENCE: Duration = Duration::from_secs(15);

/// What one player has counted, or all of them.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) lines: u64,
    pub(crate) line_bytes: u64,
    pub(crate) maps: u64,
    pub(crate) map_bytes: u64,
    pub(crate) moves: u64,
    pub(crate) move_bytes: u64,
    pub(crate) moves_sent: u64,
    pub(crate) round_trips: Vec<Duration>,
    pub(crate) sessions: Vec<SessionStats>,
    pub(crate) sockets: Vec<SocketStats>,
}

/// What a player says. Everybody else knows it too, and can check it.
fn line(player: u32, number: u32) -> String {
    format!("player {player} says line {number}: {}", "blah ".repeat((player + number) as usize % 7))
}

pub(crate) async fn play(login: SocketAddr, world: Arc<World>, together: Arc<Barrier>) -> Result<Outcome, BoxError> {
    let mut outcome = Outcome::default();
    // One socket for both sessions.
    let socket = SoeConnector::bind("127.0.0.1:0").await?;
    let mut session = socket.connect(login, SessionConfig::new(LOGIN_PROTOCOL)?).await?;
    session.send(Packet::Login { name: "somebody".to_owned() }.encode()).await?;
    let welcome = game::receive(&mut session).await?;
    let Packet::Welcome { zone, ticket, key } = welcome else { return Err("not a welcome".into()) };
    session.close(DisconnectReason::Application).await;
    outcome.sessions.push(session.stats());

    let mut session = socket.connect(zone, SessionConfig::new(ZONE_PROTOCOL)?).await?;
    session.send(Packet::Join { ticket }.encode()).await?;
    game::encrypt_chat(&mut session, &key)?;
    let Packet::Joined { player: me } = game::receive(&mut session).await? else { return Err("not let in".into()) };
    world.joined.fetch_add(1, Ordering::Relaxed);
    together.wait().await;
    // The last room may not be full.
    let first = me - me % ROOM;
    let room = (world.joined.load(Ordering::Relaxed) as u32 - first).min(ROOM);

    let (mut send, mut recv) = session.split();
    // Not all at the same moment.
    let start = Instant::now() + LINE_EVERY * (me * 7 % 100) / 100;
    let [mut line_clock, mut map_clock, mut move_clock] =
        [LINE_EVERY, MAP_EVERY, MOVE_EVERY].map(|every| interval_at(start, every));
    let mut last = start;
    let mut said: Vec<Instant> = Vec::new();
    let mut heard = [0; ROOM as usize];
    let mut maps_asked = 0;
    while outcome.lines < u64::from(room * LINES) || outcome.maps < u64::from(MAPS) {
        tokio::select! {
            message = recv.recv() => {
                let Some(message) = message else {
                    let end = recv.closed().await.map(|closed| closed.to_string()).unwrap_or_default();
                    return Err(outcome.shortfall(me, room, &end));
                };
                last = Instant::now();
                let message = message?;
                match outcome.take(&message, me, &mut heard, &said)? {
                    Channel::Unreliable => world.moves.fetch_add(1, Ordering::Relaxed),
                    channel if channel == CHAT.into() => world.lines.fetch_add(1, Ordering::Relaxed),
                    _ => world.maps.fetch_add(1, Ordering::Relaxed),
                };
            }
            () = sleep_until(last + SILENCE) => {
                return Err(outcome.shortfall(me, room, &format!("and then nothing more; {:?}", recv.stats())));
            }
            _ = line_clock.tick(), if (said.len() as u32) < LINES => {
                let number = said.len() as u32;
                said.push(Instant::now());
                send.try_send(Packet::Chat { player: me, number, text: line(me, number) }.encode())?;
            }
            _ = map_clock.tick(), if maps_asked < MAPS => {
                maps_asked += 1;
                send.try_send(Message::new(BULK, Packet::NextMap.encode()))?;
            }
            _ = move_clock.tick(), if (said.len() as u32) < LINES => {
                let at = Packet::Moved { player: me, x: outcome.moves_sent as u32, y: me };
                send.try_send(Message::unreliable(at.encode()))?;
                outcome.moves_sent += u64::from(room - 1);
            }
        }
    }
    // Nobody leaves a room in which others still talk, and what was still under way then is counted too.
    together.wait().await;
    let end = Instant::now() + LINE_EVERY;
    while let Ok(Some(message)) = timeout_at(end, recv.recv()).await {
        outcome.take(&message?, me, &mut heard, &said)?;
    }
    send.close(DisconnectReason::Application).await;
    outcome.sessions.push(send.stats());
    outcome.sockets.push(socket.stats());
    Ok(outcome)
}

impl Outcome {
    /// Verifies and counts a message.
    fn take(&mut self, message: &Message, me: u32, heard: &mut [u32], said: &[Instant]) -> Result<Channel, BoxError> {
        let (channel, size) = (message.channel, message.payload.len() as u64);
        if channel == BULK.into() {
            if message.payload != map(me, self.maps as u32) {
                return Err(format!("player {me}: map {} is not what was sent", self.maps).into());
            }
            self.maps += 1;
            self.map_bytes += size;
            return Ok(channel);
        }
        match Packet::decode(&message.payload) {
            Some(Packet::Chat { player, number, text }) if channel == CHAT.into() && player / ROOM == me / ROOM => {
                let next = &mut heard[(player % ROOM) as usize];
                if number != *next || text != line(player, number) {
                    return Err(format!("player {me}: heard '{text}' instead of line {next} of player {player}").into());
                }
                *next += 1;
                if player == me {
                    let at = said.get(number as usize).ok_or("a line was heard that was never said")?;
                    self.round_trips.push(at.elapsed());
                }
                self.lines += 1;
                self.line_bytes += size;
            }
            Some(Packet::Moved { .. }) if channel == Channel::Unreliable => {
                self.moves += 1;
                self.move_bytes += size;
            }
            other => return Err(format!("player {me}: {other:?} came on {channel}").into()),
        }
        Ok(channel)
    }

    fn shortfall(&self, me: u32, room: u32, why: &str) -> BoxError {
        let (lines, maps) = (self.lines, self.maps);
        format!("player {me} heard {lines} of {} lines and loaded {maps} of {MAPS} maps, {why}", room * LINES).into()
    }

    pub(crate) fn sum(outcomes: Vec<Self>) -> Self {
        let mut sum = Self::default();
        for one in outcomes {
            sum.lines += one.lines;
            sum.line_bytes += one.line_bytes;
            sum.maps += one.maps;
            sum.map_bytes += one.map_bytes;
            sum.moves += one.moves;
            sum.move_bytes += one.move_bytes;
            sum.moves_sent += one.moves_sent;
            sum.round_trips.extend(one.round_trips);
            sum.sessions.extend(one.sessions);
            sum.sockets.extend(one.sockets);
        }
        sum.round_trips.sort_unstable();
        sum
    }
}
