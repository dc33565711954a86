//! Handles of a session: they send to it, observe it and end it, without owning it.

pub(crate) mod broadcast;
pub(crate) mod events;

use std::{
    any::Any,
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use soe_core::{
    Closed, DisconnectReason, Message, Relay, SendError, SessionKey, SessionStats, Undelivered,
    recording::RecordingWriter,
};

use self::events::SessionEvents;
use crate::{
    delivery::Delivery,
    engine::{
        clock::now,
        connection::{Connection, state::ConnectionState},
    },
    error::SessionError,
    event::SessionEvent,
    owner,
    session::SoeSession,
    split::{RecvHalf, SendHalf},
};

/// Identifies a session within this process: unique among all sessions that this process has opened or accepted, of all
/// sockets, and unchanged when the peer moves to another address. Can be used as a map key.
///
/// [`session_id`](SessionHandle::session_id) is something else: the number on the wire, which the client chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    endpoint: u64,
    key: SessionKey,
}

/// Sends to a session, observes it and ends it, without owning it. A clone costs one atomic increment. Returned by
/// [`SoeSession::handle`](SoeSession::handle), by the halves, and by
/// [`SoeListener::sessions`](crate::SoeListener::sessions). All of its methods take `&self` and may be called from any
/// task.
///
/// A handle does not keep its session open: the session is closed when the [`SoeSession`], or both of its halves, are
/// dropped. From then on the handle's sends fail with the reason of the end. (quinn calls such a handle weak.) It keeps
/// the session's memory allocated, some kilobytes: drop the handles of sessions that have ended.
///
/// Receiving belongs to the owner alone.
///
/// ```
/// use std::{collections::HashMap, time::Duration};
/// use soe_testing::Network;
/// use soe_tokio::{DisconnectReason, SessionConfig, SessionHandle, SessionId};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// let (mut client, server) = Network::new(1).pair(SessionConfig::new("Example")?).await?;
///
/// let mut players: HashMap<SessionId, SessionHandle> = HashMap::new();
/// players.insert(server.id(), server.handle());
///
/// // From another task:
/// let player = players[&server.id()].clone();
/// player.send("welcome").await?;
/// assert_eq!(client.recv().await.expect("open")?.payload, "welcome");
/// player.close(DisconnectReason::ConnectionRefused).await;
/// assert!(player.is_closed());
/// # Ok(()) })
/// # }
/// ```
#[derive(Clone)]
pub struct SessionHandle {
    connection: Arc<Connection>,
}

impl SessionHandle {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }

    pub(crate) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Queues a message, waiting for room in its channel's send buffer, and sends it at once. Plain bytes are sent on
    /// reliable channel 0. Messages of one task keep their order. Between several tasks that wait for room the order is
    /// not defined.
    ///
    /// # Errors
    ///
    /// Those of [`SoeSession::send`](SoeSession::send).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready drops the message unsent. Nothing else is lost.
    pub async fn send(&self, message: impl Into<Message>) -> Result<(), SessionError> {
        self.connection.send_shared(message.into(), ConnectionState::send).await
    }

    /// Like [`SessionHandle::send`], and returns a future that is ready once the peer has acknowledged the whole
    /// message.
    ///
    /// # Errors
    ///
    /// Those of [`SoeSession::send_with_receipt`](SoeSession::send_with_receipt).
    ///
    /// # Cancel safety
    ///
    /// As for [`SessionHandle::send`]. Dropping the [`Delivery`] changes nothing.
    pub async fn send_with_receipt(&self, message: impl Into<Message>) -> Result<Delivery, SessionError> {
        let receipt = self.connection.send_shared(message.into(), ConnectionState::send_with_receipt).await?;
        Ok(Delivery::new(Arc::clone(&self.connection), receipt))
    }

    /// Queues a message and sends it at once, if there is room for it now.
    ///
    /// # Errors
    ///
    /// The message comes back with the reason: [`SendError::Blocked`] if the send buffer is full.
    pub fn try_send(&self, message: impl Into<Message>) -> Result<(), SendError> {
        self.connection.send(message.into(), ConnectionState::send, true)
    }

    /// Waits until everything queued so far has been handed to the kernel, like
    /// [`SoeSession::flushed`](SoeSession::flushed). Cancel safe.
    ///
    /// # Errors
    ///
    /// [`SessionError::Closed`] or [`SessionError::Stopped`] if the session ended before that.
    pub async fn flushed(&self) -> Result<(), SessionError> {
        self.connection.flushed().await
    }

    /// Closes the session, like [`SoeSession::close`](SoeSession::close): what is queued is delivered first. Returns how
    /// the session ended.
    ///
    /// # Cancel safety
    /// Closing starts with the first poll and continues if the future is dropped.
    pub async fn close(&self, reason: DisconnectReason) -> Option<Closed> {
        owner::close(&self.connection, reason).await
    }

    /// Starts [`SessionHandle::close`] and does not wait for its end, for code that is not async. If what is queued does not
    /// matter, [`SessionHandle::abort`] is faster. Both wait for a hook of the application that runs on this session.
    pub fn kick(&self, reason: DisconnectReason) {
        self.connection.close(reason);
    }

    /// Ends the session now. What is queued is lost. With `tell_peer`, one Disconnect is sent to the peer.
    pub fn abort(&self, reason: DisconnectReason, tell_peer: bool) {
        self.connection.abort(reason, tell_peer);
    }

    /// The session's figures.
    pub fn stats(&self) -> SessionStats {
        owner::stats(&self.connection)
    }

    /// Waits for the next event, like [`SoeSession::next_event`](SoeSession::next_event). Cancel safe.
    pub async fn next_event(&self) -> Option<SessionEvent> {
        self.connection.next_event().await
    }

    /// What was queued here and has not been acknowledged.
    pub fn undelivered(&self) -> Undelivered {
        self.connection.lock().session.undelivered()
    }

    /// The server's clock, like [`SoeSession::server_clock`](SoeSession::server_clock).
    pub fn server_clock(&self) -> Option<u32> {
        self.connection.lock().session.server_clock(now())
    }

    /// Where the peer is now. It can move, see [`SessionEvent::Remapped`].
    pub fn peer_addr(&self) -> SocketAddr {
        self.connection.lock().address
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.connection.shared.local_addr
    }

    /// The local address that the peer speaks to, like [`SoeSession::local_ip`](SoeSession::local_ip).
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip()
    }

    /// The proxy that the peer comes through, like [`SoeSession::relay`](SoeSession::relay).
    pub fn relay(&self) -> Option<Relay> {
        self.connection.relay()
    }

    /// The id that the client chose for this session. Two clients may choose the same: for maps see [`SessionHandle::id`].
    pub fn session_id(&self) -> u32 {
        self.connection.session_id()
    }
}

