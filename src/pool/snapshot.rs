//! An immutable view of a pool: who is in it, who takes new sessions, who keeps bound ones.
//!
//! Built by the control plane from [`Member`]s, read by requests. All decisions that depend only on membership, health and
//! zones are made here, once per change, so that a request only picks. How the load is shared among those who take it is
//! in `tiers`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use foldhash::HashMap;
use foldhash::HashMapExt as _;

use super::target::{TargetId, TargetState};
use super::tiers::{self, Tier};
use crate::config::{self, MinHealthy, ZoneName};

/// What active checks say of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthState {
    /// Not checked yet: takes nothing until its first check passes.
    Initial,
    /// Checks pass, or are off.
    Healthy,
    /// Checks fail.
    Unhealthy,
}

/// What the operator, or the target itself, says of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// In service.
    Up,
    /// Keeps its bound sessions, takes no new ones.
    Drain,
    /// The same, and the deadline for its bound sessions has passed.
    Drained,
    /// Takes nothing.
    Down,
}

/// What a target is for, by those who list it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duty {
    /// In service.
    Serving,
    /// Keeps its bound sessions, and takes new ones only when no target of a lower priority can.
    Standby,
    /// Listed no more: keeps its bound sessions until it is drained.
    Leaving,
}

/// Until when what has no end of its own (WebSocket tunnels) may go on at a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// For as long as it likes.
    No,
    /// Until the end of a drain.
    By {
        /// When the drain began.
        since: Instant,
        /// When it ends.
        end: Instant,
    },
    /// No longer: the target is down.
    Now,
}

/// What becomes of the bound sessions of a target that is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It serves them: it is slow, not broken.
    Here,
    /// They remain bound, and others serve them meanwhile.
    Elsewhere,
    /// They move.
    Moves,
}

/// A zone that is taken out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ZoneOut {
    /// Share of its bound sessions that have to move (0.0 to 1.0).
    pub moved: f64,
    /// Share of its usual new requests that it gets all the same, to see whether it has recovered.
    pub trickle: f64,
}

/// One target as the control plane knows it: the input of [`Snapshot::build`].
#[derive(Clone)]
pub struct Member {
    /// Identity and what outlives snapshots.
    pub state: Arc<TargetState>,
    /// Share relative to the others.
    pub weight: u32,
    /// Requests in flight at most; `u32::MAX` for no limit.
    pub max_connections: u32,
    /// From active checks.
    pub health: HealthState,
    /// Unhealthy, and the last check has passed: it serves, if not yet for long enough to be trusted with new sessions.
    pub recovering: bool,
    /// From the operator.
    pub admin: AdminState,
    /// From those who list it.
    pub duty: Duty,
    /// From what it answers to requests.
    pub ejected: Option<Stay>,
    /// Its zone is taken out.
    pub zone_out: Option<ZoneOut>,
    /// Part of its weight that counts now (0.0 to 1.0): less than 1 while it starts slowly or is on trial.
    pub ramp: f64,
    /// By whatever it drains or is down.
    pub leave: Leave,
}

impl Member {
    /// A target with nothing against it, as heavy as any other.
    pub fn in_service(state: Arc<TargetState>) -> Self {
        Self {
            state,
            weight: 1,
            max_connections: u32::MAX,
            health: HealthState::Healthy,
            recovering: false,
            admin: AdminState::Up,
            duty: Duty::Serving,
            ejected: None,
            zone_out: None,
            ramp: 1.0,
            leave: Leave::No,
        }
    }

    /// Whether it would take new sessions if it were healthy.
    fn expected(&self) -> bool {
        self.admin == AdminState::Up && self.duty == Duty::Serving && self.zone_out.is_none()
    }
}

/// Why a target does or does not take requests, in one word, as the API and the metrics show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Not checked yet.
    Initial,
    /// In service.
    Healthy,
    /// Failed its checks.
    Unhealthy,
    /// Out for a time because of what it answers.
    Ejected,
    /// Its zone is taken out.
    Shifted,
    /// Would take new sessions if no target of a lower priority could.
    Standby,
    /// Bound sessions only.
    Draining,
    /// Takes nothing: its bound sessions had their time to leave.
    Drained,
    /// Taken out by the operator.
    Down,
}

impl Status {
    /// As written in the API and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Shifted => "shifted",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Down => "down",
        }
    }
}

/// Predicate two: what a target does for the sessions that are bound to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// It serves them.
    All,
    /// It serves those whose number is not below this, out of 2^32; the others move. Numbers are fixed by the session.
    From(u32),
    /// They remain bound to it, and others serve them meanwhile.
    Elsewhere,
    /// They move.
    None,
}

