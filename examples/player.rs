//! A client to `login_server` and `zone_server`: logs in, joins the zone, says something, and prints what it hears.

mod common;

use std::{error::Error, process::ExitCode, time::Duration};

use common::{
    Args,
    game::{self, LOGIN_PROTOCOL, Packet, ZONE_PROTOCOL},
};
use soe_tokio::{DisconnectReason, Message, SessionConfig, SoeConnector};
use tokio::time::{Instant, timeout_at};

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "\
Logs in, joins the zone, says something, and prints what it hears.

usage: player --login ADDR --name NAME [--say TEXT] [--seconds N]

  --login ADDR        the login server
  --name NAME         who to be
  --say TEXT          what to say (default hello)
  --seconds N         how long to stay (default 2)

exit codes: 0 if what it said came back from the zone, 1 if not, 2 for wrong arguments";

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args = Args::parse(USAGE, &["login", "name", "say", "seconds"], &[]);
    let (login, name) = (args.required::<String>("login"), args.required::<String>("name"));
    let stay = Duration::from_secs(args.optional::<u32>("seconds").unwrap_or(2).into());
    match play(&login, name, args.text("say").unwrap_or("hello"), stay).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", common::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn play(login: &str, name: String, say: &str, stay: Duration) -> Result<(), BoxError> {
    // One socket for both sessions, as the games' clients do it.
    let socket = SoeConnector::bind("0.0.0.0:0").await?;
    let mut session = socket.connect(login, SessionConfig::new(LOGIN_PROTOCOL)?).await?;
    session.send(Packet::Login { name }.encode()).await?;
    let Packet::Welcome { zone, ticket, key } = game::receive(&mut session).await? else {
        return Err("not a welcome".into());
    };
    session.close(DisconnectReason::Application).await;

    // `external_client` keeps the port mapping of a home router alive.
    let config = SessionConfig::builder(ZONE_PROTOCOL).external_client().build()?;
    let mut session = socket.connect(zone, config).await?;
    session.send(Packet::Join { ticket }.encode()).await?;
    // From here on both directions are encrypted; the ticket above still left in plain text, whenever its datagram leaves.
    game::encrypt_chat(&mut session, &key)?;
    let Packet::Joined { player: me } = game::receive(&mut session).await? else { return Err("not let in".into()) };
    println!("joined {zone} as player {me:08x}");

    session.send(Message::unreliable(Packet::Moved { player: me, x: 3, y: 4 }.encode())).await?;
    session.send(Packet::Chat { player: me, number: 0, text: say.to_owned() }.encode()).await?;
    let (until, mut heard) = (Instant::now() + stay, false);
    while let Ok(packet) = timeout_at(until, game::receive(&mut session)).await {
        match packet? {
            Packet::Chat { player, text, .. } => {
                println!("{player:08x} says: {text}");
                heard |= player == me && text == say;
            }
            Packet::Moved { player, x, y } => println!("{player:08x} is at {x}, {y}"),
            other => return Err(format!("unexpected: {other:?}").into()),
        }
    }
    session.close(DisconnectReason::Application).await;
    if heard { Ok(()) } else { Err("the zone never passed on what was said".into()) }
}
