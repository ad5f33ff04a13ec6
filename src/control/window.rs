//! What was counted in the last seconds, out of counters that only grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::pool::TargetLane;
use crate::pool::counters::{Counter, Lanes};

/// Counts of one target or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent.
    pub requests: u64,
    /// Of these, those answered with 500 to 599 or not at all.
    pub failures: u64,
    /// Answers.
    pub answers: u64,
    /// Sum of their times to the first byte, in microseconds.
    pub first_byte_us: u64,
}

impl Tally {
    /// What the workers have counted of a target since it is known.
    pub fn ever(lanes: &Lanes<TargetLane>) -> Self {
        let mut tally = Self::default();
        for lane in lanes.iter() {
            let failed: u64 = lane.failures.iter().map(Counter::get).sum();
            tally.requests += lane.attempts.get();
            tally.failures += failed + lane.responses[4].get();
            tally.answers += lane.responses[1..].iter().map(Counter::get).sum::<u64>();
            tally.first_byte_us += lane.first_byte.sum_us();
        }
        tally
    }

    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
            answers: self.answers + other.answers,
            first_byte_us: self.first_byte_us + other.first_byte_us,
        }
    }

    /// This without `other`, which is a part of it.
    pub fn minus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(other.requests),
            failures: self.failures.saturating_sub(other.failures),
            answers: self.answers.saturating_sub(other.answers),
            first_byte_us: self.first_byte_us.saturating_sub(other.first_byte_us),
        }
    }

    /// Requests that were answered well, at the least: failures without an answer count against them too.
    pub fn succeeded(self) -> u64 {
        self.answers.saturating_sub(self.failures)
    }

    /// Share of failed requests (0.0 to 1.0) among those that have ended.
    pub fn failure_share(self) -> f64 {
        // A 5xx is an answer and a failure: what has ended is at most what was sent.
        if self.requests == 0 { 0.0 } else { (self.failures as f64 / self.requests as f64).min(1.0) }
    }

    /// Mean time to the first byte, in milliseconds.
    pub fn mean_ms(self) -> f64 {
        if self.answers == 0 { 0.0 } else { self.first_byte_us as f64 / self.answers as f64 / 1000.0 }
    }
}

/// Time between two samples.
pub const STEP: Duration = Duration::from_secs(1);

/// Samples of one target's counters, oldest first.
#[derive(Debug, Default)]
pub struct Window(VecDeque<(Instant, Tally)>);

impl Window {
    /// Keeps a sample, and forgets those that are more than `span` old, but for the youngest of them.
    pub fn keep(&mut self, now: Instant, ever: Tally, span: Duration) {
        self.0.push_back((now, ever));
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= span) {
            self.0.pop_front();
        }
    }

    /// What was counted in the last `span`, to within a [`STEP`], the present count being `ever`. Before the first sample
    /// nothing counts.
    pub fn over(&self, now: Instant, ever: Tally, span: Duration) -> Tally {
        let since = self.0.iter().find(|(at, _)| now.duration_since(*at) <= span + STEP);
        since.map_or_else(Tally::default, |(_, then)| ever.minus(*then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_window_counts() {
        let (start, span) = (Instant::now(), Duration::from_secs(3));
        let of = |requests| Tally { requests, ..Tally::default() };
        let mut window = Window::default();
        assert_eq!(window.over(start, of(7), span), Tally::default());
        for second in 0..10u64 {
            window.keep(start + Duration::from_secs(second), of(second * 10), span);
        }
        let now = start + Duration::from_secs(9);
        assert_eq!(window.over(now, of(95), span), of(35));
        assert_eq!(window.over(now, of(95), Duration::from_secs(1)), of(25));
    }
}
