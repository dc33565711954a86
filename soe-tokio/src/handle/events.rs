//! The events of a session as a stream.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_core::Stream;

use crate::{engine::connection::Connection, event::SessionEvent};

type NextEvent = Pin<Box<dyn Future<Output = Option<SessionEvent>> + Send>>;

/// The events of a session. Ends with the session. Each event is returned once: several streams of one session share
/// its events.
pub struct SessionEvents {
    connection: Arc<Connection>,
    /// Made when first polled.
    waiting: Option<NextEvent>,
}

impl SessionEvents {
    pub(crate) fn new(connection: Arc<Connection>) -> Self {
        Self { connection, waiting: None }
    }
}

impl Stream for SessionEvents {
    type Item = SessionEvent;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<SessionEvent>> {
        let this = self.get_mut();
        let waiting = this.waiting.get_or_insert_with(|| {
            let connection = Arc::clone(&this.connection);
            Box::pin(async move { connection.next_event().await })
        });
        let event = ready!(waiting.as_mut().poll(cx));
        this.waiting = None;
        Poll::Ready(event)
    }
}

impl fmt::Debug for SessionEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionEvents").field("connection", &self.connection).finish_non_exhaustive()
    }
}
