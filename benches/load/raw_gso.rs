//! Bare datagrams in batches (recvmmsg with GRO, GSO on the way out): what the kernel allows a protocol that bundles.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::harness::client::{Client, Failure};
use crate::harness::duty::Duty;
use crate::harness::spec::Spec;

/// System calls that receive may bring this many runs of datagrams.
const RUNS: usize = 32;
const RUN_BYTES: usize = 65_536;
/// How long the client waits before it takes what is under way for lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// A socket with its buffers.
struct Batched {
    socket: UdpSocket,
    state: UdpSocketState,
    buffers: Vec<Vec<u8>>,
    metas: Vec<RecvMeta>,
}

impl Batched {
    async fn bind(runs: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let state = UdpSocketState::new((&socket).into())?;
        // The system may allow less; losses are made up for by the client.
        let _ = state.set_recv_buffer_size((&socket).into(), 8 << 20);
        let buffers = vec![vec![0; RUN_BYTES]; runs];
        Ok(Self { socket, state, buffers, metas: vec![RecvMeta::default(); runs] })
    }

    /// Waits for a batch and says how many runs it has.
    async fn recv(&mut self) -> io::Result<usize> {
        let mut slices: Vec<IoSliceMut<'_>> = self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let (socket, state, metas) = (&self.socket, &self.state, &mut self.metas);
        socket.async_io(Interest::READABLE, || state.recv(socket.into(), &mut slices, metas)).await
    }

    fn run(&self, index: usize) -> (SocketAddr, impl Iterator<Item = &[u8]>) {
        let meta = &self.metas[index];
        (meta.addr, self.buffers[index][..meta.len].chunks(meta.stride.max(1)))
    }

    async fn send(&self, to: SocketAddr, contents: &[u8], segment: usize) -> io::Result<()> {
        let most = segment * self.state.max_gso_segments().min(RUN_BYTES / segment.max(1)).max(1);
        for run in contents.chunks(most) {
            let segment_size = (run.len() > segment).then_some(segment);
            let transmit = Transmit { destination: to, ecn: None, contents: run, segment_size, src_ip: None };
            let attempt = || self.state.try_send((&self.socket).into(), &transmit);
            self.socket.async_io(Interest::WRITABLE, attempt).await?;
        }
        Ok(())
    }
}

/// Echoes for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let mut batched = Batched::bind(RUNS).await?;
    ready(batched.socket.local_addr()?);
    let mut duty = Duty::new(spec);
    let mut replies = Vec::new();
    loop {
        for index in 0..batched.recv().await? {
            replies.clear();
            let (from, datagrams) = batched.run(index);
            for datagram in datagrams {
                replies.extend(duty.hear(Bytes::copy_from_slice(datagram)).iter().flatten());
            }
            batched.send(from, &replies, spec.size).await?;
        }
    }
}

/// One socket. What is sent leaves with the next wait for a message.
pub(crate) struct RawGsoClient {
    batched: Batched,
    server: SocketAddr,
    segment: usize,
    outgoing: Vec<u8>,
    heard: VecDeque<Bytes>,
}

impl Client for RawGsoClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let batched = Batched::bind(1).await?;
        Ok(Self { batched, server, segment: spec.size, outgoing: Vec::new(), heard: VecDeque::new() })
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        self.outgoing.extend_from_slice(&message);
        Ok(())
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        if let Some(heard) = self.heard.pop_front() {
            return Ok(heard);
        }
        if !self.outgoing.is_empty() {
            self.batched.send(self.server, &self.outgoing, self.segment).await?;
            self.outgoing.clear();
        }
        let Ok(runs) = timeout(PATIENCE, self.batched.recv()).await else { return Ok(Bytes::new()) };
        for index in 0..runs? {
            self.heard.extend(self.batched.run(index).1.map(Bytes::copy_from_slice));
        }
        Ok(self.heard.pop_front().unwrap_or_default())
    }
}
