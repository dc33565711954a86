//! `soe decode`: datagrams and captures in words.

use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use clap::Args;
use serde_json::{Value, json};
use soe_core::Dialect;
use soe_core::wire::opcode;

use super::follow::create;
use super::{FollowOptions, Followed, follow};
use crate::analysis::{Guess, Sample, Severity, Sink, hex, infer};
pub use crate::describe::Show;
use crate::describe::{JsonLines, MessageFile, Timeline, packet_json, packet_line, put_dump};
use crate::exit::Exit;

/// Decode datagrams or a capture.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct Decode {
    /// A pcap or pcapng file, `-` for one on standard input, or datagrams in hexadecimal.
    #[arg(required = true, value_name = "CAPTURE|HEX")]
    pub input: Vec<String>,
    /// Writes one JSON object a line: every event of the analysis, then the totals.
    #[arg(long)]
    pub json: bool,
    /// What to show.
    #[arg(long, value_delimiter = ',', default_value = "datagrams,messages,findings,summary")]
    pub show: Vec<Show>,
    /// Bytes of each message to show.
    #[arg(long, value_name = "BYTES", default_value_t = 32)]
    pub dump: usize,
    /// Writes the messages of all sessions, put together and decrypted, into a capture of their own: pcapng with exported PDUs,
    /// which Wireshark opens.
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// Ends with exit code 4 if anything worse than a resend was found.
    #[arg(long)]
    pub check: bool,
    /// What is known of the sessions.
    #[command(flatten)]
    pub follow: FollowOptions,
}

/// Runs the command.
///
/// # Errors
///
/// A capture that cannot be opened, text that is neither a file nor hexadecimal, an output that cannot be written.
pub fn run(command: &Decode) -> io::Result<Exit> {
    match &command.input[..] {
        [input] if input == "-" || Path::new(input).exists() => capture(command, input),
        inputs => datagrams(command, inputs),
    }
}

fn capture(command: &Decode, path: &str) -> io::Result<Exit> {
    let stdout = io::stdout().lock();
    // On a terminal, and behind a live capture, lines are to come at once.
    let capacity = if io::stdout().is_terminal() || path == "-" { 0 } else { 1 << 18 };
    let write = BufWriter::with_capacity(capacity, stdout);
    let (followed, worst) = if command.json {
        let mut lines = JsonLines::new(write);
        let followed = follow_all(command, path, &mut lines)?;
        lines.put(&json!({ "event": "totals", "totals": followed.totals, "fragments": followed.fragments,
            "other_frames": followed.other_frames, "capture_bytes": followed.capture_bytes,
            "broken_off": followed.broken_off.as_ref().map(ToString::to_string) }))?;
        let worst = lines.worst;
        lines.finish()?;
        (followed, worst)
    } else {
        let mut timeline = Timeline::new(write, command.show.clone(), command.dump);
        let followed = follow_all(command, path, &mut timeline)?;
        let worst = timeline.worst;
        let mut write = timeline.finish()?;
        put_totals(&mut write, &followed)?;
        write.flush()?;
        (followed, worst)
    };
    let is_wrong = worst >= Some(Severity::Warning) || followed.broken_off.is_some();
    Ok(match followed.totals.sessions {
        0 => Exit::Nothing,
        _ if command.check && is_wrong => Exit::Wrong,
        _ => Exit::Done,
    })
}

fn follow_all(command: &Decode, path: &str, sink: &mut dyn Sink) -> io::Result<Followed> {
    let Some(file) = &command.messages else { return follow(path, &command.follow, sink) };
    let mut messages = MessageFile::new(create(file, path)?, sink)?;
    let followed = follow(path, &command.follow, &mut messages)?;
    messages.finish()?;
    Ok(followed)
}

fn put_totals(write: &mut impl Write, followed: &Followed) -> io::Result<()> {
    let totals = followed.totals;
    let (datagrams, claimed, sessions) = (totals.datagrams, totals.claimed, totals.sessions);
    writeln!(write, "{datagrams} UDP datagrams, {claimed} of them in {sessions} sessions")?;
    if followed.fragments > 0 {
        writeln!(write, "{} IP fragments were left out", followed.fragments)?;
    }
    if let Some(error) = &followed.broken_off {
        writeln!(write, "{error}")?;
    }
    Ok(())
}

