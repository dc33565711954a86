//! From a message to a datagram: what waits, what may leave now, what is sent again, and how a datagram is filled.

mod bundle;
mod cadence;
mod filling;
mod messages;
mod outbox;
mod output;
mod pacing;
mod resend;
mod sizes;

pub(super) use self::{bundle::Bundle, cadence::Cadence, outbox::Outbox, pacing::Pacing, sizes::Sizes};
