//! The ordinary ways to end a session or a program carry the last messages and the Disconnect.

use std::{sync::Arc, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Network};
use soe_tokio::{Closed, DisconnectReason, ListenerConfig, Origin, SoeConnector, SoeListener, SoeSession};

use crate::support::{CLIENT, SERVER, client, config, connector, listen, pair};

const PEERS: u16 = 100;

/// A network that loses three datagrams of ten, and sessions between many clients and one server.
async fn lossy(seed: u64) -> (Network, SoeListener, Vec<SoeConnector>, Vec<(SoeSession, SoeSession)>) {
    let network = Network::new(seed);
    let link = LinkProfile::lossless().delay(Duration::from_millis(20));
    network.link(link.clone());
    let listener = listen(&network, config());
    let (mut connectors, mut sessions) = (Vec::new(), Vec::new());
    for number in 0..PEERS {
        let connector = connector(&network, client(number));
        sessions.push(pair(&listener, &connector).await);
        connectors.push(connector);
    }
    network.link(link.loss(Loss::Uniform(0.3)));
    (network, listener, connectors, sessions)
}

/// How many of the sessions end because their peer has said so, the last message having arrived.
async fn told(sessions: Vec<SoeSession>, last: &[u8]) -> usize {
    let mut told = 0;
    for mut session in sessions {
        let mut arrived = None;
        while let Some(Ok(message)) = session.recv().await {
            arrived = Some(message.payload);
        }
        let closed = session.closed().await.expect("it is served to its end");
        let Closed { reason, origin, .. } = closed;
        told += usize::from(
            arrived.is_some_and(|payload| payload == last)
                && (reason, origin) == (DisconnectReason::Application, Origin::Peer),
        );
    }
    told
}

