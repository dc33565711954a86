//! Buffers that the drivers of one thread share. A driver needs them only within one step, and there may be thousands
//! of drivers, whose own buffers would evict each other from the processor's cache.

use std::{cell::RefCell, mem, sync::Arc};

use bytes::BytesMut;
use soe_core::Path;

use crate::{engine::connection::Connection, socket::SendBatch};

/// Empty buffers that keep their capacity.
#[derive(Default)]
struct Scratch {
    batch: SendBatch,
    datagrams: Vec<(Path, BytesMut)>,
    round: Vec<Arc<Connection>>,
    senders: Vec<Arc<Connection>>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// A batch to send with.
pub(crate) fn take_batch() -> SendBatch {
    take(|scratch| mem::take(&mut scratch.batch))
}

/// Returns an empty batch.
pub(crate) fn recycle_batch(batch: SendBatch) {
    give(|scratch| scratch.batch = batch);
}

/// A list to receive into.
pub(crate) fn take_datagrams() -> Vec<(Path, BytesMut)> {
    take(|scratch| mem::take(&mut scratch.datagrams))
}

/// Empties a list and returns it.
pub(crate) fn recycle_datagrams(mut datagrams: Vec<(Path, BytesMut)>) {
    datagrams.clear();
    give(|scratch| scratch.datagrams = datagrams);
}

/// A list of connections to serve.
pub(crate) fn take_round() -> Vec<Arc<Connection>> {
    take(|scratch| mem::take(&mut scratch.round))
}

/// Empties a list and returns it.
pub(crate) fn recycle_round(mut connections: Vec<Arc<Connection>>) {
    connections.clear();
    give(|scratch| scratch.round = connections);
}

/// A list of the connections whose datagrams are in a batch.
pub(crate) fn take_senders() -> Vec<Arc<Connection>> {
    take(|scratch| mem::take(&mut scratch.senders))
}

/// Returns an empty list.
pub(crate) fn recycle_senders(senders: Vec<Arc<Connection>>) {
    give(|scratch| scratch.senders = senders);
}

fn take<T: Default>(from: impl FnOnce(&mut Scratch) -> T) -> T {
    // While the thread exits, its thread-locals may be destroyed already: use an empty buffer.
    SCRATCH.try_with(|scratch| from(&mut scratch.borrow_mut())).unwrap_or_default()
}

fn give(to: impl FnOnce(&mut Scratch)) {
    let _ = SCRATCH.try_with(|scratch| to(&mut scratch.borrow_mut()));
}
