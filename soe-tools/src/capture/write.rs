//! Writes pcapng: ordinary datagrams with addresses, so that every tool reads them.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv6Addr};

use super::pcapng::{BYTE_ORDER, ENHANCED_PACKET, INTERFACE, SECRETS, SECTION_HEADER};
use super::{Datagram, LinkType, SECRETS_TYPE};

/// Writes UDP datagrams into a pcapng file of link type raw IP, with times in nanoseconds.
///
/// Blocks are handed to the writer whole; give it a buffered one.
#[derive(Debug)]
pub struct PcapngWriter<W> {
    write: W,
    block: Vec<u8>,
}

impl<W: Write> PcapngWriter<W> {
    /// Writes the head of the file.
    ///
    /// # Errors
    ///
    /// Those of the writer, here and below.
    pub fn new(write: W) -> io::Result<Self> {
        let mut writer = Self { write, block: Vec::new() };
        writer.block(SECTION_HEADER, |body| {
            body.extend_from_slice(&BYTE_ORDER.to_le_bytes());
            body.extend_from_slice(&[1, 0, 0, 0]);
            // The length of the section is not known.
            body.extend_from_slice(&[0xFF; 8]);
        })?;
        writer.block(INTERFACE, |body| {
            body.extend_from_slice(&LinkType::Ip.number().to_le_bytes());
            body.extend_from_slice(&[0; 6]);
            // Option 9, a resolution of 10^-9 seconds, and the end of options.
            body.extend_from_slice(&[9, 0, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        })?;
        Ok(writer)
    }

    /// Writes one datagram.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for a payload of more than 65,507 bytes, which UDP cannot carry.
    pub fn datagram(&mut self, datagram: &Datagram<'_>) -> io::Result<()> {
        self.commented(datagram, "")
    }

    /// Writes one datagram with a comment, which other tools show beside it; none if it is empty.
    ///
    /// # Errors
    ///
    /// As for [`datagram`](Self::datagram), and [`io::ErrorKind::InvalidInput`] for a comment of more than 65,535 bytes.
    pub fn commented(&mut self, datagram: &Datagram<'_>, comment: &str) -> io::Result<()> {
        let comment_length = u16::try_from(comment.len())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a comment longer than pcapng allows"))?;
        if datagram.payload.len() > MAX_PAYLOAD {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a datagram longer than UDP allows"));
        }
        self.block(ENHANCED_PACKET, |body| {
            body.extend_from_slice(&[0; 4]);
            body.extend_from_slice(&((datagram.time >> 32) as u32).to_le_bytes());
            body.extend_from_slice(&(datagram.time as u32).to_le_bytes());
            let lengths = body.len();
            body.extend_from_slice(&[0; 8]);
            let start = body.len();
            put_packet(body, datagram);
            let length = ((body.len() - start) as u32).to_le_bytes();
            body[lengths..lengths + 4].copy_from_slice(&length);
            body[lengths + 4..start].copy_from_slice(&length);
            if !comment.is_empty() {
                body.resize(body.len().next_multiple_of(4), 0);
                body.extend_from_slice(&OPTION_COMMENT.to_le_bytes());
                body.extend_from_slice(&comment_length.to_le_bytes());
                body.extend_from_slice(comment.as_bytes());
                body.resize(body.len().next_multiple_of(4), 0);
                // The end of options.
                body.extend_from_slice(&[0; 4]);
            }
        })
    }

    /// Writes lines about sessions into a Decryption Secrets Block. It must stand before the datagrams that need it.
    pub fn secrets(&mut self, lines: &str) -> io::Result<()> {
        self.block(SECRETS, |body| {
            body.extend_from_slice(&SECRETS_TYPE.to_le_bytes());
            body.extend_from_slice(&(lines.len() as u32).to_le_bytes());
            body.extend_from_slice(lines.as_bytes());
        })
    }

    /// Flushes, so that what has been written so far can be read.
    pub fn flush(&mut self) -> io::Result<()> {
        self.write.flush()
    }

    /// Flushes and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.write.flush()?;
        Ok(self.write)
    }

    fn block(&mut self, kind: u32, body: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let block = &mut self.block;
        block.clear();
        block.extend_from_slice(&kind.to_le_bytes());
        block.extend_from_slice(&[0; 4]);
        body(block);
        block.resize(block.len().next_multiple_of(4), 0);
        let length = (block.len() as u32 + 4).to_le_bytes();
        block[4..8].copy_from_slice(&length);
        block.extend_from_slice(&length);
        self.write.write_all(block)
    }
}

const OPTION_COMMENT: u16 = 1;
const UDP: u8 = 17;
const HOPS: u8 = 64;
/// What the 16 bits of the IPv4 length leave.
const MAX_PAYLOAD: usize = 65_535 - 28;

fn put_packet(out: &mut Vec<u8>, datagram: &Datagram<'_>) {
    let length = 8 + datagram.payload.len() as u16;
    let start = out.len();
    // What the checksum of UDP covers beside the datagram itself: addresses, protocol, length.
    let pseudo = u64::from(UDP) + u64::from(length);
    let pseudo = match (datagram.from.ip(), datagram.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x45, 0]);
            out.extend_from_slice(&(20 + length).to_be_bytes());
            out.extend_from_slice(&[0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
            let checksum = checksum(sum(&out[start..]));
            out[start + 10..start + 12].copy_from_slice(&checksum.to_be_bytes());
            pseudo + sum(&from.octets()) + sum(&to.octets())
        }
        (from, to) => {
            let (from, to) = (wide(from).octets(), wide(to).octets());
            out.extend_from_slice(&[0x60, 0, 0, 0]);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(&[UDP, HOPS]);
            out.extend_from_slice(&from);
            out.extend_from_slice(&to);
            pseudo + sum(&from) + sum(&to)
        }
    };
    let udp = out.len();
    out.extend_from_slice(&datagram.from.port().to_be_bytes());
    out.extend_from_slice(&datagram.to.port().to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(datagram.payload);
    // Zero says that there is none, which IPv6 does not allow: a sum of zero is written as its other form.
    let checksum = match checksum(pseudo + sum(&out[udp..])) {
        0 => u16::MAX,
        checksum => checksum,
    };
    out[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
}

const fn wide(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(narrow) => narrow.to_ipv6_mapped(),
        IpAddr::V6(wide) => wide,
    }
}

/// The sum of the 16-bit words; an odd byte at the end is the upper half of one.
fn sum(bytes: &[u8]) -> u64 {
    let words = bytes.chunks_exact(2);
    let odd = words.remainder().first().map_or(0, |byte| u64::from(*byte) << 8);
    words.map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum::<u64>() + odd
}

fn checksum(mut sum: u64) -> u16 {
    while sum > 0xFFFF {
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn packet(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        let [from, to]: [SocketAddr; 2] = [from, to].map(|address| address.parse().unwrap());
        let mut packet = Vec::new();
        put_packet(&mut packet, &Datagram::new(0, from, to, payload));
        packet
    }

    #[test]
    fn checksums_are_those_that_a_receiver_computes() {
        // Values from tshark, which calls them good.
        let v4 = packet("192.0.2.1:20060", "192.0.2.2:50000", b"odd");
        assert_eq!((&v4[10..12], &v4[26..28]), (&[0xb6, 0xca][..], &[0x96, 0xc2][..]), "{v4:02x?}");
        let v6 = packet("[::1]:20060", "[::1]:50000", b"even");
        assert_eq!(v6[46..48], [0x23, 0x43], "{v6:02x?}");
        // All words of this one add up to FFFF, which makes a checksum of zero.
        let v6 = packet("[::]:0", "[::]:0", &[0xFF, 0xFF - 17 - 20]);
        assert_eq!(v6[46..48], [0xFF, 0xFF]);
    }
}
