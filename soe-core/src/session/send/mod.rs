//! Sending: the queue, what may leave now, resends, and the datagram that is built.

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
