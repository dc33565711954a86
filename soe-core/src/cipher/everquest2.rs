//! EverQuest II's per-message layer: a flag, a running deflate stream, and RC4 over both.
//!
//! ```text
//! message on the wire    RC4( flag | body )
//! flag 00                the body is the message
//! flag 01                the body continues one zlib stream per direction, up to a sync flush
//! ```

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{HookError, MessageHook, Rc4, into_mut};

/// One direction of EverQuest II's per-message layer: a [`MessageHook`] that shows what hooks can do.
///
/// The client sends an 8-byte key to the server, outside of the transport. The server sends under that key with its bytes
/// reversed and the client under the complement of the same; both drop the first 20 bytes of the key stream. In front of
/// each message stands a flag, and messages may go through a deflate stream that runs on from message to message, so that
/// the second of two equal ones costs a few bytes.
///
/// Inferred from a public server and its vectors; not captured.
///
/// # Examples
///
/// ```
/// use bytes::{Bytes, BytesMut};
/// use soe_core::cipher::{EverQuest2Hook, MessageHook};
///
/// let key = [0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];
/// let (mut send, _) = EverQuest2Hook::server(key);
/// let (_, mut receive) = EverQuest2Hook::client(key);
/// let sealed = send.seal(BytesMut::from(&b"welcome"[..]));
/// assert_eq!(receive.open(sealed.freeze(), 1024)?, Bytes::from_static(b"welcome"));
/// # Ok::<(), soe_core::cipher::HookError>(())
/// ```
pub struct EverQuest2Hook {
    cipher: Rc4,
    /// A message longer than this goes through the deflate stream when sent; `None`: none does.
    deflate_above: Option<usize>,
    /// The running stream to the peer, made for the first message that needs it: it is some 260 KB.
    deflate: Option<Compress>,
    /// The running stream from the peer, made likewise.
    inflate: Option<Decompress>,
}

impl EverQuest2Hook {
    /// How many bytes of key stream either side discards at the start.
    pub const DROPPED: usize = 20;
    /// Messages above this many bytes are deflated by default.
    pub const DEFLATE_ABOVE: usize = 128;

    /// The server's hooks, to send with and to receive with, for the 8-byte key as it travels.
    pub fn server(key: [u8; 8]) -> (Self, Self) {
        let (of_server, of_client) = Self::keys(key);
        (Self::new(of_server), Self::new(of_client))
    }

    /// The client's hooks, to send with and to receive with, for the 8-byte key as it travels.
    pub fn client(key: [u8; 8]) -> (Self, Self) {
        let (of_server, of_client) = Self::keys(key);
        (Self::new(of_client), Self::new(of_server))
    }

    /// The same hook deflating messages of more than `bytes` bytes, or none at all. Receivers take either form.
    #[must_use]
    pub const fn deflate_above(mut self, bytes: Option<usize>) -> Self {
        self.deflate_above = bytes;
        self
    }

    fn keys(mut key: [u8; 8]) -> ([u8; 8], [u8; 8]) {
        key.reverse();
        (key, key.map(|byte| !byte))
    }

    fn new(key: [u8; 8]) -> Self {
        let mut cipher = Rc4::schedule(&key);
        cipher.drop(Self::DROPPED);
        Self { cipher, deflate_above: Some(Self::DEFLATE_ABOVE), deflate: None, inflate: None }
    }
}

impl MessageHook for EverQuest2Hook {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        let deflated = if self.deflate_above.is_some_and(|above| message.len() > above) {
            let stream = self.deflate.get_or_insert_with(|| Compress::new(Compression::default(), ZLIB_HEADER));
            deflate(stream, &message)
        } else {
            None
        };
        let mut sealed = deflated.unwrap_or_else(|| {
            // The flag needs room in front of the message: one copy.
            let mut raw = BytesMut::with_capacity(FLAG + message.len());
            raw.put_u8(RAW);
            raw.put_slice(&message);
            raw
        });
        self.cipher.apply(&mut sealed);
        sealed
    }

    fn open(&mut self, message: Bytes, limit: usize) -> Result<Bytes, HookError> {
        let mut message = into_mut(message);
        self.cipher.apply(&mut message);
        if !message.has_remaining() {
            return Err(HookError::Malformed("the flag is missing"));
        }
        match message.get_u8() {
            RAW => Ok(message.freeze()),
            DEFLATED => {
                let stream = self.inflate.get_or_insert_with(|| Decompress::new(ZLIB_HEADER));
                inflate(stream, &message, limit)
            }
            _ => Err(HookError::Malformed("the flag is neither raw nor deflated")),
        }
    }
}

impl fmt::Debug for EverQuest2Hook {
    /// Leaves the key stream out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EverQuest2Hook").field("deflate_above", &self.deflate_above).finish_non_exhaustive()
    }
}

