//! The state under the lock of a connection: the core session and the wakers of the tasks that wait for it.

use std::{
    any::Any,
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::Waker,
    time::Instant,
};

use soe_core::{
    Channel, Closed, DisconnectReason, Event, MemoryAccount, Message, Path, Problem, Receipt, Relay, ReliableChannel,
    SendError, Session, SessionStats, recording::Mark,
};

use crate::{
    engine::{clock::now, reports::recordings::EndedRecording, sync::set_waker},
    error::SessionError,
    event::SessionEvent,
};

/// The state under the lock of a connection.
#[derive(Debug)]
pub(crate) struct ConnectionState {
    pub(crate) session: Session,
    /// Where its datagrams go.
    pub(crate) address: SocketAddr,
    /// Their source: the local address that the peer sends to, for sockets that have several.
    pub(crate) local_ip: Option<IpAddr>,
    /// Whether the connection is in the driver's list, or about to be put there by the task that set this.
    pub(crate) dirty: bool,
    /// The instant of the session's entry in the driver's timers.
    pub(crate) armed: Option<Instant>,
    pub(crate) reader: Option<Waker>,
    /// The batch that last took datagrams of this session.
    pub(crate) batch: u64,
    /// The memory that the session held when it was last counted.
    account: MemoryAccount,
    /// Allocated on first use: most sessions never need it.
    cold: Option<Box<Cold>>,
    /// The owner has been told that there is room: its next message is taken, whatever handles queue before it.
    has_promised_room: bool,
    /// The session's last event has been taken: no further delivery will be reported.
    pub(crate) is_over: bool,
    /// Whether `recv` has returned the abnormal end as an error.
    pub(crate) end_reported: bool,
    /// The driver does not serve this session any more; what has arrived can still be read.
    pub(crate) is_stopped: bool,
    /// The driver ended before the session.
    pub(crate) was_cut: bool,
    /// The session panicked again while it was closed after a panic: it is not called any more.
    pub(crate) is_broken: bool,
}

/// Rarely used fields.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    /// The task that waits for room to send, on one channel or on all.
    pub(super) writer: (Option<Channel>, Option<Waker>),
    /// The task that closes the session as a sink.
    pub(crate) closer: Option<Waker>,
    pub(crate) events: VecDeque<SessionEvent>,
    /// The proxy in front of the peer.
    relay: Option<Relay>,
    /// Messages with a [`crate::Delivery`] whose acknowledgement has not been reported.
    pub(crate) receipts: BTreeMap<Receipt, Option<Waker>>,
    /// The messages queued since a task first waited for them to leave.
    counts: Option<Box<QueueCounts>>,
    /// Data that the application has attached.
    pub(crate) data: Option<Arc<dyn Any + Send + Sync>>,
}

impl Cold {
    /// Keeps an event for the application. If the queue is full, the oldest event is dropped.
    fn report(&mut self, event: SessionEvent) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

impl ConnectionState {
    pub(crate) fn new(session: Session, path: Path, account: MemoryAccount) -> Self {
        Self {
            session,
            address: path.remote,
            local_ip: path.local,
            dirty: false,
            armed: None,
            reader: None,
            batch: 0,
            account,
            cold: path.relay.map(|relay| Box::new(Cold { relay: Some(relay), ..Cold::default() })),
            has_promised_room: false,
            is_over: false,
            end_reported: false,
            is_stopped: false,
            was_cut: false,
            is_broken: false,
        }
    }

    /// Returns the cold state, allocating it on first use.
    pub(crate) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    /// Returns the cold state, if there is any.
    pub(crate) fn cold_if_any(&mut self) -> Option<&mut Cold> {
        self.cold.as_deref_mut()
    }

    pub(crate) fn path(&self) -> Path {
        Path::new(self.address, self.local_ip).with_relay(self.relay())
    }

    /// By way of whom the peer is reached.
    pub(crate) fn relay(&self) -> Option<Relay> {
        self.cold.as_ref()?.relay
    }

    /// The peer has proved to be at the other end of this path: answers take it from here on.
    pub(crate) fn follow(&mut self, path: Path) {
        (self.address, self.local_ip) = (path.remote, path.local);
        if self.relay() != path.relay {
            self.cold().relay = path.relay;
        }
    }

    /// Requests the driver's service.
    pub(crate) fn mark(&mut self) {
        self.dirty = true;
    }

    pub(crate) fn send(&mut self, message: Message) -> Result<(), SendError> {
        if self.is_stopped {
            return Err(SendError::Closed(message));
        }
        self.counting(|session| session.send(message))
    }

    /// Like [`ConnectionState::send`], for the owner: after [`promise_room`](Self::promise_room) there is room.
    pub(crate) fn send_as_owner(&mut self, message: Message) -> Result<(), SendError> {
        self.redeem_promise();
        self.send(message)
    }

