//! User codecs: the passes that depend on the game.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;
use thiserror::Error;

use super::{MAX_INFLATED, ZlibCodec};

/// The codec of pass 1 or 2: zlib as the known games use it, or an application's own.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Codec {
    /// One zlib stream per datagram, behind or before a flag byte.
    Zlib(ZlibCodec),
    /// A codec of the application.
    Custom(Arc<dyn UserCodec>),
}

impl Codec {
    /// The most bytes that the codec adds to a body.
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

/// A codec of the application for the body of a datagram.
///
/// It is called for every datagram, including one with an empty body, on the thread that drives the session. One codec
/// serves all sessions of a dialect. Datagrams are lost and reordered, so a codec must not keep state between them.
pub trait UserCodec: fmt::Debug + Send + Sync {
    /// The most bytes that [`encode`](Self::encode) adds to a body. Both peers subtract it from the space in a
    /// datagram, so both must return the same value.
    fn growth(&self) -> usize {
        1
    }

    /// Appends the encoded body to `out`, which is empty: at most [`growth`](Self::growth) bytes more than `body`.
    fn encode(&self, body: &[u8], out: &mut Vec<u8>);

    /// Appends the decoded body to `out`, which is empty: at most `limit` bytes. The body comes from the network. A
    /// longer result is an error; it is not truncated.
    ///
    /// # Errors
    ///
    /// [`CodecError`] for a body that [`encode`](Self::encode) cannot have produced. It ends the session.
    fn decode(&self, body: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CodecError>;
}

/// The body of a datagram cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The body is empty and has no flag byte.
    #[error("the codec's flag byte is missing")]
    MissingFlag,
    /// The compressed stream is malformed or ends early.
    #[error("the compressed stream is malformed")]
    Malformed,
    /// The body expands beyond the limit.
    #[error("the body expands beyond {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// Any other error of an application's codec.
    #[error("{0}")]
    Other(&'static str),
}

thread_local! {
    /// The output buffer of codecs. It is removed while in use, because a codec may itself use a framing.
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

/// Replaces `buf[body..]` with its encoded form.
pub(super) fn seal(codec: &dyn UserCodec, buf: &mut Vec<u8>, body: usize) {
    with_scratch(|scratch| {
        codec.encode(&buf[body..], scratch);
        buf.truncate(body);
        buf.extend_from_slice(scratch);
    });
}

/// Replaces everything after the first `body` bytes with its decoded form.
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
