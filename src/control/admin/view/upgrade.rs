//! What the API shows of upgrades: the one under way, the last that was refused, and what is left of the process before.

use serde::Serialize;

use crate::control::Control;
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
            predecessor: upgrades.predecessor().map(|predecessor| PredecessorView {
                pid: predecessor.pid,
                version: predecessor.version,
                since: rfc3339(predecessor.since),
                connections: predecessor.connections,
                tunnels: predecessor.tunnels,
                drains: predecessor.drains,
            }),
        }
    }
}
