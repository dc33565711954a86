//! Sending for all sessions at once: their datagrams are collected in one buffer and sent with few system calls.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use soe_core::Path;
use tracing::{debug, trace};

use crate::{
    engine::{
        connection::{Connection, Round, Served},
        reports::notices::Notices,
        scratch,
        shared_socket::{Counters, SharedSocket},
        timers::Timers,
    },
    socket::{
        AsyncUdp, SendBatch,
        kernel::{is_never_of_this_datagram, is_of_earlier_datagram},
    },
};

/// The sending half of the driver.
#[derive(Debug)]
pub(crate) struct Transmitter {
    /// The datagrams to send. Empty between two flushes, unless the socket is full.
    batch: SendBatch,
    /// Connections with datagrams in the batch: its entries name them by their index here.
    senders: Vec<Arc<Connection>>,
    /// The number of the batch that is being filled or sent; all batches with a lower number have been sent.
    number: u64,
    /// Connections that the driver itself marked for service.
    found: Vec<Arc<Connection>>,
    /// Connections whose lock the application held when they were to be served.
    busy: Vec<Arc<Connection>>,
    /// The socket is not writable: nothing is taken from sessions until it is.
    is_blocked: bool,
    /// The first pending entry has failed once.
    retried: bool,
    /// Errors in a row for the first pending entry.
    failures: u32,
    max_segments: usize,
}

/// Errors of earlier datagrams in a row before an entry is dropped. Each error comes with a report that is read; more
/// than this many can only come from a broken socket.
const MAX_OLD_ERRORS: u32 = 4096;
/// The same for errors that may be about the entry itself, with no report to explain them.
const FEW_OLD_ERRORS: u32 = 3;

impl Default for Transmitter {
    fn default() -> Self {
        let batch = SendBatch::new();
        Self {
            batch,
            senders: vec![],
            number: 1,
            found: vec![],
            busy: vec![],
            is_blocked: false,
            retried: false,
            failures: 0,
            max_segments: 1,
        }
    }
}

impl Transmitter {
    /// Serves a connection in the next flush. Its `dirty` flag must be set.
    pub(crate) fn add(&mut self, connection: Arc<Connection>) {
        self.found.push(connection);
    }

    /// Sends a datagram that belongs to no session. It is dropped while the socket is not writable: clients repeat
    /// their requests.
    pub(crate) fn reply(&mut self, to: Path, datagram: &[u8]) {
        if self.is_blocked {
            return;
        }
        if self.batch.is_bare() {
            self.batch = scratch::take_batch();
        }
        let start = self.batch.buffer().len();
        self.batch.buffer().extend_from_slice(datagram);
        self.batch.push_single(to, start);
    }

