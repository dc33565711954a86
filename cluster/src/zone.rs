//! A zone server: players enter with a ticket, play, chat with everybody, and go on to another zone.

mod stay;

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::kv::Store;
use futures_util::StreamExt;
use soe_tokio::{DisconnectReason, SlowReceiver, SoeListener, broadcast};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    bus::{Bus, PLAYERS, TICKETS, ZONES},
    chat::{self, Line},
    registry::{Announcement, announce},
    wire::{FromZone, encode, session_config},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A zone, as its players' tasks see it.
#[derive(Debug)]
struct Zone {
    name: String,
    bus: Bus,
    tickets: Store,
    players: Store,
    lines: mpsc::Sender<Line>,
    /// How many have entered and not left.
    present: AtomicUsize,
    is_draining: AtomicBool,
    /// Tells all stays of it.
    drain: watch::Sender<bool>,
}

/// Runs until the process is told to end (SIGTERM) or an operator drains the zone: its players are sent on, and it ends when
/// the last one has gone. False: somebody had to be cut off.
pub async fn run(name: String) -> Result<bool, Error> {
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:0".into());
    let listener = Arc::new(SoeListener::bind(address, session_config()?).await?);
    let address = listener.local_addr();
    println!("listening on {address}");
    let bus = Bus::connect(&name).await?;
    let (lines, said) = mpsc::channel(1_024);
    let zone = Arc::new(Zone {
        tickets: bus.bucket(TICKETS).await,
        players: bus.bucket(PLAYERS).await,
        name: name.clone(),
        bus: bus.clone(),
        lines,
        present: AtomicUsize::new(0),
        is_draining: AtomicBool::new(false),
        drain: watch::channel(false).0,
    });
    tokio::spawn(chat::speak(bus.clone(), name.clone(), said));
    tokio::spawn(chat::listen(bus.clone(), hear(Arc::clone(&listener))));
    let zones = bus.bucket(ZONES).await;
    let said_of_itself = {
        let zone = Arc::clone(&zone);
        move || Announcement {
            address,
            players: zone.present.load(Ordering::Relaxed),
            is_draining: zone.is_draining.load(Ordering::Relaxed),
        }
    };
    let announcing = tokio::spawn(announce(zones.clone(), name.clone(), said_of_itself.clone()));
    let mut told = bus.client.subscribe(format!("zone.{name}.drain")).await?;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            incoming = listener.accept() => {
                let Some(incoming) = incoming else { break };
                tokio::spawn(Arc::clone(&zone).serve(incoming.accept()));
            }
            _ = terminated.recv() => break,
            Some(_) = told.next() => break,
        }
    }
    zone.is_draining.store(true, Ordering::Relaxed);
    // At once, so that nobody is sent here any more. Tickets that were given before are still good.
    let value = serde_json::to_vec(&said_of_itself.clone()())?;
    let _ = tokio::time::timeout(MOMENT, zones.put(&name, value.into())).await;
    zone.drain.send_replace(true);
    let is_empty = zone.empty(&listener).await;
    announcing.abort();
    let _ = tokio::time::timeout(MOMENT, zones.delete(&name)).await;
    listener.shutdown_with(DisconnectReason::Application, LAST_WORDS).await;
    println!("{}", if is_empty { "everybody has gone on" } else { "somebody was cut off" });
    Ok(is_empty)
}

/// What to do with a line that somebody has said in some zone.
fn hear(listener: Arc<SoeListener>) -> impl FnMut(Line) {
    move |Line { from, text }| {
        let receivers: Vec<_> = listener.sessions().collect();
        broadcast(&receivers, encode(&FromZone::Said { from, text }), SlowReceiver::Skip);
    }
}

impl Zone {
    /// Waits until the last player has gone, and goes on taking those who come with a ticket from before. False: some are
    /// left at the deadline.
    async fn empty(self: &Arc<Self>, listener: &SoeListener) -> bool {
        let start = Instant::now();
        let (mut last_seen, deadline) = (start, start + DRAIN);
        while Instant::now() < deadline {
            if let Ok(Some(incoming)) = tokio::time::timeout(MOMENT / 10, listener.accept()).await {
                tokio::spawn(Arc::clone(self).serve(incoming.accept()));
                last_seen = Instant::now();
            }
            if self.present.load(Ordering::Relaxed) > 0 {
                last_seen = Instant::now();
            }
            if last_seen.elapsed() > MOMENT {
                return true;
            }
        }
        false
    }
}

/// How long players may take to go.
const DRAIN: Duration = Duration::from_secs(30);
const MOMENT: Duration = Duration::from_secs(1);
const LAST_WORDS: Duration = Duration::from_secs(3);
