//! The connection to NATS, which may be away for a while: whoever needs it waits, and nobody else.

use std::{env, io, time::Duration};

use async_nats::{
    Client, ConnectOptions,
    jetstream::{self, kv::Store},
};

/// Buckets: who is where, and what each is for.
pub const ZONES: &str = "zones";
pub const TICKETS: &str = "tickets";
pub const PLAYERS: &str = "players";
/// The stream of all chat.
pub const CHAT: &str = "CHAT";

/// A zone that has not announced itself for this long is gone.
pub const ZONE_TTL: Duration = Duration::from_secs(2);
/// A ticket that was not redeemed within this time is none.
pub const TICKET_TTL: Duration = Duration::from_secs(60);

/// A connection under a user of its own.
#[derive(Clone, Debug)]
pub struct Bus {
    pub client: Client,
    pub jetstream: jetstream::Context,
}

impl Bus {
    /// Connects as `user`, with the password and the address that the environment gives. Waits for NATS if it is not there yet,
    /// and comes back by itself whenever it was away.
    pub async fn connect(user: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let missing = |name: &str| io::Error::new(io::ErrorKind::NotFound, format!("{name} is not set"));
        let url = env::var("NATS_URL").map_err(|_| missing("NATS_URL"))?;
        let password = env::var("NATS_PASSWORD").map_err(|_| missing("NATS_PASSWORD"))?;
        Self::connect_to(&url, user, &password).await
    }

    pub async fn connect_to(
        url: &str,
        user: &str,
        password: &str,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let client = ConnectOptions::with_user_and_password(user.into(), password.into())
            .name(user)
            // The permissions allow each user its own answers only.
            .custom_inbox_prefix(format!("_INBOX_{user}"))
            .retry_on_initial_connect()
            .max_reconnects(None)
            .reconnect_delay_callback(|_| RECONNECT)
            .request_timeout(Some(ANSWER))
            .connect(url)
            .await?;
        let jetstream = jetstream::new(client.clone());
        Ok(Self { client, jetstream })
    }

    /// The bucket of this name, once NATS is there.
    pub async fn bucket(&self, name: &str) -> Store {
        loop {
            if let Ok(Ok(store)) = tokio::time::timeout(ANSWER, self.jetstream.get_key_value(name)).await {
                return store;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What one attempt has come to.
pub enum Attempt<T> {
    Done(T),
    /// NATS did not answer, or something came between: try again.
    Again,
}

/// Repeats an attempt, the body of an async block, until it is done. Whatever is attempted must be safe to repeat: its answer
/// can be lost after it was done. A macro, because the compiler cannot prove yet that futures of async closures are `Send`.
macro_rules! until_done {
    ($attempt:block) => {
        loop {
            if let Ok($crate::bus::Attempt::Done(done)) = tokio::time::timeout($crate::bus::ANSWER, async $attempt).await {
                break done;
            }
            tokio::time::sleep($crate::bus::PAUSE).await;
        }
    };
}
pub(crate) use until_done;

/// How long an answer of NATS is waited for.
pub const ANSWER: Duration = Duration::from_secs(2);
/// The pause between two attempts.
pub const PAUSE: Duration = Duration::from_millis(100);
const RECONNECT: Duration = Duration::from_millis(200);
