//! Chat across zones: a stream that every zone writes to and reads from. A line that is said while NATS is away is heard
//! afterwards, by everybody and once.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::consumer::{DeliverPolicy, pull::OrderedConfig},
};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    bus::{Attempt, Bus, CHAT, until_done},
    tickets::new_id,
};

/// A line of chat.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    pub from: String,
    pub text: String,
}

/// Sends lines for ever, under the zone's own subject.
pub async fn speak(bus: Bus, zone: String, mut lines: mpsc::Receiver<Line>) {
    let subject = format!("chat.{zone}");
    while let Some(line) = lines.recv().await {
        let value = serde_json::to_vec(&line).expect("it has no keys that JSON lacks");
        // The stream keeps a line that is sent again, because its answer was lost, once.
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", new_id());
        until_done!({
            let sent = bus.jetstream.publish_with_headers(subject.clone(), headers.clone(), value.clone().into()).await;
            let Ok(answer) = sent else { return Attempt::Again };
            match answer.await {
                Ok(_) => Attempt::Done(()),
                Err(_) => Attempt::Again,
            }
        });
    }
}

/// Hears all lines of all zones for ever, from now on.
pub async fn listen(bus: Bus, mut heard: impl FnMut(Line)) {
    let mut next = None;
    loop {
        let deliver_policy = match next {
            Some(start_sequence) => DeliverPolicy::ByStartSequence { start_sequence },
            None => DeliverPolicy::New,
        };
        let config = OrderedConfig { deliver_policy, ..OrderedConfig::default() };
        if let Ok(stream) = bus.jetstream.get_stream_no_info(CHAT).await
            && let Ok(consumer) = stream.create_consumer(config).await
            && let Ok(mut messages) = consumer.messages().await
        {
            // The consumer itself notices after half a minute that NATS was away and has forgotten it.
            let connects = || bus.client.statistics().connects.load(Ordering::Relaxed);
            let connected = connects();
            loop {
                let message = match tokio::time::timeout(PAUSE, messages.next()).await {
                    Ok(Some(Ok(message))) => message,
                    Ok(_) => break,
                    Err(_) if connects() == connected => continue,
                    Err(_) => break,
                };
                let Ok(info) = message.info() else { continue };
                // Not again, if the consumer was made anew.
                if next.is_none_or(|next| info.stream_sequence >= next) {
                    next = Some(info.stream_sequence + 1);
                    serde_json::from_slice(&message.payload).into_iter().for_each(&mut heard);
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

const PAUSE: Duration = Duration::from_millis(200);
