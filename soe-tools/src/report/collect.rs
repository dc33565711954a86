//! Collects what the page shows.

use std::collections::BTreeMap;
use std::io;

use serde_json::{Value, json};

use super::columns::Table;
use crate::analysis::{Carrier, Event, EventKind, Message, SessionInfo, SessionSummary, Sink, Transmission};

/// What a page may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Datagrams; later ones are counted and not shown.
    pub(crate) datagrams: u64,
    /// Bytes of each message.
    pub(crate) message_bytes: usize,
}

/// A sink that keeps what the page shows.
#[derive(Debug)]
pub(crate) struct Collector {
    limits: Limits,
    sessions: BTreeMap<u32, Collected>,
    /// Bytes of messages and texts of findings, back to back.
    bytes: Vec<u8>,
    start: Option<u64>,
    datagrams: u64,
}

#[derive(Debug)]
struct Collected {
    info: Option<SessionInfo>,
    summary: Option<SessionSummary>,
    datagrams: Table<1, 1, 1>,
    packets: Table<1, 2, 3>,
    acks: Table<1, 1, 3>,
    round_trips: Table<2, 0, 1>,
    in_flight: Table<1, 2, 1>,
    messages: Table<1, 6, 3>,
    findings: Table<1, 2, 2>,
}

impl Collected {
    fn new() -> Self {
        Self {
            info: None,
            summary: None,
            datagrams: Table::new(["time"], ["length"], ["direction"]),
            packets: Table::new(["time"], ["sequence", "length"], ["direction", "channel", "kind"]),
            acks: Table::new(["time"], ["sequence"], ["direction", "channel", "cumulative"]),
            round_trips: Table::new(["time", "took"], [], ["direction"]),
            in_flight: Table::new(["time"], ["bytes", "packets"], ["direction"]),
            messages: Table::new(
                ["time"],
                ["number", "sequence", "length", "offset", "kept", "packets"],
                ["direction", "carrier", "decrypted"],
            ),
            findings: Table::new(["time"], ["offset", "length"], ["direction", "severity"]),
        }
    }

    fn put(self, number: u32, out: &mut Vec<u8>) -> Value {
        json!({
            "number": number,
            "info": self.info,
            "summary": self.summary,
            "datagrams": self.datagrams.put(out),
            "packets": self.packets.put(out),
            "acks": self.acks.put(out),
            "roundTrips": self.round_trips.put(out),
            "inFlight": self.in_flight.put(out),
            "messages": self.messages.put(out),
            "findings": self.findings.put(out),
        })
    }
}

impl Collector {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, sessions: BTreeMap::new(), bytes: Vec::new(), start: None, datagrams: 0 }
    }

    /// How many sessions there are.
    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What the page needs: a description, and the columns that it points into.
    pub(crate) fn finish(self, source: &str) -> (Value, Vec<u8>) {
        let mut out = self.bytes;
        let left_out = self.datagrams.saturating_sub(self.limits.datagrams);
        let sessions: Vec<Value> =
            self.sessions.into_iter().map(|(number, session)| session.put(number, &mut out)).collect();
        let start = self.start.unwrap_or(0);
        (json!({ "source": source, "start": start as f64 / 1e6, "leftOut": left_out, "sessions": sessions }), out)
    }

    /// Keeps bytes and says where; `None` when the page is full.
    fn keep(&mut self, bytes: &[u8]) -> Option<[u32; 2]> {
        let offset = u32::try_from(self.bytes.len()).ok()?;
        self.bytes.extend_from_slice(bytes);
        Some([offset, bytes.len() as u32])
    }

    fn session(&mut self, number: u32) -> &mut Collected {
        self.sessions.entry(number).or_insert_with(Collected::new)
    }

    fn message(&mut self, event: &Event<'_>, time: f64, message: &Message<'_>) {
        let (carrier, sequence) = match message.carrier {
            Carrier::Reliable(channel, sequence) => (channel.index() as u8, sequence as u32),
            Carrier::Unreliable => (4, 0),
            Carrier::Ordered(second, stamp) => (5 + u8::from(second), stamp.into()),
        };
        let length = message.payload.len();
        let kept = self.keep(&message.payload[..length.min(self.limits.message_bytes)]);
        let [offset, kept] = kept.unwrap_or_default();
        let numbers = [message.number as u32, sequence, length as u32, offset, kept, message.packets];
        let bytes = [event.direction.index() as u8, carrier, message.is_decrypted.into()];
        self.session(event.session).messages.push([time], numbers, bytes);
    }
}

const fn kind(transmission: Transmission) -> u8 {
    match transmission {
        Transmission::First => 0,
        Transmission::Late => 1,
        Transmission::ResendAfterGap => 2,
        Transmission::ResendAfterTimeout => 3,
        Transmission::ResendEarly => 4,
        Transmission::ResendNeedless => 5,
    }
}

impl Sink for Collector {
    fn event(&mut self, event: &Event<'_>) -> io::Result<()> {
        let start = *self.start.get_or_insert(event.time);
        let time = event.time.saturating_sub(start) as f64 / 1e9;
        let way = event.direction.index() as u8;
        let is_full = self.datagrams > self.limits.datagrams;
        match event.kind {
            EventKind::Opened(info) => self.session(event.session).info = Some(info.clone()),
            EventKind::Closed(summary) => self.session(event.session).summary = Some(summary.clone()),
            EventKind::Datagram { length, .. } => {
                self.datagrams += 1;
                if self.datagrams <= self.limits.datagrams {
                    self.session(event.session).datagrams.push([time], [length as u32], [way]);
                }
            }
            _ if is_full => {}
            EventKind::Reliable { channel, sequence, length, transmission, .. } => {
                let bytes = [way, channel.index() as u8, kind(transmission)];
                self.session(event.session).packets.push([time], [sequence as u32, length as u32], bytes);
            }
            EventKind::Acknowledged { channel, sequence, is_cumulative } => {
                let data = event.direction.reversed().index() as u8;
                let bytes = [data, channel.index() as u8, is_cumulative.into()];
                self.session(event.session).acks.push([time], [sequence as u32], bytes);
            }
            EventKind::RoundTrip { time: took } => {
                self.session(event.session).round_trips.push([time, took as f64 / 1e6], [], [way]);
            }
            EventKind::InFlight { direction, bytes, packets } => {
                let numbers = [bytes as u32, packets as u32];
                self.session(event.session).in_flight.push([time], numbers, [direction.index() as u8]);
            }
            EventKind::Message(message) => self.message(event, time, &message),
            EventKind::Finding(finding) => {
                if let Some(place) = self.keep(finding.to_string().as_bytes()) {
                    let bytes = [way, finding.severity() as u8];
                    self.session(event.session).findings.push([time], place, bytes);
                }
            }
        }
        Ok(())
    }
}
