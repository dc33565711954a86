//! What one direction of a link may do to datagrams, and the words in which a command line says so.

use std::{fmt, str::FromStr, time::Duration};

use crate::units::{self, UnitError};

/// How one direction treats datagrams. The default passes everything on at once.
///
/// It is read from text, such as `loss=5%,delay=40ms`, and printed as such: see [`Spec`] for what there is.
///
/// ```
/// use soe_tools::link::Impairment;
///
/// let impairment: Impairment = "loss=5%,delay=40ms".parse()?;
/// assert_eq!(impairment.to_string(), "loss=5%,delay=40ms");
/// # Ok::<(), soe_tools::link::SpecError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Impairment {
    /// The share that is lost, each datagram independently of the others.
    pub(crate) loss: f64,
    /// Losses that come in bursts, on top of `loss`.
    pub(crate) burst: Option<GilbertElliott>,
    /// How long each datagram is under way at least.
    pub(crate) delay: Duration,
    /// Up to this much more, drawn for each datagram. Datagrams stay in order: one that is late makes those behind it late.
    pub(crate) jitter: Duration,
    /// Datagrams that are held back while those behind them overtake.
    pub(crate) reorder: Option<Reorder>,
    /// The share that arrives twice, each copy with a jitter of its own.
    pub(crate) duplicate: f64,
    /// The share in which one to four bits are flipped.
    pub(crate) corrupt: f64,
    /// A bottleneck.
    pub(crate) rate: Option<Rate>,
    /// Times in which nothing passes.
    pub(crate) blackout: Option<Blackout>,
    /// Datagrams with more bytes than this are lost.
    pub(crate) mtu: Option<usize>,
}

/// The loss model of Gilbert and Elliott: a good and a bad state, changed between before each datagram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct GilbertElliott {
    /// The probability of going from good to bad.
    pub(crate) enter: f64,
    /// The probability of going from bad to good.
    pub(crate) leave: f64,
    /// The share lost in the good state.
    pub(crate) good: f64,
    /// The share lost in the bad state.
    pub(crate) bad: f64,
}

impl GilbertElliott {
    /// Loses a `share` of the datagrams (0 to 1) in bursts of `length` datagrams on average (at least 1). `None` if bursts of
    /// that length cannot lose so much, even with a single datagram between two of them.
    fn bursts(share: f64, length: f64) -> Option<Self> {
        if share >= 1.0 {
            return Some(Self { enter: 1.0, leave: 0.0, good: 0.0, bad: 1.0 });
        }
        let leave = 1.0 / length;
        // In balance as many datagrams enter the bad state as leave it.
        let enter = leave * share / (1.0 - share);
        (enter <= 1.0).then_some(Self { enter, leave, good: 0.0, bad: 1.0 })
    }
}

/// See [`Impairment::reorder`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Reorder {
    /// The share that is held back.
    pub(crate) share: f64,
    /// For how long at most; a quarter of it at least.
    pub(crate) by: Duration,
}

/// See [`Impairment::rate`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    /// Bits that pass in a second, 28 bytes of IP and UDP header for each datagram included.
    pub(crate) bits_per_second: u64,
    /// Bytes that may wait. What comes on top is lost.
    pub(crate) queue: u64,
}

/// See [`Impairment::blackout`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Blackout {
    /// How long nothing passes,
    pub(crate) length: Duration,
    /// once in each period of this length, at a moment of the period that the seed chooses.
    pub(crate) every: Duration,
}

/// A list of changes to an [`Impairment`], such as `loss=5%,delay=40ms`.
///
/// ```text
/// loss=SHARE                       each datagram is lost with this probability: 5% or 0.05
/// burst=SHARE/LENGTH               a share is lost in bursts of LENGTH datagrams on average
/// gilbert=ENTER/LEAVE/GOOD/BAD     the same model, Gilbert-Elliott, by its four probabilities
/// delay=TIME jitter=TIME           40ms, 1.5s, 250us; up to a minute
/// reorder=SHARE/TIME               a share is held back by up to TIME, others overtake it
/// duplicate=SHARE corrupt=SHARE
/// rate=BITS/QUEUE                  a bottleneck: 56kbit/32kB, 1mbit/256kB; 0 takes it away
/// blackout=TIME/PERIOD             nothing passes for TIME, once in each PERIOD; 0 ends it
/// mtu=BYTES                        longer datagrams are lost; 0 takes it away
/// none                             everything passes at once from here on
/// ```
///
/// What is not named stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Spec(Vec<Setting>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Setting {
    None,
    Loss(f64),
    Burst(Option<GilbertElliott>),
    Delay(Duration),
    Jitter(Duration),
    Reorder(Option<Reorder>),
    Duplicate(f64),
    Corrupt(f64),
    Rate(Option<Rate>),
    Blackout(Option<Blackout>),
    Mtu(Option<usize>),
}

