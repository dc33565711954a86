//! What is logged is logged where the log may use what it is about.

use std::{
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use soe_testing::Network;
use soe_tokio::{DisconnectReason, ReliableChannel, SendHalf, SoeListener};
use tracing::{
    Event, Id, Metadata, Subscriber,
    span::{Attributes, Record},
};

use crate::support::{CLIENT, Undecipherable, config, connector, listen, pair, receive};

/// Looks at sessions and listener with everything that it is told.
#[derive(Clone, Default)]
struct Curious(Arc<Mutex<Watched>>);

#[derive(Default)]
struct Watched {
    sessions: Vec<Arc<SendHalf>>,
    listener: Option<Arc<SoeListener>>,
    events: usize,
}

impl Curious {
    fn look(&self, is_event: bool) {
        // Whatever it asks may be logged in turn.
        let Ok(mut watched) = self.0.try_lock() else { return };
        watched.events += usize::from(is_event);
        for session in &watched.sessions {
            let _ = (session.stats(), session.peer_addr(), session.local_ip());
        }
        let _ = watched.listener.as_ref().map(|listener| listener.stats());
    }
}

impl Subscriber for Curious {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("soe_")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        self.look(false);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.look(true);
    }

    fn enter(&self, _: &Id) {
        self.look(false);
    }

    fn exit(&self, _: &Id) {
        self.look(false);
    }
}

async fn converse(curious: Curious) {
    let network = Network::new(1);
    let (listener, connector) = (Arc::new(listen(&network, config())), connector(&network, CLIENT));
    curious.0.lock().expect("nobody panics").listener = Some(Arc::clone(&listener));
    for ends_badly in [false, true] {
        let (mut client, server) = pair(&listener, &connector).await;
        let (send, mut recv) = server.split();
        curious.0.lock().expect("nobody panics").sessions.push(Arc::new(send));
        client.send(&b"hello"[..]).await.expect("open");
        assert_eq!(recv.recv().await.expect("open").expect("well").payload, b"hello"[..]);
        // A wrong datagram, and one that nobody knows.
        network.forge(CLIENT, Network::SERVER, [0, 9, 0, 0, 1, 2, 3]);
        network.forge(crate::support::client(7), Network::SERVER, [0, 9, 0, 0, 1, 2, 3]);
        if ends_badly {
            recv.set_recv_hook(ReliableChannel::ZERO, Some(Box::new(Undecipherable)));
            client.send(&b"gibberish"[..]).await.expect("open");
            assert!(recv.recv().await.is_none_or(|end| end.is_err()));
        } else {
            client.close(DisconnectReason::Application).await.expect("served");
        }
        recv.closed().await;
        client.closed().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
    let (client, mut server) = pair(&listener, &connector).await;
    drop(client);
    assert!(server.recv().await.is_none());
    let (mut client, mut server) = pair(&listener, &connector).await;
    server.send(&b"bye"[..]).await.expect("open");
    assert_eq!(receive(&mut client).await, b"bye");
}

#[test]
fn a_subscriber_may_ask_the_sessions_that_it_hears_of() {
    let (done, is_done) = mpsc::channel();
    // A deadlock is what would be seen: on a thread of its own.
    thread::spawn(move || {
        let curious = Curious::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = runtime.expect("a runtime can be built");
        tracing::subscriber::with_default(curious.clone(), || runtime.block_on(converse(curious.clone())));
        let watched = std::mem::take(&mut *curious.0.lock().expect("nobody panics"));
        done.send(watched.events).expect("the test waits");
    });
    let events = is_done.recv_timeout(Duration::from_secs(30)).expect("the log and a session wait for each other");
    assert!(events > 5, "{events} events: nothing was logged");
}
