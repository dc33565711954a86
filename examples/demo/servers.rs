//! The two servers. For servers to copy from see the examples `login_server` and `zone_server`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use soe_core::ChannelOptions;
use soe_tokio::{
    Channel, DisconnectReason, Incoming, Message, SendError, SendHalf, SessionConfig, SessionStats, SocketStats,
    SoeListener,
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

use crate::{
    BoxError, MAP_SIZE, ROOM,
    common::{
        game::{self, BULK, CHAT, Key, LOGIN_PROTOCOL, Packet, ZONE_PROTOCOL},
        pattern,
    },
};

/// What the servers know, and what the players have counted so far.
pub(crate) struct World {
    /// Keys of the players who have logged in and not come to the zone yet.
    tickets: Mutex<HashMap<u64, Key>>,
    /// The sending halves of the players in each room.
    rooms: Vec<Mutex<HashMap<u32, SendHalf>>>,
    arrived: AtomicU64,
    pub(crate) joined: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) maps: AtomicU64,
    pub(crate) moves: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    pub(crate) fn new(players: u32) -> Self {
        let rooms = (0..players.div_ceil(ROOM)).map(|_| Mutex::default()).collect();
        let [arrived, joined, lines, maps, moves] = [const { AtomicU64::new(0) }; 5];
        Self { tickets: Mutex::default(), rooms, arrived, joined, lines, maps, moves }
    }

    fn room(&self, player: u32) -> MutexGuard<'_, HashMap<u32, SendHalf>> {
        lock(&self.rooms[(player / ROOM) as usize])
    }
}

/// The map that a player is sent as its `number`th.
pub(crate) fn map(player: u32, number: u32) -> Vec<u8> {
    pattern(u64::from(player) << 32 | u64::from(number), MAP_SIZE)
}

pub(crate) struct Servers {
    pub(crate) login: SocketAddr,
    pub(crate) zone: SocketAddr,
    stop: [oneshot::Sender<()>; 2],
    tasks: [JoinHandle<(SocketStats, Vec<SessionStats>)>; 2],
}

impl Servers {
    pub(crate) async fn start(world: &Arc<World>) -> Result<Self, BoxError> {
        let login = SoeListener::bind("127.0.0.1:0", SessionConfig::new(LOGIN_PROTOCOL)?).await?;
        // Maps come second: what is said goes out first whenever something leaves.
        let second = ChannelOptions::default().with_priority(1);
        let config = SessionConfig::builder(ZONE_PROTOCOL).channel(BULK, second).build()?;
        let zone = SoeListener::bind("127.0.0.1:0", config).await?;
        let (login_at, zone_at) = (login.local_addr(), zone.local_addr());
        let ((stop_login, login_stopped), (stop_zone, zone_stopped)) = (oneshot::channel(), oneshot::channel());
        let (for_login, for_zone) = (Arc::clone(world), Arc::clone(world));
        let log_in = move |incoming| log_in(incoming, Arc::clone(&for_login), zone_at);
        let serve = move |incoming| serve(incoming, Arc::clone(&for_zone));
        let tasks =
            [tokio::spawn(accept(login, login_stopped, log_in)), tokio::spawn(accept(zone, zone_stopped, serve))];
        Ok(Self { login: login_at, zone: zone_at, stop: [stop_login, stop_zone], tasks })
    }

    /// Stops both servers and gives what they have counted.
    pub(crate) async fn stop(self) -> Result<Vec<(SocketStats, Vec<SessionStats>)>, BoxError> {
        for stop in self.stop {
            stop.send(()).map_err(|()| "a server ended by itself")?;
        }
        let mut counted = Vec::new();
        for task in self.tasks {
            counted.push(task.await?);
        }
        Ok(counted)
    }
}

async fn accept<F: Future<Output = Result<SessionStats, BoxError>> + Send + 'static>(
    listener: SoeListener,
    mut stopped: oneshot::Receiver<()>,
    serve: impl Fn(Incoming) -> F,
) -> (SocketStats, Vec<SessionStats>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            Some(incoming) = listener.accept() => drop(sessions.spawn(serve(incoming))),
            _ = &mut stopped => break,
        }
    }
    let socket = listener.stats().socket;
    listener.shutdown(Duration::from_secs(5)).await;
    // A session that failed here has failed its player too, who reports it.
    (socket, sessions.join_all().await.into_iter().flatten().collect())
}

async fn log_in(incoming: Incoming, world: Arc<World>, zone: SocketAddr) -> Result<SessionStats, BoxError> {
    let mut session = incoming.accept();
    let Packet::Login { .. } = game::receive(&mut session).await? else { return Err("not a login".into()) };
    let (ticket, key) = (u64::from_be_bytes(game::secret()?), game::secret()?);
    lock(&world.tickets).insert(ticket, key);
    session.send(Packet::Welcome { zone, ticket, key }.encode()).await?;
    session.closed().await;
    Ok(session.stats())
}

async fn serve(incoming: Incoming, world: Arc<World>) -> Result<SessionStats, BoxError> {
    let mut session = incoming.accept();
    let Packet::Join { ticket } = game::receive(&mut session).await? else { return Err("no ticket".into()) };
    let key = lock(&world.tickets).remove(&ticket).ok_or("not a valid ticket")?;
    let player = world.arrived.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as u32;
    game::encrypt_chat(&mut session, &key)?;
    let (mut send, mut recv) = session.split();
    {
        // Under the room's lock: as soon as the player knows that it is here, it must not miss a word.
        let mut room = world.room(player);
        send.try_send(Packet::Joined { player }.encode())?;
        room.insert(player, send);
    }
    let mut maps_sent = 0;
    while let Some(Ok(message)) = recv.recv().await {
        let reply = match Packet::decode(&message.payload) {
            Some(Packet::Chat { number, text, .. }) => {
                Message::new(CHAT, Packet::Chat { player, number, text }.encode())
            }
            Some(Packet::Moved { x, y, .. }) => Message::unreliable(Packet::Moved { player, x, y }.encode()),
            Some(Packet::NextMap) => {
                maps_sent += 1;
                Message::new(BULK, map(player, maps_sent - 1))
            }
            _ => {
                recv.abort(DisconnectReason::CorruptPacket, true);
                continue;
            }
        };
        for (other, half) in world.room(player).iter_mut() {
            let hears = match reply.channel {
                Channel::Unreliable => *other != player,
                channel if channel == BULK.into() => *other == player,
                _ => true,
            };
            // Never waits for one player on behalf of the others. Who has not read a megabyte of chat has to go.
            if hears && matches!(half.try_send(reply.clone()), Err(SendError::Blocked(_))) {
                half.abort(DisconnectReason::ReliableOverflow, true);
            }
        }
    }
    world.room(player).remove(&player);
    Ok(recv.stats())
}
