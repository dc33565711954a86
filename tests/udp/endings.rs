//! How a program may end, and what its peers then know.

use std::{net::SocketAddr, thread, time::Duration};

use soe_tokio::{DisconnectReason, Origin, SoeSession};
use tokio::runtime::{Builder, Runtime};

use crate::{config, incoming, listen, pair, receive, soon};

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// Runs a client program to the end of its `main`, several times, and expects the server to know all that it said.
fn programs_end<F: Future<Output = ()> + 'static>(
    runtime: fn() -> Runtime,
    program: fn(SocketAddr) -> F,
    says: &[&[u8]],
) {
    current_thread().block_on(async {
        let listener = listen().await;
        let to = listener.local_addr();
        for _ in 0..20 {
            let client = thread::spawn(move || runtime().block_on(program(to)));
            let mut server = incoming(&listener).await.accept();
            for message in says {
                assert_eq!(receive(&mut server).await, *message);
            }
            let end = soon("the end", server.recv()).await;
            assert!(end.is_none(), "{end:?}");
            let closed = server.closed().await.expect("served");
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
            client.join().expect("the program ends well");
        }
    });
}

async fn speaks_and_ends(to: SocketAddr) {
    let mut session = SoeSession::connect(to, config()).await.expect("the server answers");
    session.send(&b"one"[..]).await.expect("open");
    session.send(&b"the last word"[..]).await.expect("open");
}

async fn ends(to: SocketAddr) {
    drop(SoeSession::connect(to, config()).await.expect("the server answers"));
}

#[test]
fn a_send_as_the_last_line_of_main_arrives() {
    for runtime in [current_thread, multi_thread] {
        programs_end(runtime, speaks_and_ends, &[b"one", b"the last word"]);
    }
}

#[test]
fn a_session_that_is_dropped_as_the_last_line_of_main_sends_its_disconnect() {
    for runtime in [current_thread, multi_thread] {
        programs_end(runtime, ends, &[]);
    }
}

#[test]
fn a_shutdown_ends_at_its_deadline_though_the_runtime_of_its_socket_does_not_run() {
    let (sockets, application) = (current_thread(), current_thread());
    let (listener, _client, _server) = sockets.block_on(async {
        let listener = listen().await;
        let (client, server) = pair(&listener).await;
        (listener, client, server)
    });
    // Nobody drives `sockets` from here on.
    let report = application.block_on(soon("shutdown", listener.shutdown(Duration::from_millis(200))));
    assert_eq!(report.sessions.len(), 1);
    assert!(!report.sessions[0].told);
}
