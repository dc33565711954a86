//! Hooks of the application that take long: they hold up their own session, and nothing else.
//!
//! A hook runs in a thread, so time is real here. It waits until the test lets it go on: whatever waits for the hook waits for
//! ever.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use soe_core::HookError;
use soe_testing::Network;
use soe_tokio::{
    DisconnectReason, Message, MessageHook, ReliableChannel, SlowReceiver, SoeConnector, SoeListener, SoeSession,
    broadcast,
};
use tokio::{task::JoinHandle, time::timeout};

use crate::support::{SERVER, client, config, connector, echo, listen, pair, receive};

const PATIENCE: Duration = Duration::from_secs(30);

/// Waits under the session's lock until the test lets it go on.
#[derive(Debug)]
struct Stuck {
    entered: mpsc::Sender<()>,
    leave: mpsc::Receiver<()>,
}

impl MessageHook for Stuck {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        self.entered.send(()).expect("the test runs");
        // The end of the test lets it go, too.
        let _ = self.leave.recv();
        message
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        Ok(message)
    }
}

/// A server with two players, whose first session is in a hook until somebody sends to `go_on`.
struct Held {
    network: Network,
    listener: Arc<SoeListener>,
    _connectors: [SoeConnector; 2],
    /// The player whose session is held.
    slow: SoeSession,
    /// The other one, whose messages come back.
    other: SoeSession,
    recv: soe_tokio::RecvHalf,
    sending: JoinHandle<soe_tokio::SendHalf>,
    go_on: mpsc::Sender<()>,
}

impl Held {
    async fn new() -> Self {
        let network = Network::new(1);
        let listener = Arc::new(listen(&network, config()));
        let connectors = [connector(&network, client(0)), connector(&network, client(1))];
        let (slow, server) = pair(&listener, &connectors[0]).await;
        let (other, other_server) = pair(&listener, &connectors[1]).await;
        tokio::spawn(echo(other_server));
        let (mut send, recv) = server.split();
        let (entered, has_entered) = mpsc::channel();
        let (go_on, leave) = mpsc::channel();
        send.set_send_hook(ReliableChannel::ZERO, Some(Box::new(Stuck { entered, leave })));
        let sending = tokio::spawn(async move {
            // A shutdown may end the session meanwhile.
            let _ = send.send(&b"sealed slowly"[..]).await;
            send
        });
        tokio::task::spawn_blocking(move || has_entered.recv()).await.expect("no panic").expect("the hook runs");
        Self { network, listener, _connectors: connectors, slow, other, recv, sending, go_on }
    }

    /// Lets the other player's driver work off whatever has come before.
    async fn converse(&mut self, text: &[u8]) {
        self.other.send(text.to_vec()).await.expect("open");
        assert_eq!(receive(&mut self.other).await, text);
    }

    async fn let_go(self) {
        // Nobody listens any more if the hook has been dropped with its session.
        let _ = self.go_on.send(());
        drop(self.sending.await.expect("no panic"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hook_that_takes_for_ever_holds_up_its_own_session_alone() {
    const MESSAGES: u32 = 200;
    let mut held = Held::new().await;
    let meanwhile = async {
        for number in 0..MESSAGES {
            // Its datagrams, acknowledgements and timers have to wait; nobody else's.
            held.slow.send(number.to_be_bytes().to_vec()).await.expect("open");
            held.converse(&number.to_be_bytes()).await;
        }
        // Timers run past the slow session, and newcomers come in.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let newcomer = connector(&held.network, client(2));
        let (newcomer, incoming) = tokio::join!(newcomer.connect(SERVER, config()), held.listener.accept());
        drop((newcomer.expect("the server answers"), incoming.expect("the listener lives").accept()));
    };
    timeout(PATIENCE, meanwhile).await.expect("others wait for the hook");
    held.go_on.send(()).expect("the hook waits");
    let finish = async {
        assert_eq!(receive(&mut held.slow).await, b"sealed slowly");
        for number in 0..MESSAGES {
            let message = held.recv.recv().await.expect("open").expect("well").payload;
            assert_eq!(message, number.to_be_bytes()[..], "in order and complete");
        }
    };
    timeout(PATIENCE, finish).await.expect("the session goes on once its hook is done");
    held.let_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_comes_while_a_hook_runs_is_kept_within_256_kib() {
    const FLOOD: u64 = 40;
    let mut held = Held::new().await;
    let before = held.listener.stats().socket;
    for _ in 0..FLOOD {
        held.network.forge(client(0), SERVER, vec![0x55; 60_000]);
    }
    timeout(PATIENCE, held.converse(b"all of that has been received")).await.expect("others wait for the hook");
    held.go_on.send(()).expect("the hook waits");
    assert_eq!(timeout(PATIENCE, receive(&mut held.slow)).await.expect("it goes on"), b"sealed slowly");
    held.slow.send(&b"and on"[..]).await.expect("open");
    let message = timeout(PATIENCE, held.recv.recv()).await.expect("it goes on").expect("open").expect("well");
    assert_eq!(message.payload, "and on");
    let kept = held.recv.stats().crc_rejects + held.recv.stats().ignored;
    assert!((1..=4).contains(&kept), "{kept} of {FLOOD} datagrams of 60,000 bytes were kept");
    assert!(held.listener.stats().socket.datagrams_received >= before.datagrams_received + FLOOD, "all were received");
    held.let_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_shutdown_keeps_its_deadline_while_a_hook_runs() {
    let mut held = Held::new().await;
    held.converse(b"here").await;
    let [slow, other] = [&held.slow, &held.other].map(SoeSession::session_id);
    let shutdown = held.listener.shutdown(Duration::from_millis(500));
    let report = timeout(PATIENCE, shutdown).await.expect("the shutdown waits for the hook");
    assert_eq!((report.clean, report.cut_off), (1, 1), "{report:?}");
    for session in report.sessions {
        match session.session_id {
            id if id == slow => {
                assert_eq!((session.peer_addr, session.closed, session.told), (client(0), None, false));
            }
            id => assert!(id == other && session.told && session.closed.is_some(), "{session:?}"),
        }
    }
    assert_eq!(held.other.closed().await.map(|closed| closed.reason), Some(DisconnectReason::Application));
    // Whoever waits for the end of the session learns of it once the hook is done.
    held.go_on.send(()).expect("the hook waits");
    assert!(timeout(PATIENCE, held.recv.recv()).await.expect("the reader is woken").is_none_or(|end| end.is_err()));
    held.let_go().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_about_all_sessions_reach_the_others_while_a_hook_runs() {
    let mut held = Held::new().await;
    for slow in [SlowReceiver::Skip, SlowReceiver::DropOldest, SlowReceiver::Close(DisconnectReason::Application)] {
        let listener = Arc::clone(&held.listener);
        // In a thread: it must not wait for the hook, and would block this one.
        let sent = tokio::task::spawn_blocking(move || {
            let players: Vec<_> = listener.sessions().collect();
            assert_eq!(players.len(), 2);
            assert!(!listener.metrics().worst_sessions_json().is_empty());
            broadcast(&players, Message::reliable(&b"news"[..]), slow)
        });
        let report = timeout(PATIENCE, sent).await.expect("something waits for the hook").expect("no panic");
        assert_eq!((report.sent, report.skipped.len()), (1, 1), "{report:?}");
        assert_eq!(receive(&mut held.other).await, b"news");
    }
    held.let_go().await;
}
