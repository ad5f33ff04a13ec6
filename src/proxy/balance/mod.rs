//! Which target gets an attempt. Pure: the snapshot, the session, what was tried and a random number go in, a pick comes
//! out; the only effect is that the picked target has counted the request, and not even that when somebody only wants to know.
//! Why a pick came out as it did is in `reasons`.
//!
//! A session goes to its own target for as long as that keeps bound sessions, and waits for it when it is full. When it
//! cannot be kept, or there is none, the pool's policy or the re-homing rule decides among the targets that take new ones.
//! A target that a worker has suspended is passed over while another can be had: see `pool::conduct`.

mod hash;
mod reasons;
mod rehome;
mod round_robin;
mod two_choices;

use crate::config::Balance;
use crate::pool::{Keeps, Snapshot, Status, Target, Tier};

use super::session::Bond;
pub(crate) use hash::key;
pub use reasons::Place;

/// What picking needs to know.
#[derive(Clone, Copy)]
pub struct Choice<'a> {
    /// The view of the pool that this request keeps.
    pub snapshot: &'a Snapshot,
    /// Policy for requests without a session.
    pub balance: &'a Balance,
    /// What the policy hashes, as a number; `None` when the request does not have it, or the policy does not hash.
    pub key: Option<u64>,
    /// The session, if the request has one.
    pub bond: Option<&'a Bond>,
    /// The session may return to its first target now.
    pub may_return: bool,
    /// Targets that this request has failed on, by index.
    pub tried: &'a [u32],
    /// The request has not hesitated yet.
    pub may_hesitate: bool,
    /// Requests that have been waiting for any target and come first.
    pub ahead: u32,
    /// The picked target counts the request; else nothing is changed.
    pub counts: bool,
}

/// Requests without any answer, for a share of one, after which a target looks as if it hung.
const SILENT_AFTER: f64 = 2.0;

/// What a policy finds in a tier.
enum Found {
    /// This target, by index; the request counts as in flight there.
    Target(u32),
    /// No target can begin.
    None,
    /// See [`Pick::AllSilent`].
    Silent,
}

impl From<Option<u32>> for Found {
    fn from(index: Option<u32>) -> Self {
        index.map_or(Self::None, Self::Target)
    }
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// This target, by index; the request counts as in flight there.
    Target {
        /// Index into the snapshot's targets.
        index: usize,
        /// The bond moves here: the session's own target cannot keep it, or its first one is back.
        rehomed: bool,
    },
    /// The session's own target is full: wait for a turn there.
    OwnIsFull {
        /// Index into the snapshot's targets.
        index: usize,
    },
    /// Every target that could take the request is full: wait for any.
    AllFull,
    /// Those that were drawn have all let several requests go by without any answer: hesitate, once.
    AllSilent,
    /// Nothing is left to try.
    NoneLeft,
}

