//! `soe dissector`: a dissector for Wireshark.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::dissector::script;
use crate::exit::Exit;

/// Write a Wireshark dissector in Lua.
#[derive(Args, Debug)]
#[non_exhaustive]
pub struct Dissector {
    /// The file to write; standard output without it.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
///
/// An output that cannot be written.
pub fn run(command: &Dissector) -> io::Result<Exit> {
    match &command.output {
        Some(path) => std::fs::write(path, script())?,
        None => io::stdout().write_all(script().as_bytes())?,
    }
    Ok(Exit::Done)
}
