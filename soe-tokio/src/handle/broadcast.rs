//! One message to many sessions.

use soe_core::{DisconnectReason, Message, SendError};

use super::SessionHandle;
use crate::engine::connection::batch::ServiceBatch;

/// What becomes of a receiver whose send buffer is full, in [`broadcast`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowReceiver {
    /// It does not get this message. For what the next message says anew, or nobody misses.
    #[default]
    Skip,
    /// Unreliable messages that wait for it are dropped, oldest first, until there is room: it gets the newest. A reliable
    /// message cannot take the place of another: its receiver is skipped.
    DropOldest,
    /// Its session is closed with this reason: whoever misses one reliable message cannot go on.
    Close(DisconnectReason),
}

/// What became of a message in [`broadcast`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Sessions that the message was queued for.
    pub sent: usize,
    /// Sessions whose send buffers were full: they have not got it.
    pub skipped: Vec<SessionHandle>,
    /// Sessions that were closed for that, see [`SlowReceiver::Close`].
    pub closed: Vec<SessionHandle>,
    /// Messages that were dropped to make room, see [`SlowReceiver::DropOldest`].
    pub dropped: usize,
    /// Sessions that were over or closing already: they can be taken off the list.
    pub ended: Vec<SessionHandle>,
    /// Sessions that cannot carry the message: it is empty, or longer than they may send.
    pub refused: usize,
}

/// Queues one message for many sessions and has it sent at once. Nobody waits, and no receiver holds up another.
///
/// The bytes are shared: a session copies them where it has to change them, under a key or a hook, or to escape a message
/// that begins with byte 00.
///
/// A receiver that is in use by another task at the moment is waited for, as long as that task holds it: usually for less
/// than a microsecond, with a slow [`MessageHook`](crate::MessageHook) for as long as it takes.
///
/// ```
/// use soe_testing::Network;
/// use soe_tokio::{Channel, Message, SessionConfig, SlowReceiver, broadcast};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build()?.block_on(async {
/// # let network = Network::new(1);
/// # let listener = network.listener(SessionConfig::new("Example")?)?;
/// # let connector = network.connector(Network::client_address(0))?;
/// # let (client, server) = tokio::join!(
/// #     connector.connect(Network::SERVER, SessionConfig::new("Example")?), listener.accept());
/// # let (mut client, _server) = (client?, server.expect("open").accept());
/// let players: Vec<_> = listener.sessions().collect();
/// let tick = Message::new(Channel::Unreliable, &b"tick"[..]);
/// let report = broadcast(&players, tick, SlowReceiver::DropOldest);
/// assert_eq!(report.sent, players.len());
/// # assert_eq!(client.recv().await.expect("open")?.payload, "tick");
/// # Ok(()) })
/// # }
/// ```
pub fn broadcast<'a>(
    receivers: impl IntoIterator<Item = &'a SessionHandle>,
    message: impl Into<Message>,
    slow: SlowReceiver,
) -> BroadcastReport {
    let message = message.into();
    let (mut report, mut batch) = (BroadcastReport::default(), ServiceBatch::default());
    let drops_oldest = slow == SlowReceiver::DropOldest;
    for receiver in receivers {
        let connection = receiver.connection();
        let (queued, dropped) = batch.act(connection, |state| state.offer(message.clone(), drops_oldest));
        report.dropped += dropped;
        match queued {
            Ok(()) => report.sent += 1,
            Err(SendError::Blocked(_)) => match slow {
                SlowReceiver::Close(reason) => {
                    connection.close(reason);
                    report.closed.push(receiver.clone());
                }
                _ => report.skipped.push(receiver.clone()),
            },
            Err(SendError::Closed(_)) => report.ended.push(receiver.clone()),
            Err(_) => report.refused += 1,
        }
    }
    report
}
