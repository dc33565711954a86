//! The order of calls for each datagram, for sockets and simulations alike.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{Action, Answer, Endpoint, Opened, Path, Question, SessionKey};
use crate::wire::DisconnectReason;

/// What the functions of this module need from the owner of an [`Endpoint`]: the endpoint, the sessions, a lookup by
/// address, and a socket.
///
/// The methods are never called within each other, and none is called within [`with_endpoint`](Self::with_endpoint). A
/// host may therefore use one lock for the endpoint and one for each session, and never holds two at once.
pub trait Host {
    /// A handle to a session; cheap to clone.
    type Session: Clone;

    /// Calls `work` with the endpoint.
    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T;

    /// The session at this address, according to [`route`](Self::route).
    fn lookup(&mut self, address: SocketAddr) -> Option<Self::Session>;

    /// The session with this key.
    fn session(&mut self, key: SessionKey) -> Option<Self::Session>;

    /// Gives datagrams that came by one path to a session, in order, with
    /// [`Session::handle_datagram`](crate::Session::handle_datagram), and returns the result. A session that has just
    /// ended is reported by [`ended`].
    fn feed(
        &mut self,
        now: Instant,
        session: &Self::Session,
        path: Path,
        datagrams: &mut dyn Iterator<Item = BytesMut>,
    ) -> Fed;

    /// Sends a datagram.
    fn send(&mut self, path: Path, datagram: Vec<u8>);

    /// Stores a new session.
    fn open(&mut self, now: Instant, opened: Opened);

    /// Assigns this address to this session. A session that had it before has it no longer.
    fn route(&mut self, address: SocketAddr, key: SessionKey);

    /// Removes the assignment of this address, unless it belongs to another session.
    fn unroute(&mut self, address: SocketAddr, key: SessionKey);

    /// Sends to the new path from now on, and calls [`Session::handle_remap`](crate::Session::handle_remap).
    fn relocate(&mut self, now: Instant, session: &Self::Session, from: SocketAddr, to: Path);

    /// Calls [`Session::ask_for_life`](crate::Session::ask_for_life).
    fn ask_for_life(&mut self, now: Instant, session: &Self::Session);

    /// Calls [`Session::handle_unreachable`](crate::Session::handle_unreachable).
    fn unreachable(&mut self, now: Instant, session: &Self::Session);

    /// Calls [`Session::abort`](crate::Session::abort).
    fn end(&mut self, now: Instant, session: &Self::Session, reason: DisconnectReason, tell_peer: bool);

    /// Drops a session. Its key is not used again.
    fn forget(&mut self, key: SessionKey);

    /// Lets the application answer. `None` if its code panicked.
    fn answer(&mut self, question: Question) -> Option<Answer> {
        Some(question.answer())
    }

    /// A session can be accepted.
    fn acceptable(&mut self) {}
}

/// The result of passing datagrams to a session.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fed {
    /// The session's key.
    pub key: SessionKey,
    /// At least one was [`DatagramOutcome::Authentic`](crate::DatagramOutcome::Authentic).
    pub is_authentic: bool,
    /// [`Session::last_heard`](crate::Session::last_heard) before these datagrams.
    pub heard: Instant,
    /// The datagrams that were [`DatagramOutcome::Rejected`](crate::DatagramOutcome::Rejected) or
    /// [`DatagramOutcome::ForEndpoint`](crate::DatagramOutcome::ForEndpoint).
    pub returned: Vec<BytesMut>,
}

impl Fed {
    /// An empty result.
    pub fn new(key: SessionKey, heard: Instant) -> Self {
        Self { key, is_authentic: false, heard, returned: Vec::new() }
    }
}

/// Passes each datagram to its session or to the endpoint, in order of arrival.
pub fn receive<H: Host>(host: &mut H, now: Instant, datagrams: impl IntoIterator<Item = (Path, BytesMut)>) {
    let mut datagrams = datagrams.into_iter().peekable();
    let mut actions = VecDeque::new();
    while let Some((path, first)) = datagrams.next() {
        let Some(session) = host.lookup(path.remote) else {
            with_actions(host, &mut actions, |endpoint| endpoint.handle_datagram(now, path, first));
            perform_all(host, now, &mut actions);
            continue;
        };
        // Consecutive datagrams of one path take one lock of the session.
        let more = std::iter::from_fn(|| datagrams.next_if(|(next, _)| *next == path)).map(|(_, datagram)| datagram);
        let fed = host.feed(now, &session, path, &mut std::iter::once(first).chain(more));
        take_back(host, now, path, fed, &mut actions);
        perform_all(host, now, &mut actions);
    }
}

