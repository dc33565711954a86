//! One session as an onlooker follows it.

use std::io;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use soe_core::framing::OpenError;
use soe_core::wire::DecodeError;
use soe_core::{Dialect, Framing, ReliableChannel};

use super::flight::Clock;
use super::infer::flag_fits;
use super::keys::Decryption;
use super::stream::Stream;
use super::{Context, Counters, Direction, Event, EventKind, Finding, SessionInfo, SessionSummary};
use crate::capture::Datagram;

/// A silence longer than this is reported: the inactivity time-out of every known peer, in nanoseconds.
const SILENCE: u64 = 30_000_000_000;
/// Checked datagrams in which the codec may still turn out to be another family's.
const PROBATION: u8 = 8;

/// One direction.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) streams: [Option<Box<Stream>>; ReliableChannel::COUNT],
    /// The newest stamps of ordered messages, 1A and 1B.
    pub(super) stamps: [Option<u16>; 2],
    pub(super) decryption: Decryption,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u32,
    pub(super) info: SessionInfo,
    pub(super) sides: [Side; 2],
    /// The handshake is in the capture: channels begin at 0.
    pub(super) is_from_start: bool,
    pub(super) ended: Option<String>,
    framing: Framing,
    dialect: Dialect,
    /// Without the seed the CRC is cut off and not checked.
    is_seed_known: bool,
    probation: u8,
    first: u64,
    last: u64,
}

/// When and which way.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) time: u64,
    pub(super) direction: Direction,
}

impl Session {
    /// A session with these parameters; `None` if they are not possible.
    pub(super) fn new(
        number: u32,
        info: SessionInfo,
        dialect: Dialect,
        time: u64,
        keys: [Decryption; 2],
    ) -> Option<Self> {
        let framing = framing(&info, &dialect)?;
        let side = |decryption| Side {
            streams: [const { None }; ReliableChannel::COUNT],
            stamps: [None; 2],
            decryption,
            clock: Clock::default(),
            counters: Counters::default(),
        };
        Some(Self {
            number,
            sides: keys.map(side),
            is_from_start: info.origin == super::Origin::Handshake,
            is_seed_known: info.crc_seed.is_some(),
            ended: None,
            framing,
            dialect,
            probation: PROBATION,
            first: time,
            last: time,
            info,
        })
    }

    pub(super) fn direction(&self, from: SocketAddr) -> Direction {
        if from == self.info.client { Direction::ToServer } else { Direction::ToClient }
    }

    /// Whether the datagram's CRC proves that it belongs here. Nothing does when there is no CRC.
    pub(super) fn owns(&self, datagram: &[u8]) -> bool {
        self.is_seed_known && self.info.crc_length > 0 && self.framing.verify(datagram)
    }

    /// Whether a CRC can tell what belongs here.
    pub(super) fn can_prove(&self) -> bool {
        self.is_seed_known && self.info.crc_length > 0
    }

