//! Which zones there are: each announces itself in a bucket that forgets it when it stops.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::jetstream::kv::{Operation, Store};
use futures_util::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::bus::ZONE_TTL;

/// What a zone says of itself.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Announcement {
    pub address: SocketAddr,
    /// How many players it has.
    pub players: usize,
    /// It takes nobody any more: it is to be replaced.
    pub is_draining: bool,
}

/// Announces a zone until the task is dropped. NATS may be away; the bucket then forgets the zone until it is back.
pub async fn announce(zones: Store, zone: String, mut now: impl FnMut() -> Announcement) {
    loop {
        let value = serde_json::to_vec(&now()).expect("it has no keys that JSON lacks");
        let _ = tokio::time::timeout(ZONE_TTL / 4, zones.put(&zone, value.into())).await;
        tokio::time::sleep(ZONE_TTL / 4).await;
    }
}

#[derive(Debug)]
struct Known {
    said: Announcement,
    revision: u64,
    /// Players who were sent there since it said how many it has.
    sent: usize,
}

/// The zones as the login server knows them.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<BTreeMap<String, Known>>>);

impl Registry {
    /// Keeps the registry up to date for ever. The bucket says nothing when it forgets a zone, so it is asked; without an answer
    /// nothing is known, and what was known stays.
    pub async fn follow(self, zones: Store) {
        loop {
            let asked = tokio::time::timeout(ZONE_TTL, self.ask(&zones)).await;
            if let Ok(Ok(there)) = asked {
                self.keep(&there);
            }
            tokio::time::sleep(ZONE_TTL / 4).await;
        }
    }

    async fn ask(&self, zones: &Store) -> Result<Vec<String>, Box<dyn std::error::Error + Send + Sync>> {
        // A list that is made while a zone announces itself may miss that zone: the known ones are asked for as well.
        let mut names: BTreeSet<String> = zones.keys().await?.try_collect().await?;
        names.extend(self.lock().keys().cloned());
        let mut there = Vec::new();
        for name in names {
            match zones.entry(&name).await? {
                Some(entry) if entry.operation == Operation::Put => {
                    self.heard(&name, &entry.value, entry.revision);
                    there.push(name);
                }
                _ => {}
            }
        }
        Ok(there)
    }

    fn heard(&self, name: &str, value: &[u8], revision: u64) {
        let Ok(said) = serde_json::from_slice::<Announcement>(value) else { return };
        let mut zones = self.lock();
        if zones.get(name).is_none_or(|known| known.revision < revision) {
            let is_new = zones.insert(name.into(), Known { said, revision, sent: 0 }).is_none();
            drop(zones);
            if is_new {
                println!("zone {name} has appeared");
            }
        }
    }

    fn keep(&self, there: &[String]) {
        let mut gone = Vec::new();
        self.lock().retain(|name, _| {
            let stays = there.contains(name);
            if !stays {
                gone.push(name.clone());
            }
            stays
        });
        for name in gone {
            println!("zone {name} has vanished");
        }
    }

    /// The zone with the fewest players, or this one if it is named and there; `avoid` only if there is no other.
    pub fn choose(&self, wanted: Option<&str>, avoid: Option<&str>) -> Option<(String, SocketAddr)> {
        let mut zones = self.lock();
        let open = |known: &Known| !known.said.is_draining;
        let name = match wanted {
            Some(wanted) => zones.get(wanted).filter(|known| open(known)).map(|_| wanted.to_owned()),
            None => zones
                .iter()
                .filter(|(_, known)| open(known))
                .min_by_key(|(name, known)| (Some(name.as_str()) == avoid, known.said.players + known.sent))
                .map(|(name, _)| name.clone()),
        }?;
        let known = zones.get_mut(&name)?;
        known.sent += 1;
        Some((name, known.said.address))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait before asking for a zone again.
pub const NO_ZONE: Duration = Duration::from_millis(100);
