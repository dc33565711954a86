//! The fragments of one message (section 7 of `docs/protocol.md`).

use bytes::Bytes;

/// The length of the total-length field in the first fragment, in bytes.
pub(crate) const TOTAL_LENGTH: usize = 4;
/// The most bytes that the first fragment reserves: the announced length is not trusted.
const FIRST_RESERVE: usize = 16 * 1024;

/// Invalid content behind a valid CRC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// An incomplete message in fragments.
///
/// The announced length reserves nothing. The memory is at most twice the bytes that have arrived.
#[derive(Debug)]
pub(crate) struct FragmentSeries {
    total: u32,
    /// More than the first has come.
    is_continued: bool,
    buffer: Vec<u8>,
}

impl FragmentSeries {
    /// Starts a series with its first fragment, including the total length.
    pub(crate) fn open(body: &[u8], limit: usize) -> Result<Self, Corrupt> {
        let Some((total, data)) = body.split_first_chunk::<TOTAL_LENGTH>() else {
            return Err(Corrupt("first fragment without a total length"));
        };
        let total = u32::from_be_bytes(*total);
        if total == 0 {
            return Err(Corrupt("fragments of an empty message"));
        }
        if total as usize > limit {
            return Err(Corrupt("fragments of a message over the limit"));
        }
        let buffer = Vec::with_capacity((total as usize).min(FIRST_RESERVE));
        let mut series = Self { total, is_continued: false, buffer };
        series.add(data)?;
        series.is_continued = false;
        Ok(series)
    }

    /// Whether more than the first fragment has come.
    pub(crate) fn is_continued(&self) -> bool {
        self.is_continued
    }

    /// Adds the data of one fragment, unless it is too long.
    pub(crate) fn add(&mut self, data: &[u8]) -> Result<(), Corrupt> {
        let missing = self.total as usize - self.buffer.len();
        if data.len() > missing {
            return Err(Corrupt("fragments with more bytes than announced"));
        }
        let free = self.buffer.capacity() - self.buffer.len();
        if data.len() > free {
            // Doubled explicitly and limited to the announced length, so that a complete message takes exactly its own
            // size.
            self.buffer.reserve_exact(missing.min(self.buffer.capacity().max(data.len())));
        }
        self.buffer.extend_from_slice(data);
        self.is_continued = true;
        Ok(())
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.buffer.len() == self.total as usize
    }

    /// Memory held.
    pub(crate) fn bytes(&self) -> usize {
        self.buffer.capacity()
    }

    pub(crate) fn into_message(self) -> Bytes {
        self.buffer.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(total: u32, data: &[u8]) -> Vec<u8> {
        [&total.to_be_bytes()[..], data].concat()
    }

    #[test]
    fn a_message_is_joined_from_its_fragments() {
        let mut series = FragmentSeries::open(&first(9, &[0, 1, 2, 3, 4]), 100).unwrap();
        assert!(!series.is_complete());
        series.add(&[1, 2, 3, 4]).unwrap();
        assert!(series.is_complete());
        assert_eq!(series.into_message()[..], [0, 1, 2, 3, 4, 1, 2, 3, 4]);
    }

    #[test]
    fn impossible_lengths_are_corrupt() {
        assert!(FragmentSeries::open(&first(0, &[]), 100).is_err());
        assert!(FragmentSeries::open(&first(101, &[1]), 100).is_err());
        assert!(FragmentSeries::open(&first(u32::MAX, &[1]), 100).is_err());
        assert!(FragmentSeries::open(&first(2, &[1, 2, 3]), 100).is_err());
        assert!(FragmentSeries::open(&[0, 0, 1], 100).is_err());
        let mut series = FragmentSeries::open(&first(2, &[1]), 100).unwrap();
        assert!(series.add(&[2, 3]).is_err());
    }

    #[test]
    fn an_announced_length_alone_reserves_little() {
        let series = FragmentSeries::open(&first(10_000_000, &[1; 500]), 10_000_000).unwrap();
        assert!(series.bytes() <= FIRST_RESERVE);
    }

    #[test]
    fn memory_follows_what_has_arrived() {
        let mut series = FragmentSeries::open(&first(1_000_000, &[0; 500]), 1_000_000).unwrap();
        for _ in 0..400 {
            series.add(&[0; 500]).unwrap();
            assert!(series.bytes() <= (2 * series.buffer.len()).max(FIRST_RESERVE) + 500);
        }
    }
}
