//! A listener's figures for a monitoring system: OpenMetrics text, and the worst sessions as JSON.

mod output;

use std::{fmt::Write, net::SocketAddr, time::Duration};

use soe_core::{DisconnectReason, SessionStats, Vitals};

#[cfg(feature = "metrics")]
use self::output::Facade;
use self::output::{Kind, Output, Text, Value};
use crate::stats::{ListenerStats, SocketStats};

/// The content type to serve [`Metrics::encode_openmetrics`] under.
pub const OPENMETRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The figures of a [`SoeListener`](crate::SoeListener) at one moment, see
/// [`SoeListener::metrics`](crate::SoeListener::metrics).
///
/// Nothing is kept for it while the server runs: it is made when it is asked for, by a look at each session. No figure is
/// labelled with a peer, so the number of series does not grow with the number of players.
#[derive(Clone, Debug)]
pub struct Metrics {
    stats: ListenerStats,
    round_trips: Histogram,
    losses: Histogram,
    queues: Histogram,
    /// The worst sessions, worst first.
    worst: Vec<Sample>,
}

/// What one session showed.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) session_id: u32,
    pub(crate) peer_addr: SocketAddr,
    pub(crate) stats: SessionStats,
}

/// Upper bounds of the round trips counted, in seconds.
const ROUND_TRIPS: [f64; 9] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6];
/// Upper bounds of the shares lost, from 0 to 1.
const LOSSES: [f64; 7] = [0.0, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3];
/// Upper bounds of what waits to be sent, in bytes.
const QUEUES: [f64; 7] = [0.0, 1024.0, 4096.0, 16384.0, 65536.0, 262_144.0, 1_048_576.0];
/// How many sessions [`Metrics::worst_sessions_json`] lists.
const WORST: usize = 20;

impl Metrics {
    pub(crate) fn new(stats: ListenerStats) -> Self {
        Self {
            stats,
            round_trips: Histogram::new(&ROUND_TRIPS),
            losses: Histogram::new(&LOSSES),
            queues: Histogram::new(&QUEUES),
            worst: Vec::with_capacity(WORST + 1),
        }
    }

    /// Adds a session. `sample` is called for one that may be among the worst: the samples of 10,000 would displace everything
    /// else from the processor's cache.
    pub(crate) fn add(&mut self, vitals: &Vitals, sample: impl FnOnce() -> Sample) {
        self.round_trips.add(vitals.rtt.map(|time| time.as_secs_f64()));
        self.losses.add(vitals.loss_sent.map(f64::from));
        self.queues.add(Some(vitals.pending_bytes as f64));
        let rank = rank(vitals);
        if self.worst.len() == WORST && self.worst.last().is_some_and(|last| last.rank() >= rank) {
            return;
        }
        let place = self.worst.partition_point(|other| other.rank() >= rank);
        self.worst.insert(place, sample());
        self.worst.truncate(WORST);
    }

    /// Appends everything as OpenMetrics text, ending with `# EOF`. Prometheus and everything that understands its format can
    /// scrape it; [`OPENMETRICS_CONTENT_TYPE`] is the content type.
    pub fn encode_openmetrics(&self, out: &mut String) {
        let mut text = Text::new(out);
        self.write(&mut text);
        text.finish();
    }

    /// Sets the counters and gauges of the recorder that is installed for the crate `metrics`. Call it every few seconds. The
    /// series have the names of [`Metrics::encode_openmetrics`]; the buckets of a histogram are gauges, with `le` as label.
    #[cfg(feature = "metrics")]
    pub fn publish(&self) {
        self.write(&mut Facade::new());
    }

    fn write(&self, out: &mut impl Output) {
        self.write_endpoint(out);
        self.write_ended(out);
        self.write_socket(out);
        self.write_proxies(out);
        self.write_sessions(out);
    }

