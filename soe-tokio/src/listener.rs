//! The server's side: a socket that accepts sessions.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use soe_core::{AdmissionConfig, DisconnectReason, Endpoint, RequestInfo, SessionKey};
use tokio::{net::ToSocketAddrs, runtime::Handle, task::coop::poll_proceed};

use crate::{
    config::{BusyPoll, ListenerConfig},
    engine::{
        clock::now, connection::Connection, driver::Driver, random::Secrets, shared_endpoint::SharedEndpoint,
        shared_socket::SharedSocket,
    },
    error::BindError,
    metrics::{Metrics, Sample},
    session::SoeSession,
    shutdown::{self, ShutdownReport},
    socket::{
        AsyncUdp,
        bind::{bind_first, local_address},
        kernel::DropCounter,
        reuse_port,
    },
    stats::{ListenerStats, SocketStats},
};

/// A UDP socket that accepts sessions: [`SoeListener::accept`], or the stream of [`Incoming`] that it is.
///
/// Dropping the listener refuses what waits to be accepted and all newcomers. Accepted sessions live on, and with them the
/// socket; it is closed after the last of them. [`SoeListener::shutdown`] ends them too.
#[derive(Debug)]
pub struct SoeListener {
    endpoint: Arc<SharedEndpoint<Connection>>,
    /// One for each socket, at least one.
    sockets: Vec<Arc<SharedSocket<Connection>>>,
    local_addr: SocketAddr,
}

impl SoeListener {
    /// Binds a socket and accepts sessions on it. Of several addresses the first that can be bound is taken.
    ///
    /// `[::]` listens to IPv4 as well where the system allows it. On a machine with several addresses, a session of a socket
    /// that is bound to a wildcard address is answered from the address that its client spoke to. Must be called within a
    /// Tokio runtime with I/O and time enabled; the sessions are served there.
    ///
    /// # Errors
    ///
    /// If the address cannot be resolved or bound, or not as often as [`ListenerConfig::shards`] asks for, or the system's
    /// random source fails.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is bound before the future is ready.
    pub async fn bind(address: impl ToSocketAddrs, config: impl Into<ListenerConfig>) -> Result<Self, BindError> {
        let config = config.into();
        let sockets = bind_first(address, |address| reuse_port::bind(address, &config)).await?;
        let counted = sockets.into_iter().map(|socket| {
            let drops = socket.drop_counter();
            (Box::new(socket) as Box<dyn AsyncUdp>, drops)
        });
        Self::start(counted.collect(), config)
    }

    /// Accepts sessions on a socket of the caller's, for simulated networks.
    ///
    /// # Errors
    ///
    /// If the socket does not know its address, or the system's random source fails.
    pub fn from_socket(socket: Box<dyn AsyncUdp>, config: impl Into<ListenerConfig>) -> Result<Self, BindError> {
        Self::from_sockets(vec![socket], config)
    }

    /// Accepts sessions on several sockets of the caller's that share an address. [`ListenerConfig::shards`] is not looked
    /// at.
    ///
    /// # Errors
    ///
    /// As for [`SoeListener::from_socket`], and if there is no socket.
    pub fn from_sockets(sockets: Vec<Box<dyn AsyncUdp>>, config: impl Into<ListenerConfig>) -> Result<Self, BindError> {
        let mut config = config.into();
        config.socket.busy_poll = BusyPoll::Never;
        Self::start(sockets.into_iter().map(|socket| (socket, None)).collect(), config)
    }

    fn start(
        sockets: Vec<(Box<dyn AsyncUdp>, Option<DropCounter>)>,
        config: ListenerConfig,
    ) -> Result<Self, BindError> {
        let Some((first, _)) = sockets.first() else {
            return Err(BindError::Resolve(io::Error::new(io::ErrorKind::InvalidInput, "no socket")));
        };
        let local_addr = local_address(&**first)?;
        let busy_poll = config.socket.busy_poll;
        let key = Secrets::new(first.secrets_seed()).endpoint_key().map_err(BindError::Random)?;
        let endpoint = Endpoint::new(now(), config.admission, key);
        let endpoint = Arc::new(SharedEndpoint::new(endpoint, config.memory_limit));
        let share =
            |(socket, drops)| (SharedSocket::new(Arc::clone(&endpoint), local_addr, Handle::current(), drops), socket);
        // Each socket is known before the first is served: a driver that finds itself alone may have to wake the others.
        let sockets: Vec<_> = sockets.into_iter().map(share).collect();
        let spawn = |(shared, socket)| {
            Driver::spawn(Arc::clone(&shared), socket, busy_poll);
            shared
        };
        let sockets = sockets.into_iter().map(spawn).collect();
        Ok(Self { endpoint, sockets, local_addr })
    }

    /// Waits for the next session that a client has opened. `None`: the listener has been shut down.
    ///
    /// A session that ended while it waited is passed over, unless it has messages to read: what a client was told has
    /// arrived reaches the application.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a session is taken from the queue only when the future is ready.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming::new)
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The listener's figures.
    pub fn stats(&self) -> ListenerStats {
        let shards: Vec<_> = self.sockets.iter().map(|socket| SocketStats::of(socket)).collect();
        let (memory_held, memory_overflows) = (self.endpoint.budget.held(), self.endpoint.budget.overflows());
        ListenerStats {
            socket: SocketStats::total(&shards),
            shards,
            endpoint: self.endpoint.stats(),
            memory_held,
            memory_overflows,
        }
    }

