//! A zone server: lets in who shows a ticket, and passes on what players say and where they go.
//!
//! How to run it: see `login_server`.

mod common;

use std::{
    collections::HashMap,
    error::Error,
    net::SocketAddr,
    pin::pin,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use common::{
    Args,
    game::{self, CHAT, Key, LINK_PROTOCOL, Packet, ZONE_PROTOCOL},
};
use soe_tokio::{
    Channel, DisconnectReason, Incoming, Message, SessionConfig, SessionHandle, SlowReceiver, SoeListener, SoeSession,
    broadcast,
};
use tokio::{signal, time::timeout};

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "\
Lets in the players that a login server has announced, and passes on their chat and movement.

usage: zone_server --listen ADDR --link ADDR [--metrics ADDR]

  --listen ADDR       where players come in
  --link ADDR         where login servers announce players; keep it on loopback or a trusted network
  --metrics ADDR      where /metrics (OpenMetrics) and /worst (JSON) are served over HTTP; keep it there, too

Runs until Ctrl-C. See login_server for the way in; player is the client to both.
exit codes: 0 after Ctrl-C, 1 if a socket failed, 2 for wrong arguments";

/// How long a ticket is good for, and how long a newcomer may take to show it.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse(USAGE, &["listen", "link", "metrics"], &[]);
    match run(args.required("listen"), args.required("link"), args.optional("metrics")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", common::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(listen: SocketAddr, link: SocketAddr, metrics: Option<SocketAddr>) -> Result<(), BoxError> {
    let config = SessionConfig::builder(ZONE_PROTOCOL).external_server().build()?;
    let players = Arc::new(SoeListener::bind(listen, config).await?);
    let links = SoeListener::bind(link, SessionConfig::builder(LINK_PROTOCOL).internal().build()?).await?;
    println!("listening on {} for players, on {} for login servers", players.local_addr(), links.local_addr());
    if let Some(address) = metrics {
        common::metrics::serve(address, Arc::clone(&players)).await?;
    }
    let zone = Arc::new(Zone::default());
    let mut interrupted = pin!(signal::ctrl_c());
    loop {
        tokio::select! {
            Some(incoming) = players.accept() => drop(tokio::spawn(serve(incoming, Arc::clone(&zone)))),
            Some(incoming) = links.accept() => drop(tokio::spawn(expect_players(incoming.accept(), Arc::clone(&zone)))),
            _ = &mut interrupted => break,
        }
    }
    drop(links);
    let report = players.shutdown(Duration::from_secs(5)).await;
    println!("shut down, {} messages not delivered", report.messages_lost);
    Ok(())
}

#[derive(Default)]
struct Zone {
    /// Announced and not yet here.
    tickets: Mutex<HashMap<u64, (Key, String, Instant)>>,
    /// Everybody who is here, by player number.
    players: Mutex<HashMap<u32, SessionHandle>>,
}

impl Zone {
    fn players(&self) -> MutexGuard<'_, HashMap<u32, SessionHandle>> {
        self.players.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tickets(&self) -> MutexGuard<'_, HashMap<u64, (Key, String, Instant)>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a message on to everybody. Never waits: one player's slow line must not hold up the others.
    fn broadcast(&self, message: Message) {
        // Each player has a key of its own, so each copy is encrypted by itself, as it is queued. Who is a megabyte behind would
        // miss this for good, and has to come again.
        broadcast(self.players().values(), message, SlowReceiver::Close(DisconnectReason::ReliableOverflow));
    }
}

/// Takes announcements from a login server and confirms each by repeating it.
async fn expect_players(mut link: SoeSession, zone: Arc<Zone>) {
    while let Ok(packet) = game::receive(&mut link).await {
        let Packet::Expect { ticket, key, name } = packet.clone() else { break };
        {
            let mut tickets = zone.tickets();
            tickets.retain(|_, (_, _, since)| since.elapsed() < PATIENCE);
            tickets.insert(ticket, (key, name, Instant::now()));
        }
        if link.send(packet.encode()).await.is_err() {
            break;
        }
    }
}

async fn serve(incoming: Incoming, zone: Arc<Zone>) {
    let (peer, id) = (incoming.peer_addr(), incoming.session_id());
    let mut session = incoming.accept();
    let name = match timeout(PATIENCE, join(&mut session, id, &zone)).await {
        Ok(Ok(name)) => name,
        // Dropping the session closes it.
        Ok(Err(error)) => return println!("{peer}: {}", common::explain(&*error)),
        Err(_) => return println!("{peer}: took too long"),
    };
    println!("{peer}: {name} is here");
    zone.players().insert(id, session.handle());
    while let Some(Ok(message)) = session.recv().await {
        match Packet::decode(&message.payload) {
            // Who speaks is for the server to say.
            Some(Packet::Chat { number, text, .. }) => {
                zone.broadcast(Message::new(CHAT, Packet::Chat { player: id, number, text }.encode()));
            }
            Some(Packet::Moved { x, y, .. }) => {
                zone.broadcast(Message::new(Channel::Unreliable, Packet::Moved { player: id, x, y }.encode()));
            }
            _ => {
                session.abort(DisconnectReason::CorruptPacket, true);
            }
        }
    }
    zone.players().remove(&id);
    match session.closed().await {
        Some(closed) => println!("{peer}: {name} has left, {closed}"),
        None => println!("{peer}: {name} has left"),
    }
}

/// Checks the ticket and switches encryption on.
async fn join(session: &mut SoeSession, id: u32, zone: &Zone) -> Result<String, BoxError> {
    let Packet::Join { ticket } = game::receive(session).await? else { return Err("no ticket".into()) };
    // Taken out: a ticket is good for one entrance.
    let (key, name, since) = zone.tickets().remove(&ticket).ok_or("not a valid ticket")?;
    if since.elapsed() > PATIENCE || zone.players().contains_key(&id) {
        return Err("the ticket has expired, or the player is here already".into());
    }
    // The client has done the same right after sending its ticket. That its next message may have arrived before this line
    // runs does not matter: messages are decrypted as they are received here.
    game::encrypt_chat(session, &key)?;
    session.send(Packet::Joined { player: id }.encode()).await?;
    Ok(name)
}
