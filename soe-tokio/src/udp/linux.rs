//! What quinn-udp does not offer: runs for many peers in one `sendmmsg`, and the peer behind an ICMP error.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmsg, sendmmsg},
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};

use crate::socket::Outgoing;

/// Lets routers and this system cut datagrams that a link cannot carry whole, which quinn-udp forbids. SOE agrees on one
/// size when a session opens and has no way to find a smaller one: a datagram too large for some link would be lost each
/// time that it is sent again.
pub(super) fn allow_fragments(socket: &impl AsFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)?;
    }
    // Also for the IPv4 peers of an IPv6 socket.
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    Ok(())
}

/// Entries that one system call takes: the longest prefix of the pending ones that agree on a segment size.
pub(super) struct Run<'a> {
    slices: [[IoSlice<'a>; 1]; MAX_ENTRIES],
    addresses: [Option<SockaddrStorage>; MAX_ENTRIES],
    len: usize,
    /// The segment size of those entries that hold several datagrams; the kernel sends shorter ones as they are.
    segment_size: Option<u16>,
}

impl<'a> Run<'a> {
    pub(super) fn collect(
        pending: impl Iterator<Item = Outgoing<'a>>,
        wire_address: impl Fn(SocketAddr) -> SocketAddr,
    ) -> Self {
        let mut run = Self {
            slices: [[IoSlice::new(&[])]; MAX_ENTRIES],
            addresses: [None; MAX_ENTRIES],
            len: 0,
            segment_size: None,
        };
        let mut longest_single = 0;
        for outgoing in pending.take(MAX_ENTRIES) {
            let len = outgoing.contents.len();
            let segmented = len > outgoing.segment_size;
            let fits = match (run.segment_size, u16::try_from(outgoing.segment_size)) {
                (None, Ok(size)) if segmented => longest_single <= usize::from(size),
                (Some(agreed), Ok(size)) if segmented => agreed == size,
                (Some(agreed), _) => !segmented && len <= usize::from(agreed),
                (None, _) => !segmented,
            };
            if !fits || outgoing.time_to_live.is_some() {
                break;
            }
            if segmented {
                run.segment_size = u16::try_from(outgoing.segment_size).ok();
            }
            longest_single = longest_single.max(len);
            run.slices[run.len] = [IoSlice::new(outgoing.contents)];
            run.addresses[run.len] = Some(SockaddrStorage::from(wire_address(outgoing.to)));
            run.len += 1;
        }
        run
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Sends the run and says how many entries left.
    pub(super) fn send(&self, socket: &impl AsRawFd) -> io::Result<usize> {
        let fd: RawFd = socket.as_raw_fd();
        let (slices, addresses) = (&self.slices[..self.len], &self.addresses[..self.len]);
        let sent = HEADERS.with_borrow_mut(|headers| match self.segment_size {
            Some(size) => {
                let control = [ControlMessage::UdpGsoSegments(&size)];
                count(fd, &mut headers.segmented, slices, addresses, &control)
            }
            None => count(fd, &mut headers.plain, slices, addresses, &[]),
        });
        sent.map_err(io::Error::from)
    }
}

fn count(
    fd: RawFd,
    headers: &mut MultiHeaders<SockaddrStorage>,
    slices: &[[IoSlice<'_>; 1]],
    addresses: &[Option<SockaddrStorage>],
    control: &[ControlMessage<'_>],
) -> nix::Result<usize> {
    loop {
        match sendmmsg(fd, headers, slices, addresses, control, MsgFlags::empty()) {
            Ok(results) => return Ok(results.count()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Headers hold raw pointers and cannot move between threads; they are scratch space of one system call.
struct Headers {
    plain: MultiHeaders<SockaddrStorage>,
    segmented: MultiHeaders<SockaddrStorage>,
}

thread_local! {
    static HEADERS: RefCell<Headers> = RefCell::new(Headers {
        plain: MultiHeaders::preallocate(MAX_ENTRIES, None),
        segmented: MultiHeaders::preallocate(MAX_ENTRIES, Some(cmsg_space!(u16))),
    });
}

/// Takes one entry off the socket's error queue: the destination of a datagram that came back as unreachable.
///
/// quinn-udp reads the same queue but reports who sent the ICMP message, which names no port.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] if the queue is empty, anything else if it may not be: what follows is left for the next
/// time.
pub(super) fn next_unreachable(socket: &impl AsRawFd) -> io::Result<SocketAddr> {
    for _ in 0..MAX_SKIPPED {
        let mut quoted = [0; 64];
        let mut slices = [IoSliceMut::new(&mut quoted)];
        let mut control = [0; 256];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let report = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
        let too_big = report.cmsgs()?.any(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                error.ee_errno == Errno::EMSGSIZE as u32
            }
            _ => false,
        });
        if too_big {
            continue;
        }
        let address = report.address.ok_or(io::ErrorKind::InvalidData)?;
        return match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Ok(SocketAddr::V4((*v4).into())),
            (_, Some(v6)) => Ok(SocketAddr::V6((*v6).into())),
            _ => Err(io::ErrorKind::InvalidData.into()),
        };
    }
    Err(io::ErrorKind::Interrupted.into())
}

/// Entries per system call; headers for as many are kept per thread.
const MAX_ENTRIES: usize = 64;
/// Reports about something else that are passed over before the queue is left for the next time.
const MAX_SKIPPED: usize = 16;
