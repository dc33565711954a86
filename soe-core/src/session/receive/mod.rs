//! Receiving: checking a datagram, handling its packets, and returning messages.

mod doubt;
mod input;
mod messages;
mod reach;

pub(super) use doubt::{Claims, Subject};
