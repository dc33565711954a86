//! One message to many sessions.

use std::time::{Duration, Instant};

use soe_core::{DisconnectReason, Message, SendError};

use super::SessionHandle;
use crate::engine::connection::batch::ServiceBatch;

/// How long receivers are waited for that are in a hook.
const PATIENCE: Duration = Duration::from_millis(10);
/// How often they are tried.
const TRY_AGAIN: Duration = Duration::from_micros(200);

/// What [`broadcast`] does with a receiver whose send buffer is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SlowReceiver {
    /// The receiver is skipped. For state that the next message replaces, and messages that may be lost.
    #[default]
    Skip,
    /// Queued unreliable messages of this receiver are dropped, oldest first, until there is room. If the new message
    /// is reliable, nothing is dropped for it and the receiver is skipped.
    DropOldest,
    /// The receiver's session is closed with this reason. For protocols in which a receiver cannot continue without the
    /// message.
    Close(DisconnectReason),
}

/// The outcome of [`broadcast`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Sessions that the message was queued for.
    pub sent: usize,
    /// Sessions that did not get the message: their send buffers were full, or a hook held them.
    pub skipped: Vec<SessionHandle>,
    /// Sessions that were closed for that, see [`SlowReceiver::Close`].
    pub closed: Vec<SessionHandle>,
    /// Messages that were dropped to make room, see [`SlowReceiver::DropOldest`].
    pub dropped: usize,
    /// Sessions that had already ended or were closing: the caller can remove them from its list.
    pub ended: Vec<SessionHandle>,
    /// Sessions that cannot carry the message: it is empty, or longer than they may send.
    pub refused: usize,
}

/// Queues one message for many sessions and sends it at once. Never waits for room in a send buffer: no receiver delays
/// another. The bytes are shared. A session copies them only to change them: to encrypt them, for a hook, or to escape
/// a message that begins with byte 00. Blocks while another task uses a receiver's session, usually less than a
/// microsecond. Receivers in whose [`MessageHook`](crate::MessageHook) another task works come last; those that are not free
/// within 10 ms are skipped, whatever `slow` says.
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
    let (mut report, mut batch, mut held) = (BroadcastReport::default(), ServiceBatch::default(), Vec::new());
    for receiver in receivers {
        if !report.offer(&mut batch, receiver, &message, slow) {
            held.push(receiver);
        }
    }
    // It leaves for them before anybody is waited for.
    drop(batch);
    let deadline = Instant::now() + PATIENCE;
    while !held.is_empty() && Instant::now() < deadline {
        std::thread::sleep(TRY_AGAIN);
        let mut batch = ServiceBatch::default();
        held.retain(|receiver| !report.offer(&mut batch, receiver, &message, slow));
    }
    report.skipped.extend(held.into_iter().cloned());
    report
}

impl BroadcastReport {
    /// Queues the message for one receiver and counts what became of it. False: a hook holds the session.
    fn offer(
        &mut self,
        batch: &mut ServiceBatch,
        receiver: &SessionHandle,
        message: &Message,
        slow: SlowReceiver,
    ) -> bool {
        let connection = receiver.connection();
        let drops_oldest = slow == SlowReceiver::DropOldest;
        let offered = batch.try_act(connection, |state| state.offer(message.clone(), drops_oldest));
        let Some((queued, dropped)) = offered else { return false };
        self.dropped += dropped;
        match queued {
            Ok(()) => self.sent += 1,
            Err(SendError::Blocked(_)) => match slow {
                SlowReceiver::Close(reason) if connection.try_close(reason) => self.closed.push(receiver.clone()),
                _ => self.skipped.push(receiver.clone()),
            },
            Err(SendError::Closed(_)) => self.ended.push(receiver.clone()),
            Err(_) => self.refused += 1,
        }
        true
    }
}
