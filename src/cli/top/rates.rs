//! Counts that become rates: per second, over the last seconds. Pure; the node's own clock says when.

use std::collections::{HashMap, VecDeque};

/// Seconds over which a rate is taken.
const WINDOW: f64 = 5.0;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Rates {
    uptime: f64,
    counts: HashMap<String, VecDeque<(f64, u64)>>,
}

impl Rates {
    /// The counts to come are those of this moment of the node's life, in seconds; a node that was started anew counts anew.
    pub(super) fn at(&mut self, uptime: f64) {
        if uptime < self.uptime {
            self.counts.clear();
        }
        self.uptime = uptime;
        self.counts.retain(|_, points| points.back().is_some_and(|(at, _)| uptime - at <= WINDOW));
    }

    /// Notes a count.
    pub(super) fn note(&mut self, key: &str, count: u64) {
        let points = self.counts.entry(key.to_owned()).or_default();
        points.push_back((self.uptime, count));
        while points.len() > 2 && self.uptime - points[0].0 > WINDOW {
            points.pop_front();
        }
    }

    /// What was noted under `key`, per second; `None` before there are two counts.
    pub(super) fn of(&self, key: &str) -> Option<f64> {
        let points = self.counts.get(key)?;
        let (&(since, before), &(at, count)) = (points.front()?, points.back()?);
        (at > since).then(|| count.saturating_sub(before) as f64 / (at - since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_last_seconds_and_begins_anew_with_the_node() {
        let mut rates = Rates::default();
        for (second, count) in [(1.0, 10), (2.0, 20), (9.0, 30), (10.0, 50)] {
            rates.at(second);
            rates.note("shop", count);
        }
        assert_eq!(rates.of("shop"), Some(20.0), "what is old does not count");
        assert_eq!(rates.of("other"), None);
        rates.at(0.5);
        rates.note("shop", 1);
        assert_eq!(rates.of("shop"), None);
    }
}
