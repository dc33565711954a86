//! The client side: opens sessions.

mod racing;
pub(crate) mod reconnect;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use soe_core::{DisconnectReason, Endpoint, NotRegistered, Session, SessionConfig};
use tokio::{
    net::{ToSocketAddrs, lookup_host},
    runtime::Handle,
};

use self::racing::can_reach;
use crate::{
    config::{BusyPoll, SocketConfig},
    engine::{
        clock::now,
        connection::{Connection, state::End},
        driver::Driver,
        random::Secrets,
        reports::recordings::Recordings,
        shared_endpoint::SharedEndpoint,
        shared_socket::SharedSocket,
    },
    error::{BindError, ConnectError, QueryError},
    recording::RecorderConfig,
    session::SoeSession,
    shutdown::{self, ShutdownReport},
    socket::{
        AsyncUdp,
        bind::{bind_first, from_std, local_address},
        kernel::{KernelUdp, canonical, unspecified_for},
    },
    stats::SocketStats,
};

/// A UDP socket that opens sessions, each to a different address. Its sessions stay open after it is dropped. The
/// socket is closed after the last of them.
#[derive(Debug)]
pub struct SoeConnector {
    shared: Arc<SharedSocket<Connection>>,
    secrets: Secrets,
}

impl SoeSession {
    /// Opens a session on a socket of its own, bound to the wildcard address and a free port. If `remote` resolves to
    /// several addresses, the first that answers is used, as in [`SoeConnector::connect`]; each is tried from a socket
    /// of its family. For several sessions on one socket, or another local address, see [`SoeConnector`].
    ///
    /// # Errors
    ///
    /// Those of [`SoeConnector::bind`] and [`SoeConnector::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the attempt up and tells the server, if it has answered already.
    pub async fn connect(remote: impl ToSocketAddrs, config: impl Into<SessionConfig>) -> Result<Self, ConnectError> {
        SoeConnector::connect_once(remote, config.into()).await
    }
}

/// Opens a session from this socket to the first address of `remote` that answers.
pub(crate) async fn connect(
    shared: &Arc<SharedSocket<Connection>>,
    secrets: &Secrets,
    remote: impl ToSocketAddrs,
    config: SessionConfig,
) -> Result<SoeSession, ConnectError> {
    let addresses = resolve(shared, remote).await?;
    racing::first(addresses, |address| connect_to(shared, secrets, address, config.clone())).await
}

/// The addresses of `remote` that this socket can reach, in the order of the attempts.
async fn resolve(
    shared: &SharedSocket<Connection>,
    remote: impl ToSocketAddrs,
) -> Result<Vec<SocketAddr>, ConnectError> {
    let mut addresses = racing::in_order(lookup_host(remote).await.map_err(ConnectError::Resolve)?);
    addresses.retain(|address| can_reach(shared.local_addr, *address));
    Ok(addresses)
}

async fn connect_to(
    shared: &Arc<SharedSocket<Connection>>,
    secrets: &Secrets,
    address: SocketAddr,
    config: SessionConfig,
) -> Result<SoeSession, ConnectError> {
    if shared.is_stopped() {
        return Err(ConnectError::Stopped);
    }
    if !racing::is_valid(address) {
        return Err(ConnectError::InvalidRemote(address));
    }
    let session_id = secrets.session_id().map_err(ConnectError::Random)?;
    let mut session = Session::connect(now(), config, session_id);
    if let Some(recordings) = shared.endpoint.recordings() {
        session.record(&recordings.options);
    }
    let connection = Connection::connect(shared, address, session).map_err(|error| match error {
        NotRegistered::Occupied => ConnectError::Occupied(address),
        _ => ConnectError::Stopped,
    })?;
    // Closes the session if this future is dropped.
    let session = SoeSession::new(connection);
    match session.connection().connected().await {
        Ok(()) => Ok(session),
        Err(End::Closed(closed)) => Err(ConnectError::Closed(closed)),
        Err(End::Stopped) => Err(ConnectError::Stopped),
    }
}

