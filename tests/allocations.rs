//! The allocation budget, held by a counting allocator and independent of any clock.
//!
//! Both ends of a session live on one thread here, over a real socket each, so every figure is the sum of what the sender,
//! the receiver and their two drivers allocate, acknowledgements included. What is counted for a message begins with
//! `send` (its payload exists already) and ends when the peer's `recv` has given it out.

use std::{
    alloc::System,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use soe_core::{AdmissionConfig, Session};
use soe_tokio::{AsyncUdp, Message, RecvBatch, SendBatch, SessionConfig, SoeListener, SoeSession};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::Runtime;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What one small reliable message may allocate between `send` and the peer's `recv`, on average.
const PER_MESSAGE: f64 = 0.25;
/// What one datagram may, from the message in it to the peer's `recv`: its share of the buffers that many share.
const PER_DATAGRAM: f64 = 0.25;
/// What a session at rest may keep allocated, in bytes.
const IDLE_BYTES: usize = 1_340;
const IDLE_SESSIONS: usize = 2_000;
const SMALL: &[u8; 64] = &[7; 64];
const MESSAGES: usize = 4_000;

fn allocations() -> usize {
    let stats = ALLOCATOR.stats();
    stats.allocations + stats.reallocations
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
}

fn config() -> SessionConfig {
    SessionConfig::new("Allocations").expect("the defaults are valid")
}

async fn pair() -> (SoeListener, SoeSession, SoeSession) {
    let config = config();
    let listener = SoeListener::bind("127.0.0.1:0", config.clone()).await.expect("loopback can be bound");
    let (client, server) = tokio::join!(SoeSession::connect(listener.local_addr(), config), listener.accept());
    (listener, client.expect("the server answers"), server.expect("the listener lives").accept())
}

async fn receive(session: &mut SoeSession) -> Message {
    session.recv().await.expect("open").expect("well")
}

/// Sends `MESSAGES` there and back, `outstanding` at a time, and says how many allocations each message took.
async fn echo(client: &mut SoeSession, server: &mut SoeSession, outstanding: usize) -> f64 {
    let before = allocations();
    for _ in 0..MESSAGES / outstanding {
        for _ in 0..outstanding {
            client.send(Bytes::from_static(SMALL)).await.expect("open");
        }
        for _ in 0..outstanding {
            let message = receive(server).await;
            server.send(message).await.expect("open");
        }
        for _ in 0..outstanding {
            assert_eq!(receive(client).await.payload, SMALL[..]);
        }
    }
    (allocations() - before) as f64 / (2 * MESSAGES) as f64
}

/// Sends datagrams of one unreliable message each, and says how many allocations each datagram took on both sides.
async fn datagrams(client: &mut SoeSession, server: &mut SoeSession) -> f64 {
    let (before, sent) = (allocations(), client.stats().datagrams_sent);
    let payload = Bytes::from_static(&[9; 400]);
    for _ in 0..MESSAGES / 8 {
        for _ in 0..8 {
            client.send(Message::unreliable(payload.clone())).await.expect("open");
        }
        for _ in 0..8 {
            assert_eq!(receive(server).await.payload, payload);
        }
    }
    let sent = client.stats().datagrams_sent - sent;
    assert!(sent >= MESSAGES as u64, "{sent} datagrams were meant to be one for each message");
    (allocations() - before) as f64 / sent as f64
}

/// A socket in memory: what is put in front of it comes in, what leaves is kept.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    incoming: Vec<(SocketAddr, Vec<u8>)>,
    outgoing: Vec<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

impl Wire {
    fn ends<T>(&self, work: impl FnOnce(&mut Ends) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, from: SocketAddr, datagram: &[u8]) {
        let waker = self.ends(|ends| {
            ends.incoming.push((from, datagram.to_vec()));
            ends.waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    fn take(&self) -> Vec<(SocketAddr, Vec<u8>)> {
        self.ends(|ends| std::mem::take(&mut ends.outgoing))
    }
}

impl AsyncUdp for Wire {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        self.ends(|ends| {
            for (from, datagram) in std::mem::take(&mut ends.incoming) {
                batch.push(from, &datagram, datagram.len());
            }
            if batch.is_empty() {
                ends.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        self.ends(|ends| {
            let before = ends.outgoing.len();
            ends.outgoing.extend(batch.pending().map(|outgoing| (outgoing.to, outgoing.contents.to_vec())));
            Ok(ends.outgoing.len() - before)
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([10, 0, 0, 1], 20060)))
    }
}

fn live_bytes() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

/// Lets one client open a session from `address`, exchange a message, and fall silent.
async fn visit(wire: &Wire, address: SocketAddr, number: u32) {
    let mut client = Session::connect(Instant::now(), config(), number);
    let (mut asked, mut answered) = (false, false);
    for _ in 0..100 {
        let now = Instant::now();
        let mut buffer = Vec::new();
        while let Some(transmit) = client.poll_transmit(now, &mut buffer) {
            assert_eq!(transmit.size, transmit.segment_size, "a small datagram is no run");
            wire.put(address, &buffer);
            buffer.clear();
        }
        tokio::task::yield_now().await;
        for (to, datagram) in wire.take() {
            assert_eq!(to, address);
            let _ = client.handle_datagram(now, BytesMut::from(&datagram[..]));
        }
        if client.is_connected() && !asked {
            asked = true;
            client.send(Message::reliable(Bytes::from_static(SMALL))).expect("there is room");
        }
        answered |= client.recv().is_some();
        if answered && client.is_idle() {
            return;
        }
        if let Some(timeout) = client.poll_timeout()
            && timeout <= now
        {
            client.handle_timeout(now);
        }
        if answered {
            // The last acknowledgement is delayed.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    panic!("client {number} was not served");
}

async fn attend(mut session: SoeSession) {
    while let Some(Ok(message)) = session.recv().await {
        if session.send(message).await.is_err() {
            break;
        }
    }
}

/// What a session at rest keeps allocated on a server, in bytes, the application's task included.
async fn idle() -> usize {
    let wire = Wire::default();
    let admission = AdmissionConfig::builder(config())
        .max_sessions(IDLE_SESSIONS)
        .response_rate(u32::MAX)
        .response_rate_per_prefix(u32::MAX)
        .response_burst_per_prefix(u32::MAX);
    let listener = SoeListener::from_socket(Box::new(wire.clone()), admission.build().expect("valid")).expect("bound");
    let server = tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(attend(incoming.accept()));
        }
    });
    tokio::task::yield_now().await;
    let before = live_bytes();
    for number in 0..IDLE_SESSIONS as u32 {
        visit(&wire, SocketAddr::from((Ipv4Addr::from_bits(0x0a01_0000 | number), 40_000)), number).await;
    }
    // At rest a session gives back what its traffic has left behind.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let bytes = (live_bytes() - before) / IDLE_SESSIONS;
    server.abort();
    bytes
}

// One test function: other tests of this process would be counted with it.
#[test]
fn messages_datagrams_and_idle_sessions_stay_within_their_budgets() {
    runtime().block_on(async {
        let (listener, mut client, mut server) = pair().await;
        for outstanding in [1, 8] {
            // Once to grow what stays, once to count.
            echo(&mut client, &mut server, outstanding).await;
            let each = echo(&mut client, &mut server, outstanding).await;
            println!("{outstanding} outstanding: {each:.3} allocations per message");
            assert!(each <= PER_MESSAGE, "{outstanding} outstanding: {each:.3} allocations per message");
        }
        let each = datagrams(&mut client, &mut server).await;
        println!("{each:.3} allocations per datagram");
        assert!(each <= PER_DATAGRAM, "{each:.3} allocations per datagram");
        drop(listener);
    });
    let each = runtime().block_on(idle());
    println!("{each} bytes per idle session");
    assert!(each <= IDLE_BYTES, "{each} bytes per idle session");
}
