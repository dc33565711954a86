//! Which of several addresses a client ends up with, and when.

use std::{net::SocketAddr, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Network};
use soe_tokio::{AdmissionConfig, ConnectError, DisconnectReason, Origin, QueryError, SessionConfig};
use tokio::time::Instant;

use crate::support::{CLIENT, SERVER, client, config, connector, receive, serve_echo};

/// Where nobody listens, and nobody says so.
const SILENT: SocketAddr = client(90);
const FIRST: SocketAddr = client(91);
const SECOND: SocketAddr = client(92);
const MS: Duration = Duration::from_millis(1);

fn serve(network: &Network, address: SocketAddr) {
    serve_echo(network.listener_at(address, config()).expect("the address is free"));
}

#[tokio::test(start_paused = true)]
async fn an_address_that_does_not_answer_costs_a_quarter_of_a_second() {
    let network = Network::new(1);
    serve(&network, SECOND);
    let (connector, start) = (connector(&network, CLIENT), Instant::now());
    let mut session = connector.connect(&[SILENT, SECOND][..], config()).await.expect("one of them answers");
    assert!((250 * MS..300 * MS).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(session.peer_addr(), SECOND);
    session.send(&b"hello"[..]).await.expect("open");
    assert_eq!(receive(&mut session).await, b"hello");
    // The attempt that lost is given up: the address is free for another session.
    tokio::time::sleep(5000 * MS).await;
    serve(&network, SILENT);
    connector.connect(SILENT, config()).await.expect("it answers now");
}

#[tokio::test(start_paused = true)]
async fn forged_reports_of_an_unreachable_address_end_no_attempt_from_a_port_that_is_known() {
    let network = Network::new(1);
    // An attempt has time for six requests: so few are lost that one in a million attempts fails.
    network.link(LinkProfile::lossless().delay(50 * MS).loss(Loss::Uniform(0.05)));
    serve(&network, SERVER);
    let (listener, connector) = (network.listener_at(FIRST, config()).expect("the address is free"), client(1));
    let connector = network.connector(connector).expect("the address is free");
    let forger = network.clone();
    let forging = tokio::spawn(async move {
        loop {
            forger.forge_unreachable(FIRST, SERVER);
            forger.forge_unreachable(client(1), SERVER);
            tokio::time::sleep(10 * MS).await;
        }
    });
    for _ in 0..20 {
        let (one, other) = tokio::join!(listener.connect(SERVER, config()), connector.connect(SERVER, config()));
        for session in [one.expect("the server answers"), other.expect("the server answers")] {
            session.close(DisconnectReason::Application).await.expect("served");
        }
    }
    forging.abort();
    network.stats().assert_happened_at_least(Fault::Unreachable, 400);
}

#[tokio::test(start_paused = true)]
async fn the_first_that_answers_wins_and_the_other_server_is_told() {
    let network = Network::new(1);
    let slow = network.listener_at(FIRST, config()).expect("the address is free");
    serve(&network, SECOND);
    network.link_to(FIRST, LinkProfile::lossless().delay(200 * MS));
    network.link_from(FIRST, LinkProfile::lossless().delay(200 * MS));
    let connector = connector(&network, CLIENT);
    let session = connector.connect(&[FIRST, SECOND][..], config()).await.expect("both answer");
    assert_eq!(session.peer_addr(), SECOND);
    // The slow one has opened a session, or will: it does not stay.
    let left = tokio::time::timeout(5_000 * MS, async {
        let mut late = slow.accept().await.expect("the listener lives").accept();
        assert!(late.recv().await.is_none_or(|message| message.is_err()), "nobody speaks");
    });
    let _ = left.await;
    assert_eq!(slow.stats().socket.sessions, 0, "it was left alone");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_more_than_the_silence_of_other_addresses() {
    let network = Network::new(1);
    let full = AdmissionConfig::builder(config()).max_sessions(1).build().expect("valid");
    serve_echo(network.listener_at(FIRST, full).expect("the address is free"));
    let _only = connector(&network, client(1)).connect(FIRST, config()).await.expect("there is room for one");
    let hasty = SessionConfig::builder("Simulated").connect_timeout(1_000 * MS).build().expect("valid");
    let connector = connector(&network, CLIENT);
    let error = connector.connect(&[FIRST, SILENT][..], hasty).await.expect_err("nobody takes it");
    let ConnectError::Closed(closed) = error else { panic!("{error}") };
    assert_eq!(closed.reason, DisconnectReason::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn an_address_of_another_family_is_an_error_at_once() {
    let network = Network::new(1);
    for (local, remote) in [("[::1]:5000", "10.0.0.1:20060"), ("10.0.0.9:5000", "[::1]:20060")] {
        let connector = connector(&network, local.parse().expect("an address"));
        let (start, remote) = (Instant::now(), remote.parse::<SocketAddr>().expect("an address"));
        let error = connector.connect(remote, config()).await.expect_err("out of reach");
        assert!(matches!(error, ConnectError::NoAddress), "{error}");
        let error = connector.query_status(remote, Duration::MAX).await.expect_err("out of reach");
        assert!(error.to_string().contains("cannot reach"), "{error}");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_listener_connects_from_its_own_port_while_it_accepts() {
    let network = Network::new(1);
    let [here, there] = [FIRST, SECOND].map(|at| network.listener_at(at, config()).expect("the address is free"));
    let (session, incoming) = tokio::join!(here.connect(SECOND, config()), there.accept());
    let (mut session, mut server) = (session.expect("it answers"), incoming.expect("it is open").accept());
    assert_eq!((session.peer_addr(), session.local_addr(), server.peer_addr()), (SECOND, FIRST, FIRST));
    session.send("from a listener").await.expect("open");
    assert_eq!(receive(&mut server).await, b"from a listener");
    server.send("to a listener").await.expect("open");
    assert_eq!(receive(&mut session).await, b"to a listener");
    // Between two addresses there is one session, whoever opened it.
    for (listener, remote) in [(&here, SECOND), (&there, FIRST)] {
        let error = listener.connect(remote, config()).await.expect_err("there is one");
        assert!(matches!(error, ConnectError::Occupied(address) if address == remote), "{error}");
    }
    // It accepts all the same, and the session is one of its own.
    let connector = connector(&network, CLIENT);
    let (guest, incoming) = tokio::join!(connector.connect(FIRST, config()), here.accept());
    let (_guest, _accepted) = (guest.expect("it answers"), incoming.expect("it is open").accept());
    assert_eq!((here.sessions().count(), here.stats().endpoint.sessions), (2, 2));
    // Afterwards the other one may ask.
    session.close(DisconnectReason::Application).await;
    while server.recv().await.is_some() {}
    let (back, incoming) = tokio::join!(there.connect(FIRST, config()), here.accept());
    let (mut back, mut server) = (back.expect("it answers"), incoming.expect("it is open").accept());
    back.send("and back").await.expect("open");
    assert_eq!(receive(&mut server).await, b"and back");
    here.stop_accepting();
    let error = here.connect(SILENT, config()).await.expect_err("it opens no more");
    assert!(matches!(error, ConnectError::Stopped), "{error}");
}

#[tokio::test(start_paused = true)]
async fn two_listeners_that_connect_to_each_other_at_once_both_learn_why_it_fails() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(5 * MS));
    let [here, there] = [FIRST, SECOND].map(|at| network.listener_at(at, config()).expect("the address is free"));
    let (one, other) = tokio::join!(here.connect(SECOND, config()), there.connect(FIRST, config()));
    for error in [one.expect_err("they meet"), other.expect_err("they meet")] {
        let ConnectError::Closed(closed) = error else { panic!("{error}") };
        assert_eq!(closed.reason, DisconnectReason::ConnectError, "{closed}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_no_server_can_have_is_an_error_at_once() {
    let network = Network::new(1);
    let connector = connector(&network, CLIENT);
    let start = Instant::now();
    for remote in ["10.0.0.1:0", "0.0.0.0:20060", "255.255.255.255:20060", "224.0.0.1:20060"] {
        let remote: SocketAddr = remote.parse().expect("an address");
        let error = connector.connect(remote, config()).await.expect_err("nobody is there");
        assert!(matches!(error, ConnectError::InvalidRemote(address) if address == remote), "{error}");
        let error = connector.query_status(remote, Duration::MAX).await.expect_err("nobody is there");
        assert!(matches!(error, QueryError::Unreachable(_)), "{error}");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_as_one_where_three_of_ten_datagrams_are_lost() {
    let network = Network::new(3);
    network.link(LinkProfile::lossless().delay(20 * MS).loss(Loss::Uniform(0.3)));
    serve(&network, SERVER);
    let other = SessionConfig::builder("Another").connect_timeout(60_000 * MS).build().expect("valid");
    let knocking: Vec<_> = (0..100)
        .map(|number| (network.clone(), other.clone(), client(number)))
        .map(|(network, config, address)| tokio::spawn(async move { network.client_at(address, config).await }))
        .collect();
    let mut late = 0;
    for refused in knocking {
        let closed = match refused.await.expect("no panic") {
            Err(ConnectError::Closed(closed)) => closed,
            Err(other) => panic!("not refused: {other}"),
            // Several Disconnects in a row were lost.
            Ok(session) => {
                late += 1;
                session.closed().await.expect("served")
            }
        };
        assert_eq!((closed.reason, closed.origin), (DisconnectReason::ProtocolMismatch, Origin::Peer));
    }
    assert!(late <= 40, "{late} of 100 were reported as connected first");
    network.stats().assert_happened_at_least(Fault::Lost, 50);
}
