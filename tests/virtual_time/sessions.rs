//! Sessions over a simulated network: what only the passing of time, loss or a move can show.

use std::{net::SocketAddr, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Network, SocketLimits};
use soe_tokio::{DisconnectReason, Message, SessionError, SessionEvent};
use tokio::time::Instant;

use crate::support::{CLIENT, SERVER, config, connector, listen, pair, receive};

#[tokio::test(start_paused = true)]
async fn nobody_answers_for_ten_seconds() {
    let network = Network::new(1);
    let connector = connector(&network, CLIENT);
    let start = Instant::now();
    connector.connect(SERVER, config()).await.expect_err("nobody is there");
    let waited = start.elapsed();
    assert!(waited >= config().connect_timeout && waited < config().connect_timeout * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lives_on_heartbeats_and_costs_little() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(network.stats().sent() < 1200, "{} datagrams in an idle hour", network.stats().sent());
    client.send(&b"still there?"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"still there?");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_times_out_as_one_error() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    network.unplug(CLIENT);
    client.abort(DisconnectReason::Application, false);
    let end = server.recv().await.expect("an error comes first").expect_err("nobody is there");
    assert!(matches!(end, SessionError::Closed(closed) if closed.reason == DisconnectReason::Timeout), "{end}");
    assert!(server.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn loss_and_a_full_socket_lose_and_stall_nothing() {
    let network = Network::new(1);
    network.link(LinkProfile::lossless().loss(Loss::Every(7)));
    network.set_socket_limits(SocketLimits::default().send_blocked(0.2));
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    let echo = tokio::spawn(async move {
        while let Some(Ok(message)) = server.recv().await {
            if server.send(message).await.is_err() {
                break;
            }
        }
    });
    let (mut send, mut recv) = client.split();
    let sender = async {
        for number in 0..2_000_u32 {
            let mut message = vec![number as u8; 1 + number as usize % 1500];
            message[0] = (number >> 8) as u8;
            send.send(Message::reliable(message)).await.expect("open");
        }
    };
    let reader = async {
        for number in 0..2_000_u32 {
            let message = recv.recv().await.expect("open").expect("well").payload;
            assert_eq!((message.len(), message[0]), (1 + number as usize % 1500, (number >> 8) as u8));
        }
    };
    tokio::join!(sender, reader);
    drop((send, recv));
    echo.await.expect("the echo ends with its session");
    network.stats().assert_happened_at_least(Fault::Lost, 100);
    network.stats().assert_happened_at_least(Fault::SendBlocked, 100);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_comes_with_the_acknowledgement_and_not_before() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let delivered = client.send_with_receipt(vec![1; 5_000]).await.expect("open");
    delivered.await.expect("the peer has it");
    assert_eq!(receive(&mut server).await, vec![1; 5_000]);

    network.unplug(SERVER);
    let mut lost = client.send_with_receipt(vec![2; 5_000]).await.expect("open");
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut lost).await.is_err(), "nobody has it");
    client.abort(DisconnectReason::Application, false);
    assert!(lost.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_moves_keeps_its_session() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.send(&b"before"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"before");
    let moved = SocketAddr::new(CLIENT.ip(), 50505);
    network.rebind(CLIENT, moved);
    client.send(&b"after"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"after");
    assert_eq!(server.next_event().await, Some(SessionEvent::Remapped { from: CLIENT, to: moved }));
    assert_eq!(server.peer_addr(), moved);
    server.send(&b"welcome back"[..]).await.expect("open");
    assert_eq!(receive(&mut client).await, b"welcome back");
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_move_to_another_host() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.send(&b"before"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"before");
    network.rebind(CLIENT, SocketAddr::from(([10, 9, 9, 9], 40000)));
    client.send(&b"after"[..]).await.expect("open");
    assert!(server.recv().await.expect("an error").is_err());
    assert_eq!(server.peer_addr(), CLIENT);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_restarts_at_the_same_address_replaces_its_session() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    client.abort(DisconnectReason::Application, false);
    let (mut again, mut fresh) = pair(&listener, &connector).await;
    again.send(&b"it is me"[..]).await.expect("open");
    assert_eq!(receive(&mut fresh).await, b"it is me");
    assert!(server.recv().await.is_none_or(|end| end.is_err()));
    let closed = server.closed().await.expect("served");
    assert_eq!(closed.reason, DisconnectReason::NewConnectionAttempt);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_at_its_deadline_even_if_nobody_answers() {
    let network = Network::new(1);
    let (listener, connector) = (listen(&network, config()), connector(&network, CLIENT));
    let (_client, mut server) = pair(&listener, &connector).await;
    network.unplug(CLIENT);
    for _ in 0..10 {
        server.send(vec![1; 1000]).await.expect("open");
    }
    let start = Instant::now();
    let report = listener.shutdown(Duration::from_secs(2)).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!((report.clean, report.cut_off, report.messages_lost), (0, 1, 10), "{report:?}");
}
