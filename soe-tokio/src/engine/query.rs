//! Status queries to servers, outside of any session.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use soe_core::wire::Packet;

use crate::{engine::sync::lock, socket::SendBatch};

/// The status queries of one socket.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    /// Whether there is any query. Read without the lock, once per received batch.
    any: AtomicBool,
    /// Whether a query waits to be sent.
    due: AtomicBool,
    asked: Mutex<Asked>,
}

#[derive(Debug, Default)]
struct Asked {
    next_id: u64,
    queries: Vec<Query>,
}

#[derive(Debug)]
struct Query {
    id: u64,
    to: SocketAddr,
    is_due: bool,
    answer: Option<Bytes>,
    waker: Option<Waker>,
}

/// A query under way. Dropping it removes the query.
pub(crate) struct Asking<'a> {
    queries: &'a Queries,
    id: u64,
}

impl Asking<'_> {
    fn with<T: Default>(&self, work: impl FnOnce(&mut Query) -> T) -> T {
        lock(&self.queries.asked).queries.iter_mut().find(|query| query.id == self.id).map(work).unwrap_or_default()
    }

    /// Sends the query, or sends it again.
    pub(crate) fn repeat(&self) {
        self.with(|query| query.is_due = true);
        self.queries.due.store(true, Ordering::SeqCst);
    }

    /// Waits for the answer.
    pub(crate) async fn answer(&self) -> Bytes {
        poll_fn(|cx| self.poll_answer(cx)).await
    }

    fn poll_answer(&self, cx: &Context<'_>) -> Poll<Bytes> {
        let answer = self.with(|query| {
            // Stored under the same lock as the answer is read, so no answer is missed.
            query.waker = Some(cx.waker().clone());
            query.answer.take()
        });
        answer.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asked = lock(&self.queries.asked);
        asked.queries.retain(|query| query.id != self.id);
        self.queries.any.store(!asked.queries.is_empty(), Ordering::SeqCst);
    }
}

impl Queries {
    /// Registers a query to `to`. [`Asking::repeat`] sends it.
    pub(crate) fn ask(&self, to: SocketAddr) -> Asking<'_> {
        Asking { queries: self, id: self.add(to) }
    }

    fn add(&self, to: SocketAddr) -> u64 {
        let mut asked = lock(&self.asked);
        let id = asked.next_id;
        asked.next_id += 1;
        asked.queries.push(Query { id, to, is_due: false, answer: None, waker: None });
        self.any.store(true, Ordering::SeqCst);
        id
    }

    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    pub(crate) fn are_due(&self) -> bool {
        self.due.load(Ordering::SeqCst)
    }

    /// Appends the queries that wait to be sent.
    pub(crate) fn write(&self, batch: &mut SendBatch) {
        if !self.due.swap(false, Ordering::SeqCst) {
            return;
        }
        for query in &mut lock(&self.asked).queries {
            if std::mem::take(&mut query.is_due) {
                let start = batch.buffer().len();
                Packet::ServerStatus(&[0; QUERY_PADDING]).encode(batch.buffer());
                batch.push_single(query.to.into(), start);
            }
        }
    }

    /// Passes an answer to the queries to this address. True if there was such a query.
    pub(crate) fn answer(&self, from: SocketAddr, datagram: &[u8]) -> bool {
        let Ok(Packet::ServerStatus(status)) = Packet::decode(datagram) else { return false };
        let mut wakers = Vec::new();
        let is_answer = {
            let mut asked = lock(&self.asked);
            let mut by = asked.queries.iter_mut().filter(|query| query.to == from).peekable();
            let is_answer = by.peek().is_some();
            for query in by {
                query.answer.get_or_insert_with(|| Bytes::copy_from_slice(status));
                wakers.extend(query.waker.take());
            }
            is_answer
        };
        wakers.into_iter().for_each(Waker::wake);
        is_answer
    }
}

/// Servers of this library answer with at most three times the bytes of the query: enough for an answer of 512 bytes.
const QUERY_PADDING: usize = 172;
