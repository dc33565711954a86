//! A million strangers: what they cost, and that honest newcomers come in all the same.

#[path = "common/server.rs"]
mod server;

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use peak_alloc::PeakAlloc;
use server::{Server, transmit};
use soe_core::{
    Action, AdmissionConfig, AdmissionConfigBuilder, Endpoint, Message, Session, SessionConfig, wire::SessionRequest,
};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// One test at a time: the allocator counts for all.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// The flood: a million requests at this many a millisecond.
const FLOOD: u32 = 1_000_000;
const FLOOD_PER_MS: u32 = 200;

fn config() -> SessionConfig {
    SessionConfig::new("LoginUdp_9").unwrap()
}

fn endpoint(now: Instant) -> Endpoint {
    Endpoint::new(now, config().into(), *b"a key of 16 byte")
}

fn scrambled(n: u32) -> u64 {
    let mut word = u64::from(n).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^ (word >> 27)
}

/// The n-th stranger: no two share an address, every third has IPv6.
fn stranger(n: u32) -> SocketAddr {
    let word = scrambled(n);
    let ip = if n.is_multiple_of(3) {
        IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(word) << 32 | u128::from(n)))
    } else {
        // An odd multiplier is a permutation: all distinct.
        IpAddr::V4(Ipv4Addr::from_bits(n.wrapping_mul(0x9E37_79B1)))
    };
    SocketAddr::new(ip, 1_024 + (word >> 50) as u16)
}

fn request(session_id: u32, name: &[u8], out: &mut Vec<u8>) {
    let name = (!name.is_empty()).then_some(name);
    SessionRequest { version: 3, session_id, udp_length: 512, protocol_name: name }.encode(out);
}

/// Gives the endpoint a datagram, and the answers to `buffer`. Returns whether a session opens.
fn handle(endpoint: &mut Endpoint, now: Instant, from: SocketAddr, datagram: &[u8], buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    endpoint.handle_datagram(now, from.into(), datagram.into());
    let mut opens = false;
    while let Some(action) = endpoint.poll_action() {
        match action {
            Action::Send { path, datagram } => {
                assert_eq!(path.remote, from);
                buffer.extend_from_slice(&datagram);
            }
            Action::Open(_) => opens = true,
            _ => {}
        }
    }
    opens
}

#[test]
fn a_million_requests_take_no_more_memory_than_the_ceiling_says() {
    let _alone = alone();
    let start = Instant::now();
    let before = MEMORY.current_usage();
    let mut endpoint = endpoint(start);
    let ceiling = endpoint.memory_ceiling();
    let (mut datagram, mut reply) = (Vec::with_capacity(64), Vec::with_capacity(1_024));
    // What the test harness allocates beside it.
    let overhead = 16 * 1_024;
    MEMORY.reset_peak_usage();
    for n in 0..FLOOD {
        datagram.clear();
        request(scrambled(n) as u32, b"LoginUdp_9", &mut datagram);
        let now = start + MS * (n / FLOOD_PER_MS);
        assert!(!handle(&mut endpoint, now, stranger(n), &datagram, &mut reply));
    }
    let taken = MEMORY.peak_usage() - before;
    let stats = endpoint.stats().admission;
    println!("{taken} bytes of {ceiling} for {} requests, {} evicted", stats.requests, stats.evicted);
    assert!(ceiling < 5 << 20);
    assert!(taken <= ceiling + overhead, "{taken} bytes, over the ceiling of {ceiling}");
    assert!(stats.evicted > 100_000, "the table was full many times over");
    let seconds = u64::from(FLOOD / FLOOD_PER_MS / 1_000);
    assert!(stats.responses <= 100_000 * (seconds + 1), "{} answers", stats.responses);
    assert_eq!(stats.rate_limited, stats.rate_limited_prefix + stats.rate_limited_all);
    assert_eq!(stats.requests, stats.responses + stats.rate_limited);
}

#[test]
fn no_answer_is_larger_than_one_and_a_half_times_the_request() {
    let _alone = alone();
    let start = Instant::now();
    let mut endpoints = [1, 100_000].map(|sessions| {
        let config = AdmissionConfig::builder(config()).max_sessions(sessions).build().unwrap();
        Endpoint::new(start, config, *b"a key of 16 byte")
    });
    // The one place of the first is taken.
    let mut client = Client::new(start, 0, 0);
    client.enter(&mut endpoints[0]);
    assert_eq!(endpoints[0].sessions(), 1);
    let mut reply = Vec::new();
    for n in 0..20_000u32 {
        let names: [&[u8]; 5] = [b"LoginUdp_9", b"", b"A", b"Another", &[0xFF; 32]];
        let mut datagram = Vec::new();
        request(n, names[n as usize % 5], &mut datagram);
        if n % 7 == 0 {
            datagram[10..14].copy_from_slice(&(n % 70).to_be_bytes());
        }
        let endpoint = &mut endpoints[usize::from(n % 11 > 0)];
        handle(endpoint, start + MS * n, stranger(n), &datagram, &mut reply);
        assert!(reply.len() * 2 <= datagram.len() * 3, "{} bytes for {}", reply.len(), datagram.len());
        // What else a stranger can be answered to: UnknownSender, 2 bytes for at least as many.
        handle(endpoint, start + MS * n, stranger(n + 1_000_000), &[0, 6], &mut reply);
        assert!(reply.len() <= 2);
    }
    let [full, free] = endpoints.map(|endpoint| endpoint.stats().admission);
    assert!(full.over_capacity > 100 && free.mismatched > 100);
    assert!(free.unknown_sender_replies > 100);
}

