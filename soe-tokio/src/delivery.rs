//! Receipts: waiting for the acknowledgement of a message.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use soe_core::{Message, Receipt};

use crate::{
    engine::connection::{Connection, state::ConnectionState},
    error::SessionError,
};

/// Waits until the peer has acknowledged a message. See [`crate::SoeSession::send_with_receipt`].
///
/// The future gives an error if the session ends before that.
#[derive(Debug)]
#[must_use = "a delivery does nothing unless awaited"]
pub struct Delivery {
    connection: Arc<Connection>,
    receipt: Receipt,
}

impl Delivery {
    pub(crate) fn new(connection: Arc<Connection>, receipt: Receipt) -> Self {
        Self { connection, receipt }
    }

    pub(crate) async fn send(connection: &Arc<Connection>, message: Message) -> Result<Self, SessionError> {
        let mut waiting = Some(message);
        let receipt =
            poll_fn(|cx| connection.poll_send(&mut waiting, ConnectionState::send_with_receipt_as_owner, cx)).await?;
        Ok(Self::new(Arc::clone(connection), receipt))
    }
}

impl Future for Delivery {
    type Output = Result<(), SessionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.connection.poll_delivered(self.receipt, cx)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        let mut state = self.connection.lock();
        let waker = state.cold_if_any().and_then(|cold| cold.receipts.remove(&self.receipt));
        drop(state);
        drop(waker);
    }
}
