//! `soe report`: a capture as one page.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::follow::create;
use super::{FollowOptions, follow};
use crate::exit::Exit;
use crate::report::{Collector, Limits, write_page};

/// Draw a capture as one self-contained HTML page.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct Report {
    /// A pcap or pcapng file, or `-` for one on standard input.
    #[arg(value_name = "CAPTURE")]
    pub input: String,
    /// The page to write.
    #[arg(short, long, value_name = "FILE", default_value = "report.html")]
    pub output: PathBuf,
    /// Bytes of each message that the page holds.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub message_bytes: usize,
    /// Datagrams that the page holds; later ones are left out, and the page says so.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000)]
    pub max_datagrams: u64,
    /// Says what was written as JSON.
    #[arg(long)]
    pub json: bool,
    /// What is known of the sessions.
    #[command(flatten)]
    pub follow: FollowOptions,
}

/// Runs the command.
///
/// # Errors
///
/// A capture that cannot be opened, a page that cannot be written.
pub fn run(command: &Report) -> io::Result<Exit> {
    let mut collector =
        Collector::new(Limits { datagrams: command.max_datagrams, message_bytes: command.message_bytes });
    let followed = follow(&command.input, &command.follow, &mut collector)?;
    if let Some(error) = &followed.broken_off {
        eprintln!("soe: {error}; the page shows what is before");
    }
    if followed.totals.sessions == 0 {
        eprintln!("soe: no session in {}", command.input);
        return Ok(Exit::Nothing);
    }
    let sessions = collector.sessions();
    let (meta, columns) = collector.finish(&command.input);
    let mut file = create(&command.output, &command.input)?;
    write_page(&mut file, &format!("soe report: {}", command.input), &meta, &columns)?;
    file.flush()?;
    let bytes = file.get_ref().metadata()?.len();
    let (path, datagrams) = (command.output.display().to_string(), followed.totals.claimed);
    if command.json {
        println!("{}", json!({ "page": path, "bytes": bytes, "sessions": sessions, "datagrams": datagrams }));
    } else {
        println!("{path}: {sessions} sessions, {datagrams} datagrams, {bytes} bytes");
    }
    Ok(Exit::Done)
}
