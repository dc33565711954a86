//! The counts to compare with, and when which comparison is fair.

use std::{env, error::Error, fmt::Write as _, fs, path::PathBuf, process::Command};

use crate::{ROWS, Row};

/// More than this counts as a regression under the compiler and on the processor of the baseline. Hash maps with random keys
/// make counts differ by 0.2 % between runs.
const TOLERANCE: f64 = 0.02;
/// The same where compiler or processor differ, held against the yardstick: each compiles differently.
const WIDE_TOLERANCE: f64 = 0.15;

#[derive(Debug)]
pub(crate) struct Baseline {
    environment: String,
    counts: Vec<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Holds,
    Less,
    More,
}

/// What the counts of this run are held against.
#[derive(Debug)]
pub(crate) struct Comparison<'a> {
    baseline: &'a Baseline,
    /// What the yardstick needs now for each instruction that it needed before. `None` in the baseline's environment.
    scale: Option<f64>,
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions/baseline.txt")
}

/// What counts depend on: the compiler, and the instructions that libraries choose at run time.
fn environment() -> Result<String, Box<dyn Error>> {
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = String::from_utf8(Command::new(compiler).arg("--version").output()?.stdout)?;
    #[cfg(target_arch = "x86_64")]
    let extensions =
        format!("avx2 {}, pclmulqdq {}", is_x86_feature_detected!("avx2"), is_x86_feature_detected!("pclmulqdq"));
    #[cfg(not(target_arch = "x86_64"))]
    let extensions = "none asked for";
    Ok(format!("{}; {}; {extensions}", version.trim(), env::consts::ARCH))
}

impl Baseline {
    pub(crate) fn read() -> Result<Self, Box<dyn Error>> {
        let text = fs::read_to_string(path())?;
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let environment = lines.next().ok_or("the baseline is empty")?.to_owned();
        let counts = ROWS.iter().map(|row| {
            let line = lines.next().and_then(|line| line.strip_prefix(row.name)?.strip_prefix(" = "));
            line.and_then(|count| count.parse().ok()).ok_or_else(|| format!("the baseline lacks {:?}", row.name))
        });
        let counts = counts.collect::<Result<_, _>>()?;
        Ok(Self { environment, counts })
    }

    pub(crate) fn write(counts: &[f64]) -> Result<(), Box<dyn Error>> {
        let mut text = String::from(
            "# Instructions for each unit of work. Written by: cargo bench --bench instructions -- --update\n",
        );
        writeln!(text, "{}", environment()?)?;
        for (row, count) in ROWS.iter().zip(counts) {
            writeln!(text, "{} = {count}", row.name)?;
        }
        Ok(fs::write(path(), text)?)
    }

    pub(crate) fn compare_with(&self, counts: &[f64]) -> Comparison<'_> {
        let is_same = environment().is_ok_and(|environment| environment == self.environment);
        let ratios: Vec<_> = std::iter::zip(&ROWS, std::iter::zip(counts, &self.counts))
            .filter(|(row, _)| row.is_yardstick)
            .map(|(_, (now, before))| now / before)
            .collect();
        let scale = ratios.iter().sum::<f64>() / ratios.len() as f64;
        Comparison { baseline: self, scale: (!is_same).then_some(scale) }
    }
}

impl Comparison<'_> {
    pub(crate) fn basis(&self) -> String {
        match self.scale {
            None => format!("instructions, against the baseline; at most {:.0} % more", 100.0 * TOLERANCE),
            Some(scale) => format!(
                "instructions; the baseline is of {:?} and counts {scale:.3} times here, as the yardstick does; at most {:.0} % more",
                self.baseline.environment,
                100.0 * WIDE_TOLERANCE
            ),
        }
    }

    /// What the row may be compared with, and how it compares. The yardstick is not judged.
    pub(crate) fn verdict(&self, row: &Row, now: f64) -> (f64, Verdict) {
        let index = ROWS.iter().position(|other| other.name == row.name).expect("one of the rows");
        let before = self.baseline.counts[index] * self.scale.unwrap_or(1.0);
        let tolerance = if self.scale.is_some() { WIDE_TOLERANCE } else { TOLERANCE };
        let verdict = match now / before - 1.0 {
            _ if row.is_yardstick => Verdict::Holds,
            more if more > tolerance => Verdict::More,
            more if more < -tolerance => Verdict::Less,
            _ => Verdict::Holds,
        };
        (before, verdict)
    }
}
