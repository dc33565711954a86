//! One error enum per operation.

use std::{io, net::SocketAddr};

use soe_core::{Closed, Message, SendError};
use thiserror::Error;

/// Why a socket could not be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address could not be resolved, or names nothing.
    #[error("the address to bind could not be resolved")]
    Resolve(#[source] io::Error),
    /// The system refused the socket, its address or an option of it.
    #[error("the socket could not be bound to {address}")]
    Socket {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system's random source, which session ids and seeds come from, failed.
    #[error("the system's random source failed")]
    Random(#[source] io::Error),
}

/// Why no session came about.
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
    /// This socket already has a session to that address. The protocol tells sessions apart by address alone: use
    /// another socket.
    #[error("this socket already has a session to {0}")]
    Occupied(SocketAddr),
    /// The system's random source, which session ids come from, failed.
    #[error("the system's random source failed")]
    Random(#[source] io::Error),
    /// The server refused, did not answer in time, or offered something that cannot be spoken.
    #[error("the connection failed: {0}")]
    Closed(#[source] Closed),
    /// The task that serves the socket is gone: its runtime has been shut down.
    #[error("the socket is not served any more")]
    Stopped,
}

/// Why a server did not say what it says of itself.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum QueryError {
    /// It did not answer in time.
    #[error("the server did not answer")]
    Timeout,
    /// The socket is bound to an address of the other family.
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
    /// The session has ended; nothing more can be sent.
    #[error("the session is closed: {0}")]
    Closed(#[source] Closed),
    /// The task that served the session is gone: its runtime has been shut down.
    #[error("the session is not served any more")]
    Stopped,
    /// The protocol cannot carry a message of no bytes. The message comes back.
    #[error("an empty message cannot be sent")]
    Empty(Message),
    /// The message is longer than this session may send. The message comes back.
    #[error("a message of {} bytes exceeds the limit of {limit}", .message.payload.len())]
    TooLarge {
        /// The message.
        message: Message,
        /// The longest message that may be sent this way, in bytes.
        limit: u32,
    },
    /// The send buffer is full, and [`futures_sink::Sink::start_send`] was called without asking first. The message comes
    /// back.
    #[error("the send buffer is full")]
    NotReady(Message),
    /// The message was refused for another reason. The message comes back.
    #[error(transparent)]
    Refused(Box<SendError>),
}

/// What can go wrong with a [`crate::SoeFramed`]: the session, or the codec.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum FramedError<E> {
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The codec could not make sense of a message, or could not write one.
    #[error("the codec failed: {0}")]
    Codec(E),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A task that waits keeps room for what it may receive, in each of thousands of sessions.
    #[test]
    fn what_a_session_gives_out_takes_little_more_than_a_message() {
        let received = size_of::<Option<Result<Message, SessionError>>>();
        assert!(received <= size_of::<Message>() + size_of::<usize>(), "{received} bytes");
    }
}
