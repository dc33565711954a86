//! Several packets in one datagram (sections 5 and 7 of `docs/protocol.md`).

use crate::wire::{MAX_MULTI_PIECE, opcode};

/// Op code of a Multi.
const MULTI_HEADER: usize = 2;
/// The length byte in front of each piece of a Multi.
const PIECE_LENGTH: usize = 1;

/// The bytes that a piece takes in addition to its packet.
pub(in crate::session) const PIECE_OVERHEAD: usize = PIECE_LENGTH;

/// A datagram under construction at the end of a buffer: one plain packet, or a Multi from the second packet on.
#[derive(Debug)]
pub(in crate::session) struct DatagramBuilder<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    limit: usize,
    pieces: usize,
}

impl<'a> DatagramBuilder<'a> {
    /// A datagram of at most `limit` bytes after the content of `out`.
    pub(in crate::session) fn new(out: &'a mut Vec<u8>, limit: usize) -> Self {
        Self { start: out.len(), out, limit, pieces: 0 }
    }

    /// The largest packet that can be added, in bytes; zero if there is no room.
    pub(in crate::session) fn room(&self) -> usize {
        let length = self.len();
        let taken = match self.pieces {
            0 => return self.limit,
            1 if length > MAX_MULTI_PIECE => return 0,
            1 => MULTI_HEADER + PIECE_LENGTH + length + PIECE_LENGTH,
            _ => length + PIECE_LENGTH,
        };
        self.limit.saturating_sub(taken).min(MAX_MULTI_PIECE)
    }

    /// The size so far, in bytes.
    pub(in crate::session) fn len(&self) -> usize {
        self.out.len() - self.start
    }

    pub(in crate::session) fn is_empty(&self) -> bool {
        self.pieces == 0
    }

    /// Adds the packet that `write` appends, if it appends one. The packet must not exceed [`room`](Self::room).
    pub(in crate::session) fn add<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Option<T>) -> Option<T> {
        let before = self.out.len();
        if self.pieces > 1 {
            self.out.push(0);
        }
        let written = write(self.out);
        if written.is_none() {
            self.out.truncate(before);
            return None;
        }
        match self.pieces {
            0 => {}
            1 => self.make_multi(before),
            _ => self.out[before] = piece_length(self.out.len() - before - PIECE_LENGTH),
        }
        self.pieces += 1;
        written
    }

    /// Converts two plain packets, the second at `second`, into the pieces of a Multi.
    fn make_multi(&mut self, second: usize) {
        let (first_length, second_length) = (second - self.start, self.out.len() - second);
        let head = MULTI_HEADER + PIECE_LENGTH;
        self.out.resize(self.out.len() + head + PIECE_LENGTH, 0);
        self.out.copy_within(second..second + second_length, second + head + PIECE_LENGTH);
        self.out.copy_within(self.start..second, self.start + head);
        self.out[self.start..self.start + MULTI_HEADER].copy_from_slice(&[0, opcode::MULTI]);
        self.out[self.start + MULTI_HEADER] = piece_length(first_length);
        self.out[second + head] = piece_length(second_length);
    }
}

fn piece_length(length: usize) -> u8 {
    debug_assert!(length <= MAX_MULTI_PIECE, "a piece of {length} bytes");
    length as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Packet;

    fn add(builder: &mut DatagramBuilder<'_>, bytes: &[u8]) {
        assert!(bytes.len() <= builder.room());
        let written = builder.add(|out| {
            out.extend_from_slice(bytes);
            Some(())
        });
        assert!(written.is_some());
    }

    #[test]
    fn one_packet_stays_bare() {
        let mut out = b"before".to_vec();
        add(&mut DatagramBuilder::new(&mut out, 100), b"abc");
        assert_eq!(out, b"beforeabc");
    }

    #[test]
    fn several_packets_become_a_multi() {
        let mut out = b"before".to_vec();
        let mut builder = DatagramBuilder::new(&mut out, 100);
        for piece in [&b"abc"[..], b"de", b"f"] {
            add(&mut builder, piece);
        }
        let Ok(Packet::Multi(multi)) = Packet::decode(&out[6..]) else { panic!("not a Multi: {out:x?}") };
        let pieces: Vec<_> = multi.pieces().map(Result::unwrap).collect();
        assert_eq!(pieces, [&b"abc"[..], b"de", b"f"]);
    }

    #[test]
    fn room_leads_to_the_limit_and_not_beyond() {
        for first in 1..=254 {
            let mut out = Vec::new();
            let mut builder = DatagramBuilder::new(&mut out, 506);
            add(&mut builder, &vec![1; first]);
            while builder.room() > 0 {
                let room = builder.room();
                add(&mut builder, &vec![2; room]);
            }
            assert!((505..=506).contains(&out.len()), "{first}: {}", out.len());
        }
    }

    #[test]
    fn nothing_joins_a_packet_that_is_no_piece() {
        let mut out = Vec::new();
        let mut builder = DatagramBuilder::new(&mut out, 506);
        add(&mut builder, &[1; 255]);
        assert_eq!(builder.room(), 0);
    }

    #[test]
    fn a_packet_that_is_not_written_leaves_no_trace() {
        let mut out = Vec::new();
        let mut builder = DatagramBuilder::new(&mut out, 506);
        add(&mut builder, b"a");
        add(&mut builder, b"b");
        assert_eq!(builder.add(|_| None::<()>), None);
        assert_eq!(out.len(), 2 + 2 + 2);
    }
}
