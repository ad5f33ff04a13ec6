//! What the API shows of upgrades: the one under way, the last that was refused, and what is left of the process before.

use std::time::SystemTime;

use serde::Serialize;

use super::rounded;
use crate::control::Control;
use crate::control::upgrades::Predecessor;
use crate::telemetry::time::rfc3339;

/// Part of the node's facts.
#[derive(Serialize)]
pub(super) struct UpgradeView {
    under_way: Option<UnderWayView>,
    last_refused: Option<RefusedView>,
    /// Upgrades that were refused or failed, at the processes before this one, too.
    refused: u64,
    predecessor: Option<PredecessorView>,
}

#[derive(Serialize)]
struct UnderWayView {
    since: String,
    trigger: &'static str,
    stage: &'static str,
}

#[derive(Serialize)]
struct RefusedView {
    at: String,
    trigger: &'static str,
    problems: Vec<String>,
}

/// The process whose place this one has taken.
#[derive(Serialize)]
struct PredecessorView {
    pid: u32,
    version: String,
    /// When its place was taken.
    since: String,
    /// When it cuts what it still serves; `null` if it has not said so, and once it has ended.
    until: Option<String>,
    left_seconds: Option<f64>,
    /// What it still serves; both are 0 once it has ended.
    connections: u64,
    tunnels: u64,
    /// It has not ended.
    drains: bool,
}

impl UpgradeView {
    /// As it is now.
    pub(super) fn of(control: &Control) -> Self {
        let upgrades = &control.upgrades;
        let [_, refused, failed] = upgrades.counts();
        Self {
            under_way: upgrades.under_way().map(|upgrade| UnderWayView {
                since: rfc3339(upgrade.since),
                trigger: upgrade.trigger.as_str(),
                stage: upgrade.stage.as_str(),
            }),
            last_refused: upgrades.last().map(|outcome| RefusedView {
                at: rfc3339(outcome.at),
                trigger: outcome.trigger.as_str(),
                problems: outcome.refused,
            }),
            refused: refused + failed,
            predecessor: upgrades.predecessor().map(PredecessorView::of),
        }
    }
}

impl PredecessorView {
    fn of(predecessor: Predecessor) -> Self {
        let Predecessor { pid, version, since, until, connections, tunnels, drains } = predecessor;
        let until = until.filter(|_| drains);
        let left = until.map(|until| until.duration_since(SystemTime::now()).unwrap_or_default());
        Self {
            pid,
            version,
            since: rfc3339(since),
            until: until.map(rfc3339),
            left_seconds: left.map(|left| rounded(left.as_secs_f64())),
            connections,
            tunnels,
            drains,
        }
    }
}