    /// Like [`ConnectionState::send_with_receipt`], for the owner.
    pub(crate) fn send_with_receipt_as_owner(&mut self, message: Message) -> Result<Receipt, SendError> {
        self.redeem_promise();
        self.send_with_receipt(message)
    }

    fn redeem_promise(&mut self) {
        if std::mem::take(&mut self.has_promised_room) && !self.has_room(None) {
            self.session.reserve();
        }
    }

    /// Promises the owner room for its next message, if there is room on every channel or a promise is open.
    pub(crate) fn promise_room(&mut self) -> bool {
        self.has_promised_room |= self.has_room(None);
        self.has_promised_room
    }

    /// Queues a message if there is room now. With `drops_oldest`, queued unreliable messages are dropped first, oldest
    /// first, as long as that can make room. Returns how many were dropped.
    pub(crate) fn offer(&mut self, message: Message, drops_oldest: bool) -> (Result<(), SendError>, usize) {
        let (mut queued, mut dropped) = (self.send(message), 0);
        while let Err(SendError::Blocked(message)) = queued {
            let is_in_the_way = !message.channel.is_reliable() && !self.has_room(Some(message.channel));
            if !drops_oldest || !is_in_the_way || !self.session.drop_oldest_unreliable() {
                return (Err(SendError::Blocked(message)), dropped);
            }
            dropped += 1;
            queued = self.send(message);
        }
        self.mark();
        (queued, dropped)
    }

    pub(crate) fn send_with_receipt(&mut self, message: Message) -> Result<Receipt, SendError> {
        if self.is_stopped {
            return Err(SendError::Closed(message));
        }
        let receipt = self.counting(|session| session.send_with_receipt(message))?;
        self.cold().receipts.insert(receipt, None);
        Ok(receipt)
    }

    /// Counts what `queue` adds to the queues, if a task ever waited for them.
    fn counting<T>(&mut self, queue: impl FnOnce(&mut Session) -> T) -> T {
        let Some(counts) = self.cold.as_deref_mut().and_then(|cold| cold.counts.as_deref_mut()) else {
            return queue(&mut self.session);
        };
        let before = self.session.queued_messages();
        let queued = queue(&mut self.session);
        for ((count, before), after) in counts.iter_mut().zip(before).zip(self.session.queued_messages()) {
            // A refused message may have ended the session and emptied its queues.
            *count += after.saturating_sub(before);
        }
        queued
    }

    /// The number of messages counted so far, on each channel. Counting begins with the first call.
    pub(crate) fn count_queued(&mut self) -> QueueCounts {
        **self.cold().counts.get_or_insert_default()
    }

    /// Whether no message is queued any more that was there when [`count_queued`](Self::count_queued) returned this:
    /// each queue holds no more messages than have been added since, and they leave in their order.
    pub(crate) fn have_left(&mut self, then: &QueueCounts) -> bool {
        let counts = self.count_queued();
        let added = counts.iter().zip(then).map(|(count, then)| count - then);
        self.session.queued_messages().into_iter().zip(added).all(|(queued, added)| queued <= added)
    }

    /// Takes the events of the session, and the wakers of the tasks that await them.
    pub(crate) fn take_events(&mut self, wakers: &mut Vec<Waker>) -> Changes {
        let mut changes = Changes { problem: self.session.take_problem(), ..Changes::default() };
        while let Some(event) = self.session.poll_event() {
            changes.any = true;
            if let Event::Closed(closed) = event {
                changes.closed = Some(closed);
                changes.is_readable = self.session.is_readable();
                changes.totals = Some(Box::new(self.session.stats(now())));
                self.is_over = true;
            }
            if let Event::LargeDatagramsLost { smallest_lost, largest_delivered } = event {
                self.cold().report(SessionEvent::LargeDatagramsLost { smallest_lost, largest_delivered });
            }
            if let Event::PeerNotReading(channel) = event {
                self.cold().report(SessionEvent::PeerNotReading(channel));
            }
            let Some(cold) = self.cold.as_deref_mut() else { continue };
            match event {
                Event::Delivered(receipt) => wakers.extend(cold.receipts.remove(&receipt).flatten()),
                Event::Closed(_) => wakers.extend(cold.receipts.values_mut().filter_map(Option::take)),
                _ => {}
            }
        }
        changes
    }

    /// Returns the next message, unless the session is broken.
    pub(crate) fn recv(&mut self) -> Option<Message> {
        // A broken session may panic again in the application's cipher.
        if self.is_broken { None } else { self.session.recv() }
    }

    /// Stores the waker of the task that waits for room, and requests service, which makes room. Returns the replaced
    /// waker, to be dropped without the lock.
    pub(crate) fn await_room(&mut self, channel: Option<Channel>, waker: &Waker) -> Option<Waker> {
        self.mark();
        let (waits_for, slot) = &mut self.cold().writer;
        *waits_for = channel;
        set_waker(slot, waker)
    }

