//! Durations of the last minute, out of histograms that only grow.
//!
//! A copy is taken every ten seconds and the present is compared with the copy of a minute ago, so that the API shows
//! what is, not what was at breakfast. Nothing on a request's path knows of it.

use std::collections::VecDeque;
use std::time::Duration;

use crate::pool::counters::Distribution;

/// Time between two copies.
pub const STEP: Duration = Duration::from_secs(10);

/// Copies kept: together with the present they span a minute.
const COPIES: usize = 6;

/// Copies of one distribution, oldest first; never empty.
pub struct Recent(VecDeque<Distribution>);

impl Default for Recent {
    /// Before the first copy, everything counts as recent.
    fn default() -> Self {
        Self(VecDeque::from([Distribution::default()]))
    }
}

impl Recent {
    /// Of what has been counted before it is watched, nothing is recent.
    pub fn after(ever: Distribution) -> Self {
        Self(VecDeque::from([ever]))
    }

    /// Keeps a copy; called once every [`STEP`].
    pub fn keep(&mut self, now: Distribution) {
        if self.0.len() == COPIES {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// What was counted in the last minute, the present being `now`.
    pub fn of(&self, now: &Distribution) -> Distribution {
        self.0.front().map_or_else(|| now.clone(), |then| now.since(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Histogram;

    #[test]
    fn what_happened_more_than_a_minute_ago_is_forgotten() {
        let histogram = Histogram::default();
        let now = || {
            let mut sum = Distribution::default();
            histogram.add_to(&mut sum);
            sum
        };
        let mut recent = Recent::default();
        histogram.record(Duration::from_millis(900));
        for _ in 1..COPIES {
            recent.keep(now());
            assert_eq!(recent.of(&now()).count(), 1);
        }
        recent.keep(now());
        assert_eq!(recent.of(&now()).count(), 0);
        histogram.record(Duration::from_millis(3));
        let median = recent.of(&now()).quantile(0.5).unwrap();
        assert!(median < Duration::from_millis(4), "{median:?}");
    }
}
