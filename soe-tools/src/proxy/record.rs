//! What passes a proxy as a capture.

use std::{
    io::{self, Write},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use super::{Observer, ProxyStatus, Seen};
use crate::capture::{Datagram, PcapngWriter};

/// Writes each datagram into a pcapng file, as it comes in and as it goes out, with the addresses that each side sees. A comment
/// on those that come in says what becomes of them.
#[derive(Debug)]
pub struct CaptureFile<W> {
    writer: PcapngWriter<W>,
    /// The same moment on both clocks.
    start: (Instant, SystemTime),
}

impl<W: Write> CaptureFile<W> {
    /// Writes the head of the file. Blocks are handed to the writer whole; give it a buffered one.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn new(write: W) -> io::Result<Self> {
        Ok(Self { writer: PcapngWriter::new(write)?, start: (Instant::now(), SystemTime::now()) })
    }

    /// Flushes and gives the writer back.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        self.writer.finish()
    }
}

impl<W: Write> Observer for CaptureFile<W> {
    fn datagram(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        let at = self.start.1 + seen.now.saturating_duration_since(self.start.0);
        // A clock before 1970 is set wrong; the capture is good for everything but the date.
        let time = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let datagram = Datagram::new(time, seen.from, seen.to, seen.datagram);
        self.writer.commented(&datagram, &seen.remark())
    }

    /// Flushes: a capture of a running proxy can be read so far.
    fn status(&mut self, _: &ProxyStatus) -> io::Result<()> {
        self.writer.flush()
    }
}
