//! When a load counts as failed: `rtt.p99>80ms`.

use std::{fmt, str::FromStr, time::Duration};

use super::LoadReport;
use crate::units::{self, UnitError};

/// A measurement and a limit. The load has failed if the comparison holds.
///
/// ```text
/// rtt.p99>80ms       the round trip from the time a message was due; also min, mean, p50, p99.9, max, ...
/// connect.p99>1s     the time from the start of a handshake to the open session
/// lag.max>50ms       how late the load itself was
/// loss>1%            messages that were due and did not come back, of all that were due
/// failed>0           clients that got no session, or lost it; as a number, or as a share: failed>1%
/// wrong>0            messages that came back damaged
/// throughput<900     messages that came back, per second of sending
/// ```
///
/// Comparisons are `>`, `>=`, `<` and `<=`. A time of which there is no sample fails every comparison's load.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    metric: Metric,
    comparison: Comparison,
    limit: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Time(Series, Statistic),
    Loss,
    Failed,
    FailedShare,
    Wrong,
    Throughput,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Series {
    RoundTrip,
    Connect,
    Lag,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Statistic {
    Min,
    Mean,
    Max,
    Percentile(f64),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// A [`Condition`] that says nothing sensible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConditionError {
    /// No comparison in it.
    #[error("'{0}' has no comparison: >, >=, < or <=")]
    NoComparison(String),
    /// Not a measurement.
    #[error("'{0}' is not one of rtt.STATISTIC, connect.STATISTIC, lag.STATISTIC, loss, failed, wrong, throughput")]
    Metric(String),
    /// Not a statistic of times.
    #[error("'{0}' is not one of min, mean, max, p50, p99.9 and the like")]
    Statistic(String),
    /// Not a limit for this measurement.
    #[error(transparent)]
    Limit(#[from] UnitError),
}

/// What a [`Condition`] said of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// Whether the load has failed by it.
    pub failed: bool,
    /// The measurement as text; `no sample` if there is none.
    pub measured: String,
}

impl Condition {
    /// Judges a load.
    pub fn judge(&self, report: &LoadReport) -> Judgement {
        let time = |seconds: f64| format!("{:.3} ms", seconds * 1e3);
        let (value, measured) = match self.metric {
            Metric::Time(series, statistic) => {
                let series = match series {
                    Series::RoundTrip => report.rtt(),
                    Series::Connect => report.connect(),
                    Series::Lag => report.lag(),
                };
                if series.count() == 0 {
                    return Judgement { failed: true, measured: "no sample".to_owned() };
                }
                let seconds = match statistic {
                    Statistic::Min => series.min(),
                    Statistic::Mean => series.mean(),
                    Statistic::Max => series.max(),
                    Statistic::Percentile(percent) => series.percentile(percent),
                }
                .as_secs_f64();
                (seconds, time(seconds))
            }
            Metric::Loss => (report.loss(), format!("{:.3} %", report.loss() * 100.0)),
            Metric::Failed => (report.failed() as f64, report.failed().to_string()),
            Metric::FailedShare => {
                let share = report.failed() as f64 / report.clients.max(1) as f64;
                (share, format!("{:.3} %", share * 100.0))
            }
            Metric::Wrong => (report.wrong as f64, report.wrong.to_string()),
            Metric::Throughput => (report.throughput(), format!("{:.1}/s", report.throughput())),
        };
        let failed = match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        };
        Judgement { failed, measured }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = text.find(['<', '>']).ok_or_else(|| ConditionError::NoComparison(text.to_owned()))?;
        let (name, rest) = text.split_at(at);
        let (comparison, limit) = match (rest.starts_with('>'), rest[1..].strip_prefix('=')) {
            (true, None) => (Comparison::Above, &rest[1..]),
            (true, Some(limit)) => (Comparison::AtLeast, limit),
            (false, None) => (Comparison::Below, &rest[1..]),
            (false, Some(limit)) => (Comparison::AtMost, limit),
        };
        let (name, limit) = (name.trim(), limit.trim());
        let (metric, limit) = match name.split_once('.') {
            Some((series, statistic)) => (time(name, series, statistic)?, seconds(limit)?),
            None => match name {
                "loss" => (Metric::Loss, units::share(limit)?),
                "failed" if limit.ends_with('%') => (Metric::FailedShare, units::share(limit)?),
                "failed" => (Metric::Failed, number(limit)?),
                "wrong" => (Metric::Wrong, number(limit)?),
                "throughput" => (Metric::Throughput, number(limit)?),
                _ => return Err(ConditionError::Metric(name.to_owned())),
            },
        };
        Ok(Self { text: text.to_owned(), metric, comparison, limit })
    }
}

