//! An immutable view of a pool: who is in it, who takes new sessions, who keeps bound ones.
//!
//! Built by the control plane from [`Member`]s, read by requests. All decisions that depend only on membership and
//! health are made here, once per change, so that a request only picks.

use std::sync::Arc;

use foldhash::HashMap;
use foldhash::HashMapExt as _;

use super::target::{TargetId, TargetState};
use crate::config;

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

/// What the operator says of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminState {
    /// In service.
    Up,
    /// Keeps its bound sessions, takes no new ones.
    Drain,
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
    /// From the operator.
    pub admin: AdminState,
    /// From those who list it.
    pub duty: Duty,
}

impl Member {
    /// Whether it would take new sessions if it were healthy.
    fn expected(&self) -> bool {
        self.admin == AdminState::Up && self.duty == Duty::Serving
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
    /// Would take new sessions if no target of a lower priority could.
    Standby,
    /// Bound sessions only.
    Draining,
    /// Taken out by the operator.
    Down,
}

impl Status {
    /// Every status, in the order of the metrics.
    pub const ALL: [Self; 6] =
        [Self::Initial, Self::Healthy, Self::Unhealthy, Self::Standby, Self::Draining, Self::Down];

    /// As written in the API and the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Initial => "initial",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Standby => "standby",
            Self::Draining => "draining",
            Self::Down => "down",
        }
    }
}

/// One target in a snapshot.
pub struct Target {
    /// Identity and what outlives snapshots.
    pub state: Arc<TargetState>,
    /// Share relative to the others.
    pub weight: u32,
    /// Requests in flight at most; `u32::MAX` for no limit.
    pub max_connections: u32,
    /// Predicate one: may get a request that has no session yet, or a re-homed one.
    pub takes_new: bool,
    /// Predicate two: may get a request of a session bound to it.
    pub keeps_bound: bool,
    /// The reason for both.
    pub status: Status,
}

/// See the module's documentation.
pub struct Snapshot {
    /// All targets, in a stable order (zone, then address).
    pub targets: Box<[Target]>,
    /// Indices of the targets that take new sessions.
    pub open: Box<[u32]>,
    /// One round of smooth weighted round robin over [`Snapshot::open`]: indices into `targets`.
    pub rotation: Box<[u32]>,
    /// Health is being ignored because too few targets are healthy.
    pub panic: bool,
    by_id: HashMap<TargetId, u32>,
}

impl Snapshot {
    /// The view that follows from `members`.
    pub fn build(config: &config::Pool, mut members: Vec<Member>) -> Self {
        members.sort_by(|a, b| (&a.state.zone, a.state.address).cmp(&(&b.state.zone, b.state.address)));
        let panic = panics(&members, config.zones.panic);
        let targets: Box<[Target]> = members.into_iter().map(|member| Target::new(member, panic)).collect();
        let open: Box<[u32]> =
            (0..targets.len() as u32).filter(|index| targets[*index as usize].takes_new).collect();
        let rotation = smooth_rotation(&targets, &open);
        let mut by_id = HashMap::with_capacity(targets.len());
        by_id.extend(targets.iter().zip(0..).map(|(target, index)| (target.state.id, index)));
        Self { targets, open, rotation, panic, by_id }
    }

    /// Where in [`Snapshot::targets`] this identity stands.
    pub fn index_of(&self, id: TargetId) -> Option<usize> {
        self.by_id.get(&id).map(|index| *index as usize)
    }
}

impl Target {
    fn new(member: Member, panic: bool) -> Self {
        let status = match (member.admin, member.health, member.duty) {
            (AdminState::Down, ..) => Status::Down,
            (_, HealthState::Unhealthy, _) => Status::Unhealthy,
            (AdminState::Drain, ..) | (_, _, Duty::Leaving) => Status::Draining,
            (AdminState::Up, HealthState::Initial, _) => Status::Initial,
            (AdminState::Up, HealthState::Healthy, Duty::Standby) => Status::Standby,
            (AdminState::Up, HealthState::Healthy, Duty::Serving) => Status::Healthy,
        };
        let alive = match member.health {
            HealthState::Healthy => true,
            HealthState::Unhealthy => panic,
            HealthState::Initial => false,
        };
        Self {
            takes_new: alive && member.expected() && member.weight > 0,
            // A target that was not checked yet may be as well as when the session was bound: if it is not, the request
            // goes elsewhere and the session stays.
            keeps_bound: (alive || member.health == HealthState::Initial) && member.admin != AdminState::Down,
            status,
            state: member.state,
            weight: member.weight,
            max_connections: member.max_connections,
        }
    }
}

/// Whether so few targets are healthy that health says more about the checks than about the targets.
///
/// Targets that the operator took out do not count, nor do those that stand by or leave, nor those never checked.
fn panics(members: &[Member], threshold: f64) -> bool {
    let checked = members.iter().filter(|m| m.expected() && m.health != HealthState::Initial);
    let (mut all, mut healthy) = (0u32, 0u32);
    for member in checked {
        all += 1;
        healthy += u32::from(member.health == HealthState::Healthy);
    }
    all > 0 && f64::from(healthy) < f64::from(all) * threshold
}

/// Longest rotation kept; larger sums of weights are scaled down to it.
const ROTATION_MAX: u64 = 4096;

/// The order in which smooth weighted round robin visits the open targets: each as often as its weight says, and
/// never in bursts.
fn smooth_rotation(targets: &[Target], open: &[u32]) -> Box<[u32]> {
    let weights: Vec<u64> = open.iter().map(|index| u64::from(targets[*index as usize].weight)).collect();
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let sum: u64 = weights.iter().map(|weight| weight / divisor).sum();
    let scale = |weight: u64| match sum {
        0..=ROTATION_MAX => weight / divisor,
        _ => (weight / divisor * ROTATION_MAX / sum).max(1),
    };
    let weights: Vec<i64> = weights.into_iter().map(|weight| scale(weight) as i64).collect();
    let total: i64 = weights.iter().sum();
    if weights.iter().all(|weight| *weight == 1) {
        return open.into();
    }
    let mut current = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            let mut best = 0;
            for (index, weight) in weights.iter().enumerate() {
                current[index] += weight;
                if current[index] > current[best] {
                    best = index;
                }
            }
            current[best] -= total;
            open[best]
        })
        .collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
