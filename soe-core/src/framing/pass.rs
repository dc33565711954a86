//! The passes by number, and a pass that is ready to run.

use std::fmt;

use bytes::BytesMut;

use super::{Codec, CodecError, NegotiationError, codec, xor, zlib};

/// A transform of a datagram's body, by its number in the session response (section 3 of `docs/protocol.md`).
///
/// Number 3, XOR with a pad, is not supported: no known game uses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these passes and peers know no other")]
pub enum Pass {
    /// 0: no transform.
    #[default]
    None = 0,
    /// 1: the first user codec of the dialect. Zlib in every known game.
    UserCodec = 1,
    /// 2: the second user codec of the dialect.
    SecondUserCodec = 2,
    /// 4: the XOR chain.
    Xor = 4,
}

impl TryFrom<u8> for Pass {
    type Error = NegotiationError;

    fn try_from(number: u8) -> Result<Self, NegotiationError> {
        match number {
            0 => Ok(Self::None),
            1 => Ok(Self::UserCodec),
            2 => Ok(Self::SecondUserCodec),
            4 => Ok(Self::Xor),
            other => Err(NegotiationError::UnsupportedPass(other)),
        }
    }
}

impl From<Pass> for u8 {
    fn from(pass: Pass) -> Self {
        pass as Self
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::UserCodec => "user codec",
            Self::SecondUserCodec => "second user codec",
            Self::Xor => "xor chain",
        })
    }
}

/// A pass with the data it needs.
#[derive(Clone, Debug)]
pub(super) enum Step {
    None,
    Xor,
    Codec(Codec),
}

impl Step {
    pub(super) fn new(pass: Pass, codecs: &[Option<Codec>; 2]) -> Result<Self, NegotiationError> {
        let codec = match pass {
            Pass::None => return Ok(Self::None),
            Pass::Xor => return Ok(Self::Xor),
            Pass::UserCodec => &codecs[0],
            Pass::SecondUserCodec => &codecs[1],
        };
        codec.clone().map(Self::Codec).ok_or_else(|| NegotiationError::MissingCodec(pass.into()))
    }

    /// The most bytes that this pass adds.
    pub(super) fn growth(&self) -> usize {
        match self {
            Self::None | Self::Xor => 0,
            Self::Codec(codec) => codec.growth(),
        }
    }

    pub(super) const fn is_variable(&self) -> bool {
        matches!(self, Self::Codec(_))
    }

    /// Applies the pass to `buf[body..]`.
    pub(super) fn apply(&self, buf: &mut Vec<u8>, body: usize, seed: u32) {
        match self {
            Self::None => {}
            Self::Xor => xor::seal(&mut buf[body..], seed),
            Self::Codec(Codec::Zlib(zlib)) => zlib::seal(zlib, buf, body),
            Self::Codec(Codec::Custom(custom)) => codec::seal(custom.as_ref(), buf, body),
        }
    }

    /// Reverses the pass after the first `body` bytes of the packet.
    pub(super) fn undo(&self, packet: &mut BytesMut, body: usize, seed: u32) -> Result<(), CodecError> {
        match self {
            Self::None => {}
            Self::Xor => xor::open(&mut packet[body..], seed),
            Self::Codec(Codec::Zlib(zlib)) => zlib::open(zlib, packet, body)?,
            Self::Codec(Codec::Custom(custom)) => codec::open(custom.as_ref(), packet, body)?,
        }
        Ok(())
    }
}
