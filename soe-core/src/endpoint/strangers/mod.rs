//! Datagrams from addresses without a session, and those that a live session returned: session requests, first datagrams,
//! remaps and queries (sections 6 and 9 of `docs/protocol.md`).

mod answers;
mod cookie;
pub(in crate::endpoint) mod handshakes;
mod limiter;
mod pending;
pub(in crate::endpoint) mod question;
mod refusal;
pub(in crate::endpoint) mod request;
mod selection;