    pub(crate) fn has_room(&self, channel: Option<Channel>) -> bool {
        match channel {
            Some(channel) => self.session.send_capacity_on(channel) > 0,
            None => self.session.send_capacity() > 0,
        }
    }

    /// How the session ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        match self.session.closed() {
            // First: the session was aborted locally in these cases, and its own reason would read like a regular
            // close.
            _ if self.was_cut || self.is_broken => Some(End::Stopped),
            Some(closed) => Some(End::Closed(closed)),
            None => None,
        }
    }

    /// Whether the session has a deadline before its entry in the timers.
    pub(crate) fn is_late(&self) -> bool {
        match (self.session.poll_timeout(), self.armed) {
            (Some(deadline), Some(armed)) => deadline < armed,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Whether there is something to send, a timer to set, or a session to remove.
    pub(crate) fn needs_service(&self, now: Instant) -> bool {
        self.session.has_transmit(now) || self.is_late() || self.session.is_drained()
    }

    /// Updates the memory count of all sessions with what this one holds now. True: the session held too much and was
    /// ended.
    pub(crate) fn account(&mut self, now: Instant) -> bool {
        let is_over_share = self.account.update(self.session.held());
        if is_over_share {
            self.session.abandon(now, DisconnectReason::ReliableOverflow, true);
        }
        is_over_share
    }

    /// The peer has proved that it has moved.
    pub(crate) fn move_to(&mut self, now: Instant, from: SocketAddr, to: Path) {
        self.follow(to);
        self.session.handle_remap(now);
        self.cold().report(SessionEvent::Remapped { from, to: to.remote });
    }

    /// Tells the session's recording where its datagrams go. `bound` is the address of the socket.
    pub(crate) fn note_path(&mut self, bound: SocketAddr) {
        if let Some(recorder) = self.session.recorder() {
            let local = SocketAddr::new(self.local_ip.unwrap_or_else(|| bound.ip()).to_canonical(), bound.port());
            recorder.path(local, self.address);
        }
    }

    pub(crate) fn mark_recording(&mut self, mark: Mark) {
        if let Some(recorder) = self.session.recorder() {
            recorder.mark(mark);
        }
    }

    /// Ends the recording of a session that is over.
    pub(crate) fn take_recording(&mut self) -> Option<EndedRecording> {
        let recorder = self.session.stop_recording()?;
        let is_failure = self.session.closed().is_some_and(|closed| !closed.is_clean());
        let is_abnormal = is_failure || recorder.has_panicked();
        Some(EndedRecording { recorder, is_abnormal })
    }

    pub(crate) fn collect_wakers(&mut self, wakers: &mut Vec<Waker>) {
        if self.end().is_some() {
            wakers.append(&mut self.all_wakers());
            return;
        }
        if self.reader.is_some() && self.session.is_readable() {
            wakers.extend(self.reader.take());
        }
        let waits_for = self.cold.as_ref().filter(|cold| cold.writer.1.is_some()).map(|cold| cold.writer.0);
        if waits_for.is_some_and(|channel| self.has_room(channel)) {
            // Now: the tasks with handles are woken as well, and could fill the buffer each time before this one runs.
            self.has_promised_room = true;
            wakers.extend(self.cold().writer.1.take());
        }
    }
}

/// How a session ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Closed(Closed),
    Stopped,
}

impl End {
    /// Whether one of the two applications ended it, and not a failure.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self, Self::Closed(closed) if closed.is_clean())
    }
}

impl From<End> for SessionError {
    fn from(end: End) -> Self {
        match end {
            End::Closed(closed) => Self::Closed(closed),
            End::Stopped => Self::Stopped,
        }
    }
}

/// What a session has reported. It is forwarded to waiting tasks and to the log once no lock is held.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether there was any event.
    pub(crate) any: bool,
    /// It has ended, just now.
    pub(crate) closed: Option<Closed>,
    /// Its statistics at the end.
    pub(crate) totals: Option<Box<SessionStats>>,
    /// The ended session has messages that the application has not read.
    pub(crate) is_readable: bool,
    /// The peer has sent something invalid.
    pub(crate) problem: Option<Problem>,
    /// What was queued has been sent, and a task waits for that.
    pub(crate) flushed: bool,
    /// Datagrams have been taken: there may be room in a send buffer.
    pub(crate) room: bool,
}

/// Messages on each reliable channel, and on the unreliable ones together.
pub(crate) type QueueCounts = [usize; ReliableChannel::COUNT + 1];

/// The number of events kept for the application; the oldest are dropped.
const MAX_EVENTS: usize = 16;
