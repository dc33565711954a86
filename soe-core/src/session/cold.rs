//! Cold state: the rarely used fields of a session.

use std::{collections::VecDeque, time::Duration};

use super::{
    Session,
    problem::Problem,
    receive::{Behind, DOUBT},
    send::Sizes,
    types::Event,
};
use crate::{evidence::Evidence, recording::Recorder, timestamp::Timestamp};

/// Fields that most sessions do not need. Allocated on first use and freed when the session is idle, so that thousands
/// of idle sessions stay small.
#[derive(Debug, Default)]
pub(super) struct Cold {
    pub(super) events: VecDeque<Event>,
    /// The first problem that has not been taken yet.
    pub(super) problem: Option<Problem>,
    /// When the request of this session was last answered again.
    pub(super) answered_at: Option<Timestamp>,
    /// When the last UnknownSender came, if no valid datagram has come since.
    pub(super) unknown_sender_at: Option<Timestamp>,
    /// Until when the client requests a remap.
    pub(super) remap_until: Option<Timestamp>,
    /// When the client last requested a remap.
    pub(super) remap_asked_at: Option<Timestamp>,
    /// When the last wrong CRC came: see [`is_in_doubt`](Session::is_in_doubt).
    pub(super) rejected: Option<Timestamp>,
    /// Invalid datagrams with a valid CRC since the last wrong one: see [`corrupt`](Session::corrupt).
    pub(super) corrupt: Evidence,
    /// What came from behind on the ordered streams.
    pub(super) behind: [Option<Behind>; 2],
    /// Losses by packet size, from the first loss on.
    pub(super) sizes: Option<Sizes>,
    /// Until when silence does not end the session, after `handle_timeout` was called late.
    pub(super) grace_until: Option<Timestamp>,
    /// How often `handle_timeout` was called late since the last valid datagram.
    pub(super) late_calls: u8,
    /// Records the calls of the session, if it is recorded.
    pub(super) recorder: Option<Box<Recorder>>,
}

/// After this long, a time stored here no longer limits anything, but for that of a wrong CRC.
const FORGOTTEN: Duration = Duration::from_secs(4);

impl Cold {
    /// Whether nothing in it matters any more.
    fn is_spent(&self, now: Timestamp) -> bool {
        let moments = [self.answered_at, self.unknown_sender_at, self.remap_until, self.remap_asked_at];
        let is_in_doubt = self.rejected.is_some_and(|rejected| now < rejected + DOUBT);
        let is_behind = self.behind.iter().any(Option::is_some);
        let is_recent = moments.into_iter().flatten().any(|at| now < at + FORGOTTEN);
        self.events.is_empty() && self.late_calls == 0 && !(is_in_doubt || is_behind || is_recent)
    }
}

impl Session {
    /// Returns the cold state, allocating it on first use.
    pub(super) fn cold(&mut self) -> &mut Cold {
        self.cold.get_or_insert_default()
    }

    pub(super) fn push_event(&mut self, event: Event) {
        self.cold().events.push_back(event);
    }

    pub(super) fn shrink_cold(&mut self, now: Timestamp) {
        if let Some(spent) = self.cold.take_if(|cold| cold.is_spent(now))
            && spent.recorder.is_some()
        {
            // As if it were gone: a session behaves the same whether it is recorded or not.
            self.cold = Some(Box::new(Cold { recorder: spent.recorder, ..Cold::default() }));
        }
        if let Some(cold) = &mut self.cold {
            cold.events.shrink_to_fit();
        }
    }
}
