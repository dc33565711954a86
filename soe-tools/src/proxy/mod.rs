//! A lag proxy: a man in the middle for UDP that treats datagrams as a bad link would.
//!
//! [`Proxy`] is the whole of it as a value, [`ProxyServer`] puts sockets and a clock beside it.

mod command;
mod control;
mod engine;
mod lines;
mod record;
mod server;
mod status;
mod types;

pub use self::command::{Command, CommandError, Side, Target};
pub use self::control::serve_control;
pub use self::engine::Proxy;
pub use self::lines::DatagramLines;
pub use self::record::CaptureFile;
pub use self::server::{Observer, ProxyHandle, ProxyServer, Seen};
pub use self::status::{ClientStatus, DirectionStatus, ProxyStatus, summary_line, table};
pub use self::types::{ClientId, Direction, Event, Handled, ProxyConfig, ProxyConfigError, Transmit};
