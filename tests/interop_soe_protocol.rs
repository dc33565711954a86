//! Sessions with the crate `soe-protocol`, an implementation of version 3 of the protocol by other hands, in both roles
//! over real UDP on loopback.
//!
//! The peer reads some rules of the wire otherwise than this library. Where that matters, the test arranges the traffic
//! so that the two readings agree, and says so:
//!
//! * The peer's size limit is its own `udp_length`, whatever the other side says: both sides use 512 here.
//! * It escapes leading zeros of encrypted messages only: plain payloads here begin with another byte, unless our side is
//!   told to do likewise.
//! * It starts the key stream of every channel afresh: an encrypted session uses one reliable channel here.
//! * Its unreliable datagrams carry no flag byte under compression, and it knows raw data as a whole datagram only, not as
//!   a piece of a Multi: unreliable messages travel here without compression, and while no acknowledgement is owed.
//! * It acknowledges a repeated packet again only while its delay for acknowledgements runs: the delay is set long and
//!   the packet count that cuts it short is set to the minimum.
//! * It widens an acknowledged sequence around the highest acknowledged one: its limit in flight is set above the window
//!   of the receiver.
//! * It sends its request for a session once: a lossy path spares the handshake.

#[path = "common/relay.rs"]
mod relay;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use relay::{Faults, Relay};
use soe_core::{Channel, DisconnectReason, EscapeRule, Message, Origin, ReliableChannel, SessionConfig};
use soe_protocol::{
    ApplicationParameters, Channel as PeerChannel, ClientEvent, DisconnectReason as PeerReason, Rc4KeyState,
    SessionParameters, SocketConfig, SocketEvent, TokioSoeClient, TokioSoeServer,
};
use soe_tokio::{SoeListener, SoeSession};

const PROTOCOL: &str = "InteropTest";
const TICK: Duration = Duration::from_millis(2);
const DEADLINE: Duration = Duration::from_secs(60);
const KEY: &[u8] = &[0x17, 0xbd, 0x08, 0x6b, 0x1b, 0x94, 0xf0, 0x2f, 0xf0, 0xec, 0x53, 0xd7, 0x63, 0x58, 0x9b, 0x5f];
/// Around the largest payloads of one datagram and of two, with and without a flag byte, and a long train.
const SIZES: [usize; 12] = [1, 2, 24, 255, 500, 505, 506, 507, 508, 1007, 1008, 60_000];

#[derive(Clone, Copy, Debug)]
enum Role {
    OurServer,
    OurClient,
}

const ROLES: [Role; 2] = [Role::OurServer, Role::OurClient];

/// What the two sides of a session agree on.
struct Scene {
    ours: SessionConfig,
    theirs: SessionParameters,
    key: Option<&'static [u8]>,
    greeting: Channel,
    faults: Option<Faults>,
}

impl Scene {
    fn plain() -> Self {
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

    fn compressed() -> Self {
        let mut scene = Self::plain();
        scene.ours = SessionConfig::builder(PROTOCOL).compression(true).build().unwrap();
        scene.theirs.is_compression_enabled = true;
        scene
    }

    fn peer_config(&self) -> SocketConfig {
        SocketConfig {
            default_session_params: self.theirs.clone(),
            app_params: ApplicationParameters { encryption_key_state: self.key.map(Rc4KeyState::new) },
            ..SocketConfig::default()
        }
    }
}

enum Peer {
    Client(TokioSoeClient),
    Server(TokioSoeServer, Option<SocketAddr>),
}

#[derive(Debug, PartialEq)]
enum Heard {
    Opened,
    Data(PeerChannel, Bytes),
    Closed(PeerReason),
}

impl Peer {
    async fn hear(&mut self) -> Heard {
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

    fn say(&self, channel: Channel, data: &Bytes) {
        let channel = their_channel(channel);
        let said = match self {
            Self::Client(client) => client.handle().enqueue_data_on(data.clone(), channel),
            Self::Server(server, remote) => {
                server.handle().enqueue_data_on(remote.expect("the session is open"), data.clone(), channel)
            }
        };
        assert!(said, "the peer has stopped");
    }

    fn close(&self, reason: PeerReason) {
        match self {
            Self::Client(client) => assert!(client.handle().terminate(reason)),
            Self::Server(server, remote) => {
                assert!(server.handle().terminate(remote.expect("the session is open"), reason));
            }
        }
    }
}

fn their_channel(channel: Channel) -> PeerChannel {
    match channel {
        Channel::Reliable(reliable) => PeerChannel::Reliable(reliable.index()),
        Channel::Unreliable => PeerChannel::Unreliable,
        other => panic!("the peer has no {other} channel"),
    }
}

/// A session between the two implementations, over which the first to speak has sent a greeting.
struct Pair {
    ours: SoeSession,
    peer: Peer,
    relay: Option<Relay>,
    _listener: Option<SoeListener>,
}

async fn through(server: SocketAddr, faults: Option<Faults>) -> (SocketAddr, Option<Relay>) {
    match faults {
        None => (server, None),
        Some(faults) => {
            let relay = Relay::start(server, faults).await.unwrap();
            (relay.address(), Some(relay))
        }
    }
}

impl Pair {
    async fn meet(role: Role, scene: &Scene) -> Self {
        match role {
            Role::OurServer => Self::serve(scene).await,
            Role::OurClient => Self::join(scene).await,
        }
    }

