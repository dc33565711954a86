//! The driver as the [`Host`] of an endpoint: performs its actions on connections and the socket.

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
    connection::{Attempt, Connection},
    deferred::Work,
    driver::Driver,
};

impl Host for Driver {
    type Session = Arc<Connection>;

    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        self.shared.endpoint.with_endpoint(work)
    }

    fn lookup(&mut self, address: SocketAddr) -> Option<Arc<Connection>> {
        self.shared.endpoint.hint(address)
    }

    fn session(&mut self, key: SessionKey) -> Option<Arc<Connection>> {
        self.shared.endpoint.session(key)
    }

    fn feed(
        &mut self,
        now: Instant,
        connection: &Arc<Connection>,
        path: Path,
        mut datagrams: &mut dyn Iterator<Item = BytesMut>,
    ) -> Fed {
        let mut fed = Fed::new(connection.key, now);
        if !self.deferred.is_empty() && self.deferred.holds_datagrams_of(connection) {
            self.deferred.keep(connection, path, datagrams);
            return fed;
        }
        let attempt =
            catch_unwind(AssertUnwindSafe(|| connection.feed(now, path, &mut datagrams, &mut fed, &mut self.notices)));
        match attempt {
            Ok(Attempt::NeedsService) => self.serve_soon(connection),
            Ok(Attempt::Done) => {}
            Ok(Attempt::Busy) => self.deferred.keep(connection, path, datagrams),
            Err(_) => connection.fail_after_panic(now, &mut self.notices),
        }
        fed
    }

    fn send(&mut self, path: Path, datagram: Vec<u8>) {
        self.transmitter.reply(path, &datagram);
    }

    fn open(&mut self, _: Instant, opened: Opened) {
        let Opened { key, path, session, request, .. } = opened;
        debug!(from = %path.remote, version = request.version, name = %request.protocol_name, "a session opens");
        let connection = Connection::new(Arc::clone(&self.shared), key, path, session);
        self.shared.endpoint.insert(key, Arc::clone(&connection));
        if connection.mark_dirty() {
            self.transmitter.add(connection);
        }
    }

    fn route(&mut self, address: SocketAddr, key: SessionKey) {
        self.shared.endpoint.route(address, key);
    }

    fn unroute(&mut self, address: SocketAddr, key: SessionKey) {
        self.shared.endpoint.unroute(address, key);
    }

    fn relocate(&mut self, now: Instant, connection: &Arc<Connection>, from: SocketAddr, to: Path) {
        debug!(%from, to = %to.remote, "the peer has moved");
        self.perform(now, connection, Work::Move(from, to));
    }

    fn ask_for_life(&mut self, now: Instant, connection: &Arc<Connection>) {
        self.perform(now, connection, Work::AskForLife);
    }

    fn unreachable(&mut self, now: Instant, connection: &Arc<Connection>) {
        self.perform(now, connection, Work::Unreachable);
    }

    fn end(&mut self, now: Instant, connection: &Arc<Connection>, reason: DisconnectReason, tell_peer: bool) {
        self.perform(now, connection, Work::End(reason, tell_peer));
    }

    fn forget(&mut self, key: SessionKey) {
        self.shared.endpoint.remove(key);
    }

    fn answer(&mut self, question: Question) -> Option<Answer> {
        let answer = catch_unwind(AssertUnwindSafe(|| question.answer()));
        answer.inspect_err(|_| debug!("the application panicked over a request; it is dropped")).ok()
    }

    fn acceptable(&mut self) {
        self.shared.endpoint.announce_arrival();
    }
}
