//! What the tests over a simulated network share.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use soe_core::HookError;
use soe_testing::{LinkProfile, Loss, Network, SocketLimits};
use soe_tokio::{ListenerConfig, MessageHook, SessionConfig, SoeConnector, SoeListener, SoeSession};

pub(crate) const SERVER: SocketAddr = Network::SERVER;
pub(crate) const CLIENT: SocketAddr = client(0);

/// One of many clients.
pub(crate) const fn client(number: u16) -> SocketAddr {
    Network::client_address(number)
}

/// What the network does to datagrams. By default nothing: they arrive at once.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// The share of datagrams lost.
    pub(crate) loss: f64,
    /// The share of datagrams that arrive twice.
    pub(crate) duplication: f64,
    /// The share of sends that find the socket full.
    pub(crate) full: f64,
    /// The longest that a datagram is on its way, in milliseconds; each draws its own time, so they overtake each other.
    pub(crate) delay: u64,
}

impl Faults {
    pub(crate) fn link(&self) -> LinkProfile {
        LinkProfile::lossless()
            .loss(Loss::Uniform(self.loss))
            .duplication(self.duplication)
            .reordering(1.0, Duration::from_millis(self.delay))
    }

    pub(crate) fn network(&self, seed: u64) -> Network {
        let network = Network::new(seed);
        network.link(self.link()).set_socket_limits(SocketLimits::default().send_blocked(self.full));
        network
    }
}

pub(crate) fn listen(network: &Network, config: impl Into<ListenerConfig>) -> SoeListener {
    network.listener(config).expect("a simulated socket can be bound")
}

pub(crate) fn connector(network: &Network, address: SocketAddr) -> SoeConnector {
    network.connector(address).expect("a simulated socket can be bound")
}

pub(crate) fn config() -> SessionConfig {
    SessionConfig::new("Simulated").expect("the defaults are valid")
}

pub(crate) async fn pair(listener: &SoeListener, connector: &SoeConnector) -> (SoeSession, SoeSession) {
    let (client, server) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
    (client.expect("the server answers"), server.expect("the listener lives").accept())
}

pub(crate) async fn receive(session: &mut SoeSession) -> Vec<u8> {
    session.recv().await.expect("open").expect("well").payload.to_vec()
}

/// Returns every message on the channel it came on, until the session ends.
pub(crate) async fn echo(mut session: SoeSession) {
    while let Some(Ok(message)) = session.recv().await {
        if session.send(message).await.is_err() {
            break;
        }
    }
}

/// Accepts sessions for ever and echoes in each.
pub(crate) fn serve_echo(listener: SoeListener) {
    tokio::spawn(async move {
        while let Some(incoming) = listener.accept().await {
            tokio::spawn(echo(incoming.accept()));
        }
    });
}

/// A hook for which every message was sealed with another key.
#[derive(Debug)]
pub(crate) struct Undecipherable;

impl MessageHook for Undecipherable {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        message
    }

    fn open(&mut self, _: Bytes, _: usize) -> Result<Bytes, HookError> {
        Err(HookError::Malformed("another key"))
    }
}
