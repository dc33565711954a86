//! What honest players do, under the default limits: none of it meets a limit.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use soe_core::{Admission, Admit, Event, Message, Session, SessionConfig, Verdict};

const MS: Duration = Duration::from_millis(1);
const TICK: Duration = Duration::from_millis(5);

fn config() -> SessionConfig {
    SessionConfig::new("LoginUdp_9").unwrap()
}

/// A datagram under way: when it arrives, to whom, from whom.
type Flying = (Instant, SocketAddr, SocketAddr, Vec<u8>);

/// Clients by their address, and a server as a socket layer would run it.
struct World {
    now: Instant,
    delay: Duration,
    admission: Admission,
    sessions: HashMap<SocketAddr, Session>,
    clients: HashMap<SocketAddr, Session>,
    flying: Vec<Flying>,
    /// Sessions whose place another one from the same address has taken.
    replaced: usize,
    /// Claims to have moved that were accepted.
    moved: usize,
    received: Vec<Message>,
}

fn server() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], 20_042))
}

/// One of many players behind the same address.
fn player(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 10_000 + n))
}

impl World {
    fn new(delay: Duration) -> Self {
        let now = Instant::now();
        Self {
            now,
            delay,
            admission: Admission::new(now, config().into(), [5; 16]),
            sessions: HashMap::new(),
            clients: HashMap::new(),
            flying: Vec::new(),
            replaced: 0,
            moved: 0,
            received: Vec::new(),
        }
    }

    fn join(&mut self, address: SocketAddr, session_id: u32) {
        self.clients.insert(address, Session::connect(self.now, config(), session_id));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            let now = self.now;
            let (arrived, flying) = std::mem::take(&mut self.flying).into_iter().partition(|(at, ..)| *at <= now);
            self.flying = flying;
            let arrived: Vec<Flying> = arrived;
            for (_, to, from, datagram) in arrived {
                if to == server() {
                    self.serve(from, &datagram);
                } else if let Some(client) = self.clients.get_mut(&to) {
                    let _ = client.handle_datagram(now, datagram[..].into());
                }
            }
            for (address, session) in &mut self.clients {
                run_session(now, session, |datagram| {
                    self.flying.push((now + self.delay, server(), *address, datagram));
                });
            }
            for (address, session) in &mut self.sessions {
                run_session(now, session, |datagram| {
                    self.flying.push((now + self.delay, *address, server(), datagram));
                });
                self.received.extend(std::iter::from_fn(|| session.recv()));
            }
        }
    }

    fn serve(&mut self, from: SocketAddr, datagram: &[u8]) {
        let now = self.now;
        let admit = match self.sessions.get_mut(&from) {
            None => self.admission.handle_datagram(now, from, datagram.into()),
            Some(session) => match session.handle_datagram(now, datagram.into()) {
                Verdict::Rejected(datagram) | Verdict::Stranger(datagram) => {
                    self.admission.handle_returned(now, from, datagram)
                }
                _ => return,
            },
        };
        let mut answer = Vec::new();
        while self.admission.poll_transmit(&mut answer).is_some() {
            self.flying.push((now + self.delay, from, server(), std::mem::take(&mut answer)));
        }
        match admit {
            Admit::Opened(newcomer) => {
                self.replaced += usize::from(self.sessions.insert(from, newcomer.session).is_some());
            }
            Admit::Remap(claim) => {
                let owner = self.sessions.iter().find(|(_, session)| {
                    (session.session_id(), session.crc_seed()) == (claim.session_id, claim.crc_seed)
                });
                let Some(old) = owner.map(|(address, _)| *address) else { return };
                assert!(self.admission.config().remap.allows(old, from));
                let session = self.sessions.remove(&old).unwrap();
                self.sessions.insert(from, session);
                self.moved += 1;
            }
            _ => {}
        }
    }

    /// Nothing was refused to anybody for the sake of a limit.
    fn assert_no_limit_was_met(&self) {
        let stats = self.admission.stats();
        assert_eq!(
            (stats.rate_limited, stats.evicted, stats.over_capacity, stats.mismatched),
            (0, 0, 0, 0),
            "{stats:?}"
        );
        assert_eq!((stats.opening_deferred, stats.crc_rejects), (0, 0), "{stats:?}");
        for session in self.clients.values().chain(self.sessions.values()) {
            let stats = session.stats(self.now);
            assert_eq!((stats.unread_dropped, stats.beyond_window, stats.malformed), (0, 0, 0), "{stats:?}");
        }
    }
}

