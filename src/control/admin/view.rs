//! What the API shows of pools and targets: the JSON of `/v1/pools`.
//!
//! Keys may be added and are never renamed. Counts are those since the start of the process, quantiles those of the
//! last minute.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::dns_view::DnsView;
use crate::config::{self, Balance, StickinessMode, ZoneName};
use crate::control::health::Probed;
use crate::control::membership::{PoolControl, admin_word, health_word};
use crate::control::metrics::{CLASSES, count_zones};
use crate::control::review::Decision;
use crate::control::tended::Tended;
use crate::control::{Control, phase_word};
use crate::pool::counters::{Counter, Distribution, Lanes};
use crate::pool::{AdminState, Failure, HealthState, Snapshot, Status, Stay, Verdict};
use crate::telemetry::time::rfc3339;

mod discovery;
mod upgrade;

use discovery::{DiscoveryView, StateView};
use upgrade::UpgradeView;

/// `GET /v1/pools`, and one event of `GET /v1/events`.
#[derive(Serialize)]
pub(super) struct NodeView {
    node: NodeFacts,
    pools: Vec<PoolView>,
    /// `null` when this node answers no DNS.
    dns: Option<DnsView>,
}

#[derive(Serialize)]
struct NodeFacts {
    zone: Option<String>,
    version: &'static str,
    uptime_seconds: f64,
    /// When these figures were read.
    at: String,
    phase: &'static str,
    /// Whether `/readyz` answers 200, and why not.
    ready: bool,
    not_ready: Option<String>,
    listeners: Vec<ListenerView>,
    connections_open: u64,
    requests: u64,
    refused: u64,
    config: ConfigView,
    upgrade: UpgradeView,
    state: StateView,
}

/// The configuration that runs, and what came of the last attempt to replace it.
#[derive(Serialize)]
pub(super) struct ConfigView {
    file: String,
    generation: u64,
    since: String,
    watch: bool,
    /// Settings that wait for a restart.
    restart_needed: Vec<String>,
    /// A reload that is under way.
    reloading: Option<ReloadingView>,
    last_reload: Option<ReloadView>,
}

#[derive(Serialize)]
struct ReloadingView {
    since: String,
    trigger: &'static str,
}

#[derive(Serialize)]
struct ReloadView {
    at: String,
    trigger: &'static str,
    result: &'static str,
    /// Why it was refused.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct ListenerView {
    name: String,
    address: String,
}

/// `GET /v1/pools/{pool}`.
#[derive(Serialize)]
pub(super) struct PoolView {
    name: String,
    balance: &'static str,
    stickiness: &'static str,
    panic: bool,
    waiting: usize,
    live: u64,
    retrying: u32,
    requests: u64,
    responses: Named,
    abandoned: u64,
    retries: u64,
    queue_refused: u64,
    verdicts: Named,
    rehomed: u64,
    duration_ms: Quantiles,
    targets: Vec<TargetView>,
    zones: Vec<ZoneView>,
    /// Names in DNS where targets are found.
    discovery: Vec<DiscoveryView>,
    /// What was decided lately about targets and zones, the newest first.
    decisions: Vec<DecisionView>,
}

#[derive(Serialize)]
struct DecisionView {
    at: String,
    /// Target or zone.
    subject: String,
    what: Cow<'static, str>,
    reason: String,
}

#[derive(Serialize)]
struct ZoneView {
    name: String,
    targets: u64,
    healthy: u64,
    requests: u64,
    /// Part of the requests without a session that it gets now, in percent.
    share: f64,
    #[serde(flatten)]
    out: OutView,
    /// Part of its sessions that has to go elsewhere while it is out, in percent.
    evacuated: f64,
    /// About how many sessions bound to its targets were seen in the last minutes.
    sessions: u64,
    in_flight: u64,
    first_byte_ms: Quantiles,
}

