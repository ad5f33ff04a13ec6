//! What the control plane of a process leaves to that of the process that takes its place, and how that takes it on.
//!
//! ```text
//! Control::leave ─▶ Inheritance ─JSON─▶ Control::inherit: before anything is published, so no target waits for a check
//! ```
//!
//! Times are relative to the moment of the handover: instants mean nothing in another process. Whatever a version does not
//! know it ignores, and what it misses it begins anew; so any version hands over to any other. A target that the new
//! configuration does not list drains, as after a reload.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::dns_answers::LeftNode;
use super::gray_zone::Gray;
use super::health::verdict::Checks;
use super::membership::{PoolControl, health_of};
use super::outlier::{Left, Record};
use super::review::Decision;
use super::shift::Shift;
use super::sources::{Listed, Source};
use super::standing::{Presence, Standing};
use super::state::{Kept, KeptShift};
use super::tended::Tended;
use super::{Control, drain};
use crate::config::ZoneName;
use crate::pool::inherit::{Counts, since};
use crate::pool::{AdminState, TargetId};

/// See the module's documentation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inheritance {
    /// What operators decided.
    kept: Kept,
    /// Zones that they have taken out; also when no file keeps it.
    shifts: BTreeMap<String, KeptShift>,
    pools: BTreeMap<String, LeftPool>,
    /// Of the balancer, as they are answered over DNS.
    nodes: Vec<LeftNode>,
    /// By result.
    upgrades: [u64; 3],
    /// All that was counted.
    pub tallies: Tallies,
}

