//! What is left to do when no driver runs any more: the runtime is gone.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use soe_core::{
    DisconnectReason, Endpoint, Opened, Path, SessionKey,
    host::{self, Fed, Host},
};

use crate::engine::{
    connection::{Connection, now},
    shared_endpoint::SharedEndpoint,
};

/// Performs what the endpoint wants done as far as that needs no socket. Sessions end, nobody is told.
#[derive(Debug)]
pub(crate) struct Undriven<'a>(pub(crate) &'a SharedEndpoint);

impl Undriven<'_> {
    pub(crate) fn settle(&mut self) {
        while self.0.take_actions() {
            host::perform(self, now());
        }
    }
}

impl Host for Undriven<'_> {
    type Session = Arc<Connection>;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        self.0.with_endpoint(work)
    }

    fn lookup(&mut self, _: SocketAddr) -> Option<Arc<Connection>> {
        None
    }

    fn session(&mut self, key: SessionKey) -> Option<Arc<Connection>> {
        self.0.session(key)
    }

    fn feed(
        &mut self,
        now: Instant,
        connection: &Arc<Connection>,
        _: Path,
        _: &mut dyn Iterator<Item = BytesMut>,
    ) -> Fed {
        Fed::new(connection.key, now)
    }

    fn send(&mut self, _: Path, _: Vec<u8>) {}

    fn open(&mut self, _: Instant, _: Opened) {}

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.route(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.unroute(address, key);
    }

    fn relocate(&mut self, _: Instant, _: &Arc<Connection>, _: SocketAddr, _: Path) {}

    fn probe(&mut self, _: Instant, _: &Arc<Connection>) {}

    fn unreachable(&mut self, _: Instant, _: &Arc<Connection>) {}

    fn end(&mut self, now: Instant, connection: &Arc<Connection>, _: DisconnectReason, _: bool) {
        connection.stop(now);
    }

    fn forget(&mut self, key: SessionKey) {
        self.0.forget(key);
    }
}
