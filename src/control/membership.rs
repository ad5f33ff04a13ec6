//! Who is in a pool, and what checks and operator say of each: the one owner of that knowledge.
//!
//! Everything that changes a pool goes through [`PoolControl`], and [`PoolControl::publish`] is the only writer of
//! snapshots. Who is in the pool, its sources say ([`PoolControl::set_source`]); what no source lists any more drains and
//! then leaves. It lives on the control thread, so a `RefCell` is all the locking there is; no borrow is held across
//! an await.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::discovery::Progress;
use super::health::Probed;
use super::health::verdict::Transition;
use super::recent::Recent;
use super::review::{self, Reviewed};
use super::shift::Shifts;
use super::sources::{Listed, Source, Sources};
use super::standing::{Presence, Strength};
use super::tended::Tended;
use crate::config::{self, ZoneName};
use crate::pool::counters::Distribution;
use crate::pool::{AdminState, HealthState, Member, Pool, Pools, Snapshot, Status, TargetId, ZoneOut};

/// One pool, as the control plane sees it.
pub struct PoolControl {
    pool: Arc<Pool>,
    config: RefCell<Arc<config::Pool>>,
    pools: Arc<Pools>,
    sources: RefCell<Sources>,
    targets: RefCell<Vec<Tended>>,
    durations: RefCell<Recent>,
    /// Where this node stands.
    zone: RefCell<Option<ZoneName>>,
    shifts: Rc<Shifts>,
    reviewed: RefCell<Reviewed>,
    /// See [`PoolControl::expect`].
    expected: RefCell<HashMap<String, (AdminState, Option<Duration>)>>,
    /// Told of each new snapshot.
    published: Notify,
    /// See [`PoolControl::known`].
    known: Cell<bool>,
    /// The pool is no longer in the configuration.
    retired: Cell<bool>,
    /// Names in DNS where targets are found, by their questions.
    names: RefCell<BTreeMap<Arc<str>, Rc<Progress>>>,
}

impl PoolControl {
    /// Takes charge of `pool`, one of `pools`, with the targets of its configuration, and publishes them. The node stands in
    /// `zone`; zones are taken out by `shifts`.
    pub fn new(
        pool: Arc<Pool>,
        config: Arc<config::Pool>,
        pools: &Arc<Pools>,
        zone: Option<ZoneName>,
        shifts: Rc<Shifts>,
    ) -> Self {
        let written = config.targets.iter().map(Listed::from).collect();
        let control = Self {
            pool,
            config: RefCell::new(config),
            pools: pools.clone(),
            sources: RefCell::default(),
            targets: RefCell::default(),
            durations: RefCell::default(),
            zone: RefCell::new(zone),
            shifts,
            reviewed: RefCell::default(),
            expected: RefCell::default(),
            published: Notify::new(),
            known: Cell::new(false),
            retired: Cell::new(false),
            names: RefCell::default(),
        };
        control.set_source(&Source::File, written);
        control
    }

    /// The pool itself.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// What it shares with the data plane beside itself.
    pub(super) fn pools(&self) -> &Arc<Pools> {
        &self.pools
    }

    /// Its checked configuration.
    pub fn config(&self) -> Arc<config::Pool> {
        self.config.borrow().clone()
    }

    /// Takes on another configuration of the same pool, the node standing in `zone`, and publishes what follows from it. All
    /// that is known of its targets stays.
    pub fn adopt(&self, config: Arc<config::Pool>, zone: Option<ZoneName>) {
        let written = config.targets.iter().map(Listed::from).collect();
        let rules = &config.health;
        self.targets.borrow_mut().iter_mut().for_each(|target| target.checks.adopt(rules));
        self.config.replace(config);
        self.zone.replace(zone);
        self.set_source(&Source::File, written);
        self.publish();
    }

    /// The node is in service without this pool's targets being known: it came with a reload.
    pub fn join_late(&self) {
        self.known.set(true);
    }

