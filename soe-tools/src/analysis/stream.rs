//! One reliable channel in one direction: what is under way, and what has been put together.

use std::io;

use bytes::Bytes;
use soe_core::ReliableChannel;
use soe_core::wire::{MAX_NESTING, Payload};

use super::assembly::{Assembly, Output, Piece};
use super::event::Carrier;
use super::flight::{Acked, Flight};
use super::session::{At, Session};
use super::{Context, EventKind, Finding, Message, Transmission};

/// Data under way for so long without an acknowledgement is a stall, in nanoseconds.
const STALL: u64 = 1_000_000_000;
/// An acknowledgement that takes longer is late: version 3 clients acknowledge every 500 ms at the slowest.
const LATE: u64 = 600_000_000;

#[derive(Debug)]
pub(super) struct Stream {
    flight: Flight,
    assembly: Assembly,
}

impl Stream {
    fn new(base: u64, is_start: bool, time: u64) -> Self {
        Self { flight: Flight::new(base, time), assembly: Assembly::new(base, is_start) }
    }

    /// Bytes of memory that are held.
    fn held(&self) -> usize {
        self.flight.held() + self.assembly.held()
    }

    /// Gives back what is held, and says what is left open.
    pub(super) fn finish(&self, cx: &mut Context<'_>, channel: ReliableChannel, time: u64) -> Vec<Finding> {
        *cx.held = cx.held.saturating_sub(self.held());
        let channel = channel.index();
        let gap = self.assembly.gap().map(|(from, to, waiting)| Finding::OpenGap { channel, from, to, waiting });
        let waiting = self.flight.waiting(time).filter(|(lasted, _)| *lasted > STALL);
        let stall =
            waiting.map(|(lasted, in_flight)| Finding::Stall { channel, lasted, in_flight, is_unfinished: true });
        gap.into_iter().chain(stall).collect()
    }
}

/// A reliable packet or fragment.
pub(super) struct Sequenced {
    pub(super) channel: ReliableChannel,
    pub(super) low: u16,
    /// Of the whole packet.
    pub(super) length: usize,
    pub(super) body: Bytes,
    pub(super) is_fragment: bool,
}

impl Session {
    pub(super) fn sequenced(&mut self, cx: &mut Context<'_>, at: At, packet: Sequenced) -> io::Result<()> {
        let Sequenced { channel, low, length, body, is_fragment } = packet;
        let is_from_start = self.is_from_start;
        let side = &mut self.sides[at.direction.index()];
        let counters = &mut side.counters;
        let round_trip = (counters.round_trips > 0).then_some(counters.round_trip_min);
        let base = if is_from_start { 0 } else { u64::from(low) };
        let stream =
            side.streams[channel.index()].get_or_insert_with(|| Box::new(Stream::new(base, is_from_start, at.time)));
        let before = stream.held();
        let sent = stream.flight.sent(&mut side.clock, at.time, low, length, round_trip);
        let (sequence, transmission) = (sent.sequence, sent.transmission);
        match transmission {
            Transmission::First => counters.reliable_packets += 1,
            Transmission::Late => {
                counters.reliable_packets += 1;
                counters.late += 1;
            }
            Transmission::ResendAfterGap => counters.resent_after_gap += 1,
            Transmission::ResendAfterTimeout => counters.resent_after_timeout += 1,
            Transmission::ResendEarly => counters.resent_early += 1,
            Transmission::ResendNeedless => counters.resent_needlessly += 1,
        }
        self.emit(cx, at, EventKind::Reliable { channel, sequence, length, is_fragment, transmission })?;
        let channel_number = channel.index();
        if transmission != Transmission::First {
            let (after, copies) = (sent.after, sent.copies);
            let finding = Finding::Resend { channel: channel_number, sequence, cause: transmission, after, copies };
            self.find(cx, at, finding)?;
        } else if sent.beyond > 0 {
            self.find(cx, at, Finding::OutOfWindow { channel: channel_number, sequence, ahead: sent.beyond })?;
        }
        self.in_flight(cx, at)?;
        let piece = Piece { bytes: body, time: at.time, is_fragment };
        self.assemble(cx, at, channel, |assembly| assembly.insert(sequence, piece))?;
        self.settle(cx, at, channel, before)
    }

