//! Configurations from files (feature `serde`): a map from the names of the settings to values. Errors name the
//! setting.

use std::{collections::BTreeSet, fmt, num::NonZeroU32, time::Duration};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use super::{
    AdmissionConfig, ChannelOptions, EscapeRule, Overflow, Oversized, RemapPolicy, RequestFilter, SessionConfig,
    fields::{admission_fields, session_fields},
};
use crate::{Dialect, Pass, ReliableChannel};

/// Reads a map into one optional value for each setting. Errors name the setting.
macro_rules! knobs {
    ($knobs:ident, $expecting:literal, { $($extra:ident: $extra_type:ty),* } $($field:ident: $type:ty as $read:ty,)*) => {
        knobs!(@struct $knobs, $expecting, $($extra: $extra_type,)* $($field: $read,)*);
    };
    (@struct $knobs:ident, $expecting:literal, $($field:ident: $type:ty,)*) => {
        #[derive(Default)]
        struct $knobs {
            $($field: Option<$type>,)*
        }

        impl<'de> Deserialize<'de> for $knobs {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Knobs;

                impl<'de> Visitor<'de> for Knobs {
                    type Value = $knobs;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$knobs, A::Error> {
                        let mut knobs = $knobs::default();
                        while let Some(name) = map.next_key::<String>()? {
                            match name.as_str() {
                                $(stringify!($field) => {
                                    let value = map.next_value().map_err(|error| named(&name, error))?;
                                    if knobs.$field.replace(value).is_some() {
                                        return Err(de::Error::duplicate_field(stringify!($field)));
                                    }
                                })*
                                unknown => return Err(de::Error::unknown_field(unknown, &[$(stringify!($field)),*])),
                            }
                        }
                        Ok(knobs)
                    }
                }

                deserializer.deserialize_map(Knobs)
            }
        }
    };
}

fn named<E: de::Error>(name: &str, error: E) -> E {
    E::custom(format_args!("{name}: {error}"))
}

/// Sets what was given.
macro_rules! apply {
    ($builder:ident, $knobs:ident, $($field:ident: $type:ty as $read:ty,)*) => {
        $(if let Some(value) = $knobs.$field {
            $builder = $builder.$field(value.into());
        })*
    };
}

session_fields!(knobs! { SessionKnobs, "the settings of a session", { dialect: DialectName } });

impl<'de> Deserialize<'de> for SessionConfig {
    /// Reads a map of the fields of [`Settings`](crate::Settings); what is left out keeps its default, or that of the
    /// `dialect`, one of [`Dialect::ALL_NAMES`]. Times are numbers of seconds, or texts like `"250 ms"`, `"30 s"`, `"10 min"`.
    /// Choices are written in lower case: `"block"`, `"when_encrypted"`, `["user_codec", "none"]`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let knobs = SessionKnobs::deserialize(deserializer)?;
        let dialect = knobs.dialect.map_or_else(Dialect::default, |DialectName(dialect)| dialect);
        let mut builder = Self::with_dialect(dialect);
        session_fields!(apply! { builder, knobs, });
        builder.build().map_err(de::Error::custom)
    }
}

admission_fields!(
    knobs! { AdmissionKnobs, "the settings of a server", { session: SessionConfig, names: BTreeSet<String> } }
);

impl<'de> Deserialize<'de> for AdmissionConfig {
    /// Reads a map of the fields of [`AdmissionSettings`](crate::AdmissionSettings), of which `session` must be there. In
    /// place of `filter` there are the accepted protocol `names`; `server_status` and other filters are functions, for
    /// [`AdmissionConfig::to_builder`].
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut knobs = AdmissionKnobs::deserialize(deserializer)?;
        let session = knobs.session.take().ok_or_else(|| de::Error::missing_field("session"))?;
        let mut builder = Self::builder(session);
        if let Some(names) = knobs.names.take() {
            builder = builder.filter(RequestFilter::AnyOf(names));
        }
        admission_fields!(apply! { builder, knobs, });
        builder.build().map_err(de::Error::custom)
    }
}

knobs!(ChannelFields, "the options of a channel", { priority: u8, trickle_rate: NonZeroU32, unordered: bool, redundant: bool });

struct ChannelKnobs(ChannelOptions);

impl<'de> Deserialize<'de> for ChannelKnobs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = ChannelFields::deserialize(deserializer)?;
        let default = ChannelOptions::default();
        Ok(Self(ChannelOptions {
            priority: fields.priority.unwrap_or(default.priority),
            trickle_rate: fields.trickle_rate.or(default.trickle_rate),
            unordered: fields.unordered.unwrap_or(default.unordered),
            redundant: fields.redundant.unwrap_or(default.redundant),
        }))
    }
}

impl From<ChannelKnobs> for ChannelOptions {
    fn from(ChannelKnobs(options): ChannelKnobs) -> Self {
        options
    }
}

struct DialectName(Dialect);

impl<'de> Deserialize<'de> for DialectName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let unknown = || de::Error::unknown_variant(&name, &Dialect::ALL_NAMES);
        Dialect::by_name(&name).map(Self).ok_or_else(unknown)
    }
}

/// Reads a list of a fixed length, each element as a `T`.
struct Each<T, const N: usize>([T; N]);

