//! How a command ends.

use std::process::ExitCode;

/// The exit codes of `soe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: a file, a socket or a format failed.
    Failed,
    /// 2: wrong usage. Most of it is found while the command line is read.
    Usage,
    /// 3: there was nothing: no session in the capture, no answer from the server.
    Nothing,
    /// 4: what was checked is wrong.
    Wrong,
    /// 5: a condition under which a load counts as failed holds.
    ConditionHolds,
    /// 6: `soe replay`, and a session says something else than when it was recorded.
    Differs,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Nothing => 3,
            Exit::Wrong => 4,
            Exit::ConditionHolds => 5,
            Exit::Differs => 6,
        })
    }
}
