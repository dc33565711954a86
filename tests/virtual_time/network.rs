//! A network in memory that draws its faults by lot.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use soe_tokio::{AsyncUdp, ListenerConfig, RecvBatch, SendBatch, SessionConfig, SoeConnector, SoeListener, SoeSession};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 20060);
pub(crate) const CLIENT: SocketAddr = client(0);

/// One of many clients.
pub(crate) const fn client(number: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), 40_000 + number)
}

/// Random numbers that a seed decides (xorshift).
#[derive(Clone, Debug)]
pub(crate) struct Lots(u64);

impl Lots {
    pub(crate) fn new(seed: u64) -> Self {
        let mut lots = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        lots.below(1);
        lots
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % bound
    }

    /// Whether something happens that does so this many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        per_mille > 0 && self.below(1000) < per_mille
    }
}

/// What the network does to datagrams. By default nothing: they arrive at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Datagrams lost, of a thousand.
    pub(crate) loss: u64,
    /// Datagrams that arrive twice, of a thousand.
    pub(crate) duplication: u64,
    /// Sends that find the socket full, of a thousand.
    pub(crate) full: u64,
    /// The longest that a datagram is on its way, in milliseconds; each draws its own time, so they overtake each other.
    pub(crate) delay: u64,
}

/// Datagrams by address.
#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    wires: Mutex<Wires>,
}

#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) inboxes: HashMap<SocketAddr, Inbox>,
    /// The address that a socket appears under, where that is not its own.
    disguises: HashMap<SocketAddr, SocketAddr>,
    /// Every n-th datagram is lost.
    pub(crate) lose_every: Option<usize>,
    /// Sends that fail with `WouldBlock` before the next one works, over and over.
    pub(crate) full_every: Option<usize>,
    /// Datagrams that one socket can send in a millisecond.
    pub(crate) capacity: Option<usize>,
    pub(crate) faults: Faults,
    lots: Lots,
    pub(crate) sent: usize,
    pub(crate) lost: usize,
    pub(crate) duplicated: usize,
    pub(crate) blocked: usize,
    trace: DefaultHasher,
    start: Instant,
}

#[derive(Debug, Default)]
pub(crate) struct Inbox {
    /// By the time of their arrival, in the order of their sending.
    waiting: BTreeMap<(Instant, usize), (SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct SimulatedSocket {
    network: Arc<Network>,
    address: SocketAddr,
    is_full: bool,
    arrival: Option<Pin<Box<Sleep>>>,
    /// The millisecond that counts against the capacity, and what it has taken.
    load: (Instant, usize),
    writable: Option<Pin<Box<Sleep>>>,
}

impl Default for Network {
    fn default() -> Self {
        Self::new(1, Faults::default())
    }
}

impl Network {
    /// Must be called within a runtime.
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let wires = Wires {
            inboxes: HashMap::new(),
            disguises: HashMap::new(),
            lose_every: None,
            full_every: None,
            capacity: None,
            faults,
            lots: Lots::new(seed),
            sent: 0,
            lost: 0,
            duplicated: 0,
            blocked: 0,
            trace: DefaultHasher::new(),
            start: Instant::now(),
        };
        Self { seed, wires: Mutex::new(wires) }
    }

    pub(crate) fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().expect("no test panics while it holds the network")
    }

    pub(crate) fn socket(self: &Arc<Self>, address: SocketAddr) -> Box<SimulatedSocket> {
        self.wires().inboxes.insert(address, Inbox::default());
        let (network, load) = (Arc::clone(self), (Instant::now(), 0));
        Box::new(SimulatedSocket { network, address, is_full: false, arrival: None, load, writable: None })
    }

    pub(crate) fn listen(self: &Arc<Self>, config: impl Into<ListenerConfig>) -> SoeListener {
        SoeListener::from_socket(self.socket(SERVER), config).expect("a simulated socket can be bound")
    }

    pub(crate) fn connector(self: &Arc<Self>, address: SocketAddr) -> SoeConnector {
        SoeConnector::from_socket(self.socket(address)).expect("a simulated socket can be bound")
    }

    /// From now on the socket at `from` appears at `to`, and hears only what is sent there.
    pub(crate) fn disguise(&self, from: SocketAddr, to: SocketAddr) {
        self.wires().disguises.insert(from, to);
    }

    /// A digest of every datagram so far: who sent what to whom, and when.
    pub(crate) fn trace(&self) -> u64 {
        self.wires().trace.finish()
    }
}