/// A configuration with rates that a test reaches.
fn slow() -> AdmissionConfigBuilder {
    AdmissionConfig::builder(config()).response_rate_per_prefix(200).response_burst_per_prefix(1_000)
}

#[test]
fn one_host_or_network_is_answered_at_its_own_rate_only() {
    let _alone = alone();
    let host: fn(u32) -> SocketAddr = |n| SocketAddr::from(([192, 0, 2, 1], n as u16));
    let mapped: fn(u32) -> SocketAddr = |n| SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped(), n as u16));
    let network: fn(u32) -> SocketAddr =
        |n| SocketAddr::from((Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(n)), 7));
    for (name, address) in [("an IPv4 host", host), ("its mapped form", mapped), ("an IPv6 /64", network)] {
        let start = Instant::now();
        let mut endpoint = Endpoint::new(start, slow().build().unwrap(), *b"a key of 16 byte");
        let (mut datagram, mut reply) = (Vec::new(), Vec::new());
        request(1, b"LoginUdp_9", &mut datagram);
        for n in 0..20_000 {
            handle(&mut endpoint, start + MS * (n / 10), address(n), &datagram, &mut reply);
        }
        let stats = endpoint.stats().admission;
        assert!((1_395..=1_405).contains(&stats.responses), "{name}: {} answers", stats.responses);
        assert_eq!(stats.rate_limited_prefix, 20_000 - stats.responses);
        let elsewhere = SocketAddr::from(([198, 51, 100, 1], 7));
        handle(&mut endpoint, start + 2 * SECOND, elsewhere, &datagram, &mut reply);
        assert!(!reply.is_empty(), "{name} has used up what others may have");
    }
}

#[test]
fn unknown_senders_are_told_at_a_rate_for_each_prefix_and_one_for_all() {
    let _alone = alone();
    let start = Instant::now();
    let limits = AdmissionConfig::builder(config()).unknown_sender_rate(500).unknown_sender_rate_per_prefix(50);
    let mut endpoint = Endpoint::new(start, limits.build().unwrap(), *b"a key of 16 byte");
    let mut reply = Vec::new();
    for n in 0..1_000u16 {
        handle(&mut endpoint, start, SocketAddr::from(([192, 0, 2, 1], n)), &[0, 9, 0, 0, 1, 2], &mut reply);
    }
    assert_eq!(endpoint.stats().admission.unknown_sender_replies, 50);
    for n in 0..1_000 {
        handle(&mut endpoint, start, stranger(n), &[0, 9, 0, 0, 1, 2], &mut reply);
    }
    assert_eq!(endpoint.stats().admission.unknown_sender_replies, 500);
}

#[test]
fn limits_change_while_running_and_keep_who_is_waiting() {
    let _alone = alone();
    let now = Instant::now();
    let mut endpoint = endpoint(now);
    let mut clients: Vec<_> = (0..100).map(|n| Client::new(now, n, 0)).collect();
    let mut reply = Vec::new();
    for client in &mut clients {
        let datagram = client.next_datagram();
        handle(&mut endpoint, now, client.address, &datagram, &mut reply);
        let _ = client.session.handle_datagram(now, reply[..].into());
    }
    let limits =
        AdmissionConfig::builder(SessionConfig::new("Other").unwrap()).max_pending_handshakes(4_096).response_rate(1);
    endpoint.set_limits(now, &limits.build().unwrap());
    assert_eq!(endpoint.config().unwrap().session.protocol_name, "LoginUdp_9");
    assert!(endpoint.memory_ceiling() < 700_000, "the table is smaller");
    for client in &mut clients {
        let datagram = client.next_datagram();
        assert!(handle(&mut endpoint, now, client.address, &datagram, &mut reply));
    }
    let mut datagram = Vec::new();
    request(1, b"LoginUdp_9", &mut datagram);
    let answered = (0..10).filter(|&n| {
        handle(&mut endpoint, now + SECOND, stranger(n), &datagram, &mut reply);
        !reply.is_empty()
    });
    assert_eq!(answered.count(), 1);
    endpoint.set_limits(now, &AdmissionConfig::builder(config()).max_sessions(1).build().unwrap());
    handle(&mut endpoint, now + SECOND * 2, stranger(99), &datagram, &mut reply);
    assert_eq!((endpoint.sessions(), endpoint.stats().admission.over_capacity), (100, 1));
}

