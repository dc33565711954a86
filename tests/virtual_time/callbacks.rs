//! What the transport asks the application may ask the transport in turn: no code of the application's runs under a lock.

use std::{
    future::Future,
    sync::{Arc, OnceLock, mpsc},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use soe_core::{HookError, RequestFilter, StatusReply};
use soe_testing::Network;
use soe_tokio::{AdmissionConfig, ConnectError, DisconnectReason, MessageHook, ReliableChannel, SoeListener};
use tokio::runtime::Builder;

use crate::support::{CLIENT, SERVER, client, config, connector, listen, receive};

/// A listener that is known to its own callbacks once it is bound.
type Known = Arc<OnceLock<SoeListener>>;

fn sessions(listener: &Known) -> usize {
    listener.get().map_or(0, |listener| listener.stats().socket.sessions)
}

/// Runs a test on a thread of its own: a deadlock would hang there, and fails here.
fn expect_no_deadlock<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let (done, ends) = mpsc::channel();
    let run = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(test());
        done.send(()).expect("somebody waits");
    });
    if let Err(mpsc::RecvTimeoutError::Timeout) = ends.recv_timeout(Duration::from_secs(60)) {
        panic!("the driver waits for itself");
    }
    run.join().expect("the test passes");
}

#[test]
fn a_status_reply_may_ask_its_listener() {
    expect_no_deadlock(|| async {
        let (network, known) = (Network::new(1), Known::default());
        let asked = Arc::clone(&known);
        let reply = StatusReply::new(move |_| Some(format!("{} here", sessions(&asked)).into()));
        let admission = AdmissionConfig::builder(config()).server_status(Some(reply)).build().expect("valid");
        known.set(listen(&network, admission)).expect("set once");
        let (player, asks) = (connector(&network, CLIENT), connector(&network, client(1)));
        let answer = asks.query_status(SERVER, Duration::from_secs(5)).await.expect("an answer");
        assert_eq!(answer, "0 here");
        let _session = player.connect(SERVER, config()).await.expect("the server answers");
        let answer = asks.query_status(SERVER, Duration::from_secs(5)).await.expect("an answer");
        assert_eq!(answer, "1 here");
    });
}

#[test]
fn a_request_filter_may_ask_its_listener() {
    expect_no_deadlock(|| async {
        let (network, known) = (Network::new(1), Known::default());
        let asked = Arc::clone(&known);
        let filter = RequestFilter::Predicate(Arc::new(move |_| sessions(&asked) == 0));
        let admission = AdmissionConfig::builder(config()).filter(filter).build().expect("valid");
        known.set(listen(&network, admission)).expect("set once");
        let _session = network.client_at(CLIENT, config()).await.expect("the first is welcome");
        match network.client_at(client(1), config()).await {
            Err(ConnectError::Closed(closed)) => assert_eq!(closed.reason, DisconnectReason::ProtocolMismatch),
            other => panic!("the second is not: {other:?}"),
        }
    });
}

#[derive(Debug)]
struct Asks(Known);

impl MessageHook for Asks {
    fn seal(&mut self, message: BytesMut) -> BytesMut {
        assert!(sessions(&self.0) > 0);
        message
    }

    fn open(&mut self, message: Bytes, _: usize) -> Result<Bytes, HookError> {
        assert!(sessions(&self.0) > 0);
        Ok(message)
    }
}

#[test]
fn a_message_hook_may_ask_its_listener() {
    expect_no_deadlock(|| async {
        let (network, known) = (Network::new(1), Known::default());
        known.set(listen(&network, config())).expect("set once");
        let listener = known.get().expect("set");
        let (session, incoming) = tokio::join!(network.client_at(CLIENT, config()), listener.accept());
        let (mut session, mut server) = (session.expect("the server answers"), incoming.expect("it lives").accept());
        server.set_send_hook(ReliableChannel::ZERO, Some(Box::new(Asks(Arc::clone(&known)))));
        server.set_recv_hook(ReliableChannel::ZERO, Some(Box::new(Asks(Arc::clone(&known)))));
        session.send(&b"to the server"[..]).await.expect("open");
        assert_eq!(receive(&mut server).await, b"to the server");
        server.send(&b"to the client"[..]).await.expect("open");
        assert_eq!(receive(&mut session).await, b"to the client");
    });
}
