//! Follows sessions through a capture, from their handshakes or without them.
//!
//! An [`Analyzer`] takes datagrams in the order of the capture and reports to a [`Sink`]: sessions, packets, messages, and what
//! is wrong. Memory is bounded by [`Options`], whatever the capture holds: so many conversations, and so many bytes of
//! packets that wait for others.

mod adopt;
mod analyzer;
mod assembly;
mod event;
mod finding;
mod flight;
mod flows;
mod handshake;
mod infer;
mod keys;
mod pending;
mod session;
mod solve;
mod stream;
mod walk;

pub use self::analyzer::{Analyzer, Options, Totals};
pub use self::event::{
    Carrier, Counters, Direction, Event, EventKind, Message, Origin, SessionInfo, SessionSummary, Sink, Transmission,
};
pub use self::finding::{Finding, Severity};
pub use self::infer::{Given, Guess, Sample, infer};
pub use self::keys::{CipherKind, Key, KeyFormatError, KeyStart};

pub(crate) use self::finding::Millis;
pub(crate) use self::handshake::dialect_of;
pub(crate) use self::keys::hex;

use std::io;

/// Where events go, and what all sessions hold together.
struct Context<'a> {
    sink: &'a mut dyn Sink,
    /// Bytes of packets that wait for others, over all sessions.
    held: &'a mut usize,
    held_limit: usize,
}

impl Context<'_> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.sink.event(event)
    }
}
