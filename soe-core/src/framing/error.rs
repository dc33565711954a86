//! Errors of building a framing and of opening a datagram.

use bytes::BytesMut;
use thiserror::Error;

/// A session response requires something that this side does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The CRC length is above 4 bytes.
    #[error("a CRC of {0} bytes does not exist: 0 to 4 are possible")]
    CrcLength(u8),
    /// The pass is unknown, or 3 (XOR with a pad), which no known game uses.
    #[error("pass {0} is not supported")]
    UnsupportedPass(u8),
    /// The pass is a user codec and the dialect has none.
    #[error("pass {0} is a user codec, and the dialect has none for it")]
    MissingCodec(u8),
    /// The peer's largest datagram, in bytes, is out of range.
    #[error("a udp length of {0} bytes is out of range")]
    UdpLength(u32),
    /// The negotiated datagram leaves too little room after the CRC and the growth of the codecs.
    #[error("datagrams of {udp_length} bytes are too small beside {overhead} bytes of CRC and codecs")]
    TooSmall {
        /// The negotiated datagram size in bytes.
        udp_length: u32,
        /// The bytes that CRC and codecs may take.
        overhead: usize,
    },
}

/// A datagram that [`Framing::open`](super::Framing::open) refuses.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The CRC does not match. Returns the datagram unchanged.
    #[error("the checksum does not match")]
    Checksum(BytesMut),
    /// The datagram has no content before the CRC, or is shorter than the CRC. Returns it unchanged.
    #[error("the datagram is too short")]
    TooShort(BytesMut),
    /// The CRC is valid but a pass cannot be reversed.
    #[error("the datagram is corrupt: {0}")]
    Corrupt(#[from] super::CodecError),
}
