//! Peers that a test plays by hand.

use std::{future::poll_fn, net::SocketAddr, sync::Arc, task::Context, task::Poll};

use crate::{network::Shared, socket::Plug};

/// A socket that sends and receives the bytes that the test says. Its datagrams take the same links as all others.
///
/// Build and read packets with [`soe_tokio::soe_core::wire`]. [`crate::Network::forge`] sends under any address, without a
/// link.
#[derive(Debug)]
pub struct RawPeer {
    plug: Plug,
}

impl RawPeer {
    pub(crate) fn bind(network: Arc<Shared>, address: SocketAddr) -> Self {
        Self { plug: Plug::new(network, address) }
    }

    /// Where it is bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.plug.address
    }

    /// Sends one datagram.
    pub fn send(&self, to: SocketAddr, datagram: &[u8]) {
        self.plug.network.wires().send(self.plug.address, to, datagram);
    }

    /// Waits for the next datagram and its sender.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn recv(&mut self) -> (SocketAddr, Vec<u8>) {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// Takes the next datagram if it has arrived by now.
    pub fn try_recv(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        match self.poll_recv(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(received) => Some(received),
            Poll::Pending => None,
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<(SocketAddr, Vec<u8>)> {
        self.plug.poll_take(cx, |inbox| inbox.take_datagram())
    }
}
