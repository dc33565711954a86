//! What a load has measured.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::{Condition, Judgement};

/// Times, in a histogram with three significant digits, from a microsecond to an hour.
#[derive(Clone, Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, HIGHEST, 3).expect("the crate takes these bounds and digits"))
    }
}

impl Times {
    pub(super) fn record(&mut self, time: Duration) {
        self.0.saturating_record((time.as_micros() as u64).clamp(1, HIGHEST));
    }

    pub(super) fn add(&mut self, other: &Self) {
        // The bounds are the same, so that every value fits.
        let _ = self.0.add(&other.0);
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The shortest; zero if there is none.
    pub fn min(&self) -> Duration {
        Duration::from_micros(if self.0.is_empty() { 0 } else { self.0.min() })
    }

    /// The mean; zero if there is none.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.0.mean() / 1e6)
    }

    /// The longest; zero if there is none.
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.0.max())
    }

    /// The time that `percent` of all do not exceed, 0 to 100; zero if there is none. Rounded up by a thousandth at most.
    pub fn percentile(&self, percent: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(percent / 100.0))
    }

    fn to_json(&self) -> Value {
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let percentiles = PERCENTILES.map(|percent| (format!("p{percent}"), json!(millis(self.percentile(percent)))));
        let mut object: serde_json::Map<_, _> = percentiles.into_iter().collect();
        object.insert("count".to_owned(), json!(self.count()));
        for (name, time) in [("min", self.min()), ("mean", self.mean()), ("max", self.max())] {
            object.insert(name.to_owned(), json!(millis(time)));
        }
        object.into()
    }
}

/// What a load has measured.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct LoadReport {
    /// Clients that were to connect.
    pub clients: usize,
    /// Those that got a session.
    pub connected: u64,
    /// Those that got none, by the reason.
    pub refused: BTreeMap<String, u64>,
    /// Those whose session ended before the load did, by the reason.
    pub ended_early: BTreeMap<String, u64>,
    /// Messages that were due by the schedule of the clients that got a session.
    pub due: u64,
    /// Messages that the transport took. The others found its buffers full until the end.
    pub sent: u64,
    /// Messages that came back whole.
    pub echoed: u64,
    /// Messages that came back damaged, or that were never sent.
    pub wrong: u64,
    /// Messages that came back again.
    pub repeated: u64,
    /// Bytes of messages that came back.
    pub bytes: u64,
    /// How long messages were due.
    pub sending: Duration,
    /// Resident memory that came with the clients, in bytes for each. `None` with fewer than 1,000, and where the system does not
    /// tell.
    pub memory_per_client: Option<u64>,
    /// The load was stopped before its end.
    pub is_interrupted: bool,
    pub(super) rtt: Times,
    pub(super) connect: Times,
    pub(super) lag: Times,
}

impl LoadReport {
    /// Round trips of messages, from the time at which each was due by the schedule: waiting in front of a slow server, or of
    /// the load itself, counts.
    pub fn rtt(&self) -> &Times {
        &self.rtt
    }

    /// From the time at which a handshake was due to the open session. The transport waits up to 20 ms for a refusal behind
    /// the server's response, which is included.
    pub fn connect(&self) -> &Times {
        &self.connect
    }

    /// How late messages were given to the transport: what the load itself adds to the round trips.
    pub fn lag(&self) -> &Times {
        &self.lag
    }

    /// Clients that got no session, or lost it.
    pub fn failed(&self) -> u64 {
        self.refused.values().chain(self.ended_early.values()).sum()
    }

    /// Messages that were due and did not come back.
    pub fn lost(&self) -> u64 {
        self.due.saturating_sub(self.echoed)
    }

    /// The share of the messages that were due and did not come back, 0 to 1.
    pub fn loss(&self) -> f64 {
        if self.due == 0 { 0.0 } else { self.lost() as f64 / self.due as f64 }
    }

