//! The regular look at a pool: who is ejected, who is back, which zone is gray, which drain is over.
//!
//! Once a second, and at once when a worker has suspended a target. Only collects what is known and carries out what
//! `outlier`, `gray_zone`, `drain` and `shift` decide, each decision with its numbers in the log and in the pool's list.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use super::gray_zone::{self, Finding, Gray, ZoneEvidence};
use super::membership::PoolControl;
use super::outlier::{self, Evidence, Record};
use super::tended::Tended;
use super::window::{STEP, Tally, Window};
use super::{drain, shift::Shift};
use crate::config::{self, ZoneName};
use crate::pool::{HealthState, Status, TargetId, ZoneOut};

/// Decisions kept for people to read.
const DECISIONS: usize = 50;

/// Half of the window in which bound sessions are counted.
const SESSIONS_TURN: Duration = Duration::from_secs(150);

/// Least share of a target that starts slowly.
const SLOW_START_FLOOR: f64 = 0.1;

/// What is remembered of one target's behaviour.
#[derive(Debug, Default)]
pub struct Watched {
    /// Its ejections.
    pub record: Record,
    window: Window,
    /// What it had done when it was judged anew last.
    before: Tally,
    /// Since when it is in service.
    pub in_service_since: Option<Instant>,
}

/// What is remembered of a whole pool.
#[derive(Debug, Default)]
pub struct Reviewed {
    /// The zone that is out because it stands out.
    pub gray: Option<Gray>,
    /// What was decided lately, the newest last.
    pub decisions: VecDeque<Decision>,
    sampled_at: Option<Instant>,
    turned_at: Option<Instant>,
}

/// Something was decided about a target or a zone.
#[derive(Debug, Clone)]
pub struct Decision {
    /// When.
    pub at: SystemTime,
    /// `zone/address`, or the zone.
    pub subject: String,
    /// What, in a word.
    pub what: Cow<'static, str>,
    /// Why, with the numbers.
    pub reason: String,
}

impl Watched {
    /// The part of its weight that counts at `now`.
    pub fn ramp(&self, slow_start: Duration, now: Instant) -> f64 {
        let trial = if self.record.trial_until.is_some() { outlier::TRIAL_SHARE } else { 1.0 };
        let since = self.in_service_since.map(|since| now.duration_since(since));
        match since {
            Some(elapsed) if elapsed < slow_start => {
                (elapsed.as_secs_f64() / slow_start.as_secs_f64()).max(SLOW_START_FLOOR) * trial
            }
            _ => trial,
        }
    }
}

/// How `zone` is taken out, if it is: by the operator, or because it is gray.
pub fn zone_out(
    rules: &config::Zones,
    shift: Option<&Shift>,
    gray: Option<&Gray>,
    zone: &str,
) -> Option<ZoneOut> {
    if let Some(shift) = shift {
        let elapsed = SystemTime::now().duration_since(shift.since).unwrap_or_default();
        let moved = if rules.evacuate.is_finite() { rules.evacuate * elapsed.as_secs_f64() } else { 1.0 };
        return Some(ZoneOut { moved: moved.min(1.0), trickle: 0.0 });
    }
    let gray = gray.filter(|gray| *gray.zone == *zone)?;
    let moved = if gray.moves_sessions { 1.0 } else { 0.0 };
    Some(ZoneOut { moved, trickle: rules.gray.trickle })
}

impl PoolControl {
    /// Looks at the pool, decides, and publishes what has changed.
    pub fn review(&self, now: Instant) {
        let config = self.config();
        let due = self.reviewed().sampled_at.is_none_or(|at| now.duration_since(at) >= STEP);
        if due {
            self.sample(&config, now);
        }
        let mut changed = self.returns(now);
        // What is suspended from now on is decided the next time.
        let suspended = self.suspended();
        changed |= self.ejections(&config, now);
        if due {
            changed |= self.gray_zone(&config, now);
            changed |= self.drains(&config, now);
            changed |= self.is_in_motion(&config, now);
        }
        if changed {
            self.publish();
        }
        // Only now, so that there is no moment in which the workers neither keep away by themselves nor know why they should.
        self.pardon(&config, &suspended);
    }

    /// Targets that workers keep away from until it is decided what becomes of them.
    fn suspended(&self) -> Vec<TargetId> {
        let targets = self.targets();
        let suspended = targets.iter().filter(|target| target.state.conduct.is_suspended());
        suspended.map(|target| target.state.id).collect()
    }

