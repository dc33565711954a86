//! Reads a capture through an analysis: what `decode` and `report` share.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek};
use std::path::Path;

use clap::Args;
use soe_core::Dialect;

use crate::analysis::{Analyzer, Given, Key, Options, Sink, Totals};
use crate::capture::{CaptureError, CaptureReader, Extracted, Item};
use crate::progress::Progress;

/// What is known of the sessions in a capture.
#[derive(Args, Clone, Debug, Default)]
#[non_exhaustive]
pub struct FollowOptions {
    /// The seed of a session without a handshake, in hexadecimal.
    #[arg(long, value_name = "HEX", value_parser = seed)]
    pub seed: Option<u32>,
    /// Bytes of CRC, 0 to 4, of a session without a handshake.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u8).range(0..=4))]
    pub crc_length: Option<u8>,
    /// The two passes of a session without a handshake, such as 1,0.
    #[arg(long, value_name = "A,B", value_parser = passes)]
    pub passes: Option<[u8; 2]>,
    /// The game family, for its codec.
    #[arg(long, value_name = "NAME", value_parser = Dialect::ALL_NAMES)]
    pub dialect: Option<String>,
    /// A key of reliable messages: `[to-server:|to-client:][rc4:|everquest2:|off:]HEX[@MESSAGE]`. Applies from that message
    /// of the direction on, counted from 0, or with `@3/0/0/1` from that message of each reliable channel on. May be given
    /// several times.
    #[arg(long = "key", value_name = "KEY")]
    pub keys: Vec<Key>,
    /// Looks at datagrams from or to this UDP port only.
    #[arg(long)]
    pub port: Option<u16>,
    /// Conversations that are followed at once; the longest silent ones make room.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    pub max_conversations: usize,
}

impl FollowOptions {
    /// What the options say of framing.
    pub fn given(&self) -> Given {
        Given {
            seed: self.seed,
            crc_length: self.crc_length,
            passes: self.passes,
            dialect: self.dialect.as_deref().and_then(Dialect::by_name),
        }
    }

    /// An analysis with these options.
    pub fn analyzer(&self) -> Analyzer {
        let (keys, max_conversations) = (self.keys.clone(), self.max_conversations);
        Analyzer::new(Options { given: self.given(), keys, max_conversations, ..Options::default() })
    }
}

/// What a capture held.
#[derive(Debug)]
#[non_exhaustive]
pub struct Followed {
    /// What the analysis has seen.
    pub totals: Totals,
    /// Frames that hold no UDP datagram.
    pub other_frames: u64,
    /// Pieces of datagrams that IP had to cut.
    pub fragments: u64,
    /// Bytes of the capture.
    pub capture_bytes: u64,
    /// Why the capture could not be read to its end.
    pub broken_off: Option<CaptureError>,
}

/// Reads the capture at `path`, or standard input for `-`.
///
/// # Errors
///
/// Those of the sink, of opening the file, and of a stream that is no capture. A capture that breaks off is no error.
pub fn follow(path: &str, options: &FollowOptions, sink: &mut dyn Sink) -> io::Result<Followed> {
    if path == "-" {
        return follow_stream(io::stdin().lock(), 0, options, options.analyzer(), sink);
    }
    let mut file = File::open(path).map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
    let size = file.metadata()?.len();
    let mut analyzer = options.analyzer();
    // A flight recording has a key where it was set, which may be behind the datagrams that need it.
    if file.metadata()?.is_file() && is_recording(&file)? {
        file.rewind()?;
        read_secrets(&file, &mut analyzer)?;
    }
    file.rewind()?;
    follow_stream(file, size, options, analyzer, sink)
}

/// Creates the file that a command writes, unless that is the capture that it reads.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidInput`] if both are one file, and those of creating it.
pub(super) fn create(output: &Path, capture: &str) -> io::Result<BufWriter<File>> {
    if let (Ok(output), Ok(capture)) = (output.canonicalize(), Path::new(capture).canonicalize())
        && output == capture
    {
        let reason = format!("{} is the capture itself, which would be lost", output.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    let error = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", output.display()));
    File::create(output).map(BufWriter::new).map_err(error)
}

/// Whether the capture begins with a flight recording.
fn is_recording(file: &File) -> io::Result<bool> {
    let mut reader = CaptureReader::new(file)?;
    loop {
        match reader.next() {
            Ok(Some(Item::Secrets(_))) => {}
            Ok(Some(Item::Recording(_))) => return Ok(true),
            Err(CaptureError::Io(error)) => return Err(error),
            _ => return Ok(false),
        }
    }
}

/// Takes all keys of a capture, up to where it breaks off.
fn read_secrets(file: &File, analyzer: &mut Analyzer) -> io::Result<()> {
    let mut reader = CaptureReader::new(file)?;
    loop {
        match reader.next() {
            Ok(Some(Item::Secrets(lines))) => analyzer.secrets(lines),
            Ok(Some(_)) => {}
            Err(CaptureError::Io(error)) => return Err(error),
            Ok(None) | Err(_) => return Ok(()),
        }
    }
}

fn follow_stream(
    read: impl Read,
    size: u64,
    options: &FollowOptions,
    mut analyzer: Analyzer,
    sink: &mut dyn Sink,
) -> io::Result<Followed> {
    let mut reader = CaptureReader::new(read)?;
    let (mut other_frames, mut fragments, mut broken_off) = (0, 0, None);
    let mut progress = Progress::new(size);
    loop {
        progress.step(reader.position());
        let item = match reader.next() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            Err(CaptureError::Io(error)) => return Err(error),
            Err(error) => {
                broken_off = Some(error);
                break;
            }
        };
        match item {
            Item::Secrets(lines) => analyzer.secrets(lines),
            // What the calls of the session were is not on the wire.
            Item::Recording(_) => {}
            Item::Frame(frame) => match frame.extract() {
                Extracted::Datagram(datagram) => {
                    let ports = [datagram.from.port(), datagram.to.port()];
                    if options.port.is_none_or(|port| ports.contains(&port)) {
                        analyzer.datagram(&datagram, sink)?;
                    }
                }
                Extracted::Fragment => fragments += 1,
                Extracted::Other => other_frames += 1,
            },
        }
    }
    progress.finish();
    let capture_bytes = reader.position();
    Ok(Followed { totals: analyzer.finish(sink)?, other_frames, fragments, capture_bytes, broken_off })
}

fn seed(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u32::from_str_radix(digits, 16).map_err(|error| error.to_string())
}

fn passes(text: &str) -> Result<[u8; 2], String> {
    let pass = |text: &str| text.trim().parse::<u8>().ok().filter(|pass| matches!(pass, 0 | 1 | 2 | 4));
    text.split_once(',')
        .and_then(|(first, second)| Some([pass(first)?, pass(second)?]))
        .ok_or_else(|| "two passes out of 0, 1, 2 and 4, such as 1,0".into())
}
