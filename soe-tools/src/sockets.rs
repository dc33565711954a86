//! What the sockets of the tools have in common.

use std::io::{self, ErrorKind};

/// Whether an error of a UDP socket speaks of one peer, by ICMP, and not of the socket.
pub(crate) fn is_about_a_peer(error: &io::Error) -> bool {
    use ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable};
    matches!(error.kind(), ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | Interrupted)
}
