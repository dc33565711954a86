//! The decisions of a socket: which session a datagram belongs to, who may open a session or move it, and which session
//! must end (sections 6 and 9 of `docs/protocol.md`).

mod action;
mod address;
mod budget;
mod capacity;
pub mod host;
mod io_loop;
mod opening;
mod routes;
mod strangers;
mod suspicion;
mod types;
mod unclaimed;

use std::{
    collections::VecDeque,
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::BytesMut;

pub use self::{
    action::{Action, Opened},
    address::{Path, Relay},
    budget::{MemoryAccount, MemoryBudget},
    capacity::CapacityStats,
    io_loop::{IoLoop, Step},
    routes::SessionKey,
    strangers::question::{Answer, Question},
    types::{AdmissionStats, EndpointStats, NotRegistered},
};

use self::{
    capacity::Capacity,
    routes::Routes,
    strangers::{handshakes::Handshakes, question::Says, request::Outcome},
};
use crate::{config::AdmissionConfig, recording::RecordOptions, wire::DisconnectReason};

/// All decisions of a socket, as a value: which session a datagram belongs to, who may open a session, which session is
/// accepted next, who may move to another address, and which session must end.
///
/// It does not own the sessions. Its host stores each under a [`SessionKey`], together with a lookup from addresses to
/// sessions. The lookup is only a hint; the endpoint decides where it is wrong. The functions in [`host`] make all
/// calls in the right order, for a server over sockets and for a simulated one:
///
/// 1. Pass a datagram from an address without a session to [`handle_datagram`](Self::handle_datagram). Pass a datagram
///    that a session returned, as [`DatagramOutcome::Rejected`](crate::DatagramOutcome::Rejected) or
///    [`DatagramOutcome::ForEndpoint`](crate::DatagramOutcome::ForEndpoint), to
///    [`handle_returned`](Self::handle_returned).
/// 2. Then call [`poll_action`](Self::poll_action) until `None` and perform the actions in order, without holding a
///    lock.
/// 3. Call [`handle_session_ended`](Self::handle_session_ended) when a session has ended, and
///    [`handle_session_drained`](Self::handle_session_drained) when it can be dropped.
/// 4. Call [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout).
///
/// Its memory is bounded by [`memory_ceiling`](Self::memory_ceiling) for pending handshakes, by about 60 bytes for each
/// session, and by the accept queue.
pub struct Endpoint {
    epoch: Instant,
    routes: Routes,
    capacity: Capacity,
    /// `None` for a socket that only connects.
    handshakes: Option<Box<Handshakes>>,
    /// When it was closed.
    closed_at: Option<Instant>,
    /// A closed endpoint refuses the clients that it has answered until then. See [`HANDSHAKE_LINGER`].
    lingers_until: Option<Instant>,
    actions: VecDeque<Action>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    moves: u64,
    moves_refused: u64,
    replaced: u64,
    probes: u64,
    unreachable_ignored: u64,
}

impl Endpoint {
    /// Creates an endpoint that accepts sessions. The key must come from a secure random generator: all CRC seeds
    /// depend on it.
    pub fn new(now: Instant, config: AdmissionConfig, key: [u8; 16]) -> Self {
        let capacity = Capacity::new(config.max_sessions, config.accept_backlog);
        Self::with(now, capacity, Some(Box::new(Handshakes::new(now, config, key))), key)
    }

    /// Creates an endpoint that only connects. It ignores datagrams from unknown addresses.
    pub fn connector(now: Instant, key: [u8; 16]) -> Self {
        Self::with(now, Capacity::new(usize::MAX, 1), None, key)
    }

    fn with(now: Instant, capacity: Capacity, handshakes: Option<Box<Handshakes>>, key: [u8; 16]) -> Self {
        let (routes, actions, counts) = (Routes::new(key, handshakes.is_some()), VecDeque::new(), Counts::default());
        Self { epoch: now, routes, capacity, handshakes, closed_at: None, lingers_until: None, actions, counts }
    }

    /// Registers a session that this side opens. Whoever accepts sessions may open some too, beyond `max_sessions` as well;
    /// they count towards it.
    ///
    /// # Errors
    ///
    /// [`NotRegistered`] if a live session already has the address, or the endpoint is closed.
    pub fn connect(&mut self, remote: SocketAddr, session_id: u32) -> Result<SessionKey, NotRegistered> {
        if self.capacity.is_closed {
            return Err(NotRegistered::Closed);
        }
        let resident = self.routes.resident(remote);
        if resident.is_some_and(|key| self.is_live(key)) {
            return Err(NotRegistered::Occupied);
        }
        let key = self.routes.insert_own(remote, session_id);
        self.capacity.add();
        if let Some(before) = resident {
            // The old session has ended but may still repeat its Disconnect, which could end the new one.
            self.actions.push_back(opening::end(before, DisconnectReason::NewConnectionAttempt, false));
        }
        self.actions.push_back(Action::Route { address: remote, key });
        Ok(key)
    }

    /// Handles a datagram from an address for which the host has no session.
    pub fn handle_datagram(&mut self, now: Instant, path: Path, datagram: BytesMut) {
        match self.routes.resident(path.remote) {
            // The host's lookup is out of date.
            Some(key) => self.actions.push_back(Action::Feed { key, path, datagram }),
            None => self.try_candidate(now, path, datagram),
        }
    }

    /// Handles a datagram that a session returned. `heard` is [`Session::last_heard`](crate::Session::last_heard) of
    /// that session.
    ///
    /// Another peer may use the same address: a client that moved there, a new client, or a status query. A live
    /// session is replaced only by a client that has proved the address with datagrams of different lengths that have 4 bytes of
    /// CRC in all, or if it has been silent for ten seconds and does not answer when it is asked. UnknownSender is sent there only after the session's peer was probed and did not answer.
    pub fn handle_returned(&mut self, now: Instant, path: Path, key: SessionKey, heard: Instant, datagram: BytesMut) {
        let resident = self.routes.resident(path.remote);
        if self.routes.candidate(now, path.remote) == Some(key) && resident != Some(key) {
            self.unclaimed(now, path, datagram, None);
        } else if resident.is_some_and(|resident| resident != key) {
            // The session has moved to another address in the meantime.
            self.handle_datagram(now, path, datagram);
        } else {
            self.routes.refute_claim(path.remote, heard);
            let is_exempt = crate::wire::opcode::of(&datagram).is_some_and(crate::wire::opcode::is_exempt);
            match self.routes.candidate(now, path.remote).filter(|_| !is_exempt) {
                Some(candidate) => self.actions.push_back(Action::Feed { key: candidate, path, datagram }),
                None => self.unclaimed(now, path, datagram, Some((key, heard))),
            }
        }
    }

    /// Handles an authentic datagram of a session from a new path. If the session has claimed to have moved there, it
    /// now has.
    pub fn handle_moved(&mut self, now: Instant, path: Path, key: SessionKey) {
        let Some(from) = self.routes.relocate(now, key, path.remote) else { return };
        self.counts.moves += 1;
        self.actions.push_back(Action::Unroute { address: from, key });
        self.actions.push_back(Action::Route { address: path.remote, key });
        self.actions.push_back(Action::Move { key, from, to: path });
    }

    /// Handles an ICMP error about an address. Without an address, or without a session there, nothing happens.
    pub fn handle_unreachable(&mut self, address: Option<SocketAddr>) {
        match address.and_then(|address| self.routes.resident(address)).filter(|&key| self.is_live(key)) {
            Some(key) => self.actions.push_back(Action::Unreachable(key)),
            None => self.counts.unreachable_ignored += 1,
        }
        if let Some(address) = address {
            self.routes.unreachable(address);
        }
    }

    /// Handles the application's answer to a [`Question`].
    pub fn handle_answer(&mut self, now: Instant, answer: Answer) {
        let Answer { path, says } = answer;
        let standing = self.standing(now, path.remote, None);
        let Some(handshakes) = &mut self.handshakes else { return };
        let outcome = match says {
            Says::Request { request, is_welcome } => {
                handshakes.handle_request(now, path.remote, &request, is_welcome, standing)
            }
            Says::Status { reply, length } => {
                handshakes.answer_status(reply.as_ref(), length);
                Outcome::Done
            }
        };
        self.conclude(now, path, outcome);
    }

    /// Rotates keys and removes expired state.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.routes.expire(now);
        self.lingers_until = self.lingers_until.filter(|&until| now < until);
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.handle_timeout(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) must be called; `None` if no timer is set.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let rotation = self.handshakes.as_ref().map(|handshakes| handshakes.poll_timeout());
        [rotation, self.lingers_until].into_iter().flatten().min()
    }

    /// Returns the next action. Call until `None` after every other call, and perform the actions in this order.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if self.actions.is_empty() {
            self.actions = VecDeque::new();
        }
        action
    }

    /// Moves all actions behind those in `actions`.
    pub(crate) fn take_actions(&mut self, actions: &mut VecDeque<Action>) {
        if actions.is_empty() {
            // Without a copy: they are large.
            *actions = std::mem::take(&mut self.actions);
        } else {
            actions.append(&mut self.actions);
            self.actions = VecDeque::new();
        }
    }

    /// Whether [`poll_action`](Self::poll_action) returns something. After a call from outside the socket's loop, the
    /// loop must then be woken.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// The address of a session's peer.
    pub fn address(&self, key: SessionKey) -> Option<SocketAddr> {
        self.routes.address(key)
    }

    /// The id of a session, which its client chose.
    pub fn session_id(&self, key: SessionKey) -> Option<u32> {
        self.routes.get(key).map(|slot| slot.session_id)
    }

    /// The session at an address, including an ended one that still answers late datagrams.
    pub fn at(&self, address: SocketAddr) -> Option<SessionKey> {
        self.routes.resident(address)
    }

    /// The number of sessions that have not ended, accepted or not.
    pub fn sessions(&self) -> usize {
        self.capacity.live()
    }

    /// Whether the endpoint is closed, all sessions have been dropped, and it does not
    /// [linger](Self::is_lingering).
    pub fn is_finished(&self) -> bool {
        self.capacity.is_closed && self.routes.len() == 0 && self.actions.is_empty() && !self.is_lingering()
    }

    /// Whether the endpoint is closed and still waits for the first datagrams of clients that it has answered, to
    /// refuse them. Otherwise they would report a connected session and never receive anything. It ends with
    /// [`handle_timeout`](Self::handle_timeout), three seconds after the last response. A closed endpoint that has no session
    /// answers new requests for three seconds only.
    pub fn is_lingering(&self) -> bool {
        self.lingers_until.is_some()
    }

    /// Ends lingering: the socket is gone, and nobody can be refused any more.
    pub fn stop_lingering(&mut self) {
        self.lingers_until = None;
    }

    /// All counters.
    pub fn stats(&self) -> EndpointStats {
        EndpointStats {
            admission: self.handshakes.as_ref().map(|handshakes| handshakes.stats).unwrap_or_default(),
            capacity: self.capacity.stats,
            sessions: self.capacity.live(),
            waiting: self.capacity.waiting(),
            lingering: self.capacity.lingering(),
            moves: self.counts.moves,
            moves_refused: self.counts.moves_refused,
            replaced: self.counts.replaced,
            probes: self.counts.probes,
            unreachable_ignored: self.counts.unreachable_ignored,
        }
    }

    /// The configuration, with the current limits. `None` for an endpoint that only connects.
    pub fn config(&self) -> Option<&AdmissionConfig> {
        self.handshakes.as_ref().map(|handshakes| &handshakes.config)
    }

    /// Applies the limits of this configuration at run time: sessions, accept queue, pending handshakes, all rates,
    /// refusals and UnknownSender replies. The session configurations and the filter do not change. Sessions above a
    /// lower limit continue.
    pub fn set_limits(&mut self, now: Instant, limits: &AdmissionConfig) {
        let Some(handshakes) = &mut self.handshakes else { return };
        handshakes.set_limits(now, limits);
        self.capacity.set_limits(limits.max_sessions, limits.accept_backlog);
        self.retry_parked(now);
    }

    /// Records the sessions that clients open from now on, or no longer. A session that this side opens is recorded by
    /// [`Session::record`](crate::Session::record).
    pub fn record(&mut self, options: Option<RecordOptions>) {
        if let Some(handshakes) = &mut self.handshakes {
            handshakes.record = options;
        }
    }

    /// The most memory that addresses without a session can make the endpoint use, in bytes: pending handshakes, rate
    /// limiters, and first datagrams that wait for a place.
    pub fn memory_ceiling(&self) -> usize {
        let handshakes = self.handshakes.as_ref().map_or(0, |handshakes| handshakes.memory_ceiling());
        size_of::<Self>() + handshakes + Capacity::memory_ceiling()
    }

    fn is_live(&self, key: SessionKey) -> bool {
        self.routes.get(key).is_some_and(|slot| !slot.has_ended())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("sessions", &self.routes.len()).finish_non_exhaustive()
    }
}

/// How long after its last response a closed endpoint waits for the first datagram of that client. It comes one round
/// trip later, and is repeated every second until it is answered.
const HANDSHAKE_LINGER: Duration = Duration::from_secs(3);
