//! From packet to datagram and back: two passes over the body and a CRC at the end.
//!
//! ```text
//! packet     op code or first byte | body
//!                 (clear prefix)   | pass 0, then pass 1
//! datagram        clear prefix     | body after the passes | CRC, 0 to 4 bytes, over everything before it
//! ```
//!
//! The session response defines both passes and the CRC length. The server takes them from its dialect, and the client
//! uses what it receives. See sections 2 and 3 of `docs/protocol.md`.

mod codec;
mod crc;
mod error;
mod pass;
mod xor;
mod zlib;

#[cfg(test)]
mod tests;

use std::fmt;

use bytes::{Bytes, BytesMut};

pub use self::codec::{Codec, CodecError, UserCodec};
pub use self::error::{NegotiationError, OpenError};
pub use self::pass::Pass;
pub use self::zlib::{FlagPosition, ZlibCodec};

use self::crc::Crc;
use self::pass::Step;

/// The limit of a decoded body, in bytes. No known peer sends a datagram that expands beyond 8 KiB (section 3 of
/// `docs/protocol.md`); a larger one is a decompression bomb.
pub const MAX_INFLATED: usize = 8 * 1024;

/// Turns packets into datagrams and back, as one session negotiated it.
///
/// Built once from the session response. Holds no running state: datagrams may be lost, repeated and reordered, so each
/// one is sealed and opened by itself.
///
/// The op codes 01, 02, 1C, 1D, 1E, 1F and 20 carry neither passes nor CRC; the caller keeps them away from
/// [`Framing::seal`] and [`Framing::open`].
///
/// # Examples
///
/// ```
/// use soe_core::Dialect;
/// use soe_core::framing::Framing;
///
/// let framing = Framing::new(0x5a17_c0de, 2, [1, 0], &Dialect::version3().codecs)?;
/// let mut datagram = vec![0x00, 0x15, 0x00, 0x07];
/// framing.seal(&mut datagram, 0);
/// assert_eq!(datagram, [0x00, 0x15, 0x00, 0x00, 0x07, 0x72, 0xed]);
/// assert_eq!(framing.open(datagram[..].into())?, &[0x00, 0x15, 0x00, 0x07][..]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Framing {
    /// Starts the XOR chain; the CRC holds a digest of it.
    seed: u32,
    crc: Crc,
    /// In the order of sending; receiving undoes them backwards. `None`: neither does anything.
    steps: Option<Box<[Step; 2]>>,
}

impl Framing {
    /// What may be allocated beside it, codecs not counted.
    pub(crate) const BOXED: usize = size_of::<[Step; 2]>();

    /// The framing that a session response asks for: its seed, CRC length and two pass bytes, with the codecs of the
    /// dialect for passes 1 and 2.
    ///
    /// # Errors
    ///
    /// [`NegotiationError`] for a CRC length above 4, for a pass that does not exist or is not supported (3), and for a
    /// user codec that the dialect does not have.
    pub fn new(
        seed: u32,
        crc_length: u8,
        passes: [u8; 2],
        codecs: &[Option<Codec>; 2],
    ) -> Result<Self, NegotiationError> {
        let [first, second] = passes;
        let steps = [Step::new(first.try_into()?, codecs)?, Step::new(second.try_into()?, codecs)?];
        let steps = (!matches!(steps, [Step::None, Step::None])).then(|| Box::new(steps));
        Ok(Self { seed, crc: Crc::new(seed, crc_length)?, steps })
    }

    /// No passes and no CRC: what holds before the response.
    pub const fn plain() -> Self {
        Self { seed: 0, crc: Crc::NONE, steps: None }
    }

    /// The seed of the CRC; zero before the response.
    pub(crate) const fn seed(&self) -> u32 {
        self.seed
    }

    /// The most bytes by which a datagram exceeds its packet: the CRC and the declared growth of each user codec.
    pub fn overhead(&self) -> usize {
        self.steps().map(Step::growth).fold(self.crc.length(), usize::saturating_add)
    }

    /// The length of the CRC in bytes, 0 to 4. With 0 a datagram proves nothing about its sender.
    pub const fn crc_length(&self) -> usize {
        self.crc.length()
    }

    /// Whether a datagram's size depends on its content, so that packets of one size need not become datagrams of one
    /// size.
    pub fn is_variable(&self) -> bool {
        self.steps().any(Step::is_variable)
    }

    /// Turns the packet `buf[start..]` into a datagram, in place.
    ///
    /// The packet holds at least one byte, and is not a lone 00 (application data that begins with 00 is escaped first,
    /// section 1 of `docs/protocol.md`). Without user codecs nothing is allocated beyond the room for the CRC; with zlib
    /// the scratch space belongs to the thread and is reused.
    ///
    /// # Panics
    ///
    /// When `start` lies beyond the end of `buf`.
    pub fn seal(&self, buf: &mut Vec<u8>, start: usize) {
        if let Some(steps) = &self.steps {
            let body = start + clear_prefix(&buf[start..]);
            for step in steps.iter() {
                step.apply(buf, body, self.seed);
            }
        }
        self.crc.append(buf, start);
    }

    /// Turns a datagram back into its packet: checks and removes the CRC, then undoes pass 1 and pass 0.
    ///
    /// The packet keeps the datagram's own buffer. Bytes are copied only out of a user codec.
    ///
    /// # Errors
    ///
    /// [`OpenError::Checksum`] and [`OpenError::TooShort`] hand the datagram back untouched: it is not from this
    /// session's peer, or was damaged on its way, and may belong to another session. [`OpenError::Corrupt`]: the
    /// checksum holds and the content is impossible.
    pub fn open(&self, mut datagram: BytesMut) -> Result<Bytes, OpenError> {
        let Some(end) = self.crc.split(&datagram) else { return Err(OpenError::TooShort(datagram)) };
        if !self.crc.matches(&datagram, end) {
            return Err(OpenError::Checksum(datagram));
        }
        datagram.truncate(end);
        if let Some(steps) = &self.steps {
            let body = clear_prefix(&datagram);
            for step in steps.iter().rev() {
                step.undo(&mut datagram, body, self.seed)?;
            }
        }
        Ok(datagram.freeze())
    }

    /// Whether the datagram carries a valid CRC. True for every datagram that is not empty when the CRC length is 0.
    pub fn verify(&self, datagram: &[u8]) -> bool {
        self.crc.split(datagram).is_some_and(|end| self.crc.matches(datagram, end))
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        self.steps.iter().flat_map(|steps| steps.iter())
    }
}

impl Default for Framing {
    fn default() -> Self {
        Self::plain()
    }
}

impl fmt::Debug for Framing {
    /// Omits the seed: with it, datagrams of this session can be forged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Framing")
            .field("crc_length", &self.crc.length())
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// How many leading bytes no pass touches: the op code of a protocol packet, or the first byte of application data.
fn clear_prefix(packet: &[u8]) -> usize {
    let prefix = if packet.first() == Some(&0) { 2 } else { 1 };
    prefix.min(packet.len())
}
