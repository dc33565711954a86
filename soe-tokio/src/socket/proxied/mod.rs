//! A socket behind proxies: takes the headers off that say whose the datagrams are, and sends answers back through the proxy.

mod flows;
mod header;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Buf, BytesMut};
use soe_core::{Path, Relay};

use self::{
    flows::{Flows, Known},
    header::Header,
};
use super::{AsyncUdp, Entry, FULL_ENTRIES, MAX_RUN_BYTES, MAX_SEGMENT_BYTES, RecvBatch, SendBatch};
use crate::config::proxy::{ProxyConfig, ProxyHeader};

/// What the sockets of one listener share about the proxies in front of it.
#[derive(Debug)]
pub(crate) struct Proxies {
    config: ProxyConfig,
    pub(crate) counters: ProxyCounters,
    /// For a header that comes only once. Shared, because the kernel spreads a player's old and new flow over the sockets of
    /// one port, and a session is served by the socket that it was opened on.
    flows: Mutex<Flows>,
}

/// Counters in the order in which [`crate::ProxyStats`] documents them.
#[derive(Debug, Default)]
pub(crate) struct ProxyCounters {
    pub(crate) proxied: AtomicU64,
    pub(crate) untrusted: AtomicU64,
    pub(crate) headerless: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) disputed: AtomicU64,
    pub(crate) unnamed: AtomicU64,
}

impl Proxies {
    pub(crate) fn new(config: ProxyConfig) -> Arc<Self> {
        let flows = Mutex::new(Flows::new(config.max_flows, config.flow_timeout, config.serve_unnamed));
        Arc::new(Self { config, counters: ProxyCounters::default(), flows })
    }

    /// How many flows are remembered, and how many were forgotten before their time.
    pub(crate) fn flows(&self) -> (usize, u64) {
        let flows = self.lock();
        (flows.len(), flows.evicted)
    }

    /// The flows are consistent after each statement that a panic could follow.
    fn lock(&self) -> MutexGuard<'_, Flows> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.config.trusted.iter().any(|network| network.contains(&ip))
    }

    /// The datagram's own path, its header taken off. `None`: it is dropped, and has been counted.
    fn admit(&self, now: Instant, path: Path, is_trusted: bool, datagram: &mut BytesMut) -> Option<Path> {
        if !is_trusted {
            // A header from elsewhere is not even looked for: it is part of a datagram that its sender made up.
            return self.config.allow_direct.then_some(path).or_else(|| count(&self.counters.untrusted));
        }
        let header = match self.config.header {
            ProxyHeader::ProxyV2 | ProxyHeader::ProxyV2First => header::read_v2(datagram),
            ProxyHeader::Simple => header::read_simple(datagram),
        };
        let is_first_only = self.config.header == ProxyHeader::ProxyV2First;
        match header {
            Header::Malformed => count(&self.counters.malformed),
            Header::OfProxy { length } => {
                datagram.advance(length);
                self.arrived(path, datagram, &self.counters.unnamed)
            }
            Header::OfPlayer { length, player, entrance } => {
                let relay = Relay::new(path.remote, Some(entrance));
                if is_first_only && !self.lock().name(now, player, relay) {
                    return count(&self.counters.disputed);
                }
                datagram.advance(length);
                self.arrived(of_player(path, player, relay), datagram, &self.counters.proxied)
            }
            Header::Absent if !is_first_only => count(&self.counters.headerless),
            Header::Absent => match self.lock().heard(now, path.remote) {
                Known::Player(player, relay) => {
                    self.arrived(of_player(path, player, relay), datagram, &self.counters.proxied)
                }
                Known::Unnamed => self.arrived(path, datagram, &self.counters.unnamed),
                Known::Nobody => count(&self.counters.headerless),
            },
        }
    }

    /// Some proxies send the header as a datagram of its own: then nothing has arrived.
    fn arrived(&self, path: Path, datagram: &BytesMut, counter: &AtomicU64) -> Option<Path> {
        counter.fetch_add(1, Ordering::Relaxed);
        (!datagram.is_empty()).then_some(path)
    }
}

fn of_player(path: Path, player: SocketAddr, relay: Relay) -> Path {
    Path::new(player, path.local).with_relay(Some(relay))
}

fn count<T>(counter: &AtomicU64) -> Option<T> {
    counter.fetch_add(1, Ordering::Relaxed);
    None
}

