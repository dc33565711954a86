//! Receiving: checking a datagram, handling its packets, and returning messages.

mod input;
mod messages;
mod reach;
mod unreliable;

pub(super) use {input::DOUBT, unreliable::Behind};
