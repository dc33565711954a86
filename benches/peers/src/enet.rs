//! ENet: reliable packets on one channel. The server is one host, as any, and the client is one as well: a task that owns
//! the socket of all sessions and is in touch with each through channels. That suits ENet better than a host and a socket
//! for each session: whatever the sessions of a batch have to say leaves in one pass over the peers, and with one session
//! there is no difference.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rusty_enet::{Event, Host, HostSettings, MTU_MAX, Packet, PacketReceived, PeerID, Socket, SocketOptions};
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::yield_now;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::harness::client::{Client, Failure};
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::process::count_sent_with;
use crate::harness::spec::{Kind, Spec};

/// A host has no more peers.
pub(crate) const MOST_SESSIONS: usize = PeerID::MAX;

const CHANNEL: u8 = 0;
/// ENet knows no smaller datagrams.
const SMALLEST: usize = 576;
/// Peers beside the sessions, for attempts that were given up. ENet goes through all peers again and again, so that each
/// one that nobody needs has its cost.
const SPARE: usize = 64;
/// What this library asks of the system by default.
const RECV_BUFFER: usize = 4 << 20;
const SEND_BUFFER: usize = 1 << 20;
/// Milliseconds of silence before a peer is asked whether it is there: as seldom as this library asks.
const PING_INTERVAL: u32 = 25_000;
/// Bytes that a session of the client takes before they are acknowledged. ENet itself would queue without end; its window
/// is 64 KiB.
const UNACKNOWLEDGED: usize = 1 << 20;

/// Datagrams that this process has sent.
static SENT: AtomicU64 = AtomicU64::new(0);

/// A socket of the runtime under a host.
struct Datagrams(UdpSocket);

impl Socket for Datagrams {
    type Address = SocketAddr;
    type Error = io::Error;

    fn init(&mut self, _: SocketOptions) -> io::Result<()> {
        let socket = SockRef::from(&self.0);
        socket.set_recv_buffer_size(RECV_BUFFER)?;
        socket.set_send_buffer_size(SEND_BUFFER)
    }

    fn send(&mut self, to: SocketAddr, datagram: &[u8]) -> io::Result<usize> {
        SENT.fetch_add(1, Ordering::Relaxed);
        match self.0.try_send_to(datagram, to) {
            // ENet takes it for sent and repairs it as any loss.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            other => other,
        }
    }

    fn receive(&mut self, buffer: &mut [u8; MTU_MAX]) -> io::Result<Option<(SocketAddr, PacketReceived)>> {
        match self.0.try_recv_from(buffer) {
            Ok((length, from)) => Ok(Some((from, PacketReceived::Complete(length)))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

type ENet = Host<Datagrams>;

async fn host(spec: &Spec) -> Result<ENet, Failure> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let peer_limit = (spec.sessions + SPARE).min(MOST_SESSIONS);
    let settings = HostSettings { peer_limit, channel_limit: 1, ..HostSettings::default() };
    let mut host = Host::new(Datagrams(socket), settings)?;
    host.set_mtu(spec.udp.max(SMALLEST) as u16)?;
    Ok(host)
}

/// ENet does not tell when it next has something to resend: it is to be called again and again.
fn clockwork(spec: &Spec) -> Interval {
    let period = match spec.kind {
        // A late retransmission costs nothing here, and every call goes through all peers.
        Kind::Idle => Duration::from_millis(100),
        _ => Duration::from_millis(5),
    };
    let mut clockwork = interval(period);
    clockwork.set_missed_tick_behavior(MissedTickBehavior::Delay);
    clockwork
}

/// Receives what there is, resends what is due and passes every event on. What is to be sent in return waits for a flush.
fn service(host: &mut ENet, mut hear: impl FnMut(Event<'_, Datagrams>)) -> io::Result<()> {
    let mut event = host.service()?;
    while let Some(this) = event {
        hear(this);
        event = host.check_events();
    }
    Ok(())
}

/// Serves for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let mut host = host(spec).await?;
    ready(host.socket().0.local_addr()?);
    count_sent_with(|| SENT.load(Ordering::Relaxed));
    let mut duties = vec![Duty::new(spec); host.peer_limit()];
    let update = Packet::reliable(&[7; GAME_UPDATE][..]);
    let mut clockwork = clockwork(spec);
    let mut heartbeat = interval(GAME_TICK);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            ready = host.socket().0.readable() => ready?,
            _ = heartbeat.tick(), if spec.kind == Kind::Game => host.broadcast(CHANNEL, &update),
            _ = clockwork.tick() => {}
        }
        service(&mut host, |event| match event {
            Event::Connect { peer, .. } => {
                peer.set_ping_interval(PING_INTERVAL);
                duties[peer.id().0] = Duty::new(spec);
            }
            Event::Receive { peer, packet, .. } => {
                if let Some(reply) = duties[peer.id().0].hear(Bytes::copy_from_slice(packet.data())) {
                    // A peer that is about to leave hears nothing more.
                    let _ = peer.send(CHANNEL, &Packet::reliable(Box::new(reply)));
                }
            }
            Event::Disconnect { .. } => {}
        })?;
        host.flush();
    }
}

/// A message that ENet drops as soon as the server has all of it, which makes room for others.
struct Paid {
    message: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

/// What sessions want from the client's host.
enum Order {
    Open { server: SocketAddr, opened: oneshot::Sender<PeerID>, heard: UnboundedSender<Bytes> },
    Send(PeerID, Paid),
}

/// What the client's host knows of one session.
struct Session {
    /// Whom to tell that the session is there, until it is.
    opened: Option<oneshot::Sender<PeerID>>,
    heard: UnboundedSender<Bytes>,
}

/// The client's host and its sessions, by the number of the peer.
struct Sessions {
    host: ENet,
    sessions: Vec<Option<Session>>,
}

impl Sessions {
    /// Runs for ever.
    async fn run(mut self, mut orders: UnboundedReceiver<Order>, mut clockwork: Interval) -> Result<(), Failure> {
        loop {
            tokio::select! {
                ready = self.host.socket().0.readable() => ready?,
                Some(order) = orders.recv() => self.obey(order),
                _ = clockwork.tick() => {}
            }
            let sessions = &mut self.sessions;
            service(&mut self.host, |event| hear(sessions, event))?;
            // The sessions answer what they have heard, and all of that leaves together.
            yield_now().await;
            while let Ok(order) = orders.try_recv() {
                self.obey(order);
            }
            self.host.flush();
        }
    }