/// A socket behind proxies.
///
/// In a [`Path`] that it reports, `remote` is the player, and the relay is where the datagram came from. Where answers go is
/// thereby a part of the session: the socket keeps no table of players, so nobody can push a player out of it, and a datagram
/// that was forged behind another proxy changes nothing for the player that it names.
#[derive(Debug)]
pub(crate) struct ProxiedUdp {
    inner: Box<dyn AsyncUdp>,
    proxies: Arc<Proxies>,
    /// The last address that was compared with the trusted networks: most datagrams come from few addresses.
    last: Option<(IpAddr, bool)>,
    /// What is to be sent, as the proxies want it.
    translated: SendBatch,
}

impl ProxiedUdp {
    pub(crate) fn new(inner: Box<dyn AsyncUdp>, proxies: Arc<Proxies>) -> Self {
        Self { inner, proxies, last: None, translated: SendBatch::new() }
    }

    fn trusts(&mut self, ip: IpAddr) -> bool {
        match self.last {
            Some((last, is_trusted)) if last == ip => is_trusted,
            _ => {
                let is_trusted = self.proxies.trusts(ip);
                self.last = Some((ip, is_trusted));
                is_trusted
            }
        }
    }

    /// Replaces `self.translated` by the first pending entries of `batch`, one for one.
    fn translate(&mut self, batch: &SendBatch) {
        let is_simple = self.proxies.config.header == ProxyHeader::Simple;
        self.translated.clear();
        for outgoing in batch.pending().take(FULL_ENTRIES) {
            let SendBatch { buffer, entries, .. } = &mut self.translated;
            let start = buffer.len();
            let to = outgoing.relay.map_or(outgoing.to, |relay| relay.address());
            let mut segment_size = outgoing.segment_size;
            match outgoing.relay.and_then(|relay| relay.entrance()).filter(|_| is_simple) {
                Some(entrance) => {
                    let header = header::write_simple(outgoing.to, entrance);
                    for segment in outgoing.segments() {
                        buffer.extend_from_slice(&header);
                        buffer.extend_from_slice(segment);
                    }
                    segment_size += header.len();
                }
                None => buffer.extend_from_slice(outgoing.contents),
            }
            let (path, end) = (Path::new(to, outgoing.local_ip), buffer.len());
            let time_to_live = outgoing.time_to_live;
            entries.push(Entry { path, start, end, segment_size, time_to_live, owner: None });
        }
    }

    /// Flows that something was sent to.
    fn note_sent(&self, sent: usize) {
        if self.proxies.config.header == ProxyHeader::ProxyV2First {
            let (now, mut flows) = (now(), self.proxies.lock());
            self.translated.pending().take(sent).for_each(|outgoing| flows.sent(now, outgoing.to));
        }
    }
}

impl AsyncUdp for ProxiedUdp {
    /// Also ready when nothing is left of what was received: a flood of datagrams that are dropped must not keep the driver
    /// from everything else.
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        ready!(self.inner.poll_recv(cx, batch))?;
        let now = now();
        let RecvBatch { datagrams, removed, .. } = batch;
        datagrams.retain_mut(|(path, datagram)| {
            let length = datagram.len();
            let is_trusted = self.trusts(path.remote.ip());
            match self.proxies.admit(now, *path, is_trusted, datagram) {
                Some(own) => {
                    *path = own;
                    removed.bytes += length - datagram.len();
                    true
                }
                None => {
                    removed.datagrams += 1;
                    removed.bytes += length;
                    false
                }
            }
        });
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_writable(cx)
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        self.translate(batch);
        let sent = self.inner.try_send(&self.translated)?;
        self.note_sent(sent);
        Ok(sent)
    }

    fn max_segments(&self) -> usize {
        match self.proxies.config.header {
            ProxyHeader::Simple => self.inner.max_segments().min(MAX_SIMPLE_SEGMENTS),
            ProxyHeader::ProxyV2 | ProxyHeader::ProxyV2First => self.inner.max_segments(),
        }
    }

    /// A proxy whose port is closed says nothing about the player behind it: the next datagram may come by another port. Such
    /// reports are read and passed over.
    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        for _ in 0..MAX_REPORTS {
            let address = self.inner.next_unreachable()?;
            if !self.trusts(address.ip()) {
                return Some(address);
            }
        }
        None
    }

    fn secrets_seed(&self) -> Option<u64> {
        self.inner.secrets_seed()
    }

    fn recv_buffer(&self) -> usize {
        self.inner.recv_buffer()
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// The runtime's idea of now: virtual when its clock is paused.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Datagrams of one run that still fit into one system call when each has a header.
const MAX_SIMPLE_SEGMENTS: usize = MAX_RUN_BYTES / (MAX_SEGMENT_BYTES + header::SIMPLE_LENGTH);
/// Reports of closed ports that are passed over at once.
const MAX_REPORTS: usize = 64;
