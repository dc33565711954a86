//! Multis: several packets in one datagram.

use super::{DecodeError, HEADER_LEN, opcode};

/// The longest piece that is ever put into a Multi, in bytes.
///
/// What the byte FF means before a piece differs between peers, so it is never sent. Source: section 5 of
/// `docs/protocol.md`.
pub const MAX_MULTI_PIECE: usize = 254;

/// Several packets in one datagram.
///
/// ```text
///  0     2
/// +-----+---------+-----+---------+-----+ - -
/// |00 03|u8 length|piece|u8 length|piece| ...
/// +-----+---------+-----+---------+-----+ - -
/// ```
///
/// A piece is whatever a datagram may be: raw data, a packet, a further Multi; [`Packet::decode`](super::Packet::decode)
/// reads it. Pieces carry neither CRC nor passes of their own.
///
/// The length byte FF is read three ways by different peers: as 255 and no more, as the mark of a u16 that follows, and,
/// as `FF FF FF`, as the mark of a u32. Before a 0 it is 255, since packets begin with 0; otherwise the longer form is
/// taken. Either way a reading after which the lengths do not end with the packet gives way to one after which they do.
/// Source: section 5 of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Multi<'a> {
    body: &'a [u8],
}

impl<'a> Multi<'a> {
    /// A Multi of these lengths and pieces: what follows the op code.
    pub const fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// The lengths and pieces as on the wire.
    pub const fn body(&self) -> &'a [u8] {
        self.body
    }

    /// The pieces in order.
    pub const fn pieces(&self) -> MultiPieces<'a> {
        MultiPieces { rest: self.body, tiled: None }
    }

    /// How many bytes [`encode`](Self::encode) appends.
    pub const fn encoded_len(&self) -> usize {
        HEADER_LEN + self.body.len()
    }

    /// Appends the packet to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_header(out);
        out.extend_from_slice(self.body);
    }
}

impl<'a> IntoIterator for Multi<'a> {
    type Item = Result<&'a [u8], DecodeError>;
    type IntoIter = MultiPieces<'a>;

    fn into_iter(self) -> MultiPieces<'a> {
        self.pieces()
    }
}

/// Appends the op code of a Multi; pieces follow it.
pub fn put_header(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, opcode::MULTI]);
}

/// The byte to put before a piece of `len` bytes; `None` for a piece longer than [`MAX_MULTI_PIECE`], which cannot be
/// in a Multi.
pub const fn length_byte(len: usize) -> Option<u8> {
    if len <= MAX_MULTI_PIECE { Some(len as u8) } else { None }
}

/// The pieces of a [`Multi`]. Empty ones are skipped; after an error nothing follows.
///
/// Takes time linear in the packet's length, and allocates only when it meets a length byte FF: then one byte for each
/// byte that is left.
#[derive(Clone, Debug)]
pub struct MultiPieces<'a> {
    rest: &'a [u8],
    /// Made at the first ambiguous length, for all that follow.
    tiled: Option<Tiled>,
}

