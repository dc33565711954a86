//! The readable timeline.

use std::fmt::Write as _;
use std::io::{self, Write};

use clap::ValueEnum;
use soe_core::wire::{MAX_NESTING, NamedWindow, Packet, Payload};

use crate::analysis::{
    Carrier, Direction, Event, EventKind, Finding, Message, Millis, SessionInfo, SessionSummary, Severity, Sink,
};

/// What a timeline shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[non_exhaustive]
pub enum Show {
    /// A line for each datagram.
    Datagrams,
    /// Whole messages, with their first bytes.
    Messages,
    /// What is wrong.
    Findings,
    /// A table for each session at its end.
    Summary,
}

/// Writes events as lines.
pub(crate) struct Timeline<W> {
    write: W,
    shown: Vec<Show>,
    dump: usize,
    /// The time of the first event: times are shown from it on.
    start: Option<u64>,
    line: String,
    pub(crate) worst: Option<Severity>,
}

impl<W: Write> Timeline<W> {
    /// `dump`: bytes of each message that are shown.
    pub(crate) fn new(write: W, shown: Vec<Show>, dump: usize) -> Self {
        Self { write, shown, dump, start: None, line: String::new(), worst: None }
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.write.flush()?;
        Ok(self.write)
    }

    fn shows(&self, what: Show) -> bool {
        self.shown.contains(&what)
    }

    fn head(&mut self, event: &Event<'_>) {
        let start = *self.start.get_or_insert(event.time);
        let arrow = if event.direction == Direction::ToServer { "C>S" } else { "S>C" };
        let time = event.time.saturating_sub(start);
        put_time(&mut self.line, time);
        let _ = write!(self.line, "  #{} {arrow}  ", event.session);
    }
}

/// Seconds and microseconds, right-aligned.
fn put_time(line: &mut String, nanoseconds: u64) {
    let _ = write!(line, "{:5}.{:06}", nanoseconds / 1_000_000_000, nanoseconds / 1000 % 1_000_000);
}

impl<W: Write> Sink for Timeline<W> {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.line.clear();
        // Times count from the first event, also when it is not shown.
        let _ = self.start.get_or_insert(event.time);
        match event.kind {
            EventKind::Opened(info) => put_opened(&mut self.line, event.session, info),
            EventKind::Datagram { length, packet, is_checked } if self.shows(Show::Datagrams) => {
                self.head(event);
                let _ = write!(self.line, "{length:4} B  ");
                packet_line(&mut self.line, packet);
                if !is_checked && !is_exempt(packet) {
                    self.line.push_str("  (CRC not checked)");
                }
                self.line.push('\n');
            }
            EventKind::Message(message) if self.shows(Show::Messages) => {
                self.head(event);
                put_message(&mut self.line, &message, self.dump);
            }
            EventKind::Finding(finding) => {
                self.worst = self.worst.max(Some(finding.severity()));
                if self.shows(Show::Findings) {
                    self.head(event);
                    put_finding(&mut self.line, finding);
                }
            }
            EventKind::Closed(summary) if self.shows(Show::Summary) => {
                put_summary(&mut self.line, event.session, summary);
            }
            _ => return Ok(()),
        }
        self.write.write_all(self.line.as_bytes())
    }
}

fn is_exempt(packet: &[u8]) -> bool {
    soe_core::wire::opcode::of(packet).is_some_and(soe_core::wire::opcode::is_exempt)
}

fn put_finding(line: &mut String, finding: &Finding) {
    let mark = match finding.severity() {
        Severity::Note => "  .  ",
        Severity::Warning => "  !  ",
        Severity::Error => "  !! ",
    };
    let _ = writeln!(line, "{mark} {finding}");
}

