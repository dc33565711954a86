//! A million strangers at the door: what they cost, and that honest newcomers come in all the same.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use peak_alloc::PeakAlloc;
use soe_core::{Admission, AdmissionConfig, Admit, Message, Session, SessionConfig, Verdict, wire::SessionRequest};

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

fn admission(now: Instant) -> Admission {
    Admission::new(now, config().into(), *b"a key of 16 byte")
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

/// Bytes that the admission answers with.
fn answer(admission: &mut Admission, buffer: &mut Vec<u8>) -> usize {
    buffer.clear();
    while admission.poll_transmit(buffer).is_some() {}
    buffer.len()
}

#[test]
fn a_million_requests_take_no_more_memory_than_the_ceiling_says() {
    let _alone = alone();
    let start = Instant::now();
    let before = MEMORY.current_usage();
    let mut admission = admission(start);
    let ceiling = admission.memory_ceiling();
    let (mut datagram, mut reply) = (Vec::with_capacity(64), Vec::with_capacity(1_024));
    // What the test harness allocates beside it.
    let overhead = 16 * 1_024;
    MEMORY.reset_peak_usage();
    for n in 0..FLOOD {
        datagram.clear();
        request(scrambled(n) as u32, b"LoginUdp_9", &mut datagram);
        let now = start + MS * (n / FLOOD_PER_MS);
        let admit = admission.handle_datagram(now, stranger(n), BytesMut::from(&datagram[..]));
        assert!(matches!(admit, Admit::Answered | Admit::Dropped));
        let _ = answer(&mut admission, &mut reply);
    }
    let taken = MEMORY.peak_usage() - before;
    let stats = admission.stats();
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
    let mut admission = admission(start);
    let mut reply = Vec::new();
    for n in 0..20_000u32 {
        let names: [&[u8]; 5] = [b"LoginUdp_9", b"", b"A", b"Another", &[0xFF; 32]];
        let mut datagram = Vec::new();
        request(n, names[n as usize % 5], &mut datagram);
        if n % 7 == 0 {
            datagram[10..14].copy_from_slice(&(n % 70).to_be_bytes());
        }
        admission.set_room(usize::from(n % 11 > 0) * 100);
        let _ = admission.handle_datagram(start + MS * n, stranger(n), datagram[..].into());
        let answered = answer(&mut admission, &mut reply);
        assert!(answered * 2 <= datagram.len() * 3, "{answered} bytes for {}", datagram.len());
        // What else a stranger can be answered to: UnknownSender, 2 bytes for at least as many.
        let _ = admission.handle_datagram(start + MS * n, stranger(n + 1_000_000), BytesMut::from(&[0, 6][..]));
        assert!(answer(&mut admission, &mut reply) <= 2);
    }
    assert!(admission.stats().over_capacity > 100 && admission.stats().mismatched > 100);
    assert!(admission.stats().unknown_sender_replies > 100);
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
        let mut admission = admission(start);
        let config = admission.config().clone();
        let mut datagram = Vec::new();
        request(1, b"LoginUdp_9", &mut datagram);
        for n in 0..20_000 {
            let _ = admission.handle_datagram(start + MS * (n / 10), address(n), datagram[..].into());
        }
        let allowed = u64::from(config.response_burst_per_prefix + 2 * config.response_rate_per_prefix);
        let stats = admission.stats();
        assert!((allowed - 5..=allowed + 5).contains(&stats.responses), "{name}: {} answers", stats.responses);
        assert_eq!(stats.rate_limited_prefix, 20_000 - stats.responses);
        let elsewhere = SocketAddr::from(([198, 51, 100, 1], 7));
        let admit = admission.handle_datagram(start + 2 * SECOND, elsewhere, datagram[..].into());
        assert!(matches!(admit, Admit::Answered), "{name} has used up what others may have");
    }
}

#[test]
fn limits_change_while_running_and_keep_who_is_waiting() {
    let _alone = alone();
    let now = Instant::now();
    let mut admission = admission(now);
    let mut clients: Vec<_> = (0..100).map(|n| Client::new(now, n, 0)).collect();
    let mut reply = Vec::new();
    for client in &mut clients {
        let mut datagram = Vec::new();
        let _ = client.session.poll_transmit(now, &mut datagram).unwrap();
        let _ = admission.handle_datagram(now, client.address, datagram[..].into());
        let _ = answer(&mut admission, &mut reply);
        let _ = client.session.handle_datagram(now, reply[..].into());
    }
    let limits = AdmissionConfig::builder(SessionConfig::new("Other").unwrap()).max_strangers(4_096).response_rate(1);
    admission.set_limits(now, &limits.build().unwrap());
    assert_eq!(admission.config().session.protocol_name, "LoginUdp_9");
    assert!(admission.memory_ceiling() < 500_000, "the table is smaller");
    for client in &mut clients {
        let mut datagram = Vec::new();
        let _ = client.session.poll_transmit(now, &mut datagram).unwrap();
        let admit = admission.handle_datagram(now, client.address, datagram[..].into());
        assert!(matches!(admit, Admit::Opened(_)), "{admit:?}");
    }
    let mut datagram = Vec::new();
    request(1, b"LoginUdp_9", &mut datagram);
    let answered = (0..10).filter(|&n| {
        matches!(admission.handle_datagram(now + SECOND, stranger(n), datagram[..].into()), Admit::Answered)
    });
    assert_eq!(answered.count(), 1);
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
}

