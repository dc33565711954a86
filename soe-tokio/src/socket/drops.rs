//! How many datagrams the kernel dropped because a socket's receive buffer was full.

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
};

/// Reads the kernel's count for one socket. `SO_RXQ_OVFL` delivers the same number with each datagram, but costs
/// parsing the control messages of every receive call. Reading /proc costs nothing until it is requested.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DropCounter {
    inode: u64,
}

impl DropCounter {
    /// `None` if the socket's inode cannot be read.
    pub(crate) fn of(socket: &impl AsFd) -> Option<Self> {
        let descriptor = socket.as_fd().try_clone_to_owned().ok()?;
        Some(Self { inode: File::from(descriptor).metadata().ok()?.ino() })
    }

    pub(crate) fn read(&self) -> Option<u64> {
        ["/proc/self/net/udp", "/proc/self/net/udp6"]
            .iter()
            .filter_map(|table| fs::read_to_string(table).ok())
            .find_map(|table| drops_of(self.inode, &table))
    }
}

/// Finds a socket in a table of /proc/net: the tenth column is its inode, the last its drops.
fn drops_of(inode: u64, table: &str) -> Option<u64> {
    let mut rows = table.lines().skip(1).map(str::split_ascii_whitespace);
    let row = rows.find_map(|mut row| (row.nth(INODE_COLUMN)?.parse() == Ok(inode)).then_some(row))?;
    row.last()?.parse().ok()
}

const INODE_COLUMN: usize = 9;

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn the_drops_of_a_socket_are_found_by_its_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                      501: 00000000:4E5C 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 12\n\
                      502: 00000000:4E5D 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 345\n";
        assert_eq!(drops_of(4712, table), Some(345));
        assert_eq!(drops_of(345, table), None);
    }

    #[test]
    fn what_does_not_fit_into_the_receive_buffer_is_counted() {
        let (receiver, sender) = (UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        let Some(counter) = DropCounter::of(&receiver) else { return };
        // Some sandboxes hide their sockets.
        if counter.read().is_none() {
            return;
        }
        assert_eq!(counter.read(), Some(0));
        socket2::SockRef::from(&receiver).set_recv_buffer_size(4096).unwrap();
        for _ in 0..100 {
            sender.send_to(&[0; 1000], receiver.local_addr().unwrap()).unwrap();
        }
        assert!(counter.read().is_some_and(|drops| drops > 50), "{:?}", counter.read());
    }
}
