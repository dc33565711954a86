//! One error enum per operation.

use std::{io, net::SocketAddr};

use soe_core::{Closed, DisconnectReason, Message, SendError};
use thiserror::Error;

/// Why a socket could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address could not be resolved, or resolved to nothing.
    #[error("the address to bind could not be resolved")]
    Resolve(#[source] io::Error),
    /// The system refused the socket, its address or an option of it.
    #[error("the socket could not be bound to {address}")]
    Socket {
        /// The requested address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The system's random source, which session ids and seeds come from, failed.
    #[error("the system's random source failed")]
    Random(#[source] io::Error),
    /// The calling thread is not in a Tokio runtime, which has to serve the socket. Call from within
    /// `Runtime::block_on`, a task, or after `Runtime::enter`.
    #[error("the socket needs a Tokio runtime, and this thread is not in one")]
    NoRuntime,
}

/// Why no session was opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The local socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The remote address could not be resolved.
    #[error("the remote address could not be resolved")]
    Resolve(#[source] io::Error),
    /// The remote name has no address of the local socket's family.
    #[error("the remote address has no entry that this socket can reach")]
    NoAddress,
    /// No server can have this address: its port is 0, or its IP address is unspecified, multicast or broadcast.
    #[error("no server can have the address {0}")]
    InvalidRemote(SocketAddr),
    /// This socket already has a session to that address. The protocol identifies a session by its address alone: use
    /// another socket.
    #[error("this socket already has a session to {0}")]
    Occupied(SocketAddr),
    /// The system's random source, which session ids come from, failed.
    #[error("the system's random source failed")]
    Random(#[source] io::Error),
    /// The server refused ([`ConnectError::is_refused`]), did not answer in time ([`ConnectError::is_timeout`]), or
    /// offered parameters that this crate does not support. After a time-out another attempt may succeed, see
    /// [`crate::SoeReconnector`].
    #[error(transparent)]
    Closed(Closed),
    /// The socket opens no more sessions: it is shutting down, or its runtime has been shut down.
    #[error("the socket opens no more sessions")]
    Stopped,
}

/// Why a status query failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It did not answer in time.
    #[error("the server did not answer")]
    Timeout,
    /// The socket is bound to an address of the other family, or no server can have the address.
    #[error("this socket cannot reach {0}")]
    Unreachable(SocketAddr),
    /// The task that serves the socket is gone: its runtime has been shut down.
    #[error("the socket is not served any more")]
    Stopped,
}

/// What can go wrong with an open session.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SessionError {
    /// The session has ended; nothing more can be sent. If an application closed it, this is not a failure: see
    /// [`SessionError::is_clean_close`].
    #[error(transparent)]
    Closed(Closed),
    /// The task that served the session is gone: its runtime has been shut down. Open the session on a runtime that
    /// outlives it.
    #[error("the session is not served any more")]
    Stopped,
    /// The protocol cannot carry an empty message. The message is returned; the session continues.
    #[error("an empty message cannot be sent")]
    Empty(Message),
    /// The message is longer than this session may send. The message is returned; the session continues. Split the
    /// message, or raise [`max_message_size`](soe_core::Settings::max_message_size) on both sides.
    #[error("a message of {} bytes exceeds the limit of {limit}", .message.payload.len())]
    TooLarge {
        /// The message.
        message: Message,
        /// The longest message that may be sent this way, in bytes.
        limit: u32,
    },
    /// The send buffer is full, and [`futures_sink::Sink::start_send`] was called without `poll_ready` before it. The
    /// message is returned. Wait with `ready`, or drop it.
    #[error("the send buffer is full")]
    NotReady(Message),
    /// The message was refused for another reason. The message is returned.
    #[error(transparent)]
    Refused(Box<SendError>),
}

impl ConnectError {
    /// Why the session of the attempt ended, for [`ConnectError::Closed`].
    pub fn reason(&self) -> Option<DisconnectReason> {
        if let Self::Closed(closed) = self { Some(closed.reason) } else { None }
    }

    /// Whether the server did not answer or could not be reached: another attempt may succeed.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Closed(closed) if closed.is_timeout())
    }

    /// Whether the server refused the session: it is full, or the two sides use different protocols.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Closed(closed) if closed.is_refused())
    }
}

impl SessionError {
    /// How the session ended, if that is the error.
    pub fn closed(&self) -> Option<Closed> {
        if let Self::Closed(closed) = self { Some(*closed) } else { None }
    }

    /// Why the session ended, if that is the error.
    pub fn reason(&self) -> Option<DisconnectReason> {
        self.closed().map(|closed| closed.reason)
    }

