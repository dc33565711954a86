//! What a player has, and which zone may write it. Compare-and-swap again: a zone that has lost a player without knowing cannot
//! overwrite what the next zone writes.

use async_nats::jetstream::kv::{Operation, Store, UpdateErrorKind};
use serde::{Deserialize, Serialize};

use crate::{
    bus::{Attempt, until_done},
    tickets::new_id,
};

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Stored {
    points: u64,
    /// The stay in a zone that may write it.
    owner: String,
}

/// A player's record, in the hands of one stay in one zone.
#[derive(Debug)]
pub struct Record {
    players: Store,
    player: String,
    owner: String,
    revision: u64,
    /// What was last written.
    pub points: u64,
}

/// Another zone has the player by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl Record {
    /// Takes a player's record over from whoever had it. Waits while NATS is away.
    pub async fn take_over(players: &Store, player: &str) -> Self {
        let owner = new_id();
        let (points, revision) = until_done!({
            let Ok(found) = read(players, player).await else { return Attempt::Again };
            let (known, revision) = found.unwrap_or_default();
            if known.owner == owner {
                return Attempt::Done((known.points, revision));
            }
            let mine = encode(known.points, &owner);
            let written = match revision {
                0 => players.create(player, mine.into()).await.ok(),
                _ => players.update(player, mine.into(), revision).await.ok(),
            };
            // Where it was not, another stay was faster, or the answer is lost: reading it again tells.
            match written {
                Some(revision) => Attempt::Done((known.points, revision)),
                None => Attempt::Again,
            }
        });
        Self { players: players.clone(), player: player.into(), owner, revision, points }
    }

    /// Writes the points. Waits while NATS is away.
    pub async fn save(&mut self, points: u64) -> Result<(), Lost> {
        if points == self.points {
            return Ok(());
        }
        let value = encode(points, &self.owner);
        let (players, player, owner) = (&self.players, &self.player, &self.owner);
        let mut expected = self.revision;
        let revision = until_done!({
            match players.update(player, value.clone().into(), expected).await {
                Ok(revision) => return Attempt::Done(Ok(revision)),
                Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => {}
                Err(_) => return Attempt::Again,
            }
            match read(players, player).await {
                // An earlier attempt, whose answer was lost.
                Ok(Some((known, revision))) if known.owner == *owner => expected = revision,
                Ok(_) => return Attempt::Done(Err(Lost)),
                Err(()) => {}
            }
            Attempt::Again
        })?;
        (self.revision, self.points) = (revision, points);
        Ok(())
    }
}

fn encode(points: u64, owner: &str) -> Vec<u8> {
    serde_json::to_vec(&Stored { points, owner: owner.into() }).expect("it has no keys that JSON lacks")
}

async fn read(players: &Store, player: &str) -> Result<Option<(Stored, u64)>, ()> {
    let Some(entry) = players.entry(player).await.map_err(|_| ())? else { return Ok(None) };
    if entry.operation != Operation::Put {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&entry.value).ok().map(|stored| (stored, entry.revision)))
}