impl SoeConnector {
    /// Binds a socket. `0.0.0.0:0` reaches IPv4 servers from a free port; `[::]:0` reaches IPv6 ones, and IPv4 ones where
    /// the system allows it.
    ///
    /// Must be called within a Tokio runtime with I/O and time enabled; the sessions are served there.
    ///
    /// # Errors
    ///
    /// If the address cannot be resolved or bound.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is bound before the future is ready.
    pub async fn bind(address: impl ToSocketAddrs) -> Result<Self, BindError> {
        Self::bind_with(address, SocketConfig::default()).await
    }

    /// Like [`SoeConnector::bind`], with other socket buffers.
    ///
    /// # Errors
    ///
    /// See [`SoeConnector::bind`].
    pub async fn bind_with(address: impl ToSocketAddrs, config: SocketConfig) -> Result<Self, BindError> {
        let bind = |address: SocketAddr| Ok((KernelUdp::bind(address, &config, false)?, address.port() == 0));
        let (socket, has_private_port) = bind_first(address, bind).await?;
        Self::start(Box::new(socket), config.busy_poll, has_private_port)
    }

    /// Opens sessions on a UDP socket that is already bound, for example to an interface, or with a DSCP value or other
    /// options set. It is served like a socket of [`SoeConnector::bind`]. Must be called within a Tokio runtime with
    /// I/O and time enabled.
    ///
    /// # Errors
    /// [`BindError::NoRuntime`] outside of a runtime, [`BindError::Socket`] if the system refuses an option,
    /// [`BindError::Random`] if its random source fails.
    pub fn from_std(socket: std::net::UdpSocket, config: SocketConfig) -> Result<Self, BindError> {
        Self::start(Box::new(from_std(socket, &config)?), config.busy_poll, false)
    }

    /// Opens sessions on a socket that the caller implements, for simulated networks. Must be called within a Tokio
    /// runtime with time enabled.
    ///
    /// # Errors
    ///
    /// [`BindError::NoRuntime`] outside of a runtime, [`BindError::Socket`] if the socket cannot report its address.
    pub fn from_socket(socket: Box<dyn AsyncUdp>) -> Result<Self, BindError> {
        Self::start(socket, BusyPoll::Never, false)
    }

    fn start(socket: Box<dyn AsyncUdp>, busy_poll: BusyPoll, has_private_port: bool) -> Result<Self, BindError> {
        let address = local_address(&*socket)?;
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let secrets = Secrets::new(socket.secrets_seed());
        let key = secrets.endpoint_key().map_err(BindError::Random)?;
        let endpoint = Arc::new(SharedEndpoint::new(Endpoint::connector(now(), key), usize::MAX, None));
        let shared = SharedSocket::new(endpoint, address, runtime, has_private_port, None);
        Driver::spawn(Arc::clone(&shared), socket, busy_poll);
        Ok(Self { shared, secrets })
    }

    /// Opens a session. If `remote` resolves to several addresses that this socket can reach, the first that answers is
    /// used (RFC 8305): each is tried 250 ms after the one before, or as soon as an attempt has failed. An attempt
    /// fails after the connect time-out of `config`. If [`bind`](Self::bind) was given port 0, it fails at once when the
    /// network reports the address as unreachable (ICMP): start the server first, or try again. A port that the caller
    /// chose may be known to strangers, who can forge such reports: there they are ignored.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoAddress`] if this socket reaches none of the addresses: a socket bound to an IPv6 address
    /// reaches IPv4 addresses only if it is bound to the wildcard address. [`ConnectError::InvalidRemote`] for an address that
    /// no server can have, such as one with port 0. If all attempts fail: a refusal by a server
    /// if there was one, otherwise the error of the attempt that failed last. [`ConnectError::Occupied`] if this socket
    /// already has a session to that address: the protocol identifies a session by its address alone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the attempt up and tells the server, if it has answered already.
    pub async fn connect(
        &self,
        remote: impl ToSocketAddrs,
        config: impl Into<SessionConfig>,
    ) -> Result<SoeSession, ConnectError> {
        connect(&self.shared, &self.secrets, remote, config.into()).await
    }

    /// Like [`SoeConnector::connect`], but first waits until a session to the same address that is closing has ended.
    async fn connect_again(
        &self,
        remote: impl ToSocketAddrs,
        config: &SessionConfig,
    ) -> Result<SoeSession, ConnectError> {
        let addresses = resolve(&self.shared, remote).await?;
        racing::first(addresses, async |address| {
            if let Some(before) = self.shared.endpoint.resident(address).filter(|before| before.is_ending()) {
                before.closed().await;
            }
            connect_to(&self.shared, &self.secrets, address, config.clone()).await
        })
        .await
    }