    fn write_endpoint(&self, out: &mut impl Output) {
        let endpoint = &self.stats.endpoint;
        let (admission, capacity) = (&endpoint.admission, &endpoint.capacity);
        gauge(out, "soe_sessions", "Sessions that have not ended.", endpoint.sessions);
        gauge(out, "soe_sessions_waiting", "Sessions that wait to be accepted.", endpoint.waiting);
        gauge(out, "soe_sessions_lingering", "Sessions that have ended and answer late datagrams.", endpoint.lingering);
        gauge(out, "soe_memory_held_bytes", "What all sessions hold together.", self.stats.memory_held);
        counter(out, "soe_memory_overflows", "Sessions ended for want of memory.", self.stats.memory_overflows);
        counter(out, "soe_sessions_opened", "Sessions opened.", admission.opened);
        counter(out, "soe_sessions_replaced", "Sessions whose client came back.", endpoint.replaced);
        counter(out, "soe_session_moves", "Sessions that moved to another address.", endpoint.moves);
        counter(out, "soe_session_probes", "Silent sessions asked for a sign of life.", endpoint.probes);
        counter(out, "soe_requests", "Session requests received.", admission.requests);
        counter(out, "soe_responses", "Responses sent.", admission.responses);
        counter(out, "soe_unknown_sender_replies", "UnknownSender replies sent.", admission.unknown_sender_replies);
        counter(out, "soe_first_datagrams_parked", "First datagrams that waited for accept.", capacity.parked);
        let refused = [
            ("mismatched", admission.mismatched),
            ("over_capacity", admission.over_capacity),
            ("rate_limited_prefix", admission.rate_limited_prefix),
            ("rate_limited_all", admission.rate_limited_all),
            ("crc", admission.crc_rejects),
            ("evicted", admission.evicted),
            ("ignored", admission.ignored),
            ("more_proof_wanted", admission.more_proof_wanted),
        ];
        out.family("soe_strangers_dropped", Kind::Counter, "Strangers' requests and datagrams that were turned away.");
        for (reason, value) in refused {
            out.series("_total", &[("reason", reason)], Value::Whole(value));
        }
    }

    /// Totals over sessions that have ended: those that go on are in none of them, so that they never fall.
    fn write_ended(&self, out: &mut impl Output) {
        let ended = &self.stats.ended;
        out.family("soe_sessions_ended", Kind::Counter, "Sessions that have ended, by reason and by who ended them.");
        for of in &ended.by_reason {
            // Numbers without a meaning are counted together.
            let reason = match of.reason {
                DisconnectReason::Other(_) => "Other".to_owned(),
                known => format!("{known:?}"),
            };
            let labels = [("reason", &reason[..]), ("origin", &format!("{:?}", of.origin)[..])];
            out.series("_total", &labels, Value::Whole(of.sessions));
        }
        let totals = [
            ("soe_ended_messages_sent", "Messages that ended sessions had sent.", ended.messages_sent),
            ("soe_ended_messages_received", "Messages that ended sessions had received.", ended.messages_received),
            ("soe_ended_packets_sent", "Reliable packets of ended sessions, resends not counted.", ended.reliable_sent),
            ("soe_ended_packets_resent", "Reliable packets that ended sessions had sent again.", ended.resent),
            ("soe_ended_packets_duplicate", "Reliable packets that came twice to ended sessions.", ended.duplicates),
            ("soe_ended_crc_rejects", "Datagrams that ended sessions had dropped for their CRC.", ended.crc_rejects),
        ];
        for (name, help, value) in totals {
            counter(out, name, help, value);
        }
    }

    fn write_socket(&self, out: &mut impl Output) {
        type Figure = (&'static str, &'static str, fn(&SocketStats) -> u64);
        let figures: [Figure; 9] = [
            ("soe_datagrams_received", "Datagrams received.", |socket| socket.datagrams_received),
            ("soe_bytes_received", "Bytes received.", |socket| socket.bytes_received),
            ("soe_receive_batches", "Receive calls that brought something.", |socket| socket.receive_batches),
            ("soe_datagrams_sent", "Datagrams handed to the kernel.", |socket| socket.datagrams_sent),
            ("soe_bytes_sent", "Bytes handed to the kernel.", |socket| socket.bytes_sent),
            ("soe_send_calls", "Calls that tried to send.", |socket| socket.send_calls),
            ("soe_send_errors", "Runs of datagrams that the kernel refused.", |socket| socket.send_errors),
            ("soe_receive_errors", "Receive calls that failed.", |socket| socket.receive_errors),
            ("soe_unreachable_reports", "ICMP reports.", |socket| socket.unreachable_reports),
        ];
        for (name, help, figure) in figures {
            out.family(name, Kind::Counter, help);
            for (shard, socket) in self.stats.shards.iter().enumerate() {
                out.series("_total", &[("shard", &shard.to_string())], Value::Whole(figure(socket)));
            }
        }
    }

