//! Puts the packets of one direction of one channel into order, and fragments together.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

/// Packets that may wait behind a gap: more than the wire can name.
const MAX_AHEAD: usize = 30_000;
/// Bytes that may wait behind a gap, datagrams counted whole.
const MAX_AHEAD_BYTES: usize = 8 << 20;
/// The longest message that is put together, in bytes.
const MAX_MESSAGE: usize = 10 << 20;

#[derive(Debug)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    pub(super) time: u64,
    pub(super) is_fragment: bool,
}

/// What comes out, in order.
pub(super) enum Output {
    /// One payload: a message or a Group.
    Payload { raw: Bytes, first: u64, packets: u32, started: u64 },
    /// A series contradicts itself and was dropped.
    Broken(String),
}

#[derive(Debug)]
enum Series {
    None,
    /// Something was missed: whether a fragment is the first of its series is not known.
    Unknown,
    Open {
        total: usize,
        data: BytesMut,
        first: u64,
        packets: u32,
        started: u64,
    },
}

#[derive(Debug)]
pub(super) struct Assembly {
    /// The next sequence number in order.
    next: u64,
    /// The packet with that number, if it is there.
    ready: Option<Piece>,
    ahead: BTreeMap<u64, Piece>,
    ahead_bytes: usize,
    series: Series,
    /// The longest fragment so far: a shorter one ends its series.
    longest: usize,
}

impl Assembly {
    /// `is_start`: whether the first packet is the channel's first ever.
    pub(super) fn new(next: u64, is_start: bool) -> Self {
        let series = if is_start { Series::None } else { Series::Unknown };
        Self { next, ready: None, ahead: BTreeMap::new(), ahead_bytes: 0, series, longest: 0 }
    }

    /// Bytes that are held.
    pub(super) fn held(&self) -> usize {
        let series = if let Series::Open { data, .. } = &self.series { data.len() } else { 0 };
        self.ahead_bytes + series
    }

    /// The gap at which reassembly waits: its first and last sequence number, and how many packets wait behind it.
    pub(super) fn gap(&self) -> Option<(u64, u64, usize)> {
        let first = self.ahead.keys().next()?;
        Some((self.next, first - 1, self.ahead.len()))
    }

    /// Takes a packet. Copies of what is there or has passed are dropped. Returns the gap that was given up because too much
    /// waits behind it.
    pub(super) fn insert(&mut self, sequence: u64, piece: Piece) -> Option<(u64, u64)> {
        if sequence == self.next && self.ready.is_none() {
            self.ready = Some(piece);
            return None;
        }
        if sequence > self.next && !self.ahead.contains_key(&sequence) {
            self.ahead_bytes += piece.bytes.len();
            self.ahead.insert(sequence, piece);
        }
        if self.ahead.len() > MAX_AHEAD || self.ahead_bytes > MAX_AHEAD_BYTES { self.give_up() } else { None }
    }

    /// The next output, while there is any in order.
    pub(super) fn pop(&mut self) -> Option<Output> {
        loop {
            let piece = self.ready.take().or_else(|| {
                let piece = self.ahead.remove(&self.next)?;
                self.ahead_bytes -= piece.bytes.len();
                Some(piece)
            })?;
            let sequence = self.next;
            self.next += 1;
            let output = if piece.is_fragment { self.fragment(sequence, piece) } else { self.whole(sequence, piece) };
            if output.is_some() {
                return output;
            }
        }
    }

    /// Goes on behind packets that will not come: all up to `through`. True if any had not come.
    pub(super) fn skip_through(&mut self, through: u64) -> bool {
        // What is there in the gap comes out first; a hole in it ends the open series.
        if self.next > through {
            return false;
        }
        self.lose(self.ahead.range(self.next..).next().map_or(through + 1, |(first, _)| (*first).min(through + 1)));
        true
    }

    /// Drops the gap before the first packet that is there.
    pub(super) fn give_up(&mut self) -> Option<(u64, u64)> {
        let (first, from) = (*self.ahead.keys().next()?, self.next);
        self.lose(first);
        Some((from, first - 1))
    }

    /// Drops everything that is held.
    pub(super) fn clear(&mut self) {
        let next = self.ahead.keys().next_back().map_or(self.next, |last| last + 1);
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.lose(next);
    }

    fn lose(&mut self, next: u64) {
        self.next = next;
        self.series = Series::Unknown;
    }

