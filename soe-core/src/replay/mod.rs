//! Replay: a session is put through the log of a recording again, and has to say the same.
//!
//! ```
//! use std::time::Instant;
//! use soe_core::{Session, SessionConfig, recording::RecordOptions, replay::Replay};
//!
//! let now = Instant::now();
//! let mut session = Session::connect(now, SessionConfig::new("Echo_1")?, 0x1234_5678);
//! assert!(session.record(&RecordOptions::new(now, 0)));
//! let _ = session.poll_transmit(now, &mut Vec::new());
//!
//! let log = session.stop_recording().map(|mut recorder| recorder.take_pieces()).unwrap_or_default();
//! let mut replay = Replay::new();
//! for piece in log {
//!     replay.feed(&piece)?;
//! }
//! assert_eq!(replay.calls(), 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod hooks;
mod report;
#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::{Duration, Instant},
};

use self::hooks::HookResults;
pub use self::report::{Difference, ReplayError};
use crate::{
    config::RequestInfo,
    framing::Codec,
    message::Message,
    recording::{Entry, Mark, Origin, Reader, RecordOptions, Start, Way, log},
    session::Session,
};

/// Puts a session through a recording, piece by piece, and compares what it says byte by byte.
///
/// A session is a function of its calls and their times. This build of the crate therefore says what the one that recorded
/// has said, unless it behaves otherwise. (The congestion controller computes with floating point numbers: a recording made on
/// another processor architecture may differ in a rounding.)
#[derive(Debug, Default)]
pub struct Replay {
    codecs: [Option<Codec>; 2],
    running: Option<Running>,
    calls: u64,
    datagrams: u64,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Running {
    session: Session,
    start: Start,
    /// The recording's time zero on this clock.
    zero: Instant,
    /// The time of the last entry.
    last: u64,
    hooks: HookResults,
    /// What the session records of the call that is replayed: the call itself and its results.
    said: Vec<u8>,
    messages: u64,
}

impl Replay {
    /// A replay that waits for the first piece.
    pub fn new() -> Self {
        Self::default()
    }

    /// For sessions with codecs of the application's own, which no recording holds.
    #[must_use]
    pub fn with_codecs(mut self, codecs: [Option<Codec>; 2]) -> Self {
        self.codecs = codecs;
        self
    }

    /// Replays the next piece.
    ///
    /// # Errors
    ///
    /// [`ReplayError::Differs`] where the session says something else than it said then. [`ReplayError`] has what else keeps a
    /// recording from being replayed. After an error the replay is over.
    pub fn feed(&mut self, piece: &[u8]) -> Result<(), ReplayError> {
        let (running, rest) = match self.running.take() {
            Some(running) => (running, piece),
            None => Running::begin(piece, &self.codecs)?,
        };
        self.feed_rest(running, rest)
    }

    fn feed_rest(&mut self, mut running: Running, piece: &[u8]) -> Result<(), ReplayError> {
        let mut reader = Reader::new(piece, running.last);
        loop {
            let before = reader.rest();
            let entry = match reader.next() {
                Ok(Some(entry)) => entry,
                Ok(None) => break,
                Err(_) => return Err(ReplayError::Malformed { call: self.calls }),
            };
            match entry {
                Entry::Path { .. } => {}
                Entry::Mark(mark) => {
                    self.marks.push(mark);
                    if mark == Mark::Panicked {
                        return Err(running.differs(self.calls, before, &[]));
                    }
                }
                entry => {
                    self.calls += 1;
                    let said = self.call(&mut running, entry, before, &reader)?;
                    reader = Reader::new(&before[said..], reader.last);
                }
            }
        }
        running.last = reader.last;
        self.running = Some(running);
        Ok(())
    }

