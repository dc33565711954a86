use super::*;
use std::time::Duration;

use crate::link::Cause;

fn config(up: &str, down: &str) -> ProxyConfig {
    ProxyConfig { up: up.parse().unwrap(), down: down.parse().unwrap(), seed: 7, ..ProxyConfig::default() }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

/// A proxy in virtual time.
struct World {
    now: Instant,
    proxy: Proxy,
}

impl World {
    fn new(config: ProxyConfig) -> Self {
        let now = Instant::now();
        Self { now, proxy: Proxy::new(now, config).unwrap() }
    }

    fn up(&mut self, port: u16, datagram: &[u8]) -> Handled {
        self.proxy.handle_client(self.now, address(port), datagram)
    }

    fn command(&mut self, line: &str) -> Result<String, CommandError> {
        self.proxy.command(self.now, &line.parse()?)
    }

    /// Lets time pass, stopping where the proxy asks for it. Returns what leaves, and when.
    fn pass(&mut self, time: Duration) -> Vec<(Instant, Transmit)> {
        let (end, mut sent) = (self.now + time, Vec::new());
        loop {
            self.proxy.handle_timeout(self.now);
            while let Some(transmit) = self.proxy.poll_transmit(self.now) {
                sent.push((self.now, transmit));
            }
            match self.proxy.poll_timeout().filter(|at| *at <= end) {
                Some(at) => self.now = at.max(self.now),
                None => break,
            }
        }
        self.now = end;
        sent
    }

    fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.proxy.poll_event()).collect()
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

#[test]
fn the_loss_of_100_000_datagrams_each_way_is_within_half_a_point_of_the_target() {
    let mut world = World::new(config("loss=3%,burst=5%/4,delay=20ms,jitter=10ms,duplicate=1%", "loss=12%"));
    let Handled::Decided(client, _) = world.up(1, b"first") else { panic!("ignored") };
    let (mut up, mut down) = (0_u64, 0_u64);
    let mut count = |sent: Vec<(Instant, Transmit)>| {
        for (_, transmit) in sent {
            *(if transmit.direction == Direction::Up { &mut up } else { &mut down }) += 1;
        }
    };
    for n in 1..100_000_u32 {
        let _ = world.up(1, &n.to_be_bytes());
        let _ = world.proxy.handle_server(world.now, client, &n.to_be_bytes());
        count(world.pass(MILLISECOND));
    }
    let _ = world.proxy.handle_server(world.now, client, b"last");
    count(world.pass(Duration::from_secs(1)));
    let status = world.proxy.status(world.now);
    assert_eq!((status.up.counters.offered, status.down.counters.offered), (100_000, 100_000));
    let share = |arrived: u64| 1.0 - arrived as f64 / 1e5;
    assert_eq!(up, 100_000 - status.up.lost + status.up.counters.duplicated);
    assert!((status.up.loss - (1.0 - 0.97 * 0.95)).abs() < 0.005, "{}", status.up.loss);
    assert!((share(down) - 0.12).abs() < 0.005, "{}", share(down));
}

#[test]
fn the_same_seed_gives_the_same_run_and_clients_are_lost_differently() {
    let run = |seed| {
        let mut world =
            World::new(ProxyConfig { seed, ..config("loss=30%,jitter=9ms,duplicate=5%,corrupt=5%", "none") });
        let (start, mut sent) = (world.now, Vec::new());
        for n in 0..2_000_u16 {
            let _ = world.up(1 + n % 2, &(n / 2).to_be_bytes());
            sent.extend(world.pass(MILLISECOND));
        }
        sent.into_iter().map(|(at, transmit)| (at - start, transmit)).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let of =
        |client| run(1).into_iter().filter(move |(_, sent)| sent.client.0 == client).map(|(_, sent)| sent.datagram);
    assert_ne!(of(1).collect::<Vec<_>>(), of(2).collect::<Vec<_>>());
}

#[test]
fn datagrams_leave_at_their_time_and_to_their_side() {
    let mut world = World::new(config("delay=40ms", "delay=10ms"));
    let start = world.now;
    assert!(matches!(world.up(5, b"up"), Handled::Decided(ClientId(1), Fate::Delivered(_))));
    let _ = world.proxy.handle_server(world.now, ClientId(1), b"down");
    let sent = world.pass(Duration::from_secs(1));
    let seen: Vec<_> =
        sent.iter().map(|(at, sent)| (*at - start, sent.direction, sent.address, &sent.datagram[..])).collect();
    assert_eq!(
        seen,
        [
            (10 * MILLISECOND, Direction::Down, address(5), &b"down"[..]),
            (40 * MILLISECOND, Direction::Up, address(5), &b"up"[..]),
        ]
    );
    assert_eq!(world.events(), [Event::Opened(ClientId(1), address(5))]);
}

#[test]
fn settings_of_one_client_and_one_direction_leave_the_others_alone() {
    let mut world = World::new(config("none", "none"));
    for port in [1, 2] {
        let _ = world.up(port, b"hello");
    }
    assert_eq!(world.command("set #2 up loss=100%").as_deref(), Ok("changed: 1 clients"));
    assert!(matches!(world.up(1, b"x"), Handled::Decided(_, Fate::Delivered(_))));
    assert_eq!(world.up(2, b"x"), Handled::Decided(ClientId(2), Fate::Lost(Cause::Random)));
    let down = world.proxy.handle_server(world.now, ClientId(2), b"x");
    assert!(matches!(down, Handled::Decided(_, Fate::Delivered(_))));

    assert_eq!(world.command("set down mtu=3").as_deref(), Ok("changed: 2 clients and those to come"));
    let _ = world.up(3, b"newcomer");
    let down = world.proxy.handle_server(world.now, ClientId(3), b"long");
    assert_eq!(down, Handled::Decided(ClientId(3), Fate::Lost(Cause::TooLong)));
    // What was set before stays.
    assert_eq!(world.up(2, b"x"), Handled::Decided(ClientId(2), Fate::Lost(Cause::Random)));

    assert_eq!(world.command("profile 192.0.2.1:2 clean").as_deref(), Ok("changed: 1 clients"));
    assert!(matches!(world.up(2, b"x"), Handled::Decided(_, Fate::Delivered(_))));
    let missing = Err(CommandError::NoSuchClient("#9".to_owned()));
    assert_eq!(world.command("set #9 loss=1%"), missing);
    assert_eq!(world.command("blackout 192.0.2.1:9 1s").unwrap_err().to_string(), "there is no client 192.0.2.1:9");
}

#[test]
fn a_blackout_by_command_ends_by_itself() {
    let mut world = World::new(config("none", "none"));
    let _ = world.up(1, b"hello");
    world.command("blackout up 2s").unwrap();
    world.pass(Duration::from_millis(1_999));
    assert_eq!(world.up(1, b"x"), Handled::Decided(ClientId(1), Fate::Lost(Cause::Blackout)));
    world.pass(MILLISECOND);
    assert!(matches!(world.up(1, b"x"), Handled::Decided(_, Fate::Delivered(_))));
}

#[test]
fn ports_change_by_command_and_by_the_clock() {
    let every = Some(Duration::from_secs(30));
    let mut world = World::new(ProxyConfig { rebind_every: every, ..config("none", "none") });
    let _ = world.up(1, b"hello");
    world.events();
    world.command("rebind #1").unwrap();
    assert_eq!(world.events(), [Event::Rebound(ClientId(1))]);
    world.pass(Duration::from_millis(29_999));
    assert_eq!(world.events(), []);
    world.pass(Duration::from_secs(31));
    assert_eq!(world.events(), [Event::Rebound(ClientId(1)), Event::Rebound(ClientId(1))]);
    assert_eq!(world.proxy.status(world.now).clients[0].rebinds, 3);
}

#[test]
fn idle_clients_are_forgotten_and_their_counts_are_not() {
    let mut world = World::new(config("none", "delay=10ms"));
    let _ = world.up(1, b"hello");
    world.pass(Duration::from_secs(119));
    let _ = world.proxy.handle_server(world.now, ClientId(1), b"sign of life");
    assert_eq!(world.pass(Duration::from_secs(119)).len(), 1);
    assert_eq!(world.proxy.status(world.now).clients.len(), 1);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.events(), [Event::Opened(ClientId(1), address(1)), Event::Closed(ClientId(1))]);
    let status = world.proxy.status(world.now);
    assert_eq!((status.clients.len(), status.up.counters.offered, status.down.counters.offered), (0, 1, 1));
    assert_eq!(world.proxy.poll_timeout(), None);
    // A late answer finds nobody, and whoever comes back is a new client.
    assert_eq!(world.proxy.handle_server(world.now, ClientId(1), b"late"), Handled::Ignored);
    assert!(matches!(world.up(1, b"again"), Handled::Decided(ClientId(2), _)));
}

#[test]
fn there_are_no_more_clients_and_no_more_bytes_than_may_be() {
    let limits = ProxyConfig { max_clients: 2, max_held: 100_000, ..config("delay=1s,duplicate=100%", "none") };
    let mut world = World::new(limits);
    let _ = (world.up(1, b"a"), world.up(2, b"b"));
    assert_eq!(world.up(3, b"c"), Handled::Ignored);
    while let Handled::Decided(..) = world.up(1, &[0; 500]) {}
    assert_eq!(world.up(1, &[0; 500]), Handled::NoRoom(ClientId(1)));
    let status = world.proxy.status(world.now);
    assert!(status.held_bytes <= 100_000 && status.held_bytes > 98_000, "{}", status.held_bytes);
    assert_eq!((status.ignored, status.no_room), (1, 2));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.proxy.status(world.now).held_bytes, 0);
    assert!(matches!(world.up(1, &[0; 500]), Handled::Decided(..)));
}