    /// The listener's figures and those of its sessions for a monitoring system. Takes each session's lock once, for less than
    /// a microsecond: 10,000 sessions take a few milliseconds.
    pub fn metrics(&self) -> Metrics {
        let now = now();
        let sample = |connection: Arc<Connection>| {
            let state = connection.lock();
            let (session_id, peer_addr) = (state.session.session_id(), state.address);
            Sample { session_id, peer_addr, stats: state.session.stats(now) }
        };
        Metrics::new(self.stats(), self.endpoint.connections().into_iter().map(sample).collect())
    }

    /// Datagrams that the kernel dropped because a receive buffer was full (see [`crate::SocketConfig::recv_buffer`]), on all
    /// sockets together. `None` where it does not say; on Linux it does, to who may read /proc.
    ///
    /// The kernel lists every UDP socket of the system for it, which takes tens of milliseconds where there are ten thousand:
    /// ask now and then, not for every datagram.
    pub fn kernel_drops(&self) -> Option<u64> {
        self.sockets.iter().map(|socket| socket.drops?.read()).sum()
    }

    /// Puts the limits of `limits` in force for strangers from now on: sessions, strangers remembered, rates. Its session
    /// configurations, filter and other choices are not looked at. What is over a lowered limit already stays.
    pub fn set_limits(&self, limits: &AdmissionConfig) {
        self.endpoint.set_limits(limits);
    }

    /// Changes [`ListenerConfig::memory_limit`], in bytes, from now on.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.endpoint.budget.set_limit(bytes);
    }

    /// Closes every session and the socket, within `deadline` from now.
    ///
    /// New sessions are refused from now on. Live ones are closed like [`SoeSession::close`] with
    /// [`DisconnectReason::Application`]: what is queued is delivered, and whoever is not done when a last quarter of the time
    /// begins (or the last second) is cut off. That rest is for telling the peers, which is repeated since nobody acknowledges
    /// it: on a link of 20 ms it takes 0.2 s. The report says what was lost, and who may not have been told. Sessions that had
    /// ended before are not in it.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sessions keep closing in the background, as after dropping the listener.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.endpoint.close();
        shutdown::run(&self.endpoint, &self.sockets, deadline).await
    }
}

impl Drop for SoeListener {
    fn drop(&mut self) {
        self.endpoint.close();
    }
}

impl Stream for SoeListener {
    type Item = Incoming;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Incoming>> {
        let coop = ready!(poll_proceed(cx));
        let next = ready!(self.endpoint.poll_accept(cx));
        coop.made_progress();
        Poll::Ready(next.map(Incoming::new))
    }
}

/// A session that a client has opened and nobody has accepted yet.
///
/// The client has proved its address and believes that the session is open; what it sends is kept within the session's
/// receive buffer. Dropping this refuses the session, with [`DisconnectReason::ConnectionRefused`].
#[derive(Debug)]
#[must_use = "dropping it refuses the session"]
pub struct Incoming {
    connection: Arc<Connection>,
    is_decided: bool,
    address: SocketAddr,
    request: RequestInfo,
}

impl Incoming {
    fn new((connection, request): (Arc<Connection>, RequestInfo)) -> Self {
        let address = connection.lock().address;
        Self { connection, is_decided: false, address, request }
    }

    /// Where the client is.
    pub fn peer_addr(&self) -> SocketAddr {
        self.address
    }

    /// The local address that the client spoke to. `None` if the listener is bound to a wildcard address and the system does
    /// not say which one it was.
    pub fn local_ip(&self) -> Option<IpAddr> {
        self.connection.local_ip()
    }

    /// The protocol version that it asked for.
    pub fn version(&self) -> u32 {
        self.request.version
    }

    /// The application protocol that it named; empty if its version has no names.
    pub fn protocol_name(&self) -> &str {
        &self.request.protocol_name
    }

    /// The id that it chose for the session.
    pub fn session_id(&self) -> u32 {
        self.request.session_id
    }

    /// Takes the session.
    pub fn accept(mut self) -> SoeSession {
        self.is_decided = true;
        let key = self.connection.key;
        let session = SoeSession::new(Arc::clone(&self.connection));
        self.connection.shared.endpoint.call(|endpoint| endpoint.accept(key));
        session
    }

    /// Ends the session and tells the client why.
    pub fn refuse(mut self, reason: DisconnectReason) {
        self.decide(|endpoint, key| endpoint.refuse(key, reason));
    }

    /// Ends the session without a word: the client finds out by its time-out.
    pub fn ignore(mut self) {
        self.decide(Endpoint::ignore);
    }

    fn decide(&mut self, decision: impl FnOnce(&mut Endpoint, SessionKey)) {
        if !std::mem::replace(&mut self.is_decided, true) {
            let key = self.connection.key;
            self.connection.shared.endpoint.call(|endpoint| decision(endpoint, key));
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.decide(|endpoint, key| endpoint.refuse(key, DisconnectReason::ConnectionRefused));
    }
}
