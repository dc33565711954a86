//! What can go wrong, one type per operation, and who ended a session.

use std::fmt;

use crate::{framing::NegotiationError, message::Message, wire::DisconnectReason};

/// Who ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The application on this side.
    Local,
    /// The peer, with a Disconnect.
    Peer,
    /// The transport on this side: a time-out, an unreachable peer, content that no honest peer sends.
    Transport,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "this side",
            Self::Peer => "the peer",
            Self::Transport => "the transport",
        })
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session closed by {origin}: {reason}")]
#[non_exhaustive]
pub struct Closed {
    /// Why.
    pub reason: DisconnectReason,
    /// By whom.
    pub origin: Origin,
    /// What was wrong with the server's response, if that is why.
    pub negotiation: Option<NegotiationError>,
}

impl Closed {
    pub(crate) fn new(origin: Origin, reason: DisconnectReason) -> Self {
        Self { reason, origin, negotiation: None }
    }

    /// Whether an application on either side asked for it: nothing went wrong.
    pub fn is_clean(&self) -> bool {
        use DisconnectReason as Reason;
        let asked = matches!(self.reason, Reason::None | Reason::Application | Reason::OtherSideTerminated)
            || matches!(self.reason, Reason::ManagerDeleted | Reason::ApplicationReleased);
        self.origin == Origin::Local || (self.origin == Origin::Peer && asked)
    }
}

/// A message was not taken. It comes back inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The send buffer is full: wait until the peer has acknowledged some of it.
    #[error("the send buffer is full")]
    Blocked(Message),
    /// The transport cannot carry a message of no bytes (section 7 of `docs/protocol.md`).
    #[error("a message cannot be empty")]
    Empty(Message),
    /// Larger than a message may be, or than a datagram carries if it may not be promoted to a reliable channel.
    #[error("a message of {} bytes is over the limit of {limit} bytes", message.payload.len())]
    TooLarge {
        /// The message.
        message: Message,
        /// The most that would have been taken, in bytes.
        limit: u32,
    },
    /// A receipt was asked for an unreliable message: nothing acknowledges it, so its receipt could never be resolved.
    #[error("an unreliable message has no receipt")]
    NoReceipt(Message),
    /// The session has ended or is closing.
    #[error("the session is closed")]
    Closed(Message),
}

impl SendError {
    /// The message that was not taken.
    pub fn into_message(self) -> Message {
        match self {
            Self::Blocked(message) | Self::Empty(message) | Self::NoReceipt(message) => message,
            Self::Closed(message) | Self::TooLarge { message, .. } => message,
        }
    }
}

/// A configuration that could not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, {rule}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The knob.
    pub field: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it must be.
    pub rule: &'static str,
}
