//! A connection: one core session under its lock, and the tasks that wait for it.

pub(crate) mod batch;
mod calls;
mod ending;
mod flush;
mod locking;
mod service;
pub(crate) mod state;

use std::{
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    time::Instant,
};

use soe_core::{Channel, DisconnectReason, NotRegistered, Path, ReliableChannel, Session, SessionKey};
use tokio::sync::{Mutex as AsyncMutex, Notify};
use tracing::{Span, debug, debug_span};

pub(crate) use self::service::{Attempt, Round, Served};
use self::{
    locking::{Contention, Locked},
    state::{Changes, ConnectionState},
};
use crate::engine::{
    clock::now, reports::notices::Notices, reports::recordings::EndedRecording, shared_endpoint::Member,
    shared_socket::SharedSocket, sync::lock,
};

/// One session, shared by its handles and the driver.
pub(crate) struct Connection {
    pub(crate) shared: Arc<SharedSocket<Self>>,
    /// Its key at the endpoint.
    pub(crate) key: SessionKey,
    /// How many tasks wait for the datagrams to leave. While it is zero the driver skips a lock.
    pub(crate) flush_waiters: AtomicU32,
    /// The number of owners: one for a session, two for its halves.
    pub(crate) handles: AtomicU8,
    /// `None` if no subscriber is interested.
    span: Option<Box<Span>>,
    /// Allocated when first needed: most sessions never need it.
    waiters: OnceLock<Box<Waiters>>,
    pub(crate) contention: Contention,
    pub(crate) state: Mutex<ConnectionState>,
}

/// Tasks that wait for something other than messages and send buffer.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    /// For the session to connect, to end, or to report an event.
    pub(crate) changes: Notify,
    /// For the datagrams to leave.
    pub(crate) flush: Notify,
    /// For room in a send buffer, by handles: the owner has a place of its own.
    pub(crate) room: Notify,
    /// The order of those with handles who wait for the same room: one place for each reliable channel, one for all others.
    turns: OnceLock<Box<[AsyncMutex<()>; ReliableChannel::COUNT + 1]>>,
}

impl Waiters {
    /// The turn of those who wait for room on this channel. First come, first served.
    pub(crate) fn turn(&self, channel: Channel) -> &AsyncMutex<()> {
        &self.turns.get_or_init(Box::default)[place_of(channel)]
    }

    /// Whether somebody waits for room on this channel.
    pub(crate) fn is_room_awaited(&self, channel: Channel) -> bool {
        self.turns.get().is_some_and(|turns| turns[place_of(channel)].try_lock().is_err())
    }
}

fn place_of(channel: Channel) -> usize {
    if let Channel::Reliable(channel) = channel { channel.index() } else { ReliableChannel::COUNT }
}

