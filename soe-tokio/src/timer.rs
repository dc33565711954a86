//! The task that keeps one session's timers.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use tokio::time::{Sleep, sleep_until};

use crate::{
    peer::{Peer, now},
    state::set_waker,
};

/// Keeps one session's timers: sleeps until the earliest is due, and is woken only by an earlier one. A deadline that moves
/// to later costs nothing until the old one expires.
pub(crate) async fn tick(peer: Arc<Peer>) {
    let mut watch = TickGuard { peer, is_over: false };
    {
        let mut sleep = pin!(sleep_until(tokio::time::Instant::now()));
        poll_fn(|cx| watch.peer.poll_tick(cx, sleep.as_mut())).await;
    }
    watch.is_over = true;
}

/// Forgets the session when its tick task ends, also with its runtime or by a panic: without timers it would never end.
struct TickGuard {
    peer: Arc<Peer>,
    is_over: bool,
}

impl Drop for TickGuard {
    fn drop(&mut self) {
        if !self.is_over {
            self.peer.kill(now());
        }
        self.peer.forget();
    }
}

impl Peer {
    /// One look at the timer by the tick task; ready when the session is over and forgotten.
    fn poll_tick(self: &Arc<Self>, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        loop {
            let deadline = self.act(|state| {
                let now = now();
                if state.is_stopped || state.session.is_drained() {
                    return Err(());
                }
                set_waker(&mut state.tick, cx);
                state.armed = state.session.poll_timeout();
                if state.armed.is_some_and(|deadline| deadline <= now) {
                    state.session.handle_timeout(now);
                    // The driver sends what the timer caused, and wakes this task if the next one is due earlier than none.
                    state.armed = None;
                    state.mark();
                }
                Ok(state.armed)
            });
            let Ok(deadline) = deadline else { return Poll::Ready(()) };
            let Some(deadline) = deadline else { return Poll::Pending };
            if sleep.deadline().into_std() != deadline || sleep.is_elapsed() {
                sleep.as_mut().reset(deadline.into());
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
