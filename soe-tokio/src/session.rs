//! The handle of a session: a stream and a sink of messages.

use std::{
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

use crate::{
    delivery::Delivery,
    engine::{clock::now, connection::Connection},
    error::SessionError,
    event::SessionEvent,
    owner::{self, SessionOwner},
};

/// One session with one peer: a stream and a sink of [`Message`]s.
///
/// The stream ends with `None` after a close by either application; if the transport ended the session (time-out,
/// unreachable peer, impossible content), one error comes before. Messages that arrived before the end are delivered first
/// in any case. The sink's `poll_flush` hands what is queued to the task that sends, and does not wait for the system call:
/// [`SoeSession::flushed`] does.
///
/// Dropping a session (or both its halves) closes it in the background like [`SoeSession::close`] with
/// [`DisconnectReason::Application`]: what is queued is still delivered, within the session's `close_timeout`.
#[derive(Debug)]
pub struct SoeSession {
    owner: SessionOwner,
}

impl SoeSession {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { owner: SessionOwner::new(connection) }
    }

    pub(crate) fn from_owner(owner: SessionOwner) -> Self {
        Self { owner }
    }

    pub(crate) fn into_owner(self) -> SessionOwner {
        self.owner
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.owner.connection
    }

    /// Receives the next message, in the order of its channel. `None`: the session is over.
    ///
    /// # Errors
    ///
    /// One error, before the `None`, if the transport ended the session.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a message is taken only when the future is ready.
    pub async fn recv(&mut self) -> Option<Result<Message, SessionError>> {
        poll_fn(|cx| self.connection().poll_recv(cx)).await
    }

    /// Queues a message, waiting for room in its channel's send buffer, and has it sent at once. Plain bytes travel on
    /// reliable channel 0. Before the end of the program await [`SoeSession::close`]: it waits for what was sent to arrive. To queue several messages before anything leaves, use the sink's `feed` and `flush`.
    ///
    /// # Errors
    ///
    /// [`SessionError::Closed`] or [`SessionError::Stopped`] if the session is over, [`SessionError::Empty`] and
    /// [`SessionError::TooLarge`] if the message cannot be carried.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready drops the message unsent. Nothing else is lost. To keep the message,
    /// wait with [`SoeSession::ready`] and then call [`SoeSession::try_send`].
    pub fn send(&mut self, message: impl Into<Message>) -> impl Future<Output = Result<(), SessionError>> {
        owner::send(self.connection(), message.into())
    }

    /// Like [`SoeSession::send`], and gives a future that is ready once the peer has acknowledged the whole message. What is
    /// acknowledged has arrived at the peer's transport; its application may not have read it yet.
    ///
    /// # Errors
    ///
    /// As for [`SoeSession::send`], and [`SessionError::Refused`] with [`SendError::NoReceipt`](crate::SendError::NoReceipt) for
    /// a message on an unreliable channel, which nobody acknowledges.
    ///
    /// # Cancel safety
    ///
    /// As for [`SoeSession::send`]. Dropping the [`Delivery`] changes nothing.
    pub async fn send_with_receipt(&mut self, message: impl Into<Message>) -> Result<Delivery, SessionError> {
        Delivery::send(self.connection(), message.into()).await
    }

    /// Queues a message and has it sent at once, if there is room for it now.
    ///
    /// # Errors
    ///
    /// The message comes back with the reason: [`SendError::Blocked`] if the send buffer is full.
    pub fn try_send(&mut self, message: impl Into<Message>) -> Result<(), SendError> {
        owner::try_send(self.connection(), message.into())
    }

    /// Waits until every channel has room in its send buffer. The next [`SoeSession::try_send`] then cannot return
    /// [`SendError::Blocked`], whatever handles of the session send before it: if they fill the buffer, that one message
    /// exceeds it.
    ///
    /// # Errors
    ///
    /// [`SessionError::Closed`] or [`SessionError::Stopped`] if the session is over.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn ready(&mut self) -> Result<(), SessionError> {
        poll_fn(|cx| self.connection().poll_ready(cx)).await
    }

    /// Waits until everything queued so far has been handed to the kernel, whatever is queued later. With a full
    /// congestion window that takes the peer's acknowledgements.
    ///
    /// # Errors
    ///
    /// [`SessionError::Closed`] or [`SessionError::Stopped`] if the session ended before that.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: sending goes on.
    pub async fn flushed(&self) -> Result<(), SessionError> {
        self.connection().flushed().await
    }

    /// Waits for the next event. `None`: the session is over.
    ///
    /// Events that nobody asks for are kept, up to 16; then the oldest are dropped. Each is given to one of those who ask.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: an event is taken only when the future is ready.
    pub async fn next_event(&self) -> Option<SessionEvent> {
        self.connection().next_event().await
    }

    /// Closes the session: refuses new messages, delivers what is queued within the session's `close_timeout`, tells the peer
    /// `reason`, and returns how the session ended. (It may have ended otherwise before.)
    ///
    /// Await this before the program ends. The peer does not acknowledge that it was told, so it is told six times over about
    /// ten round trips, at least 200 ms and at most 2 s; then this returns. Where 30 % of all datagrams are lost, seven peers of
    /// 10,000 are left to find out by their time-out. A session that is dropped does the same in the background, as long as its
    /// runtime runs; when a runtime ends, what is queued and one Disconnect leave at once, and nothing is repeated.
    ///
    /// # Cancel safety
    ///
    /// Closing starts with the first poll and goes on if the future is dropped.
    pub async fn close(&self, reason: DisconnectReason) -> Option<Closed> {
        owner::close(self.connection(), reason).await
    }

    /// Ends the session now. What is queued is lost; the peer is told once, or not at all.
    pub fn abort(&self, reason: DisconnectReason, tell_peer: bool) {
        self.connection().abort(reason, tell_peer);
    }

    /// Encrypts every reliable message queued from here on with RC4 under `key`; `None` stops that. Messages queued before are
    /// not touched, even if they have not left (section 4 of `docs/protocol.md`).
    ///
    /// Each reliable channel runs a key stream of its own. Unreliable messages are not encrypted: they travel as they are
    /// given. A channel that the peer delivers `unordered` must not be encrypted: a key stream needs the order.
    ///
    /// The task that sends encrypts, before the send returns. That takes some milliseconds for each MiB, which delays other
    /// sessions only as far as their tasks wait for the same worker thread of the runtime.
    ///
    /// # Errors
    ///
    /// If RC4 cannot use the key.
    pub fn set_send_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        owner::set_send_key(self.connection(), key)
    }

    /// Decrypts every reliable message received from here on with RC4 under `key`; `None` stops that. Messages are decrypted
    /// when the application receives them and not when they arrive, so the switch is exact: it applies to the message
    /// after the one received last, on each channel.
    ///
    /// # Errors
    ///
    /// If RC4 cannot use the key.
    pub fn set_recv_key(&mut self, key: Option<&[u8]>) -> Result<(), KeyError> {
        owner::set_recv_key(self.connection(), key)
    }

    /// Transforms every message queued on this reliable channel from here on by `hook`; `None` sends them as they are.
    /// Unreliable messages pass through no hook.
    ///
    /// The hook runs in the task that sends, under the session's lock: it must not use the session, and other calls on the
    /// session wait for it, such as `kick`, `abort` and `stats` of a handle. It must not block either: that would hold a thread of
    /// the runtime, and with it whatever else the runtime has put there, other sessions included. What takes longer than a
    /// millisecond belongs into `tokio::task::block_in_place`. If it panics, the panic goes on in that task and the session is
    /// closed.
    pub fn set_send_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.connection().set_transform(|session| session.set_send_hook(channel, hook));
    }

    /// Transforms every message received on this reliable channel from here on by `hook`, on the terms of
    /// [`SoeSession::set_send_hook`].
    pub fn set_recv_hook(&mut self, channel: ReliableChannel, hook: Option<Box<dyn MessageHook>>) {
        self.connection().set_transform(|session| session.set_recv_hook(channel, hook));
    }

    /// The server's clock in milliseconds, modulo 2^32, as the exchanges of statistics have shown it; on the side that asks
    /// for them (section 8 of `docs/protocol.md`).
    pub fn server_clock(&self) -> Option<u32> {
        self.connection().lock().session.server_clock(now())
    }

    /// The session's figures.
    pub fn stats(&self) -> SessionStats {
        owner::stats(self.connection())
    }

    /// What was queued here and is not known to have arrived.
    pub fn undelivered(&self) -> Undelivered {
        self.connection().lock().session.undelivered()
    }

    /// Where the peer is now. It can move, see [`SessionEvent::Remapped`].
    pub fn peer_addr(&self) -> SocketAddr {
        self.connection().lock().address
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.connection().shared.local_addr
    }

    /// The local address that the peer speaks to, and that datagrams to it leave from. It changes if the peer's next valid
    /// datagram is sent to another one. `None` if the socket is bound to a wildcard address and the system's routing chooses:
    /// on the client's side, and where the system does not report the address.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection().local_ip()
    }

    /// The proxy that the peer comes through, of a listener behind proxies
    /// ([`ListenerConfig::behind_proxy`](crate::ListenerConfig::behind_proxy)). `None` if it comes without one, or is itself
    /// the proxy.
    pub fn relay(&self) -> Option<Relay> {
        self.connection().relay()
    }

    /// The id that the client chose for this session.
    pub fn session_id(&self) -> u32 {
        self.connection().session_id()
    }
}

impl Stream for SoeSession {
    type Item = Result<Message, SessionError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connection().poll_recv(cx)
    }
}

impl Sink<Message> for SoeSession {
    type Error = SessionError;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        self.connection().poll_ready(cx)
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), SessionError> {
        owner::start_send(self.connection(), message)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        Poll::Ready(self.connection().flush())
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        owner::poll_close(self.connection(), cx)
    }
}
