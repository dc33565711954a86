//! Whose datagrams come from which port of a proxy, where a header says so only once.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::Relay;

/// What one address and port of a proxy carries.
#[derive(Clone, Copy, Debug)]
struct Flow {
    owner: Owner,
    /// When something last came from there or went there, give or take [`TOUCH_EVERY`]. A flow that was silent for longer than
    /// the time-out is forgotten.
    active: Instant,
    /// Its key in `Flows::order`.
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A header has named the player.
    Player(SocketAddr, Relay),
    /// No header has come. It may be late, and is waited for until this time.
    Awaited(Instant),
    /// No header has come in time: served under the proxy's own address.
    Unnamed,
    /// A second header has named somebody else: made by the player, or the proxy uses the port for another one already.
    /// Which of the two cannot be told, so nobody is served by it.
    Disputed,
}

/// What is known of a datagram without a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is this player's, by way of this relay.
    Player(SocketAddr, Relay),
    /// It is served under the proxy's own address.
    Unnamed,
    /// It is dropped.
    Nobody,
}

/// The flows of all proxies, up to a limit; above it, the longest silent goes.
///
/// The table is keyed by addresses of trusted proxies, but its size is up to the players behind them: each can come from
/// many ports. A flood of new flows has to fill the whole table within the pause between two datagrams of a player before it
/// reaches that player. Invariant: `order` names every flow once, the longest silent first.
#[derive(Debug)]
pub(super) struct Flows {
    flows: HashMap<SocketAddr, Flow>,
    order: BTreeMap<u64, SocketAddr>,
    /// The turn of the next flow that is heard.
    turn: u64,
    limit: usize,
    timeout: Duration,
    serve_unnamed: bool,
    /// Flows that were forgotten before their time, to make room.
    pub(super) evicted: u64,
}

impl Flows {
    pub(super) fn new(limit: usize, timeout: Duration, serve_unnamed: bool) -> Self {
        let (flows, order) = Default::default();
        Self { flows, order, turn: 0, limit: limit.max(1), timeout, serve_unnamed, evicted: 0 }
    }

    /// A header has named the player of a flow. False: the flow is another's, and the datagram is to be dropped.
    pub(super) fn name(&mut self, now: Instant, player: SocketAddr, relay: Relay) -> bool {
        self.forget_silent(now);
        let (address, named) = (relay.address(), Owner::Player(player, relay));
        match self.flows.get_mut(&address) {
            None => self.insert(now, address, named),
            Some(flow) => {
                match flow.owner {
                    Owner::Player(known, _) if known == player => {}
                    Owner::Awaited(_) => {}
                    _ if now.saturating_duration_since(flow.active) > self.timeout => {}
                    // Whatever it says, it does not make the flow live longer: after a silence the port can be another
                    // player's.
                    _ => {
                        flow.owner = Owner::Disputed;
                        return false;
                    }
                }
                flow.owner = named;
                self.touch(now, address);
            }
        }
        true
    }

    /// A datagram without a header has come from `relay`.
    pub(super) fn heard(&mut self, now: Instant, relay: SocketAddr) -> Known {
        let awaited = Owner::Awaited(now + GRACE);
        let Some(flow) = self.flows.get_mut(&relay) else {
            self.forget_silent(now);
            self.insert(now, relay, awaited);
            return Known::Nobody;
        };
        if now.saturating_duration_since(flow.active) > self.timeout {
            flow.owner = awaited;
        }
        match flow.owner {
            Owner::Disputed => return Known::Nobody,
            Owner::Awaited(until) if now >= until && self.serve_unnamed => flow.owner = Owner::Unnamed,
            _ => {}
        }
        let owner = flow.owner;
        self.touch(now, relay);
        match owner {
            Owner::Player(player, relay) => Known::Player(player, relay),
            Owner::Unnamed => Known::Unnamed,
            Owner::Awaited(_) | Owner::Disputed => Known::Nobody,
        }
    }

    /// Something is sent to `relay`, which counts as a sign of life of the flow there as well.
    pub(super) fn sent(&mut self, now: Instant, relay: SocketAddr) {
        let lives = |flow: &Flow| now.saturating_duration_since(flow.active) <= self.timeout;
        if self.flows.get(&relay).is_some_and(|flow| flow.owner != Owner::Disputed && lives(flow)) {
            self.touch(now, relay);
        }
    }

    /// How many are remembered.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    fn touch(&mut self, now: Instant, relay: SocketAddr) {
        let Some(flow) = self.flows.get_mut(&relay) else { return };
        if now.saturating_duration_since(flow.active) >= TOUCH_EVERY {
            self.order.remove(&flow.turn);
            (flow.active, flow.turn) = (now, self.turn);
            self.order.insert(self.turn, relay);
            self.turn += 1;
        }
    }

    fn insert(&mut self, now: Instant, relay: SocketAddr, owner: Owner) {
        if self.flows.len() >= self.limit {
            self.evicted += u64::from(self.forget_first());
        }
        self.flows.insert(relay, Flow { owner, active: now, turn: self.turn });
        self.order.insert(self.turn, relay);
        self.turn += 1;
    }

    /// Forgets a few of the flows that were silent for too long: more than come in, so that the table shrinks after a flood.
    fn forget_silent(&mut self, now: Instant) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            let first = self.order.first_key_value().and_then(|(_, relay)| self.flows.get(relay));
            if first.is_some_and(|flow| now.saturating_duration_since(flow.active) > self.timeout) {
                self.forget_first();
            }
        }
    }

    /// Forgets the flow that was silent longest. False: there is none.
    fn forget_first(&mut self) -> bool {
        let first = self.order.pop_first();
        first.is_some_and(|(_, relay)| self.flows.remove(&relay).is_some())
    }
}

