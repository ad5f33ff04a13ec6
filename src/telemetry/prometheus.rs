//! The Prometheus text format, version 0.0.4: families of samples, each with its help and type.
//!
//! Knows the format and nothing of what is measured. All samples of a family must be written together: the format
//! wants it so, and the borrow of [`Family`] sees to it.

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::pool::counters::Distribution;

/// `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Bounds of a histogram in powers of two of microseconds: 128 µs to 33.6 s, each twice the one before.
pub const FINE: &[u32] = &[7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25];

/// The same for what there are hundreds of: 512 µs to 8.4 s, each four times the one before.
pub const COARSE: &[u32] = &[9, 11, 13, 15, 17, 19, 21, 23];

/// Text in the making.
#[derive(Debug, Default)]
pub struct Exposition(String);

/// What a family's samples are.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Durations by upper bound.
    Histogram,
}

/// A family whose samples are being written.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

/// Names and values of a sample's labels.
pub type Labels<'a> = &'a [(&'a str, &'a str)];

impl Exposition {
    /// Opens the family `name`.
    pub fn family<'a>(&'a mut self, name: &'a str, kind: Kind, help: &str) -> Family<'a> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write(&mut self.0, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { text: &mut self.0, name }
    }

    /// The finished text.
    pub fn finish(self) -> String {
        self.0
    }
}

impl Family<'_> {
    /// Writes one sample.
    pub fn sample(&mut self, labels: Labels<'_>, value: impl Display) {
        self.line("", labels, None, value);
    }

    /// Writes the samples of one distribution, in seconds, with bounds such as [`FINE`].
    pub fn histogram(&mut self, labels: Labels<'_>, durations: &Distribution, powers: &[u32]) {
        for power in powers {
            let bound = Duration::from_micros(1 << power);
            self.line("_bucket", labels, Some(&bound.as_secs_f64().to_string()), durations.at_most(bound));
        }
        self.line("_bucket", labels, Some("+Inf"), durations.count());
        self.line("_sum", labels, None, durations.sum_seconds());
        self.line("_count", labels, None, durations.count());
    }

    fn line(&mut self, suffix: &str, labels: Labels<'_>, bound: Option<&str>, value: impl Display) {
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        let bound = bound.map(|bound| ("le", bound));
        for (index, (name, text)) in labels.iter().copied().chain(bound).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            escape(self.text, text);
            self.text.push('"');
        }
        let close = if labels.is_empty() && bound.is_none() { "" } else { "}" };
        write(self.text, format_args!("{close} {value}\n"));
    }
}

fn escape(into: &mut String, text: &str) {
    for char in text.chars() {
        match char {
            '\\' => into.push_str("\\\\"),
            '"' => into.push_str("\\\""),
            '\n' => into.push_str("\\n"),
            other => into.push(other),
        }
    }
}

fn write(into: &mut String, text: std::fmt::Arguments<'_>) {
    let cannot_fail = into.write_fmt(text);
    debug_assert!(cannot_fail.is_ok(), "writing into a String");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Histogram;

    #[test]
    fn a_family_has_help_type_and_samples() {
        let mut text = Exposition::default();
        let mut family = text.family("a_total", Kind::Counter, "All\nof it.");
        family.sample(&[], 1);
        family.sample(&[("x", "y"), ("z", "")], 2.5);
        assert_eq!(
            text.finish(),
            "# HELP a_total All\\nof it.\n# TYPE a_total counter\na_total 1\na_total{x=\"y\",z=\"\"} 2.5\n"
        );
    }

    #[test]
    fn label_values_cannot_break_out_of_their_quotes() {
        let mut text = Exposition::default();
        text.family("a", Kind::Gauge, "").sample(&[("x", "\"} 7\na{x=\"\\")], 1);
        assert!(text.finish().ends_with("a{x=\"\\\"} 7\\na{x=\\\"\\\\\"} 1\n"));
    }

    #[test]
    fn a_histogram_counts_upwards_to_infinity() {
        let histogram = Histogram::default();
        for ms in [1, 5, 5, 120_000] {
            histogram.record(Duration::from_millis(ms));
        }
        let mut sum = Distribution::default();
        histogram.add_to(&mut sum);
        let mut text = Exposition::default();
        text.family("a_seconds", Kind::Histogram, "").histogram(&[("p", "shop")], &sum, FINE);
        let text = text.finish();
        for line in [
            "a_seconds_bucket{p=\"shop\",le=\"0.000512\"} 0",
            "a_seconds_bucket{p=\"shop\",le=\"0.001024\"} 1",
            "a_seconds_bucket{p=\"shop\",le=\"0.008192\"} 3",
            "a_seconds_bucket{p=\"shop\",le=\"+Inf\"} 4",
            "a_seconds_sum{p=\"shop\"} 120.011",
            "a_seconds_count{p=\"shop\"} 4",
        ] {
            assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
        }
    }
}
