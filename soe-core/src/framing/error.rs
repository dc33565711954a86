//! Why a framing cannot be built, and why a datagram cannot be opened.

use bytes::BytesMut;
use thiserror::Error;

/// A session response asks for something this side cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NegotiationError {
    /// The CRC length is above 4 bytes.
    #[error("a CRC of {0} bytes does not exist: 0 to 4 are possible")]
    CrcLength(u8),
    /// The pass does not exist, or is one that no known game uses (3, XOR with a pad).
    #[error("pass {0} is not supported")]
    UnsupportedPass(u8),
    /// The pass is a user codec and the dialect has none in that place.
    #[error("pass {0} is a user codec, and the dialect has none for it")]
    MissingCodec(u8),
    /// The largest datagram the peer takes, in bytes, lies outside of what the transport can work with.
    #[error("a udp length of {0} bytes is out of range")]
    UdpLength(u32),
    /// The datagrams agreed on leave too little room beside the CRC and what the codecs may add.
    #[error("datagrams of {udp_length} bytes are too small beside {overhead} bytes of CRC and codecs")]
    TooSmall {
        /// The largest datagram agreed on, in bytes.
        udp_length: u32,
        /// What CRC and codecs may take of it, in bytes.
        overhead: usize,
    },
}

/// A datagram that [`Framing::open`](super::Framing::open) refuses.
#[derive(Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The CRC does not match. Holds the datagram as it came.
    #[error("the checksum does not match")]
    Checksum(BytesMut),
    /// There is nothing in front of the CRC, or not even room for one. Holds the datagram as it came.
    #[error("the datagram is too short")]
    TooShort(BytesMut),
    /// The CRC is valid and a pass cannot be undone.
    #[error("the datagram is corrupt: {0}")]
    Corrupt(#[from] super::CodecError),
}
