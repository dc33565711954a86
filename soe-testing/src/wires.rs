//! The state of a network: what is on its way, and what happens to it there.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash},
    io,
    net::SocketAddr,
    task::Waker,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    link::{Blackouts, LinkProfile, LossState},
    nat::Nat,
    network::SocketLimits,
    rng::SimRng,
    stats::{Fault, Stats},
};

#[derive(Debug)]
pub(crate) struct Wires {
    clock: Clock,
    pub(crate) rng: SimRng,
    pub(crate) links: Links,
    pub(crate) nat: Nat,
    pub(crate) inboxes: BTreeMap<SocketAddr, Inbox>,
    /// What each path remembers, by the addresses that the sockets are bound to.
    paths: HashMap<(SocketAddr, SocketAddr), Path>,
    /// Until when nothing reaches or leaves a socket; `None` stands for all of them.
    pub(crate) blackouts: HashMap<Option<SocketAddr>, Duration>,
    pub(crate) limits: SocketLimits,
    pub(crate) reports_unreachable: bool,
    /// What is sent goes nowhere and is not counted: its sender is being killed.
    pub(crate) is_silent: bool,
    pub(crate) stats: Stats,
    pub(crate) trace: DefaultHasher,
    sequence: u64,
}

/// Where the time of a network comes from.
#[derive(Debug)]
enum Clock {
    /// The clock of the runtime, usually paused.
    Runtime(Instant),
    /// Machines have clocks of their own; this one is moved by hand.
    Steps(Duration),
}

/// The profiles, the most particular first.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(crate) pairs: HashMap<(SocketAddr, SocketAddr), LinkProfile>,
    pub(crate) from: HashMap<SocketAddr, LinkProfile>,
    pub(crate) to: HashMap<SocketAddr, LinkProfile>,
    pub(crate) default: LinkProfile,
}

impl Links {
    fn of(&self, from: SocketAddr, to: SocketAddr) -> &LinkProfile {
        let particular = self.pairs.get(&(from, to)).or_else(|| self.from.get(&from)).or_else(|| self.to.get(&to));
        particular.unwrap_or(&self.default)
    }
}

#[derive(Debug, Default)]
struct Path {
    loss: LossState,
    /// When the bottleneck has sent what it has taken.
    busy_until: Duration,
    /// When the last datagram arrives that keeps the order.
    in_order: Duration,
    /// When the last datagram of all arrives.
    latest: Duration,
}

/// What a socket is about to get.
#[derive(Debug)]
pub(crate) enum Arrival {
    Datagram(SocketAddr, Vec<u8>),
    /// ICMP says that an address cannot be reached.
    Unreachable(SocketAddr),
    /// An error that names no address.
    Reset,
}

/// One socket, as the network sees it.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Tells it from an earlier socket at the same address.
    pub(crate) id: u64,
    /// On their way, by the time of their arrival and the order of their sending.
    pub(crate) on_the_way: BTreeMap<(Duration, u64), Arrival>,
    /// Arrived and not received: the receive buffer.
    pub(crate) buffer: VecDeque<(SocketAddr, Vec<u8>)>,
    buffered: usize,
    /// The errors that the next calls give.
    pub(crate) errors: VecDeque<io::ErrorKind>,
    pub(crate) reports: VecDeque<SocketAddr>,
    pub(crate) limits: SocketLimits,
    pub(crate) paused_until: Duration,
    pub(crate) waker: Option<Waker>,
}

impl Inbox {
    /// When there may be something to do that nobody has woken for yet.
    pub(crate) fn next_due(&self, now: Duration) -> Option<Duration> {
        if now < self.paused_until {
            return Some(self.paused_until);
        }
        self.on_the_way.first_key_value().map(|((arrival, _), _)| *arrival)
    }

    pub(crate) fn take_datagram(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let (from, datagram) = self.buffer.pop_front()?;
        self.buffered -= datagram.len() + DATAGRAM_OVERHEAD;
        Some((from, datagram))
    }

