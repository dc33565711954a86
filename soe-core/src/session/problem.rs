//! Invalid data from the peer, reported for logging.

use super::Session;
use crate::{cipher::HookError, framing::CodecError, message::Channel, recording::log, wire::DecodeError};

/// Invalid data that a correct peer does not send. See [`Session::take_problem`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A pass of a datagram could not be undone.
    #[error("a pass cannot be undone: {0}")]
    Pass(CodecError),
    /// A packet could not be decoded.
    #[error("malformed packet: {0}")]
    Malformed(DecodeError),
    /// A packet has contradictory content.
    #[error("corrupt packet: {0}")]
    Packet(&'static str),
    /// A reliable packet cannot belong where it stands, and somebody may have guessed it, or another one before it. It was
    /// dropped, and the channel goes on.
    #[error("corrupt stream: {0}")]
    Stream(&'static str),
    /// A message could not be decrypted, or is too long.
    #[error("a message on {channel} cannot be taken: {error}")]
    Message {
        /// The channel of the message.
        channel: Channel,
        /// The error.
        error: HookError,
    },
}

impl Session {
    /// Returns the first problem since the last call. The session itself does not log: it may be locked while it runs,
    /// and a log subscriber might ask the session for its state.
    pub fn take_problem(&mut self) -> Option<Problem> {
        let cold = self.cold.as_mut()?;
        let problem = cold.problem.take()?;
        if let Some(recorder) = &mut cold.recorder {
            recorder.gave(log::PROBLEM, &problem);
        }
        Some(problem)
    }

    pub(super) fn note(&mut self, problem: Problem) {
        self.cold().problem.get_or_insert(problem);
    }
}
