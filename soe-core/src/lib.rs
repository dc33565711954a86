//! The Sony Online Entertainment (SOE) UDP transport as a value you drive: no socket, no clock, no executor.
//!
//! A [`Session`] is one side of one connection. An [`Endpoint`] makes the decisions of a socket: which session a datagram
//! belongs to, and who may open one. Time, datagrams and random words are arguments; datagrams and messages are results.
//! Every run can therefore be repeated. No input from the network panics, or allocates or loops without bound. The crate
//! `soe-tokio` has servers and clients for Tokio.
//!
//! ```
//! use std::{net::SocketAddr, time::{Duration, Instant}};
//! use soe_core::{Action, Endpoint, Session, SessionConfig, Transmit};
//!
//! let (mut now, config) = (Instant::now(), SessionConfig::new("Echo_1")?);
//! let mut client = Session::connect(now, config.clone(), 0x1234_5678);
//! let mut endpoint = Endpoint::new(now, config.into(), [7; 16]);
//! let (from, mut server) = (SocketAddr::from(([192, 0, 2, 1], 20_000)), None::<Session>);
//! client.send(b"hello".to_vec().into())?;
//!
//! let heard = loop {
//!     now += Duration::from_millis(1);
//!     if client.poll_timeout().is_some_and(|due| due <= now) {
//!         client.handle_timeout(now);
//!     }
//!     let mut buf = Vec::new();
//!     while let Some(Transmit { segment_size, .. }) = client.poll_transmit(now, &mut buf) {
//!         for datagram in buf.chunks(segment_size) {
//!             match &mut server {
//!                 Some(server) => _ = server.handle_datagram(now, datagram.into()),
//!                 None => endpoint.handle_datagram(now, from.into(), datagram.into()),
//!             }
//!         }
//!         buf.clear();
//!     }
//!     // With many sessions, the functions in `host` do this.
//!     while let Some(action) = endpoint.poll_action() {
//!         match action {
//!             Action::Open(opened) => server = Some(opened.session),
//!             Action::Send { datagram, .. } => _ = client.handle_datagram(now, datagram[..].into()),
//!             _ => {}
//!         }
//!     }
//!     if let Some(message) = server.as_mut().and_then(Session::recv) {
//!         break message;
//!     }
//! };
//! assert_eq!(heard.payload, "hello");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Section numbers in this documentation are those of `docs/protocol.md` in the repository.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

mod channel;
pub mod cipher;
mod config;
pub mod dialect;
mod endpoint;
mod error;
mod evidence;
pub mod framing;
mod message;
pub mod recording;
pub mod replay;
mod session;
mod timestamp;
pub mod wire;

pub use cipher::{HookError, KeyError, MessageHook, Rc4};
pub use config::{
    AdmissionConfig, AdmissionConfigBuilder, AdmissionSettings, ChannelOptions, EscapeRule, Overflow, Oversized,
    RemapPolicy, RequestFilter, RequestInfo, SessionConfig, SessionConfigBuilder, Settings, StatusReply,
};
pub use dialect::Dialect;
pub use endpoint::{
    Action, AdmissionStats, Answer, CapacityStats, Endpoint, EndpointStats, IoLoop, MemoryAccount, MemoryBudget,
    NotRegistered, Opened, Path, Question, Relay, SessionKey, Step, host,
};
pub use error::{Closed, ConfigError, Origin, SendError};
pub use framing::{Framing, NegotiationError, Pass};
pub use message::{Channel, Message, NoSuchChannel, ReliableChannel};
pub use session::{DatagramOutcome, Event, Problem, Receipt, Session, SessionStats, Transmit, Undelivered, Vitals};
pub use wire::DisconnectReason;
