//! A login server: checks who is there, and sends the player to a zone server with a ticket and a fresh key.
//!
//! By hand, in three terminals:
//!
//! ```sh
//! cargo run --example zone_server -- --listen 127.0.0.1:20260 --link 127.0.0.1:20261
//! cargo run --example login_server -- --listen 127.0.0.1:20042 --zone 127.0.0.1:20260 --link 127.0.0.1:20261
//! cargo run --example player -- --login 127.0.0.1:20042 --name Ayla --say hello
//! ```

mod common;

use std::{error::Error, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use common::{
    Args,
    game::{self, LINK_PROTOCOL, LOGIN_PROTOCOL, Packet},
};
use soe_tokio::{DisconnectReason, Incoming, SessionConfig, SoeListener, SoeSession};
use tokio::{signal, sync::Mutex, time::timeout};

type BoxError = Box<dyn Error + Send + Sync>;

const USAGE: &str = "\
Lets players log in and sends them to a zone server with a fresh RC4 key.

usage: login_server --listen ADDR --zone ADDR --link ADDR [--metrics ADDR]

  --listen ADDR       where players log in
  --zone ADDR         where the zone server listens to players
  --link ADDR         where the zone server listens to login servers
  --metrics ADDR      where /metrics (OpenMetrics) and /worst (JSON) are served over HTTP; keep it on a trusted network

Runs until Ctrl-C. Start zone_server first; player is the client to both.
exit codes: 0 after Ctrl-C, 1 if a socket failed, 2 for wrong arguments";

/// How long a player may take to say who it is. Without it an idle stranger would keep its session forever.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse(USAGE, &["listen", "zone", "link", "metrics"], &[]);
    let (listen, zone, link) = (args.required::<SocketAddr>("listen"), args.required("zone"), args.required("link"));
    match run(listen, zone, link, args.optional("metrics")).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", common::explain(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(
    listen: SocketAddr,
    zone: SocketAddr,
    link: SocketAddr,
    metrics: Option<SocketAddr>,
) -> Result<(), BoxError> {
    // `external_server` bounds what a single player can make the server hold: logging in takes small messages.
    let config = SessionConfig::builder(LOGIN_PROTOCOL).external_server().max_message_size(4096).build()?;
    let listener = Arc::new(SoeListener::bind(listen, config).await?);
    println!("listening on {}", listener.local_addr());
    if let Some(address) = metrics {
        common::metrics::serve(address, Arc::clone(&listener)).await?;
    }
    let link = Arc::new(Link { address: link, session: Mutex::new(None) });
    let mut interrupted = std::pin::pin!(signal::ctrl_c());
    loop {
        tokio::select! {
            incoming = listener.accept() => match incoming {
                // One task for each player: whoever is slow keeps nobody else waiting.
                Some(incoming) => drop(tokio::spawn(serve(incoming, zone, Arc::clone(&link)))),
                None => break,
            },
            _ = &mut interrupted => break,
        }
    }
    listener.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

async fn serve(incoming: Incoming, zone: SocketAddr, link: Arc<Link>) {
    let mut session = incoming.accept();
    let peer = session.peer_addr();
    match timeout(PATIENCE, log_in(&mut session, zone, &link)).await {
        Ok(Ok(name)) => println!("{peer}: {name} may enter"),
        Ok(Err(error)) => println!("{peer}: {}", common::explain(&*error)),
        Err(_) => println!("{peer}: took too long"),
    }
    // Delivers what is queued first: the welcome is not lost by closing behind it.
    session.close(DisconnectReason::Application).await;
}

async fn log_in(session: &mut SoeSession, zone: SocketAddr, link: &Link) -> Result<String, BoxError> {
    let Packet::Login { name } = game::receive(session).await? else { return Err("not a login".into()) };
    // A real server would check a password or a launcher's token here.
    let (ticket, key) = (u64::from_be_bytes(game::secret()?), game::secret()?);
    // The zone has to know before the player does: it could be there at once.
    link.announce(Packet::Expect { ticket, key, name: name.clone() }).await?;
    session.send(Packet::Welcome { zone, ticket, key }.encode()).await?;
    Ok(name)
}

/// The way to the zone server: a session as well, between two servers on a trusted network.
struct Link {
    address: SocketAddr,
    /// `None` until needed, and after a failure: the zone server may be restarted at any time.
    session: Mutex<Option<SoeSession>>,
}

impl Link {
    async fn announce(&self, player: Packet) -> Result<(), BoxError> {
        let mut slot = self.session.lock().await;
        // Taken out while in use. If this future is dropped half-way, by the time-out, the next player gets a new link and
        // not the answer to this one.
        let mut session = match slot.take() {
            Some(session) => session,
            None => {
                SoeSession::connect(self.address, SessionConfig::builder(LINK_PROTOCOL).internal().build()?).await?
            }
        };
        session.send(player.encode()).await?;
        if game::receive(&mut session).await? != player {
            return Err("the zone server expects somebody else".into());
        }
        *slot = Some(session);
        Ok(())
    }
}