impl<'de, T, const N: usize> Deserialize<'de> for Each<T, N>
where
    [T; N]: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Deserialize::deserialize(deserializer).map(Self)
    }
}

impl<T, U: From<T>, const N: usize> From<Each<T, N>> for [U; N] {
    fn from(Each(elements): Each<T, N>) -> Self {
        elements.map(U::from)
    }
}

/// Reads the name of a choice.
macro_rules! choice {
    ($name:ident, $choice:ident { $($text:literal => $variant:ident),* $(,)? }) => {
        struct $name($choice);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                match text.as_str() {
                    $($text => Ok(Self($choice::$variant)),)*
                    unknown => Err(de::Error::unknown_variant(unknown, &[$($text),*])),
                }
            }
        }

        impl From<$name> for $choice {
            fn from($name(chosen): $name) -> Self {
                chosen
            }
        }
    };
}

choice!(OverflowName, Overflow { "block" => Block, "close" => Close });
choice!(OversizedName, Oversized { "promote" => Promote, "refuse" => Refuse });
choice!(EscapeName, EscapeRule { "always" => Always, "when_encrypted" => WhenEncrypted });
choice!(RemapName, RemapPolicy {
    "refuse" => Refuse, "same_peer_address" => SamePeerAddress, "any_address" => AnyAddress,
});
choice!(PassName, Pass {
    "none" => None, "user_codec" => UserCodec, "second_user_codec" => SecondUserCodec, "xor" => Xor,
});

/// A time: a number of seconds, or a number with its unit.
struct Time(Duration);

impl From<Time> for Duration {
    fn from(Time(time): Time) -> Self {
        time
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Seconds;

        impl Visitor<'_> for Seconds {
            type Value = Time;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time in seconds, or with its unit (us, ms, s, min, h)")
            }

            fn visit_u64<E: de::Error>(self, seconds: u64) -> Result<Time, E> {
                Ok(Time(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: de::Error>(self, seconds: i64) -> Result<Time, E> {
                let seconds = u64::try_from(seconds).map_err(|_| E::custom("a time cannot be negative"))?;
                self.visit_u64(seconds)
            }

            fn visit_f64<E: de::Error>(self, seconds: f64) -> Result<Time, E> {
                Duration::try_from_secs_f64(seconds).map(Time).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                let end = text.find(|letter: char| letter.is_ascii_alphabetic()).unwrap_or(text.len());
                let (number, unit) = text.split_at(end);
                let factor = UNITS.iter().find_map(|(name, factor)| (*name == unit).then_some(*factor));
                let seconds = number.trim().parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
                let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
                time.map(Time).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(Seconds)
    }
}

/// Units of time in seconds.
const UNITS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)];

#[cfg(test)]
mod tests {
    use super::*;

    fn error(json: &str) -> String {
        serde_json::from_str::<SessionConfig>(json).unwrap_err().to_string()
    }

    #[test]
    fn a_session_is_configured_by_the_names_of_its_settings() {
        let json = r#"{"dialect": "star-wars-galaxies", "crc_length": 3, "linger": "250 ms", "connect_timeout": 1.5,
            "passes": ["xor", "none"], "overflow": "close", "channels": [{}, {"priority": 2}, {}, {}]}"#;
        let config: SessionConfig = serde_json::from_str(json).unwrap();
        assert_eq!((config.udp_length, config.crc_length), (496, 3));
        assert_eq!((config.linger, config.connect_timeout), (Duration::from_millis(250), Duration::from_millis(1500)));
        assert_eq!((config.passes, config.overflow), ([Pass::Xor, Pass::None], Overflow::Close));
        assert_eq!(config.channels[1].priority, 2);
    }

    #[test]
    fn errors_name_the_setting() {
        assert!(error(r#"{"crc_length": 9}"#).contains("crc_length is 9, more than 4 bytes"));
        assert!(error(r#"{"crc_length": "two"}"#).contains("crc_length: invalid type"));
        assert!(error(r#"{"linger": "2 weeks"}"#).contains("linger: invalid value"));
        assert!(error(r#"{"crc_lenght": 2}"#).contains("unknown field `crc_lenght`"));
        assert!(error(r#"{"dialect": "tetris"}"#).contains("dialect: unknown variant `tetris`"));
        assert!(error(r#"{"channels": [{"priority": 2.5}, {}, {}, {}]}"#).contains("channels: priority: invalid type"));
    }

    #[test]
    fn a_server_is_configured_around_its_sessions() {
        let json = r#"{"session": {"protocol_name": "A"}, "names": ["A", "B"], "max_sessions": 9, "remap": "refuse"}"#;
        let config: AdmissionConfig = serde_json::from_str(json).unwrap();
        assert_eq!((config.max_sessions, config.remap), (9, RemapPolicy::Refuse));
        assert!(matches!(&config.filter, RequestFilter::AnyOf(names) if names.len() == 2));
        let missing = serde_json::from_str::<AdmissionConfig>("{}").unwrap_err();
        assert!(missing.to_string().contains("missing field `session`"), "{missing}");
        let nested = serde_json::from_str::<AdmissionConfig>(r#"{"session": {"udp_length": 1}}"#).unwrap_err();
        assert!(nested.to_string().contains("session: udp_length is 1"), "{nested}");
    }
}
