//! Servers that restart under their clients.

use std::time::Duration;

use futures_util::future::join_all;
use soe_core::{Closed, DisconnectReason, Origin};
use soe_testing::Network;
use soe_tokio::{SoeListener, SoeSession};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    common::{Scene, payload},
    virtual_time::{Foreign, SERVER, client, network},
};

const CLIENTS: u16 = 50;
/// How long the server is away.
const DOWN: Duration = Duration::from_secs(5);

/// Echoes in every session that comes.
async fn echo(listener: &SoeListener) {
    while let Some(incoming) = listener.accept().await {
        tokio::spawn(async move {
            let mut session = incoming.accept();
            while let Some(Ok(message)) = session.recv().await {
                if session.send(message).await.is_err() {
                    break;
                }
            }
        });
    }
}

fn serve(listener: SoeListener) {
    tokio::spawn(async move { echo(&listener).await });
}

/// A client of theirs that stays in: it connects again whenever its session ends. It speaks at once and then every `pause`,
/// and tells the time of its last echo.
async fn stay_in(mut theirs: Foreign, pause: Duration, last_echo: watch::Sender<Option<Instant>>) {
    loop {
        theirs.get_in().await;
        while theirs.is_echoed(&payload(50, 1)).await {
            last_echo.send_replace(Some(Instant::now()));
            if theirs.ends_within(pause).await {
                break;
            }
        }
    }
}

/// Starts the clients, and waits until each has had an echo.
async fn crowd(net: &Network, pause: Duration) -> Vec<watch::Receiver<Option<Instant>>> {
    let mut echoes = Vec::new();
    for number in 0..CLIENTS {
        let (tell, echo) = watch::channel(None);
        tokio::spawn(stay_in(Foreign::new(net, client(number), &Scene::plain()), pause, tell));
        echoes.push(echo);
    }
    all_hear(&mut echoes, None, Duration::from_secs(30)).await;
    echoes
}

/// Waits until every client has had an echo after `start`.
async fn all_hear(echoes: &mut [watch::Receiver<Option<Instant>>], start: Option<Instant>, bound: Duration) {
    // The value that is waited for must not be held: its guard locks out the client that writes it.
    let everybody = echoes.iter_mut().map(|echo| async { echo.wait_for(|last| *last > start).await.is_ok() });
    let everybody = timeout(bound, join_all(everybody)).await;
    let back = echoes.iter().filter(|echo| *echo.borrow() > start).count();
    let everybody = everybody.unwrap_or_else(|_| panic!("{back} of {CLIENTS} clients are back after {bound:?}"));
    assert!(everybody.into_iter().all(|lives| lives), "a client has stopped");
}

/// The server dies without a word and starts again. Clients that speak learn it by UnknownSender at once; those that asked for
/// a session while nobody was there wait out their own time-out of 30 s, and ask again.
#[tokio::test(start_paused = true)]
async fn fifty_clients_of_theirs_are_back_soon_after_a_crash_of_our_server() {
    let net = network();
    serve(net.listener(Scene::plain().ours).unwrap());
    let mut echoes = crowd(&net, Duration::from_millis(200)).await;
    net.unplug(SERVER);
    sleep(DOWN).await;
    serve(net.listener(Scene::plain().ours).unwrap());
    all_hear(&mut echoes, Some(Instant::now()), Duration::from_secs(35)).await;
}

/// Clients that say nothing learn it with their next heartbeat.
#[tokio::test(start_paused = true)]
async fn fifty_idle_clients_of_theirs_are_back_after_a_crash_of_our_server() {
    let net = network();
    serve(net.listener(Scene::plain().ours).unwrap());
    let mut echoes = crowd(&net, Duration::from_secs(3600)).await;
    net.unplug(SERVER);
    sleep(DOWN).await;
    serve(net.listener(Scene::plain().ours).unwrap());
    all_hear(&mut echoes, Some(Instant::now()), Duration::from_secs(35)).await;
}

#[tokio::test(start_paused = true)]
async fn fifty_clients_of_theirs_are_back_at_once_after_a_shutdown_of_our_server() {
    let net = network();
    let listener = net.listener(Scene::plain().ours).unwrap();
    let mut echoes = tokio::select! {
        () = echo(&listener) => panic!("the listener has stopped"),
        echoes = crowd(&net, Duration::from_millis(200)) => echoes,
    };
    let report = listener.shutdown(Duration::from_secs(5)).await;
    assert_eq!(report.sessions.len(), usize::from(CLIENTS));
    serve(net.listener(Scene::plain().ours).unwrap());
    all_hear(&mut echoes, Some(Instant::now()), Duration::from_secs(40)).await;
}

/// What our clients hear of a server of theirs that restarts, and whether the new one takes them.
async fn restart_theirs(pause: Duration, leave: impl FnOnce(Foreign), bound: Duration) -> Vec<Closed> {
    let (net, scene) = (network(), Scene::plain());
    let mut theirs = Foreign::new(&net, SERVER, &scene);
    let connectors: Vec<_> = (0..CLIENTS).map(|number| net.connector(client(number)).unwrap()).collect();
    let clients = connectors.iter().map(|connector| connector.connect(SERVER, scene.ours.clone()));
    let mut clients: Vec<SoeSession> = join_all(clients).await.into_iter().map(Result::unwrap).collect();
    tokio::select! {
        () = theirs.echo() => unreachable!("it echoes for ever"),
        () = speak(&mut clients) => {}
    }
    leave(theirs);
    let mut theirs = Foreign::new(&net, SERVER, &scene);
    let endings = join_all(clients.iter_mut().map(|client| async {
        loop {
            tokio::select! {
                closed = client.closed() => return closed.expect("the runtime goes on"),
                () = sleep(pause) => drop(client.try_send(payload(50, 3))),
            }
        }
    }));
    let endings = timeout(bound, endings).await.expect("every client notices in time");
    let again = connectors.iter().map(|connector| connector.connect(SERVER, scene.ours.clone()));
    let mut again: Vec<SoeSession> = join_all(again).await.into_iter().map(Result::unwrap).collect();
    tokio::select! {
        () = theirs.echo() => unreachable!("it echoes for ever"),
        () = speak(&mut again) => {}
    }
    endings
}

async fn speak(clients: &mut [SoeSession]) {
    for client in clients {
        client.send(payload(50, 2)).await.unwrap();
        assert_eq!(client.recv().await.expect("open").expect("sound").payload, payload(50, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn our_clients_are_told_that_their_server_shuts_down() {
    for pause in [Duration::from_millis(200), Duration::from_secs(3600)] {
        for closed in restart_theirs(pause, Foreign::leave, Duration::from_secs(1)).await {
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Application, Origin::Peer));
        }
    }
}

/// The new server says nothing to those whom it does not know: silence is all that there is to notice.
#[tokio::test(start_paused = true)]
async fn our_clients_notice_that_their_server_has_crashed_and_started_again() {
    for pause in [Duration::from_millis(200), Duration::from_secs(3600)] {
        for closed in restart_theirs(pause, drop, Duration::from_secs(40)).await {
            assert_eq!((closed.reason, closed.origin), (DisconnectReason::Timeout, Origin::Transport));
        }
    }
}