impl fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionHandle").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl fmt::Display for SessionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session {:08x} with {}", self.session_id(), self.peer_addr())
    }
}

impl PartialEq for SessionHandle {
    /// Whether both are handles of the same session.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }
}

impl Eq for SessionHandle {}

impl std::hash::Hash for SessionHandle {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id().hash(state);
    }
}

/// The methods that a session, its halves and its handles have in common.
macro_rules! common_calls {
    ($holder:ty) => {
        impl $holder {
            /// Identifies the session within this process. Unchanged when the peer moves.
            pub fn id(&self) -> SessionId {
                let connection = self.connection();
                SessionId { endpoint: connection.shared.endpoint.number, key: connection.key }
            }

            /// The network's round trip, in whole milliseconds: see [`SessionStats::ping`](crate::SessionStats::ping).
            pub fn ping(&self) -> Option<Duration> {
                owner::stats(self.connection()).ping
            }

            /// Whether the session has ended. While it closes and still delivers what is queued, it has not ended,
            /// though it accepts no more messages. What has arrived can be received after the end.
            pub fn is_closed(&self) -> bool {
                self.connection().is_closed()
            }

            /// Waits for the end of the session and returns how it ended. `None`: the driver stopped before the session
            /// ended, because its runtime was shut down or the application's codec panicked in the driver. The future
            /// borrows nothing: created before a loop, it can be awaited beside `recv`.
            ///
            /// ```
            /// # async fn demo(mut session: soe_tokio::SoeSession) {
            /// let mut closed = std::pin::pin!(session.closed());
            /// loop {
            ///     tokio::select! {
            ///         Some(Ok(message)) = session.recv() => println!("{} bytes", message.payload.len()),
            ///         end = &mut closed => break println!("over: {end:?}"),
            ///     }
            /// }
            /// # }
            /// ```
            ///
            /// # Cancel safety
            ///
            /// Cancel safe.
            pub fn closed(&self) -> impl Future<Output = Option<Closed>> + Send + use<> {
                let connection = Arc::clone(self.connection());
                async move { owner::closed(&connection).await }
            }

            /// The recording of the session so far, as a pcapng file: see [`RecorderConfig`](crate::RecorderConfig). `None` if
            /// it is not recorded, or what it has recorded was handed over already.
            ///
            /// It takes some microseconds for each datagram. It holds passwords.
            pub fn recording(&self) -> Option<Vec<u8>> {
                let (number, pieces) = self.connection().recorded()?;
                let (mut writer, mut file) = (RecordingWriter::new(number), Vec::new());
                pieces.iter().try_for_each(|piece| writer.piece(piece, &mut file)).ok()?;
                Some(file)
            }

            /// The session's events as a stream, like repeated calls of
            /// [`SoeSession::next_event`](SoeSession::next_event).
            pub fn events(&self) -> SessionEvents {
                SessionEvents::new(Arc::clone(self.connection()))
            }

            /// Attaches data of the application to the session, replacing earlier data. It is available from the
            /// session, its halves and its handles by [`data`](Self::data). The alternative is a map with [`SessionId`]
            /// as its key. The data lives as long as any handle of the session. It must not hold a handle itself: that
            /// reference cycle would never be freed.
            ///
            /// ```
            /// # use soe_testing::Network;
            /// # use soe_tokio::SessionConfig;
            /// struct Player {
            ///     name: String,
            /// }
            ///
            /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
            /// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
            /// # let (_client, session) = Network::new(1).pair(SessionConfig::new("Example")?).await?;
            /// session.set_data(Player { name: "Ann".into() });
            /// assert_eq!(session.handle().data::<Player>().expect("just set").name, "Ann");
            /// # Ok(()) })
            /// # }
            /// ```
            pub fn set_data<T: Any + Send + Sync>(&self, data: T) {
                self.connection().set_data(Arc::new(data));
            }

            /// Returns the data that [`set_data`](Self::set_data) attached. `None` if there is none, or it is of
            /// another type.
            pub fn data<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
                self.connection().data()?.downcast().ok()
            }
        }
    };
}

/// `handle` for the types that own a session: the session and its halves.
macro_rules! hands_out_handles {
    ($holder:ty) => {
        impl $holder {
            /// Returns a handle of the session for other tasks. It does not keep the session open.
            pub fn handle(&self) -> SessionHandle {
                SessionHandle::new(Arc::clone(self.connection()))
            }
        }
    };
}

common_calls!(SessionHandle);
common_calls!(SoeSession);
common_calls!(SendHalf);
common_calls!(RecvHalf);
hands_out_handles!(SoeSession);
hands_out_handles!(SendHalf);
hands_out_handles!(RecvHalf);
