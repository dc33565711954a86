//! The engine behind the handles: one driver for each socket, and the connections that it serves. It uses `socket` and
//! never names a handle; of its own files only `host` names the driver.

pub(crate) mod busy_poll;
pub(crate) mod clock;
pub(crate) mod connection;
pub(crate) mod deferred;
pub(crate) mod driver;
mod host;
pub(crate) mod query;
pub(crate) mod random;
pub(crate) mod reports;
pub(crate) mod scratch;
pub(crate) mod shared_endpoint;
pub(crate) mod shared_socket;
pub(crate) mod sync;
pub(crate) mod timers;
pub(crate) mod transmit;
