//! What a server does with the messages of one session, whichever implementation carries them.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::spec::{Kind, Spec};

/// How often a game server sends to each of its sessions.
pub(crate) const GAME_TICK: Duration = Duration::from_millis(50);
/// What it sends.
pub(crate) const GAME_UPDATE: usize = 256;

/// How long each message of a thin stream was on its way, in microseconds.
static ONE_WAY: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// The server's side of one session.
#[derive(Clone, Debug)]
pub(crate) struct Duty {
    kind: Kind,
    awaited: u64,
}

impl Duty {
    pub(crate) fn new(spec: &Spec) -> Self {
        Self { kind: spec.kind, awaited: spec.bytes }
    }

    /// Takes one message; what it returns is to be sent back.
    pub(crate) fn hear(&mut self, message: Bytes) -> Option<Bytes> {
        match self.kind {
            Kind::Echo | Kind::Setup | Kind::Idle => Some(message),
            Kind::Game => None,
            Kind::Bulk => {
                self.awaited = self.awaited.saturating_sub(message.len() as u64);
                (self.awaited == 0).then(|| Bytes::from_static(b"received"))
            }
            Kind::Thin => {
                let sent = message.first_chunk().map_or(0, |stamp| u64::from_be_bytes(*stamp));
                let way = clock().saturating_sub(sent);
                ONE_WAY.lock().unwrap_or_else(PoisonError::into_inner).push(way);
                None
            }
        }
    }
}

/// Microseconds on a clock that both processes share. The first byte of it is never zero, so that it can begin a
/// message of any implementation without an escape.
pub(crate) fn clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64 | 1 << 63
}

/// The one-way times so far, sorted.
pub(crate) fn one_way() -> Vec<u64> {
    let mut times = ONE_WAY.lock().unwrap_or_else(PoisonError::into_inner).clone();
    times.sort_unstable();
    times
}

/// The value that `share` of the sorted values do not exceed; 0 if there are none.
pub(crate) fn quantile(sorted: &[u64], share: f64) -> u64 {
    let index = (sorted.len() as f64 * share) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0)
}