    /// Messages that came back, per second of sending.
    pub fn throughput(&self) -> f64 {
        let seconds = self.sending.as_secs_f64();
        if seconds == 0.0 { 0.0 } else { self.echoed as f64 / seconds }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (all, more) in [(&mut self.refused, &other.refused), (&mut self.ended_early, &other.ended_early)] {
            for (reason, count) in more {
                *all.entry(reason.clone()).or_default() += count;
            }
        }
        self.clients += other.clients;
        self.connected += other.connected;
        self.due += other.due;
        self.sent += other.sent;
        self.echoed += other.echoed;
        self.wrong += other.wrong;
        self.repeated += other.repeated;
        self.bytes += other.bytes;
        self.sending = self.sending.max(other.sending);
        self.is_interrupted |= other.is_interrupted;
        self.rtt.add(&other.rtt);
        self.connect.add(&other.connect);
        self.lag.add(&other.lag);
    }

    /// Everything, with times in milliseconds, and what the conditions say of it.
    pub fn to_json(&self, conditions: &[Condition]) -> Value {
        let judged = conditions.iter().map(|condition| {
            let Judgement { failed, measured } = condition.judge(self);
            json!({ "condition": condition.to_string(), "measured": measured, "failed": failed })
        });
        json!({
            "clients": self.clients,
            "connected": self.connected,
            "failed": self.failed(),
            "refused": self.refused,
            "ended_early": self.ended_early,
            "due": self.due,
            "sent": self.sent,
            "echoed": self.echoed,
            "lost": self.lost(),
            "loss": self.loss(),
            "wrong": self.wrong,
            "repeated": self.repeated,
            "bytes": self.bytes,
            "seconds": self.sending.as_secs_f64(),
            "throughput": self.throughput(),
            "interrupted": self.is_interrupted,
            "memory_per_client": self.memory_per_client,
            "rtt_ms": self.rtt.to_json(),
            "connect_ms": self.connect.to_json(),
            "lag_ms": self.lag.to_json(),
            "fail_if": judged.collect::<Vec<_>>(),
        })
    }

    /// Some lines for eyes, with what the conditions say.
    pub fn to_text(&self, conditions: &[Condition]) -> String {
        let mut text = format!(
            "clients   {}: {} connected, {} failed\nmessages  {} due, {} sent, {} echoed ({:.1}/s), {} lost ({:.3} %), {} wrong\n",
            self.clients,
            self.connected,
            self.failed(),
            self.due,
            self.sent,
            self.echoed,
            self.throughput(),
            self.lost(),
            self.loss() * 100.0,
            self.wrong
        );
        if let Some(bytes) = self.memory_per_client {
            let _ = writeln!(text, "memory    {bytes} bytes per client");
        }
        for (what, reasons) in [("no session", &self.refused), ("ended early", &self.ended_early)] {
            for (reason, count) in reasons {
                let _ = writeln!(text, "{what}: {count} times {reason}");
            }
        }
        let heads = PERCENTILES.map(|percent| format!("{:>10}", format!("p{percent}"))).concat();
        let _ = writeln!(text, "ms        {:>10}{:>10}{heads}{:>10}", "min", "mean", "max");
        for (name, times) in [("rtt", &self.rtt), ("connect", &self.connect), ("lag", &self.lag)] {
            let values = [times.min(), times.mean()].into_iter();
            let values = values.chain(PERCENTILES.map(|percent| times.percentile(percent))).chain([times.max()]);
            let values: String = values.map(|time| format!("{:>10.3}", time.as_secs_f64() * 1e3)).collect();
            let _ = writeln!(text, "{name:<10}{values}");
        }
        for condition in conditions {
            let Judgement { failed, measured } = condition.judge(self);
            let _ = writeln!(text, "{} {condition}: {measured}", if failed { "FAILED" } else { "ok    " });
        }
        text
    }
}

/// In microseconds: an hour.
const HIGHEST: u64 = 3_600_000_000;
const PERCENTILES: [f64; 5] = [50.0, 90.0, 99.0, 99.9, 99.99];