    /// Nothing without proxies in front.
    fn write_proxies(&self, out: &mut impl Output) {
        let Some(proxy) = &self.stats.proxy else { return };
        counter(out, "soe_proxied_datagrams", "Datagrams of players whom a proxy has named.", proxy.proxied);
        counter(out, "soe_proxy_unnamed", "Datagrams served under the address of a proxy.", proxy.unnamed);
        gauge(out, "soe_proxy_flows", "Flows whose header is remembered.", proxy.flows);
        counter(out, "soe_proxy_flows_evicted", "Flows forgotten to make room.", proxy.flows_evicted);
        let dropped = [
            ("untrusted", proxy.untrusted),
            ("headerless", proxy.headerless),
            ("malformed", proxy.malformed),
            ("disputed", proxy.disputed),
        ];
        out.family("soe_proxy_dropped", Kind::Counter, "Datagrams that were dropped before anybody looked into them.");
        for (reason, value) in dropped {
            out.series("_total", &[("reason", reason)], Value::Whole(value));
        }
    }

    fn write_sessions(&self, out: &mut impl Output) {
        self.round_trips.write(
            out,
            "soe_session_round_trip_seconds",
            "Smoothed round trips of the present sessions, including the delay of acknowledgements.",
        );
        self.losses.write(
            out,
            "soe_session_loss_ratio",
            "Share of the datagrams to the peer that is lost, for sessions where it is known.",
        );
        self.queues.write(out, "soe_session_queue_bytes", "Bytes that wait to be sent in the present sessions.");
    }

    /// The 20 sessions with the most bytes waiting, then the longest round trips, as a JSON array: `session_id` (hexadecimal),
    /// `peer`, `queue_bytes`, `unread_bytes`, `round_trip_seconds`, `loss_sent` (null where unknown), `resent`. For a page that
    /// an operator opens, not for a time series: it names peers.
    pub fn worst_sessions_json(&self) -> String {
        let mut out = String::from("[");
        for (number, sample) in self.worst.iter().enumerate() {
            let stats = &sample.stats;
            let separator = if number == 0 { "" } else { "," };
            let round_trip = number_or_null(stats.rtt.map(|time| time.as_secs_f64()));
            let loss = number_or_null(stats.loss_sent.map(f64::from));
            let _ = write!(
                out,
                "{separator}\n{{\"session_id\":\"{:08x}\",\"peer\":\"{}\",\"queue_bytes\":{},\"unread_bytes\":{},\
                 \"round_trip_seconds\":{round_trip},\"loss_sent\":{loss},\"resent\":{}}}",
                sample.session_id,
                sample.peer_addr,
                stats.pending_bytes,
                stats.unread_bytes,
                stats.resent_lost + stats.resent_timeout,
            );
        }
        out.push_str("\n]\n");
        out
    }
}

fn number_or_null(value: Option<f64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("{value}"))
}

fn gauge(out: &mut impl Output, name: &'static str, help: &'static str, value: usize) {
    out.family(name, Kind::Gauge, help);
    out.series("", &[], Value::Whole(value as u64));
}

fn counter(out: &mut impl Output, name: &'static str, help: &'static str, value: u64) {
    out.family(name, Kind::Counter, help);
    out.series("_total", &[], Value::Whole(value));
}

impl Sample {
    fn rank(&self) -> (usize, Option<Duration>) {
        rank(&Vitals::from(&self.stats))
    }
}

/// The larger, the worse.
fn rank(vitals: &Vitals) -> (usize, Option<Duration>) {
    (vitals.pending_bytes, vitals.rtt)
}

