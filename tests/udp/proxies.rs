//! A listener behind a proxy over the kernel's sockets: runs of datagrams (GSO, GRO) with a header in each, several sockets on
//! one port, and a wildcard address.

use std::net::{IpAddr, SocketAddr};

use soe_tokio::{ConnectError, ListenerConfig, ProxyConfig, ProxyHeader, SoeListener};
use tokio::net::UdpSocket;

use crate::{config, connect, echo, incoming, receive, soon};

const SIMPLE_LENGTH: usize = 38;

/// A proxy for one player, which writes and takes off headers of the Simple Proxy Protocol or writes ones of PROXY version 2.
async fn proxy(header: ProxyHeader, server: SocketAddr) -> SocketAddr {
    let front = UdpSocket::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let inside = UdpSocket::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let address = front.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut up, mut down, mut player, mut is_first) = ([0; 2048], [0; 2048], None, true);
        loop {
            tokio::select! {
                received = front.recv_from(&mut up) => {
                    let (length, from) = received.expect("loopback works");
                    player = Some(from);
                    let head = match header {
                        ProxyHeader::Simple => simple(from, address),
                        ProxyHeader::ProxyV2First if !is_first => Vec::new(),
                        _ => v2(from, address),
                    };
                    is_first = false;
                    let datagram = [&head[..], &up[..length]].concat();
                    inside.send_to(&datagram, server).await.expect("loopback works");
                }
                received = inside.recv_from(&mut down) => {
                    let (length, from) = received.expect("loopback works");
                    assert_eq!(from, server, "from the address that was spoken to");
                    let player = player.expect("it has spoken first");
                    let own = match header {
                        ProxyHeader::Simple => {
                            assert_eq!(down[..SIMPLE_LENGTH], simple(player, address));
                            &down[SIMPLE_LENGTH..length]
                        }
                        _ => &down[..length],
                    };
                    front.send_to(own, player).await.expect("loopback works");
                }
            }
        }
    });
    address
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn simple(player: SocketAddr, entrance: SocketAddr) -> Vec<u8> {
    let ports = [player.port().to_be_bytes(), entrance.port().to_be_bytes()].concat();
    [&[0x56, 0xEC][..], &octets(player.ip()), &octets(entrance.ip()), &ports].concat()
}

fn v2(player: SocketAddr, entrance: SocketAddr) -> Vec<u8> {
    let mut header = Vec::new();
    let addresses = proxy_header::ProxiedAddress::datagram(player, entrance);
    proxy_header::ProxyHeader::with_address(addresses).encode_v2(&mut header).expect("both are of one family");
    header
}

#[tokio::test]
async fn players_behind_a_proxy_exchange_what_they_like() {
    let headers = [ProxyHeader::Simple, ProxyHeader::ProxyV2, ProxyHeader::ProxyV2First];
    for (header, bound) in headers.into_iter().flat_map(|header| [(header, "0.0.0.0:0"), (header, "127.0.0.1:0")]) {
        // Elsewhere one socket is all that there is.
        let shards = if cfg!(target_os = "linux") { 2 } else { 1 };
        let proxies = ProxyConfig::new(header, ["127.0.0.1/32".parse().expect("a network")]);
        let config_ = ListenerConfig::new(config()).shards(shards).behind_proxy(proxies);
        let listener = SoeListener::bind(bound, config_).await.expect("it can be bound");
        let server = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().port()));
        let front = proxy(header, server).await;
        let (mut client, incoming) = tokio::join!(connect(front), incoming(&listener));
        let player = SocketAddr::from(([127, 0, 0, 1], client.local_addr().port()));
        assert_eq!(incoming.peer_addr(), player, "{header:?}");
        assert_eq!(incoming.relay().and_then(|relay| relay.entrance()), Some(front), "{header:?}");
        tokio::spawn(echo(incoming.accept()));
        for length in [1, 400, 500_000] {
            let message: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            soon("send", client.send(message.clone())).await.expect("open");
            assert!(receive(&mut client).await == message, "{header:?}, {length} bytes");
        }
        assert_eq!(client.stats().crc_rejects, 0, "{header:?}");
    }
}

/// Another address of the same machine is not the proxy.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn headers_from_another_address_are_not_read() {
    let proxies = ProxyConfig::new(ProxyHeader::Simple, ["127.0.0.1/32".parse().expect("a network")]);
    let listener = SoeListener::bind("[::]:0", ListenerConfig::new(config()).behind_proxy(proxies)).await;
    let listener = listener.expect("the wildcard address can be bound");
    let server = SocketAddr::from(([127, 0, 0, 1], listener.local_addr().port()));
    let stranger = UdpSocket::bind("127.0.0.2:0").await.expect("loopback has many addresses");
    let header = simple(SocketAddr::from(([192, 0, 2, 1], 7)), server);
    for _ in 0..100 {
        let datagram = [&header[..], &[0, 1, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 2, 0], b"UdpTest\0"].concat();
        stranger.send_to(&datagram, server).await.expect("loopback works");
    }
    soon("counts", async {
        while listener.stats().proxy.expect("there are proxies").untrusted < 100 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(listener.stats().endpoint.admission.requests, 0);
}

/// What a listener behind a proxy sends goes through the proxy, which knows players only.
#[tokio::test]
async fn a_listener_behind_a_proxy_has_no_way_to_another_server() {
    let proxies = ProxyConfig::new(ProxyHeader::Simple, ["127.0.0.1/32".parse().expect("a network")]);
    let listener = SoeListener::bind("127.0.0.1:0", ListenerConfig::new(config()).behind_proxy(proxies)).await;
    let listener = listener.expect("loopback can be bound");
    let other = crate::listen().await;
    let refused = soon("an error", listener.connect(other.local_addr(), config())).await;
    assert!(matches!(refused, Err(ConnectError::NoAddress)), "{refused:?}");
}
