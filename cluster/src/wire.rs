//! What players and servers say to each other: one JSON value a message. A game has a format of its own; nothing here depends
//! on it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use soe_tokio::{Dialect, SessionConfig};

/// From a player to the login server, which then answers with [`FromLogin`].
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct ToLogin {
    pub player: String,
    /// A zone that did not answer this player, to be chosen last.
    pub avoid: Option<String>,
}

/// From the login server to a player.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct FromLogin {
    pub way: Way,
}

/// Where to go, and the ticket that opens it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Way {
    pub zone: String,
    pub address: SocketAddr,
    pub ticket: String,
}

/// From a player to a zone.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum ToZone {
    /// The first message of a session.
    Enter { player: String, ticket: String },
    /// Play: each one counts a point.
    Play { number: u64 },
    /// A line of chat for everybody in every zone.
    Say { text: String },
    /// To another zone, please.
    Move { to: String },
}

/// From a zone to a player.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub enum FromZone {
    /// The player is in, with the points it has.
    Entered { points: u64 },
    /// The ticket is not good.
    Refused { why: String },
    /// The answer to [`ToZone::Play`].
    Played { number: u64, points: u64 },
    /// A line of chat.
    Said { from: String, text: String },
    /// The player's next zone. This one counts no more points.
    Go { way: Way },
}

/// What both servers and players speak.
pub fn session_config() -> Result<SessionConfig, soe_tokio::ConfigError> {
    SessionConfig::with_dialect(Dialect::version3()).protocol_name("Cluster".into()).crc_length(4).build()
}

/// A message as it is sent.
pub fn encode(message: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(message).expect("these types have no keys that JSON lacks")
}

/// A message as it came; `None` if it is none.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    serde_json::from_slice(payload).ok()
}
