//! Names with several addresses, and sockets that somebody else has bound, over real sockets.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use soe_tokio::{SocketConfig, SoeConnector, SoeListener, SoeSession};

use crate::{config, echo, incoming, listen, receive, soon};

/// `localhost` is `[::1]` first on many systems, and many servers listen to 127.0.0.1 alone.
#[tokio::test]
async fn a_server_behind_the_second_address_of_a_name_is_found() {
    let listener = listen().await;
    let live = listener.local_addr();
    let closed = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound").local_addr().expect("bound");
    let other_family = SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), live.port());
    let no_route = "[2001:db8::1]:9".parse().expect("an address");
    tokio::spawn(async move {
        loop {
            tokio::spawn(echo(incoming(&listener).await.accept()));
        }
    });
    for first in [closed, other_family, no_route] {
        let start = Instant::now();
        let mut session = soon("connect", SoeSession::connect(&[first, live][..], config())).await.expect("it answers");
        assert_eq!(session.peer_addr(), live);
        assert!(start.elapsed() < Duration::from_secs(5), "{first} was waited for");
        session.send(&b"found"[..]).await.expect("open");
        assert_eq!(receive(&mut session).await, &b"found"[..]);
    }
    let connector = SoeConnector::bind("0.0.0.0:0").await.expect("the wildcard address can be bound");
    let session = soon("connect", connector.connect(&[closed, live][..], config())).await.expect("it answers");
    assert_eq!(session.peer_addr(), live);
}

#[tokio::test]
async fn sockets_that_somebody_else_has_bound_carry_runs_of_datagrams_like_own_ones() {
    let bound = || UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    let listener = SoeListener::from_std(bound(), config()).expect("a bound socket");
    let connector = SoeConnector::from_std(bound(), SocketConfig::default()).expect("a bound socket");
    let (client, server) = tokio::join!(connector.connect(listener.local_addr(), config()), incoming(&listener));
    let (mut client, mut server) = (soon("connect", async { client }).await.expect("it answers"), server.accept());
    for number in 0..200_u32 {
        client.send(vec![number as u8; 5_000]).await.expect("open");
    }
    for number in 0..200_u32 {
        assert_eq!(receive(&mut server).await, vec![number as u8; 5_000]);
    }
    assert_eq!(server.peer_addr(), connector.local_addr());
    let stats = connector.stats();
    if cfg!(target_os = "linux") {
        assert!(stats.send_calls < stats.datagrams_sent / 2, "{stats}");
    }
}