    pub(crate) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Wires {
    pub(crate) fn new(seed: u64, on_runtime: bool) -> Self {
        Self {
            clock: if on_runtime { Clock::Runtime(Instant::now()) } else { Clock::Steps(Duration::ZERO) },
            rng: SimRng::new(seed),
            links: Links::default(),
            nat: Nat::default(),
            inboxes: BTreeMap::new(),
            paths: HashMap::new(),
            blackouts: HashMap::new(),
            limits: SocketLimits::default(),
            reports_unreachable: false,
            is_silent: false,
            stats: Stats::new(seed),
            trace: DefaultHasher::new(),
            sequence: 0,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        match &self.clock {
            Clock::Runtime(start) => start.elapsed(),
            Clock::Steps(now) => *now,
        }
    }

    /// Moves the clock and wakes the sockets for which something has become due.
    pub(crate) fn advance_to(&mut self, now: Duration) {
        let Clock::Steps(clock) = &mut self.clock else { return };
        let before = std::mem::replace(clock, now);
        for inbox in self.inboxes.values_mut() {
            if inbox.next_due(before).is_some_and(|due| due <= now) {
                inbox.wake();
            }
        }
    }

    /// Whether a socket has to wait for arrivals by itself.
    pub(crate) fn is_on_runtime(&self) -> bool {
        matches!(self.clock, Clock::Runtime(_))
    }

    pub(crate) fn plug_in(&mut self, address: SocketAddr) -> u64 {
        self.sequence += 1;
        let inbox = Inbox {
            id: self.sequence,
            on_the_way: BTreeMap::new(),
            buffer: VecDeque::new(),
            buffered: 0,
            errors: VecDeque::new(),
            reports: VecDeque::new(),
            limits: self.limits,
            paused_until: Duration::ZERO,
            waker: None,
        };
        self.inboxes.insert(address, inbox);
        self.sequence
    }

    /// The socket at `address`, unless another has taken its place.
    pub(crate) fn inbox(&mut self, address: SocketAddr, id: u64) -> Option<&mut Inbox> {
        self.inboxes.get_mut(&address).filter(|inbox| inbox.id == id)
    }

    /// A socket sends a datagram.
    pub(crate) fn send(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        if self.is_silent {
            return;
        }
        let now = self.now();
        self.stats.sent += 1;
        let shown = self.nat.outside(from);
        (now, shown, to, datagram).hash(&mut self.trace);
        let target = self.nat.inside(to);
        let key = (from, target.unwrap_or(to));
        let profile = self.links.of(key.0, key.1).clone();
        let path = self.paths.entry(key).or_default();
        if path.loss.takes(profile.loss, &mut self.rng) {
            return self.stats.add(Fault::Lost);
        }
        let dark = [None, Some(key.0), Some(key.1)].iter().any(|who| self.blackouts.get(who).is_some_and(|&t| now < t));
        if dark || profile.blackouts.is_some_and(|blackouts| is_dark(blackouts, self.stats.seed, key.0, now)) {
            return self.stats.add(Fault::BlackedOut);
        }
        let mut departure = now;
        if let Some(rate) = profile.rate {
            let wait = path.busy_until.saturating_sub(now);
            let queued = (wait.as_secs_f64() * rate.bytes_per_second as f64) as usize;
            if queued + datagram.len() > rate.queue {
                return self.stats.add(Fault::QueueFull);
            }
            let takes = Duration::from_secs_f64(datagram.len() as f64 / rate.bytes_per_second as f64);
            path.busy_until = now + wait + takes;
            departure = path.busy_until;
        }
        let mut datagram = datagram.to_vec();
        if !datagram.is_empty() && self.rng.chance(profile.corruption) {
            self.stats.add(Fault::Corrupted);
            for _ in 0..=self.rng.below(3) {
                let bit = self.rng.below(8 * datagram.len() as u64) as usize;
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
        }
        let twice = self.rng.chance(profile.duplication);
        if twice {
            self.stats.add(Fault::Duplicated);
        }
        for _ in 0..=usize::from(twice) {
            let arrival = self.arrival(&profile, key, departure);
            self.hand_over(arrival, key.0, target, to, Arrival::Datagram(shown, datagram.clone()));
        }
    }

    /// When a datagram arrives that leaves the bottleneck at `departure`.
    fn arrival(&mut self, profile: &LinkProfile, key: (SocketAddr, SocketAddr), departure: Duration) -> Duration {
        let path = self.paths.entry(key).or_default();
        let mut draw = |most: Duration| Duration::from_micros(self.rng.below(most.as_micros() as u64 + 1));
        let mut arrival = departure + profile.delay + draw(profile.jitter);
        let (share, by) = profile.reordering;
        let held_back = draw(by);
        if self.rng.chance(share) {
            arrival += held_back;
        } else {
            arrival = arrival.max(path.in_order);
            path.in_order = arrival;
        }
        if arrival < path.latest {
            self.stats.add(Fault::Reordered);
        }
        path.latest = path.latest.max(arrival);
        arrival
    }

    /// Sends something on the rest of its way to the socket at `target`, which was addressed as `to`.
    fn hand_over(
        &mut self,
        arrival: Duration,
        sender: SocketAddr,
        target: Option<SocketAddr>,
        to: SocketAddr,
        what: Arrival,
    ) {
        if target.is_some_and(|target| self.schedule(arrival, target, what)) {
            return;
        }
        self.stats.add(Fault::NobodyThere);
        if self.reports_unreachable {
            self.schedule(arrival, sender, Arrival::Unreachable(to));
        }
    }

    /// False if there is no such socket.
    pub(crate) fn schedule(&mut self, arrival: Duration, socket: SocketAddr, what: Arrival) -> bool {
        self.sequence += 1;
        let Some(inbox) = self.inboxes.get_mut(&socket) else { return false };
        inbox.on_the_way.insert((arrival, self.sequence), what);
        // It may be waiting for something that comes later, or for nothing.
        inbox.wake();
        true
    }

    /// Moves what has arrived by now into the buffer of a socket, as far as it fits.
    pub(crate) fn settle(&mut self, socket: SocketAddr) {
        let now = self.now();
        let Some(inbox) = self.inboxes.get_mut(&socket) else { return };
        while let Some(first) = inbox.on_the_way.first_entry()
            && first.key().0 <= now
        {
            match first.remove() {
                Arrival::Datagram(from, datagram) => {
                    let size = datagram.len() + DATAGRAM_OVERHEAD;
                    if inbox.buffered + size > inbox.limits.recv_buffer {
                        self.stats.add(Fault::BufferFull);
                        continue;
                    }
                    inbox.buffered += size;
                    self.stats.delivered += 1;
                    inbox.buffer.push_back((from, datagram));
                }
                Arrival::Unreachable(about) => {
                    self.stats.add(Fault::Unreachable);
                    inbox.reports.push_back(about);
                    inbox.errors.push_back(io::ErrorKind::ConnectionRefused);
                }
                Arrival::Reset => {
                    self.stats.add(Fault::Reset);
                    inbox.errors.push_back(io::ErrorKind::ConnectionReset);
                }
            }
        }
    }
}

/// Whether `now` is in one of the periodic blackouts of a sender. Each sender has its own phase, decided by the seed.
fn is_dark(blackouts: Blackouts, seed: u64, sender: SocketAddr, now: Duration) -> bool {
    let every = blackouts.every.as_micros().max(1) as u64;
    let phase = SimRng::new(seed ^ (u64::from(sender.port()) << 32)).below(every);
    let at = (now.as_micros() as u64 + phase) % every;
    u128::from(every - 1 - at) < blackouts.length.as_micros()
}

/// What the bookkeeping of a datagram takes from a receive buffer, about as on Linux.
const DATAGRAM_OVERHEAD: usize = 512;
