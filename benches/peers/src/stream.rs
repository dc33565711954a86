//! Messages over a stream of bytes: a length and the bytes.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::harness::client::Failure;
use crate::harness::duty::{Duty, GAME_TICK, GAME_UPDATE};
use crate::harness::spec::{Kind, Spec};

pub(crate) type Messages<S> = Framed<S, LengthDelimitedCodec>;

/// The messages of a stream.
pub(crate) fn messages<S: AsyncRead + AsyncWrite>(stream: S) -> Messages<S> {
    Framed::new(stream, LengthDelimitedCodec::new())
}

/// The server's side of one session, until it ends.
pub(crate) async fn attend<S: AsyncRead + AsyncWrite + Unpin>(stream: S, spec: Spec) {
    let mut session = messages(stream);
    let mut duty = Duty::new(&spec);
    let mut clockwork = interval(GAME_TICK);
    clockwork.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let reply = tokio::select! {
            message = session.next() => match message {
                Some(Ok(message)) => duty.hear(message.freeze()),
                _ => return,
            },
            _ = clockwork.tick(), if spec.kind == Kind::Game => Some(Bytes::from_static(&[7; GAME_UPDATE])),
        };
        if let Some(reply) = reply
            && session.send(reply).await.is_err()
        {
            return;
        }
    }
}

/// The next message of a client's stream.
pub(crate) async fn recv<S: AsyncRead + AsyncWrite + Unpin>(session: &mut Messages<S>) -> Result<Bytes, Failure> {
    match session.next().await {
        Some(message) => Ok(message?.freeze()),
        None => Err("the session ended".into()),
    }
}
