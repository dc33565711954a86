//! The actions of an endpoint whose drivers have all ended with their runtime.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use bytes::BytesMut;
use soe_core::{
    DisconnectReason, Endpoint, Opened, Path, SessionKey,
    host::{self, Fed, Host},
};

use super::{Member, SharedEndpoint};
use crate::engine::clock::now;

/// Performs the actions that need no socket. Sessions end without notifying their peers.
#[derive(Debug)]
pub(crate) struct Undriven<'a, C>(pub(crate) &'a SharedEndpoint<C>);

impl<C: Member> Undriven<'_, C> {
    pub(crate) fn settle(&mut self) {
        while self.0.take_actions() {
            host::perform(self, now());
        }
    }
}

impl<C: Member> Host for Undriven<'_, C> {
    type Session = Arc<C>;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        self.0.with_endpoint(work)
    }

    fn lookup(&mut self, _: SocketAddr) -> Option<Arc<C>> {
        None
    }

    fn session(&mut self, key: SessionKey) -> Option<Arc<C>> {
        self.0.session(key)
    }

    fn feed(&mut self, now: Instant, connection: &Arc<C>, _: Path, _: &mut dyn Iterator<Item = BytesMut>) -> Fed {
        Fed::new(connection.key(), now)
    }

    fn send(&mut self, _: Path, _: Vec<u8>) {}

    fn open(&mut self, _: Instant, _: Opened) {}

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.route(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        self.0.unroute(address, key);
    }

    fn relocate(&mut self, _: Instant, _: &Arc<C>, _: SocketAddr, _: Path) {}

    fn ask_for_life(&mut self, _: Instant, _: &Arc<C>) {}

    fn unreachable(&mut self, _: Instant, _: &Arc<C>) {}

    fn end(&mut self, now: Instant, connection: &Arc<C>, _: DisconnectReason, _: bool) {
        connection.stop(now);
    }

    fn forget(&mut self, key: SessionKey) {
        self.0.remove(key);
    }
}
