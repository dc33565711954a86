//! The life of a session: handshake, keep-alive, remapping, closing, and the timers.

mod clock;
mod closing;
mod handshake;
mod keep_alive;
mod lateness;
mod remap;
mod timeout;
mod timer;

pub(crate) use self::handshake::response;
pub(super) use self::{
    clock::{ClockSync, millis},
    closing::Ending,
    handshake::Connecting,
    lateness::Lateness,
    timer::{Timer, Timers},
};
