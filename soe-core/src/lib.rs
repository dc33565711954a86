//! The Sony Online Entertainment (SOE) UDP transport as a value you drive: no socket, no clock, no executor.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

mod admission;
mod channel;
pub mod cipher;
mod config;
pub mod dialect;
mod error;
pub mod framing;
mod message;
mod session;
pub mod wire;

pub use admission::{Admission, AdmissionStats, Admit, Newcomer};
pub use cipher::{HookError, KeyError, MessageHook, Rc4};
pub use config::{
    AdmissionConfig, AdmissionConfigBuilder, AdmissionSettings, ChannelOptions, EscapeRule, Overflow, Oversized,
    RemapPolicy, RequestFilter, RequestInfo, SessionConfig, SessionConfigBuilder, Settings, StatusReply,
};
pub use dialect::Dialect;
pub use error::{Closed, ConfigError, Origin, SendError};
pub use framing::{Framing, NegotiationError, Pass};
pub use message::{Channel, Message, ReliableChannel};
pub use session::{Event, Receipt, Session, SessionStats, Transmit, Undelivered, Verdict};
pub use wire::DisconnectReason;
