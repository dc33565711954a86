//! What a replay has found.

use std::time::Duration;

use thiserror::Error;

use crate::recording::{Entry, Reader, Start, settings::Unfit};

/// Where a session said something else than it said when it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Difference {
    /// The call, counted from 1.
    pub call: u64,
    /// The time since the session was created.
    pub elapsed: Duration,
    /// The same in nanoseconds since 1970.
    pub unix_nanos: u64,
    /// What was called.
    pub input: String,
    /// What the recording has there.
    pub expected: String,
    /// What the session says now.
    pub actual: String,
    /// The session's state and figures after the call.
    pub session: String,
    /// The version of the crate that recorded.
    pub recorded_by: String,
}

impl Difference {
    pub(super) fn new(
        call: u64,
        (elapsed, unix_nanos): (Duration, u64),
        last: u64,
        (expected, said): (&[u8], &[u8]),
        session: String,
        start: &Start,
    ) -> Self {
        let input = show(Reader::new(expected, last).next().ok().flatten(), "");
        let (expected, actual) = first_difference(Reader::new(expected, last), Reader::new(said, last));
        let recorded_by = start.version.clone();
        Self { call, elapsed, unix_nanos, input, expected, actual, session, recorded_by }
    }
}

/// The first entries that differ. The call itself comes first and is the same in both.
fn first_difference(mut expected: Reader<'_>, mut said: Reader<'_>) -> (String, String) {
    loop {
        let (then, now) = (expected.next().ok().flatten(), said.next().ok().flatten());
        if then != now || then.is_none() {
            // What follows in the log is the next call if this one has said no more.
            return (show(then, "nothing more"), show(now, "nothing more"));
        }
    }
}

fn show(entry: Option<Entry<'_>>, nothing: &str) -> String {
    entry.map_or_else(|| nothing.to_owned(), |entry| entry.to_string())
}

/// Why a recording cannot be replayed, or not any further.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The session says something else than when it was recorded.
    #[error("call {} differs: the recording has \"{}\", this build \"{}\"", .0.call, .0.expected, .0.actual)]
    Differs(Box<Difference>),
    /// The recording hides messages, without which nothing can be replayed.
    #[error("the recording hides messages and cannot be replayed")]
    Redacted,
    /// The recording has another format.
    #[error("the recording has format {format}, written by version {version}; this build, {}, reads format {}",
        env!("CARGO_PKG_VERSION"), crate::recording::log::VERSION)]
    Format {
        /// Its format.
        format: u8,
        /// The version of the crate that recorded.
        version: String,
    },
    /// The recording has a setting that this build does not know.
    #[error("this build does not know the setting {0} of the recording")]
    UnknownSetting(String),
    /// This build refuses the configuration.
    #[error("this build refuses the configuration: {0}")]
    Configuration(String),
    /// The session used a codec of the application's own: see [`Replay::with_codecs`](super::Replay::with_codecs).
    #[error("pass {} uses a codec of the application, which the recording does not hold", .0 + 1)]
    NeedsCodec(usize),
    /// The log is not one, or is damaged.
    #[error("the log is malformed after call {call}")]
    Malformed {
        /// Calls that were read.
        call: u64,
    },
}

impl From<Unfit> for ReplayError {
    fn from(unfit: Unfit) -> Self {
        match unfit {
            Unfit::Broken => Self::Malformed { call: 0 },
            Unfit::Format(format, version) => Self::Format { format, version },
            Unfit::Unknown(name) => Self::UnknownSetting(name),
            Unfit::NeedsCodec(place) => Self::NeedsCodec(place),
            Unfit::Refused(why) => Self::Configuration(why),
        }
    }
}
