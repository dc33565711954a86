//! Sessions with the client of the crate `eq-network-transport`, an EverQuest transport by other hands, against our server
//! over real UDP on loopback.
//!
//! The peer is a blocking client that knows reliable channel 0 only; it acknowledges when its application polls it, and
//! answers a selective acknowledgement by sending everything up to it again. Its messages are an application op code in
//! little-endian order and a body, two bytes at least: a message of one byte has no meaning to it. It takes its time and its
//! port from the system: what lasts longer than its first statistics, 10 s after it connected, is not tried, and its clients
//! share a port by way of a relay. It ignores UnknownSender and notices a server that has forgotten it after 60 s only: the
//! server that restarts here says so to its clients.

#[path = "common/relay.rs"]
mod relay;

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use bytes::Bytes;
use eq_network_transport::modern::Session as Peer;
use futures_util::{SinkExt, StreamExt};
use relay::{Faults, Relay};
use soe_core::{Closed, Dialect, DisconnectReason, Message, Origin, Pass, SessionConfig};
use soe_tokio::{SoeListener, SoeSession};
use tokio::sync::{Notify, mpsc};
use tokio::task::{JoinHandle, spawn_blocking};

const DEADLINE: Duration = Duration::from_secs(60);
const PASSES: [[Pass; 2]; 2] = [[Pass::None, Pass::None], [Pass::UserCodec, Pass::None]];
/// Body lengths around the largest payloads of one datagram and of two, and a series of about 120 fragments.
const SIZES: [usize; 11] = [0, 1, 30, 31, 250, 502, 503, 504, 505, 1010, 60_000];
/// An op code whose first byte on the wire is zero, and that therefore travels escaped.
const ESCAPED: u16 = 0x1200;
const ORDINARY: u16 = 0x0034;

fn config(passes: [Pass; 2], crc_length: u8) -> SessionConfig {
    SessionConfig::with_dialect(Dialect::everquest_zone())
        .passes(passes)
        .crc_length(crc_length)
        .allow_unchecked(true)
        .build()
        .unwrap()
}

/// An application message as the peer's application sees it.
#[derive(Clone, Debug, PartialEq)]
struct Application {
    opcode: u16,
    body: Vec<u8>,
}

impl Application {
    fn new(opcode: u16, size: usize) -> Self {
        Self { opcode, body: (0..size).map(|index| ((index * 7 + size) % 250) as u8).collect() }
    }

    fn on_the_wire(&self) -> Bytes {
        self.opcode.to_le_bytes().into_iter().chain(self.body.iter().copied()).collect()
    }
}

fn applications() -> Vec<Application> {
    let of_size = |size| [Application::new(ORDINARY, size), Application::new(ESCAPED, size)];
    SIZES.into_iter().flat_map(of_size).collect()
}

/// A server that echoes the messages of its one session, and ends with that session.
async fn echo_server(config: SessionConfig) -> (SocketAddr, JoinHandle<Closed>) {
    let listener = SoeListener::bind("127.0.0.1:0", config).await.unwrap();
    let address = listener.local_addr();
    let server = tokio::spawn(async move {
        let mut session = accept(&listener).await;
        while let Some(message) = session.next().await {
            session.send(message.unwrap()).await.unwrap();
        }
        session.closed().await.expect("the runtime goes on")
    });
    (address, server)
}

async fn accept(listener: &SoeListener) -> SoeSession {
    let incoming = listener.accept().await.expect("the listener runs");
    assert_eq!((incoming.version(), incoming.protocol_name()), (2, ""));
    incoming.accept()
}

/// The peer's next message; it fails the test at the deadline.
fn hear(peer: &mut Peer) -> Application {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(heard) = peer.receive().expect("the session is sound") {
            return Application { opcode: heard.opcode, body: heard.body };
        }
        assert!(Instant::now() < deadline, "the peer heard nothing in {DEADLINE:?}");
    }
}

fn say_and_hear(peer: &mut Peer, messages: &[Application]) {
    for message in messages {
        peer.send(message.opcode, &message.body).unwrap();
    }
    for message in messages {
        let heard = hear(peer);
        assert!(heard == *message, "op code {:#06x}, {} bytes", message.opcode, message.body.len());
    }
}

/// Runs the blocking peer beside the server's tasks.
async fn peer_does<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(2 * DEADLINE, spawn_blocking(work)).await.expect("the peer finishes in time").unwrap()
}

async fn within<F: Future>(work: F) -> F::Output {
    tokio::time::timeout(DEADLINE, work).await.expect("the server finishes in time")
}

