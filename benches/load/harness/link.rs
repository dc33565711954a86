//! A link between the processes: delay and loss each way, and a count of the bytes that were put on it.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

/// A running link; it lives on a thread of the orchestrating process until that ends.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Link {
    /// A link in front of `server`, for any number of clients.
    pub(crate) fn start(server: SocketAddr, delay: Duration, loss: u64) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let way = Way { delay, loss, bytes: Arc::clone(&bytes) };
        let runtime = Builder::new_current_thread().enable_all().build()?;
        std::thread::spawn(move || runtime.block_on(run(socket, server, way)));
        Ok(Self { address, bytes })
    }

    /// Bytes that either side has put on the link, lost ones included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The properties of one way.
#[derive(Clone)]
struct Way {
    delay: Duration,
    loss: u64,
    bytes: Arc<AtomicU64>,
}

type Delayed = UnboundedSender<(Instant, Vec<u8>)>;

/// Drops or delays datagrams; a xorshift of its own decides, so that every run loses by the same dice.
struct Entry {
    way: Way,
    dice: u64,
    exit: Delayed,
}

impl Entry {
    fn put(&mut self, datagram: &[u8]) {
        self.way.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        if self.dice % 1000 >= self.way.loss {
            // The exit outlives the entry unless the link itself is going down.
            let _ = self.exit.send((Instant::now() + self.way.delay, datagram.to_vec()));
        }
    }
}

fn delay_line(socket: Arc<UdpSocket>, to: SocketAddr) -> Delayed {
    let (entry, mut exit) = unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, datagram)) = exit.recv().await {
            if due > Instant::now() {
                sleep_until(due).await;
            }
            let _ = socket.send_to(&datagram, to).await;
        }
    });
    entry
}

async fn run(front: std::net::UdpSocket, server: SocketAddr, way: Way) -> io::Result<()> {
    let front = Arc::new(UdpSocket::from_std(front)?);
    let mut clients: HashMap<SocketAddr, Entry> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = front.recv_from(&mut buffer).await else { continue };
        if !clients.contains_key(&from) {
            let back = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?);
            let dice = 0x9E37_79B9_7F4A_7C15 ^ (clients.len() as u64 + 1);
            let down = Entry { way: way.clone(), dice: !dice, exit: delay_line(Arc::clone(&front), from) };
            tokio::spawn(receive(Arc::clone(&back), down));
            clients.insert(from, Entry { way: way.clone(), dice, exit: delay_line(back, server) });
        }
        if let Some(entry) = clients.get_mut(&from) {
            entry.put(&buffer[..length]);
        }
    }
}

async fn receive(back: Arc<UdpSocket>, mut down: Entry) {
    let mut buffer = vec![0; 65_536];
    loop {
        if let Ok((length, _)) = back.recv_from(&mut buffer).await {
            down.put(&buffer[..length]);
        }
    }
}