fn put_opened(line: &mut String, number: u32, info: &SessionInfo) {
    let _ = write!(line, "session {number}: {} -> {}", info.client, info.server);
    let _ =
        write!(line, ", {}, CRC {} bytes, passes {},{}", info.dialect, info.crc_length, info.passes[0], info.passes[1]);
    if let Some(seed) = info.crc_seed {
        let _ = write!(line, ", seed {seed:08x}");
    }
    if let Some(id) = info.session_id {
        let _ = write!(line, ", id {id:08x}");
    }
    if let Some(name) = &info.protocol_name {
        let _ = write!(line, ", speaks {name:?}");
    }
    line.push('\n');
    for note in &info.inferred {
        let _ = writeln!(line, "    inferred: {note}");
    }
}

/// A line about a message, and its first `dump` bytes.
pub(super) fn put_message(line: &mut String, message: &Message<'_>, dump: usize) {
    let length = message.payload.len();
    let _ = match message.carrier {
        Carrier::Reliable(channel, sequence) => {
            write!(line, "message {} on channel {channel} from #{sequence}, {length} B", message.number)
        }
        Carrier::Unreliable => write!(line, "unreliable message, {length} B"),
        Carrier::Ordered(second, stamp) => {
            write!(line, "ordered message {stamp} of stream {}, {length} B", 1 + u8::from(second))
        }
    };
    if message.packets > 1 {
        let _ = write!(line, " in {} packets over {}", message.packets, Millis(message.took));
    }
    if message.is_decrypted {
        line.push_str(", decrypted");
    }
    line.push('\n');
    put_dump(line, &message.payload[..length.min(dump)], "                          ");
    if dump > 0 && length > dump {
        let _ = writeln!(line, "                          ... {} more", length - dump);
    }
}

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Sixteen bytes a line, in hexadecimal and as text.
pub(crate) fn put_dump(line: &mut String, bytes: &[u8], indent: &str) {
    for row in bytes.chunks(16) {
        line.push_str(indent);
        for at in 0..16 {
            match row.get(at) {
                Some(byte) => {
                    line.push(DIGITS[usize::from(byte >> 4)].into());
                    line.push(DIGITS[usize::from(byte & 15)].into());
                }
                None => line.push_str("  "),
            }
            line.push_str(if at == 7 { "  " } else { " " });
        }
        line.push_str(" |");
        line.extend(row.iter().map(|byte| if (0x20..0x7F).contains(byte) { char::from(*byte) } else { '.' }));
        line.push_str("|\n");
    }
}

fn put_summary(line: &mut String, number: u32, summary: &SessionSummary) {
    let seconds = summary.last.saturating_sub(summary.first) as f64 / 1e9;
    let _ = write!(line, "session {number} summary: {seconds:.3} s");
    let _ = writeln!(line, ", {}", summary.ended.as_deref().unwrap_or("no Disconnect in the capture"));
    let [to_server, to_client] = &summary.directions;
    let _ = writeln!(line, "    {:34}{:>14}{:>14}", "", "to server", "to client");
    let mut row = |name: &str, left: String, right: String| {
        let _ = writeln!(line, "    {name:34}{left:>14}{right:>14}");
    };
    let mut count = |name: &str, of: fn(&crate::analysis::Counters) -> u64| {
        row(name, of(to_server).to_string(), of(to_client).to_string());
    };
    count("datagrams", |counters| counters.datagrams);
    count("bytes", |counters| counters.bytes);
    count("messages", |counters| counters.messages);
    count("reliable packets", |counters| counters.reliable_packets);
    count("resent after a gap", |counters| counters.resent_after_gap);
    count("resent by timer", |counters| counters.resent_after_timeout);
    count("resent in advance", |counters| counters.resent_early);
    count("resent needlessly", |counters| counters.resent_needlessly);
    count("first seen late", |counters| counters.late);
    count("missing from the capture", |counters| counters.missing);
    count("wrong CRC", |counters| counters.bad_crc);
    count("corrupt", |counters| counters.corrupt);
    count("most bytes under way", |counters| counters.in_flight_max);
    let millis = |time: u64| format!("{:.1}", time as f64 / 1e6);
    for (name, of) in [
        ("round trip, shortest, ms", (|counters| counters.round_trip_min) as fn(&crate::analysis::Counters) -> u64),
        ("round trip, smoothed, ms", |counters| counters.round_trip_smoothed),
        ("round trip, longest, ms", |counters| counters.round_trip_max),
    ] {
        row(name, millis(of(to_server)), millis(of(to_client)));
    }
}

