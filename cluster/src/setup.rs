//! What an operator makes once: buckets and the stream. Servers have no right to.

use std::time::Duration;

use async_nats::jetstream::stream;

use crate::bus::{Bus, CHAT, PLAYERS, TICKET_TTL, TICKETS, ZONE_TTL, ZONES};

type Error = Box<dyn std::error::Error + Send + Sync>;

pub async fn create(bus: &Bus) -> Result<(), Error> {
    // As the streams that buckets are: to make a bucket, the client first reads the limits of the account in a form that
    // Debian's server (2.9) does not speak yet.
    let bucket = |name: &str, max_age| stream::Config {
        name: format!("KV_{name}"),
        subjects: vec![format!("$KV.{name}.>")],
        max_messages_per_subject: 1,
        max_age,
        discard: stream::DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        ..stream::Config::default()
    };
    for (name, max_age) in [(ZONES, ZONE_TTL), (TICKETS, TICKET_TTL), (PLAYERS, Duration::ZERO)] {
        bus.jetstream.get_or_create_stream(bucket(name, max_age)).await?;
    }
    bus.jetstream
        .get_or_create_stream(stream::Config {
            name: CHAT.into(),
            subjects: vec!["chat.*".into()],
            max_age: Duration::from_secs(60),
            // A line that is sent again because its answer was lost is kept once.
            duplicate_window: Duration::from_secs(60),
            ..stream::Config::default()
        })
        .await?;
    Ok(())
}
