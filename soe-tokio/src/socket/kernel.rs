//! The kernel's UDP socket: GRO and GSO by quinn-udp, and on Linux one system call for many peers.

use std::{
    cell::RefCell,
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    sync::{
        Arc, Once,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::BytesMut;
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use soe_core::Path;
use tokio::{io::Interest, net::UdpSocket};
use tracing::{debug, warn};

#[cfg(unix)]
pub(crate) use super::drops::DropCounter;
#[cfg(target_os = "linux")]
use super::linux;
#[cfg(target_os = "linux")]
use super::reports::ErrorEvents;
use super::segmentation::Segmentation;
use crate::{
    config::SocketConfig,
    socket::{AsyncUdp, Outgoing, RecvBatch, SendBatch},
};

/// A bound UDP socket. IPv4 peers of a dual-stack IPv6 socket are reported with their IPv4 addresses.
#[derive(Debug)]
pub(crate) struct KernelUdp {
    io: Arc<UdpSocket>,
    #[cfg(target_os = "linux")]
    errors: ErrorEvents,
    state: UdpSocketState,
    is_ipv6: bool,
    /// Whether datagrams may be received on several local addresses.
    is_wildcard: bool,
    segmentation: Segmentation,
    /// Whether the last receive call filled [`FEW`] buffers, so that the next one gets more.
    is_busy: bool,
    /// The size of the receive buffer that the system has granted, as it reports it.
    recv_buffer: usize,
}

impl KernelUdp {
    /// Binds to `address`, exclusively or sharing it with other sockets. Must be called within a Tokio runtime.
    pub(crate) fn bind(address: SocketAddr, config: &SocketConfig, shares_port: bool) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), NONBLOCKING, Some(Protocol::UDP))?;
        #[cfg(not(target_os = "linux"))]
        socket.set_nonblocking(true)?;
        if address.is_ipv6()
            && address.ip().is_unspecified()
            && let Err(error) = socket.set_only_v6(false)
        {
            debug!(%error, "this system has no dual-stack sockets");
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if shares_port {
            socket.set_reuse_port(true)?;
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = shares_port;
        socket.bind(&address.into())?;
        Self::from_socket(socket, address, config)
    }

    /// Takes a socket that is bound to `address` and does not block. Must be called within a Tokio runtime.
    pub(crate) fn from_socket(socket: Socket, address: SocketAddr, config: &SocketConfig) -> io::Result<Self> {
        let recv_buffer = size_buffers(&socket, config);
        let io = UdpSocket::from_std(socket.into())?;
        let state = UdpSocketState::new((&io).into())?;
        #[cfg(unix)]
        if let Err(error) = state.enable_transport_errors((&io).into()) {
            debug!(%error, "this system does not report unreachable peers");
        }
        #[cfg(target_os = "linux")]
        if let Err(error) = linux::allow_fragments(&io, address.is_ipv6()) {
            debug!(%error, "datagrams above the path MTU will be lost");
        }
        let segmentation = Segmentation::new(state.max_gso_segments() > 1);
        let (is_ipv6, is_wildcard) = (address.is_ipv6(), address.ip().is_unspecified());
        let io = Arc::new(io);
        Ok(Self {
            #[cfg(target_os = "linux")]
            errors: ErrorEvents::of(&io),
            io,
            state,
            is_ipv6,
            is_wildcard,
            segmentation,
            is_busy: false,
            recv_buffer,
        })
    }

    /// The port that it is bound to.
    pub(crate) fn port(&self) -> io::Result<u16> {
        Ok(self.io.local_addr()?.port())
    }

    /// The kernel's counter of datagrams dropped at this socket.
    pub(crate) fn drop_counter(&self) -> Option<DropCounter> {
        DropCounter::of(&self.io)
    }

    /// One receive call, with a number of buffers chosen by the last call's result.
    fn recv(&mut self, scratch: &mut Scratch, batch: &mut RecvBatch) -> io::Result<()> {
        let filled = if self.is_busy {
            self.recv_up_to::<BATCH_SIZE>(scratch, batch)
        } else {
            self.recv_up_to::<FEW>(scratch, batch)
        }?;
        self.is_busy = filled >= FEW;
        Ok(())
    }

    /// Receives at most `N` runs and returns how many.
    fn recv_up_to<const N: usize>(&self, scratch: &mut Scratch, batch: &mut RecvBatch) -> io::Result<usize> {
        let mut metas = [RecvMeta::default(); N];
        let mut slots = scratch.slots.chunks_exact_mut(SLOT);
        let mut buffers: [IoSliceMut<'_>; N] =
            std::array::from_fn(|_| IoSliceMut::new(slots.next().unwrap_or_default()));
        let mut filled = 0;
        let received = self.io.try_io(Interest::READABLE, || {
            filled = self.state.recv((&*self.io).into(), &mut buffers, &mut metas)?;
            // The socket is drained, and epoll will report later datagrams. Clearing the readiness now saves a receive
            // call that would return nothing.
            if DRAINS && filled < N { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        if filled == 0 {
            received?;
        }
        for (meta, slot) in metas[..filled].iter().zip(scratch.slots.chunks_exact(SLOT)) {
            let local_ip = meta.dst_ip.filter(|ip| self.is_wildcard && can_send_from(ip));
            let path = Path::new(canonical(meta.addr), local_ip);
            batch.push_into(&mut scratch.arena, path, &slot[..meta.len.min(SLOT)], meta.stride);
        }
        Ok(filled)
    }

    fn send_pending(&self, batch: &SendBatch) -> io::Result<usize> {
        let mut sent = 0;
        #[cfg(target_os = "linux")]
        {
            if batch.pending().len() > 1
                && let Some(sent) = linux::send_run(&self.io, batch.pending(), |to| self.wire_address(to))
            {
                return sent;
            }
        }
        for outgoing in batch.pending() {
            match self.send_one(&outgoing) {
                Ok(()) => sent += 1,
                Err(error) if sent == 0 => return Err(error),
                Err(_) => break,
            }
            if cfg!(target_os = "linux") {
                break;
            }
        }
        Ok(sent)
    }

    fn send_one(&self, outgoing: &Outgoing<'_>) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: self.wire_address(outgoing.to),
            ecn: None,
            contents: outgoing.contents,
            segment_size: (outgoing.contents.len() > outgoing.segment_size).then_some(outgoing.segment_size),
            src_ip: outgoing.local_ip,
        };
        let Some(hops) = outgoing.time_to_live else {
            return self.state.try_send((&*self.io).into(), &transmit);
        };
        // Set and reset around one call: the option belongs to the socket, and its single owner sends nothing in
        // between.
        let normal = self.hops()?;
        self.set_hops(hops.into())?;
        let sent = self.state.try_send((&*self.io).into(), &transmit);
        self.set_hops(normal)?;
        sent
    }

    fn hops(&self) -> io::Result<u32> {
        let socket = SockRef::from(&*self.io);
        if self.is_ipv6 { socket.unicast_hops_v6() } else { socket.ttl_v4() }
    }

    fn set_hops(&self, hops: u32) -> io::Result<()> {
        let socket = SockRef::from(&*self.io);
        if self.is_ipv6 { socket.set_unicast_hops_v6(hops) } else { socket.set_ttl_v4(hops) }
    }

    /// The form of an address that this socket's family can send to.
    fn wire_address(&self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) if self.is_ipv6 => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
            other => other,
        }
    }
}

impl AsyncUdp for KernelUdp {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            ready!(self.io.poll_recv_ready(cx))?;
            match SCRATCH.with_borrow_mut(|scratch| self.recv(scratch, batch)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        let sent = self.io.try_io(Interest::WRITABLE, || self.send_pending(batch));
        let Some(first) = batch.pending().next() else { return sent };
        let is_run = first.contents.len() > first.segment_size;
        match &sent {
            Ok(_) => {
                if let Some(pause) = self.segmentation.taken(Instant::now, first.to, is_run) {
                    debug!(?pause, "the kernel refuses segment runs; sending single datagrams for now");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_earlier_datagram(error) => {}
            Err(_) => self.segmentation.refused(first.to, is_run),
        }
        sent
    }

    fn max_segments(&self) -> usize {
        self.segmentation.max_segments()
    }

    #[cfg(target_os = "linux")]
    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        // Without an error event from epoll the queue is empty, which saves a system call per batch.
        let report = self.io.try_io(Interest::ERROR, || linux::next_unreachable(&self.io));
        report.ok().map(canonical)
    }

    #[cfg(target_os = "linux")]
    fn poll_unreachable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.errors.poll(cx)
    }

    fn recv_buffer(&self) -> usize {
        self.recv_buffer
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

/// Whether an error may report an ICMP message about an earlier datagram, to any address.
pub(crate) fn is_of_earlier_datagram(error: &io::Error) -> bool {
    is_never_of_this_datagram(error)
        || matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable)
}

/// Whether an error can only be about an earlier datagram: one that has not been sent cannot be refused or reset.
pub(crate) fn is_never_of_this_datagram(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset)
        || error.raw_os_error() == Some(WSAENETRESET)
}

/// Windows reports with it a datagram whose time to live expired, such as the one that keeps a router's port mapping
/// open.
const WSAENETRESET: i32 = 10052;

/// Whether the destination address of a datagram can be the source of the answer. The broadcast address of a subnet
/// cannot be recognized here; the system refuses to send from it, and [`SendBatch::clear_local_ip`] then lets it
/// choose.
fn can_send_from(ip: &IpAddr) -> bool {
    let ip = ip.to_canonical();
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !(ip.is_multicast() || ip.is_unspecified() || is_broadcast)
}

/// The canonical form of an address: IPv4-mapped addresses as IPv4, no flow label.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_canonical() {
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, v6.port(), 0, v6.scope_id())),
            ip => SocketAddr::new(ip, v6.port()),
        },
        v4 => v4,
    }
}

