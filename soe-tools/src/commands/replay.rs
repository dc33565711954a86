//! `soe replay`: recorded sessions once more, and where they behave otherwise.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};

use clap::Args;
use serde_json::{Value, json};
use soe_core::recording::Mark;
use soe_core::replay::{Difference, Replay as Session, ReplayError};

use crate::capture::CaptureError;
use crate::exit::Exit;
use crate::progress::Progress;
use crate::recording::{RecordingError, RecordingReader};

/// Replay flight recordings.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct Replay {
    /// A recording, `-` for one on standard input.
    #[arg(value_name = "FILE")]
    pub input: String,
    /// Writes one JSON object a line: one for each recorded session.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
///
/// A file that cannot be opened or is no capture, an output that cannot be written.
pub fn run(command: &Replay) -> io::Result<Exit> {
    let replayed = if command.input == "-" {
        replay(io::stdin().lock(), 0)?
    } else {
        let path = &command.input;
        let file = File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        let size = file.metadata()?.len();
        replay(file, size)?
    };
    let mut write = BufWriter::new(io::stdout().lock());
    for (number, recording) in &replayed.recordings {
        if command.json {
            writeln!(write, "{}", recording.json(*number))?;
        } else {
            recording.put_text(*number, &mut write)?;
        }
    }
    if let Some(error) = &replayed.broken_off {
        if command.json {
            writeln!(write, "{}", json!({ "event": "broken-off", "error": error.to_string() }))?;
        } else {
            writeln!(write, "the file breaks off: {error}")?;
        }
    }
    write.flush()?;
    let any = |is: fn(&Found) -> bool| replayed.recordings.values().any(|recording| is(&recording.found));
    Ok(if any(|found| matches!(found, Found::Differs(_))) {
        Exit::Differs
    } else if any(|found| matches!(found, Found::Failed(_))) {
        Exit::Failed
    } else if replayed.recordings.is_empty() {
        Exit::Nothing
    } else {
        Exit::Done
    })
}

/// The recordings of a file.
#[derive(Default)]
struct Replayed {
    recordings: BTreeMap<u64, Recording>,
    /// Why the file could not be read to its end.
    broken_off: Option<RecordingError>,
}

/// One recorded session.
#[derive(Default)]
struct Recording {
    replay: Session,
    /// Kept here, for a replay that has failed has no session any more.
    recorded_by: Option<String>,
    session_id: Option<u32>,
    seconds: f64,
    /// Pieces read.
    pieces: u32,
    found: Found,
}

/// What became of a replay.
#[derive(Default)]
enum Found {
    /// The session says the same.
    #[default]
    Same,
    Differs(Box<Difference>),
    Failed(String),
}

fn replay(read: impl Read, size: u64) -> io::Result<Replayed> {
    let mut reader = RecordingReader::new(read)?;
    let (mut replayed, mut progress) = (Replayed::default(), Progress::new(size));
    loop {
        progress.step(reader.position());
        match reader.next() {
            Ok(Some(piece)) => {
                let recording = replayed.recordings.entry(piece.recording).or_default();
                recording.feed(piece.number, &piece.bytes);
            }
            Ok(None) => break,
            Err(RecordingError::Capture(CaptureError::Io(error))) => return Err(error),
            Err(error) => {
                replayed.broken_off = Some(error);
                break;
            }
        }
    }
    progress.finish();
    Ok(replayed)
}

impl Recording {
    fn feed(&mut self, number: u32, piece: &[u8]) {
        if !matches!(self.found, Found::Same) {
            return;
        }
        if number != self.pieces {
            self.found = Found::Failed(format!("piece {} of the recording is missing", self.pieces));
            return;
        }
        self.pieces += 1;
        match self.replay.feed(piece) {
            Ok(()) => {
                self.seconds = self.replay.elapsed().as_secs_f64();
                self.recorded_by = self.replay.recorded_by().map(str::to_owned);
                self.session_id = self.replay.session().map(soe_core::Session::session_id);
            }
            Err(ReplayError::Differs(difference)) => {
                self.seconds = difference.elapsed.as_secs_f64();
                self.recorded_by = Some(difference.recorded_by.clone());
                self.found = Found::Differs(difference);
            }
            Err(error) => self.found = Found::Failed(error.to_string()),
        }
    }

    fn put_text(&self, number: u64, write: &mut impl Write) -> io::Result<()> {
        let id = self.session_id.map_or_else(String::new, |id| format!(" of session {id:08x}"));
        let by = self.recorded_by.as_deref().unwrap_or("an unknown version");
        let (calls, datagrams, seconds) = (self.replay.calls(), self.replay.datagrams(), self.seconds);
        write!(write, "recording {number}{id}, by version {by}: ")?;
        match &self.found {
            Found::Same => {
                writeln!(write, "{calls} calls, {datagrams} of them with datagrams, in {seconds:.3} s, all the same")?;
            }
            Found::Failed(error) => writeln!(write, "{error}")?,
            Found::Differs(difference) => {
                let Difference { call, input, expected, actual, session, .. } = &**difference;
                writeln!(write, "call {call} differs, {seconds:.6} s after the beginning")?;
                writeln!(write, "    call      {input}")?;
                writeln!(write, "    recorded  {expected}")?;
                writeln!(write, "    now       {actual}")?;
                writeln!(write, "    session   {}", session.replace('\n', "\n              "))?;
            }
        }
        self.replay.marks().iter().try_for_each(|mark| writeln!(write, "    {mark}"))
    }

    fn json(&self, number: u64) -> Value {
        let mut value = json!({
            "event": "replayed",
            "recording": number,
            "session_id": self.session_id,
            "recorded_by": self.recorded_by,
            "replayed_by": env!("CARGO_PKG_VERSION"),
            "calls": self.replay.calls(),
            "datagrams": self.replay.datagrams(),
            "seconds": self.seconds,
            "marks": self.replay.marks().iter().map(Mark::to_string).collect::<Vec<_>>(),
        });
        match &self.found {
            Found::Same => value["result"] = "same".into(),
            Found::Failed(error) => (value["result"], value["error"]) = ("failed".into(), error[..].into()),
            Found::Differs(difference) => {
                value["result"] = "differs".into();
                value["difference"] = json!({
                    "call": difference.call,
                    "elapsed": difference.elapsed.as_nanos() as u64,
                    "time": difference.unix_nanos,
                    "input": difference.input,
                    "expected": difference.expected,
                    "actual": difference.actual,
                    "session": difference.session,
                });
            }
        }
        value
    }
}
