//! How a program may end, and what its peers then know.

use std::{net::SocketAddr, thread, time::Duration};

use soe_tokio::{DisconnectReason, ListenerConfig, Origin, SessionConfig, SoeListener, SoeSession};
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

#[cfg(target_os = "linux")]
fn short_name() -> SessionConfig {
    SessionConfig::new("A").expect("the defaults are valid")
}

/// Drops a listener while clients knock, and waits for the end of every session that one of them has got. Returns their number.
#[cfg(target_os = "linux")]
async fn drop_while_clients_knock(after: Duration) -> usize {
    let config = ListenerConfig::new(short_name()).shards(2);
    let listener = SoeListener::bind("127.0.0.1:0", config).await.expect("loopback can be bound");
    let to = listener.local_addr();
    let clients: Vec<_> = (0..40).map(|_| tokio::spawn(SoeSession::connect(to, short_name()))).collect();
    tokio::time::sleep(after).await;
    drop(listener);
    let mut opened = 0;
    for client in clients {
        let Ok(session) = soon("an answer", client).await.expect("no panic") else { continue };
        let closed = soon("the end", session.closed()).await.expect("served");
        assert_eq!((closed.reason, closed.origin), (DisconnectReason::ConnectionRefused, Origin::Peer));
        opened += 1;
    }
    opened
}

/// Where in the opening of a session the end falls is up to the scheduler: many instants are tried, and later ones on a slow machine,
/// until clients have come in. A client with a short name
/// is refused in two steps, and with two sockets one may end what the other has not stored yet.
#[cfg(target_os = "linux")]
#[test]
fn a_listener_that_is_dropped_while_clients_knock_leaves_none_with_a_session_that_nobody_has() {
    let runtime = Builder::new_multi_thread().worker_threads(4).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut opened = 0;
        for batch in 0.. {
            if batch >= 8 && opened > 0 {
                return;
            }
            assert!(batch < 80, "nobody comes in within 40 ms");
            let instants = (0..10).map(|n| Duration::from_micros((10 * batch + n) * 37 % 4_000 + batch / 8 * 4_000));
            let rounds: Vec<_> = instants.map(|after| tokio::spawn(drop_while_clients_knock(after))).collect();
            for round in rounds {
                opened += round.await.expect("every session ends, and for this reason");
            }
        }
    });
}
