//! The first entry of a log: what a session was created with.

use std::{sync::Arc, time::Duration};

use super::{
    log::{self, Cursor, put_bytes, put_number},
    settings::{self, Unfit},
};
use crate::{
    config::SessionConfig,
    framing::{Codec, CodecError, UserCodec},
};

/// What a session was created with, but for its clock.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) is_client: bool,
    pub(crate) session_id: u32,
    /// How long before the session the clock began that it reports on the wire.
    pub(crate) clock_age: Duration,
    /// The seed, on a server's side.
    pub(crate) crc_seed: u32,
    pub(crate) udp_length: u16,
    /// The bytes of the request that the session itself answers, where it does.
    pub(crate) answers: Option<u64>,
    pub(crate) config: SessionConfig,
}

/// The first entry of a recording.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    /// The version of the crate that recorded.
    pub(crate) version: String,
    pub(crate) is_redacted: bool,
    /// When the session was created, in nanoseconds since 1970,
    pub(crate) unix: u64,
    /// and since the recording's time zero.
    pub(crate) created: u64,
    pub(crate) origin: Origin,
}

impl Origin {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_client));
        put_number(out, self.session_id.into());
        put_number(out, self.clock_age.as_nanos().try_into().unwrap_or(u64::MAX));
        put_number(out, self.crc_seed.into());
        put_number(out, self.udp_length.into());
        put_number(out, self.answers.map_or(0, |bytes| bytes + 1));
        let mut config = Vec::new();
        settings::put(&self.config, &mut config);
        put_bytes(out, &config);
    }
}

/// Stands for a codec of the application's own, where nothing is opened or sealed.
#[derive(Debug)]
struct Opaque;

impl UserCodec for Opaque {
    fn encode(&self, body: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(body);
    }

    fn decode(&self, _: &[u8], _: &mut Vec<u8>, _: usize) -> Result<(), CodecError> {
        Err(CodecError::Other("not known here"))
    }
}

impl Start {
    /// Reads the entry, whatever codecs the application had.
    pub(crate) fn take_any(from: &mut Cursor<'_>) -> Result<Self, Unfit> {
        let opaque = || Some(Codec::Custom(Arc::new(Opaque)));
        Self::take(from, &[opaque(), opaque()])
    }

    /// Reads the entry; `codecs` are the application's own, where it has some.
    pub(crate) fn take(from: &mut Cursor<'_>, codecs: &[Option<Codec>; 2]) -> Result<Self, Unfit> {
        if from.byte()? != log::START {
            return Err(Unfit::Broken);
        }
        // So far every format is read, so that a reader can say whose recording it cannot read.
        let (format, version) = (from.byte()?, from.text()?.to_owned());
        if format != log::VERSION {
            return Err(Unfit::Format(format, version));
        }
        let (is_redacted, unix, created) = (from.flag()?, from.number()?, from.number()?);
        if created > log::LONGEST {
            return Err(Unfit::Broken);
        }
        let is_client = from.flag()?;
        let (session_id, clock_age) = (from.fit()?, from.number()?);
        if clock_age > log::LONGEST {
            return Err(Unfit::Broken);
        }
        let (crc_seed, udp_length, answers) = (from.fit()?, from.fit()?, from.number()?.checked_sub(1));
        let config = settings::take(&mut Cursor::new(from.bytes()?), codecs)?;
        let clock_age = Duration::from_nanos(clock_age);
        let origin = Origin { is_client, session_id, clock_age, crc_seed, udp_length, answers, config };
        Ok(Self { version, is_redacted, unix, created, origin })
    }
}
