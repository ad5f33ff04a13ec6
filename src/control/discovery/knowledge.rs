//! What is known of a name, and when it is asked again. Pure.
//!
//! A good answer replaces what was known. Silence and refusal never do: the last good answer is kept for as long as they
//! last. The answer that there is nothing is believed only after a while, because name servers give it by mistake when
//! they start, lose their data or are replaced.

use std::time::{Duration, Instant};

use super::resolver::Lack;
use crate::config::Discover;
use crate::control::sources::Listed;

/// The wait after the first of several lookups that brought nothing; each further wait is twice as long.
const RETRY_MIN: Duration = Duration::from_millis(250);

/// The longest of these waits.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What a lookup brought: the targets, sorted and at least one, and how long they may be kept.
pub(super) type Outcome = Result<(Vec<Listed>, Duration), Lack>;

/// What follows from a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    /// The targets from now on; `None` leaves them as they are.
    pub list: Option<Vec<Listed>>,
    /// Until the name is asked again.
    pub wait: Duration,
}

/// What is known of a name.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    /// Whether there is a good answer that counts.
    good: bool,
    /// Since when there is said to be nothing.
    absent_since: Option<Instant>,
    /// Lookups in a row that brought nothing.
    misses: u32,
}

impl Knowledge {
    /// Of a name whose targets are known from before if `good`.
    pub(super) fn from_before(good: bool) -> Self {
        Self { good, ..Self::default() }
    }

    /// Takes what a lookup brought at `now`; `unit` is random, from 0.0 to 1.0.
    pub(super) fn take(&mut self, outcome: Outcome, now: Instant, rules: &Discover, unit: f64) -> Decision {
        let lack = match outcome {
            Ok((list, ttl)) => {
                *self = Self { good: true, ..Self::default() };
                let wait = ttl.clamp(rules.min_ttl, rules.max_ttl);
                return Decision { list: Some(list), wait: lengthened(wait, unit) };
            }
            Err(lack) => lack,
        };
        let wait = lengthened(retry_wait(rules, self.misses), unit);
        self.misses = self.misses.saturating_add(1);
        if matches!(lack, Lack::Failed(_)) {
            return Decision { list: None, wait };
        }
        let believed = *self.absent_since.get_or_insert(now) + rules.hold;
        if self.good && now < believed {
            return Decision { list: None, wait: wait.min(believed - now) };
        }
        self.good = false;
        Decision { list: Some(Vec::new()), wait }
    }

    /// Since when there is said to be nothing, if that is not believed yet.
    pub(super) fn doubted_since(&self) -> Option<Instant> {
        self.absent_since.filter(|_| self.good)
    }
}

/// `wait` and up to a tenth more, so that nodes do not ask in step: never less, as a name server that keeps the answer would
/// give the same again.
fn lengthened(wait: Duration, unit: f64) -> Duration {
    wait.mul_f64(1.0 + unit / 10.0)
}

/// The wait after a lookup that brought nothing, as `misses` before it did.
fn retry_wait(rules: &Discover, misses: u32) -> Duration {
    let most = rules.max_ttl.min(RETRY_MAX).max(rules.min_ttl);
    rules.min_ttl.min(RETRY_MIN).saturating_mul(1 << misses.min(16)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Records, ZoneOf};
    use crate::control::discovery::resolver::{Failure, FailureKind};

    fn rules() -> Discover {
        Discover {
            dns: "shop".into(),
            records: Records::Srv,
            zone: ZoneOf::Label,
            weight: None,
            max_connections: None,
            min_ttl: secs(1),
            max_ttl: secs(300),
            hold: secs(30),
        }
    }

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn found(ttl: u64) -> Outcome {
        Ok((list(), secs(ttl)))
    }

    fn list() -> Vec<Listed> {
        let address = "127.0.0.1:1".parse().unwrap();
        vec![Listed { zone: "-".into(), address, weight: 1, max_connections: None, priority: 0 }]
    }

    fn failed() -> Outcome {
        Err(Lack::Failed(Failure { kind: FailureKind::Timeout, what: String::new() }))
    }

    #[test]
    fn a_good_answer_counts_for_its_ttl_within_limits_and_a_tenth() {
        let mut knowledge = Knowledge::default();
        let now = Instant::now();
        for (ttl, unit, wait) in
            [(20, 0.0, secs(20)), (20, 1.0, secs(22)), (0, 0.0, secs(1)), (9000, 0.0, secs(300))]
        {
            let decision = knowledge.take(found(ttl), now, &rules(), unit);
            assert_eq!(decision, Decision { list: Some(list()), wait });
        }
    }

    #[test]
    fn failures_never_end_what_is_known_and_are_repeated_ever_more_slowly() {
        let mut knowledge = Knowledge::default();
        let mut now = Instant::now();
        knowledge.take(found(5), now, &rules(), 0.0);
        let waits = [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000].map(Duration::from_millis);
        for wait in waits {
            now += secs(100_000);
            assert_eq!(knowledge.take(failed(), now, &rules(), 0.0), Decision { list: None, wait });
        }
        assert_eq!(knowledge.take(found(5), now, &rules(), 0.0).wait, secs(5));
        assert_eq!(knowledge.take(failed(), now, &rules(), 0.0).wait, waits[0]);
    }

    #[test]
    fn that_there_is_nothing_is_believed_after_the_hold_and_not_a_moment_later() {
        for lack in [Lack::NoName, Lack::Empty] {
            let mut knowledge = Knowledge::default();
            let start = Instant::now();
            knowledge.take(found(5), start, &rules(), 0.0);
            let mut now = start;
            loop {
                let decision = knowledge.take(Err(lack.clone()), now, &rules(), 0.0);
                if let Some(list) = decision.list {
                    assert_eq!((list, now - start), (vec![], secs(30)));
                    break;
                }
                assert_eq!(knowledge.doubted_since(), Some(start));
                now += decision.wait;
            }
            assert_eq!(knowledge.doubted_since(), None);
        }
    }

    #[test]
    fn failures_in_between_do_not_put_off_belief_and_a_good_answer_does() {
        let mut knowledge = Knowledge::default();
        let start = Instant::now();
        knowledge.take(found(5), start, &rules(), 0.0);
        knowledge.take(Err(Lack::NoName), start, &rules(), 0.0);
        assert_eq!(knowledge.take(failed(), start + secs(31), &rules(), 0.0).list, None);
        assert_eq!(knowledge.take(Err(Lack::Empty), start + secs(31), &rules(), 0.0).list, Some(vec![]));
        knowledge.take(found(5), start, &rules(), 0.0);
        knowledge.take(Err(Lack::NoName), start, &rules(), 0.0);
        knowledge.take(found(5), start + secs(29), &rules(), 0.0);
        assert_eq!(knowledge.take(Err(Lack::NoName), start + secs(31), &rules(), 0.0).list, None);
    }

    #[test]
    fn a_name_of_which_nothing_was_ever_known_has_nothing_at_once() {
        let decision = Knowledge::default().take(Err(Lack::NoName), Instant::now(), &rules(), 0.0);
        assert_eq!(decision, Decision { list: Some(vec![]), wait: RETRY_MIN });
    }
}
