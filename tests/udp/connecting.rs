//! Names with several addresses, over real sockets.

use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use soe_tokio::{SoeConnector, SoeSession};

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