    /// Sends a ServerStatus query to a server and returns the bytes of its answer (section 1 of `docs/protocol.md`).
    /// The query is repeated every 500 ms, and fails after `timeout`. The answer is not authenticated: anyone who can
    /// forge the server's address can send one. Servers of this crate answer if
    /// [`AdmissionConfig`](crate::AdmissionConfig) has a `server_status`. Many other servers do not answer.
    ///
    /// # Errors
    ///
    /// [`QueryError::Timeout`] without an answer, [`QueryError::Unreachable`] if this socket cannot reach the address's
    /// family, or no server can have the address, [`QueryError::Stopped`] if the runtime of the socket was shut down.
    ///
    /// # Cancel safety
    /// Cancel safe: a later answer is dropped.
    pub async fn query_status(&self, server: SocketAddr, timeout: Duration) -> Result<Bytes, QueryError> {
        let server = canonical(server);
        if !racing::is_valid(server) || !can_reach(self.shared.local_addr, server) {
            return Err(QueryError::Unreachable(server));
        }
        tokio::time::timeout(timeout, self.ask(server)).await.map_err(|_| QueryError::Timeout)?
    }

    async fn ask(&self, server: SocketAddr) -> Result<Bytes, QueryError> {
        let query = self.shared.queries.ask(server);
        loop {
            if self.shared.is_stopped() {
                return Err(QueryError::Stopped);
            }
            // UDP may lose the query or the answer.
            query.repeat();
            self.shared.wake_driver();
            if let Ok(answer) = tokio::time::timeout(QUERY_INTERVAL, query.answer()).await {
                return Ok(answer);
            }
        }
    }

    /// [`SoeSession::connect`]: opens one socket for each attempt, of the address's family.
    async fn connect_once(remote: impl ToSocketAddrs, config: SessionConfig) -> Result<SoeSession, ConnectError> {
        let addresses = racing::in_order(lookup_host(remote).await.map_err(ConnectError::Resolve)?);
        let config = &config;
        racing::first(addresses, async |address| {
            let connector = Self::bind(unspecified_for(address)).await?;
            connect_to(&connector.shared, &connector.secrets, address, config.clone()).await
        })
        .await
    }

    /// Records sessions that are opened from now on; `None` records no more. See
    /// [`SoeListener::record`](crate::SoeListener::record).
    pub fn record(&self, recorder: Option<RecorderConfig>) {
        self.shared.endpoint.record(recorder.map(Recordings::new));
    }

    /// Where the socket is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// Closes every session and the socket, within `deadline` from now, as [`SoeListener::shutdown`] does. Await this,
    /// or [`SoeSession::close`], before the program ends: otherwise the servers may notice the end only by their
    /// time-outs.
    ///
    /// # Cancel safety
    /// If the future is dropped, the sessions keep closing in the background, as after dropping the connector.
    ///
    /// [`SoeListener::shutdown`]: crate::SoeListener::shutdown
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        self.shutdown_with(DisconnectReason::Application, deadline).await
    }

    /// Like [`SoeConnector::shutdown`], with this reason for the peers.
    ///
    /// # Cancel safety
    ///
    /// As for [`SoeConnector::shutdown`].
    pub async fn shutdown_with(&self, reason: DisconnectReason, deadline: Duration) -> ShutdownReport {
        self.shared.endpoint.close();
        shutdown::run(&self.shared.endpoint, std::slice::from_ref(&self.shared), reason, deadline).await
    }

    /// Waits until no session is left, including those that are closing. Cancel safe.
    pub async fn wait_idle(&self) {
        self.shared.endpoint.until_idle().await;
    }

    /// A random number, for jitter; `None` if the system's random source fails.
    fn random_word(&self) -> Option<u32> {
        self.secrets.session_id().ok()
    }

    /// The socket's figures.
    pub fn stats(&self) -> SocketStats {
        SocketStats::of(&self.shared)
    }
}

impl Drop for SoeConnector {
    fn drop(&mut self) {
        self.shared.endpoint.close();
    }
}

/// How long to wait for an answer before the query is repeated.
const QUERY_INTERVAL: Duration = Duration::from_millis(500);
