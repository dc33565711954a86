//! Questions to the application, which runs without any lock.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::request::Asked;
use crate::{
    config::{RequestInfo, StatusReply},
    endpoint::address::Path,
};

/// A call of application code: a request filter or a status reply.
///
/// The host answers it without holding a lock, since that code may call the server: first [`answer`](Self::answer),
/// then [`Endpoint::handle_answer`](crate::Endpoint::handle_answer). If the code panics, drop the question; the client
/// repeats its request.
pub struct Question {
    pub(in crate::endpoint) path: Path,
    pub(super) about: About,
}

pub(super) enum About {
    Request { predicate: Arc<dyn Fn(&RequestInfo) -> bool + Send + Sync>, request: Asked },
    Status { reply: StatusReply, length: usize },
}

/// The answer to a [`Question`].
#[derive(Debug)]
#[must_use]
pub struct Answer {
    pub(in crate::endpoint) path: Path,
    pub(in crate::endpoint) says: Says,
}

#[derive(Debug)]
pub(in crate::endpoint) enum Says {
    Request { request: Asked, is_welcome: bool },
    Status { reply: Option<Bytes>, length: usize },
}

impl Question {
    /// Calls the application's code. May panic, and take any time.
    pub fn answer(self) -> Answer {
        let says = match self.about {
            About::Request { predicate, request } => {
                Says::Request { is_welcome: predicate(&request.info(self.path.remote)), request }
            }
            About::Status { reply, length } => Says::Status { reply: reply.reply(self.path.remote), length },
        };
        Answer { path: self.path, says }
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("path", &self.path).finish_non_exhaustive()
    }
}
