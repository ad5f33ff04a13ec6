//! How a target leaves on purpose: since when, by whose wish, and when it may be switched off. Pure.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::inheritance::{ago, millis};
use crate::pool::AdminState;

/// The wishes that concern one target.
#[derive(Debug, Clone, Default)]
pub struct Drain {
    /// The target has asked for it by its answer to a check.
    asked: bool,
    since: Option<Instant>,
    /// Set by the operator for this drain; else the pool's.
    deadline: Option<Duration>,
}

/// A [`Drain`] as it is left to another process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Left {
    asked: bool,
    since_ms: Option<u64>,
    deadline_ms: Option<u64>,
}

impl Drain {
    /// What it is at `now`, for another process.
    pub fn leave(&self, now: Instant) -> Left {
        Left {
            asked: self.asked,
            since_ms: self.since.map(|since| millis(now.saturating_duration_since(since))),
            deadline_ms: self.deadline.map(millis),
        }
    }

    /// What another process has left.
    pub fn inherit(left: &Left, now: Instant) -> Self {
        Self {
            asked: left.asked,
            since: left.since_ms.map(|ms| ago(now, ms)),
            deadline: left.deadline_ms.map(Duration::from_millis),
        }
    }

    /// Notes what operator and target wish, as of `now`.
    pub fn wish(&mut self, admin: AdminState, asked: bool, deadline: Option<Duration>, now: Instant) {
        self.asked = asked;
        match admin == AdminState::Drain || (admin == AdminState::Up && asked) {
            true if self.since.is_none() => (self.since, self.deadline) = (Some(now), deadline),
            true => self.deadline = deadline.or(self.deadline),
            false => *self = Self { asked, ..Self::default() },
        }
    }

    /// Whether the target has asked for it itself.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// Since when it drains.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// When its bound sessions have to leave; `None` if it does not drain.
    pub fn ends_at(&self, default: Duration) -> Option<Instant> {
        Some(self.since? + self.deadline.unwrap_or(default))
    }

    /// What the operator says, with the wish of the target and the deadline taken into account.
    pub fn state(&self, admin: AdminState, default: Duration, now: Instant) -> AdminState {
        match (admin, self.ends_at(default)) {
            (AdminState::Down, _) | (_, None) => admin,
            (_, Some(end)) if now >= end => AdminState::Drained,
            (_, Some(_)) => AdminState::Drain,
        }
    }
}

/// Whether nothing is lost when a target that has been draining for `drained` is switched off. `quiet_for` is the time since a
/// session of its was seen, if ever one was.
pub fn is_safe(
    in_flight: u32,
    over: bool,
    drained: Duration,
    quiet_for: Option<Duration>,
    quiet: Duration,
) -> bool {
    in_flight == 0 && (over || (drained >= quiet && quiet_for.is_none_or(|quiet_for| quiet_for >= quiet)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_has_a_deadline_and_begins_once() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut drain = Drain::default();
        assert_eq!(drain.state(AdminState::Up, second * 300, start), AdminState::Up);
        drain.wish(AdminState::Drain, false, None, start);
        drain.wish(AdminState::Drain, true, None, start + second * 200);
        assert_eq!(drain.state(AdminState::Drain, second * 300, start + second * 299), AdminState::Drain);
        assert_eq!(drain.state(AdminState::Drain, second * 300, start + second * 300), AdminState::Drained);
        drain.wish(AdminState::Up, true, None, start + second * 400);
        assert_eq!(drain.since(), Some(start), "the target still asks for it");
        drain.wish(AdminState::Up, false, None, start + second * 500);
        assert_eq!(drain.state(AdminState::Up, second * 300, start + second * 500), AdminState::Up);
    }

    #[test]
    fn the_operator_may_give_more_or_less_time() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut drain = Drain::default();
        drain.wish(AdminState::Drain, false, Some(second * 5), start);
        assert_eq!(drain.ends_at(second * 300), Some(start + second * 5));
    }

    #[test]
    fn a_target_is_safe_to_remove_when_its_sessions_are_gone_or_quiet() {
        let second = Duration::from_secs(1);
        assert!(!is_safe(1, true, second * 900, None, second * 60));
        assert!(is_safe(0, true, second, Some(second), second * 60));
        assert!(!is_safe(0, false, second * 100, Some(second * 59), second * 60));
        assert!(is_safe(0, false, second * 100, Some(second * 60), second * 60));
        assert!(!is_safe(0, false, second * 59, None, second * 60), "a session may be between two requests");
    }
}