/// A packet on one line, with what it contains in brackets.
pub(crate) fn packet_line(line: &mut String, packet: &[u8]) {
    put_packet(line, packet, 0);
}

/// The receive window that a NetStatus packet names.
fn named(window: Option<NamedWindow>) -> String {
    window.map_or_else(String::new, |window| format!(" window {}", window.packets))
}

fn put_packet(line: &mut String, bytes: &[u8], depth: usize) {
    let packet = match Packet::decode(bytes) {
        Ok(packet) => packet,
        Err(error) => {
            let _ = write!(line, "corrupt ({error})");
            return;
        }
    };
    let _ = match packet {
        Packet::SessionRequest(request) => {
            let name = String::from_utf8_lossy(request.protocol_name.unwrap_or_default());
            let (version, id, length) = (request.version, request.session_id, request.udp_length);
            write!(line, "SessionRequest version {version} id {id:08x} udp length {length} {name:?}")
        }
        Packet::SessionResponse(response) => {
            let [first, second] = response.passes;
            let (id, seed, crc, length) =
                (response.session_id, response.crc_seed, response.crc_length, response.udp_length);
            write!(
                line,
                "SessionResponse id {id:08x} seed {seed:08x} CRC {crc} passes {first},{second} udp length {length}"
            )
        }
        Packet::Multi(multi) => {
            line.push_str("Multi [");
            for (index, piece) in multi.pieces().enumerate() {
                line.push_str(if index == 0 { "" } else { " | " });
                match piece {
                    Ok(piece) if depth < MAX_NESTING => put_packet(line, piece, depth + 1),
                    Ok(_) => line.push_str("nested too deep"),
                    Err(error) => {
                        let _ = write!(line, "corrupt ({error})");
                    }
                }
            }
            line.push(']');
            Ok(())
        }
        Packet::Disconnect(disconnect) => {
            let reason = disconnect.reason.map_or_else(|| "no reason".into(), |reason| reason.to_string());
            write!(line, "Disconnect id {:08x}: {reason}", disconnect.session_id)
        }
        Packet::Heartbeat => write!(line, "Heartbeat"),
        Packet::NetStatusRequest(status) => write!(
            line,
            "NetStatusRequest clock {} round trip {} ms sent {} received {}{}",
            status.clock,
            status.average,
            status.sent,
            status.received,
            named(status.window())
        ),
        Packet::NetStatusResponse(status) => write!(
            line,
            "NetStatusResponse clock {} sent {} received {}{}",
            status.responder_clock,
            status.responder_sent,
            status.responder_received,
            named(status.window())
        ),
        Packet::Reliable(data) => {
            let kind = if let Payload::Group(_) = Payload::classify(data.payload) { " Group" } else { "" };
            write!(line, "Reliable c{} #{}{kind} {} B", data.channel, data.sequence, data.payload.len())
        }
        Packet::Fragment(fragment) => {
            write!(line, "Fragment c{} #{} {} B", fragment.channel, fragment.sequence, fragment.body.len())
        }
        Packet::Acknowledge(ack) => write!(line, "Ack c{} #{}", ack.channel, ack.sequence),
        Packet::AcknowledgeAll(ack) => write!(line, "AckAll c{} #{}", ack.channel, ack.sequence),
        Packet::Group(group) => write!(line, "Group {} B", group.body().len()),
        Packet::Ordered(data) => write!(line, "{:?} stamp {} {} B", data.stream, data.stamp, data.payload.len()),
        Packet::PortAlive => write!(line, "PortAlive"),
        Packet::UnknownSender => write!(line, "UnknownSender"),
        Packet::RemapConnection(remap) => write!(line, "RemapConnection id {:08x}", remap.session_id),
        Packet::ServerStatus(body) => write!(line, "ServerStatus {} B", body.len()),
        Packet::Data(data) => write!(line, "Data {} B", data.len()),
        _ => write!(line, "reserved"),
    };
}
