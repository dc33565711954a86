//! The driver as the host of an endpoint: what [`soe_core::host`] wants done, with locks, wakers and a socket.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytes::BytesMut;
use soe_core::{
    Answer, DisconnectReason, Endpoint, Opened, Path, Question, SessionKey,
    host::{Fed, Host},
};
use tracing::debug;

use crate::engine::{
    connection::{Peer, Visit},
    deferred::Work,
    driver::Driver,
};

impl Host for Driver {
    type Session = Arc<Peer>;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        self.shared.directory.with_endpoint(work)
    }

    fn lookup(&mut self, address: SocketAddr) -> Option<Arc<Peer>> {
        self.shared.directory.hint(address)
    }

    fn session(&mut self, key: SessionKey) -> Option<Arc<Peer>> {
        self.shared.directory.session(key)
    }

    fn feed(
        &mut self,
        now: Instant,
        peer: &Arc<Peer>,
        path: Path,
        mut datagrams: &mut dyn Iterator<Item = BytesMut>,
    ) -> Fed {
        let mut fed = Fed::new(peer.key, now);
        if !self.deferred.is_empty() && self.deferred.holds_datagrams_of(peer) {
            self.deferred.keep(peer, path, datagrams);
            return fed;
        }
        let visited =
            catch_unwind(AssertUnwindSafe(|| peer.feed(now, path, &mut datagrams, &mut fed, &mut self.notices)));
        match visited {
            Ok(Visit::Marked) => self.serve_soon(peer),
            Ok(Visit::Quiet) => {}
            Ok(Visit::Busy) => self.deferred.keep(peer, path, datagrams),
            Err(_) => self.notices.panicked(peer, now),
        }
        fed
    }

    fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.flusher.reply(path, &datagram);
    }

    fn open(&mut self, _: Instant, opened: Opened) {
        let Opened { key, path, session, request, .. } = opened;
        debug!(from = %path.remote, version = request.version, name = %request.protocol_name, "a session opens");
        let peer = self.shared.directory.open(&self.shared, key, path, session);
        if peer.mark_dirty() {
            self.flusher.add(peer);
        }
    }

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.shared.directory.route(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        self.shared.directory.unroute(address, key);
    }

    fn relocate(&mut self, now: Instant, peer: &Arc<Peer>, from: SocketAddr, to: Path) {
        debug!(%from, to = %to.remote, "the peer has moved");
        self.visit(now, peer, Work::Move(from, to));
    }

    fn probe(&mut self, now: Instant, peer: &Arc<Peer>) {
        self.visit(now, peer, Work::Probe);
    }

    fn unreachable(&mut self, now: Instant, peer: &Arc<Peer>) {
        self.visit(now, peer, Work::Unreachable);
    }

    fn end(&mut self, now: Instant, peer: &Arc<Peer>, reason: DisconnectReason, tell_peer: bool) {
        self.visit(now, peer, Work::End(reason, tell_peer));
    }

    fn forget(&mut self, key: SessionKey) {
        self.shared.directory.forget(key);
    }

    fn answer(&mut self, question: Question) -> Option<Answer> {
        let answer = catch_unwind(AssertUnwindSafe(|| question.answer()));
        answer.inspect_err(|_| debug!("the application panicked over a request, which is dropped")).ok()
    }

    fn acceptable(&mut self) {
        self.shared.directory.announce_arrival();
    }
}
