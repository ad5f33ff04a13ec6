//! Who is in a pool, and what checks and operator say of each: the one owner of that knowledge.
//!
//! Everything that changes a pool goes through [`PoolControl`], and [`PoolControl::publish`] is the only writer of
//! snapshots. It lives on the control thread, so a `RefCell` is all the locking there is; no borrow is held across
//! an await.

use std::cell::{Ref, RefCell};
use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::health::Probed;
use super::health::verdict::{Checks, Transition};
use super::recent::Recent;
use crate::config;
use crate::pool::counters::Distribution;
use crate::pool::{AdminState, HealthState, Member, Pool, Pools, Snapshot, Status, TargetId, TargetState};

/// One pool, as the control plane sees it.
pub struct PoolControl {
    pool: Arc<Pool>,
    config: RefCell<Arc<config::Pool>>,
    targets: RefCell<Vec<Tended>>,
    durations: RefCell<Recent>,
}

/// One target of a pool, with all that led to its status.
pub struct Tended {
    /// Identity and what outlives snapshots.
    pub state: Arc<TargetState>,
    /// Share relative to the others.
    pub weight: u32,
    /// Requests in flight at most; `None` for no limit.
    pub max_connections: Option<u32>,
    /// From the operator.
    pub admin: AdminState,
    /// From active checks.
    pub checks: Checks,
    /// The last check; `None` before the first has ended.
    pub last_probe: Option<Probed>,
    /// Checks that passed, and checks that failed.
    pub probes: [u64; 2],
    /// Times to the first byte.
    first_byte: Recent,
    /// Its status in the snapshot that was published last.
    pub status: Status,
    /// When it got this status.
    pub since: SystemTime,
}

impl PoolControl {
    /// Takes charge of `pool` with the targets of its configuration, and publishes them.
    pub fn new(pool: Arc<Pool>, config: Arc<config::Pool>, pools: &Pools) -> Self {
        let targets = config.targets.iter().map(|target| {
            let state = pools.state(&pool.name, &target.zone, target.address);
            Tended::new(state, target, &config.health)
        });
        let targets = RefCell::new(targets.collect());
        let config = RefCell::new(config);
        let control = Self { pool, config, targets, durations: RefCell::default() };
        control.publish();
        control
    }

    /// The pool itself.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its checked configuration.
    pub fn config(&self) -> Arc<config::Pool> {
        self.config.borrow().clone()
    }

