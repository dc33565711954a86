//! Receiving: checking a datagram, handling its packets, and returning messages.

mod input;
mod messages;
