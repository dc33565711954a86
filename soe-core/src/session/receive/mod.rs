//! Receiving: checking a datagram, handling its packets, and returning messages.

mod doubt;
mod input;
mod messages;
mod reach;
mod unreliable;

pub(super) use doubt::{Claims, Subject};
