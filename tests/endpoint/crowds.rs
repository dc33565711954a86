//! Many honest players at once.

use super::*;
use crate::net::{MS, Net, SECOND};

#[test]
fn five_thousand_logins_from_one_address_at_once_all_succeed_under_the_defaults() {
    let mut net = Net::new(config(), 30 * MS);
    net.tick = 20 * MS;
    for n in 0..5_000 {
        net.join(player(n), &config(), n.into());
    }
    net.run(6 * SECOND);
    let connected = net.clients.values().filter(|client| client.is_connected()).count();
    assert_eq!((connected, net.server.endpoint.sessions()), (5_000, 5_000), "{:?}", net.server.endpoint.stats());
    assert_eq!(net.server.endpoint.stats().admission.rate_limited, 0);
}
