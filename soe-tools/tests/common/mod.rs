//! What several test programs need: captures in memory, and what an analysis says of them.
#![allow(dead_code, reason = "each test program uses a part")]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use soe_core::Dialect;
use soe_tools::analysis::{
    Analyzer, Carrier, Direction, Event, EventKind, Finding, Options, SessionInfo, SessionSummary, Totals,
};
use soe_tools::capture::{CaptureReader, Datagram, Extracted, Item, PcapngWriter};
use soe_tools::synthetic::{Plan, Written, write};

pub(crate) fn client() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], 50_000))
}

pub(crate) fn server() -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 2], 20_060))
}

/// A capture of one simulated session.
pub(crate) fn simulated(plan: &Plan) -> (Vec<u8>, Written) {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    let written = write(plan, client(), server(), &mut writer).unwrap();
    (writer.finish().unwrap(), written)
}

pub(crate) fn plan(dialect: &str) -> Plan {
    Plan::new(Dialect::by_name(dialect).unwrap())
}

/// A reliable message as an analysis reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) direction: Direction,
    pub(crate) channel: usize,
    pub(crate) payload: Vec<u8>,
}

/// Everything that an analysis says.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) opened: Vec<SessionInfo>,
    pub(crate) messages: Vec<Seen>,
    pub(crate) decrypted: usize,
    pub(crate) findings: Vec<Finding>,
    pub(crate) closed: Vec<SessionSummary>,
    pub(crate) totals: Totals,
    /// Datagrams by session.
    pub(crate) datagrams: Vec<(u32, Vec<u8>)>,
}

impl Heard {
    pub(crate) fn take(&mut self, event: &Event<'_>) {
        match event.kind {
            EventKind::Opened(info) => self.opened.push(info.clone()),
            EventKind::Datagram { packet, .. } => self.datagrams.push((event.session, packet.to_vec())),
            EventKind::Message(message) => {
                self.decrypted += usize::from(message.is_decrypted);
                if let Carrier::Reliable(channel, _) = message.carrier {
                    let (channel, payload) = (channel.index(), message.payload.to_vec());
                    self.messages.push(Seen { direction: event.direction, channel, payload });
                }
            }
            EventKind::Finding(finding) => self.findings.push(finding.clone()),
            EventKind::Closed(summary) => self.closed.push(summary.clone()),
            _ => {}
        }
    }

    /// The messages of one direction and channel.
    pub(crate) fn of(&self, direction: Direction, channel: usize) -> Vec<Vec<u8>> {
        let of = |seen: &&Seen| seen.direction == direction && seen.channel == channel;
        self.messages.iter().filter(of).map(|seen| seen.payload.clone()).collect()
    }
}

/// The datagrams of a capture.
pub(crate) fn datagrams(capture: &[u8]) -> Vec<(u64, SocketAddr, SocketAddr, Vec<u8>)> {
    let mut reader = CaptureReader::new(capture).unwrap();
    let mut datagrams = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        if let Item::Frame(frame) = item
            && let Extracted::Datagram(datagram) = frame.extract()
        {
            datagrams.push((datagram.time, datagram.from, datagram.to, datagram.payload.to_vec()));
        }
    }
    datagrams
}

pub(crate) fn analysed(datagrams: &[(u64, SocketAddr, SocketAddr, Vec<u8>)], options: Options) -> Heard {
    let (mut analyzer, mut heard) = (Analyzer::new(options), Heard::default());
    let mut sink = |event: &Event<'_>| {
        heard.take(event);
        Ok(())
    };
    for (time, from, to, payload) in datagrams {
        analyzer.datagram(&Datagram::new(*time, *from, *to, payload), &mut sink).unwrap();
    }
    let totals = analyzer.finish(&mut sink).unwrap();
    heard.totals = totals;
    heard
}

/// Runs the program and takes its output.
pub(crate) fn soe(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_soe")).args(arguments).output().unwrap()
}

/// A file of this test that goes with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str, bytes: &[u8]) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The vectors of all dialects: datagrams with their seeds, CRC lengths and passes.
pub(crate) fn vectors() -> Vec<Value> {
    let vectors: Value = serde_json::from_str(include_str!("../../../tests/vectors/vectors.json")).unwrap();
    vectors["dialect_vectors"].as_array().unwrap().clone()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
