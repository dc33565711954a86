//! The pcap format: a header of 24 bytes, then records of 16 bytes and a frame.

use std::io::Read;

use super::{CaptureError, Found, LinkType, source::Source};

const MICROSECONDS: u32 = 0xA1B2_C3D4;
const NANOSECONDS: u32 = 0xA1B2_3C4D;
const HEADER: usize = 24;
const RECORD: usize = 16;

#[derive(Debug)]
pub(super) struct Pcap {
    is_big_endian: bool,
    /// Nanoseconds in a unit of the fraction of a second.
    unit: u64,
    link: LinkType,
}

impl Pcap {
    pub(super) fn open<R: Read>(source: &mut Source<R>) -> Result<Self, CaptureError> {
        let Some(header) = source.peek(HEADER)?.and_then(|bytes| bytes.first_chunk::<HEADER>().copied()) else {
            return Err(CaptureError::NotACapture);
        };
        let [magic, network] = [0, 20].map(|at| [header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (is_big_endian, unit) = match (u32::from_be_bytes(magic), u32::from_le_bytes(magic)) {
            (MICROSECONDS, _) => (true, 1000),
            (_, MICROSECONDS) => (false, 1000),
            (NANOSECONDS, _) => (true, 1),
            (_, NANOSECONDS) => (false, 1),
            _ => return Err(CaptureError::NotACapture),
        };
        let network = if is_big_endian { u32::from_be_bytes(network) } else { u32::from_le_bytes(network) };
        source.consume(HEADER);
        // The upper bits say how long the frame check sequence is.
        Ok(Self { is_big_endian, unit, link: LinkType::from_number((network & 0xFFFF) as u16) })
    }

    pub(super) fn next<R: Read>(&self, source: &mut Source<R>) -> Result<Option<Found>, CaptureError> {
        if source.is_at_end()? {
            return Ok(None);
        }
        let Some(record) = source.peek(RECORD)?.and_then(|bytes| bytes.first_chunk::<RECORD>().copied()) else {
            return Err(source.cut_off());
        };
        let word = |at: usize| {
            let word = [record[at], record[at + 1], record[at + 2], record[at + 3]];
            if self.is_big_endian { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
        };
        let (seconds, fraction, len, original) = (word(0), word(4), word(8) as usize, word(12) as usize);
        if source.peek(RECORD.saturating_add(len))?.is_none() {
            return Err(source.cut_off());
        }
        let start = source.consume(RECORD + len) + RECORD;
        let time = u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit;
        Ok(Some(Found::Frame { time, link: self.link, start, len, is_cut: len < original }))
    }
}