    async fn serve(scene: &Scene) -> Self {
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

    async fn join(scene: &Scene) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = TokioSoeServer::bind(local, scene.peer_config(), TICK).await.unwrap();
        let (address, relay) = through(server.local_addr(), scene.faults).await;
        let mut peer = Peer::Server(server, None);
        let mut ours = SoeSession::connect(address, scene.ours.clone()).await.unwrap();
        set_keys(&mut ours, scene.key);
        let greeting = payload(40, 7);
        ours.send(Message::new(scene.greeting, greeting.clone())).await.unwrap();
        assert_eq!(peer.hear().await, Heard::Opened);
        assert_eq!(peer.hear().await, Heard::Data(their_channel(scene.greeting), greeting));
        Self { ours, peer, relay, _listener: None }
    }

    /// All messages from us to the peer, then all from the peer to us; each must arrive, in order.
    async fn exchange(&mut self, channel: Channel, messages: &[Bytes]) {
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

fn set_keys(session: &mut SoeSession, key: Option<&[u8]>) {
    if key.is_some() {
        session.set_send_key(key).unwrap();
        session.set_recv_key(key).unwrap();
    }
}

async fn hear_ours(session: &mut SoeSession) -> Message {
    session.next().await.expect("the session is open").expect("the session is sound")
}

/// Bytes that say where they belong; none is zero, and long runs of them compress.
fn payload(size: usize, salt: usize) -> Bytes {
    (0..size).map(|index| 1 + ((index * 7 + salt * 31) % 251) as u8).collect()
}

fn payloads(sizes: &[usize]) -> Vec<Bytes> {
    sizes.iter().enumerate().map(|(salt, &size)| payload(size, salt)).collect()
}

/// Ends a test that hangs, and says so.
async fn within<F: Future>(what: impl std::fmt::Debug, work: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(output) => output,
        Err(_) => panic!("{what:?} did not finish in {DEADLINE:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_both_ways() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_compressed() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::compressed()).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
            let stats = pair.ours.stats();
            let payload_bytes: usize = SIZES.iter().sum();
            assert!(stats.bytes_sent < payload_bytes as u64, "nothing was compressed: {} bytes", stats.bytes_sent);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_every_size_arrive_encrypted_on_any_one_channel() {
    for role in ROLES {
        for channel in ReliableChannel::ALL {
            let scene = Scene { key: Some(KEY), greeting: channel.into(), ..Scene::plain() };
            within((role, channel), async {
                let mut pair = Pair::meet(role, &scene).await;
                // Enough messages that the cipher text of several begins with zero and is escaped.
                let sizes: Vec<usize> = SIZES.into_iter().chain((1..=600).map(|size| 1 + size % 50)).collect();
                pair.exchange(channel.into(), &payloads(&sizes)).await;
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_and_compression_go_together() {
    for role in ROLES {
        let scene = Scene { key: Some(KEY), ..Scene::compressed() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_peer_obeys_every_crc_length_that_our_server_names() {
    for crc_length in 0..=4 {
        let ours = SessionConfig::builder(PROTOCOL).crc_length(crc_length).allow_unchecked(true).build().unwrap();
        within(crc_length, async {
            let mut pair = Pair::meet(Role::OurServer, &Scene { ours, ..Scene::plain() }).await;
            pair.exchange(Channel::default(), &payloads(&SIZES)).await;
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_messages_share_datagrams() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let before = pair.ours.stats().datagrams_sent;
            for salt in 0..1000 {
                pair.ours.feed(Message::reliable(payload(20, salt))).await.unwrap();
            }
            pair.ours.flush().await.unwrap();
            for salt in 0..1000 {
                let heard = pair.peer.hear().await;
                assert_eq!(heard, Heard::Data(PeerChannel::Reliable(0), payload(20, salt)));
            }
            let sent = pair.ours.stats().datagrams_sent - before;
            assert!(sent < 500, "{sent} datagrams for 1000 small messages");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_channels_carry_traffic_side_by_side() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let messages = payloads(&[3000, 1, 700, 20]);
            for message in &messages {
                for channel in ReliableChannel::ALL {
                    pair.ours.feed(Message::new(channel, message.clone())).await.unwrap();
                }
            }
            pair.ours.flush().await.unwrap();
            let mut heard = [const { Vec::new() }; ReliableChannel::COUNT];
            while heard.iter().map(Vec::len).sum::<usize>() < 4 * messages.len() {
                match pair.peer.hear().await {
                    Heard::Data(PeerChannel::Reliable(channel), data) => {
                        pair.peer.say(ReliableChannel::ALL[channel].into(), &data);
                        heard[channel].push(data);
                    }
                    other => panic!("the peer heard {other:?}"),
                }
            }
            assert!(heard.iter().all(|of_channel| *of_channel == messages));
            let mut echoed = [const { Vec::new() }; ReliableChannel::COUNT];
            while echoed.iter().map(Vec::len).sum::<usize>() < 4 * messages.len() {
                let message = hear_ours(&mut pair.ours).await;
                let Channel::Reliable(channel) = message.channel else { panic!("heard {message:?}") };
                echoed[channel.index()].push(message.payload);
            }
            assert!(echoed.iter().all(|of_channel| *of_channel == messages));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreliable_messages_arrive_and_a_leading_zero_survives() {
    for role in ROLES {
        let scene = Scene { greeting: Channel::Unreliable, ..Scene::plain() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            let mut messages = payloads(&[1, 2, 100, 505, 509]);
            messages.extend([&[0][..], &[0, 0], &[0, 9, 0, 0, 1], &[0, 3, 2, 0, 6]].map(Bytes::from_static));
            for message in &messages {
                pair.exchange(Channel::Unreliable, std::slice::from_ref(message)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_messages_that_begin_with_zero_arrive_under_the_rule_of_the_peer() {
    for role in ROLES {
        let ours = SessionConfig::builder(PROTOCOL).escape(EscapeRule::WhenEncrypted).build().unwrap();
        within(role, async {
            let mut pair = Pair::meet(role, &Scene { ours, ..Scene::plain() }).await;
            let zeros = [&[0][..], &[0, 7, 1], &[0, 9, 0, 0, 1]].map(Bytes::from_static);
            for message in zeros {
                pair.exchange(Channel::default(), std::slice::from_ref(&message)).await;
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_from_the_peer_is_told_with_its_reason() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let last = payload(100, 1);
            pair.peer.say(Channel::default(), &last);
            pair.peer.close(PeerReason::Application);
            assert_eq!(hear_ours(&mut pair.ours).await.payload, last);
            let closed = pair.ours.closed().await.expect("the runtime goes on");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_delivers_what_is_queued_and_tells_the_peer_why() {
    for role in ROLES {
        within(role, async {
            let mut pair = Pair::meet(role, &Scene::plain()).await;
            let messages = payloads(&[60_000, 10, 2000]);
            for message in &messages {
                pair.ours.feed(Message::reliable(message.clone())).await.unwrap();
            }
            let closed = pair.ours.close(DisconnectReason::ManagerDeleted).await.expect("the runtime goes on");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::ManagerDeleted, Origin::Local));
            for message in messages {
                assert_eq!(pair.peer.hear().await, Heard::Data(PeerChannel::Reliable(0), message));
            }
            assert_eq!(pair.peer.hear().await, Heard::Closed(PeerReason::ManagerDeleted));
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_another_protocol_is_told_so() {
    within("refusal", async {
        let listener = SoeListener::bind("127.0.0.1:0", SessionConfig::new("AnotherGame").unwrap()).await.unwrap();
        let config = Scene::plain().peer_config();
        let client = TokioSoeClient::connect_to(listener.local_addr(), config, TICK).await.unwrap();
        let mut peer = Peer::Client(client);
        // The refusal is a response, so that its CRC can be checked, and then a Disconnect with the reason.
        assert_eq!(peer.hear().await, Heard::Opened);
        assert_eq!(peer.hear().await, Heard::Closed(PeerReason::ProtocolMismatch));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_a_path_that_loses_reorders_and_repeats() {
    for (role, seed) in ROLES.into_iter().zip(1..) {
        let faults = Faults { seed, lost: 50, late: 50, repeated: 20, spared: 2 };
        let scene = Scene { faults: Some(faults), ..Scene::plain() };
        within(role, async {
            let mut pair = Pair::meet(role, &scene).await;
            for round in 0..10 {
                let messages: Vec<Bytes> = (0..30).map(|salt| payload(1 + salt * 97, round + salt)).collect();
                pair.exchange(Channel::default(), &messages).await;
            }
            let tally = pair.relay.as_ref().map(Relay::tally).expect("the scene has a relay");
            assert!(tally.lost > 10 && tally.late > 10 && tally.repeated > 2, "{tally:?}");
        })
        .await;
    }
}
