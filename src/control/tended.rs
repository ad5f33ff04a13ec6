//! One target of a pool as the control plane keeps it: what every decision about the target has said so far, and the member that the
//! next snapshot shows of it.
//!
//! Nothing is decided here; `review.rs`, `health/`, `drain.rs` and `standing.rs` decide, `membership.rs` tells what changed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::drain::Drain;
use super::health::Probed;
use super::health::verdict::Checks;
use super::recent::Recent;
use super::review::Watched;
use super::sources::{Listed, Source};
use super::standing::{Presence, Standing, Strength};
use crate::config;
use crate::pool::counters::Distribution;
use crate::pool::{AdminState, HealthState, Leave, Member, Status, TargetState, ZoneOut};

/// One target of a pool, with all that led to its status.
pub struct Tended {
    /// Identity and what outlives snapshots.
    pub state: Arc<TargetState>,
    /// Share relative to the others.
    pub weight: u32,
    /// Requests in flight at most; `None` for no limit.
    pub max_connections: Option<u32>,
    /// Who lists it, and whether they still do.
    pub standing: Standing,
    /// From the operator.
    pub admin: AdminState,
    /// From active checks.
    pub checks: Checks,
    /// The last check; `None` before the first has ended.
    pub last_probe: Option<Probed>,
    /// Checks that passed, and checks that failed.
    pub probes: [u64; 2],
    /// Times to the first byte.
    pub(super) first_byte: Recent,
    /// Its status in the snapshot that was published last.
    pub status: Status,
    /// When it got this status.
    pub since: SystemTime,
    /// How it behaves.
    pub watched: Watched,
    /// How it leaves on purpose.
    pub drain: Drain,
    /// Whether it was safe to remove at the last look.
    pub was_safe: bool,
}

impl Tended {
    pub(super) fn new(
        state: Arc<TargetState>,
        source: Source,
        listed: &Listed,
        rules: &config::Health,
    ) -> Self {
        Self {
            state,
            weight: listed.weight,
            max_connections: listed.max_connections,
            standing: Standing::listed(source, listed.priority),
            admin: AdminState::Up,
            checks: Checks::new(rules),
            last_probe: None,
            probes: [0; 2],
            first_byte: Recent::default(),
            status: Status::Initial,
            since: SystemTime::now(),
            watched: Watched::default(),
            drain: Drain::default(),
            was_safe: false,
        }
    }

    /// The same target as `source` lists it now.
    pub(super) fn adopted(self, source: Source, listed: &Listed) -> Self {
        Self {
            weight: listed.weight,
            max_connections: listed.max_connections,
            standing: Standing::listed(source, listed.priority),
            ..self
        }
    }

    /// Whether nothing but its duty keeps it from new sessions.
    pub(super) fn takes_new(&self) -> bool {
        self.checks.state() == HealthState::Healthy && self.admin == AdminState::Up && self.weight > 0
    }

    /// Whether it is still of use to anybody.
    pub(super) fn stays(&self, now: Instant) -> bool {
        let kept = || self.in_service() && self.standing.leaves_at().is_none_or(|at| now < at);
        self.standing.presence == Presence::Listed || kept()
    }

    /// Whether it answers checks and may get requests, if only those of bound sessions.
    pub fn in_service(&self) -> bool {
        self.checks.state() == HealthState::Healthy && self.admin != AdminState::Down
    }

    /// Times from an attempt's start to the head of the answer, in the last minute.
    pub fn first_byte(&self) -> Distribution {
        self.first_byte.of(&self.first_byte_ever())
    }

    pub(super) fn first_byte_ever(&self) -> Distribution {
        Distribution::of_lanes(&self.state.lanes, |lane| &lane.first_byte)
    }

    pub(super) fn member(
        &self,
        config: &config::Pool,
        strength: &Strength,
        zone_out: Option<ZoneOut>,
        now: Instant,
    ) -> Member {
        Member {
            state: self.state.clone(),
            weight: self.weight,
            max_connections: self.max_connections.unwrap_or(u32::MAX),
            health: self.checks.state(),
            recovering: self.checks.is_recovering(),
            admin: self.drain.state(self.admin, config.drain.deadline, now),
            ejected: self.watched.record.ejected.as_ref().map(|ejection| ejection.stay),
            zone_out,
            ramp: self.watched.ramp(config.slow_start, now),
            duty: self.standing.duty(strength),
            leave: self.leave(config.drain.deadline),
        }
    }

    /// Until when tunnels may stay, drains lasting `drain` unless the operator has said otherwise.
    fn leave(&self, drain: Duration) -> Leave {
        if self.admin == AdminState::Down {
            return Leave::Now;
        }
        let asked = self.drain.since().zip(self.drain.ends_at(drain));
        let unlisted = self.standing.leaves_at().map(|end| (end.checked_sub(drain).unwrap_or(end), end));
        let first = asked.into_iter().chain(unlisted).min_by_key(|(_, end)| *end);
        first.map_or(Leave::No, |(since, end)| Leave::By { since, end })
    }
}
