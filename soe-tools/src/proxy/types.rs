//! What goes into a proxy and comes out of it.

use std::{fmt, net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde::Serialize;

use crate::link::{Fate, Impairment};

/// How a [`Proxy`](super::Proxy) treats its clients.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ProxyConfig {
    /// What happens to datagrams on the way to the server. \[nothing\]
    pub up: Impairment,
    /// What happens to datagrams on the way to a client. \[nothing\]
    pub down: Impairment,
    /// Decides all chances, together with the order in which clients appear. \[0\]
    pub seed: u64,
    /// Clients at a time, 1 to 60,000; the datagrams of others are ignored. \[1,024\]
    pub max_clients: usize,
    /// A client is forgotten when nothing has come from either side for so long, 10 ms to a week. \[2 minutes\]
    pub idle_timeout: Duration,
    /// Each client appears to the server under a new port this often, 10 ms to a week. \[never\]
    pub rebind_every: Option<Duration>,
    /// Bytes of datagrams that wait, over all clients; what comes on top is lost; 66,000 or more. \[256 MB\]
    pub max_held: usize,
}

/// A [`ProxyConfig`] that could not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, not {rule}")]
#[non_exhaustive]
pub struct ProxyConfigError {
    /// The knob.
    pub field: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it must be.
    pub rule: &'static str,
}

impl ProxyConfig {
    /// Whether it could work; a [`Proxy`](super::Proxy) asks as well.
    ///
    /// # Errors
    /// If a knob is out of its range.
    pub fn validate(&self) -> Result<(), ProxyConfigError> {
        let check = |is_right: bool, field, value: String, rule| {
            if is_right { Ok(()) } else { Err(ProxyConfigError { field, value, rule }) }
        };
        let clients = 1..=60_000;
        check(clients.contains(&self.max_clients), "max_clients", self.max_clients.to_string(), "1 to 60,000")?;
        let times = Duration::from_millis(10)..=Duration::from_secs(7 * 86_400);
        let rule = "10 ms to a week";
        check(times.contains(&self.idle_timeout), "idle_timeout", format!("{:?}", self.idle_timeout), rule)?;
        let every = self.rebind_every.unwrap_or(self.idle_timeout);
        check(times.contains(&every), "rebind_every", format!("{every:?}"), rule)?;
        // Or the largest datagram would never pass.
        check(self.max_held >= 66_000, "max_held", self.max_held.to_string(), "66,000 bytes or more")
    }
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            up: Impairment::default(),
            down: Impairment::default(),
            seed: 0,
            max_clients: 1024,
            idle_timeout: Duration::from_secs(120),
            rebind_every: None,
            max_held: 256_000_000,
        }
    }
}

/// A client, numbered from 1 in the order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct ClientId(pub(super) u32);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Which way a datagram goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(clippy::exhaustive_enums, reason = "a proxy has two sides")]
pub enum Direction {
    /// To the server.
    Up,
    /// To the client.
    Down,
}

/// What became of a datagram that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Handled {
    /// The link of a client has decided about it.
    Decided(ClientId, Fate),
    /// Too much waits already.
    NoRoom(ClientId),
    /// There are as many clients as may be, or the client has been forgotten.
    Ignored,
}

/// Something for whoever has the sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client has appeared: it wants a socket of its own towards the server.
    Opened(ClientId, SocketAddr),
    /// The client's socket towards the server is to be replaced by one with another port.
    Rebound(ClientId),
    /// The client has been forgotten; its socket can go.
    Closed(ClientId),
}

/// A datagram that leaves now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
#[non_exhaustive]
pub struct Transmit {
    /// Whose it is: by its socket towards the server, or to its address.
    pub client: ClientId,
    /// Where the client is.
    pub address: SocketAddr,
    /// To which side.
    pub direction: Direction,
    /// The bytes.
    pub datagram: Bytes,
}
