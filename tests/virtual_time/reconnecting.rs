//! A client that comes back.

use std::{sync::Arc, time::Duration};

use soe_testing::Network;
use soe_tokio::{
    ConnectError, DisconnectReason, LoginFailure, ReconnectError, SessionConfig, SoeReconnector, SoeSession,
};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{CLIENT, SERVER, config, connector, listen, serve_echo};

type Never = std::convert::Infallible;

async fn no_login(session: SoeSession) -> Result<SoeSession, LoginFailure<Never>> {
    Ok(session)
}

fn reconnector(network: &Network) -> SoeReconnector<std::net::SocketAddr> {
    let config = config().to_builder().connect_timeout(Duration::from_secs(1)).build().expect("in range");
    SoeReconnector::new(SERVER, config).via(Arc::new(connector(network, CLIENT)))
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_and_the_attempts_end_at_their_limit() {
    let network = Network::new(1);
    let mut server = reconnector(&network).jitter(0.0).longest_delay(Duration::from_secs(4)).max_attempts(5);
    let start = Instant::now();
    let error = server.connect(no_login).await.expect_err("nobody is there");
    let ReconnectError::GaveUp { attempts: 5, last: Some(last) } = error else { panic!("{error}") };
    assert!(last.is_timeout(), "{last}");
    // Five attempts of about a second each, and pauses of 1, 2, 4 and 4 s.
    let seconds = start.elapsed().as_secs_f64();
    assert!((15.9..17.5).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn a_client_comes_back_after_a_restart_of_its_server_and_logs_in_again() {
    let network = Network::new(1);
    let mut server = reconnector(&network);
    let mut logins = 0;
    for _ in 0..3 {
        let listener = listen(&network, config());
        let serve = async {
            // The first login of each life breaks.
            listener.accept().await.expect("somebody comes").accept().abort(DisconnectReason::Application, true);
            let mut session = listener.accept().await.expect("somebody comes back").accept();
            session.recv().await.expect("open").expect("well");
            session.send("welcome").await.expect("open");
            session
        };
        let login = |mut session: SoeSession| {
            logins += 1;
            async move {
                session.send("hello").await?;
                match session.recv().await {
                    Some(Ok(_)) => Ok(session),
                    _ => Err(LoginFailure::<Never>::Retry),
                }
            }
        };
        let (session, _served) = tokio::join!(server.connect(login), serve);
        let mut session = session.expect("the server is back");
        listener.shutdown(Duration::from_secs(1)).await;
        assert!(session.recv().await.is_none());
        drop(listener);
        sleep(Duration::from_secs(5)).await;
    }
    assert_eq!(logins, 6);
}

/// The session of the failed login has something to deliver, and the link is down: it takes its time to close.
#[tokio::test(start_paused = true)]
async fn an_attempt_on_a_shared_socket_waits_until_the_session_before_it_has_closed() {
    let network = Network::new(1);
    serve_echo(listen(&network, config()));
    let mut server = reconnector(&network).first_delay(Duration::from_millis(100)).max_attempts(2);
    let mut logins = 0;
    let login = |mut session: SoeSession| {
        logins += 1;
        if logins == 1 {
            network.blackout_of(CLIENT, Duration::from_secs(4));
        }
        async move {
            session.send("hello").await?;
            match timeout(Duration::from_secs(2), session.recv()).await {
                Ok(Some(Ok(_))) => Ok(session),
                _ => Err(LoginFailure::<Never>::Retry),
            }
        }
    };
    server.connect(login).await.expect("the second attempt finds the address free");
    assert_eq!(logins, 2);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_the_application_closes_in_the_background_is_waited_for_and_an_open_one_is_an_error() {
    let network = Network::new(1);
    serve_echo(listen(&network, config()));
    let mut server = reconnector(&network).first_delay(Duration::from_millis(100));
    let mut before = server.connect(no_login).await.expect("the server answers");
    let error = server.connect(no_login).await.expect_err("it is open");
    assert!(matches!(error, ReconnectError::Connect(ConnectError::Occupied(SERVER))), "{error}");
    network.blackout_of(CLIENT, Duration::from_secs(2));
    before.send("the last word").await.expect("open");
    let closing = tokio::spawn(async move { before.close(DisconnectReason::Application).await });
    server.connect(no_login).await.expect("the address becomes free");
    closing.await.expect("no panic").expect("served");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_and_a_failed_login_end_the_attempts() {
    let network = Network::new(1);
    let listener = listen(&network, config());
    let accept = tokio::spawn(async move {
        let session = listener.accept().await.expect("somebody comes").accept();
        sleep(Duration::from_secs(60)).await;
        session
    });
    let other = SessionConfig::new("Another").expect("in range");
    let mut wrong = SoeReconnector::new(SERVER, other).via(Arc::new(connector(&network, CLIENT)));
    let error = wrong.connect(no_login).await.expect_err("another protocol");
    assert!(matches!(&error, ReconnectError::Connect(error) if error.is_refused()), "{error}");

    let mut banned =
        SoeReconnector::new(SERVER, config()).via(Arc::new(connector(&network, crate::support::client(1))));
    let login = |_: SoeSession| async { Err::<(), _>(LoginFailure::Stop("banned")) };
    assert!(matches!(banned.connect(login).await, Err(ReconnectError::Login("banned"))));
    accept.abort();
}

#[tokio::test(start_paused = true)]
async fn clients_of_one_server_do_not_all_come_back_at_once() {
    let pauses = (1..=20).map(|seed| async move {
        let network = Network::new(seed);
        let mut server = reconnector(&network).max_attempts(2);
        let start = Instant::now();
        let _ = server.connect(no_login).await;
        start.elapsed().as_millis() / 50
    });
    let mut pauses = futures_util::future::join_all(pauses).await;
    pauses.sort_unstable();
    pauses.dedup();
    assert!(pauses.len() >= 5, "{pauses:?}");
}
