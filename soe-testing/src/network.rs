//! The network that tests hold.

use std::{
    hash::Hasher,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    time::Duration,
};

use soe_tokio::{
    AsyncUdp, BindError, ConnectError, ListenerConfig, SessionConfig, SoeConnector, SoeListener, SoeSession,
};

use crate::{
    link::LinkProfile,
    raw::RawPeer,
    socket::SimulatedSocket,
    stats::{Fault, Stats},
    wires::{Arrival, Wires},
};

/// A UDP network in memory. Sockets of it are found by their addresses; any IP address and port will do.
///
/// Everything that the network decides is drawn from its seed, session ids and keys of the sockets included: a test on one
/// thread under Tokio's paused clock runs the same way each time. A test that panics prints the seed. Clones are handles to
/// the same network.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) seed: u64,
    wires: Mutex<Wires>,
    clients: AtomicU16,
    listeners: AtomicU16,
    has_told_seed: AtomicBool,
}

/// What a socket can hold and send. Applies to sockets that are bound after [`Network::set_socket_limits`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct SocketLimits {
    /// The receive buffer in bytes. Each datagram counts with its length and 512 bytes. Default 4 MiB.
    pub recv_buffer: usize,
    /// Datagrams that a socket can send in each millisecond; then it is full. Default no limit.
    pub sends_per_millisecond: Option<usize>,
    /// The share of the sends that find the socket full for a moment, between 0 and 1. Default 0.
    pub send_blocked: f64,
}

impl Default for SocketLimits {
    fn default() -> Self {
        Self { recv_buffer: 4 << 20, sends_per_millisecond: None, send_blocked: 0.0 }
    }
}

impl SocketLimits {
    /// Limits the receive buffer, in bytes.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.recv_buffer = bytes;
        self
    }

    /// Limits what a socket can send in a millisecond, in datagrams.
    #[must_use]
    pub fn sends_per_millisecond(mut self, datagrams: usize) -> Self {
        self.sends_per_millisecond = Some(datagrams);
        self
    }

    /// Makes a share of the sends find the socket full.
    #[must_use]
    pub fn send_blocked(mut self, share: f64) -> Self {
        self.send_blocked = share;
        self
    }
}

