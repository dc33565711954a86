//! Clients that come back on the port of their last session.

use std::time::Duration;

use soe_core::{DisconnectReason, Origin, SessionConfig};
use soe_protocol::DisconnectReason as PeerReason;
use soe_testing::{LinkProfile, Network};
use soe_tokio::{ConnectError, SoeListener, SoeSession};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    common::{Heard, PROTOCOL, Scene, payload},
    virtual_time::{Foreign, SERVER, client, network, ours_joins_theirs, talk, theirs_joins_ours},
};

/// How soon a client that has crashed is back, its own time-out of 30 s for a request that got no answer included.
const BACK: Duration = Duration::from_secs(60);

/// How long a datagram is under way: what the last session has sent meets the next one, or not.
const DELAYS: [Duration; 3] = [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(40)];

fn path(delay: Duration) -> Network {
    let net = network();
    net.link(LinkProfile::lossless().delay(delay));
    net
}

fn server(delay: Duration) -> (Network, Scene, SoeListener) {
    let (net, scene) = (path(delay), Scene::plain());
    let listener = net.listener(scene.ours.clone()).unwrap();
    (net, scene, listener)
}

/// Longer than the Disconnects of the last session are repeated, and than it is remembered.
async fn nothing_of_the_last_session_disturbs(ours: &mut SoeSession, theirs: &mut Foreign) {
    for _ in 0..10 {
        talk(ours, theirs).await;
        sleep(Duration::from_millis(400)).await;
    }
}

/// Three sessions of their client in a row, each ended by `end`, and a fourth that must not be disturbed.
async fn their_client_comes_back_after(end: impl AsyncFn(&mut SoeSession, &mut Foreign)) {
    for delay in DELAYS {
        let (net, scene, listener) = server(delay);
        let mut theirs = Foreign::new(&net, client(0), &scene);
        for _ in 0..3 {
            let mut ours = theirs_joins_ours(&mut theirs, &listener).await;
            talk(&mut ours, &mut theirs).await;
            end(&mut ours, &mut theirs).await;
            // The last datagram of our side may still be on its way, and would end its next session.
            sleep(2 * delay).await;
        }
        let mut ours = theirs_joins_ours(&mut theirs, &listener).await;
        nothing_of_the_last_session_disturbs(&mut ours, &mut theirs).await;
    }
}

/// The same with our client.
async fn our_client_comes_back_after(end: impl AsyncFn(&mut SoeSession, &mut Foreign)) {
    for delay in DELAYS {
        let (net, scene) = (path(delay), Scene::plain());
        let mut theirs = Foreign::new(&net, SERVER, &scene);
        let connector = net.connector(client(0)).unwrap();
        for _ in 0..3 {
            let mut ours = ours_joins_theirs(&connector, &mut theirs, &scene.ours).await.unwrap();
            talk(&mut ours, &mut theirs).await;
            end(&mut ours, &mut theirs).await;
        }
        let mut ours = ours_joins_theirs(&connector, &mut theirs, &scene.ours).await.unwrap();
        nothing_of_the_last_session_disturbs(&mut ours, &mut theirs).await;
    }
}

