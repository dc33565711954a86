//! What the sockets of one listener or connector share: the [`Endpoint`] under its lock, and the routing table in front of it.

mod arrivals;
mod undriven;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use dashmap::DashMap;
use soe_core::{AdmissionConfig, Endpoint, EndpointStats, MemoryBudget, NotRegistered, SessionKey};
use tokio::sync::Notify;

use self::{arrivals::Arrivals, undriven::Undriven};
use crate::{
    engine::{
        clock::now,
        reports::ended::EndedSessions,
        reports::operator_log::Told,
        reports::recordings::Recordings,
        sync::{lock, until},
    },
    socket::proxied::Proxies,
};

/// The sessions of a listener or connector. A connector has one socket, a listener one or more
/// ([`crate::ListenerConfig::shards`]); a session is served by the socket that it was opened on, and is found here by
/// datagrams of every socket: when a client moves, the kernel may select another one.
///
/// The [`Endpoint`] makes every decision. The routing table (`hints`) only makes lookups fast.
#[derive(Debug)]
pub(crate) struct SharedEndpoint<C> {
    /// Unique within this process; a part of [`crate::SessionId`].
    pub(crate) number: u64,
    /// Locked for unknown senders, moves and endings only: datagrams of known addresses find their session in `hints`.
    table: Mutex<Table<C>>,
    /// The routing table, address to connection: a copy of what the endpoint has decided.
    hints: DashMap<SocketAddr, Arc<C>>,
    pub(crate) budget: Arc<MemoryBudget>,
    pub(crate) is_listener: bool,
    /// The proxies in front of a listener.
    pub(crate) proxies: Option<Arc<Proxies>>,
    /// Sessions that have not been removed.
    sessions: AtomicUsize,
    /// Whether the listener or connector still opens new sessions.
    is_open: AtomicBool,
    /// Whether the endpoint is closed, and still waits for clients that it has answered.
    is_lingering: AtomicBool,
    /// Whether the endpoint has actions for a driver to perform.
    has_actions: AtomicBool,
    arrivals: Arrivals,
    drivers: Mutex<Vec<Weak<dyn DriverHandle>>>,
    /// Tasks that wait until no session is left, or the endpoint does not linger.
    idle: Notify,
    /// The totals of the sessions that have ended.
    pub(crate) ended: Mutex<EndedSessions>,
    told: Mutex<Told>,
    /// How sessions are recorded.
    recordings: Mutex<Option<Arc<Recordings>>>,
    /// Whether they are.
    is_recorded: AtomicBool,
}

#[derive(Debug)]
struct Table<C> {
    endpoint: Endpoint,
    /// Under the index of their keys.
    sessions: Vec<Option<Arc<C>>>,
}

impl<C: Member> Table<C> {
    fn get(&self, key: SessionKey) -> Option<&Arc<C>> {
        self.sessions.get(key.index())?.as_ref().filter(|connection| connection.key() == key)
    }

    fn put(&mut self, key: SessionKey, connection: Arc<C>) {
        if self.sessions.len() <= key.index() {
            self.sessions.resize_with(key.index() + 1, || None);
        }
        self.sessions[key.index()] = Some(connection);
    }

    fn take(&mut self, key: SessionKey) -> Option<Arc<C>> {
        self.sessions.get_mut(key.index())?.take_if(|connection| connection.key() == key)
    }
}

/// What the endpoint's table requires of a connection. There is one implementation; the trait keeps this module
/// independent of `connection`.
pub(crate) trait Member {
    /// Its key at the endpoint.
    fn key(&self) -> SessionKey;

    /// Ends the session without notifying the peer.
    fn stop(self: &Arc<Self>, now: Instant);

    /// The table has dropped the session.
    fn removed(&self);
}

/// The driver of one socket, as the endpoint wakes it.
pub(crate) trait DriverHandle: Send + Sync {
    /// Wakes the driver. False: it has ended.
    fn wake(&self) -> bool;
}

