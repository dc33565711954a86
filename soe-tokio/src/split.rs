//! The two halves of a session.

use std::{
    fmt,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_core::Stream;
use futures_sink::Sink;
use soe_core::{
    Closed, DisconnectReason, KeyError, Message, MessageHook, Relay, ReliableChannel, SendError, SessionStats,
    Undelivered,
};
use thiserror::Error;

use crate::{
    delivery::Delivery,
    engine::{clock::now, connection::Connection},
    error::SessionError,
    event::SessionEvent,
    owner::{self, SessionOwner},
    session::SoeSession,
};

/// The sending half of a session. See [`SoeSession::split`]. The session is closed when both halves have been dropped;
/// dropping one half has no effect.
#[derive(Debug)]
pub struct SendHalf {
    owner: SessionOwner,
}

/// The receiving half of a session. See [`SoeSession::split`].
///
/// The session is closed when both halves have been dropped. While only the sending half is left, the peer's messages
/// are not received, and the peer must stop sending once the receive buffer is full.
#[derive(Debug)]
pub struct RecvHalf {
    owner: SessionOwner,
}

/// The halves belong to different sessions. Returns both.
#[derive(Debug, Error)]
#[error("the halves belong to different sessions")]
#[expect(clippy::exhaustive_structs, reason = "it holds exactly the two halves")]
pub struct ReuniteError(pub SendHalf, pub RecvHalf);

impl SoeSession {
    /// Splits the session into a half that sends and one that receives, for two tasks.
    pub fn split(self) -> (SendHalf, RecvHalf) {
        let other = SessionOwner::new(Arc::clone(self.connection()));
        (SendHalf::new(self.into_owner()), RecvHalf::new(other))
    }
}

impl SendHalf {
    pub(crate) fn new(owner: SessionOwner) -> Self {
        Self { owner }
    }

    /// Like [`SoeSession::send`], errors and cancel safety included.
    ///
    /// # Errors
    ///
    /// See [`SoeSession::send`].
    pub fn send(&mut self, message: impl Into<Message>) -> impl Future<Output = Result<(), SessionError>> {
        owner::send(&self.owner.connection, message.into())
    }

    /// Like [`SoeSession::send_with_receipt`], errors and cancel safety included.
    ///
    /// # Errors
    ///
    /// See [`SoeSession::send`].
    pub async fn send_with_receipt(&mut self, message: impl Into<Message>) -> Result<Delivery, SessionError> {
        Delivery::send(&self.owner.connection, message.into()).await
    }

    /// Like [`SoeSession::try_send`].
    ///
    /// # Errors
    ///
    /// See [`SoeSession::try_send`].
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        owner::try_send(&self.owner.connection, message.into())
    }

    /// Like [`SoeSession::ready`]. Cancel safe.
    ///
    /// # Errors
    ///
    /// See [`SoeSession::ready`].
    pub async fn ready(&mut self) -> Result<(), SessionError> {
        poll_fn(|cx| self.owner.connection.poll_ready(cx)).await
    }

    /// Like [`SoeSession::flushed`]. Cancel safe.
    ///
    /// # Errors
    ///
    /// See [`SoeSession::flushed`].
    pub async fn flushed(&self) -> Result<(), SessionError> {
        self.owner.connection.flushed().await
    }

    /// Like [`SoeSession::set_send_key`].
    ///
    /// # Errors
    ///
    /// See [`SoeSession::set_send_key`].
    pub fn set_send_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        owner::set_send_key(&self.owner.connection, key)
    }

    /// Like [`SoeSession::set_send_hook`].
    pub fn set_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.owner.connection.set_transform(|session| session.set_send_hook(channel, hook));
    }

    /// Puts the session together again.
    ///
    /// # Errors
    ///
    /// Gives both halves back if they belong to different sessions.
    pub fn reunite(self, recv: RecvHalf) -> Result<SoeSession, ReuniteError> {
        if self.owner.is_with(&recv.owner) {
            Ok(SoeSession::from_owner(self.owner))
        } else {
            Err(ReuniteError(self, recv))
        }
    }
}

