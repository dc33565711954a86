//! A line for each datagram that comes to a proxy.

use std::{
    collections::HashMap,
    io::{self, Write},
    net::SocketAddr,
    time::Instant,
};

use super::{ClientId, Direction, Event, Observer, Seen};
use crate::{
    analysis::{self, Analyzer, EventKind, Options, Severity},
    capture::Datagram,
    describe::packet_line,
};

/// Writes a line for each datagram that comes in: when, of which client and which way, what becomes of it, and what it is as far
/// as the session could be followed from its handshake.
#[derive(Debug)]
pub struct DatagramLines<W> {
    write: W,
    analyzer: Analyzer,
    start: Instant,
    /// Where clients come in.
    listen: Option<SocketAddr>,
    clients: HashMap<ClientId, SocketAddr>,
}

impl<W: Write> DatagramLines<W> {
    /// Times count from now on.
    pub fn new(write: W) -> Self {
        let analyzer = Analyzer::new(Options::default());
        Self { write, analyzer, start: Instant::now(), listen: None, clients: HashMap::new() }
    }

    /// Who speaks to whom, as the client sees it: both directions are one conversation.
    fn addresses(&mut self, seen: &Seen<'_>) -> Option<(SocketAddr, SocketAddr)> {
        if seen.direction == Direction::Up {
            self.listen = Some(seen.to);
            self.clients.insert(seen.client, seen.from);
            return Some((seen.from, seen.to));
        }
        Some((self.listen?, *self.clients.get(&seen.client)?))
    }
}

impl<W: Write> Observer for DatagramLines<W> {
    fn datagram(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        if seen.handled.is_none() {
            return Ok(());
        }
        let Some((from, to)) = self.addresses(seen) else { return Ok(()) };
        let since = seen.now.saturating_duration_since(self.start);
        let time = since.as_nanos() as u64;
        let mut what = What { time, packet: String::new(), findings: String::new() };
        self.analyzer.datagram(&Datagram::new(time, from, to, seen.datagram), &mut what)?;
        let packet = if what.packet.is_empty() { "not understood" } else { &what.packet };
        let direction = if seen.direction == Direction::Up { "up" } else { "down" };
        writeln!(
            self.write,
            "{:12.6}  {} {direction:<4} {:5} B  {:<16}  {packet}{}",
            since.as_secs_f64(),
            seen.client,
            seen.datagram.len(),
            seen.remark(),
            what.findings
        )
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        if let Event::Closed(client) = event {
            self.clients.remove(client);
        }
        Ok(())
    }
}

/// What an analysis says of the datagram of this time. What it says of earlier ones, which it has understood only now, is
/// too late for their lines.
struct What {
    time: u64,
    packet: String,
    findings: String,
}

impl analysis::Sink for What {
    fn event(&mut self, event: &analysis::Event<'_>) -> io::Result<()> {
        if event.time != self.time {
            return Ok(());
        }
        match event.kind {
            EventKind::Datagram { packet, .. } => {
                self.packet.clear();
                packet_line(&mut self.packet, packet);
            }
            EventKind::Finding(finding) if finding.severity() > Severity::Note => {
                self.findings.push_str(&format!("  ! {finding}"));
            }
            _ => {}
        }
        Ok(())
    }
}
