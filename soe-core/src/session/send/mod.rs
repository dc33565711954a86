//! From a message to a datagram: what waits, what may leave now, what is sent again, and how a datagram is filled.

mod builder;
mod datagram;
mod messages;
mod outbox;
mod pacing;
mod resend;
mod send_interval;
mod sizes;
mod transmit;

pub(super) use self::{
    builder::DatagramBuilder, outbox::Outbox, pacing::Pacing, send_interval::SendInterval, sizes::Sizes,
};
