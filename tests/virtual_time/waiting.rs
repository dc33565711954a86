//! What tasks that wait cost, and what tasks that never wait leave to the others.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures_util::StreamExt;
use soe_testing::Network;
use soe_tokio::{DisconnectReason, Message, ReliableChannel, SessionError};

use crate::support::{CLIENT, SERVER, Undecipherable, client, config, connector, listen, pair, receive, serve_echo};

const TASKS: usize = 300;

/// Runs a future and counts how often it is polled, up to a number that only a busy loop reaches.
async fn counted<T>(polls: Arc<AtomicUsize>, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|cx| {
        assert!(polls.fetch_add(1, Ordering::Relaxed) < 100 * TASKS, "the tasks wake each other");
        future.as_mut().poll(cx)
    })
    .await
}

#[tokio::test(start_paused = true)]
async fn hundreds_of_tasks_that_wait_for_one_thing_sleep() {
    let network = Network::new(1);
    let (listener, connector) = (Arc::new(listen(&network, config())), connector(&network, CLIENT));
    let (session, server) = pair(&listener, &connector).await;
    let (session, polls) = (Arc::new(session), Arc::new(AtomicUsize::new(0)));
    let ends = (0..TASKS).map(|_| {
        let session = Arc::clone(&session);
        tokio::spawn(counted(Arc::clone(&polls), async move { session.closed().await.map(|closed| closed.reason) }))
    });
    let events = (0..TASKS).map(|_| {
        let session = Arc::clone(&session);
        tokio::spawn(counted(Arc::clone(&polls), async move { session.next_event().await.is_some() }))
    });
    let accepts = (0..TASKS).map(|_| {
        let listener = Arc::clone(&listener);
        tokio::spawn(counted(
            Arc::clone(&polls),
            async move { listener.accept().await.map(|incoming| incoming.accept()) },
        ))
    });
    let (ends, events, accepts): (Vec<_>, Vec<_>, Vec<_>) = (ends.collect(), events.collect(), accepts.collect());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asleep = polls.load(Ordering::Relaxed);
    assert!(asleep <= 6 * TASKS, "{asleep} polls of {} tasks", 3 * TASKS);
    // And each of them is woken when there is reason to.
    server.close(DisconnectReason::Application).await.expect("served");
    for end in ends {
        assert_eq!(end.await.expect("no panic"), Some(DisconnectReason::Application));
    }
    for event in events {
        assert!(!event.await.expect("no panic"), "a session without events");
    }
    let mut sessions = Vec::new();
    for number in 1..=TASKS as u16 {
        let connector = network.connector(client(number)).expect("an address can be bound");
        sessions.push(connector.connect(SERVER, config()).await.expect("served"));
    }
    for accept in accepts {
        assert!(accept.await.expect("no panic").is_some(), "every one of them gets a session");
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_stops_waiting_is_not_woken() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, server) = pair(&listener, &connector).await;
    let polls = Arc::new(AtomicUsize::new(0));
    let mut idle = pin!(counted(Arc::clone(&polls), async {
        for _ in 0..TASKS {
            assert!(poll_once(client.closed()).await.is_pending());
        }
        std::future::pending::<()>().await;
    }));
    // The budget of this task is not at stake here.
    assert!(poll_once(tokio::task::unconstrained(idle.as_mut())).await.is_pending());
    let before = polls.load(Ordering::Relaxed);
    server.close(DisconnectReason::Application).await.expect("served");
    tokio::select! {
        () = &mut idle => unreachable!("it is pending for ever"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    // Once by the select itself, once by its timer: nothing woke it for the session's end.
    assert!(polls.load(Ordering::Relaxed) <= before + 2);
}

async fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// Polls a loop once, on a fresh budget, and says how often it went round before it let others run.
async fn rounds_of_one_poll(looping: impl Future<Output = ()>, rounds: &AtomicUsize) -> usize {
    tokio::task::yield_now().await;
    let before = rounds.load(Ordering::Relaxed);
    assert!(poll_once(looping).await.is_pending());
    rounds.load(Ordering::Relaxed) - before
}

#[tokio::test(start_paused = true)]
async fn loops_that_are_always_ready_let_their_neighbours_run() {
    const MANY: usize = 2_000;
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    for _ in 0..MANY {
        client.send(&b"a message"[..]).await.expect("open");
    }
    client.flushed().await.expect("open");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rounds = AtomicUsize::new(0);
    let received = async {
        while server.recv().await.is_some() {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let received = rounds_of_one_poll(received, &rounds).await;
    assert!((1..MANY / 2).contains(&received), "{received} messages without a break");

    let streamed = async {
        while server.next().await.is_some() {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let streamed = rounds_of_one_poll(streamed, &rounds).await;
    assert!((1..MANY / 2).contains(&streamed), "{streamed} messages without a break");

    let sent = async {
        while client.send(Message::reliable(&b"a"[..])).await.is_ok() {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let sent = rounds_of_one_poll(sent, &rounds).await;
    assert!((1..MANY).contains(&sent), "{sent} messages without a break");

    let ready = async {
        while client.ready().await.is_ok() {
            rounds.fetch_add(1, Ordering::Relaxed);
        }
    };
    let ready = rounds_of_one_poll(ready, &rounds).await;
    assert!((1..MANY).contains(&ready), "{ready} times without a break");
}

#[tokio::test(start_paused = true)]
async fn a_connector_takes_up_a_session_again_right_after_an_error() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.set_recv_hook(ReliableChannel::ZERO, Some(Box::new(Undecipherable)));
    server.send(&b"gibberish"[..]).await.expect("open");
    server.flushed().await.expect("open");
    let error = client.recv().await.expect("an error comes first").expect_err("it cannot be read");
    assert!(matches!(error, SessionError::Closed(_)), "{error}");
    serve_echo(listener);
    let mut again = connector.connect(SERVER, config()).await.expect("the address is free again");
    again.send(&b"hello again"[..]).await.expect("open");
    assert_eq!(receive(&mut again).await, b"hello again");
    assert!(client.recv().await.is_none());
}
