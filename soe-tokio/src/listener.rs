//! The server side: accepts sessions.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use soe_core::{AdmissionConfig, DisconnectReason, Endpoint, SessionConfig};
use tokio::{net::ToSocketAddrs, runtime::Handle, task::coop::poll_proceed};
use tracing::info;

use crate::{
    config::{BusyPoll, ListenerConfig},
    connector,
    engine::{
        clock::now, connection::Connection, driver::Driver, random::Secrets, reports::recordings::Recordings,
        shared_endpoint::SharedEndpoint, shared_socket::SharedSocket, sync::lock,
    },
    error::{BindError, ConnectError},
    handle::SessionHandle,
    incoming::Incoming,
    metrics::{Metrics, Sample},
    recording::RecorderConfig,
    session::SoeSession,
    shutdown::{self, ShutdownReport},
    socket::{
        AsyncUdp,
        bind::{bind_first, from_std, local_address},
        kernel::DropCounter,
        proxied::{ProxiedUdp, Proxies},
        reuse_port,
    },
    stats::{ListenerStats, ProxyStats, SocketStats},
};

/// A UDP socket that accepts sessions: [`SoeListener::accept`], or the stream of [`Incoming`] that it is. Dropping the
/// listener refuses the sessions in the accept queue and all new ones. Accepted sessions stay open, and so does the
/// socket until the last of them has ended. [`SoeListener::shutdown`] ends them too.
#[derive(Debug)]
pub struct SoeListener {
    endpoint: Arc<SharedEndpoint<Connection>>,
    /// One for each socket, at least one.
    sockets: Vec<Arc<SharedSocket<Connection>>>,
    local_addr: SocketAddr,
    /// Ids of sessions that are opened from here.
    secrets: Secrets,
}

impl SoeListener {
    /// Binds a socket and accepts sessions on it. If `address` resolves to several addresses, the first that can be
    /// bound is used. `[::]` accepts IPv4 as well where the system allows it. A socket that is bound to a wildcard
    /// address answers each client from the local address that the client sent to. Must be called within a Tokio
    /// runtime with I/O and time enabled; the sessions are served there.
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

    /// Accepts sessions on a UDP socket that is already bound: one that systemd passed, that is bound to an interface,
    /// or that has a DSCP value or other options set. It is served like a socket of [`SoeListener::bind`], with runs of
    /// datagrams (GSO and GRO) where the system has them. Must be called within a Tokio runtime with I/O and time
    /// enabled. The buffer sizes of `config` are applied; [`ListenerConfig::shards`] is ignored.
    ///
    /// ```no_run
    /// # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
    /// use soe_tokio::{SessionConfig, SoeListener};
    ///
    /// let socket = std::net::UdpSocket::bind("[::]:20060")?;
    /// let listener = SoeListener::from_std(socket, SessionConfig::new("Echo")?)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`BindError::NoRuntime`] outside of a runtime, [`BindError::Socket`] if the system refuses an option,
    /// [`BindError::Random`] if its random source fails.
    pub fn from_std(socket: std::net::UdpSocket, config: impl Into<ListenerConfig>) -> Result<Self, BindError> {
        let config = config.into();
        let socket = from_std(socket, &config.socket)?;
        let drops = socket.drop_counter();
        Self::start(vec![(Box::new(socket), drops)], config)
    }

    /// Accepts sessions on a socket that the caller implements, for simulated networks. Must be called within a Tokio
    /// runtime with time enabled.
    ///
    /// # Errors
    ///
    /// [`BindError::NoRuntime`] outside of a runtime, [`BindError::Socket`] if the socket cannot report its address,
    /// [`BindError::Random`] if the system's random source fails.
    pub fn from_socket(socket: Box<dyn AsyncUdp>, config: impl Into<ListenerConfig>) -> Result<Self, BindError> {
        Self::from_sockets(vec![socket], config)
    }

