//! The parts of `soe`, a toolbox for the Sony Online Entertainment (SOE) UDP transport.
//!
//! The program `soe` is a thin shell around this library: [`capture`] reads and writes capture files, [`analysis`] follows
//! sessions through them, [`synthetic`] makes captures of simulated sessions, [`recording`] reads flight recordings, [`proxy`] passes datagrams on as a
//! bad [`link`] would, [`load`] is many clients of one server, [`commands`] are the subcommands.
#![forbid(unsafe_code)]
#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs, clippy::unwrap_used)]

pub mod analysis;
pub mod capture;
mod cli;
pub mod commands;
mod describe;
mod dissector;
mod exit;
pub mod link;
pub mod load;
mod ping;
mod progress;
pub mod proxy;
pub mod recording;
mod report;
mod sockets;
pub mod synthetic;
pub mod units;

pub use self::cli::{Cli, Command};
pub use self::exit::Exit;

use std::{ffi::OsString, io};

use clap::Parser;

/// Runs the command that `arguments` name, the program's name in front, or prints what they ask for: help, or the version.
/// What is wrong with them and other errors are written to standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let done = match Cli::try_parse_from(arguments) {
        Ok(cli) => commands::run(cli.command),
        Err(said) => said.print().map(|()| if said.use_stderr() { Exit::Usage } else { Exit::Done }),
    };
    match done {
        Ok(exit) => exit,
        // Whoever reads our output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            eprintln!("soe: {error}");
            Exit::Failed
        }
    }
}
