//! `soe`, a toolbox for the UDP transport of Sony Online Entertainment's games. See `soe --help`.

use std::{env, process::ExitCode};

fn main() -> ExitCode {
    soe_tools::run(env::args_os()).into()
}