/// The wildcard address, any port, of the family that can reach `remote`.
pub(crate) fn unspecified_for(remote: SocketAddr) -> SocketAddr {
    match remote {
        SocketAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    }
}

/// A socket that does not block, where that can be said at once.
#[cfg(target_os = "linux")]
const NONBLOCKING: Type = Type::DGRAM.nonblocking();
#[cfg(not(target_os = "linux"))]
const NONBLOCKING: Type = Type::DGRAM;

/// Asks for buffers of these sizes, and returns the size of the receive buffer that the system reports.
fn size_buffers(socket: &Socket, config: &SocketConfig) -> usize {
    static WARNED: Once = Once::new();
    /// The sizes that were granted in full last: with thousands of sockets, each question is a system call.
    static GRANTED: AtomicU64 = AtomicU64::new(0);
    // The socket option is an `int`.
    let [recv_buffer, send_buffer] = [config.recv_buffer, config.send_buffer].map(|size| size.min(i32::MAX as usize));
    let (set_recv, set_send) = (socket.set_recv_buffer_size(recv_buffer), socket.set_send_buffer_size(send_buffer));
    let both = (recv_buffer as u64) << 32 | send_buffer as u64;
    if set_recv.is_ok() && set_send.is_ok() && GRANTED.load(Ordering::Relaxed) == both {
        return recv_buffer * REPORTED;
    }
    let reported = socket.recv_buffer_size().unwrap_or_default();
    let asked = [
        ("receive", recv_buffer, set_recv, reported),
        ("send", send_buffer, set_send, socket.send_buffer_size().unwrap_or_default()),
    ];
    let mut is_granted = true;
    for (which, wanted, set, reported) in asked {
        let granted = reported / REPORTED;
        if set.is_err() || granted < wanted {
            is_granted = false;
            WARNED.call_once(|| {
                warn!(which, wanted, granted, "the system granted a smaller socket buffer; bursts may be lost");
            });
        }
    }
    if is_granted {
        GRANTED.store(both, Ordering::Relaxed);
    }
    reported
}

