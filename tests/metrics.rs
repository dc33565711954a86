//! What a monitoring system gets of a listener, from sessions that are there.

use std::{
    collections::BTreeSet,
    io::Write,
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use soe_testing::{LinkProfile, Network};
use soe_tokio::{DisconnectReason, SessionConfig, SoeListener};

fn config() -> SessionConfig {
    SessionConfig::new("Metrics").expect("the defaults are valid")
}

/// A listener with three sessions, and one that has ended, over a link of 30 ms each way, one of which has messages waiting.
async fn busy() -> (SoeListener, Vec<soe_tokio::SoeSession>) {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(30)));
    let listener = network.listener(config()).expect("a simulated socket can be bound");
    let (gone, server) = tokio::join!(network.client_at(Network::client_address(9), config()), listener.accept());
    let mut server = server.expect("it is open").accept();
    server.send("goodbye").await.expect("open");
    gone.expect("the server answers").close(DisconnectReason::Application).await;
    while server.recv().await.is_some() {}
    let mut sessions = Vec::new();
    for number in 0..3 {
        let connect = network.client_at(Network::client_address(number), config());
        let (client, server) = tokio::join!(connect, listener.accept());
        let (mut client, mut server) = (client.expect("the server answers"), server.expect("it is open").accept());
        server.send(&b"hello"[..]).await.expect("open");
        client.recv().await.expect("open").expect("well");
        sessions.extend([client, server]);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let server = sessions.last_mut().expect("there are six");
    for _ in 0..20 {
        server.send(vec![7; 50_000]).await.expect("open");
    }
    (listener, sessions)
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    line.rsplit(' ').next().expect("a value").parse().expect("a number")
}

#[tokio::test(start_paused = true)]
async fn a_scrape_shows_the_sessions_and_names_no_peer() {
    let (listener, sessions) = busy().await;
    let metrics = listener.metrics();
    let mut text = String::new();
    metrics.encode_openmetrics(&mut text);
    assert_eq!((value(&text, "soe_sessions"), value(&text, "soe_sessions_opened_total")), (3.0, 4.0));
    assert_eq!(value(&text, "soe_sessions_ended_total{reason=\"Application\",origin=\"Peer\"}"), 1.0);
    assert_eq!(value(&text, "soe_ended_messages_sent_total"), 1.0);
    assert_eq!(value(&text, "soe_session_round_trip_seconds_gcount"), 3.0);
    assert_eq!(value(&text, "soe_session_round_trip_seconds_bucket{le=\"0.05\"}"), 0.0, "the link takes 60 ms");
    assert_eq!(value(&text, "soe_session_round_trip_seconds_bucket{le=\"0.2\"}"), 3.0);
    assert_eq!(value(&text, "soe_session_queue_bytes_bucket{le=\"0.0\"}"), 2.0);
    assert!(value(&text, "soe_datagrams_received_total{shard=\"0\"}") > 3.0);
    for session in &sessions {
        assert!(!text.contains(&session.peer_addr().ip().to_string()));
    }
    let worst: Value = serde_json::from_str(&metrics.worst_sessions_json()).expect("it is JSON");
    let worst = worst.as_array().expect("a list");
    assert_eq!(worst.len(), 3);
    let last = sessions.last().expect("there are six");
    assert_eq!(worst[0]["peer"], last.peer_addr().to_string());
    assert!(worst[0]["queue_bytes"].as_u64().expect("a number") > 0);
}

/// The names of series in an expression of PromQL: words that begin as ours do.
fn names(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("soe_"))
}

#[tokio::test(start_paused = true)]
async fn every_expression_of_the_dashboard_names_series_that_exist() {
    let (listener, _sessions) = busy().await;
    let mut text = String::new();
    listener.metrics().encode_openmetrics(&mut text);
    let series: BTreeSet<_> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect();
    let dashboard: Value = serde_json::from_str(include_str!("../docs/grafana.json")).expect("it is JSON");
    let mut expressions = 0;
    for panel in dashboard["panels"].as_array().expect("panels") {
        for target in panel["targets"].as_array().expect("targets") {
            let expression = target["expr"].as_str().expect("an expression");
            expressions += 1;
            let named: Vec<_> = names(expression).collect();
            assert!(!named.is_empty(), "{expression} names nothing");
            for name in named {
                assert!(series.contains(name), "{expression}: there is no {name}");
            }
            // A bucket that is not there gives an empty picture.
            for bound in expression.split("le=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(text.contains(&format!("le=\"{bound}\"")), "{expression}: there is no bucket {bound}");
            }
        }
    }
    assert!(expressions > 20);
}

/// The text as `promtool check metrics` reads it, which knows the format before OpenMetrics only: counters are declared with
/// their suffix, and a histogram of what is there now is declared as one of what has been.
fn before_openmetrics(text: &str) -> String {
    let mut old = String::new();
    let counters: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in text.lines().filter(|line| *line != "# EOF") {
        let line =
            line.replace(" gaugehistogram", " histogram").replace("_gcount ", "_count ").replace("_gsum ", "_sum ");
        let declared =
            line.strip_prefix("# ").and_then(|line| line.split(' ').nth(1)).filter(|name| counters.contains(name));
        match declared {
            Some(name) => old.push_str(&line.replacen(name, &format!("{name}_total"), 1)),
            None => old.push_str(&line),
        }
        old.push('\n');
    }
    old
}

/// Prometheus' own opinion of names, types, units and help, where its tool is there.
#[tokio::test(start_paused = true)]
async fn promtool_finds_nothing_wrong() {
    let (listener, _sessions) = busy().await;
    let mut text = String::new();
    listener.metrics().encode_openmetrics(&mut text);
    let tool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut tool = match tool {
        Ok(tool) => tool,
        Err(error) => return eprintln!("not checked by Prometheus: promtool does not start: {error}"),
    };
    let mut input = tool.stdin.take().expect("it is piped");
    input.write_all(before_openmetrics(&text).as_bytes()).expect("promtool reads");
    drop(input);
    let result = tool.wait_with_output().expect("promtool ends");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stdout));
}