/// Datagrams that were given in hexadecimal.
fn datagrams(command: &Decode, inputs: &[String]) -> io::Result<Exit> {
    let error = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
    let invalid = |text: &str| error(format!("{text:?} is neither a file nor hexadecimal"));
    let datagrams: Vec<Vec<u8>> = inputs
        .iter()
        .map(|text| hex(text).filter(|bytes| !bytes.is_empty()).ok_or_else(|| invalid(text)))
        .collect::<Result<_, _>>()?;
    if command.messages.is_some() {
        return Err(error("--messages takes a capture: single datagrams have no whole messages".into()));
    }
    let samples: Vec<_> = datagrams.iter().map(|datagram| Sample::new(0, datagram)).collect();
    let guess = infer(&samples, &command.follow.given());
    let mut stdout = BufWriter::new(io::stdout().lock());
    if let Some(guess) = &guess
        && !command.json
    {
        put_guess(&mut stdout, guess)?;
    }
    let mut is_wrong = false;
    for datagram in &datagrams {
        let opened = open(datagram, guess.as_ref());
        is_wrong |= opened.is_err();
        if command.json {
            let value = datagram_json(datagram, &opened, guess.as_ref())?;
            writeln!(stdout, "{value}")?;
            continue;
        }
        let mut line = String::new();
        match &opened {
            Ok(packet) => {
                packet_line(&mut line, packet);
                line.push('\n');
                put_dump(&mut line, &packet[..packet.len().min(command.dump.max(16))], "    ");
            }
            Err(error) => {
                let _ = writeln!(line, "{error}");
            }
        }
        stdout.write_all(line.as_bytes())?;
    }
    stdout.flush()?;
    Ok(if command.check && is_wrong { Exit::Wrong } else { Exit::Done })
}

fn datagram_json(datagram: &[u8], opened: &Result<Vec<u8>, String>, guess: Option<&Guess>) -> io::Result<Value> {
    let packet: Value = match opened {
        Ok(packet) => serde_json::from_str(&packet_json(packet))?,
        Err(error) => return Ok(json!({ "event": "datagram", "length": datagram.len(), "error": error })),
    };
    Ok(json!({
        "event": "datagram",
        "length": datagram.len(),
        "packet": packet,
        "crc_seed": guess.and_then(|guess| guess.seed),
        "crc_length": guess.map(|guess| guess.crc_length),
        "passes": guess.map(|guess| guess.passes),
        "dialect": guess.map(|guess| guess.dialect.name.as_ref()),
        "inferred": guess.map(|guess| &guess.notes),
    }))
}

fn put_guess(write: &mut impl Write, guess: &Guess) -> io::Result<()> {
    let [first, second] = guess.passes;
    let (crc, dialect) = (guess.crc_length, &guess.dialect.name);
    writeln!(write, "CRC {crc} bytes, passes {first},{second}, {dialect}")?;
    guess.notes.iter().try_for_each(|note| writeln!(write, "    inferred: {note}"))
}

/// The packet in a datagram.
fn open(datagram: &[u8], guess: Option<&Guess>) -> Result<Vec<u8>, String> {
    let is_exempt = opcode::of(datagram).is_some_and(opcode::is_exempt);
    let Some(guess) = guess.filter(|_| !is_exempt && datagram.len() > 1) else { return Ok(datagram.to_vec()) };
    let (seed, crc_length) = (guess.seed.unwrap_or(0), if guess.seed.is_some() { guess.crc_length } else { 0 });
    let cut = if guess.seed.is_some() { 0 } else { usize::from(guess.crc_length) };
    let bytes = &datagram[..datagram.len().saturating_sub(cut).max(1)];
    let dialect: &Dialect = &guess.dialect;
    let framing = dialect.framing(seed, crc_length, guess.passes).map_err(|error| error.to_string())?;
    framing.open(BytesMut::from(bytes)).map(|packet| packet.to_vec()).map_err(|error| error.to_string())
}