/// A server as a socket layer would run it, and the links of its clients.
struct Server {
    admission: Admission,
    sessions: HashMap<SocketAddr, Session>,
    /// What is under way to it, by the millisecond of arrival.
    inbound: HashMap<Instant, Vec<(SocketAddr, Vec<u8>)>>,
    /// First messages received, and from whom.
    greeted: usize,
}

impl Server {
    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], answer: &mut Vec<u8>) {
        answer.clear();
        let live = self.sessions.get_mut(&from);
        let admit = match live {
            None => self.admission.handle_datagram(now, from, datagram.into()),
            Some(session) => match session.handle_datagram(now, datagram.into()) {
                Verdict::Rejected(datagram) | Verdict::Stranger(datagram) => {
                    self.admission.handle_returned(now, from, datagram)
                }
                _ => return,
            },
        };
        if let Admit::Opened(newcomer) = admit {
            self.sessions.insert(from, newcomer.session);
        }
        while self.admission.poll_transmit(answer).is_some() {}
    }

    /// Runs all sessions, and puts what they send under way.
    fn run(&mut self, now: Instant, clients: &mut HashMap<SocketAddr, Client>) {
        for (address, session) in &mut self.sessions {
            if session.poll_timeout().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
            while let Some(message) = session.recv() {
                self.greeted += usize::from(message.payload.len() == 4);
            }
            let Some(client) = clients.get_mut(address) else { continue };
            transmit(now, session, |datagram| client.inbound.push_back((now + client.delay, datagram)));
        }
    }
}

fn transmit(now: Instant, session: &mut Session, mut put: impl FnMut(Vec<u8>)) {
    if !session.has_transmit(now) {
        return;
    }
    let mut buffer = Vec::new();
    while let Some(transmit) = session.poll_transmit(now, &mut buffer) {
        buffer.chunks(transmit.segment_size).for_each(|datagram| put(datagram.to_vec()));
        buffer.clear();
    }
}

#[test]
fn honest_newcomers_come_in_during_the_flood_and_live_sessions_notice_nothing() {
    let _alone = alone();
    const LIVE: u32 = 50;
    const HONEST: u32 = 1_000;
    let start = Instant::now();
    let mut server =
        Server { admission: admission(start), sessions: HashMap::new(), inbound: HashMap::new(), greeted: 0 };
    let mut clients = HashMap::new();
    for n in 0..LIVE + HONEST {
        // Those who are to be live come a second before the flood; the others during it, over 50 to 150 ms.
        let starts = if n < LIVE { start } else { start + SECOND + MS * ((n - LIVE) * 5) };
        let mut client = Client::new(starts, n, 25 + 5 * (scrambled(n) as u32 % 11));
        client.starts = starts;
        clients.insert(client.address, client);
    }
    let (mut flooded, mut reply, mut datagram) = (0, Vec::new(), Vec::new());
    for elapsed in (0..16_000u32).step_by(5) {
        let now = start + MS * elapsed;
        for (from, datagram) in server.inbound.remove(&now).unwrap_or_default() {
            server.receive(now, from, &datagram, &mut reply);
            if let Some(client) = clients.get_mut(&from)
                && !reply.is_empty()
            {
                client.inbound.push_back((now + client.delay, reply.clone()));
            }
        }
        // The flood, one in a hundred of it in the name of live sessions.
        while elapsed >= 1_000 && flooded < FLOOD.min((elapsed - 999) * FLOOD_PER_MS) {
            datagram.clear();
            request(scrambled(flooded) as u32, b"LoginUdp_9", &mut datagram);
            let spoofs = flooded.is_multiple_of(100);
            let from = if spoofs { Client::new(now, flooded / 100 % LIVE, 0).address } else { stranger(flooded) };
            server.receive(now, from, &datagram, &mut reply);
            flooded += 1;
        }
        server.run(now, &mut clients);
        for client in clients.values_mut().filter(|client| client.starts <= now) {
            while client.inbound.front().is_some_and(|(at, _)| *at <= now) {
                let Some((_, datagram)) = client.inbound.pop_front() else { break };
                let _ = client.session.handle_datagram(now, datagram[..].into());
            }
            if client.session.poll_timeout().is_some_and(|at| at <= now) {
                client.session.handle_timeout(now);
            }
            let (address, arrives) = (client.address, now + client.delay);
            transmit(now, &mut client.session, |datagram| {
                server.inbound.entry(arrives).or_default().push((address, datagram));
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
    println!("{succeeded} of {HONEST} logins; {:?}", server.admission.stats());
    assert!(succeeded * 100 >= HONEST as usize * 99, "{succeeded} of {HONEST} logins succeeded");
    assert!(server.greeted >= succeeded + LIVE as usize);
    assert_eq!(server.sessions.len(), server.admission.stats().opened as usize, "nobody took a live session's place");
}
