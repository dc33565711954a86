//! Routers that give clients other ports, other people's among them.

use soe_testing::{Fault, Network};
use tokio::time::sleep;

use super::{MILLISECOND, SECOND, Server};
use crate::{
    checker::Habit,
    support::{client, config},
};

#[tokio::test(start_paused = true)]
async fn clients_that_move_again_and_again_lose_nothing() {
    let network = Network::new(4);
    network.link(soe_testing::LinkProfile::transatlantic().loss(soe_testing::Loss::Uniform(0.02)));
    let server = Server::start(&network, config(), Habit::talker(100, 300 * MILLISECOND));
    for _ in 0..4 {
        server.join(config(), Habit::talker(100, 300 * MILLISECOND).closes_after(10 * SECOND)).await;
    }
    for round in 0..20_u16 {
        for number in 0..4 {
            network.rebind(client(number), std::net::SocketAddr::new(client(number).ip(), 1000 + round));
            sleep(150 * MILLISECOND).await;
        }
    }
    server.expect_end(200 * SECOND).await;
    server.checker.verify_all_lived();
    network.stats().assert_happened_at_least(Fault::Moved, 80);
}
