//! What a target is for, by what its source says of it and of the others: in service, in reserve, or on its way out. Pure.
//!
//! Two rules. Of one source's targets those of the lowest priority serve, unless none of them can: then those of the next
//! one that can (only SRV records have priorities). And a target that its source no longer lists drains — but not before
//! something that the source lists instead can take its place: an answer full of wrong addresses takes nothing out of
//! service. Health itself is not judged here: the caller says who can serve.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::sources::Source;
use crate::pool::Duty;

/// A target's place in its source.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Who lists it, or listed it last.
    pub source: Source,
    /// See [`super::sources::Listed::priority`].
    pub priority: u16,
    /// Whether it still does.
    pub presence: Presence,
}

/// Whether a target is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// A source lists it.
    Listed,
    /// None does, and what its source lists instead cannot serve yet: it goes on as if it were listed.
    Unrelieved,
    /// None does; it keeps its bound sessions until then.
    Leaving(Instant),
}

/// What each source has to offer.
#[derive(Debug, Default)]
pub struct Strength(BTreeMap<Source, Classes>);

#[derive(Debug)]
struct Classes {
    /// Lowest priority of a listed target.
    lowest: u16,
    /// Lowest priority of a listed target that can serve.
    able: Option<u16>,
}

impl Strength {
    /// Counts up `targets`: each with whether it can serve.
    pub fn of<'a>(targets: impl Iterator<Item = (&'a Standing, bool)>) -> Self {
        let mut sources = BTreeMap::new();
        for (standing, able) in targets.filter(|(standing, _)| standing.presence == Presence::Listed) {
            let priority = standing.priority;
            let classes =
                sources.entry(standing.source.clone()).or_insert(Classes { lowest: priority, able: None });
            classes.lowest = classes.lowest.min(priority);
            if able {
                classes.able = Some(classes.able.map_or(priority, |lowest| lowest.min(priority)));
            }
        }
        Self(sources)
    }
}

impl Standing {
    /// A target that `source` lists.
    pub fn listed(source: Source, priority: u16) -> Self {
        Self { source, priority, presence: Presence::Listed }
    }

    /// Its source no longer lists it.
    pub fn vanish(&mut self) {
        if self.presence == Presence::Listed {
            self.presence = Presence::Unrelieved;
        }
    }

    /// Begins the drain, `drain` long, of a target that has been relieved. Only a name in DNS can be wrong about what
    /// replaces a target, so only that waits for the replacement.
    pub fn settle(&mut self, strength: &Strength, now: Instant, drain: Duration) {
        if self.presence == Presence::Unrelieved {
            let unrelieved = matches!(self.source, Source::Dns(_))
                && strength.0.get(&self.source).is_some_and(|classes| classes.able.is_none());
            if !unrelieved {
                self.presence = Presence::Leaving(now + drain);
            }
        }
    }

    /// What it is for.
    pub fn duty(&self, strength: &Strength) -> Duty {
        match self.presence {
            Presence::Listed => match strength.0.get(&self.source) {
                Some(classes) if classes.able.unwrap_or(classes.lowest) != self.priority => Duty::Standby,
                _ => Duty::Serving,
            },
            Presence::Unrelieved => Duty::Serving,
            Presence::Leaving(_) => Duty::Leaving,
        }
    }

    /// When its drain ends; `None` while it is listed or unrelieved.
    pub fn leaves_at(&self) -> Option<Instant> {
        match self.presence {
            Presence::Leaving(at) => Some(at),
            Presence::Listed | Presence::Unrelieved => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(question: &str) -> Source {
        Source::Dns(question.into())
    }

    const DRAIN: Duration = Duration::from_secs(300);

    fn both(target: &(Standing, bool)) -> (&Standing, bool) {
        (&target.0, target.1)
    }

    fn duties(targets: &[(Standing, bool)]) -> Vec<Duty> {
        let strength = Strength::of(targets.iter().map(both));
        targets.iter().map(|(standing, _)| standing.duty(&strength)).collect()
    }

    #[test]
    fn the_lowest_priority_that_can_serve_is_in_service_and_the_others_stand_by() {
        let of = |able: [bool; 4]| {
            let priorities = [10, 10, 20, 30].map(|priority| Standing::listed(name("SRV shop"), priority));
            duties(&priorities.into_iter().zip(able).collect::<Vec<_>>())
        };
        use Duty::{Serving, Standby};
        assert_eq!(of([true, true, true, true]), [Serving, Serving, Standby, Standby]);
        assert_eq!(of([true, false, true, true]), [Serving, Serving, Standby, Standby]);
        assert_eq!(of([false, false, true, true]), [Standby, Standby, Serving, Standby]);
        assert_eq!(of([false, false, false, true]), [Standby, Standby, Standby, Serving]);
        assert_eq!(of([false, false, false, false]), [Serving, Serving, Standby, Standby]);
    }

    #[test]
    fn priorities_of_different_sources_have_nothing_to_do_with_each_other() {
        let targets = [
            (Standing::listed(Source::File, 0), true),
            (Standing::listed(name("SRV shop"), 10), true),
            (Standing::listed(name("SRV other"), 20), true),
        ];
        assert_eq!(duties(&targets), [Duty::Serving; 3]);
    }

    #[test]
    fn what_vanished_serves_on_until_its_replacement_can() {
        let now = Instant::now();
        let mut old = Standing::listed(name("SRV shop"), 0);
        old.vanish();
        let new = Standing::listed(name("SRV shop"), 0);
        let strength = Strength::of([(&old, true), (&new, false)].into_iter());
        old.settle(&strength, now, DRAIN);
        assert_eq!((old.presence, old.duty(&strength)), (Presence::Unrelieved, Duty::Serving));
        let strength = Strength::of([(&old, true), (&new, true)].into_iter());
        old.settle(&strength, now, DRAIN);
        assert_eq!((old.leaves_at(), old.duty(&strength)), (Some(now + DRAIN), Duty::Leaving));
        // The drain has begun: that the replacement fails later does not begin it anew.
        let strength = Strength::of([(&old, true), (&new, false)].into_iter());
        old.settle(&strength, now + DRAIN, DRAIN);
        assert_eq!(old.leaves_at(), Some(now + DRAIN));
    }

    #[test]
    fn what_vanished_from_an_empty_list_or_by_hand_drains_at_once() {
        let now = Instant::now();
        let mut of_name = Standing::listed(name("SRV shop"), 0);
        of_name.vanish();
        of_name.settle(&Strength::of([(&of_name, true)].into_iter()), now, DRAIN);
        assert_eq!(of_name.duty(&Strength::default()), Duty::Leaving);
        let mut by_hand = Standing::listed(Source::Runtime, 0);
        by_hand.vanish();
        let other = Standing::listed(Source::Runtime, 0);
        by_hand.settle(&Strength::of([(&by_hand, true), (&other, false)].into_iter()), now, DRAIN);
        assert_eq!(by_hand.leaves_at(), Some(now + DRAIN));
    }
}
