//! QUIC: one bidirectional stream per session.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::{env, fs};

use bytes::Bytes;
use futures_util::SinkExt;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, ServerConfig, TransportConfig};
use tokio::io::{Join, join};

use crate::harness::client::{Client, Failure};
use crate::harness::spec::Spec;
use crate::stream::{Messages, attend, messages, recv};

const NAME: &str = "localhost";
/// QUIC knows no smaller datagrams.
const SMALLEST: usize = 1200;

/// Where the server leaves its certificate for the client.
fn certificate_path() -> PathBuf {
    env::temp_dir().join("soe-load-quinn.der")
}

fn transport(spec: &Spec) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport.initial_mtu(spec.udp.max(SMALLEST) as u16).mtu_discovery_config(None);
    Arc::new(transport)
}

/// Serves for ever.
pub(crate) async fn serve(spec: &Spec, ready: impl FnOnce(SocketAddr)) -> Result<(), Failure> {
    let certified = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    fs::write(certificate_path(), &certificate)?;
    let mut config = ServerConfig::with_single_cert(vec![certificate], key.into())?;
    config.transport_config(transport(spec));
    let endpoint = Endpoint::server(config, (Ipv4Addr::LOCALHOST, 0).into())?;
    ready(endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        let spec = spec.clone();
        tokio::spawn(async move {
            let connection = incoming.await?;
            let (sender, receiver) = connection.accept_bi().await?;
            attend(join(receiver, sender), spec).await;
            Ok::<_, Failure>(())
        });
    }
    Ok(())
}

/// One session with its own socket.
pub(crate) struct QuicClient {
    messages: Messages<Join<RecvStream, SendStream>>,
    /// Held as long as the session.
    _connection: (Endpoint, Connection),
}

impl Client for QuicClient {
    async fn connect(server: SocketAddr, spec: &Spec) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(fs::read(certificate_path())?))?;
        let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
        config.transport_config(transport(spec));
        let endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        let connection = endpoint.connect_with(config, server, NAME)?.await?;
        let (sender, receiver) = connection.open_bi().await?;
        Ok(Self { messages: messages(join(receiver, sender)), _connection: (endpoint, connection) })
    }

    async fn send(&mut self, message: Bytes) -> Result<(), Failure> {
        Ok(self.messages.send(message).await?)
    }

    async fn recv(&mut self) -> Result<Bytes, Failure> {
        recv(&mut self.messages).await
    }
}
