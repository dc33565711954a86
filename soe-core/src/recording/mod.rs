//! The flight recorder: a log of everything that a session was told and of everything it said.
//!
//! [`Session::record`](crate::Session::record) and [`Endpoint::record`](crate::Endpoint::record) turn it on. Off, it takes no
//! memory. The log of one session is a series of pieces; [`replay`](crate::replay) runs a session through it again.
//!
//! Recordings hold passwords: see [`RecordOptions`].

mod entry;
mod file;
pub(crate) mod log;
mod options;
pub mod pcapng;
mod pieces;
mod recorder;
mod redact;
pub(crate) mod settings;
mod start;

pub use self::file::{FilePiece, NotAPiece, RecordingWriter};
pub use self::options::{Mark, PieceSink, RecordBudget, RecordOptions, Redact};
pub use self::recorder::Recorder;
pub(crate) use self::{
    entry::{Entry, Reader},
    log::Way,
    start::{Origin, Start},
};