/// Everything that is counted, by name.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
pub struct Tallies {
    workers: Counts,
    pools: BTreeMap<String, Counts>,
    /// By pool and target.
    targets: BTreeMap<String, BTreeMap<String, Counts>>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LeftPool {
    /// What names in DNS list, by what is asked.
    names: BTreeMap<String, Vec<LeftListed>>,
    targets: Vec<LeftTarget>,
    gray: Option<LeftGray>,
    decisions: Vec<LeftDecision>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftListed {
    target: String,
    weight: u32,
    #[serde(default)]
    max_connections: Option<u32>,
    #[serde(default)]
    priority: u16,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct LeftTarget {
    name: String,
    weight: u32,
    max_connections: Option<u32>,
    /// `file`, `runtime`, or what is asked in DNS.
    source: String,
    priority: u16,
    leaves_in_ms: Option<u64>,
    admin: String,
    drain: drain::Left,
    health: String,
    passes: u32,
    failures: u32,
    probes: [u64; 2],
    in_service_ms: Option<u64>,
    record: Left,
    /// Sessions seen lately: the sketch, and when the last was.
    sessions: Option<(String, u32)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftGray {
    zone: String,
    since_ms: u64,
    until_ms: u64,
    moves_sessions: bool,
    reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeftDecision {
    /// Seconds since 1970.
    at: u64,
    subject: String,
    what: String,
    reason: String,
}

/// A duration as it is handed over.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The moment that was so long ago, or the earliest there is.
pub fn ago(now: Instant, ms: u64) -> Instant {
    now.checked_sub(Duration::from_millis(ms)).unwrap_or(now)
}

/// The moment so far ahead: at most a year.
pub fn ahead(now: Instant, ms: u64) -> Instant {
    now + Duration::from_millis(ms).min(Duration::from_secs(365 * 86_400))
}

impl Control {
    /// All that another process needs to go on where this one is.
    pub fn leave(&self) -> Inheritance {
        let shifts = self.shifts.all();
        Inheritance {
            kept: self.state.kept().clone(),
            shifts: shifts.iter().map(|(zone, shift)| (zone.to_string(), shift.into())).collect(),
            pools: self
                .running()
                .pools
                .iter()
                .map(|pool| (pool.pool().name.to_string(), pool.leave()))
                .collect(),
            nodes: self.dns.as_ref().map(|nodes| nodes.leave()).unwrap_or_default(),
            upgrades: self.upgrades.counts(),
            tallies: self.tallies(),
        }
    }

    /// All that was counted so far, what was inherited included.
    pub fn tallies(&self) -> Tallies {
        let running = self.running();
        let of_targets = |pool: &PoolControl| {
            let targets = pool.targets();
            targets.iter().map(|target| (target.state.name.clone(), target.state.lanes.counts())).collect()
        };
        let name = |pool: &PoolControl| pool.pool().name.to_string();
        Tallies {
            workers: self.node.pools.workers.counts(),
            pools: running.pools.iter().map(|pool| (name(pool), pool.pool().lanes.counts())).collect(),
            targets: running.pools.iter().map(|pool| (name(pool), of_targets(pool))).collect(),
        }
    }

    /// Takes on what another process has left. To be called before anything of this one is published to the workers.
    pub fn inherit(&self, left: &Inheritance) {
        for (zone, kept) in &left.shifts {
            self.shifts.begin(&ZoneName::from(zone.as_str()), Shift::from(kept));
        }
        self.shifts.expire(SystemTime::now());
        let running = self.running();
        for pool in &running.pools {
            if let Some(left) = left.pools.get(&*pool.pool().name) {
                pool.inherit(left);
            }
        }
        self.upgrades.inherit(left.upgrades);
        self.count_inherited(&left.tallies);
        running.pools.iter().for_each(|pool| pool.begin_anew());
    }

    /// Adds what another process has counted: at the handover, and of its last requests afterwards.
    pub fn count_inherited(&self, left: &Tallies) {
        self.node.pools.workers.inherit(&left.workers);
        for pool in &self.running().pools {
            let name = &*pool.pool().name;
            if let Some(counts) = left.pools.get(name) {
                pool.pool().lanes.inherit(counts);
            }
            let Some(of_targets) = left.targets.get(name) else { continue };
            for target in pool.targets().iter() {
                if let Some(counts) = of_targets.get(&target.state.name) {
                    target.state.lanes.inherit(counts);
                }
            }
        }
    }
}

impl Inheritance {
    /// What operators decided.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What was known of the balancer's nodes.
    pub fn nodes(&self) -> &[LeftNode] {
        &self.nodes
    }
}

impl Tallies {
    /// What `self` has beyond `then`.
    pub fn since(&self, then: &Self) -> Self {
        let none = (Counts::new(), BTreeMap::new());
        let pools = self.pools.iter();
        let targets = self.targets.iter().map(|(pool, targets)| {
            let then = then.targets.get(pool).unwrap_or(&none.1);
            let grown = targets
                .iter()
                .map(|(name, now)| (name.clone(), since(now, then.get(name).unwrap_or(&none.0))));
            (pool.clone(), grown.collect())
        });
        Self {
            workers: since(&self.workers, &then.workers),
            pools: pools
                .map(|(name, now)| (name.clone(), since(now, then.pools.get(name).unwrap_or(&none.0))))
                .collect(),
            targets: targets.collect(),
        }
    }
}

impl PoolControl {
    fn leave(&self) -> LeftPool {
        let now = Instant::now();
        let sources = self.sources();
        let names = sources.names().map(|(question, list)| {
            let left = |listed: &Listed| LeftListed {
                target: format!("{}/{}", listed.zone, listed.address),
                weight: listed.weight,
                max_connections: listed.max_connections,
                priority: listed.priority,
            };
            (question.to_owned(), list.iter().map(left).collect())
        });
        let reviewed = self.reviewed();
        let gray = reviewed.gray.as_ref().map(|gray| LeftGray {
            zone: gray.zone.to_string(),
            since_ms: millis(now.saturating_duration_since(gray.since)),
            until_ms: millis(gray.until.saturating_duration_since(now)),
            moves_sessions: gray.moves_sessions,
            reason: gray.reason.clone(),
        });
        let decisions = reviewed.decisions.iter().map(|decision| LeftDecision {
            at: decision.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            subject: decision.subject.clone(),
            what: decision.what.to_string(),
            reason: decision.reason.clone(),
        });
        LeftPool {
            names: names.collect(),
            targets: self.targets().iter().map(|target| LeftTarget::of(target, now)).collect(),
            gray,
            decisions: decisions.collect(),
        }
    }

    fn inherit(&self, left: &LeftPool) {
        let now = Instant::now();
        let questions: Vec<_> = self.config().discover.iter().map(|name| name.question()).collect();
        for (question, list) in left.names.iter().filter(|(question, _)| questions.contains(question)) {
            let list = list.iter().filter_map(|left| {
                let listed = Listed::registered(&left.target, left.weight, left.max_connections).ok()?;
                Some(Listed { priority: left.priority, ..listed })
            });
            self.set_source(&Source::Dns(question.as_str().into()), list.collect());
        }
        for left in &left.targets {
            self.inherit_target(left, now);
        }
        if let Some(gray) = &left.gray {
            self.reviewed_mut().gray = Some(Gray {
                zone: gray.zone.as_str().into(),
                since: ago(now, gray.since_ms),
                until: ahead(now, gray.until_ms),
                moves_sessions: gray.moves_sessions,
                reason: gray.reason.clone(),
            });
        }
        self.reviewed_mut().decisions.extend(left.decisions.iter().map(|decision| Decision {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(decision.at),
            subject: decision.subject.clone(),
            what: decision.what.clone().into(),
            reason: decision.reason.clone(),
        }));
        // What the other process had to find out before it was ready is found out.
        self.join_late();
        self.publish();
    }

    fn inherit_target(&self, left: &LeftTarget, now: Instant) {
        let Ok(listed) = Listed::registered(&left.name, left.weight, left.max_connections) else { return };
        let config = self.config();
        let id = TargetId::of(&config.name, &listed.zone, listed.address);
        let mut targets = self.targets_mut();
        let at = targets.iter().position(|target| target.state.id == id).unwrap_or_else(|| {
            let source = match left.source.as_str() {
                "file" => Source::File,
                "runtime" => Source::Runtime,
                question => Source::Dns(question.into()),
            };
            let state = self.pools().state(&config.name, &listed.zone, listed.address);
            let mut target = Tended::new(state, source.clone(), &listed, &config.health);
            target.standing = Standing::listed(source, left.priority);
            match left.leaves_in_ms {
                Some(ms) => target.standing.presence = Presence::Leaving(ahead(now, ms)),
                None => target.standing.vanish(),
            }
            targets.push(target);
            targets.len() - 1
        });
        left.apply(&mut targets[at], &config, now);
    }
}

impl LeftTarget {
    fn of(target: &Tended, now: Instant) -> Self {
        let (passes, failures) = target.checks.in_a_row();
        Self {
            name: target.state.name.clone(),
            weight: target.weight,
            max_connections: target.max_connections,
            source: match &target.standing.source {
                Source::Dns(question) => question.to_string(),
                other => other.to_string(),
            },
            priority: target.standing.priority,
            leaves_in_ms: target.standing.leaves_at().map(|at| millis(at.saturating_duration_since(now))),
            admin: super::membership::admin_word(target.admin).to_owned(),
            drain: target.drain.leave(now),
            health: super::membership::health_word(target.checks.state()).to_owned(),
            passes,
            failures,
            probes: target.probes,
            in_service_ms: target
                .watched
                .in_service_since
                .map(|at| millis(now.saturating_duration_since(at))),
            record: target.watched.record.leave(now),
            sessions: target.state.bound().map(|bound| {
                let (registers, last_seen) = bound.leave();
                (BASE64_STANDARD.encode(registers), last_seen)
            }),
        }
    }

    fn apply(&self, target: &mut Tended, config: &Arc<crate::config::Pool>, now: Instant) {
        target.admin = match self.admin.as_str() {
            "drain" => AdminState::Drain,
            "down" => AdminState::Down,
            _ => AdminState::Up,
        };
        target.drain = drain::Drain::inherit(&self.drain, now);
        target.checks = Checks::inherited(health_of(&self.health), self.passes, self.failures);
        target.checks.adopt(&config.health);
        target.probes = self.probes;
        target.watched.in_service_since = self.in_service_ms.map(|ms| ago(now, ms));
        target.watched.record = Record::inherit(&self.record, now);
        if let Some((sketch, last_seen)) = &self.sessions
            && let Ok(registers) = BASE64_STANDARD.decode(sketch)
        {
            target.state.inherit_bound(&registers, *last_seen);
        }
    }
}
