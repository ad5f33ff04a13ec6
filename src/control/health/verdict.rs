//! When checks make a target healthy or unhealthy: counting in a row, and nothing else.
//!
//! Not obvious: a new target needs one pass only, so that a pool is in service after one round of checks; its failures
//! count as those of any other, so that one lost packet does not brand it.

use crate::config;
use crate::pool::HealthState;

/// What the checks of one target have come to.
#[derive(Debug, Clone)]
pub struct Checks {
    state: HealthState,
    /// Passes since the last failure.
    passes: u32,
    /// Failures since the last pass.
    failures: u32,
}

/// A target changed its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition {
    /// Before.
    pub from: HealthState,
    /// After.
    pub to: HealthState,
    /// Checks in a row with the result that led here.
    pub consecutive: u32,
}

impl Checks {
    /// A target nobody has checked; healthy at once if checks are off.
    pub fn new(rules: &config::Health) -> Self {
        let state = if rules.enabled { HealthState::Initial } else { HealthState::Healthy };
        Self { state, passes: 0, failures: 0 }
    }

    /// What another process has found.
    pub fn inherited(state: HealthState, passes: u32, failures: u32) -> Self {
        Self { state, passes, failures }
    }

    /// Checks in a row that passed, and that failed: one of them is 0.
    pub fn in_a_row(&self) -> (u32, u32) {
        (self.passes, self.failures)
    }

    /// Goes on under other rules. What was found stays; without checks, every target is healthy.
    pub fn adopt(&mut self, rules: &config::Health) {
        if !rules.enabled {
            *self = Self::new(rules);
        }
    }

    /// What the checks say now.
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// Whether it is unhealthy, and its last check has passed.
    pub fn is_recovering(&self) -> bool {
        self.state == HealthState::Unhealthy && self.passes > 0
    }

    /// Checks in a row with the same result as the last one.
    pub fn consecutive(&self) -> u32 {
        self.passes.max(self.failures)
    }

    /// Takes the result of one more check.
    pub fn observe(&mut self, passed: bool, rules: &config::Health) -> Option<Transition> {
        if passed {
            (self.passes, self.failures) = (self.passes.saturating_add(1), 0);
        } else {
            (self.passes, self.failures) = (0, self.failures.saturating_add(1));
        }
        let to = match self.state {
            HealthState::Initial if passed => HealthState::Healthy,
            HealthState::Unhealthy if self.passes >= rules.healthy => HealthState::Healthy,
            HealthState::Initial | HealthState::Healthy if self.failures >= rules.unhealthy.max(1) => {
                HealthState::Unhealthy
            }
            unchanged => unchanged,
        };
        let from = std::mem::replace(&mut self.state, to);
        (from != to).then_some(Transition { from, to, consecutive: self.consecutive() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use HealthState::{Healthy, Initial, Unhealthy};

    use super::*;

    fn rules(healthy: u32, unhealthy: u32) -> config::Health {
        config::Health {
            proxy_protocol: false,
            enabled: true,
            probe: config::Probe::Tcp,
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            healthy,
            unhealthy,
            port: None,
            drain: config::HealthDrain::Header,
        }
    }

    /// States after each check; `+` is a pass.
    fn states(rules: &config::Health, results: &str) -> Vec<HealthState> {
        let mut checks = Checks::new(rules);
        results
            .chars()
            .map(|result| {
                checks.observe(result == '+', rules);
                checks.state()
            })
            .collect()
    }

    #[test]
    fn the_first_pass_makes_a_new_target_healthy() {
        assert_eq!(states(&rules(3, 2), "+"), [Healthy]);
        assert_eq!(states(&rules(3, 2), "-+"), [Initial, Healthy]);
    }

    #[test]
    fn a_new_target_is_given_as_many_failures_as_any_other() {
        assert_eq!(states(&rules(2, 3), "---"), [Initial, Initial, Unhealthy]);
    }

    #[test]
    fn only_failures_in_a_row_make_a_target_unhealthy() {
        assert_eq!(states(&rules(1, 2), "+-+--")[2..], [Healthy, Healthy, Unhealthy]);
    }

    #[test]
    fn only_passes_in_a_row_bring_a_target_back() {
        assert_eq!(states(&rules(2, 1), "-+-++")[1..], [Unhealthy, Unhealthy, Unhealthy, Healthy]);
    }

    #[test]
    fn a_target_recovers_while_its_last_check_has_passed() {
        let rules = rules(2, 1);
        let mut checks = Checks::new(&rules);
        let mut recovering = |passed| {
            checks.observe(passed, &rules);
            checks.is_recovering()
        };
        assert_eq!([false, true, false, true, true].map(&mut recovering), [false, true, false, true, false]);
    }

    #[test]
    fn a_transition_is_reported_once_with_its_numbers() {
        let rules = rules(2, 2);
        let mut checks = Checks::new(&rules);
        let seen: Vec<_> = [true, false, false, false, true, true, true]
            .into_iter()
            .filter_map(|passed| checks.observe(passed, &rules))
            .collect();
        assert_eq!(
            seen,
            [
                Transition { from: Initial, to: Healthy, consecutive: 1 },
                Transition { from: Healthy, to: Unhealthy, consecutive: 2 },
                Transition { from: Unhealthy, to: Healthy, consecutive: 2 },
            ]
        );
    }

    #[test]
    fn without_checks_every_target_is_healthy() {
        let rules = config::Health { enabled: false, ..rules(2, 2) };
        assert_eq!(Checks::new(&rules).state(), Healthy);
    }
}