impl Spec {
    /// Makes the changes.
    pub fn apply(&self, impairment: &mut Impairment) {
        for setting in &self.0 {
            match *setting {
                Setting::None => *impairment = Impairment::default(),
                Setting::Loss(share) => impairment.loss = share,
                Setting::Burst(burst) => impairment.burst = burst,
                Setting::Delay(delay) => impairment.delay = delay,
                Setting::Jitter(jitter) => impairment.jitter = jitter,
                Setting::Reorder(reorder) => impairment.reorder = reorder,
                Setting::Duplicate(share) => impairment.duplicate = share,
                Setting::Corrupt(share) => impairment.corrupt = share,
                Setting::Rate(rate) => impairment.rate = rate,
                Setting::Blackout(blackout) => impairment.blackout = blackout,
                Setting::Mtu(mtu) => impairment.mtu = mtu,
            }
        }
    }
}

/// A [`Spec`] that says nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Not the name of a setting.
    #[error(
        "'{0}' is not one of loss, burst, gilbert, delay, jitter, reorder, duplicate, corrupt, rate, blackout, mtu, none"
    )]
    Unknown(String),
    /// A setting without `=` and a value.
    #[error("'{0}' needs a value: {0}=...")]
    NoValue(String),
    /// A value that the setting cannot have.
    #[error("{setting}: {error}")]
    Value {
        /// The setting.
        setting: String,
        /// What is wrong with it.
        error: UnitError,
    },
}

impl FromStr for Impairment {
    type Err = SpecError;

    /// A [`Spec`] on top of a link that passes everything on at once.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut impairment = Self::default();
        text.parse::<Spec>()?.apply(&mut impairment);
        Ok(impairment)
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',').map(|item| setting(item.trim())).collect::<Result<_, _>>().map(Self)
    }
}

fn setting(item: &str) -> Result<Setting, SpecError> {
    if item == "none" {
        return Ok(Setting::None);
    }
    const NAMES: [&str; 11] =
        ["loss", "burst", "gilbert", "delay", "jitter", "reorder", "duplicate", "corrupt", "rate", "blackout", "mtu"];
    let (name, value) = item.split_once('=').map_or((item, None), |(name, value)| (name, Some(value)));
    if !NAMES.contains(&name) {
        return Err(SpecError::Unknown(name.to_owned()));
    }
    let value = value.ok_or_else(|| SpecError::NoValue(name.to_owned()))?;
    parse_setting(name, value).map_err(|error| SpecError::Value { setting: name.to_owned(), error })
}

fn parse_setting(name: &str, value: &str) -> Result<Setting, UnitError> {
    let parts: Vec<&str> = value.split('/').collect();
    let delay = |text: &str| -> Result<Duration, UnitError> {
        units::duration(text)
            .and_then(|time| if time <= MAX_DELAY { Ok(time) } else { Err(UnitError::new(text, "over a minute")) })
    };
    Ok(match (name, &parts[..]) {
        ("loss", [share]) => Setting::Loss(units::share(share)?),
        ("burst" | "gilbert" | "reorder" | "rate" | "blackout", ["0" | "none"]) => match name {
            "reorder" => Setting::Reorder(None),
            "rate" => Setting::Rate(None),
            "blackout" => Setting::Blackout(None),
            _ => Setting::Burst(None),
        },
        ("burst", [share, length]) => {
            let mean = length.parse::<f64>().ok().filter(|length| length.is_finite() && *length >= 1.0);
            let mean = mean.ok_or_else(|| UnitError::new(length, "not a length of a burst, 1 or more datagrams"))?;
            let burst = GilbertElliott::bursts(units::share(share)?, mean);
            let too_short = || UnitError::new(value, "more than bursts of this length can lose: make them longer");
            Setting::Burst(Some(burst.ok_or_else(too_short)?))
        }
        ("gilbert", [enter, leave, good, bad]) => Setting::Burst(Some(GilbertElliott {
            enter: units::share(enter)?,
            leave: units::share(leave)?,
            good: units::share(good)?,
            bad: units::share(bad)?,
        })),
        ("delay", [time]) => Setting::Delay(delay(time)?),
        ("jitter", [time]) => Setting::Jitter(delay(time)?),
        ("reorder", [share, by]) => Setting::Reorder(Some(Reorder { share: units::share(share)?, by: delay(by)? })),
        ("duplicate", [share]) => Setting::Duplicate(units::share(share)?),
        ("corrupt", [share]) => Setting::Corrupt(units::share(share)?),
        ("rate", [bits, queue]) => {
            let bits_per_second = units::bits(bits)?;
            if bits_per_second < MIN_RATE {
                return Err(UnitError::new(bits, "below 1kbit"));
            }
            Setting::Rate(Some(Rate { bits_per_second, queue: units::bytes(queue)? }))
        }
        ("blackout", [length, every]) => {
            let blackout = Blackout { length: units::duration(length)?, every: units::duration(every)? };
            if blackout.length >= blackout.every {
                return Err(UnitError::new(value, "not a time shorter than its period"));
            }
            Setting::Blackout(Some(blackout))
        }
        ("mtu", [bytes]) => Setting::Mtu(Some(units::bytes(bytes)? as usize).filter(|mtu| *mtu > 0)),
        _ => return Err(UnitError::new(value, "not the parts that it has, see --help")),
    })
}

