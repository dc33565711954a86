//! The subcommands, one file each: its options, and a function `run` that does the work.

pub mod decode;
pub mod dissector;
mod follow;
pub mod load;
pub mod ping;
pub mod proxy;
pub mod replay;
pub mod report;

use std::io;

use crate::cli::Command;
use crate::exit::Exit;

pub use self::follow::{FollowOptions, Followed, follow};

/// Runs one subcommand.
///
/// # Errors
///
/// Whatever keeps it from doing its work.
pub fn run(command: Command) -> io::Result<Exit> {
    match command {
        Command::Decode(command) => decode::run(&command),
        Command::Replay(command) => replay::run(&command),
        Command::Report(command) => report::run(&command),
        Command::Dissector(command) => dissector::run(&command),
        Command::Ping(command) => ping::run(&command),
        Command::Proxy(command) => proxy::run(&command),
        Command::Load(command) => load::run(&command),
    }
}
