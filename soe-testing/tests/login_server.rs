//! The test of a login server, as somebody would write it who uses the libraries.

use std::{collections::HashMap, sync::Arc, time::Duration};

use soe_testing::{Fault, LinkProfile, Loss, Network};
use soe_tokio::{ConnectError, DisconnectReason, SessionConfig, SessionError, SoeListener, SoeSession};
use tokio::time::{Instant, sleep};

const PLAYERS: usize = 4;
const PLAY_TIME: Duration = Duration::from_secs(600);

/// The server under test: a name and a password log a player in, then every line is answered with its number.
async fn serve(listener: SoeListener, accounts: Arc<HashMap<String, String>>) {
    while let Some(incoming) = listener.accept().await {
        tokio::spawn(serve_player(incoming.accept(), Arc::clone(&accounts)));
    }
}

async fn serve_player(mut session: SoeSession, accounts: Arc<HashMap<String, String>>) -> Result<(), SessionError> {
    let Some(login) = session.recv().await.transpose()? else { return Ok(()) };
    let login = String::from_utf8_lossy(&login.payload).into_owned();
    let known = login.split_once(' ').is_some_and(|(name, password)| accounts.get(name).is_some_and(|p| p == password));
    session.send(if known { "welcome" } else { "who are you" }).await?;
    if !known {
        session.close(DisconnectReason::Application).await;
        return Ok(());
    }
    let mut lines = 0_u32;
    while session.recv().await.transpose()?.is_some() {
        lines += 1;
        session.send(format!("line {lines}")).await?;
    }
    Ok(())
}

fn config() -> SessionConfig {
    SessionConfig::new("LoginServer").expect("valid")
}

async fn text(session: &mut SoeSession) -> String {
    let message = session.recv().await.expect("the session is open").expect("nothing ends it");
    String::from_utf8_lossy(&message.payload).into_owned()
}

/// Logs in and says a line every few seconds until the time is over.
async fn play(network: Network, name: String) -> Result<u32, ConnectError> {
    let mut session = network.client(config()).await?;
    session.send(format!("{name} secret of {name}")).await.expect("open");
    assert_eq!(text(&mut session).await, "welcome");
    let (start, mut lines) = (Instant::now(), 0);
    while start.elapsed() < PLAY_TIME {
        lines += 1;
        session.send(format!("{name} says something for the {lines}. time")).await.expect("open");
        assert_eq!(text(&mut session).await, format!("line {lines}"));
        sleep(Duration::from_secs(2)).await;
    }
    session.close(DisconnectReason::Application).await;
    Ok(lines)
}

#[tokio::test(start_paused = true)]
async fn players_stay_logged_in_for_ten_minutes_on_a_link_that_loses_three_of_ten_datagrams_in_bursts() {
    let real = std::time::Instant::now();
    let network = Network::new(2024);
    network.link(LinkProfile::transatlantic().loss(Loss::bursty(0.3, 4.0)));
    let names: Vec<String> = (0..PLAYERS).map(|number| format!("player{number}")).collect();
    let accounts = names.iter().map(|name| (name.clone(), format!("secret of {name}"))).collect();
    tokio::spawn(serve(network.listener(config()).expect("bound"), Arc::new(accounts)));
    let start = Instant::now();
    let players: Vec<_> = names.into_iter().map(|name| tokio::spawn(play(network.clone(), name))).collect();
    for player in players {
        let lines = player.await.expect("no player fails").expect("the server answers");
        assert!(lines > 150, "{lines} lines in {PLAY_TIME:?}");
    }
    assert!(start.elapsed() >= PLAY_TIME);
    let stats = network.stats();
    stats.assert_happened_at_least(Fault::Lost, 1_000);
    assert!((0.25..0.35).contains(&stats.loss()), "{} of the datagrams were lost", stats.loss());
    println!("{:?} of virtual time took {:?}", start.elapsed(), real.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_told_so() {
    let network = Network::new(1);
    tokio::spawn(serve(network.listener(config()).expect("bound"), Arc::default()));
    let mut session = network.client(config()).await.expect("the server answers");
    session.send("mallory guesses").await.expect("open");
    assert_eq!(text(&mut session).await, "who are you");
    let closed = session.closed().await.expect("served");
    assert_eq!(closed.reason, DisconnectReason::Application);
}
