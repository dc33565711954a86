//! Memory that the drivers of one thread use in turn. Each needs it for a moment only, and there may be thousands of them:
//! with memory of their own they would keep it from the processor's cache.

use std::{cell::RefCell, mem, sync::Arc};

use bytes::BytesMut;
use soe_core::Path;

use crate::{engine::connection::Peer, socket::SendBatch};

/// Empty lists with room in them.
#[derive(Default)]
struct Spare {
    batch: SendBatch,
    datagrams: Vec<(Path, BytesMut)>,
    peers: Vec<Arc<Peer>>,
}

thread_local! {
    static SPARE: RefCell<Spare> = RefCell::default();
}

/// A batch to send with.
pub(crate) fn take_batch() -> SendBatch {
    take(|spare| mem::take(&mut spare.batch))
}

/// Gives a batch back that holds nothing.
pub(crate) fn give_batch(batch: SendBatch) {
    give(|spare| spare.batch = batch);
}

/// A list to receive into.
pub(crate) fn take_datagrams() -> Vec<(Path, BytesMut)> {
    take(|spare| mem::take(&mut spare.datagrams))
}

/// Gives a list back, emptied.
pub(crate) fn give_datagrams(mut datagrams: Vec<(Path, BytesMut)>) {
    datagrams.clear();
    give(|spare| spare.datagrams = datagrams);
}

/// A list of peers to serve.
pub(crate) fn take_peers() -> Vec<Arc<Peer>> {
    take(|spare| mem::take(&mut spare.peers))
}

/// Gives a list back, emptied.
pub(crate) fn give_peers(mut peers: Vec<Arc<Peer>>) {
    peers.clear();
    give(|spare| spare.peers = peers);
}

fn take<T: Default>(from: impl FnOnce(&mut Spare) -> T) -> T {
    // At the end of its thread there is nothing spare.
    SPARE.try_with(|spare| from(&mut spare.borrow_mut())).unwrap_or_default()
}

fn give(to: impl FnOnce(&mut Spare)) {
    let _ = SPARE.try_with(|spare| to(&mut spare.borrow_mut()));
}