/// Linux reports twice the granted size; the other half is for its own bookkeeping (socket(7)).
const REPORTED: usize = if cfg!(target_os = "linux") { 2 } else { 1 };

/// Receive buffers that all sockets of one thread share.
struct Scratch {
    /// `BATCH_SIZE` slots of [`SLOT`] bytes, used within one receive call. Pages that no datagram has touched are not
    /// backed by memory.
    slots: Box<[u8]>,
    /// Where datagrams are copied to. One arena for all sockets stays in the processor's cache; thousands would not.
    arena: BytesMut,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { slots: vec![0; BATCH_SIZE * SLOT].into_boxed_slice(), arena: BytesMut::new() });
}

/// For systems whose drop counter cannot be read.
#[cfg(not(unix))]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropCounter;

#[cfg(not(unix))]
impl DropCounter {
    pub(crate) fn of(_: &UdpSocket) -> Option<Self> {
        None
    }

    pub(crate) fn read(&self) -> Option<u64> {
        None
    }
}

/// Whether a batch that is not full means that the socket is empty: `recvmmsg` reads until it is.
const DRAINS: bool = cfg!(target_os = "linux");
/// The buffers of a receive call while the socket is not busy: preparing each one takes time, used or not.
const FEW: usize = if BATCH_SIZE < 4 { BATCH_SIZE } else { 4 };
/// The size of the longest run that the kernel coalesces (GRO).
const SLOT: usize = 1 << 16;