    /// Its targets, in the order of the configuration. Not to be held across an await.
    pub fn targets(&self) -> Ref<'_, [Tended]> {
        Ref::map(self.targets.borrow(), Vec::as_slice)
    }

    /// Takes the result of a check, and publishes what follows from it.
    pub fn record(&self, id: TargetId, probed: Probed) {
        let transition = {
            let mut targets = self.targets.borrow_mut();
            let Some(target) = targets.iter_mut().find(|target| target.state.id == id) else { return };
            target.probes[usize::from(!probed.passed)] += 1;
            let transition = target.checks.observe(probed.passed, &self.config().health);
            if let Some(transition) = transition {
                self.log(&target.state.name, transition, &probed.what);
            }
            target.last_probe = Some(probed);
            transition
        };
        if transition.is_some() {
            self.publish();
        }
    }

    /// Sets what the operator says of the target called `name` (`zone/address`); `false` when there is none.
    pub fn set_admin(&self, name: &str, admin: AdminState) -> bool {
        let from = {
            let mut targets = self.targets.borrow_mut();
            let Some(target) = targets.iter_mut().find(|target| target.state.name == name) else {
                return false;
            };
            std::mem::replace(&mut target.admin, admin)
        };
        if from != admin {
            let (from, to) = (admin_word(from), admin_word(admin));
            info!(pool = %self.pool.name, target = %name, %from, %to, "the operator changed a target");
            self.publish();
        }
        true
    }

    /// Times from a request's head to the end of its answer, in the last minute.
    pub fn durations(&self) -> Distribution {
        self.durations.borrow().of(&self.durations_ever())
    }

    fn durations_ever(&self) -> Distribution {
        Distribution::of_lanes(&self.pool.lanes, |lane| &lane.duration)
    }

    /// Copies the durations of the pool and of its targets; called once every [`super::recent::STEP`].
    pub fn keep_recent(&self) {
        self.durations.borrow_mut().keep(self.durations_ever());
        for target in self.targets.borrow_mut().iter_mut() {
            let ever = target.first_byte_ever();
            target.first_byte.keep(ever);
        }
    }

    /// Makes what is known now the view of all requests to come.
    fn publish(&self) {
        let mut targets = self.targets.borrow_mut();
        let snapshot = Snapshot::build(&self.config(), targets.iter().map(Tended::member).collect());
        let panicked = self.pool.snapshot().panic;
        if snapshot.panic != panicked {
            self.log_panic(&snapshot);
        }
        let now = SystemTime::now();
        for target in targets.iter_mut() {
            let index = snapshot.index_of(target.state.id);
            let status = index.map_or(target.status, |index| snapshot.targets[index].status);
            if status != target.status {
                (target.status, target.since) = (status, now);
            }
        }
        self.pool.publish(snapshot);
    }

    fn log(&self, target: &str, transition: Transition, reason: &str) {
        let pool = &self.pool.name;
        let Transition { from, to, consecutive } = transition;
        let (from, to_word) = (health_word(from), health_word(to));
        match to {
            HealthState::Unhealthy => {
                warn!(%pool, %target, %from, to = %to_word, consecutive, reason, "a target failed its checks");
            }
            _ => {
                info!(%pool, %target, %from, to = %to_word, consecutive, reason, "a target passes its checks")
            }
        }
    }

    fn log_panic(&self, snapshot: &Snapshot) {
        let pool = &self.pool.name;
        let targets = snapshot.targets.len();
        let healthy = snapshot.targets.iter().filter(|target| target.status == Status::Healthy).count();
        let threshold = self.config().zones.panic;
        if snapshot.panic {
            warn!(%pool, healthy, targets, threshold, "too few targets are healthy: health is ignored");
        } else {
            info!(%pool, healthy, targets, threshold, "enough targets are healthy again: health counts");
        }
    }
}

impl Tended {
    fn new(state: Arc<TargetState>, target: &config::StaticTarget, rules: &config::Health) -> Self {
        Self {
            state,
            weight: target.weight,
            max_connections: target.max_connections,
            admin: AdminState::Up,
            checks: Checks::new(rules),
            last_probe: None,
            probes: [0; 2],
            first_byte: Recent::default(),
            status: Status::Initial,
            since: SystemTime::now(),
        }
    }

    /// Whether it answers checks and may get requests, if only those of bound sessions.
    pub fn in_service(&self) -> bool {
        self.checks.state() == HealthState::Healthy && self.admin != AdminState::Down
    }

    /// Times from an attempt's start to the head of the answer, in the last minute.
    pub fn first_byte(&self) -> Distribution {
        self.first_byte.of(&self.first_byte_ever())
    }

    fn first_byte_ever(&self) -> Distribution {
        Distribution::of_lanes(&self.state.lanes, |lane| &lane.first_byte)
    }

    fn member(&self) -> Member {
        Member {
            state: self.state.clone(),
            weight: self.weight,
            max_connections: self.max_connections.unwrap_or(u32::MAX),
            health: self.checks.state(),
            admin: self.admin,
        }
    }
}

/// As the API and the log write it.
pub fn health_word(health: HealthState) -> &'static str {
    match health {
        HealthState::Initial => "initial",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
}

/// As the API and the log write it.
pub fn admin_word(admin: AdminState) -> &'static str {
    match admin {
        AdminState::Up => "up",
        AdminState::Drain => "drain",
        AdminState::Down => "down",
    }
}
