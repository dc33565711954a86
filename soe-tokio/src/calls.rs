//! What a session's two sides in the application call: each locks the session for a moment.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use soe_core::{Message, Receipt, SendError};

use crate::{
    error::SessionError,
    peer::{Peer, now},
    session::SessionEvent,
    state::{End, State, add_waker, set_waker},
};

impl Peer {
    pub(crate) fn poll_recv(self: &Arc<Self>, cx: &Context<'_>) -> Poll<Option<Result<Message, SessionError>>> {
        self.act(|state| {
            let was_held_back = state.session.is_held_back();
            if let Some(message) = state.recv() {
                if !state.session.is_readable() {
                    self.account(state, now());
                }
                // What was taken has made room: what waited for it is to be acknowledged.
                if was_held_back {
                    state.mark();
                }
                return Poll::Ready(Some(Ok(message)));
            }
            let Some(error) = state.end() else {
                set_waker(&mut state.reader, cx);
                return Poll::Pending;
            };
            // A message that cannot be decrypted ends the session here: the peer is to hear of it.
            if state.needs_service(now()) {
                state.mark();
            }
            if error.is_clean() || std::mem::replace(&mut state.end_reported, true) {
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error.into())))
        })
    }

    /// Waits until every channel's send buffer has room. What fills them is sent meanwhile.
    pub(crate) fn poll_ready(self: &Arc<Self>, cx: &Context<'_>) -> Poll<Result<(), SessionError>> {
        self.act(|state| {
            if let Some(end) = state.end() {
                return Poll::Ready(Err(end.into()));
            }
            if state.session.send_capacity() > 0 {
                return Poll::Ready(Ok(()));
            }
            state.await_room(None, cx);
            Poll::Pending
        })
    }

    /// Queues a message and has it sent, waiting for room on its own channel alone. `message` is taken once it is queued.
    pub(crate) fn poll_send<T>(
        self: &Arc<Self>,
        message: &mut Option<Message>,
        queue: impl FnOnce(&mut State, Message) -> Result<T, SendError>,
        cx: &Context<'_>,
    ) -> Poll<Result<T, SessionError>> {
        // Only a future that is polled after it was ready finds nothing here.
        let Some(next) = message.take() else { return Poll::Pending };
        let sent = self.act(|state| {
            let sent = queue(state, next);
            state.mark();
            if let Err(SendError::Blocked(message)) = &sent {
                state.await_room(Some(message.channel).filter(|channel| channel.is_reliable()), cx);
            }
            sent
        });
        match sent {
            Ok(queued) => Poll::Ready(Ok(queued)),
            Err(SendError::Blocked(blocked)) => {
                *message = Some(blocked);
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(self.refusal(error))),
        }
    }

    /// Queues a message, and has it sent if `flush` says so.
    pub(crate) fn send(self: &Arc<Self>, message: Message, flush: bool) -> Result<(), SendError> {
        self.act(|state| {
            let sent = state.send(message);
            // A full buffer may end the session, by configuration: the peer is to hear of that.
            if flush && sent.is_ok() || state.end().is_some() {
                state.mark();
            }
            sent
        })
    }

    /// Waits until the peer has acknowledged the message with this receipt.
    pub(crate) fn poll_delivered(&self, receipt: Receipt, cx: &Context<'_>) -> Poll<Result<(), SessionError>> {
        let mut state = self.lock();
        let end = state.end().filter(|_| state.is_over || state.is_stopped);
        match (state.rare().receipts.get_mut(&receipt), end) {
            (None, _) => Poll::Ready(Ok(())),
            (Some(_), Some(end)) => Poll::Ready(Err(end.into())),
            (Some(waker), None) => {
                set_waker(waker, cx);
                Poll::Pending
            }
        }
    }

    /// What a refused message means to a caller who waits for room.
    pub(crate) fn refusal(&self, error: SendError) -> SessionError {
        match error {
            SendError::Blocked(message) => SessionError::NotReady(message),
            SendError::Empty(message) => SessionError::Empty(message),
            SendError::TooLarge { message, limit } => SessionError::TooLarge { message, limit },
            SendError::Closed(message) => match self.lock().end() {
                Some(end) => end.into(),
                None => SessionError::Refused(Box::new(SendError::Closed(message))),
            },
            other => SessionError::Refused(Box::new(other)),
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

    /// Waits until everything queued so far has been handed to the kernel.
    pub(crate) fn poll_flushed(self: &Arc<Self>, cx: &Context<'_>) -> Poll<Result<(), SessionError>> {
        self.act(|state| {
            // Before the look at the counter: the driver counts first and looks at this second.
            self.awaits_flush.store(true, Ordering::SeqCst);
            if state.is_stopped {
                return Poll::Ready(Err(SessionError::Stopped));
            }
            if self.is_flushed(state) {
                let others_wait = state.rare_if_any().is_some_and(|rare| !rare.flushers.is_empty());
                self.awaits_flush.store(others_wait, Ordering::SeqCst);
                return Poll::Ready(match state.end() {
                    Some(end) if state.session.undelivered().messages > 0 => Err(end.into()),
                    _ => Ok(()),
                });
            }
            add_waker(&mut state.rare().flushers, cx);
            state.mark();
            Poll::Pending
        })
    }

    pub(crate) fn is_flushed(&self, state: &State) -> bool {
        let (session, now) = (&state.session, now());
        let waits = session.has_transmit(now) || session.stats(now).pending_bytes > 0;
        !waits && state.batch <= self.shared.sent_batches.load(Ordering::SeqCst)
    }

    /// The local address that the peer speaks to, if it is known.
    pub(crate) fn local_ip(&self) -> Option<IpAddr> {
        let spoken_to = self.lock().local_ip;
        let bound = self.shared.local_addr.ip();
        spoken_to.map(|ip| ip.to_canonical()).or_else(|| (!bound.is_unspecified()).then_some(bound))
    }

    pub(crate) fn poll_connected(&self, cx: &Context<'_>) -> Poll<Result<(), End>> {
        let mut state = self.lock();
        if let Some(end) = state.end() {
            return Poll::Ready(Err(end));
        }
        if state.session.is_connected() {
            return Poll::Ready(Ok(()));
        }
        add_waker(&mut state.rare().watchers, cx);
        Poll::Pending
    }

    pub(crate) fn poll_closed(&self, cx: &Context<'_>) -> Poll<End> {
        let mut state = self.lock();
        if let Some(end) = state.end() {
            return Poll::Ready(end);
        }
        add_waker(&mut state.rare().watchers, cx);
        Poll::Pending
    }

    pub(crate) fn poll_event(&self, cx: &Context<'_>) -> Poll<Option<SessionEvent>> {
        let mut state = self.lock();
        if let Some(event) = state.rare_if_any().and_then(|rare| rare.events.pop_front()) {
            return Poll::Ready(Some(event));
        }
        if state.end().is_some() {
            return Poll::Ready(None);
        }
        add_waker(&mut state.rare().watchers, cx);
        Poll::Pending
    }
}
