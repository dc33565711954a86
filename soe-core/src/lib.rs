//! The Sony Online Entertainment (SOE) UDP transport as a value you drive: no socket, no clock, no executor.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

pub mod cipher;
pub mod dialect;
pub mod framing;
mod message;
pub mod wire;

pub use dialect::Dialect;
pub use framing::{Framing, NegotiationError, Pass};
pub use message::{Channel, Message, ReliableChannel};
pub use wire::DisconnectReason;
