//! Settings that are one of several choices.

/// Which messages of this side get an escape byte (section 1 of `docs/protocol.md`). A message that begins with 00
/// would otherwise be read as a packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EscapeRule {
    /// Every message that begins with 00 gets one 00 in front. The original library does this.
    #[default]
    Always,
    /// Only encrypted messages are escaped, as some newer implementations do. A plain message that begins with `00 19`
    /// is then misread as a Group by both sides.
    WhenEncrypted,
}

/// What to do with an unreliable message that does not fit one datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Oversized {
    /// Send it on reliable channel 0. The original library does this.
    #[default]
    Promote,
    /// Refuse it with [`SendError::TooLarge`](crate::SendError::TooLarge).
    Refuse,
}

/// What to do when the application sends faster than the peer receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// Return the message with [`SendError::Blocked`](crate::SendError::Blocked). The application waits or drops it.
    #[default]
    Block,
    /// End the session with `ReliableOverflow`. The original library does this to players who cannot keep up.
    Close,
}
