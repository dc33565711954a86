//! Async servers and clients for the Sony Online Entertainment (SOE) UDP transport: one UDP socket, many sessions.
//!
//! A server accepts sessions from a [`SoeListener`], a client opens them with [`SoeSession::connect`]. A [`SoeSession`] is
//! a stream and a sink of [`Message`]s.
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use soe_tokio::{SessionConfig, SoeListener, SoeSession};
//!
//! let listener = SoeListener::bind("127.0.0.1:20060", SessionConfig::new("Echo")?).await?;
//! let mut client = SoeSession::connect("127.0.0.1:20060", SessionConfig::new("Echo")?).await?;
//! client.send(&b"hello"[..]).await?;
//! let mut server = listener.accept().await.ok_or("the listener was shut down")?.accept();
//! while let Some(message) = server.recv().await {
//!     server.send(message?).await?;
//! }
//! # Ok(()) }
//! ```
//!
//! # What there is
//!
//! - [`SoeListener`] and [`Incoming`]: accept, refuse, list the sessions, shut down with a report.
//! - [`SoeSession`], [`SendHalf`] and [`RecvHalf`]: one session; [`SoeFramed`]: the same with typed messages.
//! - [`SessionHandle`]: sends to a session, watches and ends it, from any task; [`broadcast`]: one message to many.
//! - [`SoeConnector`]: several sessions from one socket; [`SoeReconnector`]: a client that comes back.
//! - [`RecorderConfig`]: a flight recorder for sessions, whose files `soe replay` replays.
//! - [`SessionConfig`], [`ListenerConfig`]: every limit and choice; read from files with the feature `serde`.
//! - The crate `soe-testing`: a network in memory, for tests.
//!
//! # What runs where
//! Each socket is served by one task, the *driver*. It receives in batches, passes every datagram to its session, keeps
//! the timers of all sessions, and sends for all of them at once. A session has no task of its own. There is no queue
//! between the socket and a session that could overflow: an application that does not read slows down its own peer only
//! (the datagrams are not acknowledged once the session's receive buffer is full).
//!
//! Sessions live on the runtime on which their socket was bound, and can be used from any other.
//!
//! # How a session ends
//! Either side may close. What has arrived by then can still be received; then the stream ends with `None`, and
//! [`SoeSession::closed`] returns the reason and the origin. When the *transport* ended the session (time-out,
//! unreachable peer, impossible content) the stream yields that as one error before its `None`. Dropping a session
//! closes it in the background, after delivering what is queued. Closing in the background needs the runtime. If the
//! program ends right after a `send` or a `drop`, each session sends what is queued and one Disconnect, and nothing is
//! sent again if the network loses it. To be sure that a message has arrived and that the peer was notified of the end,
//! call [`SoeSession::close`] and await it.
//!
//! # Logs
//!
//! Events are emitted with the crate `tracing`, under targets that begin with `soe_tokio`:
//!
//! | level | what | fields |
//! |---|---|---|
//! | `WARN` | a socket buffer that the system did not grant; a session that panicked | `which`, `wanted`, `granted`; `session` |
//! | `INFO` | listening | `address`, `sockets` |
//! | `INFO` | new sessions are refused because the listener is full; at most once a minute | `refused`, `sessions` |
//! | `INFO` | sessions are closed over the memory limit; at most once a minute | `closed`, `memory_held` |
//! | `INFO` | the kernel has dropped datagrams; at most once a minute | `dropped` |
//! | `INFO` | behind proxies: datagrams from elsewhere, or without a header, were dropped; at most once a minute | `dropped` |
//! | `DEBUG` | a session opens, ends, moves, or its peer sends something invalid | `from`, `reason`, `by`, `problem` |
//! | `TRACE` | errors of single datagrams | `error`, `address` |
//!
//! At `DEBUG` each session has a span `session` with its peer's address and its id: `session{peer=192.0.2.1:40000 id=5a17c0de}`.
//! With `tracing-subscriber` and its environment filter, `RUST_LOG=soe_tokio=info` is for operation, `RUST_LOG=soe_tokio=debug`
//! for the life of each session. [`SoeListener::stats`] counts the same.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

mod config;
mod connector;
mod delivery;
mod engine;
mod error;
mod event;
mod framed;
mod handle;
mod incoming;
mod listener;
mod metrics;
mod owner;
mod recording;
mod session;
mod shutdown;
mod socket;
mod split;
mod stats;

pub use config::{
    BusyPoll, ListenerConfig, SocketConfig,
    proxy::{ProxyConfig, ProxyHeader},
};
pub use connector::{
    SoeConnector,
    reconnect::{LoginFailure, ReconnectError, SoeReconnector},
};
pub use delivery::Delivery;
pub use engine::reports::ended::{EndedFor, EndedSessions};
pub use error::{BindError, ConnectError, FramedError, QueryError, SessionError};
pub use event::SessionEvent;
pub use framed::{FramedChannels, SoeFramed};
pub use handle::{
    SessionHandle, SessionId,
    broadcast::{BroadcastReport, SlowReceiver, broadcast},
    events::SessionEvents,
};
pub use incoming::Incoming;
pub use ipnet::IpNet;
pub use listener::SoeListener;
pub use metrics::{Metrics, OPENMETRICS_CONTENT_TYPE};
pub use recording::{RecordWhen, RecorderConfig, RecordingPart, RecordingSink, files::RecordingFiles};
pub use session::SoeSession;
pub use shutdown::{SessionReport, ShutdownReport};
pub use socket::{AsyncUdp, Outgoing, RecvBatch, SendBatch};
pub use soe_core;
pub use soe_core::{
    AdmissionConfig, AdmissionConfigBuilder, AdmissionSettings, AdmissionStats, CapacityStats, Channel, ChannelOptions,
    Closed, ConfigError, Dialect, DisconnectReason, EndpointStats, EscapeRule, HookError, KeyError, Message,
    MessageHook, NoSuchChannel, Origin, Overflow, Oversized, Pass, Rc4, Relay, ReliableChannel, RemapPolicy,
    RequestFilter, RequestInfo, SendError, SessionConfig, SessionConfigBuilder, SessionStats, Settings, StatusReply,
    Undelivered,
};
pub use split::{RecvHalf, ReuniteError, SendHalf};
pub use stats::{ListenerStats, ProxyStats, SocketStats};
