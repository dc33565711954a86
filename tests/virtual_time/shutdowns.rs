//! A shutdown at any moment is bounded, and its report adds up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use soe_testing::{SimRng, for_seeds};
use soe_tokio::{ConnectError, DisconnectReason, SoeSession};
use tokio::time::Instant;

use crate::support::{Faults, SERVER, client, config, connector, listen};

type Counts = Arc<Mutex<HashMap<u32, usize>>>;

fn count(counts: &Counts, session: u32) {
    *counts.lock().expect("no test panics here").entry(session).or_default() += 1;
}

/// Sends until the session ends, counting what the session has taken.
async fn chatter(mut session: SoeSession, taken: Counts, mut rng: SimRng) {
    let id = session.session_id();
    loop {
        let length = 1 + rng.below(3_000) as usize;
        if session.send(vec![1; length]).await.is_err() {
            return;
        }
        count(&taken, id);
        tokio::time::sleep(Duration::from_millis(rng.below(30))).await;
    }
}

async fn listen_to(mut session: SoeSession, arrived: Counts) {
    let id = session.session_id();
    while let Some(Ok(_)) = session.recv().await {
        count(&arrived, id);
    }
}

async fn run(seed: u64) {
    let mut rng = SimRng::new(seed);
    let loss = [0.0, 0.02, 0.2, 1.0][rng.below(4) as usize];
    let faults = Faults { delay: 20, full: 0.03, ..Faults::default() };
    let network = faults.network(seed);
    let listener = listen(&network, config());
    let (taken, arrived) = (Counts::default(), Counts::default());
    let mut readers = Vec::new();
    let sessions = 1 + rng.below(6) as usize;
    for number in 0..sessions as u16 {
        let connector = connector(&network, client(number));
        let (session, incoming) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
        let server = incoming.expect("the listener lives").accept();
        tokio::spawn(chatter(server, Arc::clone(&taken), rng.clone()));
        readers.push(tokio::spawn(listen_to(session.expect("the server answers"), Arc::clone(&arrived))));
    }
    network.link(Faults { loss, ..faults }.link());
    tokio::time::sleep(Duration::from_millis(rng.below(400))).await;
    let deadline = Duration::from_millis(rng.below(1_500));
    let start = Instant::now();
    let report = listener.shutdown(deadline).await;
    assert!(start.elapsed() <= deadline + Duration::from_millis(200), "{:?} of {deadline:?}", start.elapsed());
    assert_eq!(report.sessions.len(), sessions);
    assert_eq!(report.clean + report.cut_off, sessions);
    assert_eq!(report.sessions.iter().map(|session| session.undelivered.messages).sum::<usize>(), report.messages_lost);
    assert_eq!(report.sessions.iter().map(|session| session.undelivered.bytes).sum::<usize>(), report.bytes_lost);
    for reader in readers {
        reader.await.expect("a reader ends with its session");
    }
    let (taken, arrived) = (taken.lock().expect("no panic"), arrived.lock().expect("no panic"));
    for session in &report.sessions {
        let of = |counts: &HashMap<u32, usize>| counts.get(&session.session_id).copied().unwrap_or_default();
        let (taken, arrived, lost) = (of(&taken), of(&arrived), session.undelivered.messages);
        assert!(arrived <= taken, "{arrived} of {taken} arrived");
        assert!(arrived + lost >= taken, "{taken} were taken, {arrived} arrived, {lost} are said to be lost");
    }
}

#[test]
fn a_shutdown_at_any_moment_is_bounded_and_its_report_adds_up() {
    for_seeds(300, run);
}

/// The response is on its way to the client, or the client's first datagram to the listener.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_answered_just_before_the_listener_went_is_refused_at_once() {
    for wait in [60, 110, 140] {
        for shuts_down in [false, true] {
            let network = soe_testing::Network::new(1);
            network.link(soe_testing::LinkProfile::lossless().delay(Duration::from_millis(50)));
            let (listener, connector) = (listen(&network, config()), connector(&network, client(0)));
            let start = Instant::now();
            let connecting = tokio::spawn(async move {
                let error = connector.connect(SERVER, config()).await.expect_err("the listener is gone");
                (error, Instant::now())
            });
            tokio::time::sleep(Duration::from_millis(wait)).await;
            match shuts_down {
                true => _ = listener.shutdown(Duration::from_secs(10)).await,
                false => drop(listener),
            }
            let (error, at) = connecting.await.expect("no panic");
            assert!(at - start < Duration::from_millis(210), "told after {:?}", at - start);
            let is_refusal =
                matches!(error, ConnectError::Closed(end) if end.reason == DisconnectReason::ConnectionRefused);
            assert!(is_refusal, "{error}");
            // The socket stays for the handshake, and not longer.
            tokio::time::sleep(Duration::from_secs(4).saturating_sub(start.elapsed())).await;
            drop(listen(&network, config()));
        }
    }
}
