//! Writes pcapng: ordinary datagrams with addresses, so that every tool reads them.

use std::io::{self, Write};

use soe_core::recording::pcapng;

use super::{Datagram, SECRETS_TYPE};

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
        writer.put(|block| pcapng::head(block, "", ""))?;
        Ok(writer)
    }

    /// Writes the head of a file of application messages, for [`message`](Self::message) alone.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn of_messages(write: W) -> io::Result<Self> {
        let mut writer = Self { write, block: Vec::new() };
        writer.put(|block| pcapng::message_head(block, "", ""))?;
        Ok(writer)
    }

    /// Writes one application message with a comment, as an exported PDU: Wireshark shows it as data between the two sides.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn message(&mut self, message: &Datagram<'_>, comment: &str) -> io::Result<()> {
        let Datagram { time, from, to, payload, .. } = *message;
        self.put(|block| pcapng::message(block, &pcapng::Packet::new(time, from, to, payload), &[comment]))
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
        let invalid = |why| Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        if comment.len() > usize::from(u16::MAX) {
            return invalid("a comment longer than pcapng allows");
        }
        if datagram.payload.len() > pcapng::MAX_PAYLOAD {
            return invalid("a datagram longer than UDP allows");
        }
        let Datagram { time, from, to, payload, .. } = *datagram;
        self.put(|block| pcapng::packet(block, &pcapng::Packet::new(time, from, to, payload), &[comment]))
    }

    /// Writes lines about sessions into a Decryption Secrets Block. It must stand before the datagrams that need it.
    pub fn secrets(&mut self, lines: &str) -> io::Result<()> {
        self.put(|block| pcapng::secrets(block, SECRETS_TYPE, lines.as_bytes()))
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

    fn put(&mut self, block: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        self.block.clear();
        block(&mut self.block);
        self.write.write_all(&self.block)
    }
}
