//! A socket of the network, as the driver of `soe-tokio` sees it.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use soe_tokio::{AsyncUdp, RecvBatch, SendBatch};
use tokio::time::{Instant, Sleep, sleep};

use crate::{network::Shared, stats::Fault, wires::Inbox};

/// Where a socket or a peer by hand is connected to the network.
#[derive(Debug)]
pub(crate) struct Plug {
    pub(crate) network: Arc<Shared>,
    pub(crate) address: SocketAddr,
    id: u64,
    arrival: Option<Pin<Box<Sleep>>>,
}

impl Plug {
    pub(crate) fn new(network: Arc<Shared>, address: SocketAddr) -> Self {
        let id = network.wires().plug_in(address);
        Self { network, address, id, arrival: None }
    }

    /// Takes from what has arrived, or waits until something has. `None`: there is nothing to take.
    pub(crate) fn poll_take<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Inbox) -> Option<T>,
    ) -> Poll<T> {
        loop {
            let mut wires = self.network.wires();
            wires.settle(self.address);
            let (now, waits_itself) = (wires.now(), wires.is_on_runtime());
            let Some(inbox) = wires.inbox(self.address, self.id) else { return Poll::Pending };
            if now >= inbox.paused_until
                && let Some(taken) = take(inbox)
            {
                return Poll::Ready(taken);
            }
            inbox.waker = Some(cx.waker().clone());
            let due = inbox.next_due(now).filter(|_| waits_itself);
            drop(wires);
            let Some(due) = due else { return Poll::Pending };
            ready!(self.arrival.insert(Box::pin(sleep(due.saturating_sub(now)))).as_mut().poll(cx));
        }
    }
}

impl Drop for Plug {
    fn drop(&mut self) {
        let mut wires = self.network.wires();
        if wires.inbox(self.address, self.id).is_some() {
            wires.inboxes.remove(&self.address);
        }
    }
}

#[derive(Debug)]
pub(crate) struct SimulatedSocket {
    plug: Plug,
    /// After a send that found the socket full the next one works.
    was_full: bool,
    /// The millisecond that counts against the limit, and what it has taken.
    load: (Instant, usize),
    writable: Option<Pin<Box<Sleep>>>,
}

impl SimulatedSocket {
    pub(crate) fn bind(network: Arc<Shared>, address: SocketAddr) -> Self {
        let plug = Plug::new(network, address);
        Self { plug, was_full: false, load: (Instant::now(), 0), writable: None }
    }

    /// How long the socket is full from now on, if it is.
    fn full_for(&mut self, datagrams: usize) -> Option<Duration> {
        let mut wires = self.plug.network.wires();
        let (now, draw) = (wires.now(), wires.rng.next_u64());
        let inbox = wires.inbox(self.plug.address, self.plug.id)?;
        if now < inbox.paused_until {
            return Some(inbox.paused_until - now);
        }
        let limits = inbox.limits;
        if let Some(most) = limits.sends_per_millisecond {
            if self.load.0.elapsed() >= MILLISECOND {
                self.load = (Instant::now(), 0);
            }
            if self.load.1 >= most {
                return Some(MILLISECOND.saturating_sub(self.load.0.elapsed()));
            }
            self.load.1 += datagrams;
        }
        let is_full = !self.was_full && crate::SimRng::new(draw).chance(limits.send_blocked);
        self.was_full = is_full;
        is_full.then_some(Duration::ZERO)
    }
}

impl AsyncUdp for SimulatedSocket {
    fn poll_recv(&mut self, cx: &mut Context<'_>, batch: &mut RecvBatch) -> Poll<io::Result<()>> {
        self.plug.poll_take(cx, |inbox| {
            // As on Linux, an error that waits goes before the datagrams.
            if let Some(error) = inbox.errors.pop_front() {
                return Some(Err(error.into()));
            }
            while batch.len() < BATCH
                && let Some((from, datagram)) = inbox.take_datagram()
            {
                batch.push(from, &datagram, datagram.len());
            }
            (!batch.is_empty()).then_some(Ok(()))
        })
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(writable) = &mut self.writable {
            ready!(writable.as_mut().poll(cx));
            self.writable = None;
        }
        Poll::Ready(Ok(()))
    }

    fn try_send(&mut self, batch: &SendBatch) -> io::Result<usize> {
        let Some(outgoing) = batch.pending().next() else { return Ok(0) };
        if let Some(wait) = self.full_for(outgoing.segments().len()) {
            self.plug.network.wires().stats.add(Fault::SendBlocked);
            self.writable = (!wait.is_zero()).then(|| Box::pin(sleep(wait)));
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut wires = self.plug.network.wires();
        wires.settle(self.plug.address);
        // As on Linux, whichever call comes first is given the error that waits, whatever it is about.
        if let Some(error) = wires.inbox(self.plug.address, self.plug.id).and_then(|inbox| inbox.errors.pop_front()) {
            return Err(error.into());
        }
        // What a socket sends that is off the network goes nowhere, or a server that has "crashed" would go on talking.
        if wires.inbox(self.plug.address, self.plug.id).is_some() {
            for datagram in outgoing.segments() {
                wires.send(self.plug.address, outgoing.to, datagram);
            }
        }
        Ok(1)
    }

    fn max_segments(&self) -> usize {
        4
    }

    fn next_unreachable(&mut self) -> Option<SocketAddr> {
        self.plug.network.wires().inbox(self.plug.address, self.plug.id)?.reports.pop_front()
    }

    fn secrets_seed(&self) -> Option<u64> {
        let address = u64::from(self.plug.address.port()) << 32 | hash_of(self.plug.address);
        // The next socket at the same address has secrets of its own, as the next process has.
        Some(self.plug.network.seed ^ address ^ self.plug.id << 48)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.plug.address)
    }
}

/// Tells hosts apart that use the same port.
fn hash_of(address: SocketAddr) -> u64 {
    let octets = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(ip) => ip.octets(),
    };
    u64::from(octets.iter().fold(0_u32, |hash, octet| hash.wrapping_mul(31).wrapping_add(u32::from(*octet))))
}

const MILLISECOND: Duration = Duration::from_millis(1);
/// Datagrams that one receive call gives, as many as a call of quinn-udp.
const BATCH: usize = 32;
