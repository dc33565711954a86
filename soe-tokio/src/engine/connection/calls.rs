//! The calls of the handles. Each locks the session briefly.

use std::{
    any::Any,
    net::IpAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use soe_core::{Message, Receipt, Relay, SendError, Session};
use tokio::task::coop::{consume_budget, poll_proceed};

use crate::{
    engine::{
        clock::now,
        connection::{
            Connection,
            state::{ConnectionState, End},
        },
        sync::{set_waker, until},
    },
    error::SessionError,
    event::SessionEvent,
};

impl Connection {
    pub(crate) fn poll_recv(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Message, SessionError>>> {
        let coop = ready!(poll_proceed(cx));
        let mut replaced = None;
        let received = self.act(|state| {
            let was_held_back = state.session.is_held_back();
            if let Some(message) = state.recv() {
                if !state.session.is_readable() {
                    state.account(now());
                }
                // The receive buffer has room again: the packets held back can be acknowledged.
                if was_held_back {
                    state.mark();
                }
                return Poll::Ready(Some(Ok(message)));
            }
            let Some(error) = state.end() else {
                replaced = set_waker(&mut state.reader, cx.waker());
                return Poll::Pending;
            };
            // A message that cannot be decrypted has ended the session: the driver sends the Disconnect.
            if state.needs_service(now()) {
                state.mark();
            }
            if error.is_clean() || std::mem::replace(&mut state.end_reported, true) {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error.into())))
        });
        if received.is_ready() {
            coop.made_progress();
        }
        received
    }

    /// Waits until every channel has room in its send buffer, for the owner's next message, see
    /// [`ConnectionState::send_as_owner`]. Meanwhile queued messages are sent.
    pub(crate) fn poll_ready(self: &Arc<Self>, cx: &mut Context<'_>) -> Poll<Result<(), SessionError>> {
        let coop = ready!(poll_proceed(cx));
        let mut replaced = None;
        let is_ready = self.act(|state| {
            if let Some(end) = state.end() {
                return Poll::Ready(Err(end.into()));
            }
            if state.promise_room() {
                return Poll::Ready(Ok(()));
            }
            replaced = state.await_room(None, cx.waker());
            Poll::Pending
        });
        if is_ready.is_ready() {
            coop.made_progress();
        }
        is_ready
    }

    /// Queues a message and requests service, waiting for room on its own channel only. `message` is taken once it is
    /// queued.
    pub(crate) fn poll_send<T>(
        self: &Arc<Self>,
        message: &mut Option<Message>,
        queue: impl FnOnce(&mut ConnectionState, Message) -> Result<T, SendError>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<T, SessionError>> {
        let coop = ready!(poll_proceed(cx));
        // Empty only if the future is polled after completion.
        let Some(next) = message.take() else { return Poll::Pending };
        let mut replaced = None;
        let sent = self.act(|state| {
            let sent = queue(state, next);
            state.mark();
            if let Err(SendError::Blocked(message)) = &sent {
                replaced = state.await_room(Some(message.channel), cx.waker());
            }
            sent
        });
        let sent = match sent {
            Ok(queued) => Ok(queued),
            Err(SendError::Blocked(blocked)) => {
                *message = Some(blocked);
                return Poll::Pending;
            }
            Err(error) => Err(self.refusal(error)),
        };
        coop.made_progress();
        Poll::Ready(sent)
    }

    /// Queues a message, and requests service if `flush` is set.
    pub(crate) fn send(
        self: &Arc<Self>,
        message: Message,
        queue: fn(&mut ConnectionState, Message) -> Result<(), SendError>,
        flush: bool,
    ) -> Result<(), SendError> {
        self.act(|state| {
            let sent = queue(state, message);
            // A full buffer may have ended the session, if so configured: the driver sends the Disconnect.
            if flush && sent.is_ok() || state.end().is_some() {
                state.mark();
            }
            sent
        })
    }

    /// Like [`Connection::poll_send`], for any number of waiting tasks: `poll_send` has a single waker slot, which
    /// belongs to the owner of the session.
    pub(crate) async fn send_shared<T>(
        self: &Arc<Self>,
        message: Message,
        queue: fn(&mut ConnectionState, Message) -> Result<T, SendError>,
    ) -> Result<T, SessionError> {
        let attempt = |message| {
            self.act(|state| {
                state.mark();
                queue(state, message)
            })
        };
        // There is always room for a task that never waits: it must leave the thread to others.
        consume_budget().await;
        let channel = message.channel;
        // There is usually room at once; only waiting needs the allocated `Waiters`.
        let is_awaited = self.waiters.get().is_some_and(|waiters| waiters.is_room_awaited(channel));
        let mut waiting = match if is_awaited { Err(SendError::Blocked(message)) } else { attempt(message) } {
            Err(SendError::Blocked(message)) => Some(message),
            sent => return sent.map_err(|error| self.refusal(error)),
        };
        let _turn = self.waiters().turn(channel).lock().await;
        until(&self.waiters().room, || match attempt(waiting.take()?) {
            Err(SendError::Blocked(message)) => {
                waiting = Some(message);
                None
            }
            sent => Some(sent.map_err(|error| self.refusal(error))),
        })
        .await
    }

    /// Attaches data of the application, replacing earlier data.
    pub(crate) fn set_data(&self, data: Arc<dyn Any + Send + Sync>) {
        // Dropped without the lock: its destructor is code of the application.
        let replaced = self.lock().cold().data.replace(data);
        drop(replaced);
    }

    pub(crate) fn data(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lock().cold_if_any()?.data.clone()
    }

    /// Waits until the peer has acknowledged the message with this receipt.
    pub(crate) fn poll_delivered(&self, receipt: Receipt, cx: &Context<'_>) -> Poll<Result<(), SessionError>> {
        let mut state = self.lock();
        // Only after the last event was taken: acknowledgements that arrived before the end are still reported.
        let end = state.end().filter(|_| state.is_over || state.is_stopped);
        let replaced = match (state.cold().receipts.get_mut(&receipt), end) {
            (None, _) => return Poll::Ready(Ok(())),
            (Some(_), Some(end)) => return Poll::Ready(Err(end.into())),
            (Some(waker), None) => set_waker(waker, cx.waker()),
        };
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    /// The error of a call that waits for room.
    pub(crate) fn refusal(&self, error: SendError) -> SessionError {
        match (&error, self.lock().end()) {
            (SendError::Closed(_), Some(end)) => end.into(),
            _ => error.into(),
        }
    }

    pub(crate) fn flush(self: &Arc<Self>) -> Result<(), SessionError> {
        self.act(|state| match state.end() {
            Some(end) => Err(end.into()),
            None => {
                state.mark();
                Ok(())
            }
        })
    }

    /// The local address that the peer sends to, if it is known.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        let spoken_to = self.lock().local_ip;
        let bound = self.shared.local_addr.ip();
        spoken_to.map(|ip| ip.to_canonical()).or_else(|| (!bound.is_unspecified()).then_some(bound))
    }

    /// By way of whom the peer is reached.
    pub(crate) fn relay(&self) -> Option<Relay> {
        self.lock().relay()
    }

    /// Sets a key or a hook. From now on the application may hold the session's lock for a long time.
    pub(crate) fn set_transform<T>(self: &Arc<Self>, set: impl FnOnce(&mut Session) -> T) -> T {
        self.expect_transforms();
        self.act(|state| set(&mut state.session))
    }

    pub(crate) async fn connected(&self) -> Result<(), End> {
        until(&self.waiters().changes, || {
            let state = self.lock();
            match state.end() {
                Some(end) => Some(Err(end)),
                None => state.session.is_connected().then_some(Ok(())),
            }
        })
        .await
    }

    pub(crate) async fn closed(&self) -> End {
        until(&self.waiters().changes, || self.try_lock()?.end()).await
    }

    /// Waits until the Disconnects have been sent. False: the driver ended before that.
    pub(crate) async fn disconnect_sent(&self) -> bool {
        until(&self.waiters().changes, || {
            let state = self.try_lock()?;
            let has_told = state.session.has_told_peer();
            (has_told || state.is_stopped).then_some(has_told)
        })
        .await
    }

    /// Like [`Connection::closed`] and [`Connection::told`], for the one task that closes the session as a sink.
    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<End> {
        let mut state = self.lock();
        let is_told = state.is_stopped || state.session.has_told_peer();
        if let Some(end) = state.end().filter(|_| is_told) {
            return Poll::Ready(end);
        }
        let replaced = set_waker(&mut state.cold().closer, cx.waker());
        drop(state);
        drop(replaced);
        Poll::Pending
    }

    pub(crate) async fn next_event(&self) -> Option<SessionEvent> {
        until(&self.waiters().changes, || {
            let mut state = self.lock();
            match state.cold_if_any().and_then(|cold| cold.events.pop_front()) {
                None if state.end().is_none() => None,
                event => Some(event),
            }
        })
        .await
    }
}