#[tokio::test(start_paused = true)]
async fn a_close_tells_the_peer_where_three_of_ten_datagrams_are_lost() {
    let (network, _listener, connectors, sessions) = lossy(1).await;
    let (clients, servers): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
    let closing = clients.into_iter().zip(connectors).enumerate().map(|(number, (mut session, connector))| {
        let network = network.clone();
        tokio::spawn(async move {
            session.send(&b"the last words"[..]).await.expect("open");
            let closed = session.close(DisconnectReason::Application).await;
            // As if the program had ended: nothing of what the socket would still say gets out.
            network.unplug(client(number as u16));
            drop((session, connector));
            closed
        })
    });
    let closing: Vec<_> = closing.collect();
    assert_eq!(told(servers, b"the last words").await, usize::from(PEERS));
    for closed in closing {
        assert!(closed.await.expect("no panic").is_some_and(|closed| closed.is_clean()));
    }
    network.stats().assert_happened_at_least(Fault::Lost, 100);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_of_a_listener_tells_the_peers_where_three_of_ten_datagrams_are_lost() {
    let (network, listener, _connectors, sessions) = lossy(2).await;
    let (clients, mut servers): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
    for server in &mut servers {
        server.send(&b"the server goes down"[..]).await.expect("open");
    }
    let report = listener.shutdown(Duration::from_secs(5)).await;
    network.unplug(SERVER);
    assert_eq!((report.clean, report.cut_off, report.messages_lost), (usize::from(PEERS), 0, 0));
    assert!(report.sessions.iter().all(|session| session.told));
    assert_eq!(told(clients, b"the server goes down").await, usize::from(PEERS));
    network.stats().assert_happened_at_least(Fault::Lost, 100);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_of_a_connector_tells_the_servers_where_three_of_ten_datagrams_are_lost() {
    let (network, _listener, connectors, sessions) = lossy(3).await;
    let (clients, servers): (Vec<_>, Vec<_>) = sessions.into_iter().unzip();
    for (number, (connector, mut session)) in connectors.into_iter().zip(clients).enumerate() {
        session.send(&b"good bye"[..]).await.expect("open");
        let report = connector.shutdown(Duration::from_secs(5)).await;
        network.unplug(client(number as u16));
        assert_eq!((report.clean, report.sessions.len()), (1, 1));
    }
    assert_eq!(told(servers, b"good bye").await, usize::from(PEERS));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_says_who_may_not_have_been_told() {
    let (network, listener, _connectors, _sessions) = lossy(4).await;
    network.link(LinkProfile::lossless().delay(Duration::from_millis(300)));
    // Less than the Disconnects take over such a link.
    let report = listener.shutdown(Duration::from_millis(400)).await;
    assert!(report.sessions.iter().all(|session| !session.told));
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_before_accept_reaches_the_application_though_its_client_has_closed() {
    let network = Network::new(5);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(5)));
    let listener = Arc::new(listen(&network, config()));
    let mut clients = Vec::new();
    for number in 0..200 {
        let connector = connector(&network, client(number));
        let mut session = connector.connect(SERVER, config()).await.expect("the server answers");
        let receipt = session.send_with_receipt(vec![number as u8; 64]).await.expect("open");
        receipt.await.expect("the server's transport has it");
        session.close(DisconnectReason::Application).await;
        clients.push(connector);
    }
    // Long after the sessions have nothing more to say.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let mut heard = Vec::new();
    for _ in 0..200 {
        let mut session = listener.accept().await.expect("it is open").accept();
        let message = session.recv().await.expect("there is one").expect("it arrived");
        heard.push(message.payload[0]);
        assert!(session.recv().await.is_none());
    }
    assert_eq!(heard, (0..200).map(|number| number as u8).collect::<Vec<_>>());
    // The driver has yet to drop the last ones.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = listener.stats();
    assert_eq!((stats.endpoint.waiting, stats.endpoint.sessions, stats.socket.sessions), (0, 0, 0));
    assert_eq!(stats.memory_held, 0);
}

#[tokio::test(start_paused = true)]
async fn the_memory_limit_holds_where_the_application_keeps_its_sessions_and_reads_none() {
    let network = Network::new(9);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(5)));
    let limit = 8 << 20;
    let listener = network.listener(ListenerConfig::new(config()).memory_limit(limit)).expect("the address is free");
    let mut held = Vec::new();
    for number in 0..30 {
        let connector = connector(&network, client(number));
        let (session, server) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
        held.push(server.expect("it is open").accept());
        let mut session = session.expect("the server answers");
        tokio::spawn(async move {
            let _connector = connector;
            while session.send(vec![7; 10_000]).await.is_ok() {}
        });
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stats = listener.stats();
    // A session may take what one datagram after another brings before it is looked at.
    assert!(stats.memory_overflows >= 10 && stats.memory_held < limit + (1 << 20), "{stats:#?}");
    let ended = held.iter().filter(|session| session.is_closed());
    let dropped: u64 = ended.map(|session| session.stats().unread_dropped).sum();
    assert!(dropped > 1_000, "{dropped} messages");
}

#[tokio::test(start_paused = true)]
async fn sessions_that_ended_unread_leave_their_places_in_the_accept_queue() {
    let network = Network::new(6);
    let listener = listen(&network, config());
    for number in 0..50 {
        let connector = connector(&network, client(number));
        let session = connector.connect(SERVER, config()).await.expect("the server answers");
        session.close(DisconnectReason::Application).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stats = listener.stats().endpoint;
    assert_eq!((stats.waiting, stats.sessions, stats.capacity.ended_in_queue), (0, 0, 50));
}

#[tokio::test(start_paused = true)]
async fn no_session_stays_open_that_nobody_will_ever_accept() {
    for after in (0..60).step_by(3) {
        let network = Network::new(after);
        // As an operating system does for a port that nobody is bound to.
        network.report_unreachable(true).link(LinkProfile::lossless().delay(Duration::from_millis(10)));
        let listener = listen(&network, config());
        let connector = connector(&network, CLIENT);
        let knocking = tokio::spawn(async move {
            let session = connector.connect(SERVER, config()).await.ok()?;
            session.closed().await
        });
        tokio::time::sleep(Duration::from_millis(after)).await;
        drop(listener);
        let end = tokio::time::timeout(Duration::from_secs(11), knocking).await;
        let end = end.unwrap_or_else(|_| panic!("still open, dropped after {after} ms")).expect("no panic");
        let reasons = [DisconnectReason::ConnectionRefused, DisconnectReason::IcmpError];
        assert!(end.is_none_or(|closed| reasons.contains(&closed.reason)), "{end:?} {after}");
    }
}

/// A session that repeats its Disconnect falls silent when the next one to the same address begins: it would end that one.
#[tokio::test(start_paused = true)]
async fn a_close_ends_though_the_next_session_to_the_same_address_keeps_it_from_telling_its_peer() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().delay(Duration::from_millis(50)));
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (session, _server) = pair(&listener, &connector).await;
    let handle = session.handle();
    let closing = tokio::spawn(async move { session.close(DisconnectReason::Application).await });
    handle.closed().await.expect("served");
    assert!(!closing.is_finished(), "it repeats its Disconnect");
    let _next = pair(&listener, &connector).await;
    let closed = tokio::time::timeout(Duration::from_secs(10), closing).await.expect("it has nothing more to say");
    assert_eq!(closed.expect("no panic").expect("served").reason, DisconnectReason::Application);
}
