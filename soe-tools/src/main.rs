//! `soe`, a toolbox for the UDP transport of Sony Online Entertainment's games. See `soe --help`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    soe_tools::run(soe_tools::Cli::try_parse()).into()
}