/// The distribution of one figure over the present sessions. Sessions end, so the counts may fall: a gauge histogram.
#[derive(Clone, Debug)]
struct Histogram {
    bounds: &'static [f64],
    buckets: Vec<u64>,
    count: u64,
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, buckets: vec![0; bounds.len()], count: 0, sum: 0.0 }
    }

    fn add(&mut self, value: Option<f64>) {
        let Some(value) = value else { return };
        self.count += 1;
        self.sum += value;
        if let Some(bucket) = self.bounds.iter().position(|bound| value <= *bound) {
            self.buckets[bucket] += 1;
        }
    }

    fn write(&self, out: &mut impl Output, name: &'static str, help: &'static str) {
        out.family(name, Kind::GaugeHistogram, help);
        let mut below = 0;
        for (bound, bucket) in self.bounds.iter().zip(&self.buckets) {
            below += bucket;
            out.series("_bucket", &[("le", &format!("{bound:?}"))], Value::Whole(below));
        }
        out.series("_bucket", &[("le", "+Inf")], Value::Whole(self.count));
        out.series("_gcount", &[], Value::Whole(self.count));
        out.series("_gsum", &[], Value::Real(self.sum));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(stats: ListenerStats, count: u32) -> Metrics {
        let mut metrics = Metrics::new(stats);
        let sample = |n: u32| {
            let mut stats = SessionStats::default();
            stats.rtt = Some(Duration::from_millis(u64::from(n)));
            stats.pending_bytes = n as usize * 100;
            Sample { session_id: n, peer_addr: SocketAddr::from(([192, 0, 2, 1], n as u16)), stats }
        };
        (0..count).map(sample).for_each(|sample| metrics.add(&Vitals::from(&sample.stats), || sample));
        metrics
    }

    #[test]
    fn the_buckets_of_a_histogram_add_up() {
        let mut out = String::new();
        figures(ListenerStats::default(), 1_000).encode_openmetrics(&mut out);
        let value = |name: &str| {
            let line = out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
            line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
        };
        assert_eq!(value("soe_session_round_trip_seconds_bucket{le=\"0.005\"}"), 6.0);
        assert_eq!(value("soe_session_round_trip_seconds_bucket{le=\"0.1\"}"), 101.0);
        assert_eq!(value("soe_session_round_trip_seconds_bucket{le=\"+Inf\"}"), 1_000.0);
        assert_eq!(value("soe_session_round_trip_seconds_gcount"), 1_000.0);
        assert_eq!(value("soe_session_queue_bytes_bucket{le=\"0.0\"}"), 1.0);
        assert!((value("soe_session_round_trip_seconds_gsum") - 499.5).abs() < 1e-6);
        assert!(out.ends_with("# EOF\n"));
    }

    #[test]
    fn every_line_is_a_comment_or_a_sample_of_a_family_named_before_and_no_family_comes_twice() {
        let mut out = String::new();
        let stats = ListenerStats { shards: vec![SocketStats::default(); 2], ..ListenerStats::default() };
        figures(stats, 3).encode_openmetrics(&mut out);
        let (mut families, mut current) = (std::collections::BTreeSet::new(), String::new());
        for line in out.lines().filter(|line| *line != "# EOF") {
            if let Some(family) = line.strip_prefix("# TYPE ") {
                current = family.split(' ').next().unwrap().to_owned();
                assert!(families.insert(current.clone()), "{current} twice");
            } else if let Some(family) = line.strip_prefix("# HELP ") {
                assert!(family.starts_with(&current), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(&current), "{line} in {current}");
                value.parse::<f64>().unwrap();
            }
        }
        assert!(families.len() > 20);
    }

    #[test]
    fn the_worst_sessions_are_those_with_the_most_waiting() {
        let json = figures(ListenerStats::default(), 100).worst_sessions_json();
        assert_eq!(json.matches("session_id").count(), WORST);
        assert!(json.contains("\"session_id\":\"00000063\",\"peer\":\"192.0.2.1:99\",\"queue_bytes\":9900"), "{json}");
        assert!(!json.contains("00000001"));
    }

    #[cfg(feature = "metrics")]
    #[test]
    fn the_facade_gets_every_series_of_the_text() {
        use metrics_util::debugging::{DebugValue, DebuggingRecorder};

        let stats = ListenerStats { shards: vec![SocketStats::default(); 2], ..ListenerStats::default() };
        let figures = figures(stats, 50);
        let mut text = String::new();
        figures.encode_openmetrics(&mut text);
        let recorder = DebuggingRecorder::new();
        metrics::with_local_recorder(&recorder, || figures.publish());
        let published: std::collections::BTreeSet<_> = recorder
            .snapshotter()
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let labels: Vec<_> =
                    key.key().labels().map(|label| format!("{}=\"{}\"", label.key(), label.value())).collect();
                let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
                let value = match value {
                    DebugValue::Counter(value) => value as f64,
                    DebugValue::Gauge(value) => value.into_inner(),
                    DebugValue::Histogram(_) => panic!("a histogram"),
                };
                format!("{}{labels} {value}", key.key().name())
            })
            .collect();
        let written = text.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            format!("{series} {}", value.parse::<f64>().unwrap())
        });
        assert_eq!(published, written.collect());
    }
}