impl fmt::Display for Impairment {
    /// In the words of [`Spec`]; `none` if nothing is set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut items = Vec::new();
        let mut share = |name: &str, share: f64| {
            if share > 0.0 {
                items.push(format!("{name}={}%", trimmed(share * 100.0)));
            }
        };
        share("loss", self.loss);
        share("duplicate", self.duplicate);
        share("corrupt", self.corrupt);
        if let Some(GilbertElliott { enter, leave, good, bad }) = self.burst {
            items.push(format!("gilbert={}/{}/{}/{}", trimmed(enter), trimmed(leave), trimmed(good), trimmed(bad)));
        }
        for (name, time) in [("delay", self.delay), ("jitter", self.jitter)] {
            if !time.is_zero() {
                items.push(format!("{name}={time:?}"));
            }
        }
        if let Some(Reorder { share, by }) = self.reorder {
            items.push(format!("reorder={}%/{by:?}", trimmed(share * 100.0)));
        }
        if let Some(Rate { bits_per_second, queue }) = self.rate {
            items.push(format!("rate={}kbit/{queue}B", trimmed(bits_per_second as f64 / 1e3)));
        }
        if let Some(Blackout { length, every }) = self.blackout {
            items.push(format!("blackout={length:?}/{every:?}"));
        }
        if let Some(mtu) = self.mtu {
            items.push(format!("mtu={mtu}B"));
        }
        f.write_str(if items.is_empty() { "none".to_owned() } else { items.join(",") }.as_str())
    }
}

/// Six decimals, without the zeros behind.
fn trimmed(number: f64) -> String {
    let text = format!("{number:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The longest delay, jitter and holding back: what waits takes memory.
const MAX_DELAY: Duration = Duration::from_secs(60);
/// The slowest bottleneck in bits per second.
const MIN_RATE: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str) -> Impairment {
        text.parse().unwrap()
    }

    #[test]
    fn every_setting_is_read() {
        let all = applied(
            "loss=5%, burst=10%/4,delay=40ms,jitter=1.5ms,reorder=1%/20ms,duplicate=0.02,corrupt=3%,rate=56kbit/32kB,\
             blackout=1s/10s,mtu=512",
        );
        assert_eq!((all.loss, all.duplicate, all.corrupt), (0.05, 0.02, 0.03));
        assert_eq!((all.delay, all.jitter), (Duration::from_millis(40), Duration::from_micros(1500)));
        assert_eq!(all.reorder, Some(Reorder { share: 0.01, by: Duration::from_millis(20) }));
        assert_eq!(all.rate, Some(Rate { bits_per_second: 56_000, queue: 32_000 }));
        assert_eq!(all.blackout, Some(Blackout { length: Duration::from_secs(1), every: Duration::from_secs(10) }));
        assert_eq!(all.mtu, Some(512));
        let burst = all.burst.unwrap();
        assert!(
            (burst.enter / (burst.enter + burst.leave) - 0.1).abs() < 1e-9 && (burst.leave - 0.25).abs() < 1e-9,
            "{burst:?}"
        );
        assert_eq!(applied("gilbert=1%/20%/0/80%").burst.unwrap().bad, 0.8);
    }

    #[test]
    fn what_is_not_named_stays_and_none_clears() {
        let mut impairment = applied("loss=5%,delay=40ms,rate=1mbit/64kB");
        "loss=1%,rate=0".parse::<Spec>().unwrap().apply(&mut impairment);
        assert_eq!((impairment.loss, impairment.rate), (0.01, None));
        assert_eq!(impairment.delay, Duration::from_millis(40));
        "none,jitter=1ms".parse::<Spec>().unwrap().apply(&mut impairment);
        assert_eq!(impairment, Impairment { jitter: Duration::from_millis(1), ..Impairment::default() });
    }

    #[test]
    fn what_is_printed_reads_back_the_same() {
        for text in [
            "none",
            "loss=0.5%,delay=45ms,jitter=2ms",
            "gilbert=0.013158/0.25/0/1,reorder=1%/20ms,rate=16000kbit/256kB,blackout=800ms/60s,mtu=1400,corrupt=1%",
        ] {
            let impairment = applied(text);
            assert_eq!(applied(&impairment.to_string()), impairment, "{impairment}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_setting_it_stands_in() {
        for (text, complaint) in [
            ("lost=5%", "'lost' is not one of"),
            ("loss", "'loss' needs a value"),
            ("loss=101%", "loss: '101%'"),
            ("loss=-1%", "loss: '-1%'"),
            ("loss=NaN", "loss: 'NaN'"),
            ("delay=40", "delay: '40'"),
            ("delay=61s", "delay: '61s'"),
            ("rate=1mbit", "rate: '1mbit'"),
            ("rate=1bit/1kB", "rate: '1bit'"),
            ("burst=5%/0.5", "burst: '0.5'"),
            ("burst=70%/2", "burst: '70%/2' is more than bursts"),
            ("blackout=2s/1s", "blackout: '2s/1s'"),
            ("", "'' is not one of"),
        ] {
            let error = text.parse::<Spec>().unwrap_err().to_string();
            assert!(error.starts_with(complaint), "{text}: {error}");
        }
    }
}
