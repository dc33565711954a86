//! RC4, the stream cipher of all known games of this transport.

use std::fmt;

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use super::{HookError, MessageHook, into_mut};

/// An RC4 key stream for one direction of one reliable channel.
///
/// Encryption and decryption are the same operation. Every byte advances the stream, so both peers must process the
/// same bytes in the same order: the messages of one reliable channel (section 4 of `docs/protocol.md`). The type is
/// deliberately not `Clone`: a copy made in mid-stream would encrypt two messages with the same bytes.
///
/// # Examples
///
/// ```
/// use soe_core::cipher::Rc4;
///
/// let mut message = *b"Plaintext";
/// Rc4::new(b"Key")?.apply(&mut message);
/// assert_eq!(message, [0xbb, 0xf3, 0x16, 0xe8, 0xd9, 0x40, 0xaf, 0x0a, 0xd3]);
/// # Ok::<(), soe_core::cipher::KeyError>(())
/// ```
pub struct Rc4 {
    /// A permutation of all byte values.
    state: Box<[u8; STATE]>,
    i: u8,
    j: u8,
}

impl Rc4 {
    /// The longest key, in bytes.
    pub const MAX_KEY: usize = STATE;

    /// The key stream of a key of 1 to 256 bytes, from its first byte.
    ///
    /// # Errors
    ///
    /// [`KeyError`] for an empty key and for one of more than [`Rc4::MAX_KEY`] bytes.
    pub fn new(key: &[u8]) -> Result<Self, KeyError> {
        Self::check(key)?;
        Ok(Self::schedule(key))
    }

    /// Whether RC4 can use this key.
    pub(crate) fn check(key: &[u8]) -> Result<(), KeyError> {
        if key.is_empty() || key.len() > Self::MAX_KEY { Err(KeyError { length: key.len() }) } else { Ok(()) }
    }

    /// The key stream of a key that has been checked to have 1 to 256 bytes.
    pub(crate) fn schedule(key: &[u8]) -> Self {
        let mut state = Box::new([0; STATE]);
        for (value, slot) in (0..=u8::MAX).zip(state.iter_mut()) {
            *slot = value;
        }
        let mut j = 0u8;
        for (i, key_byte) in (0..STATE).zip(key.iter().cycle()) {
            j = j.wrapping_add(state[i]).wrapping_add(*key_byte);
            state.swap(i, usize::from(j));
        }
        Self { state, i: 0, j: 0 }
    }

    /// Encrypts or decrypts in place.
    pub fn apply(&mut self, bytes: &mut [u8]) {
        let (mut i, mut j) = (self.i, self.j);
        let state = &mut *self.state;
        for byte in bytes {
            *byte ^= next(state, &mut i, &mut j);
        }
        (self.i, self.j) = (i, j);
    }

    /// Discards the next `count` bytes of the key stream.
    pub fn drop(&mut self, count: usize) {
        let (mut i, mut j) = (self.i, self.j);
        for _ in 0..count {
            next(&mut self.state, &mut i, &mut j);
        }
        (self.i, self.j) = (i, j);
    }
}

/// The next byte of the key stream.
fn next(state: &mut [u8; STATE], i: &mut u8, j: &mut u8) -> u8 {
    *i = i.wrapping_add(1);
    let a = state[usize::from(*i)];
    *j = j.wrapping_add(a);
    let b = state[usize::from(*j)];
    state[usize::from(*i)] = b;
    state[usize::from(*j)] = a;
    state[usize::from(a.wrapping_add(b))]
}

impl MessageHook for Rc4 {
    fn seal(&mut self, mut message: BytesMut) -> BytesMut {
        self.apply(&mut message);
        message
    }

    fn open(&mut self, message: Bytes, _limit: usize) -> Result<Bytes, HookError> {
        let mut message = into_mut(message);
        self.apply(&mut message);
        Ok(message.freeze())
    }
}

impl fmt::Debug for Rc4 {
    /// Leaves the key stream out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rc4").finish_non_exhaustive()
    }
}

/// A key that RC4 cannot use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an RC4 key has 1 to {max} bytes, not {length}", max = Rc4::MAX_KEY)]
#[non_exhaustive]
pub struct KeyError {
    /// How many bytes the refused key has.
    pub length: usize,
}

const STATE: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(key: &[u8], length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        Rc4::new(key).expect("a key").apply(&mut bytes);
        bytes
    }

    #[test]
    fn the_key_stream_does_not_depend_on_how_messages_are_cut() {
        let whole = stream(b"Secret", 1000);
        let mut cipher = Rc4::new(b"Secret").expect("a key");
        let mut pieces = vec![0; 1000];
        for piece in pieces.chunks_mut(7) {
            cipher.apply(piece);
        }
        assert_eq!(pieces, whole);
    }

    #[test]
    fn dropping_is_like_using() {
        let mut cipher = Rc4::new(b"Secret").expect("a key");
        cipher.drop(300);
        let mut rest = [0; 50];
        cipher.apply(&mut rest);
        assert_eq!(rest, stream(b"Secret", 350)[300..]);
    }

    #[test]
    fn a_key_has_1_to_256_bytes() {
        assert_eq!(Rc4::new(&[]).err(), Some(KeyError { length: 0 }));
        assert_eq!(Rc4::new(&[1; 257]).err(), Some(KeyError { length: 257 }));
        assert!(Rc4::new(&[1; 256]).is_ok());
    }

    #[test]
    fn every_byte_of_the_longest_key_counts() {
        let mut other = [1; 256];
        other[255] = 2;
        assert_ne!(stream(&[1; 256], 16), stream(&other, 16));
    }

    #[test]
    fn a_message_that_nothing_else_shares_is_decrypted_in_place() {
        let mut receive = Rc4::new(b"Key").expect("a key");
        let message = Bytes::from(vec![0xbb, 0xf3, 0x16, 0xe8, 0xd9, 0x40, 0xaf, 0x0a, 0xd3]);
        let place = message.as_ptr();
        let opened = receive.open(message, 100).expect("RC4 takes everything");
        assert_eq!(&opened[..], b"Plaintext");
        assert_eq!(opened.as_ptr(), place);
    }

    #[test]
    fn a_shared_message_is_decrypted_without_harm_to_the_other_holder() {
        let mut receive = Rc4::new(b"Key").expect("a key");
        let message = Bytes::from(vec![0xbb, 0xf3, 0x16]);
        let other = message.clone();
        assert_eq!(receive.open(message, 100).expect("RC4 takes everything"), &b"Pla"[..]);
        assert_eq!(other, &[0xbb, 0xf3, 0x16][..]);
    }

    #[test]
    fn debug_output_shows_no_state() {
        assert_eq!(format!("{:?}", Rc4::new(b"Key").expect("a key")), "Rc4 { .. }");
    }
}
