//! Tickets that are presented twice at the same moment, over sessions of two players who both have it.

use std::{fmt, net::SocketAddr, sync::Arc};

use soe_tokio::{DisconnectReason, SessionConfig, SoeSession};
use tokio::{sync::Semaphore, task::JoinSet};

use super::cluster::{Cluster, ZONES};
use crate::{
    Error,
    bus::Bus,
    login::{TICKET_SUBJECT, TicketAnswer, TicketRequest},
    tickets::new_id,
    wire::{FromZone, ToZone, Way, decode, encode, session_config},
};

/// How many tickets let in nobody, one, and two.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) never: usize,
    pub(super) once: usize,
    pub(super) twice: usize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} let in one player, {} two, {} nobody", self.once, self.twice, self.never)
    }
}

pub(super) async fn run(cluster: &Cluster, tickets: usize) -> Result<Counts, Error> {
    // As the zones do for players that they send on.
    let bus = cluster.bus("z1").await?;
    let (config, at_once) = (session_config()?, Arc::new(Semaphore::new(AT_ONCE)));
    let mut presented = JoinSet::new();
    let mut counts = Counts::default();
    for number in 0..tickets {
        let permit = Arc::clone(&at_once).acquire_owned().await?;
        let (bus, config) = (bus.clone(), config.clone());
        presented.spawn(async move {
            let _permit = permit;
            let player = format!("double{number}");
            let Some(way) = ask(&bus, &player, ZONES[number % ZONES.len()]).await else { return 0 };
            let (one, other) = tokio::join!(present(&player, &way, &config), present(&player, &way, &config));
            usize::from(one) + usize::from(other)
        });
        while let Some(entered) = presented.try_join_next() {
            counts.add(entered?);
        }
    }
    while let Some(entered) = presented.join_next().await {
        counts.add(entered?);
    }
    Ok(counts)
}

impl Counts {
    fn add(&mut self, entered: usize) {
        match entered {
            0 => self.never += 1,
            1 => self.once += 1,
            _ => self.twice += 1,
        }
    }
}

async fn ask(bus: &Bus, player: &str, zone: &str) -> Option<Way> {
    let request = TicketRequest { id: new_id(), player: player.into(), zone: Some(zone.into()), avoid: None };
    let answer = bus.client.request(TICKET_SUBJECT, serde_json::to_vec(&request).ok()?.into()).await.ok()?;
    serde_json::from_slice::<TicketAnswer>(&answer.payload).ok()?.way
}

/// Whether the ticket lets somebody in.
async fn present(player: &str, way: &Way, config: &SessionConfig) -> bool {
    let entered = enter(player, way.address, &way.ticket, config).await;
    matches!(entered, Some(FromZone::Entered { .. }))
}

async fn enter(player: &str, zone: SocketAddr, ticket: &str, config: &SessionConfig) -> Option<FromZone> {
    let mut session = SoeSession::connect(zone, config.clone()).await.ok()?;
    session.send(encode(&ToZone::Enter { player: player.into(), ticket: ticket.into() })).await.ok()?;
    // Chat comes before the answer where somebody speaks.
    let answer = loop {
        let message = session.recv().await?.ok()?;
        match decode(&message.payload)? {
            FromZone::Said { .. } => {}
            answer => break answer,
        }
    };
    let _ = session.close(DisconnectReason::Application).await;
    Some(answer)
}

/// Tickets under way at the same time.
const AT_ONCE: usize = 50;
