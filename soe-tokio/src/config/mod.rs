//! The configuration of sockets and listeners.

#[cfg(feature = "serde")]
mod deserialize;
pub(crate) mod proxy;

use std::time::Duration;

use soe_core::{AdmissionConfig, SessionConfig};

use self::proxy::ProxyConfig;
use crate::recording::RecorderConfig;

/// How the sockets of this crate are set up: [`crate::SoeListener`] and [`crate::SoeConnector`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SocketConfig {
    /// Receive buffer to ask the kernel for (`SO_RCVBUF`), in bytes. Default 4 MiB: at 512 bytes per datagram it holds
    /// what a thousand peers send during one stalled tick. The kernel may grant less, which is logged once as a
    /// warning.
    pub recv_buffer: usize,
    /// Send buffer to ask the kernel for (`SO_SNDBUF`), in bytes. Default 1 MiB. What does not fit stays in the send
    /// buffers of the sessions, which have limits.
    pub send_buffer: usize,
    /// Whether to poll the socket for the next datagram, after one was received, before going to sleep. Default
    /// [`BusyPoll::WhileItPays`].
    pub busy_poll: BusyPoll,
}

impl Default for SocketConfig {
    fn default() -> Self {
        Self { recv_buffer: 4 << 20, send_buffer: 1 << 20, busy_poll: BusyPoll::default() }
    }
}

impl SocketConfig {
    /// Asks the kernel for a receive buffer of this many bytes.
    #[must_use]
    pub fn recv_buffer(mut self, bytes: usize) -> Self {
        self.recv_buffer = bytes;
        self
    }

    /// Asks the kernel for a send buffer of this many bytes.
    #[must_use]
    pub fn send_buffer(mut self, bytes: usize) -> Self {
        self.send_buffer = bytes;
        self
    }

    /// Sets whether to poll before going to sleep. A [`Duration`] stands for [`BusyPoll::For`].
    #[must_use]
    pub fn busy_poll(mut self, busy_poll: impl Into<BusyPoll>) -> Self {
        self.busy_poll = busy_poll.into();
        self
    }
}

/// What a driver does between two datagrams. Waking a sleeping thread takes tens of microseconds. Polling the socket
/// avoids that, at the price of CPU time. Other tasks of the thread run between two polls. Sockets given by the caller
/// (`from_socket`) are never polled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusyPoll {
    /// Sleeps at once.
    Never,
    /// Polls the socket for up to 100 us before sleeping, on sockets with at most 8 sessions, while at least 80 % of
    /// the polls find a datagram. Otherwise sleeps, and retries a few times a second. This serves request-response
    /// traffic between two programs; all other sockets sleep.
    #[default]
    WhileItPays,
    /// Polls for this long after each datagram, whether it finds another or not. Zero is the same as [`BusyPoll::Never`].
    For(Duration),
}

impl From<Duration> for BusyPoll {
    fn from(time: Duration) -> Self {
        if time.is_zero() { Self::Never } else { Self::For(time) }
    }
}

/// Upper bound of configured times: longer than any program runs, and small enough to add to an [`std::time::Instant`]
/// without overflow.
pub(crate) const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// 4 GiB, or no limit on 32-bit systems.
const MEMORY_LIMIT: usize = if usize::BITS > 32 { (4_u64 << 30) as usize } else { usize::MAX };

/// What a [`crate::SoeListener`] is bound with: who may come in, how many may wait, and how the socket is set up. A
/// [`SessionConfig`] or an [`AdmissionConfig`] converts to one with defaults for the rest.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListenerConfig {
    /// Which clients may open a session, and the session configuration for them.
    pub admission: AdmissionConfig,
    /// The buffers of each socket.
    pub socket: SocketConfig,
    /// How many sockets share the port, 1 to 256. Default 1. See [`ListenerConfig::shards`].
    pub shards: usize,
    /// Limits the memory of all sessions of the listener, in bytes: queued messages, unacknowledged packets, packets
    /// received ahead of a gap, incomplete messages. Default 4 GiB. Above it, a session that takes more and holds more
    /// than an equal share and 256 KiB is ended with `ReliableOverflow`, and what its application has not received is
    /// dropped ([`SessionStats::unread_dropped`](crate::SessionStats::unread_dropped)); the others continue.
    pub memory_limit: usize,
    /// Records sessions, if it is there. Default `None`: nothing is recorded, and nothing is spent on it. See also
    /// [`SoeListener::record`](crate::SoeListener::record).
    pub recorder: Option<RecorderConfig>,
    /// The proxies in front of the listener. Default none: datagrams are their senders' own.
    pub proxy: Option<ProxyConfig>,
}

impl ListenerConfig {
    /// A configuration around an admission policy.
    pub fn new(admission: impl Into<AdmissionConfig>) -> Self {
        let admission = admission.into();
        let socket = SocketConfig::default();
        Self { admission, socket, shards: 1, memory_limit: MEMORY_LIMIT, recorder: None, proxy: None }
    }

    /// Serves the port with this many sockets, each with its own driver (`SO_REUSEPORT`), for servers that need more
    /// than one core; 0 counts as 1. The kernel selects a socket by the peer's address and port, and the session stays
    /// with the driver that received its first datagram. The admission limits and the accept queue apply to the whole
    /// listener. Binding fails if this is above 1 on a system that does not distribute datagrams over sockets (only
    /// Linux and Android do), or above 256.
    #[must_use]
    pub fn shards(mut self, sockets: usize) -> Self {
        self.shards = sockets.max(1);
        self
    }

    /// Limits the memory of all sessions of the listener, in bytes. Above it, a session that takes more and holds more than an
    /// equal share and 256 KiB is ended with `ReliableOverflow`, and what its application has not received is dropped.
    #[must_use]
    pub fn memory_limit(mut self, bytes: usize) -> Self {
        self.memory_limit = bytes;
        self
    }

    /// Records sessions.
    #[must_use]
    pub fn recorder(mut self, recorder: RecorderConfig) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Takes the players' addresses from headers that proxies write, and sends answers back through the proxy.
    ///
    /// A datagram from elsewhere than the trusted networks is dropped, and so is one from there without a header.
    #[must_use]
    pub fn behind_proxy(mut self, proxy: ProxyConfig) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Sets the configuration of the sockets.
    #[must_use]
    pub fn socket(mut self, socket: SocketConfig) -> Self {
        self.socket = socket;
        self
    }
}

impl From<SessionConfig> for ListenerConfig {
    fn from(session: SessionConfig) -> Self {
        Self::new(session)
    }
}

impl From<AdmissionConfig> for ListenerConfig {
    fn from(admission: AdmissionConfig) -> Self {
        Self::new(admission)
    }
}
