//! A listener of soe-tokio and its clients: on a network in memory, under Tokio's paused clock, and on sockets of the kernel's.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use soe_core::{AdmissionConfig, DisconnectReason, Message, SessionConfig};
use soe_testing::{LinkProfile, Network};
use soe_tokio::{BusyPoll, ListenerConfig, SocketConfig, SoeConnector, SoeListener, SoeSession};
use tokio::runtime::Builder;

fn config() -> SessionConfig {
    SessionConfig::new("Count").expect("a valid name")
}

fn run(work: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without sockets").block_on(work);
}

/// A network with a server that echoes everything.
fn network() -> Network {
    let network = Network::new(1);
    network.link(LinkProfile::lossless());
    let listener = network.listener(AdmissionConfig::from(config())).expect("a free address");
    tokio::spawn(serve(listener));
    network
}

async fn serve(listener: SoeListener) {
    while let Some(incoming) = listener.accept().await {
        let mut session = incoming.accept();
        tokio::spawn(async move {
            while let Some(Ok(message)) = session.next().await {
                if session.send(message).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// Messages of 64 bytes in rounds of so many at once.
async fn play(mut session: SoeSession, outstanding: u64, rounds: u64) {
    let message = Message::reliable(Bytes::from_static(&[7; 64]));
    for _ in 0..rounds {
        for _ in 0..outstanding {
            session.feed(message.clone()).await.expect("an open session");
        }
        session.flush().await.expect("an open session");
        for _ in 0..outstanding {
            session.next().await.expect("an open session").expect("an echo");
        }
    }
}

/// So many messages over all sessions.
pub(crate) fn echo(sessions: u64, outstanding: u64, count: u64) {
    run(async {
        let network = network();
        let mut players = Vec::new();
        for _ in 0..sessions {
            let session = network.client(config()).await.expect("a server that answers");
            players.push(tokio::spawn(play(session, outstanding, count / sessions / outstanding)));
        }
        for player in players {
            player.await.expect("no panic");
        }
    });
}

/// The same over sockets. What the kernel does is not counted.
pub(crate) fn echo_over_sockets(sessions: u64, outstanding: u64, count: u64) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        // To look for datagrams without sleeping takes as many instructions as there is time.
        let quiet = SocketConfig::default().busy_poll(BusyPoll::Never);
        let server = ListenerConfig::from(AdmissionConfig::from(config())).socket(quiet.clone());
        let listener = SoeListener::bind("127.0.0.1:0", server).await.expect("a free port");
        let address = listener.local_addr();
        tokio::spawn(serve(listener));
        let mut players = Vec::new();
        for _ in 0..sessions {
            let connector = SoeConnector::bind_with("127.0.0.1:0", quiet.clone()).await.expect("a free port");
            let session = connector.connect(address, config()).await.expect("a server that answers");
            players.push(tokio::spawn(play(session, outstanding, count / sessions / outstanding)));
        }
        for player in players {
            player.await.expect("no panic");
        }
    });
}

pub(crate) fn set_up(count: u64) {
    run(async {
        let network = network();
        for _ in 0..count {
            let mut session = network.client(config()).await.expect("a server that answers");
            session.send(Message::reliable(Bytes::from_static(&[7; 64]))).await.expect("an open session");
            session.next().await.expect("an open session").expect("an echo");
            session.close(DisconnectReason::Application).await.expect("an orderly end");
        }
    });
}
