//! What is wrong with what a peer sends, for whoever keeps a log.

use super::Session;
use crate::{cipher::HookError, framing::CodecError, message::Channel, wire::DecodeError};

/// Something that no honest peer sends. See [`Session::take_problem`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A pass of a datagram cannot be undone.
    #[error("a pass cannot be undone: {0}")]
    Pass(CodecError),
    /// A packet cannot be read.
    #[error("malformed packet: {0}")]
    Malformed(DecodeError),
    /// A packet says what cannot be.
    #[error("corrupt packet: {0}")]
    Packet(&'static str),
    /// An acknowledged packet says what cannot be.
    #[error("corrupt stream: {0}")]
    Stream(&'static str),
    /// A message cannot be decrypted, or is too long.
    #[error("a message on {channel} cannot be taken: {error}")]
    Message {
        /// Where it came.
        channel: Channel,
        /// What is wrong with it.
        error: HookError,
    },
}

impl Session {
    /// Takes the first thing that was wrong with what the peer has sent since the last call. The session logs nothing of this
    /// itself: it may be locked, and a log may ask the session.
    pub fn take_problem(&mut self) -> Option<Problem> {
        self.cold.as_mut()?.problem.take()
    }

    pub(super) fn note(&mut self, problem: Problem) {
        self.cold().problem.get_or_insert(problem);
    }
}
