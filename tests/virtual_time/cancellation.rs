//! Futures are dropped at every await point: after they were polled once, twice, and so on.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use soe_testing::Network;
use soe_tokio::{DisconnectReason, Message, SessionConfig, SoeSession};
use tokio::time::timeout;

use crate::support::{CLIENT, Faults, SERVER, client, config, connector, echo, listen, pair, receive, serve_echo};

/// More than any future here is polled before it is ready.
const POLLS: usize = 8;
const MESSAGES: u32 = 60;

/// Polls a future `polls` times and drops it if it is not ready by then.
async fn polled<F: Future>(polls: usize, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    let mut left = polls;
    poll_fn(move |cx| match future.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending if left <= 1 => Poll::Ready(None),
        Poll::Pending => {
            left -= 1;
            Poll::Pending
        }
    })
    .await
}

/// Makes futures and drops them until one is ready within its polls, yielding to the others in between.
async fn persist<T, F: Future<Output = T>>(polls: usize, mut make: impl FnMut() -> F) -> T {
    for _ in 0..100_000 {
        if let Some(done) = polled(polls, make()).await {
            return done;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("a future that is dropped after {polls} polls never comes to an end");
}

fn network() -> Network {
    Faults { loss: 0.03, delay: 5, full: 0.05, ..Faults::default() }.network(3)
}

/// A session whose send buffer is soon full.
fn narrow() -> SessionConfig {
    SessionConfig::builder("Simulated").send_buffer(2_000).build().expect("valid")
}

fn payload(number: u32) -> Vec<u8> {
    let mut payload = vec![number as u8; 300];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    payload
}

async fn narrow_pair(network: &Network) -> (SoeSession, SoeSession) {
    let (listener, connector) = (listen(network, config()), connector(network, CLIENT));
    let (client, server) = tokio::join!(connector.connect(SERVER, narrow()), listener.accept());
    (client.expect("the server answers"), server.expect("the listener lives").accept())
}

/// Expects every number once and in order, while receives are dropped after so many polls.
async fn receive_all(session: &mut SoeSession, polls: usize) {
    for number in 0..MESSAGES {
        let message = loop {
            let received =
                if number % 2 == 0 { polled(polls, session.recv()).await } else { polled(polls, session.next()).await };
            match received {
                Some(message) => break message.expect("open").expect("well"),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        assert_eq!(message.payload, payload(number), "message {number}, {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn sends_and_receives_that_are_dropped_lose_and_repeat_nothing() {
    for polls in 1..=POLLS {
        let (mut client, mut server) = narrow_pair(&network()).await;
        let sender = async {
            for number in 0..MESSAGES {
                // A send that is dropped has not sent: it is made again.
                while polled(polls, client.send(payload(number))).await.is_none_or(|sent| sent.is_err()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        };
        tokio::join!(sender, receive_all(&mut server, polls));
        assert!(polled(1, server.recv()).await.is_none(), "nothing is left over");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_room_or_for_the_kernel_can_be_given_up_at_any_time() {
    for polls in 1..=POLLS {
        let (mut client, mut server) = narrow_pair(&network()).await;
        let sender = async {
            for number in 0..MESSAGES {
                while polled(polls, client.ready()).await.is_none_or(|ready| ready.is_err()) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                client.try_send(payload(number)).expect("there is room");
                let _ = polled(polls, client.flushed()).await;
                let _ = polled(polls, client.flush()).await;
                // Nothing happens that these wait for.
                let moment = Duration::from_millis(1);
                let _ = timeout(moment, polled(polls, client.next_event())).await;
                let _ = timeout(moment, polled(polls, client.closed())).await;
            }
        };
        tokio::join!(sender, receive_all(&mut server, polls));
        persist(polls, || client.flushed()).await.expect("open");
    }
}

#[tokio::test(start_paused = true)]
async fn receipts_that_nobody_waits_for_change_nothing() {
    for polls in 1..=POLLS {
        let (mut client, mut server) = narrow_pair(&network()).await;
        let sender = async {
            for number in 0..MESSAGES {
                let delivery = loop {
                    match polled(polls, client.send_with_receipt(payload(number))).await {
                        Some(sent) => break sent.expect("open"),
                        None => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                };
                let _ = polled(polls, delivery).await;
            }
        };
        tokio::join!(sender, receive_all(&mut server, polls));
    }
}

#[tokio::test(start_paused = true)]
async fn accepts_that_are_dropped_lose_no_session() {
    for polls in 1..=POLLS {
        let network = network();
        let listener = listen(&network, config());
        let connectors: Vec<_> = (0..5).map(|number| connector(&network, client(number))).collect();
        let clients = futures_util::future::join_all(connectors.iter().map(|one| one.connect(SERVER, config())));
        let accepted = async {
            let mut ids = std::collections::BTreeSet::new();
            while ids.len() < 5 {
                let session = persist(polls, || listener.accept()).await.expect("the listener lives").accept();
                assert!(ids.insert(session.session_id()), "a session comes once");
                tokio::spawn(echo(session));
            }
            ids
        };
        let (clients, accepted) = tokio::join!(clients, accepted);
        for client in clients {
            let mut client = client.expect("the server answers");
            assert!(accepted.contains(&client.session_id()));
            client.send(&b"hello"[..]).await.expect("open");
            assert_eq!(receive(&mut client).await, b"hello");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_is_dropped_at_any_point_leaves_the_address_free() {
    for polls in 1..=POLLS {
        let network = network();
        serve_echo(listen(&network, config()));
        let connector = connector(&network, CLIENT);
        for _ in 0..5 {
            drop(polled(polls, connector.connect(SERVER, config())).await);
            // What was given up is still saying goodbye, or waits for an answer to say it to.
            let mut client = persist(usize::MAX, || async {
                loop {
                    if let Ok(session) = connector.connect(SERVER, config()).await {
                        return session;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            })
            .await;
            client.send(&b"hello"[..]).await.expect("open");
            assert_eq!(receive(&mut client).await, b"hello");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_that_is_dropped_goes_on() {
    for polls in 1..=POLLS {
        let network = network();
        let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
        let (mut client, mut server) = pair(&listener, &connector).await;
        for number in 0..20 {
            client.send(Message::reliable(payload(number))).await.expect("open");
        }
        let _ = polled(polls, client.close(DisconnectReason::Application)).await;
        for number in 0..20 {
            assert_eq!(receive(&mut server).await, payload(number));
        }
        assert!(server.recv().await.is_none());
        let closed = client.closed().await.expect("served");
        assert_eq!(closed.reason, DisconnectReason::Application);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_is_dropped_lets_the_sessions_close() {
    for polls in 1..=POLLS {
        let network = network();
        let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
        let (client, mut server) = pair(&listener, &connector).await;
        server.send(payload(1)).await.expect("open");
        let _ = polled(polls, listener.shutdown(Duration::from_secs(5))).await;
        let mut client = client;
        assert_eq!(receive(&mut client).await, payload(1));
        timeout(Duration::from_secs(60), client.closed()).await.expect("the session closes");
    }
}