/// Performs the pending actions, after a call that was not made through this module.
pub fn perform<H: Host>(host: &mut H, now: Instant) {
    let mut actions = VecDeque::new();
    with_actions(host, &mut actions, |_| {});
    perform_all(host, now, &mut actions);
}

/// Reports an ICMP error, with or without an address.
pub fn unreachable<H: Host>(host: &mut H, now: Instant, address: Option<SocketAddr>) {
    call(host, now, |endpoint| endpoint.handle_unreachable(address));
}

/// Reports that a session has ended. `is_readable`: it has unread messages.
pub fn ended<H: Host>(host: &mut H, now: Instant, key: SessionKey, is_readable: bool) {
    call(host, now, |endpoint| endpoint.handle_session_ended(now, key, is_readable));
}

/// Reports that an ended session can be dropped: [`Session::is_drained`](crate::Session::is_drained).
pub fn drained<H: Host>(host: &mut H, now: Instant, key: SessionKey) {
    call(host, now, |endpoint| endpoint.handle_session_drained(now, key));
}

/// Calls the endpoint and performs the resulting actions.
pub fn call<H: Host, T>(host: &mut H, now: Instant, work: impl FnOnce(&mut Endpoint) -> T) -> T {
    let mut actions = VecDeque::new();
    let done = with_actions(host, &mut actions, work);
    perform_all(host, now, &mut actions);
    done
}

/// Calls the endpoint under its lock and collects the resulting actions.
fn with_actions<H: Host, T>(host: &mut H, actions: &mut VecDeque<Action>, work: impl FnOnce(&mut Endpoint) -> T) -> T {
    host.with_endpoint(|endpoint| {
        let done = work(endpoint);
        endpoint.take_actions(actions);
        done
    })
}

fn perform_all<H: Host>(host: &mut H, now: Instant, actions: &mut VecDeque<Action>) {
    while let Some(action) = actions.pop_front() {
        perform_one(host, now, action, actions);
    }
}

fn perform_one<H: Host>(host: &mut H, now: Instant, action: Action, actions: &mut VecDeque<Action>) {
    let of = |host: &mut H, key, work: &mut dyn FnMut(&mut H, &H::Session)| {
        if let Some(session) = host.session(key) {
            work(host, &session);
        }
    };
    match action {
        Action::Send { path, datagram } => host.send(path, datagram),
        Action::Open(opened) => {
            let key = opened.key;
            host.open(now, *opened);
            with_actions(host, actions, |endpoint| endpoint.handle_opened(key));
        }
        Action::Feed { key, path, datagram } => {
            let Some(session) = host.session(key) else { return };
            let fed = host.feed(now, &session, path, &mut std::iter::once(datagram));
            if fed.is_authentic {
                with_actions(host, actions, |endpoint| endpoint.handle_moved(now, path, key));
            }
            take_back(host, now, path, fed, actions);
        }
        Action::Route { address, key } => host.route(address, key),
        Action::Unroute { address, key } => host.unroute(address, key),
        Action::Move { key, from, to } => of(host, key, &mut |host, session| host.relocate(now, session, from, to)),
        Action::AskForLife(key) => of(host, key, &mut |host, session| host.ask_for_life(now, session)),
        Action::Unreachable(key) => of(host, key, &mut |host, session| host.unreachable(now, session)),
        Action::End { key, reason, tell_peer } => {
            of(host, key, &mut |host, session| host.end(now, session, reason, tell_peer));
        }
        Action::Forget(key) => host.forget(key),
        Action::Ask(question) => {
            if let Some(answer) = host.answer(question) {
                with_actions(host, actions, |endpoint| endpoint.handle_answer(now, answer));
            }
        }
        Action::Acceptable => host.acceptable(),
    }
}

/// Passes the datagrams that a session returned to the endpoint.
fn take_back<H: Host>(host: &mut H, now: Instant, path: Path, fed: Fed, actions: &mut VecDeque<Action>) {
    let Fed { key, heard, returned, .. } = fed;
    for datagram in returned {
        with_actions(host, actions, |endpoint| endpoint.handle_returned(now, path, key, heard, datagram));
        perform_all(host, now, actions);
    }
}
