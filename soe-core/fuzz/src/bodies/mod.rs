//! What each target does with its bytes. None may panic, whatever they are.

mod differential;
mod endpoint;
mod handshake;
mod input;
#[path = "../../../../tests/common/server.rs"]
mod server;
mod session;
mod wire;

pub use self::{
    differential::differential,
    endpoint::datagram_to_endpoint,
    handshake::handshake,
    session::{datagram_to_session, fragments, nesting},
    wire::{inflate, round_trip},
};

/// A target takes whatever the fuzzer makes.
pub type Target = fn(&[u8]);

/// Every target by name.
pub const ALL: [(&str, Target); 8] = [
    ("datagram_to_session", datagram_to_session),
    ("datagram_to_endpoint", datagram_to_endpoint),
    ("handshake", handshake),
    ("fragments", fragments),
    ("nesting", nesting),
    ("inflate", inflate),
    ("round_trip", round_trip),
    ("differential", differential),
];
