//! Events for the operator, logged at INFO with rate limiting: each kind at most once a minute.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use soe_core::{EndpointStats, MemoryBudget};
use tokio::runtime::Handle;
use tracing::info;

use crate::socket::{kernel::DropCounter, proxied::ProxyCounters};

/// A counter whose increase is logged.
#[derive(Debug, Default)]
struct Rising {
    told: u64,
    last: Option<Instant>,
}

impl Rising {
    /// Returns the increase since the last report, if it is to be logged now.
    fn risen(&mut self, now: Instant, count: u64) -> Option<u64> {
        let is_quiet = self.last.is_some_and(|last| now.saturating_duration_since(last) < PAUSE);
        if is_quiet || count <= self.told {
            return None;
        }
        self.last = Some(now);
        Some(count - std::mem::replace(&mut self.told, count))
    }
}

/// What has been logged about a listener, by any of its drivers.
#[derive(Debug, Default)]
pub(crate) struct Told {
    over_capacity: Rising,
    over_memory: Rising,
    untrusted: Rising,
    headerless: Rising,
}

/// What to log about a listener, after the locks are released.
#[derive(Debug)]
pub(crate) struct News {
    refused: Option<u64>,
    closed: Option<u64>,
    sessions: usize,
    memory_held: usize,
    untrusted: Option<u64>,
    headerless: Option<u64>,
}

impl Told {
    pub(crate) fn news(
        &mut self,
        now: Instant,
        stats: &EndpointStats,
        budget: &MemoryBudget,
        proxies: Option<&ProxyCounters>,
    ) -> News {
        let proxied = |counter: fn(&ProxyCounters) -> &AtomicU64| {
            proxies.map_or(0, |counters| counter(counters).load(Ordering::Relaxed))
        };
        News {
            untrusted: self.untrusted.risen(now, proxied(|counters| &counters.untrusted)),
            headerless: self.headerless.risen(now, proxied(|counters| &counters.headerless)),
            refused: self.over_capacity.risen(now, stats.admission.over_capacity),
            closed: self.over_memory.risen(now, budget.overflows()),
            sessions: stats.sessions,
            memory_held: budget.held(),
        }
    }
}

impl News {
    pub(crate) fn tell(&self) {
        let Self { refused, closed, sessions, memory_held, untrusted, headerless } = *self;
        if let Some(dropped) = untrusted {
            info!(dropped, "datagrams from outside of the proxies' networks were dropped (trusted, allow_direct)");
        }
        if let Some(dropped) = headerless {
            info!(dropped, "datagrams of a proxy were dropped that should have a header and have none (header)");
        }
        if let Some(refused) = refused {
            info!(refused, sessions, "the listener is full: new sessions are refused (max_sessions)");
        }
        if let Some(closed) = closed {
            info!(
                closed,
                memory_held,
                "the memory limit is reached: sessions that grow beyond their share are closed (memory_limit)"
            );
        }
    }
}

/// When a driver checks the counters.
#[derive(Debug, Default)]
pub(crate) struct Rounds {
    next: Option<Instant>,
    next_drops: Option<Instant>,
    /// Read on a blocking thread: with many sockets the kernel takes tens of milliseconds.
    drops: Arc<AtomicU64>,
}

impl Rounds {
    /// Whether it is time to check the counters again.
    pub(crate) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.next.is_none_or(|next| next <= now);
        if is_due {
            self.next = Some(now + INTERVAL);
        }
        is_due
    }

    /// Reads the kernel's count of dropped datagrams, once a minute.
    pub(crate) fn look_at_drops(&mut self, now: Instant, runtime: &Handle, counter: DropCounter) {
        if self.next_drops.is_some_and(|next| now < next) {
            return;
        }
        self.next_drops = Some(now + PAUSE);
        let known = Arc::clone(&self.drops);
        runtime.spawn_blocking(move || {
            let Some(count) = counter.read() else { return };
            let dropped = count.saturating_sub(known.swap(count, Ordering::Relaxed));
            if dropped > 0 {
                info!(dropped, "the kernel has dropped datagrams: the receive buffer was full (recv_buffer)");
            }
        });
    }
}

/// How often the counters are checked.
const INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two log lines of one kind.
const PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_increase_is_logged_at_once_and_then_once_a_minute() {
        let (start, mut count) = (Instant::now(), Rising::default());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(count.risen(after(0), 0), None);
        assert_eq!(count.risen(after(1), 5), Some(5));
        assert_eq!(count.risen(after(30), 9), None);
        assert_eq!(count.risen(after(61), 12), Some(7));
        assert_eq!(count.risen(after(200), 12), None);
    }
}
