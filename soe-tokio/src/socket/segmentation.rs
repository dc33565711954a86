//! Whether the kernel takes runs of datagrams (GSO), as far as its answers show.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

/// Whether runs are worth sending.
///
/// A refused run may be about its peer (a routing rule, a firewall) and not about runs. Only a peer that takes the same
/// datagrams one by one shows that runs are refused; and that may change with the route, so they are tried again later.
#[derive(Debug)]
pub(super) struct Segmentation {
    is_supported: bool,
    /// The peer whose run was refused last: its next single datagram decides.
    doubted: Option<SocketAddr>,
    off_until: Option<Instant>,
    /// How long runs are left alone when they are refused next.
    pause: Duration,
}

impl Segmentation {
    pub(super) fn new(is_supported: bool) -> Self {
        Self { is_supported, doubted: None, off_until: None, pause: FIRST_PAUSE }
    }

    /// How many datagrams a run may have now.
    pub(super) fn max_segments(&self) -> usize {
        let is_off = self.off_until.is_some_and(|until| Instant::now() < until);
        if self.is_supported && !is_off { MAX_SEGMENTS } else { 1 }
    }

    /// A run or a single datagram was refused, for a reason other than an unreachable peer.
    pub(super) fn refused(&mut self, to: SocketAddr, is_run: bool) {
        self.doubted = is_run.then_some(to);
    }

    /// A run or a single datagram was taken. Returns for how long runs are off from here on, if that follows from it.
    pub(super) fn taken(&mut self, now: impl Fn() -> Instant, to: SocketAddr, is_run: bool) -> Option<Duration> {
        // A run that was put together before the pause began does not end it: routes differ.
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

/// What kernels take in one run of equal datagrams (`UDP_MAX_SEGMENTS` was 64 before Linux 6.10).
const MAX_SEGMENTS: usize = 64;
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    const A: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const B: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 2);

    #[test]
    fn a_peer_that_takes_nothing_says_nothing_about_runs() {
        let mut segmentation = Segmentation::new(true);
        segmentation.refused(A, true);
        segmentation.refused(A, false);
        assert_eq!(segmentation.taken(Instant::now, A, false), None);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, B, false), None);
        assert_eq!(segmentation.max_segments(), MAX_SEGMENTS);
    }

    #[test]
    fn a_peer_that_takes_single_datagrams_alone_turns_runs_off_for_a_while() {
        let mut segmentation = Segmentation::new(true);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, A, false), Some(FIRST_PAUSE));
        assert_eq!(segmentation.max_segments(), 1);
        // The pause is over: runs are tried again, and left alone for longer if that fails.
        let past = || Instant::now().checked_sub(LONGEST_PAUSE).unwrap_or_else(Instant::now);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(past, A, false), Some(2 * FIRST_PAUSE));
        assert_eq!(segmentation.max_segments(), MAX_SEGMENTS);
        assert_eq!(segmentation.taken(Instant::now, A, true), None);
        segmentation.refused(A, true);
        assert_eq!(segmentation.taken(Instant::now, A, false), Some(FIRST_PAUSE));
    }
}
