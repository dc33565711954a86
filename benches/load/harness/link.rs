//! A link between the processes: delay and loss each way, and a count of the bytes that were put on it.
//!
//! Threads that sleep, not a runtime: its timers would round the delay up to the next millisecond. Runs of datagrams are
//! taken and passed on as runs, so that the link itself is no bottleneck.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

/// The longest run of datagrams there is.
const LARGEST: usize = 65_536;
/// What the link asks the system to hold of what arrives; the system may allow less.
const RECEIVE_BUFFER: usize = 8 << 20;

/// A running link; it lives on threads of the orchestrating process until that ends.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Link {
    /// A link in front of `server`, for any number of clients.
    pub(crate) fn start(server: SocketAddr, delay: Duration, loss: u64) -> io::Result<Self> {
        let front = End::bind()?;
        let address = front.socket.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let way = Way { delay, loss, bytes: Arc::clone(&bytes) };
        thread::spawn(move || run(&Arc::new(front), server, &way));
        Ok(Self { address, bytes })
    }

    /// Bytes that either side has put on the link, lost ones included.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A socket of the link.
struct End {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl End {
    fn bind() -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let state = UdpSocketState::new((&socket).into())?;
        state.set_recv_buffer_size((&socket).into(), RECEIVE_BUFFER)?;
        socket.set_nonblocking(false)?;
        Ok(Self { socket, state })
    }

    /// Waits for a run of datagrams, of `stride` bytes each.
    fn recv<'a>(&self, buffer: &'a mut [u8]) -> io::Result<(SocketAddr, &'a [u8], usize)> {
        let mut metas = [RecvMeta::default()];
        self.state.recv((&self.socket).into(), &mut [IoSliceMut::new(buffer)], &mut metas)?;
        let [RecvMeta { addr, len, stride, .. }] = metas;
        Ok((addr, &buffer[..len], stride.max(1)))
    }

    fn send(&self, to: SocketAddr, run: &[u8], stride: usize) {
        let most = stride * self.state.max_gso_segments().max(1);
        for contents in run.chunks(most) {
            let segment_size = (contents.len() > stride).then_some(stride);
            let transmit = Transmit { destination: to, ecn: None, contents, segment_size, src_ip: None };
            // A full buffer loses the datagrams, as the network may.
            let _ = self.state.try_send((&self.socket).into(), &transmit);
        }
    }
}

/// The properties of one way.
#[derive(Clone)]
struct Way {
    delay: Duration,
    loss: u64,
    bytes: Arc<AtomicU64>,
}

/// Datagrams on their way: when they arrive, and from which socket they then go where.
struct Delayed {
    due: Instant,
    run: Vec<u8>,
    stride: usize,
    from: Arc<End>,
    to: SocketAddr,
}

/// Drops or delays the datagrams of one client in one direction; a xorshift of its own decides, so that every run loses by
/// the same dice.
struct Entry {
    way: Way,
    dice: u64,
    exit: Sender<Delayed>,
    from: Arc<End>,
    to: SocketAddr,
}

impl Entry {
    fn put(&mut self, run: &[u8], stride: usize) {
        self.way.bytes.fetch_add(run.len() as u64, Ordering::Relaxed);
        let (due, from) = (Instant::now() + self.way.delay, Arc::clone(&self.from));
        let spared: Vec<u8> = run.chunks(stride).filter(|_| self.spares()).flatten().copied().collect();
        // The exit outlives the entry unless the link itself is going down.
        let _ = self.exit.send(Delayed { due, run: spared, stride, from, to: self.to });
    }

    /// Whether the next datagram gets through.
    fn spares(&mut self) -> bool {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % 1000 >= self.way.loss
    }
}

/// Lets the datagrams of one direction out when they are due. All are delayed by the same time, so they are due in order.
fn let_out(entered: &Receiver<Delayed>) {
    for Delayed { due, run, stride, from, to } in entered {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        from.send(to, &run, stride);
    }
}

fn exit() -> Sender<Delayed> {
    let (sender, receiver) = channel();
    thread::spawn(move || let_out(&receiver));
    sender
}

fn run(front: &Arc<End>, server: SocketAddr, way: &Way) -> io::Result<()> {
    let (up, down) = (exit(), exit());
    let mut clients: HashMap<SocketAddr, Entry> = HashMap::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        let Ok((from, run, stride)) = front.recv(&mut buffer) else { continue };
        if !clients.contains_key(&from) {
            let back = Arc::new(End::bind()?);
            let dice = 0x9E37_79B9_7F4A_7C15 ^ (clients.len() as u64 + 1);
            let entry = |dice, exit: &Sender<_>, out: &Arc<_>, to| {
                let (way, exit, from) = (way.clone(), exit.clone(), Arc::clone(out));
                Entry { way, dice, exit, from, to }
            };
            let to_client = entry(!dice, &down, front, from);
            clients.insert(from, entry(dice, &up, &back, server));
            thread::spawn(move || receive(&back, to_client));
        }
        if let Some(entry) = clients.get_mut(&from) {
            entry.put(run, stride);
        }
    }
}

fn receive(back: &End, mut to_client: Entry) {
    let mut buffer = vec![0; LARGEST];
    loop {
        if let Ok((_, run, stride)) = back.recv(&mut buffer) {
            to_client.put(run, stride);
        }
    }
}
