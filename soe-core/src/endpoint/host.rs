//! What happens to each datagram, in order, whoever runs the endpoint: sockets, or a simulation.

use std::{collections::VecDeque, net::SocketAddr, time::Instant};

use bytes::BytesMut;

use super::{Action, Answer, Endpoint, Opened, Path, Question, SessionKey};
use crate::wire::DisconnectReason;

/// What the functions of this module need of whoever runs an [`Endpoint`]: the endpoint itself, the sessions that it has let
/// in, a lookup that is only a hint, and a socket.
///
/// No method is called while another one runs, and none from within [`with_endpoint`](Self::with_endpoint): a host may keep
/// the endpoint under one lock and each session under its own, and never holds two.
pub trait Host {
    /// A session in the host's hands; a cheap clone.
    type Session: Clone;

    /// Runs `work` on the endpoint.
    fn with_endpoint<T>(&mut self, work: impl FnOnce(&mut Endpoint) -> T) -> T;

    /// The session that datagrams from this address belong to, as far as [`route`](Self::route) has said.
    fn lookup(&mut self, address: SocketAddr) -> Option<Self::Session>;

    /// The session of this key.
    fn session(&mut self, key: SessionKey) -> Option<Self::Session>;

    /// Gives datagrams that came by one path to a session, in order, with
    /// [`Session::handle_datagram`](crate::Session::handle_datagram), and says what became of them. A session that has just
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

    /// Takes a session.
    fn open(&mut self, now: Instant, opened: Opened);

    /// Datagrams from this address belong to this session from here on.
    fn route(&mut self, address: SocketAddr, key: SessionKey);

    /// Forgets that datagrams from this address belong to this session; if they belong to another one, nothing changes.
    fn unroute(&mut self, address: SocketAddr, key: SessionKey);

    /// A session's peer has moved: its datagrams go by the new path. [`Session::handle_remap`](crate::Session::handle_remap).
    fn relocate(&mut self, now: Instant, session: &Self::Session, from: SocketAddr, to: Path);

    /// Asks a session's peer for a sign of life: [`Session::ask_for_life`](crate::Session::ask_for_life).
    fn probe(&mut self, now: Instant, session: &Self::Session);

    /// Nobody is at a session's address: [`Session::handle_unreachable`](crate::Session::handle_unreachable).
    fn unreachable(&mut self, now: Instant, session: &Self::Session);

    /// Ends a session: [`Session::abort`](crate::Session::abort).
    fn end(&mut self, now: Instant, session: &Self::Session, reason: DisconnectReason, tell_peer: bool);

    /// Drops a session: nothing will be heard of its key any more.
    fn forget(&mut self, key: SessionKey);

    /// Has the application answer. `None` if its code has panicked.
    fn answer(&mut self, question: Question) -> Option<Answer> {
        Some(question.answer())
    }

    /// There is a session to accept.
    fn acceptable(&mut self) {}
}

/// What a session has done with datagrams.
#[derive(Debug)]
#[non_exhaustive]
pub struct Fed {
    /// The session's name.
    pub key: SessionKey,
    /// One at least was [`DatagramOutcome::Authentic`](crate::DatagramOutcome::Authentic).
    pub is_authentic: bool,
    /// When the session heard last from its peer: [`Session::last_heard`](crate::Session::last_heard).
    pub heard: Instant,
    /// What it gave back, [`DatagramOutcome::Rejected`](crate::DatagramOutcome::Rejected) or
    /// [`DatagramOutcome::ForEndpoint`](crate::DatagramOutcome::ForEndpoint).
    pub returned: Vec<BytesMut>,
}

impl Fed {
    /// For a session that was given nothing yet.
    pub fn new(key: SessionKey, heard: Instant) -> Self {
        Self { key, is_authentic: false, heard, returned: Vec::new() }
    }
}

/// Hands every datagram to its session or to the endpoint, in the order in which they came.
pub fn receive<H: Host>(host: &mut H, now: Instant, datagrams: impl IntoIterator<Item = (Path, BytesMut)>) {
    let mut datagrams = datagrams.into_iter().peekable();
    let mut actions = VecDeque::new();
    while let Some((path, first)) = datagrams.next() {
        let Some(session) = host.lookup(path.remote) else {
            with_actions(host, &mut actions, |endpoint| endpoint.handle_datagram(now, path, first));
            perform_all(host, now, &mut actions);
            continue;
        };
        // What came by one path in a row is one visit to the session.
        let more = std::iter::from_fn(|| datagrams.next_if(|(next, _)| *next == path)).map(|(_, datagram)| datagram);
        let fed = host.feed(now, &session, path, &mut std::iter::once(first).chain(more));
        take_back(host, now, path, fed, &mut actions);
        perform_all(host, now, &mut actions);
    }
}

/// Performs what the endpoint wants done, after a call that was not made by a function of this module.
pub fn perform<H: Host>(host: &mut H, now: Instant) {
    let mut actions = VecDeque::new();
    with_actions(host, &mut actions, |_| {});
    perform_all(host, now, &mut actions);
}

/// The network has reported an address as unreachable, or something without an address.
pub fn unreachable<H: Host>(host: &mut H, now: Instant, address: Option<SocketAddr>) {
    call(host, now, |endpoint| endpoint.handle_unreachable(address));
}

/// A session has ended; `is_readable` if it has messages that nobody has read.
pub fn ended<H: Host>(host: &mut H, now: Instant, key: SessionKey, is_readable: bool) {
    call(host, now, |endpoint| endpoint.handle_session_ended(now, key, is_readable));
}

/// A session that has ended can be forgotten: [`Session::is_drained`](crate::Session::is_drained).
pub fn drained<H: Host>(host: &mut H, now: Instant, key: SessionKey) {
    call(host, now, |endpoint| endpoint.handle_session_drained(now, key));
}

/// Makes a call on the endpoint and performs what follows.
pub fn call<H: Host, T>(host: &mut H, now: Instant, work: impl FnOnce(&mut Endpoint) -> T) -> T {
    let mut actions = VecDeque::new();
    let done = with_actions(host, &mut actions, work);
    perform_all(host, now, &mut actions);
    done
}

/// One visit to the endpoint: a call, and what it wants done.
fn with_actions<H: Host, T>(host: &mut H, actions: &mut VecDeque<Action>, work: impl FnOnce(&mut Endpoint) -> T) -> T {
    host.with_endpoint(|endpoint| {
        let done = work(endpoint);
        actions.extend(std::iter::from_fn(|| endpoint.poll_action()));
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
        Action::Probe(key) => of(host, key, &mut |host, session| host.probe(now, session)),
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

/// Gives the endpoint what a session gave back.
fn take_back<H: Host>(host: &mut H, now: Instant, path: Path, fed: Fed, actions: &mut VecDeque<Action>) {
    let Fed { key, heard, returned, .. } = fed;
    for datagram in returned {
        with_actions(host, actions, |endpoint| endpoint.handle_returned(now, path, key, heard, datagram));
        perform_all(host, now, actions);
    }
}
