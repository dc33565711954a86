//! What quinn-udp does not offer: one `sendmmsg` for segment runs to many peers, and the destination behind an ICMP
//! error.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, AsRawFd, RawFd},
};

use nix::{
    cmsg_space,
    errno::Errno,
    libc::{SO_EE_ORIGIN_ICMP, SO_EE_ORIGIN_ICMP6, in_addr, in_pktinfo, in6_addr, in6_pktinfo},
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmsg, sendmmsg},
};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};

use crate::socket::Outgoing;

/// Allows IP fragmentation, which quinn-udp disables. SOE negotiates one datagram size when a session opens and has no
/// path MTU discovery: a datagram larger than the path MTU would be lost each time that it is resent.
pub(super) fn allow_fragments(socket: &impl AsFd, is_ipv6: bool) -> io::Result<()> {
    if is_ipv6 {
        set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::DONT)?;
    }
    // Also for the IPv4 peers of an IPv6 socket.
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::DONT)?;
    Ok(())
}

/// Sends entries with one system call: the longest prefix of the pending ones that agree on a segment size and a local
/// address. Returns how many have left, or `None` if the first agrees with no other: nothing has been sent then.
pub(super) fn send_run<'a>(
    socket: &impl AsRawFd,
    pending: impl Iterator<Item = Outgoing<'a>>,
    wire_address: impl Fn(SocketAddr) -> SocketAddr,
) -> Option<io::Result<usize>> {
    SCRATCH.with_borrow_mut(|Scratch { headers, addresses }| {
        // Filled in place: an address has 128 bytes, and to move 64 of them costs more than the system call's entry.
        let mut slices = [[IoSlice::new(&[])]; MAX_ENTRIES];
        addresses.clear();
        let mut run = Run::default();
        for (outgoing, slice) in pending.zip(&mut slices) {
            if !run.takes(&outgoing) {
                break;
            }
            *slice = [IoSlice::new(outgoing.contents)];
            addresses.push(Some(SockaddrStorage::from(wire_address(outgoing.to))));
        }
        let slices = &slices[..addresses.len()];
        (slices.len() > 1).then(|| run.send(socket, headers, slices, addresses))
    })
}

/// What the entries of one system call have in common.
#[derive(Default)]
struct Run {
    has_entries: bool,
    /// The segment size of the entries that hold several datagrams. The kernel sends a shorter entry as one datagram.
    segment_size: Option<u16>,
    longest_single: usize,
    local_ip: Option<IpAddr>,
}

impl Run {
    /// Adds the entry if it agrees with those before it.
    fn takes(&mut self, outgoing: &Outgoing<'_>) -> bool {
        let len = outgoing.contents.len();
        let segmented = len > outgoing.segment_size;
        let fits = match (self.segment_size, u16::try_from(outgoing.segment_size)) {
            (None, Ok(size)) if segmented => self.longest_single <= usize::from(size),
            (Some(agreed), Ok(size)) if segmented => agreed == size,
            (Some(agreed), _) => !segmented && len <= usize::from(agreed),
            (None, _) => !segmented,
        };
        if !self.has_entries {
            (self.has_entries, self.local_ip) = (true, outgoing.local_ip);
        }
        if !fits || outgoing.time_to_live.is_some() || outgoing.local_ip != self.local_ip {
            return false;
        }
        if segmented {
            self.segment_size = u16::try_from(outgoing.segment_size).ok();
        }
        self.longest_single = self.longest_single.max(len);
        true
    }