impl Network {
    /// Where [`Network::listener`] binds.
    pub const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 20060);

    /// A network without faults. Its clock is the one of the runtime that it is made in.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime with time enabled.
    pub fn new(seed: u64) -> Self {
        Self::with(seed, Wires::new(seed, true))
    }

    pub(crate) fn with(seed: u64, wires: Wires) -> Self {
        let (clients, listeners) = (AtomicU16::new(0), AtomicU16::new(0));
        let has_told_seed = AtomicBool::new(false);
        Self { shared: Arc::new(Shared { seed, wires: Mutex::new(wires), clients, listeners, has_told_seed }) }
    }

    /// What the network's decisions are drawn from.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// The address of one of many clients, each in a network of its own, as [`Network::client`] hands them out in turn.
    pub const fn client_address(number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 1 + high % 200, low, 2)), 40_000)
    }

    /// Sets the profile of all links that have none of their own, in both directions.
    pub fn link(&self, profile: LinkProfile) -> &Self {
        self.shared.wires().links.default = profile;
        self
    }

    /// Sets the profile of what the socket bound to `from` sends.
    pub fn link_from(&self, from: SocketAddr, profile: LinkProfile) -> &Self {
        self.shared.wires().links.from.insert(from, profile);
        self
    }

    /// Sets the profile of what is sent to the socket bound to `to`. [`Network::link_from`] goes before it.
    pub fn link_to(&self, to: SocketAddr, profile: LinkProfile) -> &Self {
        self.shared.wires().links.to.insert(to, profile);
        self
    }

    /// Sets the profile of one direction between two sockets. It goes before all others.
    pub fn link_between(&self, from: SocketAddr, to: SocketAddr, profile: LinkProfile) -> &Self {
        self.shared.wires().links.pairs.insert((from, to), profile);
        self
    }

    /// Sets what sockets can hold and send that are bound from now on.
    pub fn set_socket_limits(&self, limits: SocketLimits) -> &Self {
        self.shared.wires().limits = limits;
        self
    }

    /// Sets what the socket bound to `address` can hold and send. Nothing happens if there is none.
    pub fn set_socket_limits_of(&self, address: SocketAddr, limits: SocketLimits) -> &Self {
        if let Some(inbox) = self.shared.wires().inboxes.get_mut(&address) {
            inbox.limits = limits;
        }
        self
    }

    /// Whether a datagram to an address without a socket is answered with ICMP "port unreachable". Default no.
    pub fn report_unreachable(&self, reports: bool) -> &Self {
        self.shared.wires().reports_unreachable = reports;
        self
    }

    /// Loses everything for a time from now on.
    pub fn blackout(&self, duration: Duration) {
        self.blackout_until(None, duration);
    }

    /// Loses everything to and from the socket bound to `address` for a time from now on.
    pub fn blackout_of(&self, address: SocketAddr, duration: Duration) {
        self.blackout_until(Some(address), duration);
    }

    fn blackout_until(&self, who: Option<SocketAddr>, duration: Duration) {
        let mut wires = self.shared.wires();
        let until = wires.now().saturating_add(duration);
        wires.blackouts.insert(who, until);
    }

    /// Stops the socket bound to `address` for a time: what arrives waits in its receive buffer as far as it fits, the
    /// owner is not woken, and sends find the socket full.
    ///
    /// The owner's timers go on: this is a network card that hangs. Where the whole process stops, the timers stop with it
    /// and then all fire late: see [`crate::Machines::pause`].
    pub fn pause(&self, address: SocketAddr, duration: Duration) {
        let mut wires = self.shared.wires();
        let until = wires.now().saturating_add(duration);
        if let Some(inbox) = wires.inboxes.get_mut(&address) {
            inbox.paused_until = until;
            inbox.wake();
        }
        wires.stats.add(Fault::Paused);
    }

    /// Lets the socket bound to `socket` appear under `address` from now on, as a router does that gives a client another
    /// port. What is sent to the old address reaches nobody. If another socket appears under `address`, it gets a new port
    /// there.
    pub fn rebind(&self, socket: SocketAddr, address: SocketAddr) {
        let mut wires = self.shared.wires();
        let is_bound = wires.inboxes.contains_key(&address);
        wires.nat.rebind(socket, address, is_bound);
        wires.stats.add(Fault::Moved);
    }

    /// Lets two sockets appear under each other's addresses.
    pub fn swap(&self, one: SocketAddr, other: SocketAddr) {
        let mut wires = self.shared.wires();
        wires.nat.swap(one, other);
        wires.stats.add(Fault::Moved);
    }

    /// Under which address the socket bound to `socket` appears to others.
    pub fn seen_address(&self, socket: SocketAddr) -> SocketAddr {
        self.shared.wires().nat.outside(socket)
    }

    /// Takes the socket bound to `address` off the network. Its owner is not told, hears nothing any more, and is not heard.
    pub fn unplug(&self, address: SocketAddr) {
        self.shared.wires().inboxes.remove(&address);
    }

    /// Delivers a datagram to `to` at once that appears to come from `from`.
    pub fn forge(&self, from: SocketAddr, to: SocketAddr, datagram: impl Into<Vec<u8>>) {
        let mut wires = self.shared.wires();
        let now = wires.now();
        wires.stats.add(Fault::Forged);
        if let Some(target) = wires.nat.inside(to) {
            wires.schedule(now, target, Arrival::Datagram(from, datagram.into()));
        }
    }

    /// Tells the socket bound to `victim` that `about` cannot be reached, as an ICMP message does, whether it is true or not.
    pub fn forge_unreachable(&self, victim: SocketAddr, about: SocketAddr) {
        let mut wires = self.shared.wires();
        let now = wires.now();
        wires.schedule(now, victim, Arrival::Unreachable(about));
    }

    /// Lets receive calls of the socket bound to `victim` fail `times` times with an error that names no address, as
    /// Windows does after somebody could not be reached.
    pub fn reset(&self, victim: SocketAddr, times: usize) {
        let mut wires = self.shared.wires();
        let now = wires.now();
        for _ in 0..times {
            wires.schedule(now, victim, Arrival::Reset);
        }
    }

    /// Whether everything that is sent goes nowhere.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.shared.wires().is_silent = is_silent;
    }

    pub(crate) fn advance_to(&self, now: Duration) {
        self.shared.wires().advance_to(now);
    }

    pub(crate) fn count(&self, fault: Fault) {
        self.shared.wires().stats.add(fault);
    }

    /// What has happened so far.
    pub fn stats(&self) -> Stats {
        self.shared.wires().stats
    }

    /// A digest of every datagram so far: its sender, target, bytes and time. Equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.shared.wires().trace.finish()
    }

    /// Binds a socket, in place of the one that is there, which is off the network as after [`Network::unplug`].
    pub fn socket(&self, address: SocketAddr) -> Box<dyn AsyncUdp> {
        Box::new(SimulatedSocket::bind(Arc::clone(&self.shared), address))
    }

    /// Binds a peer that the test plays by hand.
    pub fn raw(&self, address: SocketAddr) -> RawPeer {
        RawPeer::bind(Arc::clone(&self.shared), address)
    }

    /// Listens at [`Network::SERVER`].
    ///
    /// # Errors
    ///
    /// As for [`SoeListener::from_socket`].
    pub fn listener(&self, config: impl Into<ListenerConfig>) -> Result<SoeListener, BindError> {
        self.listener_at(Self::SERVER, config)
    }

    /// Listens at an address.
    ///
    /// # Errors
    ///
    /// As for [`SoeListener::from_socket`].
    pub fn listener_at(
        &self,
        address: SocketAddr,
        config: impl Into<ListenerConfig>,
    ) -> Result<SoeListener, BindError> {
        SoeListener::from_socket(self.socket(address), config)
    }

    /// Binds a socket at `address` that opens sessions.
    ///
    /// # Errors
    ///
    /// As for [`SoeConnector::from_socket`].
    pub fn connector(&self, address: SocketAddr) -> Result<SoeConnector, BindError> {
        SoeConnector::from_socket(self.socket(address))
    }

    /// Opens a session to [`Network::SERVER`] from the next of the [`Network::client_address`]es.
    ///
    /// # Errors
    ///
    /// As for [`SoeConnector::connect`].
    pub async fn client(&self, config: impl Into<SessionConfig>) -> Result<SoeSession, ConnectError> {
        let number = self.shared.clients.fetch_add(1, Ordering::Relaxed);
        self.client_at(Self::client_address(number), config).await
    }

    /// Opens a session to [`Network::SERVER`] from `address`.
    ///
    /// # Errors
    ///
    /// As for [`SoeConnector::connect`].
    pub async fn client_at(
        &self,
        address: SocketAddr,
        config: impl Into<SessionConfig>,
    ) -> Result<SoeSession, ConnectError> {
        self.connector(address)?.connect(Self::SERVER, config).await
    }

    /// Two ends of one session, the client's first, with a server of its own that accepts nobody else.
    ///
    /// # Errors
    ///
    /// As for [`SoeConnector::connect`]. [`ConnectError::Stopped`] if the server's end was gone before it was accepted.
    pub async fn pair(&self, config: SessionConfig) -> Result<(SoeSession, SoeSession), ConnectError> {
        let number = self.shared.listeners.fetch_add(1, Ordering::Relaxed);
        let server = SocketAddr::from(([10, 0, 0, 2], 1024 + number % 60_000));
        let listener = self.listener_at(server, config.clone())?;
        let client = Self::client_address(self.shared.clients.fetch_add(1, Ordering::Relaxed));
        let connector = self.connector(client)?;
        let (client, incoming) = tokio::join!(connector.connect(server, config), listener.accept());
        Ok((client?, incoming.ok_or(ConnectError::Stopped)?.accept()))
    }
}

impl Clone for Network {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.shared.has_told_seed.swap(true, Ordering::Relaxed) {
            eprintln!("the network of this test had the seed {}", self.shared.seed);
        }
    }
}

impl Shared {
    pub(crate) fn wires(&self) -> MutexGuard<'_, Wires> {
        // A test that failed elsewhere may still be unwinding; its network is of no further use but to say so.
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
