//! How many instances the load needs: target tracking on requests for each instance. Pure.
//!
//! More are started as soon as the mean of the window is above the target, then not again before the cooldown is over: what was
//! started must have time to take its share. Fewer are kept only when a tenth of room would be left and that has
//! been so for the whole cooldown, so that a load that swings does not make the group swing. Without figures from
//! the balancer nothing is scaled in.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Part of the target that the load of a smaller group must not exceed.
const ROOM: f64 = 0.9;

/// When to have more or fewer instances.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Policy {
    /// Requests a second that one instance should get.
    pub(crate) target: f64,
    /// The mean of this time counts.
    pub(crate) window: Duration,
    /// After any change, nothing is added for this long.
    pub(crate) out_cooldown: Duration,
    /// Nothing is taken away before less has been enough for this long.
    pub(crate) in_cooldown: Duration,
}

/// What was measured lately.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    /// Requests that came between the entry before and this moment.
    counts: VecDeque<(Instant, u64)>,
    changed: Option<Instant>,
    less_is_enough_since: Option<Instant>,
}

impl Tracker {
    /// Notes that `requests` have come since the last note; `None` when nobody could tell.
    pub(crate) fn record(&mut self, now: Instant, requests: Option<u64>, policy: &Policy) {
        match requests {
            Some(requests) => self.counts.push_back((now, requests)),
            None => {
                self.counts.clear();
                self.less_is_enough_since = None;
            }
        }
        // One entry from before the window says where the first one in it begins.
        while self.counts.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= policy.window) {
            self.counts.pop_front();
        }
    }

    /// Requests a second of all instances together; `None` before a window has been measured.
    pub(crate) fn rate(&self, now: Instant, policy: &Policy) -> Option<f64> {
        let (start, _) = self.counts.front()?;
        let (end, _) = self.counts.back()?;
        if now.duration_since(*start) < policy.window {
            return None;
        }
        let requests: u64 = self.counts.iter().skip(1).map(|(_, count)| count).sum();
        let seconds = end.duration_since(*start).as_secs_f64();
        (seconds > 0.0).then(|| requests as f64 / seconds)
    }

    /// What the group's number should become, if it is not `desired`; never outside of `bounds`.
    pub(crate) fn decide(
        &mut self,
        now: Instant,
        desired: usize,
        bounds: std::ops::RangeInclusive<usize>,
        policy: &Policy,
    ) -> Option<usize> {
        let rate = self.rate(now, policy)?;
        let bounded = |needed: f64| (needed.ceil() as usize).clamp(*bounds.start(), *bounds.end());
        let needed = bounded(rate / policy.target);
        let fewer = bounded(rate / (policy.target * ROOM));
        let rested = |pause| self.changed.is_none_or(|at| now.duration_since(at) >= pause);
        if fewer >= desired {
            self.less_is_enough_since = None;
        }
        let next = if needed > desired {
            rested(policy.out_cooldown).then_some(needed)?
        } else if fewer < desired {
            let since = *self.less_is_enough_since.get_or_insert(now);
            let long_enough = now.duration_since(since) >= policy.in_cooldown;
            (long_enough && rested(policy.in_cooldown)).then_some(fewer)?
        } else {
            return None;
        };
        self.changed = Some(now);
        self.less_is_enough_since = None;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: Policy = Policy {
        target: 10.0,
        window: Duration::from_secs(5),
        out_cooldown: Duration::from_secs(20),
        in_cooldown: Duration::from_secs(60),
    };

    /// Seconds and requests in each of them; what was decided when.
    fn run(desired: usize, load: impl IntoIterator<Item = Option<u64>>) -> Vec<(usize, usize)> {
        let start = Instant::now();
        let (mut tracker, mut desired, mut decided) = (Tracker::default(), desired, Vec::new());
        for (second, requests) in load.into_iter().enumerate() {
            let now = start + SECOND * second as u32;
            tracker.record(now, requests, &POLICY);
            if let Some(next) = tracker.decide(now, desired, 3..=12, &POLICY) {
                decided.push((second, next));
                desired = next;
            }
        }
        decided
    }

    #[test]
    fn the_group_grows_with_the_load_after_one_window_and_then_once_in_a_cooldown() {
        assert_eq!(run(6, [Some(60); 100]), []);
        assert_eq!(run(6, [Some(71); 100]), [(5, 8)]);
        let rising = (0..60).map(|second| Some(if second < 10 { 80 } else { 110 }));
        assert_eq!(run(6, rising), [(5, 8), (25, 11)]);
    }

    #[test]
    fn the_group_shrinks_when_less_has_been_enough_for_the_whole_cooldown() {
        assert_eq!(run(9, [Some(50); 100]), [(65, 6)]);
        assert_eq!(run(6, [Some(55); 200]), [], "five could carry only fifty, and a tenth of room is wanted");
        let with_a_peak = (0..120).map(|second| Some(if second == 40 { 120 } else { 40 }));
        assert_eq!(run(7, with_a_peak), [(105, 5)], "the peak begins the time anew");
    }

    #[test]
    fn it_stays_within_its_bounds() {
        assert_eq!(run(6, [Some(900); 100]), [(5, 12)]);
        assert_eq!(run(6, [Some(0); 100]), [(65, 3)]);
    }

    #[test]
    fn without_figures_nothing_is_decided() {
        assert_eq!(run(9, [None; 200]), []);
        let with_a_gap = (0..120).map(|second| (second != 50).then_some(50));
        assert_eq!(run(9, with_a_gap), [(116, 6)], "a window and a cooldown after the gap");
    }
}
