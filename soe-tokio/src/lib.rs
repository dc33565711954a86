//! Async servers and clients for the Sony Online Entertainment (SOE) UDP transport: one UDP socket, many sessions.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]
