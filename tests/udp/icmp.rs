//! What the kernel reports about peers that are gone.

use std::{net::UdpSocket, time::Duration};

use soe_tokio::{ConnectError, DisconnectReason, Message, SoeConnector, SoeListener, SoeSession};

use crate::{config, connect, echo, incoming, listen, pair, receive, soon};

const GONE: usize = 100;

/// Their sockets close without a word, and each datagram to them comes back.
#[tokio::test]
async fn a_hundred_vanished_clients_lose_no_datagram_of_another() {
    const MESSAGES: u32 = 79;
    let listener = listen().await;
    let to = listener.local_addr();
    let mut gone = Vec::new();
    let (told, clients) = std::sync::mpsc::channel::<()>();
    let others = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let sessions: Vec<SoeSession> = runtime.block_on(async {
            let mut sessions = Vec::new();
            for _ in 0..GONE {
                sessions.push(connect(to).await);
            }
            sessions
        });
        let _ = clients.recv();
        sessions.iter().for_each(|session| session.abort(DisconnectReason::Application, false));
    });
    for _ in 0..GONE {
        gone.push(incoming(&listener).await.accept());
    }
    let (mut innocent, mut server) = pair(&listener).await;
    told.send(()).expect("the clients wait");
    tokio::task::spawn_blocking(|| others.join()).await.expect("no panic").expect("no panic");
    for number in 0..MESSAGES {
        for session in &mut gone {
            // It ends sooner or later, when the reports have outlasted their grace.
            let _ = session.try_send(Message::unreliable(&b"anybody there?"[..]));
        }
        server.send(Message::unreliable(number.to_be_bytes().to_vec())).await.expect("open");
        server.flushed().await.expect("open");
        tokio::task::yield_now().await;
    }
    for number in 0..MESSAGES {
        assert_eq!(receive(&mut innocent).await, number.to_be_bytes()[..]);
    }
    let stats = listener.stats().socket;
    assert!(stats.unreachable_reports > 0, "{stats:?}");
}

/// One report at a time, too: it says nothing about whoever is sent to next.
#[tokio::test]
async fn a_closed_port_ends_an_attempt_at_once_and_no_other_session_of_the_socket() {
    let listener = listen().await;
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let (session, server) = tokio::join!(connector.connect(listener.local_addr(), config()), incoming(&listener));
    let mut session = session.expect("the server answers");
    tokio::spawn(echo(server.accept()));
    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
        socket.local_addr().expect("bound")
    };
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let error = soon("connect", connector.connect(closed, config())).await.expect_err("nobody is there");
        assert!(matches!(error, ConnectError::Closed(end) if end.reason == DisconnectReason::IcmpError), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2), "the kernel knows at once");
        session.send(&b"still here"[..]).await.expect("open");
        assert_eq!(receive(&mut session).await, &b"still here"[..]);
    }
}

/// The report makes the socket neither readable nor writable, and the client has nothing else to wake up for.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_report_ends_an_attempt_before_its_request_is_repeated() {
    let connector = SoeConnector::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
        socket.local_addr().expect("bound")
    };
    let patient = soe_tokio::SessionConfig::builder("LoginUdp_9").connect_timeout(Duration::from_secs(600)).build();
    let patient = patient.expect("valid");
    for attempt in 1..=5 {
        let error = soon("connect", connector.connect(closed, patient.clone())).await.expect_err("nobody is there");
        assert!(matches!(error, ConnectError::Closed(end) if end.reason == DisconnectReason::IcmpError), "{error}");
        let stats = connector.stats();
        assert_eq!((stats.datagrams_sent, stats.unreachable_reports), (attempt, attempt), "{stats}");
    }
}

/// Strangers may know a port that the caller chose, and forge such reports about it.
#[tokio::test]
async fn an_attempt_from_a_chosen_port_outlasts_reports_and_reaches_a_server_that_starts_later() {
    let sockets = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound"));
    let [local, remote] = sockets.map(|socket| socket.local_addr().expect("bound"));
    let connector = SoeConnector::bind(local).await.expect("the port is free");
    let patient = config().to_builder().connect_timeout(Duration::from_secs(600)).build();
    let knocking = connector.connect(remote, patient.expect("valid"));
    let server = async {
        while connector.stats().datagrams_sent < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let listener = SoeListener::bind(remote, config()).await.expect("the port is free");
        incoming(&listener).await.accept()
    };
    let (session, _server) = tokio::join!(soon("connect", knocking), soon("start", server));
    session.expect("the server answers");
}