impl Wires {
    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.sent += 1;
        (self.start.elapsed(), from, to, datagram).hash(&mut self.trace);
        if self.lose_every.is_some_and(|n| self.sent.is_multiple_of(n)) || self.lots.chance(self.faults.loss) {
            self.lost += 1;
            return;
        }
        let from = self.disguises.get(&from).copied().unwrap_or(from);
        let hidden = self.disguises.iter().find(|(_, shown)| **shown == to).map(|(hidden, _)| *hidden);
        let to = match hidden {
            Some(hidden) => hidden,
            None if self.disguises.contains_key(&to) => return,
            None => to,
        };
        let twice = self.lots.chance(self.faults.duplication);
        self.duplicated += usize::from(twice);
        for copy in 0..=usize::from(twice) {
            let arrival = Instant::now() + Duration::from_millis(self.lots.below(self.faults.delay + 1));
            if let Some(inbox) = self.inboxes.get_mut(&to) {
                inbox.waiting.insert((arrival, 2 * self.sent + copy), (from, datagram.to_vec()));
                inbox.waker.take().into_iter().for_each(Waker::wake);
            }
        }
    }
}

impl AsyncUdp for SimulatedSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        loop {
            let next = {
                let mut wires = self.network.wires();
                let Some(inbox) = wires.inboxes.get_mut(&self.address) else { return Poll::Pending };
                let now = Instant::now();
                while let Some(first) = inbox.waiting.first_entry()
                    && first.key().0 <= now
                {
                    let (from, datagram) = first.remove();
                    batch.push(from, &datagram, datagram.len());
                }
                if !batch.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                inbox.waker = Some(cx.waker().clone());
                inbox.waiting.first_key_value().map(|((arrival, _), _)| *arrival)
            };
            let Some(next) = next else { return Poll::Pending };
            let sleep = self.arrival.insert(Box::pin(sleep_until(next)));
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writable) = &mut self.writable {
            std::task::ready!(writable.as_mut().poll(cx));
            self.writable = None;
        }
        self.is_full = false;
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        let mut wires = self.network.wires();
        let Some(outgoing) = batch.pending().next() else { return Ok(0) };
        if let Some(capacity) = wires.capacity {
            if self.load.0.elapsed() >= Duration::from_millis(1) {
                self.load = (Instant::now(), 0);
            }
            if self.load.1 >= capacity {
                wires.blocked += 1;
                self.writable = Some(Box::pin(sleep_until(self.load.0 + Duration::from_millis(1))));
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.load.1 += outgoing.segments().len();
        }
        let count = wires.sent + wires.blocked + 1;
        let fault = wires.faults.full;
        if self.is_full || wires.full_every.is_some_and(|n| count.is_multiple_of(n)) || wires.lots.chance(fault) {
            wires.blocked += 1;
            self.is_full = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for datagram in outgoing.segments() {
            wires.deliver(self.address, outgoing.to, datagram);
        }
        Ok(1)
    }

    fn max_segments(&self) -> usize {
        4
    }

    fn secrets_seed(&self) -> Option<u64> {
        Some(self.network.seed ^ u64::from(self.address.port()) << 32)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

pub(crate) fn config() -> SessionConfig {
    SessionConfig::new("Simulated").expect("the defaults are valid")
}

pub(crate) async fn pair(listener: &SoeListener, connector: &SoeConnector) -> (SoeSession, SoeSession) {
    let (client, server) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
    (client.expect("the server answers"), server.expect("the listener lives").accept())
}

pub(crate) async fn receive(session: &mut SoeSession) -> Vec<u8> {
    session.recv().await.expect("open").expect("well").payload.to_vec()
}

/// Returns every message on the channel it came on, until the session ends.
pub(crate) async fn echo(mut session: SoeSession) {
    while let Some(Ok(message)) = session.recv().await {
        if session.send(message).await.is_err() {
            break;
        }
    }
}

/// Accepts sessions for ever and echoes in each.
pub(crate) fn serve_echo(listener: SoeListener) {
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(echo(incoming.accept()));
        }
    });
}

/// Runs something in virtual time for many seeds, naming the one that fails.
pub(crate) fn for_seeds<F: Future<Output = ()>>(default: u64, run: impl Fn(u64) -> F) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    let seeds = match number("SOE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SOE_SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let failing = Failing(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        runtime.expect("a runtime can be built").block_on(run(seed));
        std::mem::forget(failing);
    }
}

/// Says which seed was at work, if dropped by a panic.
struct Failing(u64);

impl Drop for Failing {
    fn drop(&mut self) {
        eprintln!("failed with SOE_SEED={}", self.0);
    }
}
