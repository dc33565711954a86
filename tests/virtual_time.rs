//! The Tokio layer over a simulated network, with the runtime's clock paused: what only passes of time or moves of address
//! can show, in no time.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use soe_tokio::{
    AsyncUdp, DisconnectReason, Message, RecvBatch, SendBatch, SessionConfig, SessionError, SessionEvent, SoeConnector,
    SoeListener, SoeSession,
};
use tokio::time::Instant;

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), 20060);
const CLIENT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)), 40000);

/// Datagrams by address, delivered at once.
#[derive(Debug, Default)]
struct Network(Mutex<Wires>);

#[derive(Debug, Default)]
struct Wires {
    inboxes: HashMap<SocketAddr, Inbox>,
    /// The address that a socket appears under, where that is not its own.
    disguises: HashMap<SocketAddr, SocketAddr>,
    /// Every n-th datagram is lost.
    lose_every: Option<usize>,
    /// Sends that fail with `WouldBlock` before the next one works, over and over.
    full_every: Option<usize>,
    sent: usize,
    lost: usize,
    blocked: usize,
}

#[derive(Debug, Default)]
struct Inbox {
    waiting: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct SimulatedSocket {
    network: Arc<Network>,
    address: SocketAddr,
    is_full: bool,
}

impl Network {
    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().expect("no test panics while it holds the network")
    }

    fn socket(self: &Arc<Self>, address: SocketAddr) -> Box<SimulatedSocket> {
        self.wires().inboxes.insert(address, Inbox::default());
        Box::new(SimulatedSocket { network: Arc::clone(self), address, is_full: false })
    }

    fn listen(self: &Arc<Self>, config: SessionConfig) -> SoeListener {
        SoeListener::from_socket(self.socket(SERVER), config).expect("a simulated socket can be bound")
    }

    fn connector(self: &Arc<Self>, address: SocketAddr) -> SoeConnector {
        SoeConnector::from_socket(self.socket(address)).expect("a simulated socket can be bound")
    }

    /// From now on the socket at `from` appears at `to`, and hears only what is sent there.
    fn disguise(&self, from: SocketAddr, to: SocketAddr) {
        self.wires().disguises.insert(from, to);
    }
}