    /// Accepts sessions on several sockets that the caller implements and that share an address.
    /// [`ListenerConfig::shards`] is ignored.
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
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let proxies = config.proxy.map(Proxies::new);
        let busy_poll = config.socket.busy_poll;
        let secrets = Secrets::new(first.secrets_seed());
        let key = secrets.endpoint_key().map_err(BindError::Random)?;
        let endpoint = Endpoint::new(now(), config.admission, key);
        let endpoint = Arc::new(SharedEndpoint::new(endpoint, config.memory_limit, proxies.clone()));
        endpoint.record(config.recorder.map(Recordings::new));
        let share = |(socket, drops)| {
            let shared = SharedSocket::new(Arc::clone(&endpoint), local_addr, runtime.clone(), false, drops);
            match &proxies {
                Some(proxies) => (shared, Box::new(ProxiedUdp::new(socket, Arc::clone(proxies))) as Box<dyn AsyncUdp>),
                None => (shared, socket),
            }
        };
        // All sockets join the endpoint before the first driver runs: a driver may have to wake the others.
        let sockets: Vec<_> = sockets.into_iter().map(share).collect();
        let spawn = |(shared, socket)| {
            Driver::spawn(Arc::clone(&shared), socket, busy_poll);
            shared
        };
        let sockets: Vec<_> = sockets.into_iter().map(spawn).collect();
        info!(address = %local_addr, sockets = sockets.len(), "listening");
        Ok(Self { endpoint, sockets, local_addr, secrets })
    }

    /// Waits for the next session in the accept queue. `None`: the listener has been shut down. A session that ended in
    /// the accept queue is skipped, unless it has messages to read: they have been acknowledged, so the application
    /// must get them.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a session is taken from the queue only when the future is ready.
    pub async fn accept(&self) -> Option<Incoming> {
        self.endpoint.accept().await.map(Incoming::new)
    }

    /// Opens a session from the listener's own port: to a server that knows this one by its address, or to a peer behind a NAT
    /// that lets datagrams through from there. Otherwise it is as [`SoeConnector::connect`] from a port that is known: reports
    /// of an unreachable address (ICMP) are ignored. The session is one of the
    /// listener's: it counts towards `max_sessions` (and is opened even if that is reached), and is in
    /// [`sessions`](Self::sessions), statistics and [`shutdown`](Self::shutdown).
    ///
    /// Between two addresses there is one session at a time. While this one is open, a request of its peer from the same address
    /// is ignored; if both ask at once, both attempts fail with [`DisconnectReason::ConnectError`] when their time is over.
    ///
    /// # Errors
    ///
    /// Those of [`SoeConnector::connect`]; [`ConnectError::Stopped`] after [`stop_accepting`](Self::stop_accepting).
    /// [`ConnectError::NoAddress`] behind a proxy ([`ListenerConfig::behind_proxy`]), which has no way out for it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the attempt up and tells the server, if it has answered already.
    ///
    /// [`SoeConnector::connect`]: crate::SoeConnector::connect
    pub async fn connect(
        &self,
        remote: impl ToSocketAddrs,
        config: impl Into<SessionConfig>,
    ) -> Result<SoeSession, ConnectError> {
        if self.endpoint.proxies.is_some() {
            return Err(ConnectError::NoAddress);
        }
        connector::connect(&self.sockets[0], &self.secrets, remote, config.into()).await
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The statistics of the listener.
    pub fn stats(&self) -> ListenerStats {
        let shards: Vec<_> = self.sockets.iter().map(|socket| SocketStats::of(socket)).collect();
        let (memory_held, memory_overflows) = (self.endpoint.budget.held(), self.endpoint.budget.overflows());
        ListenerStats {
            socket: SocketStats::total(&shards),
            shards,
            endpoint: self.endpoint.stats(),
            memory_held,
            memory_overflows,
            proxy: self.endpoint.proxies.as_deref().map(ProxyStats::of),
            ended: lock(&self.endpoint.ended).clone(),
        }
    }

    /// The statistics of the listener and of its sessions, for a monitoring system. Takes each session's lock once, for
    /// less than a microsecond: 10,000 sessions take a few milliseconds. A session whose hook runs at that moment is left out.
    pub fn metrics(&self) -> Metrics {
        let (now, mut metrics) = (now(), Metrics::new(self.stats()));
        for connection in self.endpoint.connections() {
            let Some(state) = connection.try_lock() else { continue };
            let session = &state.session;
            // One that has ended and answers late datagrams is no present session.
            if session.closed().is_none() {
                let (session_id, peer_addr) = (session.session_id(), state.address);
                metrics.add(&session.vitals(), || Sample { session_id, peer_addr, stats: session.stats(now) });
            }
        }
        metrics
    }

    /// Datagrams that the kernel dropped because a receive buffer was full (see [`crate::SocketConfig::recv_buffer`]),
    /// on all sockets together. `None` if the system does not report them. Linux reports them if the process may read
    /// /proc. The kernel lists every UDP socket of the system for it, which takes tens of milliseconds with ten
    /// thousand sockets: call it about once a minute.
    pub fn kernel_drops(&self) -> Option<u64> {
        self.sockets.iter().map(|socket| socket.drops?.read()).sum()
    }

    /// Applies the limits of `limits` from now on: sessions, pending handshakes, rates. Its session configurations and
    /// its filter are ignored. Existing sessions above a lowered limit continue.
    pub fn set_limits(&self, limits: &AdmissionConfig) {
        self.endpoint.set_limits(limits);
    }

    /// Changes [`ListenerConfig::memory_limit`], in bytes, from now on.
    pub fn set_memory_limit(&self, bytes: usize) {
        self.endpoint.budget.set_limit(bytes);
    }

    /// Records sessions that open from now on; `None` records no more. Recordings that are under way go to the sink that is set
    /// when their sessions are over, if there is one; those that are handed over continuously stop.
    pub fn record(&self, recorder: Option<RecorderConfig>) {
        self.endpoint.record(recorder.map(Recordings::new));
    }

    /// Returns handles of the sessions that were accepted or opened from here and have not ended, without those in the accept
    /// queue and those whose [`SoeSession`] was dropped. The order is not defined; sessions that open meanwhile may be missing.
    /// For [`broadcast`](crate::broadcast), or to find a session and close it:
    ///
    /// ```
    /// # use soe_tokio::{DisconnectReason, SoeListener};
    /// # fn demo(listener: &SoeListener, cheater: std::net::SocketAddr) {
    /// for player in listener.sessions().filter(|player| player.peer_addr() == cheater) {
    ///     player.kick(DisconnectReason::ConnectionRefused);
    /// }
    /// # }
    /// ```
    pub fn sessions(&self) -> impl Iterator<Item = SessionHandle> + use<> {
        let connections = self.endpoint.connections().into_iter();
        connections.filter(|connection| connection.is_held()).map(SessionHandle::new)
    }

    /// Stops accepting: new sessions and those in the accept queue are refused, and [`SoeListener::accept`] returns
    /// `None`. Accepted sessions continue. This cannot be undone. To replace a server without interrupting its
    /// sessions: stop accepting, await [`SoeListener::wait_idle`] with a time limit, then shut down.
    pub fn stop_accepting(&self) {
        self.endpoint.close();
    }

    /// Waits until no session is left, including those in the accept queue and those that are closing.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn wait_idle(&self) {
        self.endpoint.until_idle().await;
    }

    /// Closes every session and the socket, within `deadline` from now. New sessions are refused from now on. Open
    /// sessions are closed like [`SoeSession::close`] with [`DisconnectReason::Application`]: what is queued is
    /// delivered. Sessions that have not finished when the last quarter of the time begins, or the last second if that
    /// is shorter, are aborted. The rest of the time is for the Disconnects, which are repeated because they are not
    /// acknowledged: on a link of 20 ms that takes 0.2 s. The report lists what was lost, and the peers that may not
    /// have been notified. It does not contain sessions that had ended before.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the sessions keep closing in the background, as after dropping the listener.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.shutdown_with(DisconnectReason::Application, deadline).await
    }

    /// Like [`SoeListener::shutdown`], with this reason for the peers.
    ///
    /// # Cancel safety
    ///
    /// As for [`SoeListener::shutdown`].
    pub async fn shutdown_with(&self, reason: DisconnectReason, deadline: Duration) -> ShutdownReport {
        self.endpoint.close();
        shutdown::run(&self.endpoint, &self.sockets, reason, deadline).await
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
