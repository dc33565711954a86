//! Sockets and a clock for a [`Proxy`].

use std::{
    collections::HashMap,
    future::pending,
    io::{self, ErrorKind},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{interval, sleep_until},
};

use super::{
    ClientId, Command, CommandError, Direction, Event, Handled, Proxy, ProxyConfig, ProxyStatus, Transmit, table,
};
use crate::{link::Fate, sockets::is_about_a_peer};

/// A proxy with its sockets: one towards all clients, and one towards the server for each client.
#[derive(Debug)]
pub struct ProxyServer {
    listen: Arc<UdpSocket>,
    to: SocketAddr,
    config: ProxyConfig,
    requests: (mpsc::Sender<Request>, mpsc::Receiver<Request>),
}

/// Gives commands to a running proxy.
#[derive(Clone, Debug)]
pub struct ProxyHandle(mpsc::Sender<Request>);

#[derive(Debug)]
struct Request {
    line: String,
    reply: oneshot::Sender<Result<String, CommandError>>,
}

/// A datagram that has come in or goes out.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Seen<'a> {
    /// When.
    pub now: Instant,
    /// Whose it is.
    pub client: ClientId,
    /// Which way it goes.
    pub direction: Direction,
    /// Who sent it, as the receiver sees it.
    pub from: SocketAddr,
    /// Where it goes.
    pub to: SocketAddr,
    /// The bytes.
    pub datagram: &'a [u8],
    /// What has been decided about a datagram that comes in; `None` for one that goes out.
    pub handled: Option<Handled>,
}

/// Looks on while a proxy runs.
pub trait Observer {
    /// A datagram has come in or goes out.
    ///
    /// # Errors
    /// Ends the proxy.
    fn datagram(&mut self, seen: &Seen<'_>) -> io::Result<()> {
        let _ = seen;
        Ok(())
    }

    /// A client has appeared, moved or gone.
    ///
    /// # Errors
    /// Ends the proxy.
    fn event(&mut self, event: &Event) -> io::Result<()> {
        let _ = event;
        Ok(())
    }

    /// How things stand, about once in each period given to [`ProxyServer::run`].
    ///
    /// # Errors
    /// Ends the proxy.
    fn status(&mut self, status: &ProxyStatus) -> io::Result<()> {
        let _ = status;
        Ok(())
    }
}

/// Looks at nothing.
impl Observer for () {}

impl ProxyHandle {
    /// Follows a line such as `set up loss=5%`; see [`Command`] for those that change something. `show` and `json` answer with
    /// the state, `help` with the commands, `quit` ends the proxy.
    ///
    /// # Errors
    /// If the line is no command, or names a client that is not there, or the proxy has ended.
    ///
    /// # Cancel safety
    /// A command that has been handed over is followed although nobody waits for the answer.
    pub async fn command(&self, line: impl Into<String>) -> Result<String, CommandError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { line: line.into(), reply };
        self.0.send(request).await.map_err(|_| CommandError::Ended)?;
        answer.await.unwrap_or(Err(CommandError::Ended))
    }

    /// Like [`command`](Self::command), for a thread without a runtime.
    ///
    /// # Errors
    /// As for [`command`](Self::command).
    pub fn blocking_command(&self, line: impl Into<String>) -> Result<String, CommandError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { line: line.into(), reply };
        self.0.blocking_send(request).map_err(|_| CommandError::Ended)?;
        answer.blocking_recv().unwrap_or(Err(CommandError::Ended))
    }
}

impl ProxyServer {
    /// Listens on `listen` for clients of the server at `to`.
    ///
    /// # Errors
    /// Those of the socket, and [`ErrorKind::InvalidInput`] for a configuration that could not work.
    pub async fn bind(listen: SocketAddr, to: SocketAddr, config: ProxyConfig) -> io::Result<Self> {
        config.validate().map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
        let listen = Arc::new(UdpSocket::bind(listen).await?);
        Ok(Self { listen, to, config, requests: mpsc::channel(16) })
    }

