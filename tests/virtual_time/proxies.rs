//! Listeners behind proxies: whose datagrams they take them for, and where they answer.

mod proxy;
mod recovery;

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use soe_core::wire::SessionRequest;
use soe_testing::{LinkProfile, Network};
use soe_tokio::{
    AdmissionConfig, AsyncUdp, ConnectError, DisconnectReason, IpNet, ListenerConfig, ProxyConfig, ProxyHeader,
    ProxyStats, RecvBatch, RequestFilter, SendBatch, SoeListener, SoeSession,
};

use self::proxy::{Kind, Proxy, simple_header, v2_header};
use crate::support::{CLIENT, SERVER, client, config, connector, listen, receive, serve_echo};

const FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 1)), 20060);
const OTHER_FRONT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 9, 0, 2)), 20060);
/// Not within the trusted networks.
const STRANGER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 8, 0, 1)), 20060);
const KINDS: [Kind; 4] = [Kind::Each, Kind::First, Kind::HeaderAlone, Kind::Simple];
const SECOND: Duration = Duration::from_secs(1);

fn trusted() -> IpNet {
    "10.9.0.0/16".parse().expect("a network")
}

fn proxies(header: ProxyHeader) -> ProxyConfig {
    ProxyConfig::new(header, [trusted()])
}

fn behind(kind: Kind) -> ListenerConfig {
    ListenerConfig::new(config()).behind_proxy(proxies(kind.header()))
}

fn proxy_stats(listener: &SoeListener) -> ProxyStats {
    listener.stats().proxy.expect("there are proxies")
}

/// A session of a player that comes through the proxy.
async fn pair(network: &Network, listener: &SoeListener, player: SocketAddr) -> (SoeSession, SoeSession) {
    let connector = connector(network, player);
    let (client, server) = tokio::join!(connector.connect(FRONT, config()), listener.accept());
    (client.expect("the server answers"), server.expect("the listener lives").accept())
}

async fn converse(client: &mut SoeSession, server: &mut SoeSession, text: &'static str) {
    client.send(text).await.expect("open");
    server.send(text).await.expect("open");
    let heard = tokio::time::timeout(20 * SECOND, async { (receive(server).await, receive(client).await) });
    assert_eq!(heard.await.expect("both hear of each other"), (text.into(), text.into()));
}