    /// The pool is no longer in the configuration: requests in flight keep its last snapshot, and nobody tends it.
    pub fn retire(&self) {
        self.retired.set(true);
        self.published.notify_one();
    }

    /// Whether it is no longer in the configuration.
    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Its targets, in the order in which they came. Not to be held across an await.
    pub fn targets(&self) -> Ref<'_, [Tended]> {
        Ref::map(self.targets.borrow(), Vec::as_slice)
    }

    /// Its targets, to be changed. Not to be held across an await.
    pub(super) fn targets_mut(&self) -> RefMut<'_, Vec<Tended>> {
        self.targets.borrow_mut()
    }

    /// What the last looks at it have found. Not to be held across an await.
    pub fn reviewed(&self) -> Ref<'_, Reviewed> {
        self.reviewed.borrow()
    }

    /// The same, to be changed.
    pub(super) fn reviewed_mut(&self) -> RefMut<'_, Reviewed> {
        self.reviewed.borrow_mut()
    }

    /// Zones that the operator has taken out.
    pub fn shifts(&self) -> &Shifts {
        &self.shifts
    }

    /// How `zone` is taken out, if it is.
    pub fn zone_out(&self, zone: &ZoneName) -> Option<ZoneOut> {
        let (shift, reviewed) = (self.shifts.of(zone), self.reviewed.borrow());
        review::zone_out(&self.config().zones, shift.as_ref(), reviewed.gray.as_ref(), zone)
    }

    /// Whether it has a target in `zone`.
    pub fn has_zone(&self, zone: &str) -> bool {
        self.targets.borrow().iter().any(|target| &*target.state.zone == zone)
    }

    /// How `zone` would be taken out if the operator gave it back: it may be gray.
    pub fn zone_out_without_shift(&self, zone: &ZoneName) -> Option<ZoneOut> {
        review::zone_out(&self.config().zones, None, self.reviewed.borrow().gray.as_ref(), zone)
    }

    /// The snapshot there would be if its members were as `change` makes them.
    pub fn snapshot_if(&self, change: impl FnMut(&mut Member)) -> Snapshot {
        let mut members = self.members(&self.targets.borrow(), Instant::now());
        members.iter_mut().for_each(change);
        Snapshot::build(&self.config(), self.zone.borrow().as_ref(), members)
    }

    /// What each source lists. Not to be held across an await.
    pub fn sources(&self) -> Ref<'_, Sources> {
        self.sources.borrow()
    }

    /// Replaces what `source` lists, and publishes what follows: new targets wait for their first check; those that
    /// nobody lists any more drain, or leave at once if they cannot serve anyway.
    pub fn set_source(&self, source: &Source, list: Vec<Listed>) {
        if !self.sources.borrow_mut().set(source, list) {
            return;
        }
        let union = self.sources.borrow().union();
        let config = self.config();
        let (mut added, mut gone) = (0, 0);
        {
            let mut targets = self.targets.borrow_mut();
            let mut known: HashMap<_, _> =
                targets.drain(..).map(|target| (target.state.id, target)).collect();
            for (source, listed) in &union {
                let target = known.remove(&TargetId::of(&config.name, &listed.zone, listed.address));
                targets.push(target.map(|target| target.adopted(source.clone(), listed)).unwrap_or_else(
                    || {
                        added += 1;
                        let state = self.pools.state(&config.name, &listed.zone, listed.address);
                        let mut target = Tended::new(state, source.clone(), listed, &config.health);
                        if let Some((admin, deadline)) = self.expected.borrow_mut().remove(&target.state.name)
                        {
                            target.admin = admin;
                            target.drain.wish(admin, false, deadline, Instant::now());
                        }
                        target
                    },
                ));
            }
            for mut target in known.into_values() {
                gone += u32::from(target.standing.presence == Presence::Listed);
                target.standing.vanish();
                targets.push(target);
            }
        }
        info!(pool = %config.name, %source, added, gone, listed = union.len(), "the list of targets changed");
        self.publish();
    }

    /// Names in DNS where targets are found.
    pub fn names(&self) -> Vec<Rc<Progress>> {
        self.names.borrow().values().cloned().collect()
    }

    /// The name that asks this question, made at its first appearance.
    pub fn name(&self, question: &str) -> Rc<Progress> {
        let mut names = self.names.borrow_mut();
        names.entry(question.into()).or_insert_with(|| Rc::new(Progress::new(question.into()))).clone()
    }

    /// The name that asks this question is no longer followed: its targets are listed no more.
    pub fn forget_name(&self, question: &str) {
        self.names.borrow_mut().remove(question);
        self.set_source(&Source::Dns(question.into()), Vec::new());
    }

    /// Whether every name that the node began with has been looked up once, with or without an answer, and every target been
    /// checked once; or which has not. What comes later does not change it.
    pub fn known(&self) -> Result<(), String> {
        if !self.known.get() {
            let tried =
                |question: &str| self.names.borrow().get(question).is_some_and(|name| name.is_tried());
            let questions = self.config().discover.iter().map(config::Discover::question).collect::<Vec<_>>();
            if let Some(question) = questions.into_iter().find(|question| !tried(question)) {
                return Err(format!("{question} has not been looked up yet"));
            }
            let targets = self.targets.borrow();
            let unknown = |target: &&Tended| {
                target.checks.state() == HealthState::Initial && target.last_probe.is_none()
            };
            if let Some(target) = targets.iter().find(unknown) {
                return Err(format!("{} has not been checked yet", target.state.name));
            }
            self.known.set(true);
        }
        Ok(())
    }

    /// Waits for the next snapshot; one that came since the last call counts. For one task only.
    pub async fn published(&self) {
        self.published.notified().await;
    }

    /// When the next drain ends; [`PoolControl::publish`] is to be called then.
    pub fn next_departure(&self) -> Option<Instant> {
        self.targets.borrow().iter().filter_map(|target| target.standing.leaves_at()).min()
    }

    /// Takes the result of a check, and publishes what follows from it.
    pub fn record(&self, id: TargetId, probed: Probed) {
        let (decided, turned);
        let transition = {
            let mut targets = self.targets.borrow_mut();
            let Some(target) = targets.iter_mut().find(|target| target.state.id == id) else { return };
            target.probes[usize::from(!probed.passed)] += 1;
            let now = Instant::now();
            let was_recovering = target.checks.is_recovering();
            let transition = target.checks.observe(probed.passed, &self.config().health);
            turned = was_recovering != target.checks.is_recovering();
            let asked = target.drain.is_asked();
            if probed.passed {
                target.drain.wish(target.admin, probed.drain, None, now);
            }
            let is_well = transition.is_some_and(|transition| transition.to == HealthState::Healthy);
            let is_back = probed.passed && target.watched.record.pass_check(is_well);
            if is_well {
                target.watched.in_service_since = Some(now);
            }
            if is_back || is_well {
                target.begin_anew(now);
            } else if transition.is_some() {
                target.judge_anew();
            }
            if transition.is_some_and(|transition| transition.to == HealthState::Unhealthy) {
                target.watched.record.forget();
            }
            decided = match (asked, target.drain.is_asked(), is_back) {
                (false, true, _) => {
                    Some((target.state.name.clone(), "draining", format!("it asks for it: {}", probed.what)))
                }
                (true, false, _) => Some((
                    target.state.name.clone(),
                    "returned",
                    "it no longer asks to be drained".to_owned(),
                )),
                (_, _, true) => {
                    Some((target.state.name.clone(), "returned", format!("a check passed: {}", probed.what)))
                }
                _ => None,
            };
            if let Some(transition) = transition {
                self.log(&target.state.name, transition, &probed.what);
            }
            target.last_probe = Some(probed);
            transition
        };
        let changed = turned || transition.is_some() || decided.is_some();
        if let Some((name, what, reason)) = decided {
            self.decide(name, what, reason);
        }
        if changed {
            self.publish();
        }
    }

    /// Sets what the operator has said of a target before the node was started; it holds when the target comes.
    pub fn expect(&self, name: &str, admin: AdminState, deadline: Option<Duration>) {
        self.expected.borrow_mut().insert(name.to_owned(), (admin, deadline));
        self.set_admin(name, admin, deadline);
    }

    /// Sets what the operator says of the target called `name` (`zone/address`); `false` when there is none. `deadline` is for
    /// the bound sessions of one that is drained; `None` is that of the pool.
    pub fn set_admin(&self, name: &str, admin: AdminState, deadline: Option<Duration>) -> bool {
        let from = {
            let mut targets = self.targets.borrow_mut();
            let Some(target) = targets.iter_mut().find(|target| target.state.name == name) else {
                return false;
            };
            let now = Instant::now();
            target.drain.wish(admin, target.drain.is_asked(), deadline, now);
            if admin == AdminState::Up && target.admin != admin {
                target.watched.in_service_since = Some(now);
            }
            std::mem::replace(&mut target.admin, admin)
        };
        if from != admin || deadline.is_some() {
            let (from, to) = (admin_word(from), admin_word(admin));
            self.decide(name.to_owned(), to, format!("the operator set it from {from} to {to}"));
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

    /// What was counted before, by another process, is not recent, and nothing is judged by it.
    pub(super) fn begin_anew(&self) {
        self.durations.replace(Recent::after(self.durations_ever()));
        for target in self.targets_mut().iter_mut() {
            target.first_byte = Recent::after(target.first_byte_ever());
            target.judge_anew();
        }
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
    pub fn publish(&self) {
        let mut targets = self.targets.borrow_mut();
        let strength = Strength::of(targets.iter().map(|target| (&target.standing, target.takes_new())));
        let (now, before) = (Instant::now(), targets.len());
        let deadline = self.config().drain.deadline;
        targets.iter_mut().for_each(|target| target.standing.settle(&strength, now, deadline));
        targets.retain(|target| target.stays(now));
        if targets.len() < before {
            let (pool, left) = (&self.pool.name, before - targets.len());
            info!(%pool, left, "targets that are no longer listed have left");
        }
        let members = self.members(&targets, now);
        let snapshot = Snapshot::build(&self.config(), self.zone.borrow().as_ref(), members);
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
        self.published.notify_one();
    }

    fn members(&self, targets: &[Tended], now: Instant) -> Vec<Member> {
        let config = self.config();
        let strength = Strength::of(targets.iter().map(|target| (&target.standing, target.takes_new())));
        let mut zones: HashMap<ZoneName, Option<ZoneOut>> = HashMap::new();
        let member = |target: &Tended| {
            let zone = &target.state.zone;
            let zone_out = *zones.entry(zone.clone()).or_insert_with(|| self.zone_out(zone));
            target.member(&config, &strength, zone_out, now)
        };
        targets.iter().map(member).collect()
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

/// As the API and the log write it.
pub fn health_word(health: HealthState) -> &'static str {
    match health {
        HealthState::Initial => "initial",
        HealthState::Healthy => "healthy",
        HealthState::Unhealthy => "unhealthy",
    }
}

/// The same read back; what another version writes is not known.
pub fn health_of(word: &str) -> HealthState {
    match word {
        "healthy" => HealthState::Healthy,
        "unhealthy" => HealthState::Unhealthy,
        _ => HealthState::Initial,
    }
}

/// As the API and the log write it.
pub fn admin_word(admin: AdminState) -> &'static str {
    match admin {
        AdminState::Up => "up",
        AdminState::Drain | AdminState::Drained => "drain",
        AdminState::Down => "down",
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
