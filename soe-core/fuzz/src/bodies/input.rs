//! The fuzzer's bytes, read as instructions.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use soe_core::{Dialect, Pass, SessionConfig};

pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte; 0 behind the end.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        byte
    }

    pub fn word(&mut self) -> u32 {
        u32::from_be_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// As many bytes as the next one says, those that are left at most; 255 stands for twice as many as the one behind it.
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = match self.byte() {
            255 => usize::from(self.byte()) * 8,
            length => usize::from(length),
        };
        let (chunk, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        chunk
    }

    /// A configuration with small limits: dialect, CRC length, passes and udp length as the bytes say.
    pub fn config(&mut self) -> SessionConfig {
        let choice = self.byte();
        let dialect = match choice >> 6 {
            0 => Dialect::version3(),
            1 => Dialect::everquest_zone(),
            2 => Dialect::star_wars_galaxies(),
            _ => Dialect::everquest2(),
        };
        let coded = dialect.codecs[0].is_some();
        let passes = match choice >> 2 & 3 {
            1 if coded => [Pass::UserCodec, Pass::None],
            2 => [Pass::Xor, Pass::None],
            3 if coded => [Pass::UserCodec, Pass::Xor],
            _ => [Pass::None, Pass::None],
        };
        let builder = SessionConfig::with_dialect(dialect)
            .protocol_name("Fuzz".into())
            .crc_length([2, 4, 1, 0][usize::from(choice & 3)])
            .allow_unchecked(true)
            .passes(passes)
            .udp_length([512, 64, 8_192, 200][usize::from(choice >> 4 & 3)])
            .max_message_size(20_000)
            .recv_buffer(10_000)
            .send_buffer(10_000);
        builder.build().expect("all of these are within their ranges")
    }
}

/// When time begins.
pub fn start() -> Instant {
    static START: OnceLock<Instant> = OnceLock::new();
    *START.get_or_init(Instant::now)
}

pub const MS: Duration = Duration::from_millis(1);
