//! Messages and the channels they are sent on.

use std::fmt;

use bytes::{Bytes, BytesMut};

/// One of the four reliable channels of a session, 0 to 3.
///
/// Each channel has its own sequence numbers. Messages of one channel arrive once and in order. Messages of different
/// channels may overtake each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReliableChannel(u8);

impl ReliableChannel {
    /// How many reliable channels a session has.
    pub const COUNT: usize = 4;
    /// Channel 0, which every known game uses.
    pub const ZERO: Self = Self(0);
    /// Channel 1.
    pub const ONE: Self = Self(1);
    /// Channel 2.
    pub const TWO: Self = Self(2);
    /// Channel 3.
    pub const THREE: Self = Self(3);
    /// All four channels, in order.
    pub const ALL: [Self; Self::COUNT] = [Self::ZERO, Self::ONE, Self::TWO, Self::THREE];

    /// Returns the channel with this number, or `None` above 3.
    pub const fn new(number: u8) -> Option<Self> {
        if number < Self::COUNT as u8 { Some(Self(number)) } else { None }
    }

    /// The channel's number, 0 to 3.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl TryFrom<u8> for ReliableChannel {
    type Error = NoSuchChannel;

    /// The channel with this number, 0 to 3.
    fn try_from(number: u8) -> Result<Self, NoSuchChannel> {
        Self::new(number).ok_or(NoSuchChannel(number))
    }
}

/// The error for a reliable channel number above 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no reliable channel {0}: a session has the channels 0 to 3")]
#[expect(clippy::exhaustive_structs, reason = "the number is all there is to say")]
pub struct NoSuchChannel(pub u8);

impl fmt::Display for ReliableChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// How a message is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "the wire has these kinds and no room for another")]
pub enum Channel {
    /// Once and in order within its channel. Any size up to the message limit.
    Reliable(ReliableChannel),
    /// In any order, possibly not at all, and twice if the network duplicates a datagram. At most one datagram.
    Unreliable,
    /// At most once. A message that arrives after a newer one is dropped (op code 1A).
    Ordered,
    /// Like [`Channel::Ordered`], with a counter of its own, and never in a Multi (op code 1B).
    Ordered2,
}

impl Channel {
    /// Whether messages on this channel are delivered without loss.
    pub const fn is_reliable(self) -> bool {
        matches!(self, Self::Reliable(_))
    }
}

impl Default for Channel {
    fn default() -> Self {
        Self::Reliable(ReliableChannel::ZERO)
    }
}

impl From<ReliableChannel> for Channel {
    fn from(channel: ReliableChannel) -> Self {
        Self::Reliable(channel)
    }
}

impl TryFrom<u8> for Channel {
    type Error = NoSuchChannel;

    /// The reliable channel with this number, 0 to 3.
    fn try_from(number: u8) -> Result<Self, NoSuchChannel> {
        ReliableChannel::try_from(number).map(Self::Reliable)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reliable(channel) => write!(f, "reliable channel {channel}"),
            Self::Unreliable => f.write_str("unreliable"),
            Self::Ordered => f.write_str("ordered"),
            Self::Ordered2 => f.write_str("ordered 2"),
        }
    }
}

/// One application message. It must not be empty: the wire format has no empty message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Message {
    /// The channel that it is or was sent on.
    pub channel: Channel,
    /// The bytes of the message. The transport does not interpret them.
    ///
    /// A received payload may be a part of a receive buffer of 2 KiB or more, which stays allocated as long as it is kept. To
    /// keep short messages for long, copy them: `Bytes::copy_from_slice(&payload)`.
    pub payload: Bytes,
}

impl Message {
    /// Returns a message for this channel.
    pub fn new(channel: impl Into<Channel>, payload: impl Into<Bytes>) -> Self {
        Self { channel: channel.into(), payload: payload.into() }
    }

    /// Returns a message for reliable channel 0.
    pub fn reliable(payload: impl Into<Bytes>) -> Self {
        Self::new(Channel::default(), payload)
    }

    /// Returns a message for the unreliable channel.
    pub fn unreliable(payload: impl Into<Bytes>) -> Self {
        Self::new(Channel::Unreliable, payload)
    }
}

/// Makes a message of plain bytes: they travel on reliable channel 0.
macro_rules! from_owned {
    ($($payload:ty),*) => {
        $(impl From<$payload> for Message {
            /// A message on reliable channel 0, without a copy.
            fn from(payload: $payload) -> Self {
                Self::reliable(payload)
            }
        })*
    };
}

from_owned!(Bytes, BytesMut, Vec<u8>, Box<[u8]>, String);

impl From<&[u8]> for Message {
    /// A message on reliable channel 0. The bytes are copied; [`Bytes::from_static`] spares that for constants.
    fn from(payload: &[u8]) -> Self {
        Self::reliable(Bytes::copy_from_slice(payload))
    }
}

impl<const N: usize> From<&[u8; N]> for Message {
    /// A message on reliable channel 0. The bytes are copied; [`Bytes::from_static`] spares that for constants.
    fn from(payload: &[u8; N]) -> Self {
        payload[..].into()
    }
}

impl<const N: usize> From<[u8; N]> for Message {
    /// A message on reliable channel 0. The bytes are copied.
    fn from(payload: [u8; N]) -> Self {
        payload[..].into()
    }
}

impl From<&str> for Message {
    /// A message on reliable channel 0: the text's bytes, copied.
    fn from(payload: &str) -> Self {
        payload.as_bytes().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_four_reliable_channels() {
        assert_eq!(ReliableChannel::new(3), Some(ReliableChannel::THREE));
        assert_eq!(ReliableChannel::new(4), None);
    }

    #[test]
    fn plain_bytes_travel_on_reliable_channel_zero() {
        let borrowed = vec![b'h', b'i'];
        let messages = [
            Message::from(b"hi"),
            Message::from(*b"hi"),
            Message::from(&borrowed[..]),
            Message::from("hi"),
            Message::from(String::from("hi")),
            Message::from(borrowed.clone()),
            Message::from(Bytes::from_static(b"hi")),
        ];
        for message in messages {
            assert_eq!(message, Message::new(ReliableChannel::ZERO, &b"hi"[..]));
        }
    }

    #[test]
    fn a_channel_that_does_not_exist_is_refused_by_its_number() {
        assert_eq!(Channel::try_from(3), Ok(Channel::Reliable(ReliableChannel::THREE)));
        assert_eq!(Channel::try_from(4), Err(NoSuchChannel(4)));
    }
}
