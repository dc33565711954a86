//! What the application is asked about strangers, without any lock.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{address::Path, handshakes::Asked};
use crate::config::{RequestInfo, StatusReply};

/// Runs code of the application: a request filter, or what makes a status reply.
///
/// The host answers it while it holds no lock, for that code may ask anything of the server: [`answer`](Self::answer), and
/// then [`Endpoint::handle_answer`](crate::Endpoint::handle_answer). A question that is dropped, because the application's
/// code has panicked, drops the request with it; the client repeats it.
pub struct Question {
    pub(super) path: Path,
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
    pub(super) path: Path,
    pub(super) says: Says,
}

#[derive(Debug)]
pub(super) enum Says {
    Request { request: Asked, is_welcome: bool },
    Status { reply: Option<Bytes>, length: usize },
}

impl Question {
    /// Asks the application. May panic, and take any time.
    pub fn answer(self) -> Answer {
        let says = match self.about {
            About::Request { predicate, request } => Says::Request { is_welcome: predicate(&request.info()), request },
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
