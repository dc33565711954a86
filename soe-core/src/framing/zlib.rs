//! The user codec of all known games: a flag byte, and zlib if it makes the body shorter (section 3 of
//! `docs/protocol.md`).
//!
//! ```text
//! leading    flag | body, raw or as one zlib stream
//! trailing   body, raw or as one zlib stream | flag
//! ```

use std::cell::RefCell;

use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::{CodecError, MAX_INFLATED, codec::with_scratch};

/// Zlib (RFC 1950) per datagram, with a flag byte for compressed or raw bodies.
///
/// A body is compressed if it has at least `min_size` bytes and its zlib stream is shorter. Receivers accept both forms
/// at any size, so `min_size` and `level` only trade CPU time for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ZlibCodec {
    /// The position of the flag.
    pub flag: FlagPosition,
    /// The flag of an uncompressed body.
    pub raw: u8,
    /// The flag of a compressed body. Any other value is read as `raw`; no known sender uses one.
    pub deflated: u8,
    /// The smallest body worth compressing, in bytes, counted after the clear prefix.
    pub min_size: u16,
    /// The compression level, 0 to 9. Larger values mean 9.
    pub level: u8,
}

/// The position of the flag byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a body has two ends")]
pub enum FlagPosition {
    /// Before the body.
    Leading,
    /// After the body.
    Trailing,
}

impl ZlibCodec {
    /// PlanetSide 2, H1Z1, Free Realms and Landmark: leading flag, 00 or 01, zlib's default level, from 24 bytes on.
    pub const VERSION_3: Self =
        Self { flag: FlagPosition::Leading, raw: 0x00, deflated: 0x01, min_size: 24, level: DEFAULT_LEVEL };
    /// EverQuest: leading flag, A5 or 5A, level 1, bodies of more than 30 bytes.
    pub const EVERQUEST: Self = Self { flag: FlagPosition::Leading, raw: 0xA5, deflated: 0x5A, min_size: 31, level: 1 };
    /// Star Wars Galaxies: trailing flag, 00 or 01, zlib's default level, from 100 bytes on (known peers begin somewhere
    /// between 100 and 200).
    pub const STAR_WARS_GALAXIES: Self =
        Self { flag: FlagPosition::Trailing, raw: 0x00, deflated: 0x01, min_size: 100, level: DEFAULT_LEVEL };

    /// The flag byte.
    pub(super) const GROWTH: usize = 1;

    /// The same codec with another compression level, 0 to 9.
    #[must_use]
    pub const fn with_level(mut self, level: u8) -> Self {
        self.level = level;
        self
    }

    /// The same codec, compressing only bodies of at least this many bytes.
    #[must_use]
    pub const fn with_min_size(mut self, bytes: u16) -> Self {
        self.min_size = bytes;
        self
    }

    /// The same codec with other flag values.
    #[must_use]
    pub const fn with_flags(mut self, position: FlagPosition, raw: u8, deflated: u8) -> Self {
        self.flag = position;
        self.raw = raw;
        self.deflated = deflated;
        self
    }
}

/// Adds the flag to `buf[body..]` and compresses it where that makes it shorter.
pub(super) fn seal(codec: &ZlibCodec, buf: &mut Vec<u8>, body: usize) {
    let length = buf.len() - body;
    let flag = with_scratch(|scratch| {
        let shorter = length >= usize::from(codec.min_size) && deflate(codec.level, &buf[body..], scratch);
        if !shorter {
            return codec.raw;
        }
        buf.truncate(body);
        buf.extend_from_slice(scratch);
        codec.deflated
    });
    match codec.flag {
        FlagPosition::Leading => buf.insert(body, flag),
        FlagPosition::Trailing => buf.push(flag),
    }
}

/// Removes the flag after the first `body` bytes, and inflates the rest if the flag is set.
pub(super) fn open(codec: &ZlibCodec, packet: &mut BytesMut, body: usize) -> Result<(), CodecError> {
    let flag = match (codec.flag, &packet[body..]) {
        (_, []) => return Err(CodecError::MissingFlag),
        (FlagPosition::Leading, [flag, ..]) => {
            let flag = *flag;
            // Move the clear prefix over the flag, so that the body need not be copied.
            packet.copy_within(..body, ZlibCodec::GROWTH);
            packet.advance(ZlibCodec::GROWTH);
            flag
        }
        (FlagPosition::Trailing, [rest @ .., flag]) => {
            let (flag, end) = (*flag, body + rest.len());
            packet.truncate(end);
            flag
        }
    };
    if flag != codec.deflated {
        return Ok(());
    }
    with_scratch(|scratch| {
        inflate(&packet[body..], scratch)?;
        packet.truncate(body);
        packet.extend_from_slice(scratch);
        Ok(())
    })
}

thread_local! {
    /// One compressor per level and thread: each has about 260 KB, too much for each session.
    static COMPRESSORS: RefCell<[Option<Compress>; MAX_LEVEL + 1]> = const { RefCell::new([const { None }; MAX_LEVEL + 1]) };
    static DECOMPRESSOR: RefCell<Decompress> = RefCell::new(Decompress::new(ZLIB_HEADER));
}

/// Compresses `input` into the empty `out`. False if that is not shorter.
fn deflate(level: u8, input: &[u8], out: &mut Vec<u8>) -> bool {
    let level = usize::from(level).min(MAX_LEVEL);
    COMPRESSORS.with_borrow_mut(|compressors| {
        let compress =
            compressors[level].get_or_insert_with(|| Compress::new(Compression::new(level as u32), ZLIB_HEADER));
        compress.reset();
        // A result that does not fit the size of the input is not shorter, and the compressor can stop.
        out.reserve(input.len());
        let status = compress.compress_vec(input, out, FlushCompress::Finish);
        matches!(status, Ok(Status::StreamEnd)) && out.len() < input.len()
    })
}

/// Expands the zlib stream at the start of `input` into the empty `out`. Bytes after the stream are ignored, as zlib's
/// `uncompress` does.
fn inflate(input: &[u8], out: &mut Vec<u8>) -> Result<(), CodecError> {
    DECOMPRESSOR.with_borrow_mut(|decompress| {
        decompress.reset(ZLIB_HEADER);
        // The decompressor only fills the reserved capacity, which limits the result.
        out.reserve_exact(MAX_INFLATED);
        let status = decompress.decompress_vec(input, out, FlushDecompress::Finish);
        if out.len() > MAX_INFLATED {
            return Err(CodecError::TooLong { limit: MAX_INFLATED });
        }
        match status {
            Ok(Status::StreamEnd) => Ok(()),
            Ok(_) if out.len() == MAX_INFLATED => Err(CodecError::TooLong { limit: MAX_INFLATED }),
            Ok(_) | Err(_) => Err(CodecError::Malformed),
        }
    })
}

const DEFAULT_LEVEL: u8 = 6;
const MAX_LEVEL: usize = 9;
const ZLIB_HEADER: bool = true;
