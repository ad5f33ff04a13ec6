//! Durations, byte sizes, percentages and secrets as they are written in the file.
//!
//! Each unit is read and written here, so that a limit in an error message has the form a user would type. Limits
//! themselves are not known here: they belong to the keys (see `compile`).

use std::fmt;
use std::time::Duration;

/// Text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself: for comparing and sending, not for logging.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// A number of bytes: `"64KiB"`, `"1MiB"`, or a plain number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub(super) struct Size(pub(super) u64);

/// A share of a whole, 1.0 being all of it: `"50%"`.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(super) struct Percent(pub(super) f64);

/// A quantity that has limits, and can be shown in an error message the way it is written in the file.
pub(super) trait Quantity: Copy + PartialOrd {
    /// As written in the file, quotes included.
    fn written(self) -> String;
}

/// Units of time in milliseconds, the largest first.
const TIMES: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Units of size in bytes, the largest first.
const SIZES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// Reads one or several whole numbers, each with its unit: `5s`, `500ms`, `1h30m`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut millis) = (text.trim(), 0u64);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        millis = millis.checked_add(number.checked_mul(factor(&TIMES, unit)?)?)?;
        rest = tail;
    }
    Some(Duration::from_millis(millis))
}

/// Reads a whole number of bytes with a binary unit.
pub(super) fn parse_size(text: &str) -> Option<Size> {
    let (number, unit) = split_number(text.trim())?;
    number.checked_mul(factor(&SIZES, unit.trim_start())?).map(Size)
}

/// Reads a number followed by a percent sign. What it may be at most is up to the key.
pub(super) fn parse_percent(text: &str) -> Option<Percent> {
    let number = text.trim().strip_suffix('%')?.trim_end();
    let digits = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    number.parse::<f64>().ok().filter(|_| digits).map(|percent| Percent(percent / 100.0))
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let len = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(len);
    Some((digits.parse().ok()?, rest))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// `amount` in the largest unit that divides it.
fn in_largest_unit(units: &[(&str, u64)], amount: u64) -> String {
    let unit = units.iter().find(|(_, factor)| amount > 0 && amount.is_multiple_of(*factor));
    match unit {
        Some((unit, factor)) => format!("\"{}{unit}\"", amount / factor),
        None => format!("\"0{}\"", if units[0].0 == "d" { "s" } else { "B" }),
    }
}

impl Quantity for Duration {
    fn written(self) -> String {
        in_largest_unit(&TIMES, u64::try_from(self.as_millis()).unwrap_or(u64::MAX))
    }
}

impl Quantity for Size {
    fn written(self) -> String {
        in_largest_unit(&SIZES, self.0)
    }
}

impl Quantity for Percent {
    fn written(self) -> String {
        // Rounded to what anyone would write: 0.07 * 100.0 is not 7.
        format!("\"{}%\"", (self.0 * 1e8).round() / 1e6)
    }
}

impl Quantity for f64 {
    fn written(self) -> String {
        self.to_string()
    }
}

impl Quantity for i64 {
    fn written(self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units() {
        let millis = |text| parse_duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("0s", 0),
            ("500ms", 500),
            ("5s", 5000),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(millis(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "1.5s",
            "-5s",
            "5S",
            "5sec",
            "5s5",
            "99999999999999999999s",
            "9999999999999d",
        ] {
            assert_eq!(millis(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_have_binary_units() {
        let bytes = |text| parse_size(text).map(|size| size.0);
        for (text, expected) in
            [("0B", 0), ("512B", 512), ("64KiB", 65_536), ("1 MiB", 1 << 20), ("2GiB", 1 << 31)]
        {
            assert_eq!(bytes(text), Some(expected), "{text}");
        }
        for text in ["", "64", "64KB", "64k", "KiB", "-1KiB", "1.5MiB", "99999999999GiB"] {
            assert_eq!(bytes(text), None, "{text}");
        }
    }

    #[test]
    fn percentages_have_a_percent_sign() {
        let share = |text| parse_percent(text).map(|percent| percent.0);
        for (text, expected) in [("0%", 0.0), ("20%", 0.2), ("12.5%", 0.125), ("100 %", 1.0), ("150%", 1.5)] {
            assert_eq!(share(text), Some(expected), "{text}");
        }
        for text in ["", "%", "50", "0.5", "-5%", "1e2%", "nan%", "inf%", "."] {
            assert_eq!(share(text), None, "{text}");
        }
    }

    #[test]
    fn quantities_are_shown_as_they_are_written() {
        let seconds = Duration::from_secs;
        assert_eq!(seconds(7 * 86_400).written(), "\"7d\"");
        assert_eq!(seconds(90).written(), "\"90s\"");
        assert_eq!(Duration::from_millis(1500).written(), "\"1500ms\"");
        assert_eq!(Duration::ZERO.written(), "\"0s\"");
        assert_eq!(Size(65_536).written(), "\"64KiB\"");
        assert_eq!(Size(0).written(), "\"0B\"");
        assert_eq!(Percent(0.07).written(), "\"7%\"");
        assert_eq!(100.written(), "100");
    }
}