/// An honest newcomer, with a link of its own.
struct Client {
    address: SocketAddr,
    session: Session,
    delay: Duration,
    starts: Instant,
    /// What is under way to it.
    inbound: VecDeque<(Instant, Vec<u8>)>,
}

impl Client {
    fn new(now: Instant, n: u32, delay_ms: u32) -> Self {
        let address = SocketAddr::from((Ipv4Addr::new(100, 64, (n >> 8) as u8, n as u8), 5_000));
        let mut session = Session::connect(now, config(), 0x0C11_0000 + n);
        session.send(Message::reliable(n.to_be_bytes().to_vec())).unwrap();
        Self { address, session, delay: MS * delay_ms, starts: now, inbound: VecDeque::new() }
    }

    fn next_datagram(&mut self) -> Vec<u8> {
        let mut datagram = Vec::new();
        let _ = self.session.poll_transmit(self.starts, &mut datagram).expect("it has something to say");
        datagram
    }

    /// Opens a session.
    fn enter(&mut self, endpoint: &mut Endpoint) {
        let (request, mut reply) = (self.next_datagram(), Vec::new());
        handle(endpoint, self.starts, self.address, &request, &mut reply);
        let _ = self.session.handle_datagram(self.starts, reply[..].into());
        let first = self.next_datagram();
        assert!(handle(endpoint, self.starts, self.address, &first, &mut reply));
    }
}

#[test]
fn honest_newcomers_come_in_during_the_flood_and_live_sessions_notice_nothing() {
    let _alone = alone();
    const LIVE: u32 = 50;
    const HONEST: u32 = 1_000;
    let start = Instant::now();
    let mut server = Server::plain(start, config(), *b"a key of 16 byte");
    let (mut inbound, mut greeted) = (HashMap::<Instant, Vec<(SocketAddr, Vec<u8>)>>::new(), 0);
    let mut clients = HashMap::new();
    for n in 0..LIVE + HONEST {
        // Those who are to be live come a second before the flood; the others during it, over 50 to 150 ms.
        let starts = if n < LIVE { start } else { start + SECOND + MS * ((n - LIVE) * 5) };
        let mut client = Client::new(starts, n, 25 + 5 * (scrambled(n) as u32 % 11));
        client.starts = starts;
        clients.insert(client.address, client);
    }
    let (mut flooded, mut datagram) = (0, Vec::new());
    for elapsed in (0..16_000u32).step_by(5) {
        let now = start + MS * elapsed;
        for (from, datagram) in inbound.remove(&now).unwrap_or_default() {
            server.arrive(from, &datagram);
        }
        // The flood, one in a hundred of it in the name of live sessions.
        while elapsed >= 1_000 && flooded < FLOOD.min((elapsed - 999) * FLOOD_PER_MS) {
            datagram.clear();
            request(scrambled(flooded) as u32, b"LoginUdp_9", &mut datagram);
            let spoofs = flooded.is_multiple_of(100);
            let from = if spoofs { Client::new(now, flooded / 100 % LIVE, 0).address } else { stranger(flooded) };
            server.arrive(from, &datagram);
            flooded += 1;
        }
        server.run(now);
        for key in server.accepted.clone() {
            let session = &mut server.peer_mut(key).expect("no session ends").resident;
            greeted += std::iter::from_fn(|| session.recv()).filter(|message| message.payload.len() == 4).count();
        }
        for (path, datagram) in std::mem::take(&mut server.sent) {
            if let Some(client) = clients.get_mut(&path.remote) {
                client.inbound.push_back((now + client.delay, datagram));
            }
        }
        for client in clients.values_mut().filter(|client| client.starts <= now) {
            while client.inbound.front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, datagram)) = client.inbound.pop_front() else { break };
                let _ = client.session.handle_datagram(now, datagram[..].into());
            }
            if client.session.poll_timeout().is_some_and(|at| at <= now) {
                client.session.handle_timeout(now);
            }
            let (address, arrives) = (client.address, now + client.delay);
            transmit(now, &mut client.session, &mut |datagram| {
                inbound.entry(arrives).or_default().push((address, datagram.to_vec()));
            });
        }
    }
    assert_eq!(flooded, FLOOD);
    let (live, honest): (Vec<_>, Vec<_>) = clients.values().partition(|client| client.starts == start);
    for client in live {
        let stats = client.session.stats(start + 16 * SECOND);
        assert!(client.session.is_connected());
        assert_eq!((stats.resent_lost, stats.resent_timeout), (0, 0), "a live session noticed the flood");
    }
    let succeeded = honest.iter().filter(|client| client.session.is_connected() && client.session.is_idle()).count();
    let stats = server.endpoint.stats();
    println!("{succeeded} of {HONEST} logins; {stats:?}");
    assert!(succeeded * 100 >= HONEST as usize * 99, "{succeeded} of {HONEST} logins succeeded");
    assert!(greeted >= succeeded + LIVE as usize);
    assert_eq!((stats.sessions, stats.replaced), (stats.admission.opened as usize, 0), "a place was taken");
}
