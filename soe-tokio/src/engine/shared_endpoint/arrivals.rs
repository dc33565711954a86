//! The tasks that wait for the next session to accept.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use soe_core::RequestInfo;
use tokio::sync::Notify;

use super::{Member, SharedEndpoint};
use crate::engine::{
    clock::now,
    sync::{lock, set_waker, until},
};

#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// Tasks that wait in `accept`.
    tasks: Notify,
    /// The task that polls the listener as a stream.
    stream: Mutex<Option<Waker>>,
}

impl Arrivals {
    /// There is nothing more to wait for.
    pub(super) fn wake_all(&self) {
        self.wake_stream();
        self.tasks.notify_waiters();
    }

    fn wake_stream(&self) {
        let stream = lock(&self.stream).take();
        stream.into_iter().for_each(Waker::wake);
    }
}

impl<C: Member> SharedEndpoint<C> {
    /// There is one more session to accept.
    pub(crate) fn announce_arrival(&self) {
        self.arrivals.wake_stream();
        self.arrivals.tasks.notify_one();
    }

    /// The next session in the accept queue, or `Some(None)` after the last one.
    fn next_arrival(&self) -> Option<Option<(Arc<C>, RequestInfo)>> {
        loop {
            let (next, is_closed) = self.call(|endpoint| (endpoint.poll_accept(now()), endpoint.is_closed()));
            let Some((key, request)) = next else { return is_closed.then_some(None) };
            if let Some(connection) = self.session(key) {
                return Some(Some((connection, request)));
            }
        }
    }

    /// Waits for the next session in the accept queue. `None`: the listener is closed and the queue is empty.
    pub(crate) async fn accept(&self) -> Option<(Arc<C>, RequestInfo)> {
        until(&self.arrivals.tasks, || self.next_arrival()).await
    }

    /// Like [`SharedEndpoint::accept`], for the one task that polls the listener as a stream.
    pub(crate) fn poll_accept(&self, cx: &Context<'_>) -> Poll<Option<(Arc<C>, RequestInfo)>> {
        if let Some(next) = self.next_arrival() {
            return Poll::Ready(next);
        }
        let replaced = set_waker(&mut lock(&self.arrivals.stream), cx.waker());
        drop(replaced);
        // A session may have arrived before the waker was stored.
        match self.next_arrival() {
            Some(next) => Poll::Ready(next),
            None => Poll::Pending,
        }
    }
}
