//! A session between the two implementations over real UDP on loopback, and what the two sides agree on.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use soe_core::{Channel, DisconnectReason, Message, Origin, SessionConfig};
use soe_protocol::{
    ApplicationParameters, Channel as PeerChannel, ClientEvent, DisconnectReason as PeerReason, Rc4KeyState,
    SessionParameters, SocketConfig, SocketEvent, TokioSoeClient, TokioSoeServer,
};
use soe_tokio::{SoeListener, SoeSession};

use crate::relay::{Faults, Relay};

pub(crate) const PROTOCOL: &str = "InteropTest";
pub(crate) const TICK: Duration = Duration::from_millis(2);
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
pub(crate) const KEY: &[u8] =
    &[0x17, 0xbd, 0x08, 0x6b, 0x1b, 0x94, 0xf0, 0x2f, 0xf0, 0xec, 0x53, 0xd7, 0x63, 0x58, 0x9b, 0x5f];
/// Around the largest payloads of one datagram and of two, with and without a flag byte, and a long fragment series.
pub(crate) const SIZES: [usize; 12] = [1, 2, 24, 255, 500, 505, 506, 507, 508, 1007, 1008, 60_000];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    OurServer,
    OurClient,
}

pub(crate) const ROLES: [Role; 2] = [Role::OurServer, Role::OurClient];

/// What the two sides of a session agree on.
pub(crate) struct Scene {
    pub(crate) ours: SessionConfig,
    pub(crate) theirs: SessionParameters,
    pub(crate) key: Option<&'static [u8]>,
    pub(crate) greeting: Channel,
    pub(crate) faults: Option<Faults>,
}

impl Scene {
    pub(crate) fn plain() -> Self {
        let theirs = SessionParameters {
            application_protocol: PROTOCOL.to_owned(),
            max_ack_delay: Duration::from_secs(3600),
            data_ack_window: 2,
            max_queued_outgoing_reliable: 300,
            ..SessionParameters::default()
        };
        Self {
            ours: SessionConfig::new(PROTOCOL).unwrap(),
            theirs,
            key: None,
            greeting: Channel::default(),
            faults: None,
        }
    }

    pub(crate) fn compressed() -> Self {
        let mut scene = Self::plain();
        scene.ours = SessionConfig::builder(PROTOCOL).compression(true).build().unwrap();
        scene.theirs.is_compression_enabled = true;
        scene
    }

    pub(crate) fn peer_config(&self) -> SocketConfig {
        // The distance keeps endpoints apart that count up from their number.
        static ENDPOINTS: AtomicU64 = AtomicU64::new(1);
        SocketConfig {
            default_session_params: self.theirs.clone(),
            app_params: ApplicationParameters { encryption_key_state: self.key.map(Rc4KeyState::new) },
            base_rng_seed: ENDPOINTS.fetch_add(1, Ordering::Relaxed) << 32,
            ..SocketConfig::default()
        }
    }
}

pub(crate) enum Peer {
    Client(TokioSoeClient),
    Server(TokioSoeServer, Option<SocketAddr>),
}

#[derive(Debug, PartialEq)]
pub(crate) enum Heard {
    Opened,
    Data(PeerChannel, Bytes),
    Closed(PeerReason),
}

impl Peer {
    pub(crate) async fn hear(&mut self) -> Heard {
        match self {
            Self::Client(client) => match client.recv_event().await.expect("the peer's client runs") {
                ClientEvent::Connected => Heard::Opened,
                ClientEvent::DataReceived { data, channel } => Heard::Data(channel, data),
                ClientEvent::Disconnected { reason } => Heard::Closed(reason),
            },
            Self::Server(server, remote) => match server.recv_event().await.expect("the peer's server runs") {
                SocketEvent::SessionOpened { remote: from } => {
                    *remote = Some(from);
                    Heard::Opened
                }
                SocketEvent::DataReceived { data, channel, .. } => Heard::Data(channel, data),
                SocketEvent::SessionClosed { reason, .. } => Heard::Closed(reason),
            },
        }
    }

    /// Waits for the first message; false if the session has ended because the path was slow, and our client had to ask
    /// twice.
    async fn is_greeted(&mut self, ours: &SoeSession, expected: &Heard) -> bool {
        loop {
            let heard = tokio::select! {
                heard = self.hear() => heard,
                closed = ours.closed() => {
                    let closed = closed.expect("the runtime goes on");
                    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ConnectError, Origin::Peer));
                    return false;
                }
            };
            match heard {
                Heard::Opened | Heard::Closed(PeerReason::ConnectError) => {}
                heard => {
                    assert_eq!(heard, *expected);
                    return true;
                }
            }
        }
    }

    pub(crate) fn say(&self, channel: Channel, data: &Bytes) {
        let channel = their_channel(channel);
        let said = match self {
            Self::Client(client) => client.handle().enqueue_data_on(data.clone(), channel),
            Self::Server(server, remote) => {
                server.handle().enqueue_data_on(remote.expect("the session is open"), data.clone(), channel)
            }
        };
        assert!(said, "the peer has stopped");
    }

    pub(crate) fn close(&self, reason: PeerReason) {
        match self {
            Self::Client(client) => assert!(client.handle().terminate(reason)),
            Self::Server(server, remote) => {
                assert!(server.handle().terminate(remote.expect("the session is open"), reason));
            }
        }
    }
}

