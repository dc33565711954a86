//! What a session and its halves share: the hold on the connection, and the calls that both offer.

use std::{
    future::poll_fn,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
};

use soe_core::{Closed, DisconnectReason, KeyError, Message, SendError, SessionStats};

use crate::{
    engine::{
        clock::now,
        connection::{
            Connection, ENDED_HERE,
            state::{ConnectionState, End},
        },
    },
    error::SessionError,
};

/// Counts a session or one of its halves as a holder of the connection. Dropping the last one closes the session.
#[derive(Debug)]
pub(crate) struct SessionOwner {
    pub(crate) connection: Arc<Connection>,
}

impl SessionOwner {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        connection.handles.fetch_add(1, Ordering::Relaxed);
        Self { connection }
    }

    /// Whether both belong to one session.
    pub(crate) fn is_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.connection, &other.connection)
    }
}

impl Drop for SessionOwner {
    fn drop(&mut self) {
        if self.connection.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.connection.close(ENDED_HERE);
        }
    }
}

pub(crate) fn try_send(connection: &Arc<Connection>, message: Message) -> Result<(), SendError> {
    connection.send(message, ConnectionState::send_as_owner, true)
}

pub(crate) fn start_send(connection: &Arc<Connection>, message: Message) -> Result<(), SessionError> {
    connection.send(message, ConnectionState::send_as_owner, false).map_err(|error| connection.refusal(error))
}

pub(crate) fn poll_close(connection: &Arc<Connection>, cx: &Context<'_>) -> Poll<Result<(), SessionError>> {
    if !connection.is_closed() {
        connection.close(ENDED_HERE);
    }
    match ready!(connection.poll_closed(cx)) {
        end if end.is_clean() => Poll::Ready(Ok(())),
        end => Poll::Ready(Err(end.into())),
    }
}

/// No `async fn`: its future would have room for the message three times, in every task of an application that can send.
pub(crate) fn send(connection: &Arc<Connection>, message: Message) -> impl Future<Output = Result<(), SessionError>> {
    let mut waiting = Some(message);
    poll_fn(move |cx| connection.poll_send(&mut waiting, ConnectionState::send_as_owner, cx))
}

pub(crate) async fn close(connection: &Arc<Connection>, reason: DisconnectReason) -> Option<Closed> {
    connection.close(reason);
    let end = closed(connection).await;
    // A Disconnect is not acknowledged but repeated, and the program may end after this.
    connection.disconnect_sent().await;
    // The last Disconnect may not have reached the kernel yet. That the session has ended is no error here.
    let _ = connection.flushed().await;
    end
}

pub(crate) async fn closed(connection: &Arc<Connection>) -> Option<Closed> {
    match connection.closed().await {
        End::Closed(closed) => Some(closed),
        End::Stopped => None,
    }
}

pub(crate) fn set_send_key(connection: &Arc<Connection>, key: Option<&[u8]>) -> Result<(), KeyError> {
    connection.set_transform(|session| session.set_send_key(key))
}

pub(crate) fn set_recv_key(connection: &Arc<Connection>, key: Option<&[u8]>) -> Result<(), KeyError> {
    connection.set_transform(|session| session.set_recv_key(key))
}

pub(crate) fn stats(connection: &Arc<Connection>) -> SessionStats {
    connection.lock().session.stats(now())
}
