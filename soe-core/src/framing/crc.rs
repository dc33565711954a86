//! The checksum at the end of a datagram (section 2 of `docs/protocol.md`).

use crc32fast::Hasher;

use super::NegotiationError;

/// The longest checksum, in bytes.
const MAX_LENGTH: u8 = 4;

/// CRC-32 over the seed (4 bytes, little-endian) and the datagram. The datagram carries its low bytes, big-endian.
#[derive(Clone, Copy)]
pub(super) struct Crc {
    /// The CRC-32 of the seed alone, from which every checksum continues.
    seeded: u32,
    length: u8,
}

impl Crc {
    /// No checksum.
    pub(super) const NONE: Self = Self { seeded: 0, length: 0 };

    pub(super) fn new(seed: u32, length: u8) -> Result<Self, NegotiationError> {
        if length > MAX_LENGTH {
            return Err(NegotiationError::CrcLength(length));
        }
        Ok(Self { seeded: crc32fast::hash(&seed.to_le_bytes()), length })
    }

    pub(super) const fn length(&self) -> usize {
        self.length as usize
    }

    /// Appends the checksum of `buf[start..]`.
    pub(super) fn append(&self, buf: &mut Vec<u8>, start: usize) {
        if self.length > 0 {
            let checksum = self.checksum(&buf[start..]);
            buf.extend_from_slice(&checksum[self.skipped()..]);
        }
    }

    /// The position of the checksum; `None` if nothing precedes it.
    pub(super) fn split(&self, datagram: &[u8]) -> Option<usize> {
        datagram.len().checked_sub(self.length()).filter(|end| *end > 0)
    }

    /// Whether the bytes from `end` on are the checksum of the bytes before.
    pub(super) fn matches(&self, datagram: &[u8], end: usize) -> bool {
        let (content, found) = datagram.split_at(end);
        self.length == 0 || self.checksum(content)[self.skipped()..] == *found
    }

    fn checksum(&self, content: &[u8]) -> [u8; MAX_LENGTH as usize] {
        let mut hasher = Hasher::new_with_initial(self.seeded);
        hasher.update(content);
        hasher.finalize().to_be_bytes()
    }

    /// The number of leading bytes of the full checksum that are not sent.
    const fn skipped(&self) -> usize {
        (MAX_LENGTH - self.length) as usize
    }
}