fn time(name: &str, series: &str, statistic: &str) -> Result<Metric, ConditionError> {
    let series = match series {
        "rtt" => Series::RoundTrip,
        "connect" => Series::Connect,
        "lag" => Series::Lag,
        _ => return Err(ConditionError::Metric(name.to_owned())),
    };
    let statistic = match statistic {
        "min" => Statistic::Min,
        "mean" => Statistic::Mean,
        "max" => Statistic::Max,
        _ => {
            let percent = statistic.strip_prefix('p').and_then(units::number).filter(|percent| *percent <= 100.0);
            Statistic::Percentile(percent.ok_or_else(|| ConditionError::Statistic(statistic.to_owned()))?)
        }
    };
    Ok(Metric::Time(series, statistic))
}

fn seconds(text: &str) -> Result<f64, UnitError> {
    units::duration(text).as_ref().map(Duration::as_secs_f64).map_err(Clone::clone)
}

fn number(text: &str) -> Result<f64, UnitError> {
    units::number(text).ok_or_else(|| UnitError::new(text, "not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> LoadReport {
        let mut report = LoadReport { clients: 200, due: 1_000, echoed: 990, wrong: 1, ..LoadReport::default() };
        for millis in 1..=1_000 {
            report.rtt.record(Duration::from_millis(millis));
        }
        report.connect.record(Duration::from_millis(20));
        report.refused.insert("timeout".to_owned(), 3);
        report.sending = Duration::from_secs(10);
        report
    }

    fn fails(text: &str) -> bool {
        text.parse::<Condition>().unwrap().judge(&report()).failed
    }

    #[test]
    fn measurements_are_compared_with_their_limits() {
        for (text, failed) in [
            ("rtt.p99>980ms", true),
            ("rtt.p99 > 995ms", false),
            ("rtt.p50<=502ms", true),
            ("rtt.min<1.1ms", true),
            ("rtt.max>=1.1s", false),
            ("rtt.mean>490ms", true),
            ("rtt.p99.9>1.01s", false),
            ("connect.p99>15ms", true),
            ("connect.max>25ms", false),
            ("loss>1%", false),
            ("loss>=1%", true),
            ("loss>0.009", true),
            ("failed>2", true),
            ("failed>1%", true),
            ("failed>1.5%", false),
            ("wrong>0", true),
            ("throughput<100", true),
            ("throughput<99", false),
        ] {
            assert_eq!(fails(text), failed, "{text}: {:?}", text.parse::<Condition>().unwrap().judge(&report()));
        }
    }

    #[test]
    fn a_load_without_a_sample_has_failed() {
        let judgement = "lag.p99>1h".parse::<Condition>().unwrap().judge(&report());
        assert_eq!(judgement, Judgement { failed: true, measured: "no sample".to_owned() });
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, complaint) in [
            ("rtt.p99", "'rtt.p99' has no comparison"),
            ("latency.p99>1ms", "'latency.p99' is not one of rtt"),
            ("rtt>1ms", "'rtt' is not one of rtt"),
            ("rtt.p101>1ms", "'p101' is not one of min"),
            ("rtt.median>1ms", "'median' is not one of min"),
            ("rtt.p99>80", "'80' is not a time"),
            ("loss>2", "'2' is not a share"),
            ("failed>x", "'x' is not a number"),
            ("", "'' has no comparison"),
            (">", "'' is not one of rtt"),
        ] {
            let error = text.parse::<Condition>().unwrap_err().to_string();
            assert!(error.starts_with(complaint), "{text}: {error}");
        }
    }
}
