//! Runs this program under callgrind.

use std::{
    env,
    error::Error,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::Row;

pub(crate) fn is_there() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The instructions of a whole run of a row.
fn count(index: usize, units: u64) -> Result<u64, Box<dyn Error + Send + Sync>> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["--work", &index.to_string(), &units.to_string()])
        .output()?;
    let says = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("row {index} failed:\n{says}").into());
    }
    let collected = says.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    collected.ok_or_else(|| format!("no count in:\n{says}").into())
}

/// The instructions for each unit of each row, on all processors.
pub(crate) fn count_all(rows: &[Row]) -> Result<Vec<f64>, Box<dyn Error>> {
    let next = AtomicUsize::new(0);
    let counted = thread::scope(|scope| {
        let workers: Vec<_> = (0..thread::available_parallelism().map_or(1, usize::from))
            .map(|_| {
                scope.spawn(|| {
                    let mut counted = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        let Some(row) = rows.get(index) else { return Ok(counted) };
                        let [few, many] = row.units;
                        let difference = count(index, many)?.saturating_sub(count(index, few)?);
                        counted.push((index, (difference / (many - few)) as f64));
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("counting does not panic")).collect::<Vec<_>>()
    });
    let mut all = Vec::new();
    for counted in counted {
        let counted: Result<Vec<(usize, f64)>, Box<dyn Error + Send + Sync>> = counted;
        all.extend(counted.map_err(|error| error.to_string())?);
    }
    all.sort_by_key(|(index, _)| *index);
    Ok(all.into_iter().map(|(_, count)| count).collect())
}
