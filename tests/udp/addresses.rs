//! Which local address a session uses, on a machine that has several.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use soe_tokio::{AsyncUdp, RecvBatch, SendBatch, SoeListener, SoeSession};
use tokio::io::ReadBuf;

use crate::{config, connect, echo, incoming, receive, soon};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Exchanges messages of one datagram and of many.
async fn converse(client: &mut SoeSession) {
    for length in [1, 100_000] {
        client.send(vec![7; length]).await.expect("open");
        assert_eq!(receive(client).await.len(), length);
    }
}

/// Loopback has 2^24 addresses on Linux.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_client_is_answered_from_the_address_that_it_spoke_to() {
    for wildcard in ["0.0.0.0:0", "[::]:0"] {
        let listener = SoeListener::bind(wildcard, config()).await.expect("the wildcard address can be bound");
        for ip in [[127, 0, 0, 2], [127, 0, 0, 1], [127, 3, 2, 1]].map(IpAddr::from) {
            let to = SocketAddr::new(ip, listener.local_addr().port());
            let (mut client, server) = tokio::join!(connect(to), incoming(&listener));
            assert_eq!(server.local_ip(), Some(ip));
            let server = server.accept();
            assert_eq!(server.local_ip(), Some(ip));
            tokio::spawn(echo(server));
            converse(&mut client).await;
        }
    }
}

/// A router in between, or the client's own configuration, may turn to another address of the server.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_session_follows_its_client_to_another_local_address() {
    let listener = SoeListener::bind("0.0.0.0:0", config()).await.expect("the wildcard address can be bound");
    let port = listener.local_addr().port();
    let server_ip = Arc::new(Mutex::new(IpAddr::from([127, 0, 0, 2])));
    let relay = Relay::start(Arc::clone(&server_ip), port).await;
    let (mut client, server) = tokio::join!(connect(relay), incoming(&listener));
    let mut server = server.accept();
    assert_eq!(server.local_ip(), Some([127, 0, 0, 2].into()));
    *server_ip.lock().expect("nobody panics") = [127, 0, 0, 3].into();
    client.send(&b"to another address"[..]).await.expect("open");
    receive(&mut server).await;
    assert_eq!(server.local_ip(), Some([127, 0, 0, 3].into()));
    tokio::spawn(echo(server));
    // The relay takes nothing that comes from the first address now.
    converse(&mut client).await;
}

/// Passes datagrams on between one client and one address of a server, and drops what comes from another address.
struct Relay;

impl Relay {
    async fn start(server_ip: Arc<Mutex<IpAddr>>, port: u16) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.expect("the wildcard address can be bound");
        let address = SocketAddr::new(LOCALHOST, socket.local_addr().expect("bound").port());
        tokio::spawn(async move {
            let (mut client, mut buffer) = (None, [0; 2048]);
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.expect("loopback works");
                let server = SocketAddr::new(*server_ip.lock().expect("nobody panics"), port);
                let to = if from == server {
                    client
                } else if from.port() == port {
                    None
                } else {
                    client = Some(from);
                    Some(server)
                };
                if let Some(to) = to {
                    socket.send_to(&buffer[..length], to).await.expect("loopback works");
                }
            }
        });
        address
    }
}

#[tokio::test]
async fn a_client_and_a_bound_listener_know_their_address() {
    let listener = SoeListener::bind("127.0.0.1:0", config()).await.expect("loopback can be bound");
    let (client, server) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    assert_eq!(server.local_ip(), Some(LOCALHOST));
    // Its socket is bound to the wildcard address: the system chooses, with each datagram.
    assert_eq!(client.local_ip(), None);
}

/// A socket that says of all datagrams that they came to `local_ip`, and cannot send from there.
#[derive(Debug)]
struct Moved {
    io: tokio::net::UdpSocket,
    local_ip: IpAddr,
    refused: Arc<Mutex<u32>>,
}

impl AsyncUdp for Moved {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        let mut buffer = [0; 2048];
        let mut buffer = ReadBuf::new(&mut buffer);
        let from = std::task::ready!(self.io.poll_recv_from(cx, &mut buffer))?;
        batch.push_to(self.local_ip, from, buffer.filled(), buffer.filled().len());
        Poll::Ready(Ok(()))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(cx)
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        let Some(first) = batch.pending().next() else { return Ok(0) };
        if first.local_ip == Some(self.local_ip) {
            *self.refused.lock().expect("nobody panics") += 1;
            return Err(io::ErrorKind::InvalidInput.into());
        }
        assert_eq!(first.local_ip, None);
        for datagram in first.segments() {
            self.io.try_send_to(datagram, first.to)?;
        }
        Ok(1)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }
}

/// The broadcast address of a network, or an address that was taken away.
#[tokio::test]
async fn an_address_that_cannot_be_sent_from_leaves_the_choice_to_the_system() {
    let io = UdpSocket::bind("127.0.0.1:0").expect("loopback can be bound");
    io.set_nonblocking(true).expect("a socket can be set up");
    let io = tokio::net::UdpSocket::from_std(io).expect("a runtime is there");
    let refused = Arc::default();
    let socket = Moved { io, local_ip: [192, 0, 2, 255].into(), refused: Arc::clone(&refused) };
    let listener = SoeListener::from_socket(Box::new(socket), config()).expect("it knows its address");
    let (mut client, server) = tokio::join!(connect(listener.local_addr()), incoming(&listener));
    tokio::spawn(echo(server.accept()));
    soon("exchange", converse(&mut client)).await;
    assert!(*refused.lock().expect("nobody panics") > 0, "the address was never tried");
}