    /// Removes and returns the connections that wait for a flush.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<Connection>> {
        self.found.drain(..).chain(self.busy.drain(..))
    }

    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    pub(crate) fn unblock(&mut self) {
        self.is_blocked = false;
    }

    /// Whether the last flush has left nothing to do.
    pub(crate) fn has_nothing(&self) -> bool {
        self.found.is_empty() && self.busy.is_empty() && self.batch.is_done()
    }

    /// Serves once each connection that needs it, and sends their datagrams. Stops early when the socket is not
    /// writable; the remaining connections stay in the list.
    pub(crate) fn flush(
        &mut self,
        now: Instant,
        shared: &SharedSocket<Connection>,
        socket: &mut dyn AsyncUdp,
        timers: &mut Timers<Connection>,
        notices: &mut Notices,
    ) {
        if self.has_nothing() && !shared.has_service() {
            return;
        }
        if !self.send(shared, socket, notices) {
            shared.put_back_dirty(&mut self.found);
            return;
        }
        let mut round = scratch::take_round();
        round.append(&mut self.found);
        round.append(&mut self.busy);
        shared.take_dirty(&mut round);
        if self.batch.is_bare() {
            self.batch = scratch::take_batch();
        }
        if self.senders.capacity() == 0 {
            self.senders = scratch::take_senders();
        }
        self.max_segments = socket.max_segments();
        shared.queries.write(&mut self.batch);
        let mut again = std::mem::take(&mut self.found);
        let mut connections = round.drain(..);
        for connection in connections.by_ref() {
            let (entries, owner) = (self.batch.len(), self.senders.len() as u32);
            let round = Round { now, number: self.number, owner, max_segments: self.max_segments };
            let batch = &mut self.batch;
            let served = catch_unwind(AssertUnwindSafe(|| connection.serve(round, batch, timers, notices)));
            match served {
                Ok(Served::All) => {}
                Ok(Served::Part) => again.push(Arc::clone(&connection)),
                Ok(Served::Over) => notices.drained.push(connection.key),
                Ok(Served::Busy) => self.busy.push(Arc::clone(&connection)),
                Err(_) => connection.fail_after_panic(now, notices),
            }
            if self.batch.len() > entries {
                self.senders.push(connection);
            }
            if self.batch.is_full() && !self.send(shared, socket, notices) {
                break;
            }
        }
        // After an early stop: the connections that were not served keep their order.
        again.extend(connections);
        if !self.is_blocked {
            self.send(shared, socket, notices);
        }
        // Put back, so that the driver returns to receiving between two rounds of a bulk transfer.
        shared.put_back_dirty(&mut again);
        self.found = again;
        scratch::recycle_round(round);
        if self.batch.is_done() {
            scratch::recycle_batch(std::mem::take(&mut self.batch));
            scratch::recycle_senders(std::mem::take(&mut self.senders));
        }
    }

    /// Sends the batch; false if the socket is not writable.
    fn send(&mut self, shared: &SharedSocket<Connection>, socket: &mut dyn AsyncUdp, notices: &mut Notices) -> bool {
        while !self.is_blocked && !self.batch.is_done() {
            Counters::add(&shared.counters.send_calls, 1);
            match socket.try_send(&self.batch) {
                Ok(entries) => {
                    self.count(shared, entries);
                    self.batch.advance(entries.max(1));
                    (self.retried, self.failures) = (false, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.is_blocked = true,
                Err(error) => self.send_failed(shared, socket, &error, notices),
            }
        }
        if self.is_blocked {
            return false;
        }
        // Stored before `batch_sent` reads the number of flush waiters; `Waiting::new` does both in the reverse order.
        shared.sent_batches.store(self.number, Ordering::SeqCst);
        self.number += 1;
        self.batch.clear();
        for connection in self.senders.drain(..) {
            connection.batch_sent();
        }
        true
    }

    /// A send error can report an earlier send (an ICMP report about another peer): the reports are read and the entry
    /// is retried. An error about the entry itself leads to these steps, one per error: retry; split the segment run
    /// into single datagrams; let the system choose the local address; drop the entry, whose reliable packets are
    /// resent by their session.
    fn send_failed(
        &mut self,
        shared: &SharedSocket<Connection>,
        socket: &mut dyn AsyncUdp,
        error: &io::Error,
        notices: &mut Notices,
    ) {
        trace!(%error, "send error");
        let is_explained = take_reports(shared, socket, notices) > 0 || is_never_of_this_datagram(error);
        self.failures += 1;
        let may_be_old = is_of_earlier_datagram(error);
        if may_be_old && self.failures < if is_explained { MAX_OLD_ERRORS } else { FEW_OLD_ERRORS } {
            return;
        }
        if !may_be_old {
            if !std::mem::replace(&mut self.retried, true) || self.batch.split() {
                return;
            }
            // The local address that the peer used may have been removed, or cannot be a source address (broadcast).
            if self.batch.clear_local_ip() {
                let owner = self.batch.first_owner().and_then(|owner| self.senders.get(owner as usize));
                if let Some(mut state) = owner.and_then(|connection| connection.try_lock()) {
                    state.local_ip = None;
                }
                return;
            }
        }
        debug!(%error, "a datagram could not be sent");
        Counters::add(&shared.counters.send_errors, 1);
        if may_be_old && !is_explained {
            // The system has no route to the peer.
            notices.unreachable.extend(self.batch.pending().next().map(|first| first.to));
        }
        self.batch.advance(1);
        (self.retried, self.failures) = (false, 0);
    }

    fn count(&self, shared: &SharedSocket<Connection>, entries: usize) {
        let sent = self.batch.pending().take(entries);
        let (datagrams, bytes) = sent
            .fold((0, 0), |(datagrams, bytes), sent| (datagrams + sent.segments().len(), bytes + sent.contents.len()));
        Counters::add(&shared.counters.datagrams_sent, datagrams);
        Counters::add(&shared.counters.bytes_sent, bytes);
    }
}

/// Takes the socket's reports of unreachable addresses, a bounded number at once, and returns how many there were.
pub(crate) fn take_reports(
    shared: &SharedSocket<Connection>,
    socket: &mut dyn AsyncUdp,
    notices: &mut Notices,
) -> usize {
    let mut reports = 0;
    while reports < MAX_REPORTS
        && let Some(address) = socket.next_unreachable()
    {
        reports += 1;
        trace!(%address, "unreachable");
        notices.unreachable.push(address);
    }
    Counters::add(&shared.counters.unreachable_reports, reports);
    reports
}

/// Reports read at once.
const MAX_REPORTS: usize = 64;
