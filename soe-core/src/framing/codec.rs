//! User codecs: the passes that the transport leaves to the game.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use thiserror::Error;

use super::{MAX_INFLATED, ZlibCodec};

/// What stands behind pass 1 or 2: zlib as the known games use it, or an application's own codec.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Codec {
    /// One zlib stream per datagram, behind or before a flag byte.
    Zlib(ZlibCodec),
    /// The application's own.
    Custom(Arc<dyn UserCodec>),
}

impl Codec {
    /// How many bytes the codec may add to a body.
    pub(super) fn growth(&self) -> usize {
        match self {
            Self::Zlib(_) => ZlibCodec::GROWTH,
            Self::Custom(custom) => custom.growth(),
        }
    }
}

impl From<ZlibCodec> for Codec {
    fn from(codec: ZlibCodec) -> Self {
        Self::Zlib(codec)
    }
}

/// An application's own codec for the body of a datagram.
///
/// Called for every datagram, an empty body included, from whatever thread drives the session; one codec serves all
/// sessions that share a dialect. Datagrams get lost and reordered, so nothing may be carried from one to the next.
pub trait UserCodec: fmt::Debug + Send + Sync {
    /// How many bytes [`encode`](Self::encode) may add to a body at most. Both peers subtract it from what fits into a
    /// datagram, so both must declare the same.
    fn growth(&self) -> usize {
        1
    }

    /// Appends the encoded body to `out`, which is empty: at most [`growth`](Self::growth) bytes more than `body` has.
    fn encode(&self, body: &[u8], out: &mut Vec<u8>);

    /// Appends the decoded body to `out`, which is empty: at most `limit` bytes. The body comes from the network; what
    /// exceeds the limit is refused, not cut.
    ///
    /// # Errors
    ///
    /// [`CodecError`] for a body that [`encode`](Self::encode) cannot have made. It closes the session.
    fn decode(&self, body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError>;
}

/// A body that no peer's codec can have made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The body is empty where a flag byte belongs.
    #[error("the codec's flag byte is missing")]
    MissingFlag,
    /// The compressed stream is malformed or ends early.
    #[error("the compressed stream is malformed")]
    Malformed,
    /// The body expands beyond the limit.
    #[error("the body expands beyond {limit} bytes")]
    TooLong {
        /// The most bytes it may expand to.
        limit: usize,
    },
    /// Whatever else an application's own codec objects to.
    #[error("{0}")]
    Other(&'static str),
}

thread_local! {
    /// What codecs write into before it replaces the body. Taken while in use, so that a codec may itself use a framing.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` with the thread's empty scratch buffer.
pub(super) fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let result = work(&mut scratch);
    SCRATCH.set(scratch);
    result
}

/// Replaces `buf[body..]` by its encoded form.
pub(super) fn seal(codec: &dyn UserCodec, buf: &mut Vec<u8>, body: usize) {
    with_scratch(|scratch| {
        codec.encode(&buf[body..], scratch);
        buf.truncate(body);
        buf.extend_from_slice(scratch);
    });
}

/// Replaces what follows the first `body` bytes by its decoded form.
pub(super) fn open(codec: &dyn UserCodec, packet: &mut BytesMut, body: usize) -> Result<(), CodecError> {
    with_scratch(|scratch| {
        codec.decode(&packet[body..], scratch, MAX_INFLATED)?;
        if scratch.len() > MAX_INFLATED {
            return Err(CodecError::TooLong { limit: MAX_INFLATED });
        }
        packet.truncate(body);
        packet.extend_from_slice(scratch);
        Ok(())
    })
}
