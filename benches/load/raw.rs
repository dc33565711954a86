//! Bare datagrams, one system call each: what any protocol without batching can at best reach.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as BlockingSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use socket2::SockRef;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::harness::client::{Client, Failure};
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::spec::{Kind, Spec};

/// Datagrams of a bulk transfer that the server confirms together.
const CONFIRMED: usize = 16;
/// Datagrams of a bulk transfer on their way: few enough for any socket buffer.
const WINDOW: usize = 64;
/// What the server asks the system to hold for it; the system may allow less.
const RECEIVE_BUFFER: usize = 8 << 20;
const CONFIRMATION: &[u8] = b"+";
/// How long the client waits before it takes a datagram for lost.
const PATIENCE: Duration = Duration::from_millis(200);

struct Known {
    duty: Duty,
    datagrams: usize,
}

/// Serves for ever.
pub(crate) fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let socket = BlockingSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER)?;
    ready(socket.local_addr()?);
    let known = Arc::new(Mutex::new(HashMap::new()));
    if spec.kind == Kind::Game {
        let (socket, known) = (socket.try_clone()?, Arc::clone(&known));
        thread::spawn(move || update_all(&socket, &known));
    }
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let session = known.entry(from).or_insert_with(|| Known { duty: Duty::new(spec), datagrams: 0 });
        session.datagrams += 1;
        if spec.kind == Kind::Bulk && session.datagrams.is_multiple_of(CONFIRMED) {
            socket.send_to(CONFIRMATION, from)?;
        }
        if let Some(reply) = session.duty.hear(Bytes::copy_from_slice(&buffer[..length])) {
            socket.send_to(&reply, from)?;
        }
    }
}

fn update_all(socket: &BlockingSocket, known: &Mutex<HashMap<SocketAddr, Known>>) {
    let update = [7; GAME_UPDATE];
    loop {
        thread::sleep(GAME_TICK);
        for address in known.lock().unwrap_or_else(PoisonError::into_inner).keys() {
            // A full buffer loses the datagram, as the network may.
            let _ = socket.send_to(&update, address);
        }
    }
}

/// One connected socket.
#[derive(Debug)]
pub(crate) struct RawClient {
    socket: UdpSocket,
    udp: usize,
    bulk: bool,
    under_way: usize,
}

impl RawClient {
    async fn datagram(&self) -> Result<Bytes, Failure> {
        let mut buffer = [0; 2048];
        let length = self.socket.recv(&mut buffer).await?;
        Ok(Bytes::copy_from_slice(&buffer[..length]))
    }
}

impl Client for RawClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        socket.connect(server).await?;
        Ok(Self { socket, udp: spec.udp, bulk: spec.kind == Kind::Bulk, under_way: 0 })
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        for datagram in message.chunks(self.udp) {
            while self.bulk && self.under_way >= WINDOW {
                let heard = timeout(PATIENCE, self.datagram()).await??;
                if heard == CONFIRMATION {
                    self.under_way -= CONFIRMED;
                }
            }
            self.socket.send(datagram).await?;
            self.under_way += 1;
        }
        Ok(())
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        loop {
            match timeout(PATIENCE, self.datagram()).await {
                Ok(heard) if self.bulk && matches!(&heard, Ok(heard) if heard == CONFIRMATION) => {}
                Ok(heard) => return heard,
                Err(_) => return Ok(Bytes::new()),
            }
        }
    }
}