    /// Where clients come.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listen.local_addr()
    }

    /// Gives commands while it runs.
    pub fn handle(&self) -> ProxyHandle {
        ProxyHandle(self.requests.0.clone())
    }

    /// Runs until the command `quit`. The observer sees the state once in each `period`, of 10 ms or more.
    ///
    /// # Errors
    /// If a socket fails, or the observer.
    ///
    /// # Cancel safety
    /// Dropping the future ends the proxy; what is under way is lost.
    pub async fn run(self, observer: &mut impl Observer, period: Duration) -> io::Result<ProxyStatus> {
        let local = self.listen.local_addr()?;
        // Kept open: without handles the proxy runs on.
        let (_keep, mut requests) = self.requests;
        let (arrivals, mut from_server) = mpsc::channel(QUEUE);
        let proxy = Proxy::new(Instant::now(), self.config).map_err(io::Error::other)?;
        let mut running =
            Running { listen: self.listen, local, to: self.to, proxy, upstream: HashMap::new(), arrivals, observer };
        let mut ticks = interval(period.max(MIN_PERIOD));
        let mut buf = vec![0; MAX_DATAGRAM];
        loop {
            let timeout = running.proxy.poll_timeout();
            let now = tokio::select! {
                received = running.listen.recv_from(&mut buf) => running.take_from_clients(received, &mut buf)?,
                Some((client, datagram)) = from_server.recv() => {
                    let now = Instant::now();
                    running.take_from_server(now, client, &datagram)?;
                    for _ in 1..BATCH {
                        let Ok((client, datagram)) = from_server.try_recv() else { break };
                        running.take_from_server(now, client, &datagram)?;
                    }
                    now
                }
                Some(Request { line, reply }) = requests.recv() => {
                    let now = Instant::now();
                    let answer = running.follow(now, line.trim());
                    let is_over = answer.is_none();
                    // Whoever asked may have gone.
                    let _ = reply.send(answer.unwrap_or_else(|| Ok("bye".to_owned())));
                    if is_over {
                        return Ok(running.proxy.status(now));
                    }
                    now
                }
                () = sleep_until_or_forever(timeout) => Instant::now(),
                _ = ticks.tick() => {
                    let now = Instant::now();
                    running.observer.status(&running.proxy.status(now))?;
                    now
                }
            };
            running.proxy.handle_timeout(now);
            running.settle(now)?;
        }
    }
}

struct Running<'a, O> {
    listen: Arc<UdpSocket>,
    local: SocketAddr,
    to: SocketAddr,
    proxy: Proxy,
    upstream: HashMap<ClientId, Upstream>,
    arrivals: mpsc::Sender<(ClientId, Bytes)>,
    observer: &'a mut O,
}

impl<O: Observer> Running<'_, O> {
    /// Takes a datagram that has been received, and those behind it that are there already.
    fn take_from_clients(&mut self, received: io::Result<(usize, SocketAddr)>, buf: &mut [u8]) -> io::Result<Instant> {
        let now = Instant::now();
        let mut next = Some(received);
        for left in (0..BATCH).rev() {
            match next.take() {
                Some(Ok((length, from))) => self.take_from_client(now, from, &buf[..length])?,
                Some(Err(error)) if is_about_a_peer(&error) => {}
                Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => break,
            }
            if left > 0 {
                next = Some(self.listen.try_recv_from(buf));
            }
        }
        Ok(now)
    }

    fn take_from_client(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        let handled = self.proxy.handle_client(now, from, datagram);
        let to = self.local;
        self.observe(now, Direction::Up, (from, to), datagram, handled)
    }

    fn take_from_server(&mut self, now: Instant, client: ClientId, datagram: &[u8]) -> io::Result<()> {
        let Some(to) = self.upstream.get(&client).map(|upstream| upstream.local) else { return Ok(()) };
        let handled = self.proxy.handle_server(now, client, datagram);
        let from = self.to;
        self.observe(now, Direction::Down, (from, to), datagram, handled)
    }

    fn observe(
        &mut self,
        now: Instant,
        direction: Direction,
        (from, to): (SocketAddr, SocketAddr),
        datagram: &[u8],
        handled: Handled,
    ) -> io::Result<()> {
        let (Handled::Decided(client, _) | Handled::NoRoom(client)) = handled else { return Ok(()) };
        self.observer.datagram(&Seen { now, client, direction, from, to, datagram, handled: Some(handled) })
    }

    /// Answers a line; `None` to the one that ends the proxy.
    fn follow(&mut self, now: Instant, line: &str) -> Option<Result<String, CommandError>> {
        Some(match line {
            "quit" => return None,
            "help" => Ok(HELP.to_owned()),
            "show" => Ok(table(&self.proxy.status(now), usize::MAX)),
            "json" => Ok(serde_json::json!(self.proxy.status(now)).to_string()),
            _ => line.parse::<Command>().and_then(|command| self.proxy.command(now, &command)),
        })
    }

    /// Does what the proxy asks for.
    fn settle(&mut self, now: Instant) -> io::Result<()> {
        while let Some(event) = self.proxy.poll_event() {
            match event {
                Event::Opened(client, _) | Event::Rebound(client) => {
                    match Upstream::open(client, self.to, &self.arrivals) {
                        Ok(upstream) => drop(self.upstream.insert(client, upstream)),
                        // Out of sockets, mostly: those that are there go on, with their old port if need be.
                        Err(_) if self.upstream.contains_key(&client) => continue,
                        Err(_) => {
                            self.proxy.handle_no_socket(client);
                            continue;
                        }
                    }
                }
                Event::Closed(client) => drop(self.upstream.remove(&client)),
            }
            self.observer.event(&event)?;
        }
        while let Some(Transmit { client, address, direction, datagram }) = self.proxy.poll_transmit(now) {
            let Some(upstream) = self.upstream.get(&client) else { continue };
            // Straight to the system: Tokio takes a socket that it has just registered for one that is full.
            let (from, to, sent) = match direction {
                Direction::Up => (upstream.local, self.to, SockRef::from(&*upstream.socket).send(&datagram)),
                Direction::Down => {
                    (self.local, address, SockRef::from(&*self.listen).send_to(&datagram, &address.into()))
                }
            };
            match sent {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // A full socket loses the datagram, as a full router would.
                    self.proxy.handle_full_socket();
                    continue;
                }
                Err(error) if is_about_a_peer(&error) => continue,
                Err(error) => return Err(error),
            }
            let seen = Seen { now, client, direction, from, to, datagram: &datagram, handled: None };
            self.observer.datagram(&seen)?;
        }
        Ok(())
    }
}

