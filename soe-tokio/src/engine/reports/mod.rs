//! What is reported of sessions: to the tasks that wait for them, to the operator's log, in totals, and as recordings.

pub(crate) mod ended;
pub(crate) mod notices;
pub(crate) mod operator_log;
pub(crate) mod recordings;