#[cfg(test)]
mod tests {
    #[cfg(target_os = "linux")]
    use std::net::Ipv4Addr;

    use soe_core::{Session, SessionConfig, Transmit};

    use super::*;

    #[test]
    fn errors_about_earlier_datagrams_are_distinguished_from_errors_about_this_one() {
        // Linux and Windows (WSAECONNRESET) of a port that is closed; Windows of a time to live that ran out.
        let refused = [io::ErrorKind::ConnectionRefused, io::ErrorKind::ConnectionReset].map(io::Error::from);
        for error in refused.iter().chain([&io::Error::from_raw_os_error(10_052)]) {
            assert!(is_never_of_this_datagram(error) && is_of_earlier_datagram(error), "{error}");
        }
        for kind in [io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable] {
            assert!(is_of_earlier_datagram(&kind.into()) && !is_never_of_this_datagram(&kind.into()), "{kind}");
        }
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidInput, io::ErrorKind::WouldBlock] {
            assert!(!is_of_earlier_datagram(&kind.into()), "{kind}");
        }
    }

    /// `Transmit` can only be created by a session.
    fn transmit(size: usize, segment_size: usize) -> Transmit {
        let config = SessionConfig::new("Sizes").unwrap();
        let now = Instant::now();
        let mut transmit = Session::connect(now, config, 1).poll_transmit(now, &mut Vec::new()).unwrap();
        (transmit.size, transmit.segment_size) = (size, segment_size);
        transmit
    }

    fn receivers() -> [std::net::UdpSocket; 3] {
        std::array::from_fn(|_| {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
            socket
        })
    }

    async fn send_all(socket: &mut KernelUdp, batch: &mut SendBatch) {
        while !batch.is_done() {
            match socket.try_send(batch) {
                Ok(entries) => batch.advance(entries),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::future::poll_fn(|cx| socket.poll_writable(cx)).await.unwrap();
                }
                Err(error) if batch.split() => debug!(%error),
                Err(error) => panic!("{error}"),
            }
        }
    }

    #[tokio::test]
    async fn runs_and_single_datagrams_for_several_peers_are_sent_in_order() {
        let receivers = receivers();
        let mut socket = KernelUdp::bind("127.0.0.1:0".parse().unwrap(), &SocketConfig::default(), false).unwrap();
        let mut batch = SendBatch::new();
        // Each a total and a segment size: single ones above and below the runs' sizes, and runs of different sizes.
        let sizes = [(40, 40), (1100, 512), (600, 600), (900, 300), (20, 20), (1024, 512), (30, 30), (301, 300)];
        for (sizes, fill) in sizes.into_iter().zip(1..) {
            for receiver in &receivers {
                batch.buffer().extend(std::iter::repeat_n(fill, sizes.0));
                batch.push(
                    receiver.local_addr().unwrap().into(),
                    &transmit(sizes.0, sizes.1),
                    socket.max_segments(),
                    None,
                );
            }
        }
        send_all(&mut socket, &mut batch).await;
        for receiver in &receivers {
            for ((total, segment), fill) in sizes.into_iter().zip(1..) {
                for expected in vec![fill; total].chunks(segment) {
                    let mut received = [0; 2048];
                    let length = receiver.recv(&mut received).unwrap();
                    assert_eq!(&received[..length], expected);
                }
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn datagrams_are_sent_from_their_local_addresses() {
        let receivers = receivers();
        let mut socket = KernelUdp::bind("0.0.0.0:0".parse().unwrap(), &SocketConfig::default(), false).unwrap();
        let mut batch = SendBatch::new();
        // Runs and single datagrams, with neighbours of the same and of another local address.
        let sources = [None, Some("127.0.0.2"), Some("127.0.0.2"), Some("127.0.0.3"), None, Some("127.0.0.3")];
        let sources = sources.map(|source| source.map(|ip| ip.parse::<IpAddr>().unwrap()));
        for (local_ip, fill) in sources.into_iter().zip(1..) {
            for receiver in &receivers {
                for sizes in [(1024, 512), (40, 40)] {
                    batch.buffer().extend(std::iter::repeat_n(fill, sizes.0));
                    let path = Path::new(receiver.local_addr().unwrap(), local_ip);
                    batch.push(path, &transmit(sizes.0, sizes.1), socket.max_segments(), None);
                }
            }
        }
        send_all(&mut socket, &mut batch).await;
        for receiver in &receivers {
            for (local_ip, fill) in sources.into_iter().zip(1..) {
                for expected in [&[fill; 512][..], &[fill; 512], &[fill; 40]] {
                    let mut received = [0; 2048];
                    let (length, from) = receiver.recv_from(&mut received).unwrap();
                    assert_eq!(&received[..length], expected);
                    assert_eq!(from.ip(), local_ip.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)));
                }
            }
        }
    }

    /// What was granted to the last socket spares the question, but only to one that asks for the same.
    #[tokio::test]
    async fn every_socket_knows_the_size_of_its_receive_buffer() {
        for (recv, send) in [(64, 64), (64, 64), (32, 64), (64, 32), (64, 64), (1 << 20, 64), (1 << 20, 64)] {
            let config = SocketConfig::default().recv_buffer(recv << 10).send_buffer(send << 10);
            let socket = KernelUdp::bind("127.0.0.1:0".parse().unwrap(), &config, false).unwrap();
            assert_eq!(socket.recv_buffer(), SockRef::from(&*socket.io).recv_buffer_size().unwrap(), "{recv} KiB");
        }
    }

    #[tokio::test]
    async fn a_time_to_live_applies_only_to_its_datagram() {
        let [receiver, ..] = receivers();
        let mut socket = KernelUdp::bind("127.0.0.1:0".parse().unwrap(), &SocketConfig::default(), false).unwrap();
        let normal = socket.hops().unwrap();
        let mut batch = SendBatch::new();
        batch.buffer().extend([1; 2]);
        let mut short_lived = transmit(2, 2);
        short_lived.time_to_live = Some(3);
        batch.push(receiver.local_addr().unwrap().into(), &short_lived, 1, None);
        send_all(&mut socket, &mut batch).await;
        assert_eq!(receiver.recv(&mut [0; 8]).unwrap(), 2);
        assert_eq!(socket.hops().unwrap(), normal);
    }

    #[test]
    fn a_mapped_address_becomes_the_ipv4_address() {
        let mapped = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:7".parse().unwrap());
        let plain = "[2001:db8::1]:7".parse().unwrap();
        assert_eq!(canonical(plain), plain);
    }
}
