//! How long answers took, by what was asked for: counted by the millisecond. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is longer counts as this, in milliseconds.
const MOST_MS: usize = 10_000;

/// Answers by how long they took.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Times {
    /// How many took so many milliseconds, rounded up.
    by_ms: Vec<u32>,
}

impl Times {
    /// Counts one answer.
    pub(crate) fn note(&mut self, took: Duration) {
        let ms = (took.as_micros().div_ceil(1000) as usize).min(MOST_MS);
        if self.by_ms.len() <= ms {
            self.by_ms.resize(ms + 1, 0);
        }
        self.by_ms[ms] += 1;
    }

    pub(crate) fn count(&self) -> u64 {
        self.by_ms.iter().map(|count| u64::from(*count)).sum()
    }

    /// The time within which this share of the answers came, in milliseconds.
    pub(crate) fn within(&self, share: f64) -> usize {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut counted = 0;
        let reached = self.by_ms.iter().position(|count| {
            counted += u64::from(*count);
            counted >= wanted
        });
        reached.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_answers_came_within_the_time_that_is_told() {
        let mut times = Times::default();
        assert_eq!((times.count(), times.within(0.99)), (0, 0));
        for ms in 1..=100 {
            times.note(Duration::from_millis(ms));
        }
        assert_eq!((times.count(), times.within(0.5), times.within(0.99)), (100, 50, 99));
        times.note(Duration::from_micros(100_001));
        assert_eq!(times.within(1.0), 101, "rounded up");
        times.note(Duration::from_secs(3600));
        assert_eq!(times.within(1.0), MOST_MS);
    }
}
