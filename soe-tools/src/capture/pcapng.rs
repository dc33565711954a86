//! The pcapng format: blocks that say their type and length at both ends.

use std::io::Read;

use soe_core::recording::pcapng::{
    BYTE_ORDER, ENHANCED_PACKET, INTERFACE, SECRETS, SECRETS_KEYS, SECRETS_RECORDING, SECTION_HEADER,
};

use super::{CaptureError, Found, LinkType, source::Source};

const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const OPTION_RESOLUTION: u16 = 9;
const OPTION_OFFSET: u16 = 14;
/// Interfaces of one section that are remembered; no machine has more.
const MAX_INTERFACES: usize = 4096;
/// Type, length, and the length again at the end.
const FRAMING: usize = 12;

#[derive(Debug, Default)]
pub(super) struct Pcapng {
    is_big_endian: bool,
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: LinkType,
    /// Units of a timestamp in a second.
    units: u64,
    /// Added to every timestamp, in seconds.
    offset: i64,
    /// Frames are cut to this many bytes; 0: they are not.
    snap: u32,
}

impl Pcapng {
    pub(super) fn next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<Found>, CaptureError> {
        if source.is_at_end()? {
            return Ok(None);
        }
        let Some(head) = source.peek(FRAMING)?.and_then(|bytes| bytes.first_chunk::<FRAMING>().copied()) else {
            return Err(source.cut_off());
        };
        if head[..4] == SECTION_HEADER.to_be_bytes() {
            self.is_big_endian = head[8..12] == BYTE_ORDER.to_be_bytes();
            if !self.is_big_endian && head[8..12] != BYTE_ORDER.to_le_bytes() {
                return Err(source.malformed("a section without a byte order"));
            }
            self.interfaces.clear();
        }
        let (kind, len) = (self.u32(&head, 0), self.u32(&head, 4) as usize);
        if len < FRAMING || !len.is_multiple_of(4) {
            return Err(source.malformed("a block of an impossible length"));
        }
        let Some(block) = source.peek(len)? else { return Err(source.cut_off()) };
        let found = self.block(kind, &block[8..len - 4]);
        let body = 8 + source.consume(len);
        Ok(Some(match found.map_err(|what| source.malformed(what))? {
            Found::Frame { time, link, start, len, is_cut } => {
                Found::Frame { time, link, start: body + start, len, is_cut }
            }
            Found::Secrets { start, len } => Found::Secrets { start: body + start, len },
            Found::Recording { start, len } => Found::Recording { start: body + start, len },
            Found::Nothing => Found::Nothing,
        }))
    }

    /// Reads one block; what it finds counts from the start of its body.
    fn block(&mut self, kind: u32, body: &[u8]) -> Result<Found, &'static str> {
        const SHORT: &str = "a block that is shorter than its fields";
        match kind {
            INTERFACE => {
                let interface = self.interface(body).ok_or(SHORT)?;
                if self.interfaces.len() == MAX_INTERFACES {
                    return Err("more interfaces than a machine has");
                }
                self.interfaces.push(interface);
                Ok(Found::Nothing)
            }
            ENHANCED_PACKET | OBSOLETE_PACKET => {
                let _ = body.get(..20).ok_or(SHORT)?;
                let number = if kind == ENHANCED_PACKET { self.u32(body, 0) } else { self.u16(body, 0).into() };
                let interface = self.interfaces.get(number as usize).ok_or("a frame of an unknown interface")?;
                let stamp = u64::from(self.u32(body, 4)) << 32 | u64::from(self.u32(body, 8));
                let (len, original) = (self.u32(body, 12) as usize, self.u32(body, 16) as usize);
                body[20..].get(..len).ok_or("a frame that is longer than its block")?;
                let (time, link) = (interface.nanoseconds(stamp), interface.link);
                Ok(Found::Frame { time, link, start: 20, len, is_cut: len < original })
            }
            SIMPLE_PACKET => {
                let _ = body.get(..4).ok_or(SHORT)?;
                let interface = self.interfaces.first().ok_or("a frame of an unknown interface")?;
                let original = self.u32(body, 0) as usize;
                let snap = if interface.snap == 0 { usize::MAX } else { interface.snap as usize };
                let len = original.min(snap).min(body.len() - 4);
                Ok(Found::Frame { time: 0, link: interface.link, start: 4, len, is_cut: len < original })
            }
            SECRETS => {
                let _ = body.get(..8).ok_or(SHORT)?;
                let len = self.u32(body, 4) as usize;
                body[8..].get(..len).ok_or("secrets that are longer than their block")?;
                Ok(match self.u32(body, 0) {
                    SECRETS_KEYS => Found::Secrets { start: 8, len },
                    SECRETS_RECORDING => Found::Recording { start: 8, len },
                    _ => Found::Nothing,
                })
            }
            _ => Ok(Found::Nothing),
        }
    }

    fn interface(&self, body: &[u8]) -> Option<Interface> {
        body.get(..8)?;
        let link = LinkType::from_number(self.u16(body, 0));
        let mut interface = Interface { link, units: 1_000_000, offset: 0, snap: self.u32(body, 4) };
        let mut options = &body[8..];
        while options.len() >= 4 {
            let (code, len) = (self.u16(options, 0), usize::from(self.u16(options, 2)));
            let Some(value) = options[4..].get(..len) else { break };
            match (code, value) {
                (0, _) => break,
                (OPTION_RESOLUTION, [resolution]) => interface.units = units(*resolution),
                (OPTION_OFFSET, value) if len == 8 => {
                    let [high, low] = [0, 4].map(|at| u64::from(self.u32(value, at)));
                    let (first, second) = if self.is_big_endian { (high, low) } else { (low, high) };
                    interface.offset = (first << 32 | second) as i64;
                }
                _ => {}
            }
            options = options[4..].get(len.next_multiple_of(4)..).unwrap_or_default();
        }
        Some(interface)
    }

    fn u32(&self, bytes: &[u8], at: usize) -> u32 {
        let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
        if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
    }

    fn u16(&self, bytes: &[u8], at: usize) -> u16 {
        let half = [bytes[at], bytes[at + 1]];
        if self.is_big_endian { u16::from_be_bytes(half) } else { u16::from_le_bytes(half) }
    }
}

impl Interface {
    fn nanoseconds(&self, stamp: u64) -> u64 {
        let (seconds, rest) = (stamp / self.units, stamp % self.units);
        let nanoseconds = u128::from(rest) * 1_000_000_000 / u128::from(self.units);
        seconds.saturating_add_signed(self.offset).saturating_mul(1_000_000_000).saturating_add(nanoseconds as u64)
    }
}

/// A power of ten, or of two where the top bit is set. What 64 bits do not hold is taken as the finest that they do.
fn units(resolution: u8) -> u64 {
    let exponent = u32::from(resolution & 0x7F);
    if resolution & 0x80 == 0 { 10u64.pow(exponent.min(19)) } else { 1u64 << exponent.min(63) }
}