/// Whether and how a zone is out of service.
#[derive(Serialize)]
struct OutView {
    /// `"ok"`, `"shifted"` (by the operator), `"gray"` (taken out because it stood out) or `"failed"` (too few healthy
    /// targets).
    state: &'static str,
    /// Since when and until when it is out, and why.
    since: Option<String>,
    until: Option<String>,
    left_seconds: Option<f64>,
    reason: Option<String>,
}

/// One target of a pool; the answer to a change of its state.
#[derive(Serialize)]
pub(super) struct TargetView {
    name: String,
    zone: String,
    address: String,
    weight: u32,
    max_connections: Option<u32>,
    status: &'static str,
    /// The status in words.
    reason: String,
    takes_new: bool,
    keeps_bound: bool,
    /// Part of its weight that counts now, in percent: less than 100 while it starts slowly or is on trial.
    ramp: f64,
    /// About how many sessions bound to it were seen in the last minutes.
    sessions: u64,
    /// It drains, and nothing is lost when it is switched off.
    safe_to_remove: bool,
    /// How it leaves on purpose.
    drain: Option<DrainView>,
    /// How often it was ejected, and until when it is.
    ejections: u64,
    ejected_seconds: Option<f64>,
    /// Who lists it: "file", "runtime" or "dns" with the question.
    source: String,
    admin: &'static str,
    health: &'static str,
    in_flight: u32,
    attempts: u64,
    failures: Named,
    responses: Named,
    first_byte_ms: Quantiles,
    last_probe: Option<ProbeView>,
    checks: Checked,
    since: String,
}

#[derive(Serialize)]
struct DrainView {
    /// `"operator"`, `"target"` (it asks for it) or `"source"` (nothing lists it any more).
    by: &'static str,
    since: String,
    /// When its bound sessions have to leave.
    until: String,
    left_seconds: f64,
}

/// The last check of a target or a node.
#[derive(Serialize)]
pub(super) struct ProbeView {
    at: String,
    duration_ms: f64,
    passed: bool,
    what: String,
}

/// Checks that were counted.
#[derive(Serialize)]
pub(super) struct Checked {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) consecutive: u32,
}