impl Wires {
    fn deliver(&mut self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        self.sent += 1;
        if self.lose_every.is_some_and(|n| self.sent.is_multiple_of(n)) {
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
        if let Some(inbox) = self.inboxes.get_mut(&to) {
            inbox.waiting.push_back((from, datagram.to_vec()));
            inbox.waker.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl AsyncUdp for SimulatedSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let mut wires = self.network.wires();
        let Some(inbox) = wires.inboxes.get_mut(&self.address) else { return Poll::Pending };
        for (from, datagram) in inbox.waiting.drain(..) {
            batch.push(from, &datagram, datagram.len());
        }
        if batch.is_empty() {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_full = false;
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        let mut wires = self.network.wires();
        let Some(outgoing) = batch.pending().next() else { return Ok(0) };
        let count = wires.sent + wires.blocked + 1;
        if self.is_full || wires.full_every.is_some_and(|n| count.is_multiple_of(n)) {
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

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn config() -> SessionConfig {
    SessionConfig::new("Simulated").expect("the defaults are valid")
}

async fn pair(listener: &SoeListener, connector: &SoeConnector) -> (SoeSession, SoeSession) {
    let (client, server) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
    (client.expect("the server answers"), server.expect("the listener lives").accept())
}

async fn receive(session: &mut SoeSession) -> Vec<u8> {
    session.recv().await.expect("open").expect("well").payload.to_vec()
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_for_ten_seconds() {
    let network = Arc::new(Network::default());
    let connector = network.connector(CLIENT);
    let start = Instant::now();
    connector.connect(SERVER, config()).await.expect_err("nobody is there");
    let waited = start.elapsed();
    assert!(waited >= config().connect_timeout && waited < config().connect_timeout * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_lives_on_heartbeats_and_costs_little() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(network.wires().sent < 1200, "{} datagrams in an idle hour", network.wires().sent);
    client.send(&b"still there?"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"still there?");
}

#[tokio::test(start_paused = true)]
async fn a_silent_peer_times_out_as_one_error() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    network.wires().inboxes.remove(&CLIENT);
    client.abort(DisconnectReason::Application, false);
    let end = server.recv().await.expect("an error comes first").expect_err("nobody is there");
    assert!(matches!(end, SessionError::Closed(closed) if closed.reason == DisconnectReason::Timeout), "{end}");
    assert!(server.recv().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn loss_and_a_full_socket_lose_and_stall_nothing() {
    let network = Arc::new(Network::default());
    network.wires().lose_every = Some(7);
    network.wires().full_every = Some(5);
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    let echo = tokio::spawn(async move {
        while let Some(Ok(message)) = server.recv().await {
            if server.send(message).await.is_err() {
                break;
            }
        }
    });
    let (mut send, mut recv) = client.split();
    let sender = async {
        for number in 0..2_000_u32 {
            let mut message = vec![number as u8; 1 + number as usize % 1500];
            message[0] = (number >> 8) as u8;
            send.send(Message::reliable(message)).await.expect("open");
        }
    };
    let reader = async {
        for number in 0..2_000_u32 {
            let message = recv.recv().await.expect("open").expect("well").payload;
            assert_eq!((message.len(), message[0]), (1 + number as usize % 1500, (number >> 8) as u8));
        }
    };
    tokio::join!(sender, reader);
    drop((send, recv));
    echo.await.expect("the echo ends with its session");
    let wires = network.wires();
    assert!(wires.lost > 100 && wires.blocked > 100, "{} lost, {} blocked", wires.lost, wires.blocked);
}

#[tokio::test(start_paused = true)]
async fn a_receipt_comes_with_the_acknowledgement_and_not_before() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    let delivered = client.send_with_receipt(vec![1; 5_000]).await.expect("open");
    delivered.await.expect("the peer has it");
    assert_eq!(receive(&mut server).await, vec![1; 5_000]);

    network.wires().inboxes.remove(&SERVER);
    let mut lost = client.send_with_receipt(vec![2; 5_000]).await.expect("open");
    assert!(tokio::time::timeout(Duration::from_secs(5), &mut lost).await.is_err(), "nobody has it");
    client.abort(DisconnectReason::Application, false);
    assert!(lost.await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_moves_keeps_its_session() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.send(&b"before"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"before");
    let moved = SocketAddr::new(CLIENT.ip(), 50505);
    network.disguise(CLIENT, moved);
    client.send(&b"after"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"after");
    assert_eq!(server.next_event().await, Some(SessionEvent::Remapped { from: CLIENT, to: moved }));
    assert_eq!(server.peer_addr(), moved);
    server.send(&b"welcome back"[..]).await.expect("open");
    assert_eq!(receive(&mut client).await, b"welcome back");
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_move_to_another_host() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (mut client, mut server) = pair(&listener, &connector).await;
    client.send(&b"before"[..]).await.expect("open");
    assert_eq!(receive(&mut server).await, b"before");
    network.disguise(CLIENT, SocketAddr::from(([10, 9, 9, 9], 40000)));
    client.send(&b"after"[..]).await.expect("open");
    assert!(server.recv().await.expect("an error").is_err());
    assert_eq!(server.peer_addr(), CLIENT);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_restarts_at_the_same_address_replaces_its_session() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (client, mut server) = pair(&listener, &connector).await;
    client.abort(DisconnectReason::Application, false);
    let (mut again, mut fresh) = pair(&listener, &connector).await;
    again.send(&b"it is me"[..]).await.expect("open");
    assert_eq!(receive(&mut fresh).await, b"it is me");
    assert!(server.recv().await.is_none_or(|end| end.is_err()));
    let closed = server.closed().await.expect("served");
    assert_eq!(closed.reason, DisconnectReason::NewConnectionAttempt);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_at_its_deadline_even_if_nobody_answers() {
    let network = Arc::new(Network::default());
    let (listener, connector) = (network.listen(config()), network.connector(CLIENT));
    let (_client, mut server) = pair(&listener, &connector).await;
    network.wires().inboxes.remove(&CLIENT);
    for _ in 0..10 {
        server.send(vec![1; 1000]).await.expect("open");
    }
    let start = Instant::now();
    let report = listener.shutdown(Duration::from_secs(2)).await;
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert_eq!((report.clean, report.cut_off, report.messages_lost), (0, 1, 10), "{report:?}");
}