    /// Sends the entries and says how many left.
    fn send(
        &self,
        socket: &impl AsRawFd,
        headers: &mut Headers,
        slices: &[[IoSlice<'_>; 1]],
        addresses: &[Option<SockaddrStorage>],
    ) -> io::Result<usize> {
        let fd: RawFd = socket.as_raw_fd();
        let segments = self.segment_size.as_ref().map(ControlMessage::UdpGsoSegments);
        // One local address per call: `sendmmsg` of nix takes the same control messages for all entries.
        let sent = match self.local_ip {
            None => count(fd, headers, Source::Any, slices, addresses, segments, None),
            Some(IpAddr::V4(ip)) => {
                // `ipi_spec_dst` is the source address when sending; `ipi_addr` is for receiving.
                let source = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
                let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
                let source = ControlMessage::Ipv4PacketInfo(&info);
                count(fd, headers, Source::V4, slices, addresses, segments, Some(source))
            }
            Some(IpAddr::V6(ip)) => {
                let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
                let source = ControlMessage::Ipv6PacketInfo(&info);
                count(fd, headers, Source::V6, slices, addresses, segments, Some(source))
            }
        };
        sent.map_err(io::Error::from)
    }
}

fn count(
    fd: RawFd,
    headers: &mut Headers,
    source: Source,
    slices: &[[IoSlice<'_>; 1]],
    addresses: &[Option<SockaddrStorage>],
    segments: Option<ControlMessage<'_>>,
    source_address: Option<ControlMessage<'_>>,
) -> nix::Result<usize> {
    let headers = headers.of(segments.is_some(), source);
    let (one, two);
    let control: &[ControlMessage<'_>] = match (segments, source_address) {
        (Some(segments), Some(address)) => {
            two = [segments, address];
            &two
        }
        (Some(message), None) | (None, Some(message)) => {
            one = [message];
            &one
        }
        (None, None) => &[],
    };
    loop {
        match sendmmsg(fd, headers, slices, addresses, control, MsgFlags::empty()) {
            Ok(results) => return Ok(results.count()),
            // A signal arrived before anything was sent.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Which control message for the local address the headers of a run have.
#[derive(Clone, Copy)]
enum Source {
    Any,
    V4,
    V6,
}

/// One set of headers for each combination of control messages, allocated on first use: the kernel refuses headers
/// whose control buffer is larger than the messages in it.
///
/// Headers hold raw pointers and cannot move between threads; they are scratch space of one system call.
#[derive(Default)]
struct Headers {
    sets: [Option<MultiHeaders<SockaddrStorage>>; 6],
}

impl Headers {
    fn of(&mut self, is_segmented: bool, source: Source) -> &mut MultiHeaders<SockaddrStorage> {
        self.sets[2 * source as usize + usize::from(is_segmented)].get_or_insert_with(|| {
            let room = match (is_segmented, source) {
                (false, Source::Any) => None,
                (true, Source::Any) => Some(cmsg_space!(u16)),
                (false, Source::V4) => Some(cmsg_space!(in_pktinfo)),
                (true, Source::V4) => Some(cmsg_space!(u16, in_pktinfo)),
                (false, Source::V6) => Some(cmsg_space!(in6_pktinfo)),
                (true, Source::V6) => Some(cmsg_space!(u16, in6_pktinfo)),
            };
            MultiHeaders::preallocate(MAX_ENTRIES, room)
        })
    }
}

/// What one call needs besides the entries, allocated once for each thread.
#[derive(Default)]
struct Scratch {
    headers: Headers,
    addresses: Vec<Option<SockaddrStorage>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Reads the socket's error queue up to the next unreachable destination.
///
/// quinn-udp reads the same queue but reports who sent the ICMP message, which names no port.
///
/// # Errors
///
/// [`io::ErrorKind::WouldBlock`] if the queue is empty or cannot be read, anything else if it may not be empty: what follows
/// is left for the next time.
pub(super) fn next_unreachable(socket: &impl AsRawFd) -> io::Result<SocketAddr> {
    for _ in 0..MAX_SKIPPED {
        let mut quoted = [0; 64];
        let mut slices = [IoSliceMut::new(&mut quoted)];
        let mut control = [0; 256];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let report = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags) {
            Ok(report) => report,
            Err(Errno::EINTR) => continue,
            // Whatever else is wrong: only this clears the socket's error event, which would otherwise wake the driver for ever.
            Err(_) => return Err(io::ErrorKind::WouldBlock.into()),
        };
        let speaks_of_peer = report.cmsgs()?.any(|message| match message {
            ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
                is_destination_unreachable(error.ee_origin, error.ee_type, error.ee_code)
            }
            _ => false,
        });
        if !speaks_of_peer {
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

/// Whether a report says that the destination is unreachable: ICMP type 3, or ICMPv6 type 1 (RFC 792, RFC 4443). Time
/// exceeded is ignored: the datagrams that keep a router's port mapping open are sent with a small time to live on
/// purpose. So is a datagram that exceeds the MTU of a link (ICMP code 4).
fn is_destination_unreachable(origin: u8, kind: u8, code: u8) -> bool {
    match origin {
        SO_EE_ORIGIN_ICMP => kind == 3 && code != 4,
        SO_EE_ORIGIN_ICMP6 => kind == 1,
        _ => false,
    }
}

/// Entries per system call; headers for as many are kept per thread.
const MAX_ENTRIES: usize = 64;
/// Other reports that one call skips. Many: while one is left in the queue, the next send fails with its error.
const MAX_SKIPPED: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_destination_unreachable_concerns_the_peer() {
        for code in [0, 1, 3, 13] {
            assert!(is_destination_unreachable(SO_EE_ORIGIN_ICMP, 3, code));
            assert!(is_destination_unreachable(SO_EE_ORIGIN_ICMP6, 1, code));
        }
        assert!(!is_destination_unreachable(SO_EE_ORIGIN_ICMP, 11, 0), "time exceeded");
        assert!(!is_destination_unreachable(SO_EE_ORIGIN_ICMP6, 3, 0), "time exceeded");
        assert!(!is_destination_unreachable(SO_EE_ORIGIN_ICMP, 3, 4), "fragmentation needed");
        assert!(!is_destination_unreachable(SO_EE_ORIGIN_ICMP6, 2, 0), "packet too big");
        assert!(!is_destination_unreachable(1, 3, 1), "of this system");
    }
}
