//! One session with its application, and what holds for it after every step.

use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};

use soe_core::{Closed, Event, ReliableChannel, Session, Settings};

use super::{app::App, server::Resident};

/// A session and the application on it.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) session: Session,
    pub(crate) app: App,
    /// The datagrams agreed on, in bytes.
    limit: usize,
    /// The most memory that it may take, in bytes.
    ceiling: usize,
    /// The wake-up that is scheduled.
    pub(crate) alarm: Option<Instant>,
    /// Times that a timer fired.
    pub(crate) fired: u64,
    /// When timers fired last, and how often before at the same instant.
    woken: Option<Instant>,
    repeated: u32,
    pub(crate) datagrams: u64,
    pub(crate) connected: bool,
    pub(crate) remapped: u32,
    /// Times that the session has said that large datagrams are lost.
    pub(crate) narrowed: u32,
    pub(crate) closed: Option<Closed>,
    /// Where the end is to be reported.
    pub(crate) endings: Option<Rc<RefCell<Vec<Closed>>>>,
    pub(crate) peak_memory: usize,
}

/// More datagrams than this leave at one instant only from a session that spins.
const MAX_AT_ONCE: u64 = 40_000;
/// What one wake-up does may make another necessary at once, but not for ever.
const MAX_REPEATED: u32 = 32;

impl Endpoint {
    pub(crate) fn new(now: Instant, mut session: Session, mut app: App, peer_udp_length: u32) -> Self {
        app.start(now, &mut session);
        let limit = session.config().udp_length.min(peer_udp_length) as usize;
        let largest = app.plan.messages.iter().map(|(_, sizes)| sizes.most()).max().unwrap_or(0);
        Self {
            limit,
            ceiling: ceiling(session.config(), largest),
            session,
            app,
            alarm: None,
            fired: 0,
            woken: None,
            repeated: 0,
            datagrams: 0,
            connected: false,
            remapped: 0,
            narrowed: 0,
            closed: None,
            endings: None,
            peak_memory: 0,
        }
    }

    /// Lets expired timers fire.
    pub(crate) fn wake(&mut self, now: Instant) {
        if self.session.poll_timeout().is_some_and(|at| at <= now) {
            self.repeated = if self.woken == Some(now) { self.repeated + 1 } else { 0 };
            self.woken = Some(now);
            assert!(self.repeated < MAX_REPEATED, "a timer fires again and again at one instant");
            self.session.handle_timeout(now);
            self.fired += 1;
        }
    }

    /// Lets the application act and takes everything that the session gives. `send` gets each datagram.
    pub(crate) fn serve(&mut self, now: Instant, buf: &mut Vec<u8>, mut send: impl FnMut(&[u8])) {
        self.app.act(now, &mut self.session);
        self.take_events(now);
        let mut sent = 0;
        // Who drives thousands of sessions asks only those that say so.
        let mut asks = self.session.has_transmit(now);
        while asks {
            buf.clear();
            assert!(!self.session.is_drained(), "words from the grave");
            let transmit = self.session.poll_transmit(now, buf);
            asks = transmit.is_some();
            let Some(transmit) = transmit else { continue };
            assert!(transmit.size == buf.len() && transmit.segment_size > 0, "{transmit:?} for {} bytes", buf.len());
            for datagram in buf.chunks(transmit.segment_size) {
                assert!(datagram.len() <= self.limit, "{} bytes of {} agreed on", datagram.len(), self.limit);
                send(datagram);
                sent += 1;
            }
            assert!(sent <= MAX_AT_ONCE, "{sent} datagrams at one instant");
        }
        self.datagrams += sent;
        self.take_events(now);
        let memory = self.session.memory();
        assert!(memory <= self.ceiling, "{memory} bytes of memory, over the ceiling of {}", self.ceiling);
        self.peak_memory = self.peak_memory.max(memory);
    }

    fn take_events(&mut self, now: Instant) {
        while let Some(event) = self.session.poll_event() {
            assert!(self.closed.is_none(), "{event:?} behind the end");
            match event {
                Event::Connected => {
                    assert!(!std::mem::replace(&mut self.connected, true), "connected twice");
                }
                Event::Remapped => self.remapped += 1,
                Event::Delivered(receipt) => self.app.delivered(receipt),
                Event::LargeDatagramsLost { smallest_lost, largest_delivered } => {
                    assert!(largest_delivered < smallest_lost, "{largest_delivered} of {smallest_lost}");
                    self.narrowed += 1;
                }
                Event::Closed(closed) => {
                    self.closed = Some(closed);
                    let end = (closed, self.session.undelivered(), now);
                    self.app.account.note(|account| account.end = Some(end));
                    self.endings.iter().for_each(|endings| endings.borrow_mut().push(closed));
                }
                _ => {}
            }
        }
    }

    /// Whether nothing is under way, and the application has nothing more to do.
    pub(crate) fn is_quiet(&self) -> bool {
        self.session.is_idle() && !self.app.sends_more() && self.app.has_all()
    }

    /// How often timers may fire in this time when nothing happens: for heartbeats, statistics, and to look whether the
    /// peer still lives.
    pub(crate) fn timers_in(&self, time: Duration) -> u64 {
        let settings = self.session.config();
        let times = |period: Duration| {
            if period.is_zero() { 0 } else { (time.as_micros() / period.as_micros()) as u64 + 1 }
        };
        2 * times(settings.heartbeat_after)
            + 3 * times(settings.inactivity_timeout / 4)
            + times(settings.net_status_interval)
            + 2 * times(settings.port_alive_interval)
            + 2
    }
}

impl Resident for Endpoint {
    fn session(&self) -> &Session {
        &self.session
    }

    fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    fn next_wake(&self) -> Option<Instant> {
        [self.session.poll_timeout(), self.app.tick].into_iter().flatten().min()
    }

    fn wake(&mut self, now: Instant) {
        self.wake(now);
    }

    fn serve(&mut self, now: Instant, send: &mut dyn FnMut(&[u8])) {
        self.serve(now, &mut Vec::new(), send);
    }
}

/// What a session may take at most, in bytes, by the documentation of [`Session`]; the largest message sent is known here.
fn ceiling(settings: &Settings, largest: usize) -> usize {
    let datagram = settings.udp_length as usize;
    // What is under way is counted with 128 bytes a packet, what waits with 64 a message; lists double as they grow.
    let window = settings.send_window_bytes.max(datagram) + 2 * 128 * settings.send_window.next_power_of_two();
    let queue = settings.send_buffer + largest + 64 + 2 * 48 * (settings.send_buffer / 65 + 2).next_power_of_two();
    let ahead = settings.recv_window * datagram + 2 * 48 * settings.recv_window.next_power_of_two();
    let series = 2 * settings.max_message_size + 32 * 1024;
    // One message, or the elements of one packet, may overshoot; an element takes two bytes and is counted with 64.
    let inbox = settings.recv_buffer + settings.max_message_size + 64 * datagram;
    let unreliable = settings.send_buffer + datagram + 64;
    8 * 1024 + ReliableChannel::COUNT * (window + queue + ahead + series) + inbox + unreliable
}