#[test]
fn a_client_without_a_socket_is_forgotten_and_may_come_back() {
    let mut world = World::new(config("delay=10ms", "none"));
    let _ = (world.up(1, b"a"), world.up(2, b"b"));
    world.proxy.handle_no_socket(ClientId(2));
    let opened = |id, port| Event::Opened(ClientId(id), address(port));
    assert_eq!(world.events(), [opened(1, 1), opened(2, 2), Event::Closed(ClientId(2))]);
    // What was under way for it goes nowhere.
    assert_eq!(world.pass(Duration::from_secs(1)).len(), 1);
    assert!(matches!(world.up(2, b"again"), Handled::Decided(ClientId(3), _)));
    assert_eq!(world.proxy.status(world.now).up.counters.offered, 3);
}

#[test]
fn a_configuration_that_cannot_work_is_refused() {
    let refused = |change: fn(&mut ProxyConfig)| {
        let mut config = ProxyConfig::default();
        change(&mut config);
        Proxy::new(Instant::now(), config).unwrap_err().to_string()
    };
    assert!(refused(|config| config.max_clients = 0).starts_with("max_clients is 0"));
    assert!(refused(|config| config.idle_timeout = Duration::ZERO).starts_with("idle_timeout is 0ns"));
    assert!(refused(|config| config.idle_timeout = Duration::MAX).starts_with("idle_timeout is "));
    assert!(refused(|config| config.rebind_every = Some(Duration::ZERO)).starts_with("rebind_every is 0ns"));
    assert!(refused(|config| config.max_held = 100).starts_with("max_held is 100"));
}
