//! Detects from the results of send calls whether segment runs (GSO) work.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Decides whether to send segment runs. The cause of a refused run may be its destination (a routing rule, a firewall)
/// and not GSO. Only if the same destination then accepts single datagrams, runs are turned off. That may change with
/// the route, so they are tried again later.
#[derive(Debug)]
pub(super) struct Segmentation {
    is_supported: bool,
    /// The destination whose run was refused last: its next single datagram decides.
    doubted: Option<SocketAddr>,
    off_until: Option<Instant>,
    /// How long runs are turned off the next time.
    pause: Duration,
}

impl Segmentation {
    pub(super) fn new(is_supported: bool) -> Self {
        Self { is_supported, doubted: None, off_until: None, pause: FIRST_PAUSE }
    }

    /// The number of datagrams that a run may have now.
    pub(super) fn max_segments(&self) -> usize {
        let is_off = self.off_until.is_some_and(|until| Instant::now() < until);
        if self.is_supported && !is_off { MAX_SEGMENTS } else { 1 }
    }

    /// A run or a single datagram was refused, for a reason other than an unreachable peer.
    pub(super) fn refused(&mut self, to: SocketAddr, is_run: bool) {
        self.doubted = is_run.then_some(to);
    }

    /// A run or a single datagram was accepted. Returns for how long runs are turned off, if it shows that they do not
    /// work.
    pub(super) fn taken(&mut self, now: impl Fn() -> Instant, to: SocketAddr, is_run: bool) -> Option<Duration> {
        // A run that was built before the pause does not end it early: it may have another route.
        if is_run && self.off_until.is_some_and(|until| now() >= until) {
            (self.off_until, self.pause) = (None, FIRST_PAUSE);
        }
        if self.doubted.take_if(|doubted| *doubted == to).is_none() || is_run {
            return None;
        }
        let pause = self.pause;
        self.off_until = now().checked_add(pause);
        self.pause = (pause * 2).min(LONGEST_PAUSE);
        Some(pause)
    }
}

/// The kernel's limit of one run (`UDP_MAX_SEGMENTS` was 64 before Linux 6.10).
const MAX_SEGMENTS: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    #[test]
    fn a_peer_that_accepts_nothing_does_not_turn_runs_off() {
        let mut segmentation = Segmentation::new(true);
        segmentation.refused(A, true);
        segmentation.refused(A, false);
        assert_eq!(segmentation.taken(Instant::now, A, false), None);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, B, false), None);
        assert_eq!(segmentation.max_segments(), MAX_SEGMENTS);
    }

    #[test]
    fn a_peer_that_accepts_only_single_datagrams_turns_runs_off_for_a_while() {
        let mut segmentation = Segmentation::new(true);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, A, false), Some(FIRST_PAUSE));
        assert_eq!(segmentation.max_segments(), 1);
        // The pause has ended: runs are tried again, and turned off for longer if that fails.
        let past = || Instant::now().checked_sub(LONGEST_PAUSE).unwrap_or_else(Instant::now);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(past, A, false), Some(2 * FIRST_PAUSE));
        assert_eq!(segmentation.max_segments(), MAX_SEGMENTS);
        assert_eq!(segmentation.taken(Instant::now, A, true), None);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, A, false), Some(FIRST_PAUSE));
    }
}
