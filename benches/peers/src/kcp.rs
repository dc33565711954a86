//! KCP in its fastest configuration.

use std::net::{Ipv4Addr, SocketAddr};

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_kcp::{KcpConfig, KcpListener, KcpNoDelayConfig, KcpStream};

use crate::harness::client::{Client, Failure};
use crate::harness::spec::Spec;
use crate::stream::{Messages, attend, messages, recv};

fn config(spec: &Spec) -> KcpConfig {
    KcpConfig {
        mtu: spec.udp,
        nodelay: KcpNoDelayConfig::fastest(),
        wnd_size: (1024, 1024),
        flush_write: true,
        flush_acks_input: true,
        stream: true,
        ..KcpConfig::default()
    }
}

/// Serves for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let mut listener = KcpListener::bind(config(spec), (Ipv4Addr::LOCALHOST, 0)).await?;
    ready(listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(attend(stream, spec.clone()));
    }
}

/// One session with its own socket.
pub(crate) struct KcpClient(Messages<KcpStream>);

impl Client for KcpClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        Ok(Self(messages(KcpStream::connect(&config(spec), server).await?)))
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        Ok(self.0.send(message).await?)
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        recv(&mut self.0).await
    }
}
