//! What a session waits for, and until when.

use std::time::Instant;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Timer {
    /// The next session request, or the next opener while the server is silent.
    Handshake,
    /// The end of negotiating, or of waiting for a refusal.
    Connect,
    /// Acknowledgements fall due.
    Ack,
    /// A packet crosses the threshold of loss, or the resend timer fires.
    Resend,
    Heartbeat,
    Inactivity,
    NetStatus,
    /// Pacing, or a trickle rate, allows more.
    Pace,
    PortAlive,
    /// The end of tolerance for ICMP errors.
    Icmp,
    /// The end of asking for a remap.
    Remap,
    /// Closing: the deadline for what is queued. Closed: the next repetition of the Disconnect, then the end of memory.
    Close,
}

impl Timer {
    const COUNT: usize = Self::Close as usize + 1;
    const ALL: [Self; Self::COUNT] = [
        Self::Handshake,
        Self::Connect,
        Self::Ack,
        Self::Resend,
        Self::Heartbeat,
        Self::Inactivity,
        Self::NetStatus,
        Self::Pace,
        Self::PortAlive,
        Self::Icmp,
        Self::Remap,
        Self::Close,
    ];
}

/// One deadline a timer; `None` means never.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers([Option<Instant>; Timer::COUNT]);

impl Timers {
    pub(crate) fn set(&mut self, timer: Timer, deadline: impl Into<Option<Instant>>) {
        self.0[timer as usize] = deadline.into();
    }

    pub(crate) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(crate) fn stop_all(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_set(&self, timer: Timer) -> bool {
        self.0[timer as usize].is_some()
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes a timer that has expired; call until `None`.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Timer> {
        let timer = Timer::ALL.into_iter().find(|&timer| self.0[timer as usize].is_some_and(|at| at <= now))?;
        self.stop(timer);
        Some(timer)
    }
}