    /// Ends these suspensions: they have been decided, one way or the other.
    fn pardon(&self, config: &config::Pool, suspended: &[TargetId]) {
        for target in self.targets().iter().filter(|target| suspended.contains(&target.state.id)) {
            target.state.conduct.pardon(target.watched.record.limit(&config.outlier));
        }
    }

    fn sample(&self, config: &config::Pool, now: Instant) {
        let span = config.outlier.window.max(gray_zone::span(&config.zones.gray, true));
        for target in self.targets_mut().iter_mut() {
            let ever = Tally::ever(&target.state.lanes);
            target.watched.window.keep(now, ever, span);
        }
        let mut reviewed = self.reviewed_mut();
        reviewed.sampled_at = Some(now);
        if reviewed.turned_at.is_none_or(|at| now.duration_since(at) >= SESSIONS_TURN) {
            reviewed.turned_at = Some(now);
            self.targets().iter().filter_map(|target| target.state.bound()).for_each(|bound| bound.turn());
        }
    }

    /// Targets whose ejection or trial is over.
    fn returns(&self, now: Instant) -> bool {
        let mut back = Vec::new();
        let mut changed = false;
        for target in self.targets_mut().iter_mut() {
            let was_out = target.watched.record.ejected.is_some();
            if target.watched.record.pass_time(now) {
                changed = true;
                if was_out {
                    target.begin_anew(now);
                    back.push(target.state.name.clone());
                }
            }
        }
        for name in back {
            let trial = outlier::TRIAL;
            self.decide(name, "returned", format!("its ejection is over, for {trial:?} it is on trial"));
        }
        changed
    }

    fn ejections(&self, config: &config::Pool, now: Instant) -> bool {
        let evidence: Vec<Evidence> =
            self.targets().iter().map(|target| target.evidence(&config.outlier, now)).collect();
        let sentences = outlier::judge(&config.outlier, &evidence);
        let mut ejected = Vec::new();
        {
            let mut targets = self.targets_mut();
            for sentence in sentences {
                let target = &mut targets[sentence.index];
                let ejection = target.watched.record.eject(&config.outlier, now, sentence);
                let lasts = ejection.until.duration_since(now);
                let reason = format!("{}; out for {lasts:?}", ejection.reason);
                ejected.push((target.state.name.clone(), reason));
            }
            for target in targets.iter() {
                target.state.conduct.set_limit(target.watched.record.limit(&config.outlier));
            }
        }
        let changed = !ejected.is_empty();
        ejected.into_iter().for_each(|(name, reason)| self.decide(name, "ejected", reason));
        changed
    }

    fn gray_zone(&self, config: &config::Pool, now: Instant) -> bool {
        let rules = &config.zones.gray;
        let present = self.reviewed().gray.clone();
        let zones = self.zone_evidence(gray_zone::span(rules, present.is_some()), now);
        match gray_zone::look(rules, config.zones.shift_capacity, now, &zones, present.as_ref()) {
            None => return false,
            Some(Finding::Out(gray)) => {
                let lasts = gray.until.duration_since(now);
                let reason = format!("{}; out for at most {lasts:?}", gray.reason);
                self.decide(gray.zone.to_string(), "gray", reason);
                self.reviewed_mut().gray = Some(gray);
            }
            Some(Finding::Back(reason)) => {
                // Judged by what it does from now on, as are the zones that it was compared with.
                self.targets_mut().iter_mut().for_each(Tended::judge_anew);
                let gray = self.reviewed_mut().gray.take();
                if let Some(gray) = gray {
                    self.decide(gray.zone.to_string(), "returned", reason);
                }
            }
        }
        true
    }

    fn zone_evidence(&self, span: Duration, now: Instant) -> Vec<ZoneEvidence> {
        let (targets, snapshot) = (self.targets(), self.pool().snapshot());
        let all = targets.len().max(1) as f64;
        let mut zones: BTreeMap<&ZoneName, ZoneEvidence> = BTreeMap::new();
        for target in targets.iter() {
            let zone = &target.state.zone;
            let evidence = zones.entry(zone).or_insert_with(|| ZoneEvidence {
                zone: zone.clone(),
                recent: Tally::default(),
                capacity: 0.0,
                out: self.zone_out(zone).is_some(),
            });
            // A single target that is dead or ejected is no fault of its zone.
            if target.watched.record.ejected.is_none() && target.checks.state() == HealthState::Healthy {
                let ever = Tally::ever(&target.state.lanes);
                evidence.recent = evidence.recent.plus(target.watched.window.over(now, ever, span));
            }
            let shown = snapshot.index_of(target.state.id).map(|index| &snapshot.targets[index]);
            let serves = shown.is_some_and(|shown| shown.status == Status::Healthy);
            evidence.capacity += if serves { 1.0 / all } else { 0.0 };
        }
        zones.into_values().collect()
    }

