//! Tickets: made once by the login server, used once by a zone.

use async_nats::jetstream::kv::{CreateErrorKind, Operation, Store};
use serde::{Deserialize, Serialize};

use crate::bus::{Attempt, until_done};

/// A ticket as it stands in the bucket, under its id. The bucket forgets it after [`crate::bus::TICKET_TTL`].
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
struct Ticket {
    player: String,
    zone: String,
    /// The redemption that has used it.
    used_by: Option<String>,
}

/// Why a ticket is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is none of this id, or it is too old.
    Unknown,
    /// It is another player's.
    WrongPlayer,
    /// It is for another zone.
    WrongZone,
    /// It has been used.
    Used,
}

/// A word that nobody guesses and nobody else has drawn: 128 bits.
pub fn new_id() -> String {
    format!("{:032x}", rand::random::<u128>())
}

/// Makes the ticket `id`, however often it is asked: create-once. Waits while NATS is away. False: the id is another ticket's.
pub async fn issue(tickets: &Store, id: &str, player: &str, zone: &str) -> bool {
    let ticket = Ticket { player: player.into(), zone: zone.into(), used_by: None };
    let value = serde_json::to_vec(&ticket).expect("it has no keys that JSON lacks");
    until_done!({
        match tickets.create(id, value.clone().into()).await {
            Ok(_) => Attempt::Done(true),
            // Perhaps by an earlier attempt, whose answer was lost.
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => match read(tickets, id).await {
                Ok(Some((known, _))) => Attempt::Done(known.player == ticket.player && known.zone == ticket.zone),
                _ => Attempt::Again,
            },
            Err(_) => Attempt::Again,
        }
    })
}

/// Uses the ticket `id`: compare-and-swap, so that of all who try one succeeds. Waits while NATS is away.
pub async fn redeem(tickets: &Store, id: &str, player: &str, zone: &str) -> Result<(), Refusal> {
    let redemption = new_id();
    until_done!({
        let (ticket, revision) = match read(tickets, id).await {
            Ok(Some(found)) => found,
            Ok(None) => return Attempt::Done(Err(Refusal::Unknown)),
            Err(()) => return Attempt::Again,
        };
        match &ticket.used_by {
            // By an earlier attempt of this very redemption, whose answer was lost.
            Some(by) if *by == redemption => return Attempt::Done(Ok(())),
            Some(_) => return Attempt::Done(Err(Refusal::Used)),
            None => {}
        }
        if ticket.player != player {
            return Attempt::Done(Err(Refusal::WrongPlayer));
        }
        if ticket.zone != zone {
            return Attempt::Done(Err(Refusal::WrongZone));
        }
        let used = Ticket { used_by: Some(redemption.clone()), ..ticket };
        let value = serde_json::to_vec(&used).expect("it has no keys that JSON lacks");
        match tickets.update(id, value.into(), revision).await {
            Ok(_) => Attempt::Done(Ok(())),
            // Somebody was faster, perhaps an earlier attempt of ours: reading it again tells.
            // So does it where nothing was answered.
            Err(_) => Attempt::Again,
        }
    })
}

async fn read(tickets: &Store, id: &str) -> Result<Option<(Ticket, u64)>, ()> {
    let Some(entry) = tickets.entry(id).await.map_err(|_| ())? else { return Ok(None) };
    if entry.operation != Operation::Put {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&entry.value).ok().map(|ticket| (ticket, entry.revision)))
}
