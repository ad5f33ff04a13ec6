//! Whether any target of a name can still be reached. Pure.
//!
//! Traffic tells first: a target whose connections fail, and which has answered nothing since, fails. So does one that
//! failed its last check. When all of a name's targets fail, its records may be out of date, whatever their TTL.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::pool::TargetId;

/// Longest wait between two lookups for this reason.
const GAP_MAX: Duration = Duration::from_secs(30);

/// What can be seen of one target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight {
    /// Whose.
    pub id: TargetId,
    /// Connections ever that could not be opened.
    pub unconnected: u64,
    /// Answers ever.
    pub answers: u64,
    /// Whether the last check failed.
    pub check_failed: bool,
}

/// What was seen of a name's targets, and when that made it be asked again.
#[derive(Debug, Default)]
pub(super) struct Reach {
    seen: HashMap<TargetId, Seen>,
    asked: Option<Instant>,
    /// Times in a row that it was asked for this reason.
    again: u32,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    unconnected: u64,
    answers: u64,
    unreachable: bool,
}

impl Reach {
    /// Looks at the targets of a name; true when it should be asked again now: at once when the last of them begins to
    /// fail, then after `gap` (its shortest TTL), twice that, and so on.
    pub(super) fn is_lost(
        &mut self,
        targets: impl Iterator<Item = Sight>,
        now: Instant,
        gap: Duration,
    ) -> bool {
        let before = std::mem::take(&mut self.seen);
        let (mut targets_seen, mut all_fail) = (false, true);
        for sight in targets {
            let Sight { id, unconnected, answers, check_failed } = sight;
            let unreachable = match before.get(&id) {
                Some(seen) if seen.answers != answers => false,
                Some(seen) => seen.unreachable || seen.unconnected != unconnected,
                None => false,
            };
            self.seen.insert(id, Seen { unconnected, answers, unreachable });
            targets_seen = true;
            all_fail &= unreachable || check_failed;
        }
        if !(targets_seen && all_fail) {
            self.again = 0;
            return false;
        }
        let wait = gap.saturating_mul(1 << self.again.saturating_sub(1).min(16)).min(GAP_MAX.max(gap));
        let due = self.asked.is_none_or(|asked| asked + wait <= now);
        if due {
            (self.asked, self.again) = (Some(now), self.again + 1);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(1);

    fn sight(id: u64, unconnected: u64, answers: u64, check_failed: bool) -> Sight {
        Sight { id: TargetId(id), unconnected, answers, check_failed }
    }

    #[test]
    fn a_name_is_lost_when_the_last_of_its_targets_fails() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        let mut look = |targets: &[Sight]| reach.is_lost(targets.iter().copied(), now, GAP);
        assert!(!look(&[]));
        assert!(!look(&[sight(1, 5, 9, false), sight(2, 5, 9, false)]), "what was before counts for nothing");
        assert!(!look(&[sight(1, 6, 9, false), sight(2, 5, 9, false)]));
        assert!(!look(&[sight(1, 6, 9, false), sight(2, 7, 10, false)]), "one of them has answered");
        assert!(look(&[sight(1, 6, 9, false), sight(2, 8, 10, false)]));
    }

    #[test]
    fn checks_tell_when_there_is_no_traffic() {
        let (mut reach, now) = (Reach::default(), Instant::now());
        let mut look = |targets: &[Sight]| reach.is_lost(targets.iter().copied(), now, GAP);
        assert!(!look(&[sight(1, 0, 0, true), sight(2, 0, 0, false)]));
        assert!(look(&[sight(1, 0, 0, true), sight(2, 0, 0, true)]));
    }

    #[test]
    fn a_name_that_stays_lost_is_asked_ever_more_slowly_and_one_that_is_found_again_at_once() {
        let (mut reach, start) = (Reach::default(), Instant::now());
        let mut asked = Vec::new();
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            if reach.is_lost([sight(1, 0, 0, true)].into_iter(), now, GAP) {
                asked.push(second);
            }
        }
        assert_eq!(asked, [0, 1, 3, 7, 15, 31, 61, 91]);
        let now = start + Duration::from_secs(200);
        assert!(!reach.is_lost([sight(1, 0, 1, false)].into_iter(), now, GAP));
        assert!(reach.is_lost([sight(1, 0, 1, true)].into_iter(), now, GAP));
    }
}