    /// A packet without CRC and passes.
    pub(super) fn exempt(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> io::Result<()> {
        let at = self.arrived(cx, datagram)?;
        let (length, packet) = (datagram.payload.len(), datagram.payload);
        self.emit(cx, at, EventKind::Datagram { length, packet, is_checked: false })?;
        if packet[1] == soe_core::wire::opcode::UNKNOWN_SENDER {
            self.find(cx, at, Finding::UnknownSender)?;
        }
        Ok(())
    }

    /// A datagram with CRC and passes.
    pub(super) fn datagram(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> io::Result<()> {
        let at = self.arrived(cx, datagram)?;
        let length = datagram.payload.len();
        if datagram.is_cut {
            return self.find(cx, at, Finding::CutByCapture { length });
        }
        if self.probation > 0 {
            self.probation -= 1;
            self.reconsider_codec(cx, at, datagram.payload)?;
        }
        let bytes = if self.is_seed_known {
            datagram.payload
        } else {
            &datagram.payload[..length.saturating_sub(self.info.crc_length.into())]
        };
        match self.framing.open(BytesMut::from(bytes)) {
            Ok(packet) => {
                let is_checked = self.can_prove();
                self.emit(cx, at, EventKind::Datagram { length, packet: &packet, is_checked })?;
                self.packet(cx, at, &packet, &packet, 0)
            }
            Err(OpenError::Corrupt(error)) => self.corrupt(cx, at, error.to_string()),
            // A heartbeat may come without a CRC (section 2 of the protocol).
            Err(_) if bytes == [0, soe_core::wire::opcode::HEARTBEAT] => {
                self.emit(cx, at, EventKind::Datagram { length, packet: bytes, is_checked: false })
            }
            Err(_) => {
                self.sides[at.direction.index()].counters.bad_crc += 1;
                self.find(cx, at, Finding::BadCrc { length })
            }
        }
    }

    fn arrived(&mut self, cx: &mut Context<'_>, datagram: &Datagram<'_>) -> io::Result<At> {
        let at = At { time: datagram.time, direction: self.direction(datagram.from) };
        let counters = &mut self.sides[at.direction.index()].counters;
        counters.datagrams += 1;
        counters.bytes += datagram.payload.len() as u64;
        let silence = at.time.saturating_sub(self.last);
        self.last = self.last.max(at.time);
        if silence > SILENCE { self.find(cx, at, Finding::Silence { lasted: silence }) } else { Ok(()) }?;
        Ok(at)
    }

    /// Takes another family's codec if the flags of the first datagrams are its own: the handshakes of two families can be
    /// alike.
    fn reconsider_codec(&mut self, cx: &mut Context<'_>, at: At, datagram: &[u8]) -> io::Result<()> {
        let passes = self.info.passes;
        let valid = !self.can_prove() || self.framing.verify(datagram);
        let end = datagram.len().saturating_sub(self.info.crc_length.into());
        let (seed, bytes) = (self.info.crc_seed.unwrap_or(0), &datagram[..end]);
        if !valid || bytes.is_empty() || flag_fits(bytes, seed, passes, &self.dialect) {
            return Ok(());
        }
        let others = ["h1z1", "everquest-zone", "star-wars-galaxies"].into_iter().filter_map(Dialect::by_name);
        let Some(other) = others.into_iter().find(|other| flag_fits(bytes, seed, passes, other)) else { return Ok(()) };
        self.info.dialect = other.name.clone().into_owned();
        self.dialect = other;
        if let Some(framing) = framing(&self.info, &self.dialect) {
            self.framing = framing;
        }
        let dialect = self.info.dialect.clone();
        self.find(cx, at, Finding::CodecChanged { dialect })
    }

    pub(super) fn malformed(&mut self, cx: &mut Context<'_>, at: At, error: DecodeError) -> io::Result<()> {
        self.corrupt(cx, at, error.to_string())
    }

    pub(super) fn corrupt(&mut self, cx: &mut Context<'_>, at: At, reason: String) -> io::Result<()> {
        self.sides[at.direction.index()].counters.corrupt += 1;
        self.find(cx, at, Finding::Corrupt { reason })
    }

    pub(super) fn find(&mut self, cx: &mut Context<'_>, at: At, finding: Finding) -> io::Result<()> {
        self.sides[at.direction.index()].counters.findings += 1;
        self.emit(cx, at, EventKind::Finding(&finding))
    }

    pub(super) fn emit(&self, cx: &mut Context<'_>, at: At, kind: EventKind<'_>) -> io::Result<()> {
        cx.event(&Event { time: at.time, session: self.number, direction: at.direction, kind })
    }

    pub(super) fn opened(&self, cx: &mut Context<'_>, at: At) -> io::Result<()> {
        self.emit(cx, at, EventKind::Opened(&self.info))
    }

    /// The client goes on from another address.
    pub(super) fn moved(
        &mut self,
        cx: &mut Context<'_>,
        time: u64,
        client: SocketAddr,
        server: SocketAddr,
    ) -> io::Result<()> {
        self.info.client = client;
        self.info.server = server;
        self.find(cx, At { time, direction: Direction::ToServer }, Finding::Moved { to: client.to_string() })
    }

    /// Nothing more comes: reports what is unfinished, and the summary.
    pub(super) fn finish(mut self, cx: &mut Context<'_>) -> io::Result<SessionSummary> {
        for direction in [Direction::ToServer, Direction::ToClient] {
            let at = At { time: self.last, direction };
            for channel in ReliableChannel::ALL {
                let stream = self.sides[direction.index()].streams[channel.index()].as_ref();
                let open = stream.map(|stream| stream.finish(cx, channel, at.time));
                for finding in open.into_iter().flatten() {
                    self.find(cx, at, finding)?;
                }
            }
        }
        let at = At { time: self.last, direction: Direction::ToServer };
        let summary = SessionSummary {
            first: self.first,
            last: self.last,
            ended: self.ended.take(),
            directions: [self.sides[0].counters, self.sides[1].counters],
            info: self.info.clone(),
        };
        self.emit(cx, at, EventKind::Closed(&summary))?;
        Ok(summary)
    }

    /// A copy of a part of the packet that shares its buffer.
    pub(super) fn part(whole: &Bytes, part: &[u8]) -> Bytes {
        if part.is_empty() { Bytes::new() } else { whole.slice_ref(part) }
    }
}

fn framing(info: &SessionInfo, dialect: &Dialect) -> Option<Framing> {
    // Without the seed the caller cuts the CRC off.
    let crc_length = if info.crc_seed.is_some() { info.crc_length } else { 0 };
    dialect.framing(info.crc_seed.unwrap_or(0), crc_length, info.passes).ok()
}