impl Choice<'_> {
    /// Picks. `turn` numbers the picks of a worker; `random` is a fresh random number.
    pub fn pick(&self, turn: usize, random: u64) -> Pick {
        let Some(bond) = self.bond else { return self.pick_elsewhere(turn, random) };
        if let Some(index) = self.home(bond) {
            return Pick::Target { index, rehomed: true };
        }
        let Some(own) = self.snapshot.index_of(bond.target) else { return rehome::pick(self, bond) };
        match self.snapshot.targets[own].keeps(bond.session) {
            Keeps::None => rehome::pick(self, bond),
            Keeps::All if self.was_tried(own) => self.pick_elsewhere(turn, random),
            Keeps::All if !self.is_suspended(own) => self.pick_own(own),
            // Others serve the request, the bond stays; if there is nobody else, better the own target than none.
            _ => match self.pick_elsewhere(turn, random) {
                Pick::AllFull | Pick::NoneLeft if !self.was_tried(own) => self.pick_own(own),
                pick => pick,
            },
        }
    }

    fn pick_own(&self, index: usize) -> Pick {
        let target = &self.snapshot.targets[index];
        if self.take(target, 0) {
            return Pick::Target { index, rehomed: false };
        }
        Pick::OwnIsFull { index }
    }

    /// The first target of a session that has moved, if it may return, that target is in service again, and it has room.
    fn home(&self, bond: &Bond) -> Option<usize> {
        if !self.may_return || bond.home == bond.target {
            return None;
        }
        let index = self.snapshot.index_of(bond.home)?;
        let target = &self.snapshot.targets[index];
        let is_back = target.takes_new && target.status == Status::Healthy && !self.is_suspended(index);
        (is_back && self.begin(index)).then_some(index)
    }

    /// After a failure, in another zone if one has a target: what broke one may have broken its neighbours.
    fn pick_elsewhere(&self, turn: usize, random: u64) -> Pick {
        if self.tried.is_empty() {
            return self.pick_new(turn, random);
        }
        let zone = |index: &u32| &self.target(*index).state.zone;
        let failed = |index: &&u32| self.tried.iter().any(|tried| zone(tried) == zone(index));
        let neighbours: Vec<u32> = self.snapshot.open.iter().filter(failed).copied().collect();
        let avoided = [self.tried, &neighbours].concat();
        match (Choice { tried: &avoided, ..*self }).pick_new(turn, random) {
            Pick::NoneLeft | Pick::AllFull => self.pick_new(turn, random),
            elsewhere => elsewhere,
        }
    }

    /// By the pool's policy: the tier whose turn it is, then the others.
    fn pick_new(&self, turn: usize, random: u64) -> Pick {
        let tiers = &self.snapshot.tiers;
        let first = match &**tiers {
            [] | [_] => 0,
            several => {
                let number = self.key.unwrap_or(random).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
                several.iter().position(|tier| number < tier.up_to).unwrap_or_default()
            }
        };
        for step in 0..tiers.len() {
            match self.pick_in(&tiers[(first + step) % tiers.len()], turn, random) {
                Found::Target(index) => return Pick::Target { index: index as usize, rehomed: false },
                Found::Silent => return Pick::AllSilent,
                Found::None => {}
            }
        }
        match self.pick_any() {
            Some(index) => Pick::Target { index: index as usize, rehomed: false },
            None => self.none_began(),
        }
    }

    fn pick_in(&self, tier: &Tier, turn: usize, random: u64) -> Found {
        match (self.balance, self.key) {
            (Balance::RoundRobin, _) => round_robin::pick(self, tier, turn).into(),
            (Balance::PeakEwma, _) => two_choices::pick(self, tier, random, two_choices::by_latency),
            (Balance::Hash(_), Some(key)) => hash::pick(self, tier, key).into(),
            (Balance::LeastOutstanding | Balance::Hash(_), _) => {
                two_choices::pick(self, tier, random, two_choices::by_outstanding)
            }
        }
    }

    /// The last resort: targets of no tier (those of other zones, with `local`) if all of a tier have failed this request,
    /// then suspended ones.
    fn pick_any(&self) -> Option<u32> {
        let open = &self.snapshot.open;
        let tiers_failed =
            self.snapshot.tiers.iter().all(|tier| tier.open.iter().all(|at| self.was_tried(*at as usize)));
        let in_tier = |index: u32| self.snapshot.tiers.iter().any(|tier| tier.open.contains(&index));
        let mut candidates: Vec<u32> =
            open.iter().copied().filter(|index| tiers_failed || in_tier(*index)).collect();
        candidates.sort_by(|a, b| self.outstanding(*a).total_cmp(&self.outstanding(*b)));
        candidates.sort_by_key(|index| self.is_suspended(*index as usize));
        candidates.into_iter().find(|index| self.begin(*index as usize))
    }

    /// Requests in flight by share; and much more for a target that has let three or more go by without any answer.
    fn outstanding(&self, index: u32) -> f64 {
        let target = self.target(index);
        let silence = (f64::from(target.state.unanswered()) / target.share - SILENT_AFTER).max(0.0);
        f64::from(target.state.in_flight()) / target.share + 1000.0 * silence
    }

    /// Whether its last two requests have failed: it is asked less until one succeeds.
    fn is_doubtful(&self, index: u32) -> bool {
        self.target(index).state.conduct.failures() >= 2
    }

    fn was_tried(&self, index: usize) -> bool {
        self.tried.contains(&(index as u32))
    }

    fn is_suspended(&self, index: usize) -> bool {
        self.snapshot.targets[index].state.conduct.is_suspended()
    }

    /// Counts the request at this target if it may have it and nothing speaks against it.
    fn begin_well(&self, index: u32) -> bool {
        !self.is_suspended(index as usize) && self.begin(index as usize)
    }

    /// The same, unless the target has fallen silent.
    fn begin_answering(&self, index: u32) -> bool {
        let target = self.target(index);
        let silent = (target.share * SILENT_AFTER) as u32;
        let free = !self.was_tried(index as usize) && !self.is_suspended(index as usize);
        free && match self.counts {
            true => target.state.begin_unless_silent(target.max_connections, self.ahead, silent),
            false => {
                target.state.unanswered() <= silent
                    && target.state.has_room(target.max_connections, self.ahead)
            }
        }
    }

    /// Counts the request at this target if it may have it.
    fn begin(&self, index: usize) -> bool {
        let target = &self.snapshot.targets[index];
        !self.was_tried(index) && self.take(target, self.ahead)
    }

    /// Counts the request at this target if that has room beside `ahead` others.
    fn take(&self, target: &Target, ahead: u32) -> bool {
        match self.counts {
            true => target.state.begin(target.max_connections, ahead),
            false => target.state.has_room(target.max_connections, ahead),
        }
    }

    /// The pick when no candidate could begin: whether waiting would help.
    fn none_began(&self) -> Pick {
        match self.snapshot.open.iter().any(|index| !self.was_tried(*index as usize)) {
            true => Pick::AllFull,
            false => Pick::NoneLeft,
        }
    }

    /// What ranking goes by; `None` when all are alike.
    fn weight(&self, target: &Target) -> Option<u32> {
        (!self.snapshot.is_even).then_some(target.weight)
    }

    fn target(&self, index: u32) -> &Target {
        &self.snapshot.targets[index as usize]
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
