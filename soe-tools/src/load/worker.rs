//! One thread of a load: it waits for the sockets of its clients and for the times at which they have something to do.

use std::{
    collections::BTreeSet,
    io::{self, ErrorKind},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use mio::{Events, Poll};

use super::{
    LoadError, LoadReport,
    budget::Budget,
    client::{Client, Plan, Scratch},
};

/// What the threads show while they work.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) stop: AtomicBool,
    pub(super) connected: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) sent: AtomicU64,
    pub(super) echoed: AtomicU64,
}

/// What a thread has counted and what of it has been shown.
#[derive(Default)]
struct Shown {
    connected: u64,
    failed: u64,
    sent: u64,
    echoed: u64,
}

pub(super) struct Worker<'a> {
    plan: &'a Plan<'a>,
    shared: &'a Shared,
    poll: Poll,
    events: Events,
    /// The clients of this thread, in the order of their start; as far as they have started.
    clients: Vec<Client>,
    /// Their indices among all clients.
    indices: Vec<usize>,
    /// When each client wants to be driven: one entry for each that has a time.
    timers: BTreeSet<(Instant, usize)>,
    /// Clients whose sockets may have more.
    ready: Vec<usize>,
    budget: Budget,
    report: LoadReport,
    shown: Shown,
    scratch: Scratch,
}