/// A server that echoes in every session, in the order in which they come, and tells how each ends.
fn serve_many(listener: SoeListener) -> (JoinHandle<SoeListener>, mpsc::UnboundedReceiver<Closed>, Arc<Notify>) {
    let (tell, endings) = mpsc::unbounded_channel();
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let server = tokio::spawn(async move {
        loop {
            let mut session = tokio::select! {
                session = accept(&listener) => session,
                () = stopped.notified() => return listener,
            };
            let tell = tell.clone();
            tokio::spawn(async move {
                while let Some(Ok(message)) = session.next().await {
                    if session.send(message).await.is_err() {
                        break;
                    }
                }
                tell.send(session.closed().await.expect("the runtime goes on")).unwrap();
            });
        }
    });
    (server, endings, stop)
}

/// A path that does nothing but give all clients one port.
async fn one_port(server: SocketAddr) -> Relay {
    Relay::start(server, Faults { seed: 0, lost: 0, late: 0, repeated: 0, spared: 0 }).await.unwrap()
}

/// The peer's session ends.
fn hear_the_end(peer: &mut Peer) {
    let deadline = Instant::now() + DEADLINE;
    while peer.receive().is_ok() {
        assert!(Instant::now() < deadline, "the peer's session did not end");
        sleep(Duration::from_millis(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_negotiation_carries_messages_of_every_size() {
    for passes in PASSES {
        for crc_length in [0, 2, 4] {
            let (address, server) = echo_server(config(passes, crc_length)).await;
            peer_does(move || {
                let mut peer = Peer::connect(address, false).unwrap();
                say_and_hear(&mut peer, &applications());
            })
            .await;
            let closed = within(server).await.unwrap();
            // The peer's Disconnect carries no reason.
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::None, Origin::Peer));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_comes_back_is_ignored() {
    let (address, _server) = echo_server(config(PASSES[1], 2)).await;
    peer_does(move || {
        let mut peer = Peer::connect(address, true).unwrap();
        say_and_hear(&mut peer, &applications());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unreliable_messages_arrive_both_ways() {
    for passes in PASSES {
        let (address, _server) = echo_server(config(passes, 2)).await;
        peer_does(move || {
            let mut peer = Peer::connect(address, false).unwrap();
            for size in [0, 1, 20, 100, 400] {
                let message = Application::new(ORDINARY, size);
                peer.send_unreliable(message.opcode, &message.body).unwrap();
                assert_eq!(hear(&mut peer), message);
            }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_small_messages_from_the_server_is_grouped() {
    for passes in PASSES {
        let listener = SoeListener::bind("127.0.0.1:0", config(passes, 2)).await.unwrap();
        let address = listener.local_addr();
        let peer = tokio::spawn(peer_does(move || {
            let mut peer = Peer::connect(address, false).unwrap();
            peer.send(ORDINARY, b"go").unwrap();
            for size in 0..500 {
                assert_eq!(hear(&mut peer), Application::new(ORDINARY, size % 40));
            }
        }));
        let mut session = within(accept(&listener)).await;
        assert!(within(session.next()).await.is_some());
        for size in 0..500 {
            let message = Message::reliable(Application::new(ORDINARY, size % 40).on_the_wire());
            within(session.feed(message)).await.unwrap();
        }
        within(session.flush()).await.unwrap();
        peer.await.unwrap();
        let sent = session.stats().datagrams_sent;
        assert!(sent < 250, "{sent} datagrams for 500 small messages");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_answers_the_statistics_of_a_silent_client() {
    let (address, _server) = echo_server(config(PASSES[0], 2)).await;
    peer_does(move || {
        let mut peer = Peer::connect(address, false).unwrap();
        say_and_hear(&mut peer, &[Application::new(ORDINARY, 4)]);
        // The peer asks 10 s after it connected; nothing but the answer breaks the silence after that.
        let asked = Instant::now() + Duration::from_millis(10_500);
        while Instant::now() < asked || peer.last_received_seconds() > 2 {
            assert!(peer.receive().unwrap().is_none());
            assert!(asked.elapsed() < DEADLINE, "no answer");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_delivers_what_is_queued_and_ends_the_session_of_the_peer() {
    let listener = SoeListener::bind("127.0.0.1:0", config(PASSES[1], 2)).await.unwrap();
    let address = listener.local_addr();
    let peer = tokio::spawn(peer_does(move || {
        let mut peer = Peer::connect(address, false).unwrap();
        peer.send(ORDINARY, b"go").unwrap();
        for message in applications() {
            assert!(hear(&mut peer) == message);
        }
        hear_the_end(&mut peer);
    }));
    let mut session = within(accept(&listener)).await;
    for message in applications() {
        within(session.feed(Message::reliable(message.on_the_wire()))).await.unwrap();
    }
    let closed = within(session.close(DisconnectReason::Application)).await.expect("the runtime goes on");
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Local));
    peer.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_over_a_path_that_loses_reorders_and_repeats() {
    for (passes, seed) in PASSES.into_iter().zip(1..) {
        let (server_address, _server) = echo_server(config(passes, 4)).await;
        let faults = Faults { seed, lost: 50, late: 50, repeated: 20, spared: 0 };
        let relay = Relay::start(server_address, faults).await.unwrap();
        let address = relay.address();
        peer_does(move || {
            let mut peer = Peer::connect(address, false).unwrap();
            for round in 0..5 {
                let messages: Vec<_> = (0..20).map(|index| Application::new(ORDINARY, round + index * 150)).collect();
                say_and_hear(&mut peer, &messages);
            }
        })
        .await;
        let tally = relay.tally();
        assert!(tally.lost > 10 && tally.late > 10 && tally.repeated > 2, "{tally:?}");
    }
}

/// One message there and back. It fails while no server has the port: the peer passes on what ICMP says.
fn echo(server: SocketAddr) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut peer = Peer::connect(server, false)?;
    let message = Application::new(ORDINARY, 100);
    peer.send(message.opcode, &message.body)?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(heard) = peer.receive()? {
            assert_eq!((heard.opcode, heard.body), (message.opcode, message.body));
            return Ok(());
        }
        assert!(Instant::now() < deadline, "the peer heard nothing in {DEADLINE:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_closes_comes_back_at_once_on_its_port() {
    let listener = SoeListener::bind("127.0.0.1:0", config(PASSES[1], 2)).await.unwrap();
    let relay = one_port(listener.local_addr()).await;
    let (_server, mut endings, _) = serve_many(listener);
    for _ in 0..5 {
        let address = relay.address();
        peer_does(move || {
            let mut peer = Peer::connect(address, false).unwrap();
            say_and_hear(&mut peer, &applications());
            peer.close().unwrap();
        })
        .await;
        let closed = within(endings.recv()).await.unwrap();
        assert_eq!((closed.reason, closed.origin), (DisconnectReason::None, Origin::Peer));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_crashes_comes_back_on_its_port() {
    let listener = SoeListener::bind("127.0.0.1:0", config(PASSES[1], 2)).await.unwrap();
    let relay = one_port(listener.local_addr()).await;
    let (_server, mut endings, _) = serve_many(listener);
    let address = relay.address();
    peer_does(move || {
        let mut peer = Peer::connect(address, false).unwrap();
        say_and_hear(&mut peer, &applications());
        // Its end would send its Disconnect.
        std::mem::forget(peer);
        let mut peer = Peer::connect(address, false).unwrap();
        say_and_hear(&mut peer, &applications());
    })
    .await;
    let first = within(endings.recv()).await.unwrap();
    assert_eq!(first.reason, DisconnectReason::NewConnectionAttempt);
    let second = within(endings.recv()).await.unwrap();
    assert_eq!((second.reason, second.origin), (DisconnectReason::None, Origin::Peer));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_refused_comes_back_on_its_port() {
    let listener = SoeListener::bind("127.0.0.1:0", config(PASSES[1], 2)).await.unwrap();
    let relay = one_port(listener.local_addr()).await;
    let address = relay.address();
    let peer = tokio::spawn(peer_does(move || {
        let mut peer = Peer::connect(address, false).unwrap();
        peer.send(ORDINARY, b"let me in").unwrap();
        hear_the_end(&mut peer);
        let mut peer = Peer::connect(address, false).unwrap();
        say_and_hear(&mut peer, &applications());
    }));
    within(listener.accept()).await.expect("the listener runs").refuse(DisconnectReason::ConnectionRefused);
    let (_server, mut endings, _) = serve_many(listener);
    peer.await.unwrap();
    assert_eq!(within(endings.recv()).await.unwrap().origin, Origin::Peer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_back_after_the_server_has_restarted() {
    const CLIENTS: usize = 50;
    let listener = SoeListener::bind("127.0.0.1:0", config(PASSES[1], 2)).await.unwrap();
    let address = listener.local_addr();
    let (server, _endings, stop) = serve_many(listener);
    let (tell, mut joined) = mpsc::unbounded_channel();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let tell = tell.clone();
            tokio::spawn(peer_does(move || {
                let mut peer = Peer::connect(address, false).unwrap();
                say_and_hear(&mut peer, &[Application::new(ORDINARY, 100)]);
                tell.send(()).unwrap();
                hear_the_end(&mut peer);
                let deadline = Instant::now() + DEADLINE;
                while echo(address).is_err() {
                    assert!(Instant::now() < deadline, "not back in {DEADLINE:?}");
                    sleep(Duration::from_millis(20));
                }
            }))
        })
        .collect();
    for _ in 0..CLIENTS {
        within(joined.recv()).await.unwrap();
    }
    stop.notify_one();
    let report = within(server).await.unwrap().shutdown(Duration::from_secs(5)).await;
    assert_eq!(report.sessions.len(), CLIENTS);
    let _again = serve_many(SoeListener::bind(address, config(PASSES[1], 2)).await.unwrap());
    for client in clients {
        client.await.unwrap();
    }
}
