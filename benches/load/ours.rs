//! This library: one task per session on the server, one socket per session on the client.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use soe_core::{AdmissionConfig, ConfigError, Message, SessionConfig};
use soe_tokio::{SendHalf, SoeListener, SoeSession};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{MissedTickBehavior, interval};

use crate::harness::client::{Client, Failure};
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::process::count_sent_with;
use crate::harness::spec::{Kind, Spec};

const PROTOCOL: &str = "Load";
const MAX_SESSIONS: usize = 20_000;

fn config(spec: &Spec) -> Result<SessionConfig, ConfigError> {
    SessionConfig::builder(PROTOCOL).udp_length(spec.udp as u32).build()
}

/// Serves for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let admission = AdmissionConfig::builder(config(spec)?).max_sessions(MAX_SESSIONS).build()?;
    let listener = Arc::new(SoeListener::bind((Ipv4Addr::LOCALHOST, 0), admission).await?);
    ready(listener.local_addr());
    let counted = Arc::clone(&listener);
    count_sent_with(move || counted.stats().socket.datagrams_sent);
    let (players, newcomers) = unbounded_channel();
    tokio::spawn(update_all(newcomers));
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

/// One session with its own socket.
#[derive(Debug)]
pub(crate) struct OurClient {
    session: SoeSession,
    bulk: bool,
}

impl Client for OurClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let session = SoeSession::connect(server, config(spec)?).await?;
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
        self.session.flush().await?;
        match self.session.next().await {
            Some(message) => Ok(message?.payload),
            None => Err("the session ended".into()),
        }
    }
}
