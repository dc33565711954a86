//! The login server: it knows the zones, and hands out tickets to players, and to zones that send players on.

use std::{env, time::Duration};

use async_nats::jetstream::kv::Store;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use soe_tokio::{SoeListener, SoeSession};

use crate::{
    bus::{Bus, TICKETS, ZONES},
    registry::{NO_ZONE, Registry},
    tickets,
    wire::{FromLogin, ToLogin, Way, decode, encode, session_config},
};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The subject on which zones ask for tickets.
pub const TICKET_SUBJECT: &str = "login.ticket";

/// What a zone asks.
#[derive(Debug, Deserialize, Serialize)]
pub struct TicketRequest {
    /// The ticket's id, drawn by the zone: asking twice gives one ticket.
    pub id: String,
    pub player: String,
    /// Where to; any zone but `avoid` otherwise.
    pub zone: Option<String>,
    pub avoid: Option<String>,
}

/// What it is answered. `None`: there is no such zone now.
#[derive(Debug, Deserialize, Serialize)]
pub struct TicketAnswer {
    pub way: Option<Way>,
}

#[derive(Clone, Debug)]
struct Login {
    registry: Registry,
    tickets: Store,
}

/// Runs until the process is told to end.
pub async fn run() -> Result<(), Error> {
    let address = env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:0".into());
    let listener = SoeListener::bind(address, session_config()?).await?;
    println!("listening on {}", listener.local_addr());
    let bus = Bus::connect("login").await?;
    let login = Login { registry: Registry::default(), tickets: bus.bucket(TICKETS).await };
    tokio::spawn(login.registry.clone().follow(bus.bucket(ZONES).await));
    tokio::spawn(login.clone().answer_zones(bus));
    while let Some(incoming) = listener.accept().await {
        let login = login.clone();
        tokio::spawn(async move { login.serve(incoming.accept()).await });
    }
    Ok(())
}

impl Login {
    /// One player: says where to go, as soon as there is somewhere to go.
    async fn serve(self, mut player: SoeSession) {
        let Some(Ok(message)) = player.recv().await else { return };
        let Some(ToLogin { player: name, avoid }) = decode(&message.payload) else { return };
        let way = tokio::select! {
            way = self.way_to_any(&name, avoid.as_deref()) => way,
            // A player who leaves needs no ticket.
            _ = player.recv() => return,
        };
        if player.send(encode(&FromLogin { way })).await.is_ok() {
            let _ = tokio::time::timeout(Duration::from_secs(5), player.closed()).await;
        }
    }

    async fn way_to_any(&self, player: &str, avoid: Option<&str>) -> Way {
        loop {
            if let Some((zone, address)) = self.registry.choose(None, avoid) {
                let ticket = tickets::new_id();
                let issued = tickets::issue(&self.tickets, &ticket, player, &zone);
                // NATS may have been away for long: the zone is chosen anew. Nobody uses what an attempt given up has left.
                if let Ok(true) = tokio::time::timeout(PATIENCE, issued).await {
                    return Way { zone, address, ticket };
                }
            }
            tokio::time::sleep(NO_ZONE).await;
        }
    }

    /// Answers zones for ever.
    async fn answer_zones(self, bus: Bus) {
        loop {
            let Ok(mut requests) = bus.client.queue_subscribe(TICKET_SUBJECT, "login".into()).await else {
                tokio::time::sleep(NO_ZONE).await;
                continue;
            };
            while let Some(request) = requests.next().await {
                let (login, client) = (self.clone(), bus.client.clone());
                tokio::spawn(async move {
                    let Some(reply) = request.reply else { return };
                    let Ok(asked) = serde_json::from_slice::<TicketRequest>(&request.payload) else { return };
                    let answer = TicketAnswer { way: login.way_for(asked).await };
                    let answer = serde_json::to_vec(&answer).expect("it has no keys that JSON lacks");
                    let _ = client.publish(reply, answer.into()).await;
                });
            }
        }
    }

    async fn way_for(&self, asked: TicketRequest) -> Option<Way> {
        let TicketRequest { id, player, zone, avoid } = asked;
        let (zone, address) = self.registry.choose(zone.as_deref(), avoid.as_deref())?;
        if avoid.as_deref() == Some(&zone) {
            return None;
        }
        let is_issued = tickets::issue(&self.tickets, &id, &player, &zone).await;
        is_issued.then_some(Way { zone, address, ticket: id })
    }
}

/// How long a ticket for one zone is tried before another zone may be the better choice.
const PATIENCE: Duration = Duration::from_secs(1);