impl Connection {
    pub(crate) fn new(shared: Arc<SharedSocket<Self>>, key: SessionKey, path: Path, session: Session) -> Arc<Self> {
        let address = path.remote;
        let session_id = session.session_id();
        let span = debug_span!(parent: None, "session", peer = %address, id = format_args!("{session_id:08x}"));
        let span = (!span.is_disabled()).then(|| Box::new(span));
        let mut state = ConnectionState::new(session, path, shared.endpoint.budget.open());
        state.note_path(shared.local_addr);
        let (flush_waiters, handles) = Default::default();
        let (waiters, contention) = Default::default();
        shared.sessions.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self { shared, key, flush_waiters, handles, span, waiters, contention, state: Mutex::new(state) })
    }

    /// Opens a session from this side.
    pub(crate) fn connect(
        shared: &Arc<SharedSocket<Self>>,
        address: SocketAddr,
        session: Session,
    ) -> Result<Arc<Self>, NotRegistered> {
        // The application may have seen the end of a session before its driver has reported it.
        let ended = shared.endpoint.resident(address).filter(|there| !there.is_busy_or_open()).map(|there| there.key);
        let session_id = session.session_id();
        let open = |key| Self::new(Arc::clone(shared), key, address.into(), session);
        let connection = shared.endpoint.register(address, session_id, ended, open)?;
        connection.act(ConnectionState::mark);
        Ok(connection)
    }

    /// Runs `work` on the session for the application. `work` calls [`ConnectionState::mark`] if the driver is needed.
    pub(crate) fn act<T>(self: &Arc<Self>, work: impl FnOnce(&mut ConnectionState) -> T) -> T {
        // Entered before the lock is taken: a subscriber may ask the session.
        let _entered = self.span.as_ref().map(|span| span.enter());
        let (done, marked) = self.work_with(self.lock(), work);
        if marked {
            self.request_service();
        }
        done
    }

    /// Like [`Connection::act`], unless a hook of the application holds the session. Tasks that wait for changes are woken when it
    /// is free.
    pub(crate) fn try_act<T>(self: &Arc<Self>, work: impl FnOnce(&mut ConnectionState) -> T) -> Option<T> {
        let (done, marked) = self.try_work_on(work)?;
        if marked {
            self.request_service();
        }
        Some(done)
    }

    /// Like [`Connection::try_act`], but leaves it to the caller to request the driver's service if the second value is true.
    fn try_work_on<T>(self: &Arc<Self>, work: impl FnOnce(&mut ConnectionState) -> T) -> Option<(T, bool)> {
        let _entered = self.span.as_ref().map(|span| span.enter());
        self.try_lock().map(|locked| self.work_with(locked, work))
    }

    /// Works on the session, and tells whether the driver is needed now.
    fn work_with<T>(self: &Arc<Self>, locked: Locked<'_>, work: impl FnOnce(&mut ConnectionState) -> T) -> (T, bool) {
        // A guard and not `catch_unwind`: the result of every call would be moved through it.
        let on_panic = OnPanic(self);
        // Behind the guard, to be unlocked before it.
        let mut state = locked;
        let was_dirty = state.dirty;
        let done = work(&mut state);
        let marked = state.dirty && !was_dirty;
        drop(state);
        std::mem::forget(on_panic);
        (done, marked)
    }

    /// Puts the connection in its driver's list, its `dirty` flag having just been set. Without a driver the session ends here.
    pub(crate) fn request_service(self: &Arc<Self>) {
        if self.shared.push_dirty(self).is_err() {
            self.stop_and_remove(now());
        }
    }

    /// Requests the driver's service. True: the caller must put the connection in the driver's list.
    pub(crate) fn mark_dirty(&self) -> bool {
        !std::mem::replace(&mut self.lock().dirty, true)
    }

    /// Forwards what the session has reported to the log, the driver and the waiting tasks. Must be called without the
    /// lock: wakers and log subscribers are code of the application, which may use the session.
    pub(super) fn announce(&self, changes: &Changes, notices: &mut Notices) {
        if let Some(problem) = &changes.problem {
            debug!(%problem, "the peer has sent something invalid");
        }
        if let (Some(closed), Some(totals)) = (changes.closed, &changes.totals) {
            debug!(reason = %closed.reason, by = %closed.origin, "a session ends");
            lock(&self.shared.endpoint.ended).add(closed, totals);
            notices.ended.push((self.key, changes.is_readable));
        }
        self.notify(changes);
    }

    pub(super) fn notify(&self, changes: &Changes) {
        let Some(waiters) = self.waiters.get() else { return };
        if changes.any {
            waiters.changes.notify_waiters();
        }
        if changes.flushed || changes.closed.is_some() {
            waiters.flush.notify_waiters();
        }
        if changes.any || changes.room {
            waiters.room.notify_waiters();
        }
    }

    /// Where tasks wait for this session.
    pub(crate) fn waiters(&self) -> &Waiters {
        self.waiters.get_or_init(Box::default)
    }

    /// Hands over what the session has recorded. No lock is held.
    fn hand_over(&self, recording: Option<EndedRecording>) {
        let recordings = recording.as_ref().and_then(|_| self.shared.endpoint.recordings());
        if let (Some(recordings), Some(recording)) = (recordings, recording) {
            recordings.finish(recording);
        }
    }

    /// A copy of what the session has recorded so far, and the number of the recording.
    pub(crate) fn recorded(&self) -> Option<(u64, Vec<Vec<u8>>)> {
        let mut state = self.lock();
        let recorder = state.session.recorder()?;
        Some((recorder.number(), recorder.copy_pieces()?))
    }

    /// The id that the client chose. Read from the session: a copy would cost 8 bytes in each idle session.
    pub(crate) fn session_id(&self) -> u32 {
        self.lock().session.session_id()
    }

    /// Whether the session has an owner and has not ended.
    pub(crate) fn is_held(&self) -> bool {
        self.handles.load(Ordering::Relaxed) > 0 && self.is_busy_or_open()
    }

    /// Whether the session has not ended, for calls about others as well: they wait for no hook.
    pub(crate) fn is_busy_or_open(&self) -> bool {
        self.try_lock().is_none_or(|state| state.end().is_none())
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().end().is_some()
    }

    /// Whether the session ends without further calls, within its `close_timeout`: it is closing, or has no owner left.
    pub(crate) fn is_ending(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0 || self.try_lock().is_some_and(|state| state.session.is_closing())
    }
}

/// Dropped when a hook has panicked in a task of the application: the next lock ends the session, and the driver is to see
/// to it.
struct OnPanic<'a>(&'a Arc<Connection>);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        self.0.lock().dirty = true;
        self.0.request_service();
    }
}

impl Member for Connection {
    fn key(&self) -> SessionKey {
        self.key
    }

    fn stop(self: &Arc<Self>, now: Instant) {
        Self::stop(self, now);
    }

    fn removed(&self) {
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Connection {
    /// Without the state, whose lock may be held, and without what all connections share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("key", &self.key).finish_non_exhaustive()
    }
}

/// The reason for ending a session where the application has given none.
pub(crate) const ENDED_HERE: DisconnectReason = DisconnectReason::Application;