    /// Makes one call and compares. Returns the bytes of the log that it and its results take.
    fn call(
        &mut self,
        running: &mut Running,
        entry: Entry<'_>,
        expected: &[u8],
        after: &Reader<'_>,
    ) -> Result<usize, ReplayError> {
        if let Entry::Datagram { .. } | Entry::Transmit { .. } = entry {
            self.datagrams += 1;
        }
        running.expect_hooks(after.clone()).map_err(|_| ReplayError::Malformed { call: self.calls })?;
        let made = catch_unwind(AssertUnwindSafe(|| running.make(entry)));
        running.listen();
        let said = running.said.len();
        match made {
            Ok(Some(())) if expected.starts_with(&running.said) && said > 0 && !says_more(&expected[said..]) => {
                Ok(said)
            }
            // The recording may have stopped within the call.
            Ok(made) => match made.and_then(|()| cut(&running.said, expected, running.last)) {
                Some(mark) => {
                    self.marks.push(mark);
                    Ok(expected.len())
                }
                None => Err(running.differs(self.calls, expected, &running.said)),
            },
            Err(_) => {
                // It is allowed to panic where it panicked then.
                let panicked = [log::MARK, Mark::Panicked as u8];
                let rest = expected.strip_prefix(&running.said[..]).and_then(|rest| rest.strip_prefix(&panicked));
                if rest.is_none() {
                    running.said.extend(panicked);
                    return Err(running.differs(self.calls, expected, &running.said));
                }
                self.marks.push(Mark::Panicked);
                Ok(said + panicked.len())
            }
        }
    }

    /// Calls replayed so far. While a piece is fed, one that fails counts.
    pub fn calls(&self) -> u64 {
        self.calls
    }

    /// Datagrams that have come in, and runs of datagrams that have gone out.
    pub fn datagrams(&self) -> u64 {
        self.datagrams
    }

    /// What the recording says of itself, oldest first.
    pub fn marks(&self) -> &[Mark] {
        &self.marks
    }

    /// The version of the crate that recorded, once the first piece is read.
    pub fn recorded_by(&self) -> Option<&str> {
        self.running.as_ref().map(|running| &running.start.version[..])
    }

    /// The session as it is now, once the first piece is read.
    pub fn session(&self) -> Option<&Session> {
        self.running.as_ref().map(|running| &running.session)
    }

    /// How much time of the session has been replayed, up to the last call.
    pub fn elapsed(&self) -> Duration {
        self.running.as_ref().map_or(Duration::ZERO, Running::elapsed)
    }
}

impl Running {
    /// Makes the session anew. Returns the rest of the piece as well.
    fn begin<'a>(piece: &'a [u8], codecs: &[Option<Codec>; 2]) -> Result<(Self, &'a [u8]), ReplayError> {
        let mut cursor = log::Cursor::new(piece);
        let start = Start::take(&mut cursor, codecs).map_err(ReplayError::from)?;
        if start.is_redacted {
            return Err(ReplayError::Redacted);
        }
        let span = start.origin.clock_age + Duration::from_nanos(start.created);
        let created = Instant::now().checked_add(span).ok_or(ReplayError::Malformed { call: 0 })?;
        let mut session = session(created, &start.origin).ok_or(ReplayError::Malformed { call: 0 })?;
        let options = RecordOptions::new(created, start.unix).limit(usize::MAX);
        if !session.record(&options) {
            return Err(ReplayError::Malformed { call: 0 });
        }
        let zero = created - Duration::from_nanos(start.created);
        let (last, hooks, said) = (start.created, HookResults::default(), Vec::new());
        let mut running = Self { session, start, zero, last, hooks, said, messages: 0 };
        // Its own first entry names this build.
        running.listen();
        Ok((running, cursor.rest()))
    }

    /// Takes what the session has recorded since the last time.
    fn listen(&mut self) {
        self.said.clear();
        if let Some(recorder) = self.session.recorder() {
            recorder.drain_into(&mut self.said);
        }
    }