/// The flag, and the message run through the stream up to a sync flush. `None` if the compressor fails, which leaves the
/// message to go as it is.
fn deflate(stream: &mut Compress, message: &[u8]) -> Option<BytesMut> {
    let mut out = Vec::with_capacity(FLAG + STEP + message.len() / 2);
    out.push(DEFLATED);
    let start = stream.total_in();
    loop {
        let taken = taken(stream.total_in(), start);
        stream.compress_vec(&message[taken..], &mut out, FlushCompress::Sync).ok()?;
        // A flush is complete once it leaves room unused.
        if out.len() < out.capacity() {
            return Some(Bytes::from(out).into());
        }
        out.reserve(STEP);
    }
}

/// What the next part of the stream expands to, up to `limit` bytes.
fn inflate(stream: &mut Decompress, part: &[u8], limit: usize) -> Result<Bytes, HookError> {
    let mut out = Vec::with_capacity(part.len().saturating_mul(4).clamp(STEP, limit.max(STEP)));
    let start = stream.total_in();
    loop {
        let taken = taken(stream.total_in(), start);
        let status = stream
            .decompress_vec(&part[taken..], &mut out, FlushDecompress::Sync)
            .map_err(|_| HookError::Malformed("the deflate stream is broken"))?;
        if out.len() > limit {
            return Err(HookError::TooLong { limit });
        }
        if out.len() < out.capacity() || status == Status::StreamEnd {
            return Ok(out.into());
        }
        // At most one step beyond the limit, and as much again as there is.
        out.reserve_exact(out.len().min(limit - out.len()).max(STEP));
    }
}

/// How much of the current input a stream has consumed since its counter stood at `start`. Never more than the input has.
const fn taken(counter: u64, start: u64) -> usize {
    (counter - start) as usize
}

const FLAG: usize = 1;
const RAW: u8 = 0;
const DEFLATED: u8 = 1;
const ZLIB_HEADER: bool = true;
/// The smallest amount by which an output buffer grows, in bytes.
const STEP: usize = 256;

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 8] = *b"\x11\x22\x33\x44\x55\x66\x77\x88";

    fn pair() -> (EverQuest2Hook, EverQuest2Hook) {
        (EverQuest2Hook::server(KEY).0, EverQuest2Hook::client(KEY).1)
    }

    proptest! {
        #[test]
        fn a_run_of_messages_arrives_as_it_was_sent(
            messages in vec((vec(any::<u8>(), 0..40), 1..40usize), 1..12),
            above in prop_oneof![Just(None), Just(Some(0)), Just(Some(EverQuest2Hook::DEFLATE_ABOVE))],
        ) {
            let (send, mut receive) = pair();
            let mut send = send.deflate_above(above);
            for (piece, times) in messages {
                let message = piece.repeat(times);
                let sealed = send.seal(BytesMut::from(&message[..]));
                let opened = receive.open(sealed.freeze(), 2000);
                prop_assert_eq!(opened.ok(), Some(Bytes::from(message)));
            }
        }

        #[test]
        fn arbitrary_messages_never_panic_and_stay_within_the_limit(message in vec(any::<u8>(), 0..300), limit in 0..500usize) {
            for flag in [0, 1, 2] {
                let (mut send, mut receive) = pair();
                let mut forged = vec![flag];
                forged.extend_from_slice(&message);
                send.cipher.apply(&mut forged);
                if let (Ok(opened), 1) = (receive.open(forged.into(), limit), flag) {
                    prop_assert!(opened.len() <= limit);
                }
            }
        }
    }

    #[test]
    fn a_repetition_costs_a_few_bytes_only() {
        let (mut send, _) = pair();
        let message: Vec<u8> = (0..200u8).collect();
        let first = send.seal(BytesMut::from(&message[..]));
        let second = send.seal(BytesMut::from(&message[..]));
        assert!(first.len() > 150 && second.len() < 20, "{} then {}", first.len(), second.len());
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let (mut send, mut receive) = pair();
        let bomb = send.seal(BytesMut::zeroed(1 << 20));
        assert!(bomb.len() < 2000);
        assert!(matches!(receive.open(bomb.freeze(), 10_000), Err(HookError::TooLong { limit: 10_000 })));
    }

    #[test]
    fn a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
        for length in [129, 255, 256, 257, 10_000] {
            let (mut send, mut receive) = pair();
            let sealed = send.seal(BytesMut::zeroed(length)).freeze();
            assert!(matches!(pair().1.open(sealed.clone(), length - 1), Err(HookError::TooLong { .. })));
            assert_eq!(receive.open(sealed, length).map(|message| message.len()).ok(), Some(length));
        }
    }

    #[test]
    fn a_missing_and_an_unknown_flag_are_malformed() {
        let (mut send, mut receive) = pair();
        assert!(matches!(receive.open(Bytes::new(), 10), Err(HookError::Malformed(_))));
        let mut forged = [7];
        send.cipher.apply(&mut forged);
        assert!(matches!(receive.open(Bytes::copy_from_slice(&forged), 10), Err(HookError::Malformed(_))));
    }
}