impl<C: Member> SharedEndpoint<C> {
    pub(crate) fn new(endpoint: Endpoint, memory_limit: usize, proxies: Option<Arc<Proxies>>) -> Self {
        let is_listener = endpoint.config().is_some();
        // A connector has few sessions: the default number of shards, four per processor, would take more memory than
        // they do.
        let hints = if is_listener { DashMap::new() } else { DashMap::with_shard_amount(FEWEST_SHARDS) };
        Self {
            number: ENDPOINTS.fetch_add(1, Ordering::Relaxed),
            table: Mutex::new(Table { endpoint, sessions: Vec::new() }),
            hints,
            budget: MemoryBudget::new(memory_limit),
            is_listener,
            proxies,
            sessions: AtomicUsize::new(0),
            is_open: AtomicBool::new(true),
            is_lingering: AtomicBool::new(false),
            has_actions: AtomicBool::new(false),
            arrivals: Arrivals::default(),
            drivers: Mutex::default(),
            idle: Notify::new(),
            ended: Mutex::default(),
            told: Mutex::default(),
            recordings: Mutex::default(),
            is_recorded: AtomicBool::new(false),
        }
    }

    /// Adds the driver of a socket, to be woken when no session is left.
    pub(crate) fn join(&self, driver: Weak<dyn DriverHandle>) {
        lock(&self.drivers).push(driver);
    }

    /// Runs `work` on the endpoint, for a caller that performs its actions afterwards.
    pub(crate) fn with_endpoint<T>(&self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        let (done, has_settled) = {
            let mut table = lock(&self.table);
            let done = work(&mut table.endpoint);
            // Under the lock: two calls must not note it in the wrong order.
            let lingers = table.endpoint.is_lingering();
            (done, self.is_lingering.swap(lingers, Ordering::SeqCst) && !lingers)
        };
        if has_settled {
            self.idle.notify_waiters();
            self.wake_drivers();
        }
        done
    }

    /// Runs a call of the application on the endpoint. A driver performs the resulting actions.
    pub(crate) fn call<T>(&self, work: impl FnOnce(&mut Endpoint) -> T) -> T {
        let (done, has_actions) = self.with_endpoint(|endpoint| (work(endpoint), endpoint.has_actions()));
        if has_actions {
            self.hand_over_actions();
        }
        done
    }

    fn hand_over_actions(&self) {
        self.has_actions.store(true, Ordering::SeqCst);
        if !self.wake_drivers() {
            Undriven(self).settle();
        }
    }

    /// Whether the endpoint has actions. If so, the caller must perform them.
    pub(crate) fn take_actions(&self) -> bool {
        self.has_actions.load(Ordering::Relaxed) && self.has_actions.swap(false, Ordering::SeqCst)
    }

    /// Whether a driver has to perform actions.
    pub(crate) fn has_actions(&self) -> bool {
        self.has_actions.load(Ordering::SeqCst)
    }

    /// The connection at an address, by the routing table.
    pub(crate) fn hint(&self, address: SocketAddr) -> Option<Arc<C>> {
        self.hints.get(&address).map(|entry| Arc::clone(entry.value()))
    }

    /// The connection at an address, by the endpoint. The routing table follows when a driver has run.
    pub(crate) fn resident(&self, address: SocketAddr) -> Option<Arc<C>> {
        let table = lock(&self.table);
        table.get(table.endpoint.at(address)?).cloned()
    }

    pub(crate) fn session(&self, key: SessionKey) -> Option<Arc<C>> {
        lock(&self.table).get(key).cloned()
    }

    /// Every session that has not been removed.
    pub(crate) fn connections(&self) -> Vec<Arc<C>> {
        lock(&self.table).sessions.iter().flatten().map(Arc::clone).collect()
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Adds the connection of a session that the endpoint has opened.
    pub(crate) fn insert(&self, key: SessionKey, connection: Arc<C>) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
        lock(&self.table).put(key, connection);
    }

    /// Registers a session that is opened from this side. `ended` is a session at the same address that is known to
    /// have ended.
    pub(crate) fn register(
        &self,
        address: SocketAddr,
        session_id: u32,
        ended: Option<SessionKey>,
        open: impl FnOnce(SessionKey) -> Arc<C>,
    ) -> Result<Arc<C>, NotRegistered> {
        let connection = {
            let mut table = lock(&self.table);
            if let Some(ended) = ended {
                table.endpoint.handle_session_ended(now(), ended, false);
            }
            let key = table.endpoint.connect(address, session_id)?;
            let connection = open(key);
            table.put(key, Arc::clone(&connection));
            connection
        };
        self.sessions.fetch_add(1, Ordering::Relaxed);
        self.hand_over_actions();
        Ok(connection)
    }

    /// Routes datagrams from this address to this session from now on, if the endpoint still wants that: another driver may
    /// have performed a later decision already.
    pub(crate) fn route(&self, address: SocketAddr, key: SessionKey) {
        let table = lock(&self.table);
        let Some(connection) = table.get(key).filter(|_| table.endpoint.at(address) == Some(key)) else { return };
        let replaced = self.hints.insert(address, Arc::clone(connection));
        drop(table);
        drop(replaced);
    }