    /// Drains whose deadline has passed, and targets that may be removed now.
    fn drains(&self, config: &config::Pool, now: Instant) -> bool {
        let mut safe = Vec::new();
        let mut over = false;
        for target in self.targets_mut().iter_mut() {
            let ends_at = target.drain.ends_at(config.drain.deadline);
            over |= target.status == Status::Draining && ends_at.is_some_and(|end| now >= end);
            let is_safe = target.is_safe_to_remove(&config.drain, now);
            if is_safe && !target.was_safe {
                safe.push(target.state.name.clone());
            }
            target.was_safe = is_safe;
        }
        for name in safe {
            self.decide(
                name,
                "safe to remove",
                "it is drained: no request in flight, no session lately".to_owned(),
            );
        }
        over
    }

    /// Whether shares change with time alone: a slow start, or the evacuation of a zone.
    fn is_in_motion(&self, config: &config::Pool, now: Instant) -> bool {
        let shifted = config.zones.evacuate.is_finite() && !self.shifts().all().is_empty();
        let starts = |target: &Tended| {
            let since = target.watched.in_service_since;
            // Until a step after the end, so that the last change is published too.
            since.is_some_and(|since| now.duration_since(since) < config.slow_start + STEP)
        };
        shifted || (!config.slow_start.is_zero() && self.targets().iter().any(starts))
    }

    /// Puts a decision into the log and into the list.
    pub fn decide(&self, subject: String, what: &'static str, reason: String) {
        let pool = &self.pool().name;
        match what {
            "ejected" | "gray" => warn!(%pool, %subject, what, reason, "decided"),
            _ => info!(%pool, %subject, what, reason, "decided"),
        }
        let decisions = &mut self.reviewed_mut().decisions;
        if decisions.len() == DECISIONS {
            decisions.pop_front();
        }
        decisions.push_back(Decision { at: SystemTime::now(), subject, what: what.into(), reason });
    }
}

impl Tended {
    /// Judges it by what it does from now on.
    pub(super) fn judge_anew(&mut self) {
        (self.watched.window, self.watched.before) = (Window::default(), Tally::ever(&self.state.lanes));
    }

    /// The same for a target that is back, perhaps as another process.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.judge_anew();
        self.state.conduct.begin_anew(now);
    }

    fn evidence(&self, rules: &config::Outlier, now: Instant) -> Evidence {
        let (state, conduct) = (&self.state, &self.state.conduct);
        let ever = Tally::ever(&state.lanes);
        let ejected = self.watched.record.ejected.is_some();
        Evidence {
            zone: state.zone.clone(),
            in_service: ejected || matches!(self.status, Status::Healthy | Status::Shifted),
            ejected,
            failures: conduct.failures(),
            unreachable: conduct.unreachable(),
            refused: conduct.is_refused(),
            repeated: self.watched.record.is_repeated(rules, ever.minus(self.watched.before).succeeded()),
            limit: self.watched.record.limit(rules),
            silences: conduct.silences(),
            unanswered: state.unanswered(),
            silent_for: conduct.silent_for(now),
            recent: self.watched.window.over(now, ever, rules.window),
        }
    }

    /// Since when it leaves on purpose, and when its bound sessions have to; `None` if it does not.
    pub fn departure(&self, rules: &config::Drain) -> Option<(Instant, Instant)> {
        let asked = self.drain.since().zip(self.drain.ends_at(rules.deadline));
        let begun = |end: Instant| end.checked_sub(rules.deadline).unwrap_or(end);
        asked.or_else(|| self.standing.leaves_at().map(|end| (begun(end), end)))
    }

    /// Whether nothing is lost when it is switched off now.
    pub fn is_safe_to_remove(&self, rules: &config::Drain, now: Instant) -> bool {
        let Some((since, end)) = self.departure(rules) else { return false };
        let last_seen = self.state.bound().and_then(|bound| bound.last_seen());
        let quiet_for = last_seen.map(|at| {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(at));
            SystemTime::now().duration_since(at).unwrap_or_default()
        });
        drain::is_safe(self.state.in_flight(), now >= end, now.duration_since(since), quiet_for, rules.quiet)
    }
}