/// A client's socket towards the server, and the task that reads it.
struct Upstream {
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    reader: JoinHandle<()>,
}

impl Upstream {
    fn open(client: ClientId, to: SocketAddr, arrivals: &mpsc::Sender<(ClientId, Bytes)>) -> io::Result<Self> {
        let any = if to.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
        let socket = std::net::UdpSocket::bind(SocketAddr::new(any, 0))?;
        // Connecting tells the local address, and keeps the datagrams of strangers away.
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let reader = tokio::spawn(read(client, socket.clone(), arrivals.clone()));
        Ok(Self { socket, local, reader })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(client: ClientId, socket: Arc<UdpSocket>, arrivals: mpsc::Sender<(ClientId, Bytes)>) {
    let mut buf = vec![0; MAX_DATAGRAM];
    loop {
        match socket.recv(&mut buf).await {
            // Without room in the channel the kernel's buffer fills, and loses.
            Ok(length) => {
                if arrivals.send((client, Bytes::copy_from_slice(&buf[..length]))).await.is_err() {
                    return;
                }
            }
            Err(error) if is_about_a_peer(&error) => {}
            Err(_) => return,
        }
    }
}

async fn sleep_until_or_forever(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

impl Seen<'_> {
    /// A few words about what becomes of it, such as `lost: burst` or `after 43.1 ms, twice`; empty for one that goes out.
    pub fn remark(&self) -> String {
        match self.handled {
            Some(Handled::Decided(_, Fate::Lost(cause))) => format!("lost: {}", cause.name()),
            Some(Handled::Decided(_, Fate::Delivered(delivery))) => {
                let millis = (delivery.at - self.now).as_secs_f64() * 1e3;
                let twice = if delivery.copy_at.is_some() { ", twice" } else { "" };
                let damaged = if delivery.damage.is_some() { ", damaged" } else { "" };
                format!("after {millis:.1} ms{twice}{damaged}")
            }
            Some(Handled::NoRoom(_)) => "lost: no room in the proxy".to_owned(),
            Some(Handled::Ignored) | None => String::new(),
        }
    }
}

/// The largest datagram that UDP has.
const MAX_DATAGRAM: usize = 65_535;
/// The shortest period of the observer's looks at the state.
const MIN_PERIOD: Duration = Duration::from_millis(10);
/// Datagrams that are taken before anything else is looked at.
const BATCH: usize = 32;
/// Datagrams from the server that wait for the loop.
const QUEUE: usize = 1024;

const HELP: &str = "\
set [CLIENT] [up|down] SPEC        such as: set up loss=5%,delay=40ms,jitter=10ms
profile [CLIENT] NAME              clean, wifi-bad, mobile, lag-switch, transatlantic, dial-up
blackout [CLIENT] [up|down] TIME   nothing passes for TIME, beginning now
rebind [CLIENT]                    a new port towards the server
show, json                         how things stand
quit                               ends the proxy
CLIENT is a number such as #3, or an address; without it all are meant, and set and profile also apply to those to come";