impl<'a> Worker<'a> {
    pub(super) fn new(plan: &'a Plan<'a>, shared: &'a Shared, thread: usize) -> Result<Self, LoadError> {
        let threads = plan.config.threads;
        let indices: Vec<usize> = (thread..plan.config.clients).step_by(threads).collect();
        Ok(Self {
            plan,
            shared,
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS),
            clients: Vec::with_capacity(indices.len()),
            report: LoadReport { clients: indices.len(), ..LoadReport::default() },
            indices,
            timers: BTreeSet::new(),
            ready: Vec::new(),
            budget: Budget::new(plan.start, plan.config.rate_cap / threads as f64),
            shown: Shown::default(),
            scratch: Scratch { datagram: vec![0; MAX_DATAGRAM], out: Vec::new() },
        })
    }

    /// The whole life of the clients: they connect, send, wait for what is under way, and close.
    pub(super) fn run(mut self) -> Result<LoadReport, LoadError> {
        let sent = self.send();
        // Whatever went wrong, the server is told that those who are there go.
        let closed = self.close();
        self.show();
        sent.and(closed).map(|()| self.report)
    }

    fn send(&mut self) -> Result<(), LoadError> {
        let plan = self.plan;
        // A machine that is slow starts the last clients late, but it starts them.
        while (Instant::now() < plan.end || self.clients.len() < self.indices.len()) && !self.is_stopped() {
            let next_start = self.indices.get(self.clients.len()).map(|index| start_of(plan, *index));
            self.serve_until(next_start.map_or(plan.end, |at| at.min(plan.end)))?;
            self.start_clients()?;
        }
        let stopped = Instant::now();
        let give_up = plan.end + plan.config.drain;
        while Instant::now() < give_up
            && !self.is_stopped()
            && !self.clients.iter().all(|client| client.is_answered(plan))
        {
            self.serve_for(DRAIN_STEP, give_up)?;
        }
        self.report.is_interrupted = self.is_stopped();
        self.report.sending = stopped.min(plan.end) - plan.start;
        self.report.due = self.clients.iter().map(|client| client.due(plan, stopped)).sum();
        Ok(())
    }

    fn is_stopped(&self) -> bool {
        self.shared.stop.load(Ordering::Relaxed)
    }

    fn close(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        for index in 0..self.clients.len() {
            self.clients[index].close(now);
            self.drive(index, now)?;
        }
        let give_up = now + self.plan.config.session.close_timeout + Duration::from_secs(1);
        while Instant::now() < give_up && !self.clients.iter().all(Client::is_closed) {
            self.serve_for(DRAIN_STEP, give_up)?;
        }
        Ok(())
    }

    /// Serves the clients for a while: what is asked of all of them between two calls takes its time.
    fn serve_for(&mut self, time: Duration, at_most: Instant) -> Result<(), LoadError> {
        let until = (Instant::now() + time).min(at_most);
        while Instant::now() < until {
            self.serve_until(until)?;
        }
        Ok(())
    }

    /// Asks for the sessions that are due.
    fn start_clients(&mut self) -> Result<(), LoadError> {
        let now = Instant::now();
        // A few at a time, so that those that are there are served meanwhile.
        for _ in 0..STARTS {
            let index = self.clients.len();
            let Some(&number) = self.indices.get(index) else { break };
            let due = start_of(self.plan, number);
            if due > now {
                break;
            }
            let client = Client::open(self.plan, now, due, number, index, self.poll.registry());
            self.clients.push(client.map_err(|error| LoadError::Socket { client: number, error })?);
            self.drive(index, now)?;
        }
        Ok(())
    }

    /// Waits until something happens, at most until `until`, and serves whoever it happened to.
    fn serve_until(&mut self, until: Instant) -> Result<(), LoadError> {
        let now = Instant::now();
        let wake = self.timers.first().map_or(until, |(at, _)| (*at).min(until)).min(now + MAX_WAIT);
        let wait = if self.ready.is_empty() { wake.saturating_duration_since(now) } else { Duration::ZERO };
        match self.poll.poll(&mut self.events, Some(wait)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error.into()),
            _ => {}
        }
        let now = Instant::now();
        self.budget.refill(now);
        let mut ready = std::mem::take(&mut self.ready);
        ready.extend(self.events.iter().map(|event| event.token().0));
        for index in ready {
            match self.clients[index].receive(now, &mut self.scratch) {
                Ok(true) => self.ready.push(index),
                Ok(false) => {}
                Err(error) => return Err(self.socket_error(index, error)),
            }
            self.drive(index, now)?;
        }
        // Those that are due now, and not those that become due meanwhile.
        while let Some(&(at, index)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.clients[index].armed = None;
            self.drive(index, now)?;
        }
        self.show();
        Ok(())
    }

    fn drive(&mut self, index: usize, now: Instant) -> Result<(), LoadError> {
        let client = &mut self.clients[index];
        if let Err(error) = client.drive(self.plan, now, &mut self.budget, &mut self.report, &mut self.scratch) {
            return Err(self.socket_error(index, error));
        }
        let wake = if client.is_closed() { None } else { client.wake_at(self.plan) };
        // What the cap has held back is due already: it comes again when there is something to send with.
        let wake = wake.map(|at| if at <= now { now + CAP_STEP } else { at });
        if wake != client.armed {
            if let Some(at) = client.armed {
                self.timers.remove(&(at, index));
            }
            if let Some(at) = wake {
                self.timers.insert((at, index));
            }
            client.armed = wake;
        }
        Ok(())
    }

    fn socket_error(&self, index: usize, error: io::Error) -> LoadError {
        LoadError::Socket { client: self.indices[index], error }
    }

    fn show(&mut self) {
        let (report, shown, shared) = (&self.report, &mut self.shown, self.shared);
        let failed = report.failed();
        for (count, shown, total) in [
            (report.connected, &mut shown.connected, &shared.connected),
            (failed, &mut shown.failed, &shared.failed),
            (report.sent, &mut shown.sent, &shared.sent),
            (report.echoed, &mut shown.echoed, &shared.echoed),
        ] {
            if count != *shown {
                total.fetch_add(count - *shown, Ordering::Relaxed);
                *shown = count;
            }
        }
    }
}

fn start_of(plan: &Plan<'_>, index: usize) -> Instant {
    plan.start + plan.config.ramp_up.mul_f64(index as f64 / plan.config.clients as f64)
}

const MAX_DATAGRAM: usize = 65_535;
const EVENTS: usize = 1024;
/// Clients that are started before others are served again.
const STARTS: usize = 16;
/// The longest sleep: a stop by hand is noticed after it.
const MAX_WAIT: Duration = Duration::from_millis(50);
/// How often it is asked whether all clients are done.
const DRAIN_STEP: Duration = Duration::from_millis(10);
/// A client that the cap has held back tries again after this.
const CAP_STEP: Duration = Duration::from_millis(1);
