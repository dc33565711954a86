//! The timers of all sessions of one socket, kept by its driver.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

use crate::peer::{Peer, now};

/// When which session wants to be woken: one entry for each session that has a timer, one sleep for all of them.
///
/// A deadline that moves to later costs nothing: its entry stays and is looked at again when it expires. So in every
/// session the entry, which [`crate::state::State::armed`] repeats, is never later than the session's own deadline once the
/// driver has served it.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    /// By time, and by number, which tells entries of one instant apart.
    entries: BTreeMap<(Instant, u64), Arc<Peer>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// Moves a session's entry. `from` is where it is, if it is anywhere.
    pub(crate) fn set(&mut self, peer: &Arc<Peer>, from: Option<Instant>, to: Option<Instant>) {
        let known = from.and_then(|from| self.entries.remove(&(from, peer.number)));
        if let Some(to) = to {
            self.entries.insert((to, peer.number), known.unwrap_or_else(|| Arc::clone(peer)));
        }
    }

    /// Takes the entry that expired first, if one has.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<Peer>> {
        let first = self.entries.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// Waits for the first entry.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(((first, _), _)) = self.entries.first_key_value() else { return Poll::Pending };
        let first = tokio::time::Instant::from_std(*first);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(first)));
        // The sleep is as lazy as the entries: it may end before the first of them is due.
        if sleep.is_elapsed() && first.into_std() <= now() {
            return Poll::Ready(());
        }
        if first < sleep.deadline() || sleep.is_elapsed() {
            sleep.as_mut().reset(first);
        }
        sleep.as_mut().poll(cx)
    }

    /// Everybody who has a timer.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Arc<Peer>> {
        std::mem::take(&mut self.entries).into_values()
    }
}
