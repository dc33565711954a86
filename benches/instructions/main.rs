//! Instructions of the hot paths, counted by valgrind's callgrind: a regression check that needs no clock and no quiet machine.
//!
//! ```text
//! cargo bench --bench instructions                # compares with benches/instructions/baseline.txt; fails if a row needs more
//! cargo bench --bench instructions -- --update    # writes the baseline
//! ```
//!
//! Each row runs twice with different counts, so that start and set-up cancel out. Counts depend on the compiler and on the
//! instructions of the processor: where these differ from those of the baseline, the rows are held against what the crate
//! `soe-protocol` needs for the same work in the same run, with a wider tolerance.

mod baseline;
mod callgrind;
mod network;
#[path = "../micro/src/pair.rs"]
mod pair;
mod sessions;
mod yardstick;

use std::{env, error::Error, process::ExitCode};

use baseline::{Baseline, Verdict};

/// Work of which so many units are done.
struct Row {
    name: &'static str,
    work: fn(u64),
    /// The two numbers of units.
    units: [u64; 2],
    /// Of the yardstick, not of this library.
    is_yardstick: bool,
}

const fn row(name: &'static str, work: fn(u64), units: [u64; 2]) -> Row {
    Row { name, work, units, is_yardstick: false }
}

const fn yardstick(name: &'static str, work: fn(u64), units: [u64; 2]) -> Row {
    Row { name, work, units, is_yardstick: true }
}

const ROWS: [Row; 12] = [
    row("session: message echoed, 1 outstanding", |count| sessions::echo(1, count), [200, 2_200]),
    row("session: message echoed, 8 outstanding", |count| sessions::echo(8, count), [800, 8_800]),
    row("session: 256 KiB", sessions::bulk, [2, 12]),
    row("session: set-up", sessions::set_up, [20, 220]),
    row("session: turn of an idle one", sessions::idle, [100, 2_100]),
    row("listener: message echoed, 1 session, 1 outstanding", |count| network::echo(1, 1, count), [50, 1_050]),
    row("listener: message echoed, 20 sessions, 8 outstanding", |count| network::echo(20, 8, count), [480, 6_880]),
    row(
        "sockets: message echoed, 20 sessions, 8 outstanding",
        |count| network::echo_over_sockets(20, 8, count),
        [480, 6_880],
    ),
    row("listener: set-up, echo and end of a session", network::set_up, [10, 110]),
    yardstick("yardstick: message echoed, 1 outstanding", |count| yardstick::echo(1, count), [200, 1_200]),
    yardstick("yardstick: message echoed, 8 outstanding", |count| yardstick::echo(8, count), [400, 2_400]),
    yardstick("yardstick: 64 KiB", yardstick::bulk, [2, 12]),
];

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--work", index, units] => {
            work(index, units);
            ExitCode::SUCCESS
        }
        [] | ["--update"] if !callgrind::is_there() => {
            println!("not checked: valgrind is not installed");
            ExitCode::SUCCESS
        }
        [] => done(check()),
        ["--update"] => done(update()),
        _ => {
            eprintln!("usage: cargo bench --bench instructions [-- --update]");
            ExitCode::from(2)
        }
    }
}

fn done(result: Result<bool, Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// What callgrind observes.
fn work(index: &str, units: &str) {
    let (index, units) = (index.parse::<usize>(), units.parse());
    let (Ok(index), Ok(units)) = (index, units) else { panic!("--work takes a row and a number of units") };
    (ROWS[index].work)(units);
}

fn check() -> Result<bool, Box<dyn Error>> {
    let (baseline, counts) = (Baseline::read()?, callgrind::count_all(&ROWS)?);
    let comparison = baseline.compare_with(&counts);
    println!("{}", comparison.basis());
    let mut holds = true;
    for (row, &now) in ROWS.iter().zip(&counts) {
        let (before, verdict) = comparison.verdict(row, now);
        let says = match verdict {
            Verdict::Holds => "",
            Verdict::Less => "  less: run with --update and commit the baseline",
            Verdict::More => "  MORE",
        };
        holds &= verdict != Verdict::More;
        println!("{:<54} {now:>10} of {before:>10.0} {:>+7.1} %{says}", row.name, 100.0 * (now / before - 1.0));
    }
    if !holds {
        println!(
            "a row needs more instructions than the baseline allows; if that is meant, run with --update and say why"
        );
    }
    Ok(holds)
}

fn update() -> Result<bool, Box<dyn Error>> {
    let counts = callgrind::count_all(&ROWS)?;
    Baseline::write(&counts)?;
    for (row, count) in ROWS.iter().zip(&counts) {
        println!("{:<54} {count:>10}", row.name);
    }
    Ok(true)
}
