//! A panic in what an application does with one session touches no other.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use soe_core::HookError;
use soe_testing::Network;
use soe_tokio::{MessageHook, SoeListener, SoeSession};

use crate::support::{SERVER, Undecipherable, client, config, connector, echo, listen, receive};

const OTHERS: u16 = 10;

/// Panics when it is told to open or to seal a message that says so.
#[derive(Debug)]
struct Touchy;

impl MessageHook for Touchy {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        assert!(message != "panic in seal"[..], "a hook of the application panics");
        message
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        assert!(message != "panic in open"[..], "a hook of the application panics");
        Ok(message)
    }
}

async fn join(network: &Network, listener: &SoeListener, number: u16) -> (SoeSession, SoeSession) {
    let connector = connector(network, client(number));
    let (session, incoming) = tokio::join!(connector.connect(SERVER, config()), listener.accept());
    (session.expect("the server answers"), incoming.expect("the listener lives").accept())
}

/// Lets the application of one session of many panic in its own way, and expects all others to go on.
async fn others_survive<F: Future<Output = ()> + Send + 'static>(
    panics: impl FnOnce(SoeSession) -> F,
    says: &'static str,
) {
    let network = Network::new(1);
    let listener = listen(&network, config());
    let mut others = Vec::new();
    for number in 1..=OTHERS {
        let (session, server) = join(&network, &listener, number).await;
        tokio::spawn(echo(server));
        others.push(session);
    }
    let (mut victim, server) = join(&network, &listener, 0).await;
    let panicking = tokio::spawn(panics(server));
    victim.send(says).await.expect("open");
    assert!(panicking.await.expect_err("it panics").is_panic());
    // Its peer is told, and does not have to find out by a time-out.
    let closed = victim.closed().await.expect("served");
    assert_eq!(closed.reason, soe_tokio::DisconnectReason::Application, "{closed}");
    for other in &mut others {
        other.send(&b"still there?"[..]).await.expect("open");
        assert_eq!(receive(other).await, b"still there?");
    }
    let (mut late, server) = join(&network, &listener, OTHERS + 1).await;
    tokio::spawn(echo(server));
    late.send(&b"and newcomers?"[..]).await.expect("open");
    assert_eq!(receive(&mut late).await, b"and newcomers?");
    // Until then its peer could still ask what has become of it.
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(listener.stats().socket.sessions, usize::from(OTHERS) + 1, "the session that panicked is forgotten");
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_the_task_that_holds_a_session_ends_that_session_alone() {
    let panics = |mut session: SoeSession| async move {
        receive(&mut session).await;
        panic!("the application panics");
    };
    others_survive(panics, "go on").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_receive_hook_ends_its_session_alone() {
    let panics = |mut session: SoeSession| async move {
        session.set_recv_hook(soe_tokio::ReliableChannel::ZERO, Some(Box::new(Touchy)));
        receive(&mut session).await;
    };
    others_survive(panics, "panic in open").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_of_a_send_hook_ends_its_session_alone() {
    let panics = |mut session: SoeSession| async move {
        session.set_send_hook(soe_tokio::ReliableChannel::ZERO, Some(Box::new(Touchy)));
        receive(&mut session).await;
        let _ = session.send("panic in seal").await;
    };
    others_survive(panics, "go on").await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_cannot_be_decrypted_ends_the_session_and_the_peer_is_told_at_once() {
    let network = Network::new(1);
    let listener = listen(&network, config());
    let (mut client, mut server) = join(&network, &listener, 0).await;
    server.set_recv_hook(soe_tokio::ReliableChannel::ZERO, Some(Box::new(Undecipherable)));
    client.send(&b"sealed with one key"[..]).await.expect("open");
    let sent = tokio::time::Instant::now();
    server.recv().await.expect("the end is reported").expect_err("nobody can open it");
    let closed = client.closed().await.expect("served");
    assert_eq!(closed.reason, soe_tokio::DisconnectReason::CorruptPacket, "{closed}");
    assert!(sent.elapsed() < Duration::from_millis(100), "{:?}", sent.elapsed());
}
