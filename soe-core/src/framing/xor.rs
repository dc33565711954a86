//! The XOR chain, pass 4 (section 3 of `docs/protocol.md`).
//!
//! The body is read as little-endian words; each is XORed with the cipher word before it, the first with the seed. One to
//! three bytes at the end are XORed with the low byte of the last cipher word. The chain starts afresh in each datagram.

const WORD: usize = 4;

/// Encrypts in place.
pub(super) fn seal(body: &mut [u8], seed: u32) {
    let mut last = seed;
    let mut words = body.chunks_exact_mut(WORD);
    for word in &mut words {
        last ^= read(word);
        word.copy_from_slice(&last.to_le_bytes());
    }
    mask(words.into_remainder(), last);
}

/// Decrypts in place.
pub(super) fn open(body: &mut [u8], seed: u32) {
    let mut last = seed;
    let mut words = body.chunks_exact_mut(WORD);
    for word in &mut words {
        let cipher = read(word);
        word.copy_from_slice(&(cipher ^ last).to_le_bytes());
        last = cipher;
    }
    mask(words.into_remainder(), last);
}

fn mask(tail: &mut [u8], last: u32) {
    let [low, ..] = last.to_le_bytes();
    for byte in tail {
        *byte ^= low;
    }
}

fn read(word: &[u8]) -> u32 {
    word.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_meets_the_seed_and_the_tail_the_last_cipher_word() {
        let mut body = [0x01, 0, 0, 0, 0x10, 0, 0, 0, 0, 0xff];
        seal(&mut body, 0x4433_2200);
        assert_eq!(body, [0x01, 0x22, 0x33, 0x44, 0x11, 0x22, 0x33, 0x44, 0x11, 0xee]);
        open(&mut body, 0x4433_2200);
        assert_eq!(body, [0x01, 0, 0, 0, 0x10, 0, 0, 0, 0, 0xff]);
    }

    #[test]
    fn a_tail_without_a_word_meets_the_low_byte_of_the_seed() {
        let mut body = [0, 1, 2];
        seal(&mut body, 0x4433_2210);
        assert_eq!(body, [0x10, 0x11, 0x12]);
    }
}