/// How long the header of a flow may come after other datagrams of it: longer than datagrams overtake each other, and shorter
/// than any client waits for its server.
const GRACE: Duration = Duration::from_secs(2);
/// How exactly the last sign of life is known. Most datagrams of a busy flow then change nothing.
const TOUCH_EVERY: Duration = Duration::from_millis(5);
/// Flows that were silent for too long, of which each newcomer clears away this many.
const FORGOTTEN_AT_ONCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const SECOND: Duration = Duration::from_secs(1);

    fn flows(limit: usize) -> (Flows, Instant) {
        (Flows::new(limit, TIMEOUT, true), Instant::now())
    }

    fn player(n: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], 1000 + n))
    }

    fn relay(n: u16) -> Relay {
        Relay::new(SocketAddr::from(([10, 0, 0, 1], n)), None)
    }

    #[test]
    fn what_a_header_has_said_holds_until_the_flow_is_silent() {
        let (mut flows, mut now) = flows(8);
        assert!(flows.name(now, player(1), relay(1)));
        for _ in 0..3 {
            now += TIMEOUT;
            assert_eq!(flows.heard(now, relay(1).address()), Known::Player(player(1), relay(1)));
            now += TIMEOUT;
            flows.sent(now, relay(1).address());
        }
        now += TIMEOUT + SECOND;
        flows.sent(now, relay(1).address());
        assert_eq!(flows.heard(now, relay(1).address()), Known::Nobody);
    }

    #[test]
    fn a_player_cannot_name_itself_anew() {
        let (mut flows, now) = flows(8);
        assert!(flows.name(now, player(1), relay(1)));
        assert!(flows.name(now, player(1), relay(1)), "a duplicate");
        assert!(!flows.name(now + TIMEOUT, player(2), relay(1)));
        assert_eq!(flows.heard(now + TIMEOUT, relay(1).address()), Known::Nobody);
        assert!(!flows.name(now + TIMEOUT, player(1), relay(1)));
        // Whoever goes on sending does not keep the port from the next player.
        assert!(flows.name(now + TIMEOUT + SECOND, player(3), relay(1)));
        assert_eq!(flows.heard(now + TIMEOUT + SECOND, relay(1).address()), Known::Player(player(3), relay(1)));
    }

    #[test]
    fn a_late_header_is_waited_for_and_a_lost_one_is_not() {
        let (mut flows, now) = flows(8);
        assert_eq!(flows.heard(now, relay(1).address()), Known::Nobody);
        assert!(flows.name(now + SECOND, player(1), relay(1)));
        assert_eq!(flows.heard(now + SECOND, relay(1).address()), Known::Player(player(1), relay(1)));

        assert_eq!(flows.heard(now, relay(2).address()), Known::Nobody);
        assert_eq!(flows.heard(now + SECOND, relay(2).address()), Known::Nobody);
        assert_eq!(flows.heard(now + GRACE, relay(2).address()), Known::Unnamed);
        assert!(!flows.name(now + GRACE, player(2), relay(2)), "its player may have written it");

        flows.serve_unnamed = false;
        assert_eq!(flows.heard(now, relay(3).address()), Known::Nobody);
        assert_eq!(flows.heard(now + TIMEOUT, relay(3).address()), Known::Nobody);
        assert!(flows.name(now + TIMEOUT, player(3), relay(3)));
    }

    #[test]
    fn a_full_table_forgets_who_was_silent_longest() {
        let (mut flows, mut now) = flows(100);
        assert!(flows.name(now, player(0), relay(0)));
        for n in 1..10_000 {
            now += Duration::from_millis(10);
            assert!(flows.name(now, player(n), relay(n)));
            assert!(flows.len() <= 100);
            // This one speaks twice in the time that it takes to fill the table.
            if n % 40 == 0 {
                assert_eq!(flows.heard(now, relay(0).address()), Known::Player(player(0), relay(0)), "{n}");
            }
        }
        assert!(flows.evicted > 9_000);
    }

    #[test]
    fn a_table_shrinks_after_a_flood() {
        let (mut flows, now) = flows(1_000);
        (0..1_000).for_each(|n| assert!(flows.name(now, player(n), relay(n))));
        let later = now + TIMEOUT + SECOND;
        (1_000..2_000).for_each(|n| assert!(flows.name(later + u32::from(n) * SECOND / 10, player(n), relay(n))));
        assert!(flows.len() < 310, "{}", flows.len());
        assert_eq!((flows.evicted, flows.order.len()), (0, flows.len()));
    }
}