    /// Gives the hooks what they gave in the recording for the next call.
    fn expect_hooks(&self, mut after: Reader<'_>) -> Result<(), log::Broken> {
        self.hooks.clear();
        loop {
            match after.next()? {
                Some(Entry::Hook(result)) => self.hooks.push(result),
                Some(Entry::Mark(Mark::Panicked)) => {
                    self.hooks.panics();
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    /// Makes the call of an entry. `None` if the entry is not a call but the result of one.
    fn make(&mut self, entry: Entry<'_>) -> Option<()> {
        let zero = self.zero;
        let mut at = |time: u64| {
            self.last = time;
            zero + Duration::from_nanos(time)
        };
        let session = &mut self.session;
        match entry {
            Entry::Datagram { time, bytes } => drop(session.handle_datagram(at(time), bytes.into())),
            Entry::Timeout(time) => session.handle_timeout(at(time)),
            Entry::Unreachable(time) => session.handle_unreachable(at(time)),
            Entry::Remap(time) => session.handle_remap(at(time)),
            Entry::AskForLife => session.ask_for_life(),
            Entry::Send { channel, message, receipt } => {
                let message = Message::new(channel, message.to_vec());
                if receipt {
                    drop(session.send_with_receipt(message));
                } else {
                    drop(session.send(message));
                }
            }
            Entry::Reserve => session.reserve(),
            Entry::DropOldest => drop(session.drop_oldest_unreliable()),
            Entry::Recv => self.messages += u64::from(session.recv().is_some()),
            Entry::SetKey { way: Way::Out, key } => drop(session.set_send_key(key)),
            Entry::SetKey { way: Way::In, key } => drop(session.set_recv_key(key)),
            Entry::SetHook { way: Way::Out, channel, is_set } => {
                session.set_send_hook(channel, is_set.then(|| self.hooks.hook()));
            }
            Entry::SetHook { way: Way::In, channel, is_set } => {
                session.set_recv_hook(channel, is_set.then(|| self.hooks.hook()));
            }
            Entry::Close { time, reason } => session.close(at(time), Session::recorded_reason(reason)?),
            Entry::Abort { time, reason, tell_peer } => {
                session.abort(at(time), Session::recorded_reason(reason)?, tell_peer);
            }
            Entry::Abandon { time, reason, tell_peer } => {
                session.abandon(at(time), Session::recorded_reason(reason)?, tell_peer);
            }
            Entry::Poll(time) => drop(session.poll_transmit(at(time), &mut Vec::new())),
            Entry::Event(_) => drop(session.poll_event()),
            Entry::Problem(_) => drop(session.take_problem()),
            // What came of calls, and what the recording says of itself.
            Entry::Outcome(_)
            | Entry::Hidden { .. }
            | Entry::Refused(_)
            | Entry::Promoted
            | Entry::Message { .. }
            | Entry::Hook(_)
            | Entry::Transmit { .. }
            | Entry::Path { .. }
            | Entry::Mark(_) => return None,
        }
        Some(())
    }

    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.last.saturating_sub(self.start.created))
    }

    fn differs(&self, call: u64, expected: &[u8], said: &[u8]) -> ReplayError {
        let now = self.zero + Duration::from_nanos(self.last);
        let time = (self.elapsed(), self.start.unix.saturating_add(self.last.saturating_sub(self.start.created)));
        let state = format!("{:?}, {:#}", self.session, self.session.stats(now));
        ReplayError::Differs(Box::new(Difference::new(call, time, self.last, (expected, said), state, &self.start)))
    }
}

/// The session with its first state.
fn session(created: Instant, origin: &Origin) -> Option<Session> {
    let config = origin.config.clone();
    if origin.is_client {
        return Some(Session::connect(created, config, origin.session_id));
    }
    let request = RequestInfo {
        // Neither is recorded, nor makes a difference to the session.
        address: SocketAddr::from(([0; 4], 0)),
        version: 0,
        session_id: origin.session_id,
        udp_length: origin.udp_length.into(),
        protocol_name: String::new(),
    };
    let mut session =
        Session::accept(created.into(), (created - origin.clock_age).into(), config, &request, origin.crc_seed).ok()?;
    if let Some(length) = origin.answers {
        session.answer_request(usize::try_from(length).ok()?);
    }
    Some(session)
}

/// Whether the log goes on with a result of the call, and not with another call.
fn says_more(rest: &[u8]) -> bool {
    matches!(
        rest.first(),
        Some(&(log::OUTCOME | log::REFUSED | log::PROMOTED | log::MESSAGE | log::HOOK | log::TRANSMIT))
    )
}

/// The mark that the recording has stopped, if `expected` is the front of what was said up to there.
fn cut(said: &[u8], expected: &[u8], last: u64) -> Option<Mark> {
    let (mut said, mut expected) = (Reader::new(said, last), Reader::new(expected, last));
    loop {
        match (said.next(), expected.next()) {
            (_, Ok(Some(Entry::Mark(mark @ (Mark::Full | Mark::NoRoom))))) => {
                return expected.rest().is_empty().then_some(mark);
            }
            (Ok(Some(one)), Ok(Some(other))) if one == other => {}
            _ => return None,
        }
    }
}
