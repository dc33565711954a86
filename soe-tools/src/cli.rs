//! The command line.

use clap::{Parser, Subcommand};

use crate::commands::{decode, dissector, load, ping, proxy, replay, report};

/// A toolbox for the UDP transport of Sony Online Entertainment's games.
#[derive(Debug, Parser)]
#[command(name = "soe", version, about, after_help = EXIT_CODES)]
#[non_exhaustive]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Decode datagrams or a capture: a timeline of sessions, packets, messages, and what is wrong.
    Decode(decode::Decode),
    /// Replay flight recordings of sessions, and say where this build behaves otherwise.
    Replay(replay::Replay),
    /// Draw a capture as one self-contained HTML page.
    Report(report::Report),
    /// Write a Wireshark dissector in Lua.
    Dissector(dissector::Dissector),
    /// Ask a server what it offers, and measure round trip and loss.
    Ping(ping::Ping),
    /// Pass UDP datagrams on as a bad link would: a lag proxy.
    Proxy(proxy::Proxy),
    /// Load a server that echoes with many clients, and measure.
    Load(load::Load),
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed: a file, a socket or the capture's format
  2  wrong usage
  3  nothing found: no session or recording in the capture, no answer from the server
  4  `soe decode --check` found something wrong
  5  a condition of `soe load --fail-if` holds
  6  `soe replay`: a session says something else than when it was recorded";
