//! The forms in which figures leave: OpenMetrics text, and the facade of the crate `metrics`.

use std::fmt::Write;

/// The type of a family of series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    /// A histogram whose counts may fall.
    GaugeHistogram,
}

/// The labels of a series.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Takes families and their series, in order.
pub(super) trait Output {
    /// A family begins. `name` is without the suffixes of its series.
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str);

    /// A series of the family, whose name continues with `suffix`.
    fn series(&mut self, suffix: &str, labels: Labels<'_>, value: Value);
}

/// A value. Whole numbers stay exact.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

/// Appends OpenMetrics text.
#[derive(Debug)]
pub(super) struct Text<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Text<'a> {
    pub(super) fn new(out: &'a mut String) -> Self {
        Self { out, name: "" }
    }

    pub(super) fn finish(self) {
        self.out.push_str("# EOF\n");
    }
}

impl Output for Text<'_> {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        self.name = name;
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::GaugeHistogram => "gaugehistogram",
        };
        // Writing to a string does not fail, here and below.
        let _ = writeln!(self.out, "# TYPE {name} {kind}\n# HELP {name} {help}");
    }

    fn series(&mut self, suffix: &str, labels: Labels<'_>, value: Value) {
        let _ = write!(self.out, "{}{suffix}", self.name);
        for (number, (key, of)) in labels.iter().enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{key}=\"{of}\"");
        }
        if !labels.is_empty() {
            self.out.push('}');
        }
        let _ = match value {
            Value::Whole(value) => writeln!(self.out, " {value}"),
            Value::Real(value) => writeln!(self.out, " {value}"),
        };
    }
}

/// Sets counters and gauges of the installed recorder of the crate `metrics`.
#[cfg(feature = "metrics")]
#[derive(Debug)]
pub(super) struct Facade {
    name: &'static str,
    is_counter: bool,
}

#[cfg(feature = "metrics")]
impl Facade {
    pub(super) fn new() -> Self {
        Self { name: "", is_counter: false }
    }
}

#[cfg(feature = "metrics")]
impl Output for Facade {
    fn family(&mut self, name: &'static str, kind: Kind, help: &'static str) {
        (self.name, self.is_counter) = (name, kind == Kind::Counter);
        match kind {
            Kind::Counter => metrics::describe_counter!(format!("{name}_total"), help),
            Kind::Gauge => metrics::describe_gauge!(name, help),
            Kind::GaugeHistogram => metrics::describe_gauge!(format!("{name}_bucket"), help),
        }
    }

    fn series(&mut self, suffix: &str, labels: Labels<'_>, value: Value) {
        let name = format!("{}{suffix}", self.name);
        let labels: Vec<_> = labels.iter().map(|(key, of)| metrics::Label::new(*key, (*of).to_owned())).collect();
        match value {
            Value::Whole(value) if self.is_counter => metrics::counter!(name, labels).absolute(value),
            Value::Whole(value) => metrics::gauge!(name, labels).set(value as f64),
            Value::Real(value) => metrics::gauge!(name, labels).set(value),
        }
    }
}
