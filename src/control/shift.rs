//! Zones that the operator has taken out, each until a stated time; for all pools of the node.
//!
//! A shift always ends: whoever forgets it gets the zone back. What a shift would do, or its end, is computed by building
//! the very snapshot that it would lead to ([`figures`]); it is refused when too little would be left.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::Control;
use super::membership::PoolControl;
use super::state::KeptShift;
use crate::config::ZoneName;
use crate::pool::{Snapshot, Status, ZoneOut};

/// Shortest and longest shift.
pub const LIMITS: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(72 * 3600);

/// A zone is out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shift {
    /// Since when.
    pub since: SystemTime,
    /// Until when.
    pub until: SystemTime,
    /// Why, in the operator's words.
    pub comment: Option<String>,
}

impl From<&Shift> for KeptShift {
    fn from(shift: &Shift) -> Self {
        let seconds =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { since: seconds(shift.since), until: seconds(shift.until), comment: shift.comment.clone() }
    }
}

impl From<&KeptShift> for Shift {
    fn from(kept: &KeptShift) -> Self {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Self { since: time(kept.since), until: time(kept.until), comment: kept.comment.clone() }
    }
}

/// The zones that are out now.
#[derive(Debug, Default)]
pub struct Shifts(RefCell<BTreeMap<ZoneName, Shift>>);

impl Shifts {
    /// Takes `zone` out; a shift of the same zone that is under way gets the new end and comment, and goes on.
    pub fn begin(&self, zone: &ZoneName, mut shift: Shift) {
        let mut shifts = self.0.borrow_mut();
        if let Some(present) = shifts.get(zone) {
            shift.since = present.since;
        }
        shifts.insert(zone.clone(), shift);
    }

    /// Gives `zone` back; `false` if it is not out.
    pub fn end(&self, zone: &str) -> bool {
        self.0.borrow_mut().remove(zone).is_some()
    }

    /// Ends those whose time is up, and names them.
    pub fn expire(&self, now: SystemTime) -> Vec<ZoneName> {
        let mut shifts = self.0.borrow_mut();
        let over: Vec<ZoneName> =
            shifts.iter().filter(|(_, shift)| shift.until <= now).map(|(zone, _)| zone.clone()).collect();
        over.iter().for_each(|zone| drop(shifts.remove(zone)));
        over
    }

    /// The shift of `zone`.
    pub fn of(&self, zone: &str) -> Option<Shift> {
        self.0.borrow().get(zone).cloned()
    }

    /// All of them, by zone.
    pub fn all(&self) -> BTreeMap<ZoneName, Shift> {
        self.0.borrow().clone()
    }
}

/// What an operator may want with a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Take it out.
    Out,
    /// Give it back.
    Back,
}

/// What a shift, or its end, means for each pool that has targets in the zone.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The zone that is to be out, or back.
    zone: String,
    /// Whether every pool can spare it.
    pub enough: bool,
    pools: Vec<PoolFigures>,
}

impl Figures {
    /// What is missing, in words.
    pub fn shortage(&self) -> String {
        let short = self.pools.iter().filter(|pool| pool.capacity_left < pool.capacity_needed);
        let words = short.map(|pool| {
            let (left, needed) = (pool.capacity_left * 100.0, pool.capacity_needed * 100.0);
            format!(
                "of pool {} only {left:.0} % of the targets would be left and healthy, {needed:.0} % are needed",
                pool.pool
            )
        });
        words.collect::<Vec<_>>().join("; ")
    }
}

#[derive(Debug, Serialize)]
struct PoolFigures {
    pool: String,
    /// Healthy targets of the zones that would be in, as a share of all targets.
    capacity_left: f64,
    /// The least that `shift_capacity` asks for.
    capacity_needed: f64,
    /// About how many sessions would move.
    sessions: u64,
    zones: Vec<ZoneFigures>,
}

