//! Which target gets an attempt. Pure: the snapshot, the session, what was tried and a random number go in, a pick comes
//! out; the only effect is that the picked target has counted the request.
//!
//! A session goes to its own target for as long as that keeps bound sessions, and waits for it when it is full. When it
//! cannot be kept, or there is none, the pool's policy or the re-homing rule decides among the targets that take new ones.

mod least_outstanding;
mod rehome;
mod round_robin;

use crate::config::Balance;
use crate::pool::{Snapshot, Target};

use super::session::Bond;

/// What picking needs to know.
pub struct Choice<'a> {
    /// The view of the pool that this request keeps.
    pub snapshot: &'a Snapshot,
    /// Policy for requests without a session.
    pub balance: Balance,
    /// The session, if the request has one.
    pub bond: Option<&'a Bond>,
    /// Targets that this request has failed on, by index.
    pub tried: &'a [u32],
    /// Requests that have been waiting for any target and come first.
    pub ahead: u32,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// This target, by index; the request counts as in flight there.
    Target {
        /// Index into the snapshot's targets.
        index: usize,
        /// The session's own target cannot keep it: the bond moves here.
        rehomed: bool,
    },
    /// The session's own target is full: wait for a turn there.
    OwnIsFull {
        /// Index into the snapshot's targets.
        index: usize,
    },
    /// Every target that could take the request is full: wait for any.
    AllFull,
    /// Nothing is left to try.
    NoneLeft,
}

impl Choice<'_> {
    /// Picks. `turn` numbers the picks of a worker; `random` is a fresh random number.
    pub fn pick(&self, turn: usize, random: u64) -> Pick {
        let own = self.bond.and_then(|bond| self.snapshot.index_of(bond.target));
        let own = own.filter(|index| self.snapshot.targets[*index].keeps_bound);
        match (own, self.bond) {
            (Some(index), _) if !self.was_tried(index) => {
                let target = &self.snapshot.targets[index];
                if target.state.begin(target.max_connections, 0) {
                    return Pick::Target { index, rehomed: false };
                }
                Pick::OwnIsFull { index }
            }
            // It has failed this request but is in service: the request goes elsewhere, the bond stays.
            (Some(_), _) | (None, None) => self.pick_elsewhere(turn, random),
            (None, Some(bond)) => rehome::pick(self, bond),
        }
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

    fn pick_new(&self, turn: usize, random: u64) -> Pick {
        match self.balance {
            Balance::RoundRobin => round_robin::pick(self, turn),
            Balance::LeastOutstanding => least_outstanding::pick(self, random),
        }
    }

    fn was_tried(&self, index: usize) -> bool {
        self.tried.contains(&(index as u32))
    }

    /// Counts the request at this target if it may have it.
    fn begin(&self, index: usize) -> bool {
        let target = &self.snapshot.targets[index];
        !self.was_tried(index) && target.state.begin(target.max_connections, self.ahead)
    }

    /// The pick when no candidate could begin: whether waiting would help.
    fn none_began(&self) -> Pick {
        match self.snapshot.open.iter().any(|index| !self.was_tried(*index as usize)) {
            true => Pick::AllFull,
            false => Pick::NoneLeft,
        }
    }

    fn target(&self, index: u32) -> &Target {
        &self.snapshot.targets[index as usize]
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