    fn whole(&mut self, sequence: u64, piece: Piece) -> Option<Output> {
        if let Series::Open { .. } = std::mem::replace(&mut self.series, Series::None) {
            // The packet itself is good: it comes next.
            self.next -= 1;
            self.ready = Some(piece);
            return Some(Output::Broken("a whole packet stands within a series of fragments".into()));
        }
        Some(Output::Payload { raw: piece.bytes, first: sequence, packets: 1, started: piece.time })
    }

    fn fragment(&mut self, sequence: u64, piece: Piece) -> Option<Output> {
        let body = &piece.bytes;
        let is_last_of_unknown = body.len() < self.longest;
        self.longest = self.longest.max(body.len());
        if let Series::Open { total, data, packets, .. } = &mut self.series {
            *packets += 1;
            data.extend_from_slice(body);
            if data.len() > *total {
                let reason = format!("a series of {total} bytes brings {}", data.len());
                self.series = Series::Unknown;
                return Some(Output::Broken(reason));
            }
            return self.finished();
        }
        let total = body.first_chunk().map(|total| u32::from_be_bytes(*total) as usize);
        let data = body.get(4..).unwrap_or_default();
        let total = total.filter(|total| (data.len()..=MAX_MESSAGE).contains(total) && *total > 0);
        match (total, &self.series) {
            (Some(total), _) => {
                // Not reserved up front: the total is the sender's word.
                let data = BytesMut::from(data);
                self.series = Series::Open { total, data, first: sequence, packets: 1, started: piece.time };
                self.finished()
            }
            (None, Series::Unknown) => {
                if is_last_of_unknown {
                    self.series = Series::None;
                }
                None
            }
            (None, _) => {
                self.series = Series::Unknown;
                Some(Output::Broken("a series begins with an impossible length".into()))
            }
        }
    }

    fn finished(&mut self) -> Option<Output> {
        let Series::Open { total, data, first, packets, started } = &mut self.series else { return None };
        if data.len() < *total {
            return None;
        }
        let output =
            Output::Payload { raw: data.split().freeze(), first: *first, packets: *packets, started: *started };
        self.series = Series::None;
        Some(output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: &[u8], is_fragment: bool) -> Piece {
        Piece { bytes: Bytes::copy_from_slice(bytes), time: 0, is_fragment }
    }

    fn payloads(assembly: &mut Assembly) -> Vec<Vec<u8>> {
        let mut payloads = Vec::new();
        while let Some(output) = assembly.pop() {
            if let Output::Payload { raw, .. } = output {
                payloads.push(raw.to_vec());
            }
        }
        payloads
    }

    #[test]
    fn packets_come_out_in_order_whatever_order_they_came_in() {
        let mut assembly = Assembly::new(0, true);
        for sequence in [2, 0, 0, 3, 1] {
            assert_eq!(assembly.insert(sequence, piece(&[sequence as u8], false)), None);
        }
        assert_eq!(payloads(&mut assembly), [[0], [1], [2], [3]]);
        assert_eq!(assembly.held(), 0);
    }

    #[test]
    fn fragments_are_joined_and_the_next_train_begins_behind_them() {
        let mut assembly = Assembly::new(0, true);
        for (sequence, body) in [&[0, 0, 0, 3, 1][..], &[2, 3], &[0, 0, 0, 1, 9]].into_iter().enumerate() {
            let _ = assembly.insert(sequence as u64, piece(body, true));
        }
        assert_eq!(payloads(&mut assembly), [&[1, 2, 3][..], &[9]]);
    }

    #[test]
    fn a_gap_that_never_closes_is_given_up_with_the_train_across_it() {
        let mut assembly = Assembly::new(0, true);
        let _ = assembly.insert(0, piece(&[0, 0, 0, 9, 1, 2, 3], true));
        assert!(payloads(&mut assembly).is_empty());
        let _ = assembly.insert(2, piece(&[0xFF; 3], true));
        let _ = assembly.insert(3, piece(&[7], false));
        assert!(assembly.skip_through(1));
        assert_eq!(payloads(&mut assembly), [[7]]);
        assert!(!assembly.skip_through(3));
    }

    #[test]
    fn what_waits_behind_a_gap_is_bounded() {
        let mut assembly = Assembly::new(0, true);
        let given_up = (1..).find_map(|sequence| assembly.insert(sequence, piece(&[0; 8192], false)));
        assert_eq!(given_up, Some((0, 0)));
        assert!(assembly.held() <= MAX_AHEAD_BYTES + 8192);
    }
}
