//! What is left to do when no driver runs any more: the runtime is gone.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use soe_core::{
    DisconnectReason, Endpoint, Opened, Path, SessionKey,
    host::{self, Fed, Host},
};

use crate::engine::{
    connection::{Peer, now},
    shared_endpoint::Directory,
};

/// Performs what the endpoint wants done as far as that needs no socket. Sessions end, nobody is told.
#[derive(Debug)]
pub(crate) struct Undriven<'a>(pub(crate) &'a Directory);

impl Undriven<'_> {
    pub(crate) fn settle(&mut self) {
        while self.0.take_actions() {
            host::perform(self, now());
        }
    }
}

impl Host for Undriven<'_> {
    type Session = Arc<Peer>;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        self.0.with_endpoint(work)
    }

    fn lookup(&mut self, _: SocketAddr) -> Option<Arc<Peer>> {
        None
    }

    fn session(&mut self, key: SessionKey) -> Option<Arc<Peer>> {
        self.0.session(key)
    }

    fn feed(&mut self, now: Instant, peer: &Arc<Peer>, _: Path, _: &mut dyn Iterator<Item = BytesMut>) -> Fed {
        Fed::new(peer.key, now)
    }

    fn send(&mut self, _: Path, _: Vec<u8>) {}

    fn open(&mut self, _: Instant, _: Opened) {}

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.route(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.unroute(address, key);
    }

    fn relocate(&mut self, _: Instant, _: &Arc<Peer>, _: SocketAddr, _: Path) {}

    fn probe(&mut self, _: Instant, _: &Arc<Peer>) {}

    fn unreachable(&mut self, _: Instant, _: &Arc<Peer>) {}

    fn end(&mut self, now: Instant, peer: &Arc<Peer>, _: DisconnectReason, _: bool) {
        peer.kill(now);
    }

    fn forget(&mut self, key: SessionKey) {
        self.0.forget(key);
    }
}
