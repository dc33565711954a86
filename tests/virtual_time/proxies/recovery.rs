//! Headers that come once, and what becomes of a player whose header is late, lost, or made up.

use std::time::Duration;

use soe_testing::{LinkProfile, Loss, Network};
use soe_tokio::ListenerConfig;

use super::{
    FRONT, SECOND, behind, converse, pair, proxies,
    proxy::{IDLE, Kind, Proxy, v2_header},
    proxy_stats, request,
};
use crate::support::{CLIENT, SERVER, client, config, connector, listen};

/// Loses everything on the way from the proxy's first flow to the server for a moment.
fn lose_header(network: &Network, proxy: &Proxy) {
    let lossy = LinkProfile::lossless().loss(Loss::Uniform(1.0));
    network.link_between(proxy.inside(1), SERVER, lossy);
    let (network, inside) = (network.clone(), proxy.inside(1));
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(100)).await;
        network.link_between(inside, SERVER, LinkProfile::lossless());
    });
}

#[tokio::test(start_paused = true)]
async fn a_player_whose_header_is_lost_plays_under_the_address_of_the_proxy() {
    for kind in [Kind::First, Kind::HeaderAlone] {
        let network = Network::new(1);
        let listener = listen(&network, behind(kind));
        let proxy = Proxy::start(&network, kind, FRONT);
        lose_header(&network, &proxy);
        let (mut player, mut server) = pair(&network, &listener, CLIENT).await;
        converse(&mut player, &mut server, "late").await;
        assert_eq!((server.peer_addr(), server.relay()), (proxy.inside(1), None), "{kind:?}");
        assert!(proxy_stats(&listener).unnamed > 2);
        // Everybody else is who it is.
        let (_other, server) = pair(&network, &listener, client(1)).await;
        assert_eq!(server.peer_addr(), client(1));
    }
}

#[tokio::test(start_paused = true)]
async fn where_nobody_plays_unnamed_the_next_flow_brings_the_header() {
    let network = Network::new(1);
    let strict = proxies(Kind::First.header()).serve_unnamed(false);
    let listener = listen(&network, ListenerConfig::new(config()).behind_proxy(strict));
    let proxy = Proxy::start(&network, Kind::First, FRONT);
    lose_header(&network, &proxy);
    let lost = connector(&network, CLIENT).connect(FRONT, config()).await;
    assert!(lost.is_err_and(|error| error.is_timeout()));
    assert!(proxy_stats(&listener).headerless > 2);
    tokio::time::sleep(IDLE + SECOND).await;
    let (mut player, mut server) = pair(&network, &listener, CLIENT).await;
    assert_eq!(server.peer_addr(), CLIENT);
    converse(&mut player, &mut server, "at last").await;
}

#[tokio::test(start_paused = true)]
async fn a_header_that_is_overtaken_is_waited_for() {
    let network = Network::new(1);
    let listener = listen(&network, behind(Kind::HeaderAlone));
    let mut inside = network.raw(FRONT);
    inside.send(SERVER, &request(1));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(inside.try_recv(), None, "nobody knows yet whose it is");
    inside.send(SERVER, &v2_header(CLIENT, FRONT));
    inside.send(SERVER, &request(1));
    let (_, response) = tokio::time::timeout(SECOND, inside.recv()).await.expect("it is answered");
    assert_eq!(response[..2], [0, 2]);
    assert_eq!((proxy_stats(&listener).proxied, proxy_stats(&listener).headerless), (2, 1));
}

/// Behind a proxy that writes its header once, a player can begin any later datagram with a header of its own.
#[tokio::test(start_paused = true)]
async fn a_player_cannot_take_the_name_of_another() {
    let network = Network::new(1);
    let listener = listen(&network, behind(Kind::First));
    let proxy = Proxy::start(&network, Kind::First, FRONT);
    let (mut player, mut server) = pair(&network, &listener, CLIENT).await;
    let (mut victim, mut victims) = pair(&network, &listener, client(1)).await;
    // In the victim's name, and in that of nobody who plays.
    for claimed in [client(1), client(2)] {
        proxy.pass_on(CLIENT, &[v2_header(claimed, FRONT), request(66)].concat());
    }
    tokio::time::sleep(SECOND).await;
    assert_eq!(proxy_stats(&listener).disputed, 2);
    assert_eq!(listener.stats().endpoint.admission.requests, 2);
    converse(&mut victim, &mut victims, "untouched").await;
    // The forger has put itself out: nothing of that flow is believed until it was silent.
    assert!(player.send("me?").await.is_ok());
    let heard = tokio::time::timeout(5 * SECOND, server.recv()).await;
    assert!(heard.is_err(), "{heard:?}");
    // A header in the first datagram, behind the proxy's own, is the player's text.
    proxy.pass_on(client(3), &[v2_header(client(1), FRONT), request(67)].concat());
    tokio::time::sleep(SECOND).await;
    assert_eq!(listener.stats().endpoint.sessions, 2);
    converse(&mut victim, &mut victims, "still untouched").await;
}

/// The first-only table is bounded, and a flood of new flows does not reach those who play.
#[tokio::test(start_paused = true)]
async fn a_flood_of_flows_forgets_no_player() {
    let network = Network::new(1);
    let few = proxies(Kind::First.header()).max_flows(200);
    let listener = listen(&network, ListenerConfig::new(config()).behind_proxy(few));
    let _proxy = Proxy::start(&network, Kind::First, FRONT);
    let (mut player, mut server) = pair(&network, &listener, CLIENT).await;
    for port in 1..5_000_u16 {
        let from = std::net::SocketAddr::from(([10, 9, 1, 1], port));
        network.forge(from, SERVER, [v2_header(client(7), FRONT), vec![0, 6]].concat());
        if port % 50 == 0 {
            converse(&mut player, &mut server, "here").await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let stats = proxy_stats(&listener);
    assert!(stats.flows <= 200 && stats.flows_evicted > 4_000, "{stats:?}");
    assert_eq!((server.peer_addr(), stats.headerless), (CLIENT, 0));
}
