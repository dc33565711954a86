//! What was measured, as a table and as JSON.

use std::fmt::Write as _;

use super::spec::{Kind, Spec};

/// The figures of one run by their names.
pub(crate) type Figures = Vec<(String, f64)>;

/// One row: a workload and what each implementation reached, `None` where it did not finish.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) spec: Spec,
    pub(crate) results: Vec<(&'static str, Option<Figures>)>,
}

fn figure(figures: &Figures, name: &str) -> Option<f64> {
    figures.iter().find(|(of, _)| of == name).map(|(_, value)| *value)
}

/// The figure that a workload is about, its unit, and whether more of it is better.
fn headline(kind: Kind) -> (&'static str, &'static str, bool) {
    match kind {
        Kind::Bulk => ("mb_per_s", "MB/s", true),
        Kind::Echo => ("messages_per_s", "messages/s", true),
        Kind::Game => ("server_cpu_percent", "% server CPU", false),
        Kind::Setup => ("sessions_per_s", "sessions/s", true),
        Kind::Idle => ("bytes_per_session", "bytes/session", false),
        Kind::Thin => ("one_way_p99_ms", "ms one-way p99", false),
    }
}

/// The run whose headline is the median; an unfinished run counts as the worst.
pub(crate) fn median(kind: Kind, mut runs: Vec<Option<Figures>>) -> Option<Figures> {
    let (name, _, more_is_better) = headline(kind);
    let worst = if more_is_better { f64::NEG_INFINITY } else { f64::INFINITY };
    let key = |run: &Option<Figures>| run.as_ref().and_then(|run| figure(run, name)).unwrap_or(worst);
    runs.sort_by(|one, other| key(one).total_cmp(&key(other)));
    let middle = runs.len() / 2;
    runs.into_iter().nth(middle).flatten()
}

/// A paragraph per row: what each implementation reached, and beside each other one how much better the first did.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (name, unit, more_is_better) = headline(row.spec.kind);
        let _ = writeln!(text, "{} ({unit})", row.spec.name);
        let value = |result: &Option<Figures>| result.as_ref().and_then(|figures| figure(figures, name));
        let first = row.results.first().and_then(|(_, result)| value(result));
        for (index, (implementation, result)) in row.results.iter().enumerate() {
            let shown = value(result).map_or_else(|| "unfinished".to_owned(), readable);
            let ratio = match (index, first, value(result)) {
                (1.., Some(ours), Some(theirs)) if ours > 0.0 && theirs > 0.0 => {
                    let ratio = if more_is_better { ours / theirs } else { theirs / ours };
                    format!("{ratio:.1} times as good")
                }
                _ => String::new(),
            };
            let rest = result.iter().flatten().filter(|(of, _)| of != name);
            let rest: Vec<String> = rest.map(|(of, value)| format!("{of} {}", readable(*value))).collect();
            let _ = writeln!(text, "  {:<14}{shown:>12}  {ratio:<30}{}", implementation, rest.join(", "));
        }
    }
    text
}

fn readable(value: f64) -> String {
    if value.abs() < 100.0 && value.fract() != 0.0 { format!("{value:.2}") } else { format!("{value:.0}") }
}

/// The same as JSON: a list of workloads, each with the figures of each implementation.
pub(crate) fn json(rows: &[Row]) -> String {
    let of_row = |row: &Row| {
        let of_result = |(implementation, result): &(&'static str, Option<Figures>)| {
            let figures = result.as_ref().map_or_else(
                || "null".to_owned(),
                |figures| {
                    let members: Vec<String> =
                        figures.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                    format!("{{{}}}", members.join(", "))
                },
            );
            format!("\"{}\": {figures}", implementation)
        };
        let results: Vec<String> = row.results.iter().map(of_result).collect();
        format!("  {{\"workload\": \"{}\", {}}}", row.spec.name, results.join(", "))
    };
    let rows: Vec<String> = rows.iter().map(of_row).collect();
    format!("[\n{}\n]\n", rows.join(",\n"))
}
