//! How many retries a pool can afford. Pure but for its own counts; nobody comes here unless a retry is wanted.
//!
//! A retry is allowed while retries in flight stay below a share of the requests in flight (or a small minimum), or retries
//! of the last ten seconds below the same share of that time's requests. The first keeps a slow pool from being asked
//! ever more often. The second is what a lost zone needs: a third of all requests fails in the same moment, and to try
//! them all again once is no storm.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::config;

/// How far back the second rule looks.
const WINDOW: Duration = Duration::from_secs(10);

/// The budget of one pool.
#[derive(Debug)]
pub struct Budget {
    in_flight: AtomicU32,
    spent: AtomicU64,
    /// Requests and retries ever, as of some moments of the last ten seconds, oldest first.
    marks: Mutex<VecDeque<Mark>>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    at: Instant,
    requests: u64,
    spent: u64,
}

impl Budget {
    /// A budget of which nothing is spent.
    pub fn new(now: Instant) -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            spent: AtomicU64::new(0),
            marks: Mutex::new([Mark { at: now, requests: 0, spent: 0 }].into()),
        }
    }

    /// Remembers how many requests there have been by `now`. To be called about once a second.
    pub fn mark(&self, now: Instant, requests: u64) {
        let Ok(mut marks) = self.marks.lock() else { return };
        marks.push_back(Mark { at: now, requests, spent: self.spent.load(Relaxed) });
        // The oldest one kept is the youngest that is out of the window.
        while marks.get(1).is_some_and(|second| now.duration_since(second.at) >= WINDOW) {
            marks.pop_front();
        }
    }

    /// Whether one more retry is allowed by `rules`, given the requests in flight and those ever begun. If so it counts until
    /// [`Budget::end`].
    pub fn begin(&self, rules: &config::Retry, live: u64, requests: u64) -> bool {
        let of = |count: u64| (count as f64 * rules.budget) as u64;
        let in_flight = u64::from(self.in_flight.load(Relaxed));
        let allowed =
            in_flight < of(live).max(u64::from(rules.budget_min)) || self.is_within_window(requests, of);
        if allowed {
            self.in_flight.fetch_add(1, Relaxed);
            self.spent.fetch_add(1, Relaxed);
        }
        allowed
    }

    fn is_within_window(&self, requests: u64, of: impl Fn(u64) -> u64) -> bool {
        let Ok(marks) = self.marks.lock() else { return false };
        let Some(oldest) = marks.front() else { return false };
        let spent = self.spent.load(Relaxed).saturating_sub(oldest.spent);
        spent < of(requests.saturating_sub(oldest.requests))
    }

    /// A retry is over.
    pub fn end(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    /// Retries in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(budget: &Budget, live: u64, requests: u64) -> usize {
        let rules =
            config::Retry { attempts: 3, budget: 0.2, budget_min: 3, max_body: 0, statuses: Vec::new() };
        (0..1000).take_while(|_| budget.begin(&rules, live, requests)).count()
    }

    #[test]
    fn a_quiet_pool_may_always_retry_a_little() {
        assert_eq!(allowed(&Budget::new(Instant::now()), 4, 4), 3);
    }

    #[test]
    fn a_busy_pool_may_retry_a_share_of_what_is_in_flight() {
        assert_eq!(allowed(&Budget::new(Instant::now()), 100, 100), 20);
    }

    #[test]
    fn a_lost_zone_can_be_tried_again_once_but_not_for_ever() {
        let start = Instant::now();
        let budget = Budget::new(start);
        for second in 1..=20 {
            budget.mark(start + Duration::from_secs(second), second * 100);
        }
        assert_eq!(allowed(&budget, 50, 2000), 200, "a fifth of the last ten seconds' thousand requests");
        assert_eq!(allowed(&budget, 50, 2000), 0, "and no more");
        for second in 21..=31 {
            budget.mark(start + Duration::from_secs(second), 2000 + second);
        }
        assert_eq!(
            allowed(&budget, 50, 2040),
            3,
            "a fifth of the few requests since, while the others are in flight"
        );
        (0..203).for_each(|_| budget.end());
        assert_eq!(allowed(&budget, 50, 2040), 10, "a fifth of what is in flight");
    }
}
