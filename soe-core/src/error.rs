//! Errors, one type per operation, and the reasons why sessions end.

use std::fmt;

use crate::{framing::NegotiationError, message::Message, wire::DisconnectReason};

/// Which side ended a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The application on this side.
    Local,
    /// The peer, with a Disconnect packet.
    Peer,
    /// The transport on this side: a time-out, an unreachable peer, or invalid data from the peer.
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

/// How a session ended. Displayed with origin and reason: "session closed by the peer: ended by the application".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session closed by {origin}: {reason}")]
#[non_exhaustive]
pub struct Closed {
    /// The reason.
    pub reason: DisconnectReason,
    /// Which side ended it.
    pub origin: Origin,
    /// What was wrong with the server's response, if the handshake failed for that reason. Also the error's source.
    #[source]
    pub negotiation: Option<NegotiationError>,
}

impl Closed {
    pub(crate) fn new(origin: Origin, reason: DisconnectReason) -> Self {
        Self { reason, origin, negotiation: None }
    }

    /// Whether the peer could not be reached or did not answer in time: another attempt may succeed. A refusal is not one.
    pub fn is_timeout(&self) -> bool {
        use DisconnectReason as Reason;
        let silent = matches!(self.reason, Reason::Timeout | Reason::ConnectFail | Reason::UnacknowledgedTimeout)
            || matches!(self.reason, Reason::IcmpError | Reason::UnreachableConnection);
        self.origin == Origin::Transport && self.negotiation.is_none() && silent
    }

    /// Whether the peer refused the session: it is full, has another protocol or version, or offers something that this
    /// side cannot do.
    pub fn is_refused(&self) -> bool {
        use DisconnectReason as Reason;
        self.negotiation.is_some() || matches!(self.reason, Reason::ConnectionRefused | Reason::ProtocolMismatch)
    }

    /// Whether an application on either side closed the session. False after an error or a time-out.
    pub fn is_clean(&self) -> bool {
        use DisconnectReason as Reason;
        let asked = matches!(self.reason, Reason::None | Reason::Application | Reason::OtherSideTerminated)
            || matches!(self.reason, Reason::ManagerDeleted | Reason::ApplicationReleased);
        self.origin == Origin::Local || (self.origin == Origin::Peer && asked)
    }
}

/// The error of [`Session::send`](crate::Session::send). It returns the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The send buffer is full. It has room again when the peer has acknowledged some of it.
    #[error("the send buffer is full")]
    Blocked(Message),
    /// The message is empty, which the wire format cannot express (section 7 of `docs/protocol.md`).
    #[error("a message cannot be empty")]
    Empty(Message),
    /// The message is larger than `max_message_size`, or larger than a datagram where it may not be promoted to a
    /// reliable channel.
    #[error("a message of {} bytes is over the limit of {limit} bytes", message.payload.len())]
    TooLarge {
        /// The message.
        message: Message,
        /// The limit in bytes.
        limit: u32,
    },
    /// A receipt was requested for an unreliable message. The peer does not acknowledge those, so the receipt could
    /// never resolve.
    #[error("an unreliable message has no receipt")]
    NoReceipt(Message),
    /// The session has ended or is closing.
    #[error("the session is closed")]
    Closed(Message),
}

impl SendError {
    /// Returns the message.
    pub fn into_message(self) -> Message {
        match self {
            Self::Blocked(message) | Self::Empty(message) | Self::NoReceipt(message) => message,
            Self::Closed(message) | Self::TooLarge { message, .. } => message,
        }
    }
}

/// A setting is out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, {rule}")]
#[non_exhaustive]
pub struct ConfigError {
    /// The name of the setting.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// The rule that it violates.
    pub rule: &'static str,
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn an_ending_says_whether_to_try_again() {
        let silent = Closed::new(Origin::Transport, DisconnectReason::Timeout);
        let full = Closed::new(Origin::Peer, DisconnectReason::ConnectionRefused);
        let polite = Closed::new(Origin::Peer, DisconnectReason::Application);
        let verdicts = [silent, full, polite].map(|end| (end.is_timeout(), end.is_refused(), end.is_clean()));
        assert_eq!(verdicts, [(true, false, false), (false, true, false), (false, false, true)]);
    }

    #[test]
    fn a_response_that_cannot_be_spoken_is_the_source_of_the_end() {
        let mut closed = Closed::new(Origin::Transport, DisconnectReason::ConnectFail);
        closed.negotiation = Some(NegotiationError::UnsupportedPass(3));
        assert!(closed.is_refused() && !closed.is_timeout());
        assert_eq!(closed.source().map(ToString::to_string).as_deref(), Some("pass 3 is not supported"));
    }
}