pub(crate) fn their_channel(channel: Channel) -> PeerChannel {
    match channel {
        Channel::Reliable(reliable) => PeerChannel::Reliable(reliable.index()),
        Channel::Unreliable => PeerChannel::Unreliable,
        other => panic!("the peer has no {other} channel"),
    }
}

/// A session between the two implementations, over which the first to speak has sent a greeting.
pub(crate) struct Pair {
    pub(crate) ours: SoeSession,
    pub(crate) peer: Peer,
    pub(crate) relay: Option<Relay>,
    _listener: Option<SoeListener>,
}

pub(crate) async fn through(server: SocketAddr, faults: Option<Faults>) -> (SocketAddr, Option<Relay>) {
    match faults {
        None => (server, None),
        Some(faults) => {
            let relay = Relay::start(server, faults).await.unwrap();
            (relay.address(), Some(relay))
        }
    }
}

impl Pair {
    pub(crate) async fn meet(role: Role, scene: &Scene) -> Self {
        match role {
            Role::OurServer => Self::serve(scene).await,
            Role::OurClient => Self::join(scene).await,
        }
    }

    pub(crate) async fn serve(scene: &Scene) -> Self {
        let listener = SoeListener::bind("127.0.0.1:0", scene.ours.clone()).await.unwrap();
        let (address, relay) = through(listener.local_addr(), scene.faults).await;
        let client = TokioSoeClient::connect_to(address, scene.peer_config(), TICK).await.unwrap();
        let mut peer = Peer::Client(client);
        assert_eq!(peer.hear().await, Heard::Opened);
        let greeting = payload(40, 7);
        peer.say(scene.greeting, &greeting);
        let incoming = listener.accept().await.expect("the listener runs");
        assert_eq!((incoming.version(), incoming.protocol_name()), (3, PROTOCOL));
        let mut ours = incoming.accept();
        set_keys(&mut ours, scene.key);
        assert_eq!(hear_ours(&mut ours).await, Message::new(scene.greeting, greeting));
        Self { ours, peer, relay, _listener: Some(listener) }
    }

    pub(crate) async fn join(scene: &Scene) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = TokioSoeServer::bind(local, scene.peer_config(), TICK).await.unwrap();
        let (address, relay) = through(server.local_addr(), scene.faults).await;
        let mut peer = Peer::Server(server, None);
        loop {
            let mut ours = SoeSession::connect(address, scene.ours.clone()).await.unwrap();
            set_keys(&mut ours, scene.key);
            let greeting = payload(40, 7);
            ours.send(Message::new(scene.greeting, greeting.clone())).await.unwrap();
            let expected = Heard::Data(their_channel(scene.greeting), greeting);
            if peer.is_greeted(&ours, &expected).await {
                return Self { ours, peer, relay, _listener: None };
            }
        }
    }

    /// All messages from us to the peer, then all from the peer to us; each must arrive, in order.
    pub(crate) async fn exchange(&mut self, channel: Channel, messages: &[Bytes]) {
        for message in messages {
            self.ours.feed(Message::new(channel, message.clone())).await.unwrap();
        }
        self.ours.flush().await.unwrap();
        for message in messages {
            let heard = self.peer.hear().await;
            assert!(
                heard == Heard::Data(their_channel(channel), message.clone()),
                "{} bytes to the peer",
                message.len()
            );
        }
        for message in messages {
            self.peer.say(channel, message);
        }
        for message in messages {
            let heard = hear_ours(&mut self.ours).await;
            assert!(heard == Message::new(channel, message.clone()), "{} bytes from the peer", message.len());
        }
    }
}

pub(crate) fn set_keys(session: &mut SoeSession, key: Option<&[u8]>) {
    if key.is_some() {
        session.set_send_key(key).unwrap();
        session.set_recv_key(key).unwrap();
    }
}

pub(crate) async fn hear_ours(session: &mut SoeSession) -> Message {
    session.next().await.expect("the session is open").expect("the session is sound")
}

/// Bytes that say where they belong; none is zero, and long runs of them compress.
pub(crate) fn payload(size: usize, salt: usize) -> Bytes {
    (0..size).map(|index| 1 + ((index * 7 + salt * 31) % 251) as u8).collect()
}

pub(crate) fn payloads(sizes: &[usize]) -> Vec<Bytes> {
    sizes.iter().enumerate().map(|(salt, &size)| payload(size, salt)).collect()
}

/// Ends a test that hangs, and says so.
pub(crate) async fn within<F: Future>(what: impl std::fmt::Debug, work: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what:?} did not finish in {DEADLINE:?}"),
    }
}