    /// Whether the peer stopped answering or became unreachable.
    pub fn is_timeout(&self) -> bool {
        self.closed().is_some_and(|closed| closed.is_timeout())
    }

    /// Whether the peer refused the session.
    pub fn is_refused(&self) -> bool {
        self.closed().is_some_and(|closed| closed.is_refused())
    }

    /// Whether the application of either side closed the session, which is not a failure. Receiving then returns
    /// `None`; only later sends fail with this error.
    pub fn is_clean_close(&self) -> bool {
        self.closed().is_some_and(|closed| closed.is_clean())
    }

    /// Returns the message that was not sent, for the errors that carry it.
    pub fn into_message(self) -> Option<Message> {
        match self {
            Self::Empty(message) | Self::NotReady(message) | Self::TooLarge { message, .. } => Some(message),
            Self::Refused(error) => Some(error.into_message()),
            Self::Closed(_) | Self::Stopped => None,
        }
    }
}

/// Lets `?` convert the errors of `try_send` as well. They are two types because `try_send` returns every message, even
/// if the session has ended, while `send` reports how it ended.
impl From<SendError> for SessionError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Blocked(message) => Self::NotReady(message),
            SendError::Empty(message) => Self::Empty(message),
            SendError::TooLarge { message, limit } => Self::TooLarge { message, limit },
            other => Self::Refused(Box::new(other)),
        }
    }
}

/// The matching [`io::ErrorKind`] for the end of a session.
fn kind_of(closed: &Closed) -> io::ErrorKind {
    match closed {
        _ if closed.is_timeout() => io::ErrorKind::TimedOut,
        _ if closed.is_refused() => io::ErrorKind::ConnectionRefused,
        _ if closed.is_clean() => io::ErrorKind::BrokenPipe,
        _ => io::ErrorKind::ConnectionReset,
    }
}

impl From<SessionError> for io::Error {
    fn from(error: SessionError) -> Self {
        let kind = match &error {
            SessionError::Closed(closed) => kind_of(closed),
            SessionError::Stopped => io::ErrorKind::NotConnected,
            SessionError::NotReady(_) => io::ErrorKind::WouldBlock,
            SessionError::Empty(_) | SessionError::TooLarge { .. } => io::ErrorKind::InvalidInput,
            SessionError::Refused(error) if matches!(**error, SendError::Closed(_)) => io::ErrorKind::BrokenPipe,
            SessionError::Refused(_) => io::ErrorKind::InvalidInput,
        };
        Self::new(kind, error)
    }
}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match &error {
            ConnectError::Closed(closed) => kind_of(closed),
            ConnectError::Bind(error) => error.kind(),
            ConnectError::Resolve(error) | ConnectError::Random(error) => error.kind(),
            ConnectError::NoAddress => io::ErrorKind::AddrNotAvailable,
            ConnectError::InvalidRemote(_) => io::ErrorKind::InvalidInput,
            ConnectError::Occupied(_) => io::ErrorKind::AddrInUse,
            ConnectError::Stopped => io::ErrorKind::NotConnected,
        };
        Self::new(kind, error)
    }
}

impl BindError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::Resolve(error) | Self::Socket { source: error, .. } | Self::Random(error) => error.kind(),
            Self::NoRuntime => io::ErrorKind::Unsupported,
        }
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// What can go wrong with a [`crate::SoeFramed`]: the session, or the codec.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FramedError<E> {
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The codec could not decode or encode a message. The session continues.
    #[error("the codec failed")]
    Codec(#[source] E),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The future of a waiting task contains its result, in each of thousands of sessions.
    #[test]
    fn a_result_of_recv_is_little_larger_than_a_message() {
        let received = size_of::<Option<Result<Message, SessionError>>>();
        assert!(received <= size_of::<Message>() + size_of::<usize>(), "{received} bytes");
    }

    #[test]
    fn an_error_and_its_source_do_not_repeat_each_other() {
        let closed = |error: &dyn std::error::Error| (error.to_string(), error.source().map(ToString::to_string));
        let text = "the send buffer is full";
        assert_eq!(closed(&SessionError::from(SendError::Blocked(Message::from("x")))), (text.into(), None));
        let codec = FramedError::Codec(io::Error::other("no such item"));
        assert_eq!(closed(&codec), ("the codec failed".into(), Some("no such item".into())));
    }

    #[test]
    fn both_errors_return_a_refused_message() {
        let message = Message::from("x");
        let error = SessionError::from(SendError::Closed(message.clone()));
        assert_eq!(error.to_string(), "the session is closed");
        assert_eq!(error.into_message(), Some(message.clone()));
        assert_eq!(io::Error::from(SessionError::NotReady(message)).kind(), io::ErrorKind::WouldBlock);
    }
}