    /// What cannot be obeyed is dropped, and with it what the session waits for.
    fn obey(&mut self, order: Order) {
        match order {
            Order::Open { server, opened, heard } => {
                if let Ok(peer) = self.host.connect(server, 1, 0) {
                    self.sessions[peer.id().0] = Some(Session { opened: Some(opened), heard });
                }
            }
            Order::Send(to, message) => {
                let _ = self.host.peer_mut(to).send(CHANNEL, &Packet::reliable(Box::new(message)));
            }
        }
    }
}

fn hear(sessions: &mut [Option<Session>], event: Event<'_, Datagrams>) {
    match event {
        Event::Connect { peer, .. } => {
            peer.set_ping_interval(PING_INTERVAL);
            let id = peer.id();
            let opened = sessions[id.0].as_mut().and_then(|session| session.opened.take());
            if opened.is_none_or(|opened| opened.send(id).is_err()) {
                peer.disconnect(0);
            }
        }
        Event::Receive { peer, packet, .. } => {
            let message = Bytes::copy_from_slice(packet.data());
            let session = sessions[peer.id().0].as_ref();
            // Nobody listens to an attempt that was given up.
            if session.is_none_or(|session| session.heard.send(message).is_err()) {
                peer.disconnect(0);
            }
        }
        Event::Disconnect { peer, .. } => sessions[peer.id().0] = None,
    }
}

/// Where the orders to the client's host go.
static HOST: OnceCell<UnboundedSender<Order>> = OnceCell::const_new();

async fn start(spec: &Spec) -> Result<UnboundedSender<Order>, Failure> {
    let host = host(spec).await?;
    let (sender, orders) = unbounded_channel();
    let sessions = (0..host.peer_limit()).map(|_| None).collect();
    tokio::spawn(Sessions { host, sessions }.run(orders, clockwork(spec)));
    Ok(sender)
}

/// One session, on the socket that all of them share.
pub(crate) struct ENetClient {
    orders: UnboundedSender<Order>,
    peer: PeerID,
    heard: UnboundedReceiver<Bytes>,
    room: Arc<Semaphore>,
}

impl Client for ENetClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let orders = HOST.get_or_try_init(|| start(spec)).await?.clone();
        let (opened, opening) = oneshot::channel();
        let (sender, heard) = unbounded_channel();
        orders.send(Order::Open { server, opened, heard: sender })?;
        let peer = opening.await?;
        Ok(Self { orders, peer, heard, room: Arc::new(Semaphore::new(UNACKNOWLEDGED)) })
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        let room = Arc::clone(&self.room).acquire_many_owned(message.len() as u32).await?;
        self.orders.send(Order::Send(self.peer, Paid { message, _room: room }))?;
        Ok(())
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        self.heard.recv().await.ok_or_else(|| "the session ended".into())
    }
}
