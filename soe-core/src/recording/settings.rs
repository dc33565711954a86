//! A session's configuration in a recording: every setting by its name, so that another build can say which it lacks.

use std::{borrow::Cow, num::NonZeroU32, time::Duration};

use super::log::{Broken, Cursor, put_bytes, put_number};
use crate::{
    config::{ChannelOptions, EscapeRule, Overflow, Oversized, SessionConfig, session_fields},
    dialect::{AsksNetStatus, Dialect, Handshake, Offer, OpensOn, Policies, ResponseTrailer, Versions},
    framing::{Codec, FlagPosition, Pass, ZlibCodec},
};

/// Why the configuration of a recording cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unfit {
    Broken,
    /// Another format of recordings, and the version of the crate that writes it.
    Format(u8, String),
    /// A setting that this build does not have.
    Unknown(String),
    /// The codec in this place is the application's own.
    NeedsCodec(usize),
    /// A value that this build refuses.
    Refused(String),
}

impl From<Broken> for Unfit {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// A value as it is written into a recording.
trait Value: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken>;
}

macro_rules! numbers {
    ($($number:ty),*) => {
        $(impl Value for $number {
            fn put(&self, out: &mut Vec<u8>) {
                put_number(out, *self as u64);
            }

            fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
                from.fit()
            }
        })*
    };
}

numbers!(u8, u16, u32, u64, usize);

/// Choices by number, which is never given to another choice.
macro_rules! choices {
    ($($choice:ty { $($number:literal => $variant:path),* $(,)? })*) => {
        $(impl Value for $choice {
            fn put(&self, out: &mut Vec<u8>) {
                out.push(match self {
                    $($variant => $number,)*
                });
            }

            fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
                match from.byte()? {
                    $($number => Ok($variant),)*
                    _ => Err(Broken),
                }
            }
        })*
    };
}

choices! {
    EscapeRule { 0 => EscapeRule::Always, 1 => EscapeRule::WhenEncrypted }
    Oversized { 0 => Oversized::Promote, 1 => Oversized::Refuse }
    Overflow { 0 => Overflow::Block, 1 => Overflow::Close }
    OpensOn { 0 => OpensOn::FirstDatagram, 1 => OpensOn::Response }
    FlagPosition { 0 => FlagPosition::Leading, 1 => FlagPosition::Trailing }
    AsksNetStatus {
        0 => AsksNetStatus::Client, 1 => AsksNetStatus::Server, 2 => AsksNetStatus::Both, 3 => AsksNetStatus::Nobody,
    }
    Pass { 0 => Pass::None, 1 => Pass::UserCodec, 2 => Pass::SecondUserCodec, 4 => Pass::Xor }
}

impl Value for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        from.flag()
    }
}

impl Value for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.as_bytes());
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        from.text().map(Self::from)
    }
}

impl Value for Duration {
    fn put(&self, out: &mut Vec<u8>) {
        self.as_secs().put(out);
        self.subsec_nanos().put(out);
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        let (seconds, nanos) = (from.number()?, from.fit::<u32>()?);
        if nanos < 1_000_000_000 { Ok(Self::new(seconds, nanos)) } else { Err(Broken) }
    }
}

impl<T: Value> Value for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        from.flag()?.then(|| T::take(from)).transpose()
    }
}

impl<T: Value, const N: usize> Value for [T; N] {
    fn put(&self, out: &mut Vec<u8>) {
        self.iter().for_each(|value| value.put(out));
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        let values: Vec<T> = (0..N).map(|_| T::take(from)).collect::<Result<_, _>>()?;
        values.try_into().map_err(|_| Broken)
    }
}

impl Value for NonZeroU32 {
    fn put(&self, out: &mut Vec<u8>) {
        self.get().put(out);
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        Self::new(from.fit()?).ok_or(Broken)
    }
}

impl Value for ChannelOptions {
    fn put(&self, out: &mut Vec<u8>) {
        self.priority.put(out);
        self.trickle_rate.put(out);
        self.unordered.put(out);
        self.redundant.put(out);
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        Ok(Self {
            priority: from.fit()?,
            trickle_rate: Value::take(from)?,
            unordered: from.flag()?,
            redundant: from.flag()?,
        })
    }
}

impl Value for Versions {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Any => out.push(0),
            Self::Exactly(version) => {
                out.push(1);
                version.put(out);
            }
            Self::OneOf(versions) => {
                out.push(2);
                versions.len().put(out);
                versions.iter().for_each(|version| version.put(out));
            }
        }
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        match from.byte()? {
            0 => Ok(Self::Any),
            1 => from.fit().map(Self::Exactly),
            2 => {
                let count: usize = from.fit()?;
                // Each takes a byte at least, so a count beyond the rest is not believed.
                if count > from.rest().len() {
                    return Err(Broken);
                }
                let versions: Vec<u32> = (0..count).map(|_| from.fit()).collect::<Result<_, _>>()?;
                Ok(Self::OneOf(versions.into()))
            }
            _ => Err(Broken),
        }
    }
}

impl Value for ResponseTrailer {
    fn put(&self, out: &mut Vec<u8>) {
        let version = match self {
            Self::None => None,
            Self::Version(version) => Some(*version),
        };
        version.put(out);
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        let version: Option<u32> = Value::take(from)?;
        Ok(version.map_or(Self::None, Self::Version))
    }
}

/// The codecs in a recording, of which an application's own are there by their place alone.
enum CodecKind {
    None,
    Zlib(ZlibCodec),
    Custom,
}