    /// Ends that, unless the session has come back to the address.
    pub(crate) fn unroute(&self, address: SocketAddr, key: SessionKey) {
        let table = lock(&self.table);
        if table.endpoint.at(address) == Some(key) {
            return;
        }
        // The address may already belong to a newer session.
        let removed = self.hints.remove_if(&address, |_, there| there.key() == key);
        drop(table);
        drop(removed);
    }

    /// Removes a session. Its handles keep what has arrived.
    pub(crate) fn remove(&self, key: SessionKey) {
        let Some(connection) = lock(&self.table).take(key) else { return };
        // After the table: `until_idle` returns only when `connections` no longer contains the session.
        if self.sessions.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_waiters();
        }
        connection.removed();
        if !self.is_needed() {
            self.wake_drivers();
        }
    }

    /// Waits until no session is left.
    pub(crate) async fn until_idle(&self) {
        until(&self.idle, || (self.sessions.load(Ordering::SeqCst) == 0).then_some(())).await;
    }

    /// Removes a session that has no driver any more.
    pub(crate) fn remove_undriven(&self, now: Instant, key: SessionKey) {
        self.call(|endpoint| {
            endpoint.handle_session_ended(now, key, true);
            endpoint.handle_session_drained(now, key);
        });
    }

    /// Whether the drivers are still needed: there are sessions or actions, or new sessions may be opened.
    pub(crate) fn is_needed(&self) -> bool {
        self.is_open() || self.session_count() > 0 || self.has_actions() || self.is_lingering()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    /// Opens no new sessions from now on, and refuses those in the accept queue. The drivers end with the last session.
    pub(crate) fn close(&self) {
        // Before `is_open`: it may linger from now on, and a driver must not find in between that it is not needed.
        self.call(|endpoint| endpoint.close(now()));
        self.is_open.store(false, Ordering::SeqCst);
        self.arrivals.wake_all();
        if !self.wake_drivers() {
            self.with_endpoint(Endpoint::stop_lingering);
        }
    }

    /// Whether the closed endpoint waits for clients that it has answered.
    pub(crate) fn is_lingering(&self) -> bool {
        self.is_lingering.load(Ordering::SeqCst)
    }

    /// Waits until the closed endpoint has no client to refuse any more.
    pub(crate) async fn until_settled(&self) {
        until(&self.idle, || (!self.is_lingering()).then_some(())).await;
    }

    /// Wakes all drivers. False: none is running.
    fn wake_drivers(&self) -> bool {
        let drivers: Vec<_> = lock(&self.drivers).iter().filter_map(Weak::upgrade).collect();
        // Not `any`, which would stop at the first running driver.
        drivers.iter().fold(false, |is_driven, driver| driver.wake() | is_driven)
    }

    pub(crate) fn set_limits(&self, limits: &AdmissionConfig) {
        self.call(|endpoint| endpoint.set_limits(now(), limits));
    }

    /// Records sessions that open from now on, or no longer.
    pub(crate) fn record(&self, recordings: Option<Recordings>) {
        let recordings = recordings.map(Arc::new);
        let options = recordings.as_ref().map(|recordings| recordings.options.clone());
        self.is_recorded.store(recordings.is_some(), Ordering::Relaxed);
        let replaced = std::mem::replace(&mut *lock(&self.recordings), recordings);
        self.with_endpoint(|endpoint| endpoint.record(options));
        if let Some(replaced) = replaced {
            replaced.retire();
        }
    }

    pub(crate) fn recordings(&self) -> Option<Arc<Recordings>> {
        if self.is_recorded.load(Ordering::Relaxed) { lock(&self.recordings).clone() } else { None }
    }

    /// Logs the events for the operator.
    pub(crate) fn tell_operator(&self, now: Instant) {
        let stats = self.stats();
        let news =
            lock(&self.told).news(now, &stats, &self.budget, self.proxies.as_deref().map(|proxies| &proxies.counters));
        news.tell();
    }

    pub(crate) fn stats(&self) -> EndpointStats {
        self.with_endpoint(|endpoint| endpoint.stats())
    }
}

/// Endpoints that this process has made.
static ENDPOINTS: AtomicU64 = AtomicU64::new(0);
/// The smallest number of shards that `DashMap` takes.
const FEWEST_SHARDS: usize = 2;