#[tokio::test(start_paused = true)]
async fn a_session_is_the_players_whatever_header_the_proxy_writes() {
    for kind in KINDS {
        let network = Network::new(1);
        network.link(LinkProfile::lossless().delay(Duration::from_millis(5)));
        let listener = listen(&network, behind(kind));
        let proxy = Proxy::start(&network, kind, FRONT);
        let (mut client, mut server) = pair(&network, &listener, CLIENT).await;
        assert_eq!(server.peer_addr(), CLIENT, "{kind:?}");
        let relay = server.relay().expect("it came through a proxy");
        assert_eq!((relay.address(), relay.entrance()), (proxy.inside(1), Some(FRONT)), "{kind:?}");
        assert_eq!(listener.sessions().map(|player| player.peer_addr()).collect::<Vec<_>>(), [CLIENT]);

        // Enough for runs of datagrams, in both directions.
        let bulk: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = tokio::join!(client.send(bulk.clone()), server.send(bulk.clone()));
        assert!(sent.0.is_ok() && sent.1.is_ok());
        let (up, down) = tokio::join!(receive(&mut server), receive(&mut client));
        assert!(up == bulk && down == bulk, "{kind:?}");
        assert_eq!(server.stats().crc_rejects, 0, "{kind:?}");
        let stats = proxy_stats(&listener);
        assert!(stats.proxied > 500, "{stats:?}");
        assert_eq!(
            (stats.untrusted, stats.headerless, stats.malformed, stats.disputed, stats.unnamed),
            (0, 0, 0, 0, 0)
        );
        assert_eq!(stats.flows, usize::from(kind.is_once()), "{kind:?}");
        client.close(DisconnectReason::Application).await.expect("it ends");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_for_addresses_count_players_and_not_the_proxy() {
    let network = Network::new(1);
    let admission = AdmissionConfig::builder(config()).response_rate_per_prefix(1).response_burst_per_prefix(2);
    let admission = admission.build().expect("valid");
    let listener = listen(&network, ListenerConfig::new(admission).behind_proxy(proxies(ProxyHeader::Simple)));
    let proxy = Proxy::start(&network, Kind::Simple, FRONT);
    for number in 0..50 {
        let (_client, server) = pair(&network, &listener, client(number)).await;
        assert_eq!(server.peer_addr(), client(number));
    }
    assert_eq!(listener.stats().endpoint.admission.rate_limited_prefix, 0);
    let request = request(7);
    for port in 1..=20 {
        proxy.pass_on(SocketAddr::new(client(60).ip(), port), &request);
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(listener.stats().endpoint.admission.rate_limited_prefix, 18);
}

/// A session request as a client of this library sends it.
fn request(session_id: u32) -> Vec<u8> {
    let mut datagram = Vec::new();
    SessionRequest { version: 3, session_id, udp_length: 512, protocol_name: Some(b"Simulated") }.encode(&mut datagram);
    datagram
}

#[tokio::test(start_paused = true)]
async fn a_filter_bans_the_players_own_address() {
    for kind in KINDS {
        let network = Network::new(1);
        let filter = RequestFilter::Predicate(Arc::new(|request| request.address.ip() != client(1).ip()));
        let admission = AdmissionConfig::builder(config()).filter(filter).build().expect("valid");
        let listener = listen(&network, ListenerConfig::new(admission).behind_proxy(proxies(kind.header())));
        let _proxy = Proxy::start(&network, kind, FRONT);
        let _welcome = pair(&network, &listener, client(0)).await;
        let banned = connector(&network, client(1));
        let refused = banned.connect(FRONT, config()).await.expect_err("it is banned");
        let ConnectError::Closed(closed) = refused else { panic!("{refused}") };
        assert_eq!(closed.reason, DisconnectReason::ProtocolMismatch, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_player_stays_when_the_proxy_takes_another_port_for_it() {
    for kind in KINDS {
        let network = Network::new(1);
        let listener = listen(&network, behind(kind));
        let proxy = Proxy::start(&network, kind, FRONT);
        let (mut client, mut server) = pair(&network, &listener, CLIENT).await;
        for moves in 2..5 {
            proxy.forget_flows();
            converse(&mut client, &mut server, "here").await;
            assert_eq!(server.peer_addr(), CLIENT, "{kind:?}");
            assert_eq!(server.relay().expect("proxied").address(), proxy.inside(moves), "{kind:?}");
        }
        let event = tokio::time::timeout(SECOND, server.next_event()).await;
        assert!(event.is_err(), "the player has not moved: {event:?}");
        assert_eq!(listener.stats().endpoint.sessions, 1);
    }
}

/// Whoever writes a player's address on what it sends through another proxy does not turn the player's datagrams there.
#[tokio::test(start_paused = true)]
async fn what_is_forged_behind_one_proxy_does_not_reach_the_player_of_another() {
    for kind in KINDS {
        let network = Network::new(1);
        let listener = listen(&network, behind(kind));
        let _proxy = Proxy::start(&network, kind, FRONT);
        let other = Proxy::start(&network, kind, OTHER_FRONT);
        let (mut client, mut server) = pair(&network, &listener, CLIENT).await;
        let relay = server.relay();
        for round in 0..20 {
            other.pass_on(CLIENT, &request(round));
            other.pass_on(CLIENT, &[0, 9, 0, 0, 1, 2, 3, 4, 5, 6]);
            converse(&mut client, &mut server, "still here").await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(server.relay(), relay, "{kind:?}");
        }
        let (received, resent) = (other.received(), server.stats().resent_timeout + client.stats().resent_timeout);
        assert_eq!(resent, 0, "{kind:?}: every answer took the player's own way");
        // The requests were answered, each where it came from.
        assert!((1..=40).contains(&received), "{kind:?}: {received}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_past_the_proxy_is_dropped_unless_it_is_allowed() {
    let network = Network::new(1);
    let listener = listen(&network, behind(Kind::Simple));
    let direct = connector(&network, CLIENT).connect(SERVER, config()).await;
    assert!(direct.is_err_and(|error| error.is_timeout()));
    assert!(proxy_stats(&listener).untrusted > 3);
    drop(listener);

    let network = Network::new(1);
    let config_ = ListenerConfig::new(config()).behind_proxy(proxies(ProxyHeader::Simple).allow_direct(true));
    let listener = listen(&network, config_);
    let _proxy = Proxy::start(&network, Kind::Simple, FRONT);
    let connector = connector(&network, client(1));
    let (direct, server) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
    let (mut direct, mut server) = (direct.expect("the server answers"), server.expect("open").accept());
    assert_eq!((server.peer_addr(), server.relay()), (client(1), None));
    converse(&mut direct, &mut server, "past the proxy").await;
    let (mut proxied, mut behind) = pair(&network, &listener, CLIENT).await;
    converse(&mut proxied, &mut behind, "through the proxy").await;
    // To a player who comes directly a header is a part of its datagram.
    network.forge(STRANGER, SERVER, [&simple_header(CLIENT, FRONT)[..], &request(9)].concat());
    tokio::time::sleep(SECOND).await;
    assert_eq!(listener.stats().endpoint.sessions, 2);
    assert_eq!(proxy_stats(&listener).untrusted, 0);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_writes_no_header_is_not_heard() {
    for kind in [Kind::Each, Kind::Simple] {
        let network = Network::new(1);
        let listener = listen(&network, behind(kind));
        network.forge(FRONT, SERVER, request(1));
        // Cut short, for a stream, and of version 1.
        let mut stream = v2_header(CLIENT, FRONT);
        stream[13] = 0x11;
        network.forge(FRONT, SERVER, &v2_header(CLIENT, FRONT)[..20]);
        for header in [stream, b"PROXY UDP4 10.0.0.1 10.9.0.1 1 2\r\n".to_vec()] {
            network.forge(FRONT, SERVER, [header, request(1)].concat());
        }
        tokio::time::sleep(SECOND).await;
        let stats = proxy_stats(&listener);
        assert_eq!(stats.headerless + stats.malformed, 4, "{kind:?}: {stats:?}");
        assert_eq!(listener.stats().endpoint.admission.requests, 0);
    }
}

/// Health checks of the proxy itself.
#[tokio::test(start_paused = true)]
async fn a_proxy_that_speaks_for_itself_is_answered_itself() {
    let network = Network::new(1);
    let listener = listen(&network, behind(Kind::Each));
    let mut proxy = network.raw(FRONT);
    let local = [&b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00"[..], &request(1)].concat();
    proxy.send(SERVER, &local);
    let (from, answer) = tokio::time::timeout(SECOND, proxy.recv()).await.expect("it is answered");
    assert_eq!((from, &answer[..2]), (SERVER, &[0, 2][..]));
    assert_eq!(proxy_stats(&listener).unnamed, 1);
}

/// A socket that is flooded: between the datagrams of the network it brings as many forged ones as it is told.
#[derive(Debug)]
struct Flooded {
    socket: Box<dyn AsyncUdp>,
    left: Arc<AtomicU64>,
    forged: Vec<Vec<u8>>,
}

impl AsyncUdp for Flooded {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        if let Poll::Ready(received) = self.socket.poll_recv(cx, batch) {
            return Poll::Ready(received);
        }
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Poll::Pending;
        }
        for n in 0..left.min(64) {
            let [a, b, c, d, ..] = (left - n).to_le_bytes();
            let from = SocketAddr::from(([11, c, b, a], 1024 + u16::from(d)));
            let datagram = &self.forged[(left + n) as usize % self.forged.len()];
            batch.push(from, datagram, datagram.len());
        }
        self.left.store(left - left.min(64), Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_writable(cx)
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        self.socket.try_send(batch)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

/// 200,000 forged headers; `SOE_FORGED=10000000 cargo test --release --test virtual_time forged_headers` sends ten million.
#[tokio::test(start_paused = true)]
async fn forged_headers_from_elsewhere_change_nothing() {
    let count = std::env::var("SOE_FORGED").map_or(200_000, |count| count.parse().expect("a number"));
    for kind in [Kind::Simple, Kind::Each, Kind::First] {
        let network = Network::new(1);
        let header = if kind == Kind::Simple { simple_header(CLIENT, FRONT) } else { v2_header(CLIENT, FRONT) };
        let bodies = [request(1), vec![0, 5, 0, 0, 0, 1, 0, 0], vec![0, 9, 0, 0, 1, 2, 3, 4, 5, 6], vec![0, 6, 1, 2]];
        let forged = bodies.into_iter().map(|body| [&header[..], &body].concat()).collect();
        let left = Arc::new(AtomicU64::new(0));
        let socket = Flooded { socket: network.socket(SERVER), left: Arc::clone(&left), forged };
        let listener = SoeListener::from_socket(Box::new(socket), behind(kind)).expect("bound");
        let _proxy = Proxy::start(&network, kind, FRONT);
        let (mut client, mut server) = pair(&network, &listener, CLIENT).await;
        let requests = listener.stats().endpoint.admission.requests;
        left.store(count / 3, Ordering::Relaxed);
        let mut rounds = 0;
        while left.load(Ordering::Relaxed) > 0 {
            // The session goes on in the midst of the flood.
            converse(&mut client, &mut server, "undisturbed").await;
            rounds += 1;
        }
        assert!(rounds > 10, "the flood did not stop everything: {rounds}");
        let stats = listener.stats();
        assert_eq!(stats.proxy.expect("there are proxies").untrusted, count / 3);
        assert!(stats.socket.datagrams_received > count / 3, "what is dropped counts as received");
        let admission = stats.endpoint.admission;
        assert_eq!((admission.requests, admission.unknown_sender_replies, admission.opened), (requests, 0, 1));
        let sessions = (server.stats().crc_rejects, server.stats().resent_timeout, client.stats().resent_timeout);
        assert_eq!(sessions, (0, 0, 0), "{kind:?}");
        assert_eq!((stats.endpoint.sessions, stats.endpoint.probes), (1, 0));
        assert!(stats.memory_held < 1_000, "{}", stats.memory_held);
        assert_eq!(server.relay().and_then(|relay| relay.entrance()), Some(FRONT));
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrapped_socket_that_is_full_sends_all_the_same() {
    for kind in [Kind::Simple, Kind::First] {
        let network = Network::new(3);
        network.set_socket_limits(soe_testing::SocketLimits::default().send_blocked(0.5));
        serve_echo(listen(&network, behind(kind)));
        let _proxy = Proxy::start(&network, kind, FRONT);
        let mut client = connector(&network, CLIENT).connect(FRONT, config()).await.expect("the server answers");
        let bulk = vec![7; 200_000];
        client.send(bulk.clone()).await.expect("open");
        assert!(receive(&mut client).await == bulk);
        network.stats().assert_happened(soe_testing::Fault::SendBlocked);
    }
}
