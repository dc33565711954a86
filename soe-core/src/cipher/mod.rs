//! Transforms of whole messages: encryption and compression before packing and after reassembly.
//!
//! Games encrypt messages, not datagrams: before the escape, Groups and fragments, and in the order of delivery
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
/// A hook serves **one direction of one reliable channel**. The sending hook only gets calls of [`seal`](Self::seal),
/// the receiving hook only calls of [`open`](Self::open). It gets each message of the channel once, in the order of
/// sending, and may therefore keep running state such as a key stream. On an
/// [`unordered`](crate::ChannelOptions::unordered) channel it gets messages in the order of arrival, which excludes
/// running state. Unreliable messages pass through no hook and are sent unchanged.
///
/// A message must not become empty: the wire format has no empty message.
pub trait MessageHook: fmt::Debug + Send {
    /// Transforms an outgoing message. Work in place where the size allows it: the buffer belongs to this message
    /// alone.
    fn seal(&mut self, message: BytesMut) -> BytesMut;

    /// Reverses the transform of an incoming message.
    ///
    /// `limit` is the largest message of this session in bytes: a hook that expands must stop there.
    /// [`Bytes::try_into_mut`] gives write access without a copy if the buffer is not shared.
    ///
    /// # Errors
    ///
    /// [`HookError`] for a message that the peer's hook cannot have produced. The running states then differ, so the
    /// session ends and later messages of the channel are dropped. A result longer than `limit` is also an error.
    fn open(&mut self, message: Bytes, limit: usize) -> Result<Bytes, HookError>;
}

/// A message cannot be decoded by its hook.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HookError {
    /// The message is malformed.
    #[error("the message is malformed: {0}")]
    Malformed(&'static str),
    /// The message expands beyond the session's limit.
    #[error("the message expands beyond {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Any other error of an application's hook.
    #[error(transparent)]
    Other(#[from] Box<dyn StdError + Send + Sync>),
}

/// Returns the message as a writable buffer. Copies it only if the buffer is shared.
fn into_mut(message: Bytes) -> BytesMut {
    message.try_into_mut().unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
