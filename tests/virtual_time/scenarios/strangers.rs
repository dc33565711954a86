//! Datagrams that strangers send under the addresses of players.

use soe_testing::{Fault, LinkProfile, Network, SimRng};

use super::{
    MILLISECOND, SECOND, Server,
    model::{Model, ModelPeer},
};
use crate::{
    checker::{Habit, Side},
    support::{SERVER, client, config, receive, serve_echo},
};

/// What looks like data of a session and has a wrong CRC.
fn garbage(rng: &mut SimRng) -> Vec<u8> {
    let mut datagram = vec![0, 9, 0, 0];
    datagram.extend((0..20).map(|_| rng.below(256) as u8));
    datagram
}

#[tokio::test(start_paused = true)]
async fn a_player_is_not_disowned_for_what_strangers_send_under_its_address() {
    let (network, mut rng) = (Network::new(1), SimRng::new(1));
    let server = Server::start(&network, config(), Habit::talker(20, 500 * MILLISECOND));
    let mut peer = ModelPeer::connect(&network, client(0), Model::default(), &server.checker).await;
    for _ in 0..20 {
        (0..5).for_each(|_| network.forge(client(0), SERVER, garbage(&mut rng)));
        peer.live(SECOND, None).await;
    }
    assert_eq!((peer.ended, peer.disowned), (None, 0), "some clients leave on the first UnknownSender");
    assert_eq!(server.checker.received(Side::Client), 20);
    network.stats().assert_happened_at_least(Fault::Forged, 100);
    peer.leave();
    server.expect_end(30 * SECOND).await;
    server.checker.verify_all_lived();
}

#[tokio::test(start_paused = true)]
async fn strangers_who_know_that_somebody_connects_cannot_keep_it_out() {
    for times in [1, 16, 300] {
        let (network, mut rng) = (Network::new(times), SimRng::new(times));
        network.link(LinkProfile::lossless().delay(50 * MILLISECOND));
        serve_echo(network.listener(config()).expect("bound"));
        let joining = tokio::spawn({
            let network = network.clone();
            async move { network.client(config()).await }
        });
        // Behind the request, and before the client's first datagram.
        tokio::time::sleep(80 * MILLISECOND).await;
        (0..times).for_each(|_| network.forge(client(0), SERVER, garbage(&mut rng)));
        let mut session = joining.await.expect("no panic").expect("the server answers");
        session.send("here").await.expect("open");
        assert_eq!(receive(&mut session).await, b"here");
    }
}
