//! From a datagram to a message: what is let in, what its packets mean, and what the application takes.

mod input;
mod messages;
