//! What an operator sees: the log above DEBUG, and the figures of a listener.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use soe_testing::Network;
use soe_tokio::{AdmissionConfig, DisconnectReason, Origin};
use tracing::{
    Event, Id, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Record},
};

use crate::support::{CLIENT, SERVER, client, config, connector, listen, pair, receive};

/// Keeps what is logged at INFO and above.
#[derive(Clone, Default)]
struct Journal(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.push_str(&format!("{field}={value:?} "));
    }
}

impl Subscriber for Journal {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO && metadata.target().starts_with("soe_tokio")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        event.record(&mut Line(&mut line));
        self.0.lock().expect("nobody panics").push(line);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn an_operator_hears_once_that_the_listener_is_full() {
    let journal = Journal::default();
    let _guard = tracing::subscriber::set_default(journal.clone());
    let network = Network::new(1);
    let admission = AdmissionConfig::builder(config()).max_sessions(1).build().expect("in range");
    let listener = listen(&network, admission);
    let first = connector(&network, CLIENT);
    let _pair = pair(&listener, &first).await;
    for number in 1..6 {
        let refused = connector(&network, client(number)).connect(SERVER, config()).await;
        assert!(refused.is_err_and(|error| error.is_refused()));
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let lines = journal.0.lock().expect("nobody panics").clone();
    let told = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((told("listening"), told("the listener is full"), lines.len()), (1, 1, 2), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listener_counts_why_sessions_ended_and_what_they_had_done() {
    let network = Network::new(1);
    let listener = listen(&network, config());
    for number in 0..3 {
        let connector = connector(&network, client(number));
        let (mut client, mut server) = pair(&listener, &connector).await;
        client.send("hello").await.expect("open");
        assert_eq!(receive(&mut server).await, b"hello");
        match number {
            0 => _ = client.close(DisconnectReason::Application).await,
            1 => _ = client.close(DisconnectReason::Other(4_711)).await,
            _ => server.abort(DisconnectReason::ConnectionRefused, true),
        }
        server.closed().await;
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    let stats = listener.stats();
    let ended = &stats.ended;
    assert_eq!((ended.sessions, ended.messages_received, ended.by_reason.len()), (3, 3, 3));
    assert_eq!((ended.by(DisconnectReason::Other(0)), ended.by(DisconnectReason::Timeout)), (1, 0));
    let kicked = ended.by_reason.iter().find(|ended| ended.reason == DisconnectReason::ConnectionRefused);
    assert_eq!(kicked.map(|ended| (ended.origin, ended.sessions)), Some((Origin::Local, 1)));
    assert!(ended.bytes_received > 0 && ended.reliable_sent == 0);
    let line = stats.to_string();
    assert!(line.contains("3 opened") && line.contains("3 ended") && !line.contains('\n'), "{line}");
    assert!(format!("{stats:#}").contains("memory_overflows"));
}
