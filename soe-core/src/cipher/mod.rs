//! What happens to one message before the transport packs it, and after it has put it together again.
//!
//! Games encrypt messages, not datagrams: before the zero escape, grouping and fragmenting, and in the order of delivery
//! (section 4 of `docs/protocol.md`). A [`MessageHook`] is one such transform in one direction.

mod everquest2;
mod rc4;

use std::error::Error as StdError;
use std::fmt;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

pub use self::everquest2::EverQuest2Hook;
pub use self::rc4::{KeyError, Rc4};

/// A transform of whole messages: one in, one out.
///
/// A hook serves **one direction of one reliable channel**: the one to send with only ever sees [`seal`](Self::seal), the
/// one to receive with only [`open`](Self::open). So it may keep running state, such as a key stream: the messages of the
/// channel reach it once each, in the order in which they were sent. On an
/// [`unordered`](crate::ChannelOptions::unordered) channel they reach it in the order of arrival, which rules out running
/// state. Unreliable messages pass through no hook: they travel as the application gives them.
///
/// A message must not become empty: the transport cannot carry it.
pub trait MessageHook: fmt::Debug + Send {
    /// Transforms a message that is about to be sent. Work in place where the size allows it: the buffer is the
    /// message's own.
    fn seal(&mut self, message: BytesMut) -> BytesMut;

    /// Undoes the transform on a message that has arrived.
    ///
    /// `limit` is the most bytes that a message may have on this session: a hook that expands stops there. In place, a
    /// message that nothing else shares needs no copy: [`Bytes::try_into_mut`].
    ///
    /// # Errors
    ///
    /// [`HookError`] for what the peer's hook cannot have made. The running states differ by then, so the session closes,
    /// and the messages behind it on the channel are dropped. A message longer than `limit` counts as such an error.
    fn open(&mut self, message: Bytes, limit: usize) -> Result<Bytes, HookError>;
}

/// A message that the peer's hook cannot have made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HookError {
    /// The message is malformed.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// The message expands beyond the session's limit.
    #[error("the message expands beyond {limit} bytes")]
    TooLong {
        /// The most bytes it may have.
        limit: usize,
    },
    /// Whatever else an application's own hook objects to.
    #[error(transparent)]
    Other(#[from] Box<dyn StdError + Send + Sync>),
}

/// The message as a buffer to write to. Copies only what something else still shares.
fn into_mut(message: Bytes) -> BytesMut {
    message.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