#[derive(Serialize)]
struct Quantiles {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// Counts by name, as a JSON object in this order.
pub(super) struct Named(pub(super) Vec<(&'static str, u64)>);

impl NodeView {
    /// The node as it is now.
    pub(super) fn of(control: &Control) -> Self {
        let node = &control.node;
        let workers = &node.pools.workers;
        let refused = workers.iter().flat_map(|lane| &lane.refusals).map(Counter::get).sum();
        let ready = control.ready();
        let running = control.running();
        let listeners = running
            .listeners
            .iter()
            .map(|(name, address)| ListenerView { name: name.to_string(), address: address.to_string() });
        Self {
            node: NodeFacts {
                zone: running.config.zone.as_deref().map(str::to_owned),
                version: env!("CARGO_PKG_VERSION"),
                uptime_seconds: rounded(control.uptime().as_secs_f64()),
                at: rfc3339(SystemTime::now()),
                phase: phase_word(control.phase()),
                ready: ready.is_ok(),
                not_ready: ready.err(),
                listeners: listeners.collect(),
                connections_open: workers.sum(|lane| &lane.open),
                requests: workers.sum(|lane| &lane.requests),
                refused,
                config: ConfigView::of(control),
                upgrade: UpgradeView::of(control),
                state: StateView::of(&control.state),
            },
            pools: running.pools.iter().map(|pool| PoolView::of(pool)).collect(),
            dns: control.dns.as_ref().map(|nodes| DnsView::of(nodes)),
        }
    }
}

impl ConfigView {
    /// As it is now.
    pub(super) fn of(control: &Control) -> Self {
        let running = control.running();
        let last = control.reloads.last().map(|last| ReloadView {
            at: rfc3339(last.at),
            trigger: last.trigger.as_str(),
            result: if last.refused.is_empty() { "done" } else { "refused" },
            problems: last.refused,
        });
        Self {
            file: running.config.source.file.display().to_string(),
            generation: running.generation,
            since: rfc3339(running.since),
            watch: running.config.watch,
            restart_needed: running.restart.clone(),
            reloading: control
                .reloads
                .under_way()
                .map(|(since, trigger)| ReloadingView { since: rfc3339(since), trigger: trigger.as_str() }),
            last_reload: last,
        }
    }
}

impl PoolView {
    /// The pool as it is now.
    pub(super) fn of(control: &PoolControl) -> Self {
        let (pool, config) = (control.pool(), control.config());
        let lanes = &pool.lanes;
        let snapshot = pool.snapshot();
        let responses = Named::classes(lanes, |lane| &lane.responses);
        let verdicts = Verdict::ALL
            .iter()
            .map(|verdict| (verdict.as_str(), lanes.sum(|lane| &lane.verdicts[*verdict as usize])));
        let mut targets: Vec<_> =
            control.targets().iter().map(|target| TargetView::of(target, &snapshot, &config)).collect();
        targets.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            name: config.name.to_string(),
            balance: match config.balance {
                Balance::RoundRobin => "round_robin",
                Balance::LeastOutstanding => "least_outstanding",
                Balance::PeakEwma => "peak_ewma",
                Balance::Hash(_) => "hash",
            },
            stickiness: match config.stickiness.mode {
                StickinessMode::Off => "off",
                StickinessMode::LbCookie => "lb_cookie",
                StickinessMode::AppCookie => "app_cookie",
            },
            panic: snapshot.panic,
            waiting: pool.queue.waiting(),
            live: pool.live(),
            retrying: pool.budget.in_flight(),
            requests: responses.0.iter().map(|(_, count)| count).sum(),
            responses,
            abandoned: lanes.sum(|lane| &lane.abandoned),
            retries: lanes.sum(|lane| &lane.retries),
            queue_refused: lanes.sum(|lane| &lane.queue_refused),
            verdicts: Named(verdicts.collect()),
            rehomed: lanes.sum(|lane| &lane.rehomed),
            duration_ms: Quantiles::of(&control.durations()),
            zones: zones(control, &snapshot),
            discovery: control.names().iter().map(|name| DiscoveryView::of(name, control)).collect(),
            targets,
            decisions: control.reviewed().decisions.iter().rev().map(DecisionView::of).collect(),
        }
    }
}

fn zones(control: &PoolControl, snapshot: &Snapshot) -> Vec<ZoneView> {
    let (shares, now) = (snapshot.zone_shares(), Instant::now());
    let counts = count_zones(control).into_iter();
    counts.map(|(name, count)| ZoneView::of(control, &name, count, shares.get(&name).copied(), now)).collect()
}

impl ZoneView {
    /// The zone as it is now; `count`: its targets, and how many of them are healthy.
    fn of(
        control: &PoolControl,
        name: &ZoneName,
        count: (u64, u64),
        share: Option<f64>,
        now: Instant,
    ) -> Self {
        let targets = control.targets();
        let own = || targets.iter().filter(|target| target.state.zone == *name);
        let mut first_byte = Distribution::default();
        own().for_each(|target| first_byte.add(&target.first_byte()));
        let out = OutView::of(control, name, now);
        Self {
            name: name.to_string(),
            targets: count.0,
            healthy: count.1,
            requests: own().map(|target| target.state.lanes.sum(|lane| &lane.attempts)).sum(),
            share: rounded(share.unwrap_or_default() * 100.0),
            evacuated: control.zone_out(name).map_or(0.0, |out| rounded(out.moved * 100.0)),
            sessions: own().filter_map(|target| Some(target.state.bound()?.count())).sum(),
            in_flight: own().map(|target| u64::from(target.state.in_flight())).sum(),
            first_byte_ms: Quantiles::of(&first_byte),
            out,
        }
    }
}

impl OutView {
    fn of(control: &PoolControl, zone: &ZoneName, now: Instant) -> Self {
        let wall = SystemTime::now();
        if let Some(shift) = control.shifts().of(zone) {
            let left = shift.until.duration_since(wall).unwrap_or_default();
            return Self {
                state: "shifted",
                since: Some(rfc3339(shift.since)),
                until: Some(rfc3339(shift.until)),
                left_seconds: Some(rounded(left.as_secs_f64())),
                reason: shift.comment,
            };
        }
        if let Some(gray) = control.reviewed().gray.as_ref().filter(|gray| gray.zone == *zone) {
            let (ago, rest) = (now.saturating_duration_since(gray.since), left(gray.until, now));
            return Self {
                state: "gray",
                since: Some(rfc3339(wall.checked_sub(ago).unwrap_or(wall))),
                until: Some(rfc3339(wall + gray.until.saturating_duration_since(now))),
                left_seconds: Some(rest),
                reason: Some(gray.reason.clone()),
            };
        }
        let failed = control.pool().snapshot().failed_zones.contains(zone);
        Self {
            state: if failed { "failed" } else { "ok" },
            since: None,
            until: None,
            left_seconds: None,
            reason: failed.then(|| "fewer healthy targets than zones.min_healthy".to_owned()),
        }
    }
}

impl DecisionView {
    fn of(decision: &Decision) -> Self {
        let Decision { at, subject, what, reason } = decision.clone();
        Self { at: rfc3339(at), subject, what, reason }
    }
}

impl TargetView {
    /// The target as it is now, and as `snapshot` shows it to requests.
    pub(super) fn of(target: &Tended, snapshot: &Snapshot, config: &config::Pool) -> Self {
        let now = Instant::now();
        let state = &target.state;
        let shown = snapshot.index_of(state.id).map(|index| &snapshot.targets[index]);
        let failures = Failure::ALL
            .iter()
            .map(|failure| (failure.as_str(), state.lanes.sum(|lane| &lane.failures[*failure as usize])))
            .filter(|(_, count)| *count > 0);
        let [passed, failed] = target.probes;
        Self {
            name: state.name.clone(),
            zone: state.zone.to_string(),
            address: state.address.to_string(),
            weight: target.weight,
            max_connections: target.max_connections,
            status: target.status.as_str(),
            reason: reason(target, snapshot.panic, config, now),
            takes_new: shown.is_some_and(|shown| shown.takes_new),
            keeps_bound: shown.is_some_and(|shown| shown.keeps.any()),
            ramp: rounded(target.watched.ramp(config.slow_start, now) * 100.0),
            sessions: state.bound().map_or(0, |bound| bound.count()),
            safe_to_remove: target.is_safe_to_remove(&config.drain, now),
            drain: DrainView::of(target, config, now),
            ejections: target.watched.record.ever(),
            ejected_seconds: target.watched.record.ejected.as_ref().map(|out| left(out.until, now)),
            source: target.standing.source.to_string(),
            admin: admin_word(target.admin),
            health: health_word(target.checks.state()),
            in_flight: state.in_flight(),
            attempts: state.lanes.sum(|lane| &lane.attempts),
            failures: Named(failures.collect()),
            responses: Named::classes(&state.lanes, |lane| &lane.responses),
            first_byte_ms: Quantiles::of(&target.first_byte()),
            last_probe: target.last_probe.as_ref().map(ProbeView::of),
            checks: Checked { passed, failed, consecutive: target.checks.consecutive() },
            since: rfc3339(target.since),
        }
    }
}

impl DrainView {
    fn of(target: &Tended, config: &config::Pool, now: Instant) -> Option<Self> {
        let (since, end) = target.departure(&config.drain)?;
        let by = match (target.drain.since(), target.admin) {
            (None, _) => "source",
            (Some(_), AdminState::Up) => "target",
            (Some(_), _) => "operator",
        };
        let wall = SystemTime::now();
        let since = wall.checked_sub(now.saturating_duration_since(since)).unwrap_or(wall);
        let until = wall + end.saturating_duration_since(now);
        Some(Self { by, since: rfc3339(since), until: rfc3339(until), left_seconds: left(end, now) })
    }
}

/// Why a target has its status, in a few words.
fn reason(target: &Tended, panic: bool, config: &config::Pool, now: Instant) -> String {
    let checks = &target.checks;
    let last = target.last_probe.as_ref();
    let in_a_row = checks.consecutive();
    let text = match (target.status, last) {
        (Status::Down, _) => "taken out by the operator".to_owned(),
        (Status::Ejected, _) => ejected(target, now),
        (Status::Shifted, _) => "its zone is taken out".to_owned(),
        (Status::Drained, _) => "drained: the time of its bound sessions is over".to_owned(),
        (Status::Draining, _) if target.drain.is_asked() => {
            format!("asks to be drained: bound sessions only{}", time_left(target, config, now))
        }
        (Status::Draining, _) if target.admin == AdminState::Drain => {
            format!("drained by the operator: bound sessions only{}", time_left(target, config, now))
        }
        (Status::Draining, _) => {
            let left =
                target.standing.leaves_at().map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            format!(
                "no longer listed ({}): bound sessions only for {} s",
                target.standing.source,
                left.as_secs()
            )
        }
        (Status::Standby, _) => "a lower priority is in service".to_owned(),
        (Status::Initial, None) => "not checked yet".to_owned(),
        (Status::Healthy, None) => "checks are off".to_owned(),
        (_, None) => "no check has ended yet".to_owned(),
        (Status::Initial, Some(probe)) => format!("first checks fail: {}", probe.what),
        (Status::Healthy, Some(probe)) if probe.passed => format!("checks pass: {}", probe.what),
        (Status::Healthy, Some(probe)) => format!("the last {in_a_row} failed: {}", probe.what),
        (Status::Unhealthy, Some(probe)) if probe.passed => {
            format!("recovering, the last {in_a_row} passed: {}", probe.what)
        }
        (Status::Unhealthy, Some(probe)) => format!("the last {in_a_row} checks failed: {}", probe.what),
    };
    let ignored = panic && checks.state() != HealthState::Healthy && target.admin != AdminState::Down;
    if ignored { format!("{text}; used all the same, too few targets are healthy") } else { text }
}

fn ejected(target: &Tended, now: Instant) -> String {
    let ejection = target.watched.record.ejected.as_ref();
    ejection.map_or_else(String::new, |ejection| {
        let left = ejection.until.saturating_duration_since(now).as_secs();
        let sessions = match ejection.stay {
            Stay::Here => "it serves its bound sessions",
            Stay::Elsewhere => "others serve its bound sessions, which stay",
            Stay::Moves => "its sessions move",
        };
        format!("{}; back in {left} s, {sessions}", ejection.reason)
    })
}

fn time_left(target: &Tended, config: &config::Pool, now: Instant) -> String {
    let end = target.drain.ends_at(config.drain.deadline);
    end.map_or_else(String::new, |end| format!(" for {} s", end.saturating_duration_since(now).as_secs()))
}

impl ProbeView {
    /// A check that has ended.
    pub(super) fn of(probe: &Probed) -> Self {
        Self {
            at: rfc3339(probe.at),
            duration_ms: ms(probe.took),
            passed: probe.passed,
            what: probe.what.clone(),
        }
    }
}

impl Named {
    fn classes<T>(lanes: &Lanes<T>, of: impl Fn(&T) -> &[Counter; 5]) -> Self {
        let counts = CLASSES.into_iter().enumerate();
        Self(counts.map(|(index, class)| (class, lanes.sum(|lane| &of(lane)[index]))).collect())
    }
}

impl Serialize for Named {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

impl Quantiles {
    fn of(durations: &Distribution) -> Self {
        Self { p50: durations.quantile(0.5).map(ms), p99: durations.quantile(0.99).map(ms) }
    }
}

/// Seconds until then.
fn left(end: Instant, now: Instant) -> f64 {
    rounded(end.saturating_duration_since(now).as_secs_f64())
}

/// Milliseconds to three digits after the point.
fn ms(duration: Duration) -> f64 {
    rounded(duration.as_secs_f64() * 1e3)
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
