//! The timers of all sessions of one socket, kept by its driver.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use soe_core::SessionKey;
use tokio::time::{Sleep, sleep_until};

use crate::engine::clock::now;

/// When to wake each session: one entry for each session that has a timer, one sleep for all of them.
///
/// A deadline that moves to later costs nothing: its entry stays, and the session's own deadline is looked at when the entry
/// expires. Only a deadline before the entry changes it. Sessions keep a copy of their entry's time
/// ([`crate::engine::connection::state::ConnectionState::armed`]) to notice that.
#[derive(Debug)]
pub(crate) struct Timers<T> {
    /// Deadlines less than a second away when they were set. They are kept exactly.
    near: Entries<T>,
    /// The others: keep-alives, time-outs, releasing memory. They may fire up to 50 ms late, so that thousands of idle
    /// sessions share the wake-ups of the driver.
    far: Entries<T>,
    sleep: Option<Pin<Box<Sleep>>>,
}

/// Ordered by time; the session key distinguishes entries of the same instant.
type Entries<T> = BTreeMap<(Instant, SessionKey), Arc<T>>;

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { near: Entries::new(), far: Entries::new(), sleep: None }
    }
}

impl<T> Timers<T> {
    /// Moves a session's entry from the instant `from`, if it has one, to `to`.
    pub(crate) fn set(
        &mut self,
        now: Instant,
        key: SessionKey,
        session: &Arc<T>,
        from: Option<Instant>,
        to: Option<Instant>,
    ) {
        let known = from.map(|from| (from, key));
        let known = known.and_then(|key| self.near.remove(&key).or_else(|| self.far.remove(&key)));
        if let Some(to) = to {
            let entries = if to.saturating_duration_since(now) >= FAR { &mut self.far } else { &mut self.near };
            entries.insert((to, key), known.unwrap_or_else(|| Arc::clone(session)));
        }
    }

    /// Removes and returns an expired entry, the near ones first, each kind in order of time.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<T>> {
        let expired = |entries: &mut Entries<T>| {
            let first = entries.first_entry()?;
            (first.key().0 <= now).then(|| first.remove())
        };
        expired(&mut self.near).or_else(|| expired(&mut self.far))
    }

    /// When the first entry is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let first = |entries: &Entries<T>| entries.first_key_value().map(|((first, _), _)| *first);
        let far = first(&self.far).map(|first| first + SLACK);
        earlier(first(&self.near), far)
    }

    /// Waits for the first entry.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(first) = self.next() else { return Poll::Pending };
        let first = tokio::time::Instant::from_std(first);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(first)));
        // The sleep is not moved to later either, so it may end before the first entry is due.
        if sleep.is_elapsed() && first.into_std() <= now() {
            return Poll::Ready(());
        }
        // Never moved to later: moving it back and forth costs 230 ns.
        if first < sleep.deadline() || sleep.is_elapsed() {
            sleep.as_mut().reset(first);
        }
        sleep.as_mut().poll(cx)
    }

    /// Removes and returns every session that has a timer.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<T>> {
        let entries = [&mut self.near, &mut self.far].map(std::mem::take);
        entries.into_iter().flat_map(Entries::into_values)
    }
}

/// The earlier of two deadlines, of which each may be missing.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Deadlines at least this far away may fire late.
const FAR: Duration = Duration::from_secs(1);
/// How late they may fire.
const SLACK: Duration = Duration::from_millis(50);