/// One zone of a pool, before and after a change.
#[derive(Debug, Serialize)]
pub struct ZoneFigures {
    zone: String,
    targets: usize,
    healthy: usize,
    /// Part of the requests without a session now (0.0 to 1.0).
    share_now: f64,
    /// The same after the change.
    share_then: f64,
}

impl ZoneFigures {
    /// Every zone of a pool whose snapshot is `now` and would be `then`.
    pub fn of(now: &Snapshot, then: &Snapshot) -> Vec<Self> {
        let (shares_now, shares_then) = (now.zone_shares(), then.zone_shares());
        let share = |shares: &BTreeMap<ZoneName, f64>, zone: &ZoneName| {
            rounded(shares.get(zone).copied().unwrap_or_default())
        };
        let mut zones: BTreeMap<&ZoneName, (usize, usize)> = BTreeMap::new();
        for target in &now.targets {
            let (targets, healthy) = zones.entry(&target.state.zone).or_default();
            *targets += 1;
            *healthy += usize::from(target.status == Status::Healthy);
        }
        let zone = |(zone, (targets, healthy)): (&ZoneName, _)| Self {
            zone: zone.to_string(),
            targets,
            healthy,
            share_now: share(&shares_now, zone),
            share_then: share(&shares_then, zone),
        };
        zones.into_iter().map(zone).collect()
    }
}

fn rounded(share: f64) -> f64 {
    (share * 1e4).round() / 1e4
}

/// What it would do to take `zone` out, or to give it back; `None` if no pool has a target there.
pub fn figures(control: &Control, zone: &ZoneName, wish: Wish) -> Option<Figures> {
    let has = |pool: &&PoolControl| pool.targets().iter().any(|target| target.state.zone == *zone);
    let pools: Vec<PoolFigures> = control
        .running()
        .pools
        .iter()
        .map(AsRef::as_ref)
        .filter(has)
        .map(|pool| pool_figures(pool, zone, wish))
        .collect();
    let enough = pools.iter().all(|pool| pool.capacity_left >= pool.capacity_needed);
    (!pools.is_empty()).then(|| Figures { zone: zone.to_string(), enough, pools })
}

fn pool_figures(pool: &PoolControl, zone: &ZoneName, wish: Wish) -> PoolFigures {
    let out = match wish {
        Wish::Out => Some(ZoneOut { moved: 1.0, trickle: 0.0 }),
        Wish::Back => pool.zone_out_without_shift(zone),
    };
    let (now, then) = (
        pool.pool().snapshot(),
        pool.snapshot_if(|member| {
            if member.state.zone == *zone {
                member.zone_out = out;
            }
        }),
    );
    let left = then.targets.iter().filter(|target| target.status == Status::Healthy).count();
    let bound = now.targets.iter().filter(|target| wish == Wish::Out && target.state.zone == *zone);
    PoolFigures {
        pool: pool.pool().name.to_string(),
        capacity_left: rounded(left as f64 / now.targets.len().max(1) as f64),
        capacity_needed: pool.config().zones.shift_capacity,
        sessions: bound.filter_map(|target| Some(target.state.bound()?.count())).sum(),
        zones: ZoneFigures::of(&now, &then),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_ends_by_itself() {
        let shifts = Shifts::default();
        let (zone, since) = (ZoneName::from("az-a"), SystemTime::now());
        let shift = |seconds| Shift { since, until: since + Duration::from_secs(seconds), comment: None };
        shifts.begin(&zone, shift(60));
        assert!(shifts.expire(since + Duration::from_secs(59)).is_empty());
        shifts.begin(&zone, Shift { since: since + Duration::from_secs(30), ..shift(120) });
        assert_eq!(shifts.of("az-a"), Some(shift(120)), "it goes on, with another end");
        assert_eq!(shifts.expire(since + Duration::from_secs(120)), [zone]);
        assert!(!shifts.end("az-a"));
    }
}
