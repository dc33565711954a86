//! What few sessions need at any moment.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Session, problem::Problem, send::Sizes, types::Event};
use crate::timestamp::Timestamp;

/// What few sessions need at any moment: made when first needed, and given back when the session rests.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pub(super) events: VecDeque<Event>,
    /// What was wrong with what the peer sent, if nobody has asked since.
    pub(super) problem: Option<Problem>,
    /// When the request of this session was last answered again.
    pub(super) answered_at: Option<Timestamp>,
    /// When the last UnknownSender came, if nothing valid has come since.
    pub(super) unknown_sender_at: Option<Timestamp>,
    /// Until when a remap is asked for, since an UnknownSender came.
    pub(super) remap_until: Option<Timestamp>,
    /// When a remap was last asked for.
    pub(super) remap_asked_at: Option<Timestamp>,
    /// Losses by size, since something was lost.
    pub(super) sizes: Option<Sizes>,
    /// Until when the silence of the peer ends nothing, since nobody has driven the session for a while.
    pub(super) grace_until: Option<Timestamp>,
    /// How often that has happened since the peer was last heard.
    pub(super) late_calls: u8,
}

/// What happened longer ago limits nothing any more.
const FORGOTTEN: Duration = Duration::from_secs(4);

impl Cold {
    /// Whether nothing in it matters any more.
    fn is_spent(&self, now: Instant) -> bool {
        let moments = [self.answered_at, self.unknown_sender_at, self.remap_until, self.remap_asked_at];
        self.events.is_empty()
            && self.late_calls == 0
            && moments.into_iter().flatten().all(|at| at.instant() + FORGOTTEN <= now)
    }
}

impl Session {
    /// For who has something to put there.
    pub(super) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    pub(super) fn push_event(&mut self, event: Event) {
        self.cold().events.push_back(event);
    }

    pub(super) fn shrink_cold(&mut self, now: Instant) {
        self.cold.take_if(|cold| cold.is_spent(now));
        if let Some(cold) = &mut self.cold {
            cold.events.shrink_to_fit();
        }
    }
}