impl Value for CodecKind {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::None => out.push(0),
            Self::Zlib(zlib) => {
                out.push(1);
                zlib.flag.put(out);
                zlib.raw.put(out);
                zlib.deflated.put(out);
                zlib.min_size.put(out);
                zlib.level.put(out);
            }
            Self::Custom => out.push(2),
        }
    }

    fn take(from: &mut Cursor<'_>) -> Result<Self, Broken> {
        match from.byte()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Zlib(ZlibCodec {
                flag: Value::take(from)?,
                raw: from.fit()?,
                deflated: from.fit()?,
                min_size: from.fit()?,
                level: from.fit()?,
            })),
            2 => Ok(Self::Custom),
            _ => Err(Broken),
        }
    }
}

fn put_dialect(dialect: &Dialect, out: &mut Vec<u8>) {
    let Dialect { name, handshake, offer, codecs, policies, timing: _ } = dialect;
    name.as_ref().to_owned().put(out);
    handshake.version.put(out);
    handshake.accepts.put(out);
    handshake.named.put(out);
    handshake.trailer.put(out);
    offer.crc_length.put(out);
    offer.passes.put(out);
    offer.udp_length.put(out);
    for codec in codecs {
        match codec {
            None => CodecKind::None,
            Some(Codec::Zlib(zlib)) => CodecKind::Zlib(*zlib),
            Some(Codec::Custom(_)) => CodecKind::Custom,
        }
        .put(out);
    }
    policies.answers_heartbeat.put(out);
    policies.disconnect_reason.put(out);
    policies.asks_net_status.put(out);
    policies.opens_on.put(out);
}

/// The times of a dialect are defaults of settings, which the recording has anyway.
fn take_dialect(from: &mut Cursor<'_>, own: &[Option<Codec>; 2]) -> Result<Dialect, Unfit> {
    let name: String = Value::take(from)?;
    let handshake = Handshake {
        version: from.fit()?,
        accepts: Value::take(from)?,
        named: from.flag()?,
        trailer: Value::take(from)?,
    };
    let offer = Offer { crc_length: from.fit()?, passes: Value::take(from)?, udp_length: from.fit()? };
    let mut codecs = [None, None];
    for (place, codec) in codecs.iter_mut().enumerate() {
        *codec = match CodecKind::take(from)? {
            CodecKind::None => None,
            CodecKind::Zlib(zlib) => Some(Codec::Zlib(zlib)),
            CodecKind::Custom => Some(own[place].clone().ok_or(Unfit::NeedsCodec(place))?),
        };
    }
    let policies = Policies {
        answers_heartbeat: from.flag()?,
        disconnect_reason: from.flag()?,
        asks_net_status: Value::take(from)?,
        opens_on: Value::take(from)?,
    };
    Ok(Dialect { name: Cow::Owned(name), handshake, offer, codecs, policies, timing: Default::default() })
}

/// Writes and reads all settings.
macro_rules! settings {
    ($($field:ident: $type:ty as $in_file:ty),* $(,)?) => {
        pub(super) fn put(config: &SessionConfig, out: &mut Vec<u8>) {
            put_dialect(&config.dialect, out);
            put_number(out, [$(stringify!($field)),*].len() as u64);
            $({
                put_bytes(out, stringify!($field).as_bytes());
                let mut value = Vec::new();
                config.$field.put(&mut value);
                put_bytes(out, &value);
            })*
        }

        /// Restores a configuration; `own` are the codecs of the application, where it has some.
        pub(crate) fn take(from: &mut Cursor<'_>, own: &[Option<Codec>; 2]) -> Result<SessionConfig, Unfit> {
            let mut builder = SessionConfig::with_dialect(take_dialect(from, own)?);
            for _ in 0..from.number()? {
                let (name, value) = (from.text()?, from.bytes()?);
                let mut value = Cursor::new(value);
                match name {
                    $(stringify!($field) => builder = builder.$field(Value::take(&mut value)?),)*
                    unknown => return Err(Unfit::Unknown(unknown.into())),
                }
            }
            builder.build().map_err(|error| Unfit::Refused(error.to_string()))
        }
    };
}

session_fields!(settings! {});

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(config: &SessionConfig) -> Result<SessionConfig, Unfit> {
        let mut out = Vec::new();
        put(config, &mut out);
        let mut cursor = Cursor::new(&out);
        let config = take(&mut cursor, &[None, None]);
        assert!(cursor.is_empty() || config.is_err());
        config
    }

    #[test]
    fn every_setting_of_every_dialect_comes_back() {
        for name in Dialect::ALL_NAMES {
            let mut dialect = Dialect::by_name(name).unwrap();
            let options = ChannelOptions { priority: 3, trickle_rate: NonZeroU32::new(9), ..Default::default() };
            let changed = SessionConfig::with_dialect(dialect.clone())
                .protocol_name("Replay_7".into())
                .linger(Duration::from_micros(1_234_567))
                .overflow(Overflow::Close)
                .channels([options; 4]);
            for config in [SessionConfig::with_dialect(dialect.clone()).build(), changed.build()] {
                let config = config.unwrap();
                // Debug shows every field.
                dialect.timing = Default::default();
                let with_settings_alone = |text: String| text.split_once("protocol_name").unwrap().1.to_owned();
                let expected = with_settings_alone(format!("{config:?}"));
                assert_eq!(with_settings_alone(format!("{:?}", restored(&config).unwrap())), expected, "{name}");
            }
        }
    }

    #[test]
    fn what_this_build_cannot_restore_is_named() {
        let mut out = Vec::new();
        put(&SessionConfig::new("x").unwrap(), &mut out);
        let at = out.windows(6).position(|window| window == b"linger").unwrap();
        out[at] = b'L';
        let unknown = take(&mut Cursor::new(&out), &[None, None]).unwrap_err();
        assert_eq!(unknown, Unfit::Unknown("Linger".into()));
        for cut in 0..out.len() {
            assert!(take(&mut Cursor::new(&out[..cut]), &[None, None]).is_err());
        }
    }
}
