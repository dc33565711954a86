//! Whole messages as a capture of their own.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::SocketAddr;

use super::text::put_message;
use crate::analysis::{Direction, Event, EventKind, Sink};
use crate::capture::{Datagram, PcapngWriter};

/// Writes every message into a file, and passes all events on.
pub(crate) struct MessageFile<'a, W> {
    writer: PcapngWriter<W>,
    /// Client and server of the sessions that go on.
    sides: HashMap<u32, [SocketAddr; 2]>,
    line: String,
    next: &'a mut dyn Sink,
}

impl<'a, W: Write> MessageFile<'a, W> {
    pub(crate) fn new(write: W, next: &'a mut dyn Sink) -> io::Result<Self> {
        let (sides, line) = (HashMap::new(), String::new());
        Ok(Self { writer: PcapngWriter::of_messages(write)?, sides, line, next })
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.writer.finish().map(drop)
    }
}

impl<W: Write> Sink for MessageFile<'_, W> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event.kind {
            EventKind::Opened(info) => drop(self.sides.insert(event.session, [info.client, info.server])),
            EventKind::Closed(_) => drop(self.sides.remove(&event.session)),
            EventKind::Message(message) => {
                if let Some(&[client, server]) = self.sides.get(&event.session) {
                    let is_up = event.direction == Direction::ToServer;
                    let (from, to) = if is_up { (client, server) } else { (server, client) };
                    self.line.clear();
                    put_message(&mut self.line, &message, 0);
                    self.writer.message(&Datagram::new(event.time, from, to, message.payload), self.line.trim_end())?;
                }
            }
            _ => {}
        }
        self.next.event(event)
    }
}