impl<'a> Iterator for MultiPieces<'a> {
    type Item = Result<&'a [u8], DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(&first) = self.rest.first() {
            let split = if first == AMBIGUOUS { self.split_ambiguous() } else { split_plain(self.rest, first) };
            match split {
                Ok(([], rest)) => self.rest = rest,
                Ok((piece, rest)) => {
                    self.rest = rest;
                    return Some(Ok(piece));
                }
                Err(error) => {
                    self.rest = &[];
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

impl std::iter::FusedIterator for MultiPieces<'_> {}

impl<'a> MultiPieces<'a> {
    fn split_ambiguous(&mut self) -> Result<(&'a [u8], &'a [u8]), DecodeError> {
        let rest = self.rest;
        let tiled = self.tiled.get_or_insert_with(|| Tiled::new(rest));
        readings(rest)
            .into_iter()
            .flatten()
            .find(|reading| tiled.ends_even(rest.len() - reading.end))
            .map(|reading| (&rest[reading.start..reading.end], &rest[reading.end..]))
            .ok_or(DecodeError::NoPieceBoundary)
    }
}

fn split_plain(bytes: &[u8], length: u8) -> Result<(&[u8], &[u8]), DecodeError> {
    let rest = &bytes[1..];
    rest.split_at_checked(length.into())
        .ok_or_else(|| DecodeError::LengthBeyondEnd { length: length.into(), left: rest.len() })
}

/// Where a piece would begin and end if its length were read one way; always within the bytes it was read from.
#[derive(Clone, Copy, Debug)]
struct Reading {
    start: usize,
    end: usize,
}

impl Reading {
    fn new(bytes: &[u8], start: usize, length: u32) -> Option<Self> {
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        (end <= bytes.len()).then_some(Self { start, end })
    }
}

/// The ways to read a length at the front of `bytes`, the likeliest first.
fn readings(bytes: &[u8]) -> [Option<Reading>; 2] {
    let literal = |length: u8| Reading::new(bytes, 1, length.into());
    match *bytes {
        [AMBIGUOUS, AMBIGUOUS, AMBIGUOUS, a, b, c, d, ..] => {
            [Reading::new(bytes, 7, u32::from_be_bytes([a, b, c, d])), literal(AMBIGUOUS)]
        }
        [AMBIGUOUS, AMBIGUOUS, AMBIGUOUS, ..] => [literal(AMBIGUOUS), None],
        [AMBIGUOUS, 0, low, ..] => [literal(AMBIGUOUS), Reading::new(bytes, 3, low.into())],
        [AMBIGUOUS, high, low, ..] => {
            [Reading::new(bytes, 3, u16::from_be_bytes([high, low]).into()), literal(AMBIGUOUS)]
        }
        [length, ..] => [literal(length), None],
        [] => [None, None],
    }
}

/// For every position in a Multi, whether some reading of the lengths from there on ends exactly at the packet's end.
/// Computed from the back, so that each position needs two others only, whatever the bytes are.
#[derive(Clone, Debug)]
struct Tiled {
    /// By the number of bytes that are left.
    by_left: Vec<bool>,
}

impl Tiled {
    fn new(bytes: &[u8]) -> Self {
        let mut by_left = Vec::with_capacity(bytes.len() + 1);
        by_left.push(true);
        for left in 1..=bytes.len() {
            let bytes = &bytes[bytes.len() - left..];
            by_left.push(readings(bytes).into_iter().flatten().any(|reading| by_left[left - reading.end]));
        }
        Self { by_left }
    }

    fn ends_even(&self, left: usize) -> bool {
        self.by_left.get(left).copied().unwrap_or(false)
    }
}

/// The length byte of more than one meaning.
const AMBIGUOUS: u8 = 0xFF;

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(body: &[u8]) -> Result<Vec<&[u8]>, DecodeError> {
        Multi::new(body).pieces().collect()
    }

    const ACK: [u8; 4] = [0, 0x15, 0, 7];

    #[test]
    fn pieces_come_in_order_and_empty_ones_are_skipped() {
        assert_eq!(pieces(&[2, 0x68, 0x69, 0, 4, 0, 0x15, 0, 7, 0]), Ok(vec![&b"hi"[..], &ACK]));
        assert_eq!(pieces(&[]), Ok(vec![]));
    }

    #[test]
    fn a_length_past_the_end_ends_the_iteration_after_the_good_pieces() {
        let mut pieces = Multi::new(&[1, 7, 3, 8, 9]).pieces();
        assert_eq!(pieces.next(), Some(Ok(&[7][..])));
        assert_eq!(pieces.next(), Some(Err(DecodeError::LengthBeyondEnd { length: 3, left: 2 })));
        assert_eq!(pieces.next(), None);
    }

    #[test]
    fn ff_before_a_packet_is_a_literal_255() {
        let mut packet = [0x41; 255];
        packet[..4].copy_from_slice(&[0, 9, 0, 0]);
        assert_eq!(pieces(&[&[0xFF], &packet[..], &[4], &ACK].concat()), Ok(vec![&packet[..], &ACK]));
    }

    #[test]
    fn ff_before_raw_data_is_a_literal_255_when_only_that_comes_out_even() {
        let data = [0x01; 255];
        assert_eq!(pieces(&[&[0xFF], &data[..], &[4], &ACK].concat()), Ok(vec![&data[..], &ACK]));
        let data = [0xFF; 255];
        assert_eq!(pieces(&[&[0xFF], &data[..]].concat()), Ok(vec![&data[..]]));
    }

    #[test]
    fn ff_before_a_long_piece_marks_a_u16() {
        let mut packet = [0x41; 300];
        packet[..4].copy_from_slice(&[0, 9, 0, 0]);
        let body = [&[0xFF, 0x01, 0x2C], &packet[..], &[4], &ACK].concat();
        assert_eq!(pieces(&body), Ok(vec![&packet[..], &ACK]));
    }

    #[test]
    fn a_u16_of_255_is_read_when_the_literal_would_overrun() {
        let mut packet = [0x41; 255];
        packet[..4].copy_from_slice(&[0, 9, 0, 0]);
        assert_eq!(pieces(&[&[0xFF, 0x00, 0xFF], &packet[..]].concat()), Ok(vec![&packet[..]]));
    }

    #[test]
    fn where_both_readings_come_out_even_the_literal_wins_before_a_zero_and_only_there() {
        let mut zeros = [0; 256];
        zeros[1] = 9;
        assert_eq!(pieces(&[&[0xFF], &zeros[..255]].concat()), Ok(vec![&zeros[..255]]));
        assert_eq!(pieces(&[&[0xFF, 0x01, 0x00], &zeros[..]].concat()), Ok(vec![&zeros[..]]));
    }

    #[test]
    fn three_ff_mark_a_u32() {
        let mut packet = vec![0x41; 65_535];
        packet[..4].copy_from_slice(&[0, 9, 0, 0]);
        let body = [&[0xFF, 0xFF, 0xFF, 0x00, 0x00, 0xFF, 0xFF], &packet[..], &[4], &ACK].concat();
        assert_eq!(pieces(&body), Ok(vec![&packet[..], &ACK]));
    }

    #[test]
    fn an_ambiguous_length_that_never_comes_out_even_is_an_error() {
        assert_eq!(pieces(&[0xFF, 0x00, 0x09, 1, 2]), Err(DecodeError::NoPieceBoundary));
        assert_eq!(pieces(&[0xFF]), Err(DecodeError::NoPieceBoundary));
        assert_eq!(pieces(&[0xFF; 8]), Err(DecodeError::NoPieceBoundary));
    }

    #[test]
    fn a_second_ambiguous_length_is_decided_on_its_own() {
        let literal = [0x02; 255];
        let mut long = [0x41; 256];
        long[0] = 0;
        let body = [&[0xFF], &literal[..], &[0xFF, 0x01, 0x00], &long, &[0xFF], &literal].concat();
        assert_eq!(pieces(&body), Ok(vec![&literal[..], &long, &literal]));
    }

    #[test]
    fn a_megabyte_of_ambiguous_lengths_takes_linear_time() {
        // Every position has two readings: a search that tried them in turn would never end.
        let mut body = vec![0xFF; 1 << 20];
        body.push(1);
        assert!(Multi::new(&body).pieces().count() <= 1 << 20);
    }

    #[test]
    fn no_piece_that_needs_the_byte_ff_is_ever_sent() {
        assert_eq!(length_byte(0), Some(0));
        assert_eq!(length_byte(254), Some(254));
        assert_eq!(length_byte(255), None);
        assert_eq!(length_byte(256), None);
    }
}