#[tokio::test(start_paused = true)]
async fn their_client_closes_and_comes_back_at_once() {
    their_client_comes_back_after(async |_, theirs| {
        theirs.close(PeerReason::Application);
        assert_eq!(theirs.hear().await, Heard::Closed(PeerReason::Application));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn their_client_comes_back_at_once_when_our_server_has_closed_its_session() {
    their_client_comes_back_after(async |ours, theirs| {
        ours.close(DisconnectReason::Application).await.expect("the runtime goes on");
        assert_eq!(theirs.hear().await, Heard::Closed(PeerReason::Application));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn their_client_crashes_and_comes_back_on_its_port() {
    for is_busy in [false, true] {
        let (net, scene, listener) = server(Duration::ZERO);
        let mut theirs = Foreign::new(&net, client(0), &scene);
        let mut last = theirs_joins_ours(&mut theirs, &listener).await;
        drop(theirs);
        let mut theirs = Foreign::new(&net, client(0), &scene);
        let start = Instant::now();
        // The session of the dead client still wants to deliver something, or does not.
        if is_busy {
            last.send(payload(3000, 1)).await.unwrap();
        }
        let echo = tokio::spawn(async move {
            while let Some(incoming) = listener.accept().await {
                let mut session = incoming.accept();
                while let Some(Ok(message)) = session.recv().await {
                    session.send(message).await.unwrap();
                }
            }
        });
        let data = payload(100, 2);
        let back = async {
            theirs.get_in().await;
            while !theirs.is_echoed(&data).await {
                theirs.get_in().await;
            }
        };
        timeout(BACK, back).await.unwrap_or_else(|_| panic!("busy: {is_busy}: not back in {BACK:?}"));
        let closed = timeout(BACK, last.closed()).await.expect("the dead client is noticed").unwrap();
        assert!(
            matches!(closed.reason, DisconnectReason::NewConnectionAttempt | DisconnectReason::Timeout),
            "{closed} after {:?}",
            start.elapsed()
        );
        assert!(theirs.is_echoed(&data).await, "the session goes on");
        echo.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn their_client_is_refused_and_comes_back_on_its_port() {
    for delay in DELAYS {
        let (net, scene, listener) = server(delay);
        let mut other = Scene::plain();
        other.theirs.application_protocol = "AnotherGame".to_owned();
        let mut theirs = Foreign::new(&net, client(0), &other);
        theirs.connect();
        assert_eq!(theirs.hear().await, Heard::Opened);
        assert_eq!(theirs.hear().await, Heard::Closed(PeerReason::ProtocolMismatch));
        drop(theirs);
        let mut theirs = Foreign::new(&net, client(0), &scene);
        theirs.connect();
        assert_eq!(theirs.hear().await, Heard::Opened);
        theirs.say(&payload(10, 1));
        listener.accept().await.expect("the listener runs").refuse(DisconnectReason::ConnectionRefused);
        assert_eq!(theirs.hear().await, Heard::Closed(PeerReason::ConnectionRefused));
        let mut ours = theirs_joins_ours(&mut theirs, &listener).await;
        nothing_of_the_last_session_disturbs(&mut ours, &mut theirs).await;
    }
}

#[tokio::test(start_paused = true)]
async fn our_client_closes_and_comes_back_at_once() {
    our_client_comes_back_after(async |ours, theirs| {
        ours.close(DisconnectReason::Application).await.expect("the runtime goes on");
        assert_eq!(theirs.hear().await, Heard::Closed(PeerReason::Application));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn our_client_comes_back_at_once_when_their_server_has_closed_its_session() {
    our_client_comes_back_after(async |ours, theirs| {
        theirs.close(PeerReason::Application);
        let closed = ours.closed().await.expect("the runtime goes on");
        assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn our_client_crashes_and_comes_back_on_its_port() {
    for is_busy in [false, true] {
        let (net, scene) = (network(), Scene::plain());
        let mut theirs = Foreign::new(&net, SERVER, &scene);
        let last = net.connector(client(0)).unwrap();
        let _vanished = ours_joins_theirs(&last, &mut theirs, &scene.ours).await.unwrap();
        // From here on nothing of the first one reaches anybody.
        let connector = net.connector(client(0)).unwrap();
        if is_busy {
            theirs.say(&payload(3000, 1));
        }
        let mut ours = ours_joins_theirs(&connector, &mut theirs, &scene.ours).await.unwrap();
        nothing_of_the_last_session_disturbs(&mut ours, &mut theirs).await;
    }
}

#[tokio::test(start_paused = true)]
async fn our_client_is_refused_and_comes_back_on_its_port() {
    let (net, scene) = (network(), Scene::plain());
    let mut theirs = Foreign::new(&net, SERVER, &scene);
    let connector = net.connector(client(0)).unwrap();
    let other = SessionConfig::new("AnotherGame").unwrap();
    let refused = ours_joins_theirs(&connector, &mut theirs, &other).await.unwrap_err();
    let ConnectError::Closed(closed) = refused else { panic!("{refused}, and {PROTOCOL} was spoken") };
    assert_eq!((closed.reason, closed.origin), (DisconnectReason::ConnectFail, Origin::Transport));
    let mut ours = ours_joins_theirs(&connector, &mut theirs, &scene.ours).await.unwrap();
    nothing_of_the_last_session_disturbs(&mut ours, &mut theirs).await;
}
