//! Walks through the packets of a datagram.

use std::io;

use bytes::Bytes;
use soe_core::wire::{MAX_NESTING, OrderedStream, Packet, unescape};

use super::event::Carrier;
use super::session::{At, Session};
use super::stream::Sequenced;
use super::{Context, EventKind, Finding, Message};

/// Stamps further ahead are taken for old ones (section 7 of the protocol).
const MAX_STAMP: u16 = 30_000;

impl Session {
    /// One packet: a whole datagram, or a piece of a Multi.
    pub(super) fn packet(
        &mut self,
        cx: &mut Context<'_>,
        at: At,
        whole: &Bytes,
        bytes: &[u8],
        depth: usize,
    ) -> io::Result<()> {
        let packet = match Packet::decode(bytes) {
            Ok(packet) => packet,
            Err(error) => return self.malformed(cx, at, error),
        };
        let length = bytes.len();
        match packet {
            Packet::Multi(_) if depth >= MAX_NESTING => self.corrupt(cx, at, "Multis nested too deep".into()),
            Packet::Multi(multi) => {
                for piece in multi.pieces() {
                    match piece {
                        Ok(piece) => self.packet(cx, at, whole, piece, depth + 1)?,
                        Err(error) => self.malformed(cx, at, error)?,
                    }
                }
                Ok(())
            }
            Packet::Reliable(data) => {
                let (channel, low) = (data.channel, data.sequence);
                let body = Self::part(whole, data.payload);
                self.sequenced(cx, at, Sequenced { channel, low, length, body, is_fragment: false })
            }
            Packet::Fragment(fragment) => {
                let (channel, low) = (fragment.channel, fragment.sequence);
                let body = Self::part(whole, fragment.body);
                self.sequenced(cx, at, Sequenced { channel, low, length, body, is_fragment: true })
            }
            Packet::Acknowledge(ack) => self.acknowledged(cx, at, ack.channel, ack.sequence, false),
            Packet::AcknowledgeAll(ack) => self.acknowledged(cx, at, ack.channel, ack.sequence, true),
            Packet::Data(data) => self.message(cx, at, Carrier::Unreliable, data),
            Packet::Group(group) => {
                for element in group.elements() {
                    match element {
                        Ok(element) => self.message(cx, at, Carrier::Unreliable, unescape(element))?,
                        Err(error) => self.malformed(cx, at, error)?,
                    }
                }
                Ok(())
            }
            Packet::Ordered(data) => {
                let second = data.stream == OrderedStream::Two;
                self.stamp(cx, at, second, data.stamp)?;
                self.message(cx, at, Carrier::Ordered(second, data.stamp), data.payload)
            }
            Packet::Disconnect(disconnect) => {
                let reason = disconnect.reason.unwrap_or_default();
                self.ended = Some(format!("{}: {reason}", at.direction.name()));
                Ok(())
            }
            // Shown with their datagram; there is nothing to follow.
            _ => Ok(()),
        }
    }

    fn stamp(&mut self, cx: &mut Context<'_>, at: At, second: bool, stamp: u16) -> io::Result<()> {
        let last = &mut self.sides[at.direction.index()].stamps[usize::from(second)];
        let Some(known) = *last else {
            *last = Some(stamp);
            return Ok(());
        };
        let ahead = stamp.wrapping_sub(known);
        if (1..=MAX_STAMP).contains(&ahead) {
            *last = Some(stamp);
            let skipped = Finding::StampsSkipped { count: ahead - 1 };
            return if ahead > 1 { self.find(cx, at, skipped) } else { Ok(()) };
        }
        self.find(cx, at, Finding::StampOvertaken { stamp })
    }

    fn message(&mut self, cx: &mut Context<'_>, at: At, carrier: Carrier, payload: &[u8]) -> io::Result<()> {
        let side = &mut self.sides[at.direction.index()];
        side.counters.messages += 1;
        let message = Message { carrier, number: 0, payload, is_decrypted: false, packets: 1, took: 0 };
        self.emit(cx, at, EventKind::Message(message))
    }
}