/// One target in a snapshot.
pub struct Target {
    /// Identity and what outlives snapshots.
    pub state: Arc<TargetState>,
    /// Its zone as a number: equal zones have equal numbers within a snapshot.
    pub zone_number: u32,
    /// Share relative to the others, as configured: what re-homing goes by, alike on every node.
    pub weight: u32,
    /// Share relative to the others as of now: weights of target and zone, slow start, trickle.
    pub share: f64,
    /// Requests in flight at most; `u32::MAX` for no limit.
    pub max_connections: u32,
    /// Predicate one: may get a request that has no session yet, or a re-homed one.
    pub takes_new: bool,
    /// Predicate two.
    pub keeps: Keeps,
    /// The reason for both.
    pub status: Status,
    /// Until when tunnels may stay.
    pub leave: Leave,
}

/// See the module's documentation.
pub struct Snapshot {
    /// All targets, in a stable order (zone, then address).
    pub targets: Box<[Target]>,
    /// Indices of the targets that take new sessions.
    pub open: Box<[u32]>,
    /// The same, by who is asked first.
    pub tiers: Box<[Tier]>,
    /// Health is being ignored because too few targets are healthy.
    pub panic: bool,
    /// All open targets have the same weight.
    pub is_even: bool,
    /// Zones with fewer healthy targets than they need.
    pub failed_zones: Box<[ZoneName]>,
    by_id: HashMap<TargetId, u32>,
}

impl Snapshot {
    /// The view that a node in `zone` has of `members`.
    pub fn build(config: &config::Pool, zone: Option<&ZoneName>, mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| (&a.state.zone, a.state.address).cmp(&(&b.state.zone, b.state.address)));
        let panic = panics(&members, config.zones.panic);
        let failed_zones = failed_zones(&members, config.zones.min_healthy);
        let mut targets: Box<[Target]> = members
            .into_iter()
            .map(|member| {
                let failed = !panic && failed_zones.contains(&member.state.zone);
                Target::new(member, config, panic, failed)
            })
            .collect();
        for index in 1..targets.len() {
            let (before, zone) = (&targets[index - 1], &targets[index].state.zone);
            let number = before.zone_number + u32::from(before.state.zone != *zone);
            targets[index].zone_number = number;
        }
        let open: Box<[u32]> =
            (0..targets.len() as u32).filter(|index| targets[*index as usize].takes_new).collect();
        let tiers = tiers::build(&config.zones, zone, &targets, &open);
        let mut by_id = HashMap::with_capacity(targets.len());
        by_id.extend(targets.iter().zip(0..).map(|(target, index)| (target.state.id, index)));
        let weight = |index: &u32| targets[*index as usize].weight;
        let is_even = open.windows(2).all(|pair| weight(&pair[0]) == weight(&pair[1]));
        Self { targets, open, tiers, panic, is_even, failed_zones, by_id }
    }

    /// The part of the requests without a session that each zone gets (0.0 to 1.0); zones that get none are left out.
    pub fn zone_shares(&self) -> BTreeMap<ZoneName, f64> {
        let mut shares = BTreeMap::new();
        let mut before = 0;
        for tier in &self.tiers {
            let part = (tier.up_to - before) as f64 / 2f64.powi(32);
            before = tier.up_to;
            for index in &tier.rotation {
                let zone = &self.targets[*index as usize].state.zone;
                *shares.entry(zone.clone()).or_default() += part / tier.rotation.len() as f64;
            }
        }
        shares
    }

    /// Where in [`Snapshot::targets`] this identity stands.
    pub fn index_of(&self, id: TargetId) -> Option<usize> {
        self.by_id.get(&id).map(|index| *index as usize)
    }
}

