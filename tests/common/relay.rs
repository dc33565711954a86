//! A UDP relay between one client and one server that loses, reorders and repeats datagrams by a seeded dice, and counts
//! what it did, so that a test can assert that the faults happened.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// How long a datagram that is to arrive late is held back at most.
const HOLD: Duration = Duration::from_millis(5);
/// How many later datagrams of its direction overtake it at most.
const OVERTAKERS: u32 = 4;

/// What the relay does to the datagrams of each direction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Faults {
    pub(crate) seed: u64,
    /// Datagrams of a thousand that never arrive.
    pub(crate) lost: u64,
    /// Datagrams of a thousand that a few later ones overtake.
    pub(crate) late: u64,
    /// Datagrams of a thousand that arrive twice.
    pub(crate) repeated: u64,
    /// The first datagrams of each direction, which pass untouched: the handshake of a peer that never repeats it.
    pub(crate) spared: u64,
}

/// What the relay has done, both directions together.
#[derive(Debug, Default)]
struct Counters {
    lost: AtomicU64,
    late: AtomicU64,
    repeated: AtomicU64,
}

/// What the relay has done so far, both directions together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally {
    pub(crate) lost: u64,
    pub(crate) late: u64,
    pub(crate) repeated: u64,
}

/// The running relay; it ends when this value is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    address: SocketAddr,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Relay {
    /// A relay in front of `server`; the client is whoever sends to [`Relay::address`].
    pub(crate) async fn start(server: SocketAddr, faults: Faults) -> io::Result<Self> {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        back.connect(server).await?;
        let address = front.local_addr()?;
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(run(front, back, faults, Arc::clone(&counters)));
        Ok(Self { address, counters, task })
    }

    /// Where the client sends to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn tally(&self) -> Tally {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        Tally { lost: read(&counters.lost), late: read(&counters.late), repeated: read(&counters.repeated) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The generator of Vigna's SplitMix64: one word of state, any seed is good.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)) % 1000
    }
}

struct Held {
    datagram: Vec<u8>,
    until: Instant,
    overtakers: u32,
}

/// One direction: its dice and what it holds back.
struct Lane {
    dice: Dice,
    faults: Faults,
    seen: u64,
    held: VecDeque<Held>,
    counters: Arc<Counters>,
}

impl Lane {
    fn new(faults: Faults, lane: u64, counters: &Arc<Counters>) -> Self {
        let dice = Dice(faults.seed.wrapping_mul(2).wrapping_add(lane));
        Self { dice, faults, seen: 0, held: VecDeque::new(), counters: Arc::clone(counters) }
    }

    /// Decides the fate of one datagram; what leaves now is appended to `out`.
    fn pass(&mut self, datagram: &[u8], out: &mut Vec<Vec<u8>>) {
        let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::Relaxed);
        self.seen += 1;
        let fates = [self.dice.roll(), self.dice.roll(), self.dice.roll()];
        let touched = self.seen > self.faults.spared;
        if touched && fates[0] < self.faults.lost {
            count(&self.counters.lost);
        } else if touched && fates[1] < self.faults.late {
            count(&self.counters.late);
            let until = Instant::now() + HOLD;
            self.held.push_back(Held { datagram: datagram.to_vec(), until, overtakers: 0 });
        } else {
            out.push(datagram.to_vec());
            if touched && fates[2] < self.faults.repeated {
                count(&self.counters.repeated);
                out.push(datagram.to_vec());
            }
        }
        for held in &mut self.held {
            held.overtakers += 1;
        }
        self.release(out);
    }

    fn release(&mut self, out: &mut Vec<Vec<u8>>) {
        let now = Instant::now();
        while self.held.front().is_some_and(|held| held.until <= now || held.overtakers > OVERTAKERS) {
            out.extend(self.held.pop_front().map(|held| held.datagram));
        }
    }

    fn due(&self) -> Option<Instant> {
        self.held.front().map(|held| held.until)
    }
}

async fn run(front: UdpSocket, back: UdpSocket, faults: Faults, counters: Arc<Counters>) {
    let mut up = Lane::new(faults, 0, &counters);
    let mut down = Lane::new(faults, 1, &counters);
    let (mut from_client, mut from_server) = (vec![0; 65_536], vec![0; 65_536]);
    let mut client = None;
    let mut out = Vec::new();
    loop {
        let due = [up.due(), down.due()].into_iter().flatten().min();
        let alarm = async {
            match due {
                Some(due) => sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        // Errors (a port that is closed already) are the network's business: the datagram is lost.
        tokio::select! {
            received = front.recv_from(&mut from_client) => {
                if let Ok((length, from)) = received {
                    client = Some(from);
                    up.pass(&from_client[..length], &mut out);
                }
            }
            received = back.recv(&mut from_server) => {
                if let Ok(length) = received {
                    down.pass(&from_server[..length], &mut out);
                    send_down(&front, client, &mut out).await;
                }
            }
            () = alarm => {
                down.release(&mut out);
                send_down(&front, client, &mut out).await;
                up.release(&mut out);
            }
        }
        for datagram in out.drain(..) {
            let _ = back.send(&datagram).await;
        }
    }
}

async fn send_down(front: &UdpSocket, client: Option<SocketAddr>, out: &mut Vec<Vec<u8>>) {
    for datagram in out.drain(..) {
        if let Some(client) = client {
            let _ = front.send_to(&datagram, client).await;
        }
    }
}