impl RecvHalf {
    pub(crate) fn new(owner: SessionOwner) -> Self {
        Self { owner }
    }

    /// Like [`SoeSession::recv`]. Cancel safe.
    ///
    /// # Errors
    ///
    /// See [`SoeSession::recv`].
    pub async fn recv(&mut self) -> Option<Result<Message, SessionError>> {
        poll_fn(|cx| self.owner.connection.poll_recv(cx)).await
    }

    /// Like [`SoeSession::set_recv_key`].
    ///
    /// # Errors
    ///
    /// See [`SoeSession::set_recv_key`].
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        owner::set_recv_key(&self.owner.connection, key)
    }

    /// Like [`SoeSession::set_recv_hook`].
    pub fn set_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.owner.connection.set_transform(|session| session.set_recv_hook(channel, hook));
    }

    /// Puts the session together again.
    ///
    /// # Errors
    ///
    /// Gives both halves back if they belong to different sessions.
    pub fn reunite(self, send: SendHalf) -> Result<SoeSession, ReuniteError> {
        send.reunite(self)
    }
}

/// The methods that both halves have in common.
macro_rules! common {
    ($half:ident) => {
        impl $half {
            pub(crate) fn connection(&self) -> &Arc<Connection> {
                &self.owner.connection
            }

            /// Closes the whole session, like [`SoeSession::close`]; continues if the future is dropped.
            pub async fn close(&self, reason: DisconnectReason) -> Option<Closed> {
                owner::close(&self.owner.connection, reason).await
            }

            /// Ends the whole session now, like [`SoeSession::abort`].
            pub fn abort(&self, reason: DisconnectReason, tell_peer: bool) {
                self.owner.connection.abort(reason, tell_peer);
            }

            /// Waits for the next event, like [`SoeSession::next_event`]. Cancel safe.
            pub async fn next_event(&self) -> Option<SessionEvent> {
                self.owner.connection.next_event().await
            }

            /// What was queued here and has not been acknowledged.
            pub fn undelivered(&self) -> Undelivered {
                self.owner.connection.lock().session.undelivered()
            }

            /// The server's clock, like [`SoeSession::server_clock`].
            pub fn server_clock(&self) -> Option<u32> {
                self.owner.connection.lock().session.server_clock(now())
            }

            /// The session's figures, of both directions.
            pub fn stats(&self) -> SessionStats {
                owner::stats(&self.owner.connection)
            }

            /// Where the peer is now.
            pub fn peer_addr(&self) -> SocketAddr {
                self.owner.connection.lock().address
            }

            /// Where the socket is bound.
            pub fn local_addr(&self) -> SocketAddr {
                self.owner.connection.shared.local_addr
            }

            /// The local address that the peer speaks to, like [`SoeSession::local_ip`].
            pub fn local_ip(&self) -> Option<IpAddr> {
                self.owner.connection.local_ip()
            }

            /// The proxy that the peer comes through, like [`SoeSession::relay`].
            pub fn relay(&self) -> Option<Relay> {
                self.owner.connection.relay()
            }

            /// The id that the client chose for this session.
            pub fn session_id(&self) -> u32 {
                self.owner.connection.session_id()
            }
        }

        impl fmt::Display for $half {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "session {:08x} with {}", self.session_id(), self.peer_addr())
            }
        }
    };
}

common!(SendHalf);
common!(RecvHalf);

impl Stream for RecvHalf {
    type Item = Result<Message, SessionError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.owner.connection.poll_recv(cx)
    }
}

impl Sink<Message> for SendHalf {
    type Error = SessionError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        self.owner.connection.poll_ready(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), SessionError> {
        owner::start_send(&self.owner.connection, message)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        Poll::Ready(self.owner.connection.flush())
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        owner::poll_close(&self.owner.connection, cx)
    }
}