    /// An acknowledgement: it is about data that travels the other way.
    pub(super) fn acknowledged(
        &mut self,
        cx: &mut Context<'_>,
        at: At,
        channel: ReliableChannel,
        low: u16,
        is_cumulative: bool,
    ) -> io::Result<()> {
        let data = At { direction: at.direction.reversed(), ..at };
        let side = &mut self.sides[data.direction.index()];
        let stream = &mut side.streams[channel.index()];
        if stream.is_none() && !self.is_from_start && is_cumulative {
            let mut joined = Stream::new(u64::from(low) + 1, false, at.time);
            joined.flight.skip_to(low);
            *stream = Some(Box::new(joined));
            return self.emit(cx, at, EventKind::Acknowledged { channel, sequence: low.into(), is_cumulative });
        }
        let before = stream.as_ref().map_or(0, |stream| stream.held());
        let acked = match stream {
            None => Acked { sequence: low.into(), is_of_unsent: self.is_from_start, ..Acked::default() },
            Some(stream) if is_cumulative => stream.flight.acknowledge_all(&mut side.clock, at.time, low),
            Some(stream) => stream.flight.acknowledge(&mut side.clock, at.time, low),
        };
        let sequence = acked.sequence;
        self.emit(cx, at, EventKind::Acknowledged { channel, sequence, is_cumulative })?;
        if acked.is_of_unsent {
            return self.find(cx, at, Finding::AckOfUnsent { channel: channel.index(), sequence });
        }
        self.judge_delay(cx, data, channel, &acked)?;
        if let Some((from, to)) = acked.missing {
            let count = acked.missing_count;
            self.sides[data.direction.index()].counters.missing += count;
            self.find(cx, data, Finding::MissingFromCapture { channel: channel.index(), from, to, count })?;
        }
        if is_cumulative {
            // The peer has it all: what has not been seen by now will not be.
            self.skip(cx, data, channel, sequence)?;
        }
        self.in_flight(cx, data)?;
        self.settle(cx, data, channel, before)
    }

    /// Keeps account of what a channel holds, and lets go of it when all sessions together hold too much.
    fn settle(&mut self, cx: &mut Context<'_>, at: At, channel: ReliableChannel, before: usize) -> io::Result<()> {
        let stream = self.sides[at.direction.index()].streams[channel.index()].as_mut();
        let Some(stream) = stream else { return Ok(()) };
        *cx.held = (*cx.held + stream.held()).saturating_sub(before);
        if *cx.held <= cx.held_limit {
            return Ok(());
        }
        *cx.held = cx.held.saturating_sub(stream.held());
        stream.assembly.clear();
        stream.flight.clear(at.time);
        let reason = "what waited was dropped, because all sessions together hold too much".into();
        self.find(cx, at, Finding::BrokenTrain { channel: channel.index(), reason })?;
        self.key_stream_lost(cx, at, channel)
    }

    fn judge_delay(
        &mut self,
        cx: &mut Context<'_>,
        data: At,
        channel: ReliableChannel,
        acked: &Acked,
    ) -> io::Result<()> {
        if let Some(time) = acked.round_trip {
            let counters = &mut self.sides[data.direction.index()].counters;
            let is_first = counters.round_trips == 0;
            counters.round_trips += 1;
            counters.round_trip_min = if is_first { time } else { counters.round_trip_min.min(time) };
            counters.round_trip_max = counters.round_trip_max.max(time);
            let smoothed = counters.round_trip_smoothed;
            counters.round_trip_smoothed = if is_first { time } else { smoothed - smoothed / 8 + time / 8 };
            self.emit(cx, data, EventKind::RoundTrip { time })?;
        }
        let channel = channel.index();
        match (acked.waited, acked.round_trip) {
            (Some((lasted, in_flight)), _) if lasted > STALL => {
                self.find(cx, data, Finding::Stall { channel, lasted, in_flight, is_unfinished: false })
            }
            (_, Some(after)) if after > LATE => {
                self.find(cx, data, Finding::LateAck { channel, sequence: acked.sequence, after })
            }
            _ => Ok(()),
        }
    }