impl Target {
    fn new(member: Member, config: &config::Pool, panic: bool, zone_failed: bool) -> Self {
        let Member { state, weight, max_connections, health, recovering, admin, duty, .. } = member;
        let Member { ejected, zone_out, ramp, leave, .. } = member;
        let status = match (admin, health, ejected) {
            (AdminState::Down, ..) => Status::Down,
            (AdminState::Drained, ..) => Status::Drained,
            (_, HealthState::Unhealthy, _) => Status::Unhealthy,
            _ if zone_out.is_some() => Status::Shifted,
            (_, _, Some(_)) => Status::Ejected,
            (AdminState::Drain, ..) => Status::Draining,
            _ if duty == Duty::Leaving => Status::Draining,
            (AdminState::Up, HealthState::Initial, None) => Status::Initial,
            (AdminState::Up, HealthState::Healthy, None) if duty == Duty::Standby => Status::Standby,
            (AdminState::Up, HealthState::Healthy, None) => Status::Healthy,
        };
        let (alive, ejected) = match health {
            HealthState::Healthy | HealthState::Unhealthy if panic => (true, None),
            HealthState::Healthy => (true, ejected),
            HealthState::Unhealthy | HealthState::Initial => (false, ejected),
        };
        let trickle = zone_out.map_or(1.0, |out| out.trickle);
        let serves = admin == AdminState::Up && duty == Duty::Serving && !zone_failed;
        let takes_new = alive && ejected.is_none() && serves && trickle > 0.0;
        let stays = match (ejected, zone_out) {
            (Some(Stay::Moves), _) => Keeps::None,
            (Some(Stay::Elsewhere), _) => Keeps::Elsewhere,
            (_, Some(out)) => Keeps::but(out.moved),
            _ => Keeps::All,
        };
        let keeps = match (admin, health) {
            (AdminState::Down | AdminState::Drained, _) => Keeps::None,
            (_, HealthState::Unhealthy) if !panic && !recovering => Keeps::None,
            // A target that was not checked yet may be as well as when the session was bound: if it is not, the request
            // goes elsewhere and the session stays.
            _ => stays,
        };
        let share = f64::from(weight) * zone_weight(config, &state.zone) * ramp * trickle;
        Self {
            takes_new: takes_new && share > 0.0,
            keeps,
            status,
            leave,
            state,
            zone_number: 0,
            weight,
            share,
            max_connections,
        }
    }

    /// What becomes of a request of this session, which is bound to this target.
    pub fn keeps(&self, session: u64) -> Keeps {
        match self.keeps {
            Keeps::From(first) if Keeps::number(session) < first => Keeps::None,
            Keeps::From(_) => Keeps::All,
            other => other,
        }
    }
}

impl Keeps {
    /// All but a share of the sessions.
    fn but(moved: f64) -> Self {
        match moved {
            all if all >= 1.0 => Self::None,
            none if none <= 0.0 => Self::All,
            some => Self::From((some * 2f64.powi(32)) as u32),
        }
    }

    /// A number that a session keeps and that is spread evenly.
    fn number(session: u64) -> u32 {
        (session.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
    }

    /// Whether it serves any bound session.
    pub fn any(self) -> bool {
        matches!(self, Self::All | Self::From(_))
    }
}

fn zone_weight(config: &config::Pool, zone: &ZoneName) -> f64 {
    let named = config.zones.weights.iter().find(|(name, _)| name == zone);
    named.map_or(1.0, |(_, weight)| f64::from(*weight))
}

/// Whether so few targets are healthy that health says more about the checks than about the targets.
///
/// Targets that were taken out on purpose do not count, nor do those that were never checked.
fn panics(members: &[Member], threshold: f64) -> bool {
    let checked = members.iter().filter(|m| m.expected() && m.health != HealthState::Initial);
    let (mut all, mut healthy) = (0u32, 0u32);
    for member in checked {
        all += 1;
        healthy += u32::from(member.health == HealthState::Healthy && member.ejected != Some(Stay::Moves));
    }
    all > 0 && f64::from(healthy) < f64::from(all) * threshold
}

/// Zones with fewer healthy targets than `needed`; none if that were all that have one.
fn failed_zones(members: &[Member], needed: MinHealthy) -> Box<[ZoneName]> {
    let mut zones: Vec<(&ZoneName, u32, u32)> = Vec::new();
    for member in members.iter().filter(|member| member.expected()) {
        let healthy = u32::from(member.health == HealthState::Healthy && member.ejected.is_none());
        match zones.last_mut().filter(|(zone, ..)| **zone == member.state.zone) {
            Some((_, all, well)) => (*all, *well) = (*all + 1, *well + healthy),
            None => zones.push((&member.state.zone, 1, healthy)),
        }
    }
    let fails = |all: u32, healthy: u32| match needed {
        MinHealthy::Number(number) => healthy < number,
        MinHealthy::Share(share) => f64::from(healthy) < f64::from(all) * share,
    };
    let (failed, well): (Vec<_>, Vec<_>) =
        zones.into_iter().partition(|(_, all, healthy)| fails(*all, *healthy));
    if well.iter().all(|(_, _, healthy)| *healthy == 0) {
        return Box::default();
    }
    failed.into_iter().map(|(zone, ..)| zone.clone()).collect()
}