fn run_session(now: Instant, session: &mut Session, mut put: impl FnMut(Vec<u8>)) {
    if session.poll_timeout().is_some_and(|at| at <= now) {
        session.handle_timeout(now);
    }
    let mut buffer = Vec::new();
    while let Some(transmit) = session.poll_transmit(now, &mut buffer) {
        buffer.chunks(transmit.segment_size).for_each(|datagram| put(datagram.to_vec()));
        buffer.clear();
    }
}

#[test]
fn two_hundred_players_behind_one_address_join_within_two_seconds() {
    let mut world = World::new(60 * MS);
    for n in 0..200 {
        world.join(player(n), 1_000 + u32::from(n));
        world.run(10 * MS);
    }
    world.run(500 * MS);
    assert!(world.clients.values().all(Session::is_connected));
    assert_eq!(world.sessions.len(), 200);
    world.assert_no_limit_was_met();
}

#[test]
fn an_internet_cafe_comes_back_all_at_once_over_a_slow_link() {
    let mut world = World::new(Duration::from_millis(700));
    for n in 0..300 {
        world.join(player(n), 1_000 + u32::from(n));
    }
    world.run(Duration::from_secs(5));
    assert!(world.admission.stats().requests > 300, "some have asked twice: the answer takes longer than a second");
    assert!(world.clients.values().all(Session::is_connected));
    world.assert_no_limit_was_met();
}

#[test]
fn a_player_whose_client_crashed_is_back_within_a_second_again_and_again() {
    let mut world = World::new(40 * MS);
    for n in 0..20 {
        // The same port, a new session, and a login right away.
        world.join(player(0), 500 + n);
        let client = world.clients.get_mut(&player(0)).unwrap();
        client.send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        world.run(Duration::from_millis(900));
        assert_eq!(world.received.pop().map(|message| message.payload.to_vec()), Some(n.to_be_bytes().to_vec()));
        assert!(world.clients[&player(0)].is_connected());
    }
    assert_eq!(world.replaced, 19);
    assert_eq!(world.sessions.len(), 1);
    world.assert_no_limit_was_met();
}

#[test]
fn a_player_who_comes_back_and_says_nothing_has_a_session_in_two_seconds() {
    let mut world = World::new(40 * MS);
    for n in 0..2 {
        world.join(player(0), 500 + n);
        world.run(Duration::from_secs(2));
        assert!(world.clients[&player(0)].is_connected());
        assert_eq!(world.sessions[&player(0)].session_id(), 500 + n);
    }
    world.assert_no_limit_was_met();
}

#[test]
fn a_player_whose_port_changes_goes_on_in_the_same_session() {
    let mut world = World::new(40 * MS);
    world.join(player(0), 500);
    world.run(Duration::from_secs(1));
    for n in 1..10 {
        // The network gives the player another port; nobody has told the server.
        let client = world.clients.remove(&player(n - 1)).unwrap();
        world.clients.insert(player(n), client);
        let client = world.clients.get_mut(&player(n)).unwrap();
        client.send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        world.run(Duration::from_secs(3));
        assert_eq!(world.received.pop().map(|message| message.payload.to_vec()), Some(n.to_be_bytes().to_vec()));
    }
    let client = world.clients.get_mut(&player(9)).unwrap();
    assert!(client.is_connected() && client.is_idle());
    assert!(!std::iter::from_fn(|| client.poll_event()).any(|event| matches!(event, Event::Closed(_))));
    assert_eq!((world.moved, world.admission.stats().opened), (9, 1));
    world.assert_no_limit_was_met();
}

#[test]
fn two_megabytes_at_once_are_taken_and_delivered() {
    let mut world = World::new(20 * MS);
    world.join(player(0), 500);
    world.run(Duration::from_millis(200));
    let sent: Vec<_> = (0..200u8).map(|n| Message::reliable(vec![n | 1; 10_500])).collect();
    let mut waiting = sent.iter();
    let mut refused = None;
    let (mut received, mut rounds) = (Vec::new(), 0);
    // The application sends as fast as it may, and keeps what comes back for later.
    while received.len() < sent.len() && rounds < 2_000 {
        rounds += 1;
        let server = world.sessions.get_mut(&player(0)).unwrap();
        while let Some(message) = refused.take().or_else(|| waiting.next().cloned()) {
            if let Err(error) = server.send(message) {
                refused = Some(error.into_message());
                break;
            }
        }
        world.run(TICK);
        let client = world.clients.get_mut(&player(0)).unwrap();
        received.extend(std::iter::from_fn(|| client.recv()));
    }
    assert_eq!(received, sent);
    world.assert_no_limit_was_met();
}
