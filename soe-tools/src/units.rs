//! Numbers with units, as command lines have them.

use std::time::Duration;

/// A text that is no such number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is {rule}")]
pub struct UnitError {
    text: String,
    rule: &'static str,
}

impl UnitError {
    pub(crate) fn new(text: &str, rule: &'static str) -> Self {
        Self { text: text.to_owned(), rule }
    }
}

/// A time: `250us`, `40ms`, `1.5s`, `2m`, or `0`.
///
/// # Errors
/// If it is anything else, or longer than a day.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let units = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
    let seconds = scaled(text, &units).filter(|seconds| *seconds <= 86_400.0);
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| UnitError::new(text, "not a time of at most a day such as 250us, 40ms, 1.5s or 2m"))
}

/// A share between 0 and 1: `5%` or `0.05`.
///
/// # Errors
/// If it is anything else.
pub fn share(text: &str) -> Result<f64, UnitError> {
    let share = match text.strip_suffix('%') {
        Some(percent) => number(percent).map(|percent| percent / 100.0),
        None => number(text),
    };
    share
        .filter(|share| *share <= 1.0)
        .ok_or_else(|| UnitError::new(text, "not a share such as 5% or 0.05, at most 100%"))
}

/// Bits: `33600bit`, `56kbit`, `1.5mbit`, `1gbit`.
///
/// # Errors
/// If it is anything else, or over 100 Gbit.
pub fn bits(text: &str) -> Result<u64, UnitError> {
    let units = [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("bit", 1.0)];
    let bits = scaled(text, &units).filter(|bits| *bits <= 1e11);
    bits.map(|bits| bits as u64)
        .ok_or_else(|| UnitError::new(text, "not a rate such as 56kbit or 1.5mbit, at most 100gbit"))
}

/// Bytes: `512`, `512B`, `64kB`, `1MB`, in powers of 1,000.
///
/// # Errors
/// If it is anything else, or over a terabyte.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
    let bytes = number(text).or_else(|| scaled(text, &units)).filter(|bytes| *bytes <= 1e12);
    bytes
        .map(|bytes| bytes as u64)
        .ok_or_else(|| UnitError::new(text, "not a number of bytes such as 512, 64kB or 1MB"))
}

/// A plain number, not negative.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite() && number.is_sign_positive())
}

fn scaled(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    if text == "0" {
        return Some(0.0);
    }
    units.iter().find_map(|(unit, factor)| number(text.strip_suffix(unit)?).map(|number| number * factor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        assert_eq!(duration("250us"), Ok(Duration::from_micros(250)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!((share("5%"), share("0.05"), share("1")), (Ok(0.05), Ok(0.05), Ok(1.0)));
        assert_eq!((bits("33600bit"), bits("1.5mbit")), (Ok(33_600), Ok(1_500_000)));
        assert_eq!((bytes("512"), bytes("64kB"), bytes("9B")), (Ok(512), Ok(64_000), Ok(9)));
    }

    #[test]
    fn what_has_no_unit_or_no_sense_is_refused() {
        for text in ["", "5", "ms", "-1ms", "infs", "NaNs", "1e99s", "1 s", "1ss"] {
            assert!(duration(text).is_err(), "{text}");
        }
        for text in ["", "%", "101%", "1.01", "-0.1", "five"] {
            assert!(share(text).is_err(), "{text}");
        }
        for text in ["", "1", "1mbps", "999gbit"] {
            assert!(bits(text).is_err(), "{text}");
        }
        for text in ["", "1kb", "1e30"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