    /// Goes on behind packets that the peer has and the capture has not.
    fn skip(&mut self, cx: &mut Context<'_>, data: At, channel: ReliableChannel, through: u64) -> io::Result<()> {
        loop {
            let stream = self.sides[data.direction.index()].streams[channel.index()].as_mut();
            if !stream.is_some_and(|stream| stream.assembly.skip_through(through)) {
                return Ok(());
            }
            self.key_stream_lost(cx, data, channel)?;
            self.assemble(cx, data, channel, |_| None)?;
        }
    }

    fn key_stream_lost(&mut self, cx: &mut Context<'_>, data: At, channel: ReliableChannel) -> io::Result<()> {
        if self.sides[data.direction.index()].decryption.lose(channel) {
            self.find(cx, data, Finding::KeyStreamLost { channel: channel.index() })?;
        }
        Ok(())
    }

    fn in_flight(&mut self, cx: &mut Context<'_>, at: At) -> io::Result<()> {
        let side = &mut self.sides[at.direction.index()];
        let streams = || side.streams.iter().flatten();
        let bytes = streams().map(|stream| stream.flight.bytes()).sum::<usize>();
        let packets = streams().map(|stream| stream.flight.packets()).sum();
        side.counters.in_flight_max = side.counters.in_flight_max.max(bytes as u64);
        self.emit(cx, at, EventKind::InFlight { direction: at.direction, bytes, packets })
    }

    /// Changes what waits on a channel, and takes out what is in order.
    fn assemble(
        &mut self,
        cx: &mut Context<'_>,
        at: At,
        channel: ReliableChannel,
        change: impl FnOnce(&mut Assembly) -> Option<(u64, u64)>,
    ) -> io::Result<()> {
        let (side, index) = (at.direction.index(), channel.index());
        let Some(stream) = self.sides[side].streams[index].as_mut() else { return Ok(()) };
        let given_up = change(&mut stream.assembly);
        if let Some((from, to)) = given_up {
            self.find(cx, at, Finding::GapGivenUp { channel: index, from, to })?;
            self.key_stream_lost(cx, at, channel)?;
        }
        while let Some(output) = self.sides[side].streams[index].as_mut().and_then(|stream| stream.assembly.pop()) {
            match output {
                Output::Broken(reason) => self.find(cx, at, Finding::BrokenTrain { channel: index, reason })?,
                Output::Payload { raw, first, packets, started } => {
                    let frame = Frame { channel, sequence: first, packets, took: at.time - started.min(at.time) };
                    self.payload(cx, at, frame, &raw, &raw, 0)?;
                }
            }
        }
        Ok(())
    }

    /// A reliable payload, or an element of a Group.
    fn payload(
        &mut self,
        cx: &mut Context<'_>,
        at: At,
        frame: Frame,
        whole: &Bytes,
        bytes: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        match Payload::classify(bytes) {
            Payload::Group(_) if depth >= MAX_NESTING => self.corrupt(cx, at, "Groups nested too deep".into()),
            Payload::Group(group) => {
                for element in group.elements() {
                    match element {
                        Ok(element) => self.payload(cx, at, frame, whole, element, depth + 1)?,
                        Err(error) => self.malformed(cx, at, error)?,
                    }
                }
                Ok(())
            }
            Payload::Message(raw) => {
                let raw = Self::part(whole, raw);
                let side = &mut self.sides[at.direction.index()];
                let number = side.decryption.count;
                side.counters.messages += 1;
                match side.decryption.open(frame.channel, raw) {
                    Ok((payload, is_decrypted)) => {
                        let Frame { channel, sequence, packets, took } = frame;
                        let carrier = Carrier::Reliable(channel, sequence);
                        let payload = &payload[..];
                        let message = Message { carrier, number, payload, is_decrypted, packets, took };
                        self.emit(cx, at, EventKind::Message(message))
                    }
                    Err(reason) => self.find(cx, at, Finding::BadKey { reason }),
                }
            }
        }
    }
}

/// How a payload came.
#[derive(Clone, Copy)]
struct Frame {
    channel: ReliableChannel,
    /// Of its first packet.
    sequence: u64,
    packets: u32,
    took: u64,
}
