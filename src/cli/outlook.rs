//! What a change would do, as the dry runs of the admin API say it, in lines for people.

use serde::Deserialize;

use super::seen::{many, span};
use super::status::aligned;

/// Of a shift, or its end.
#[derive(Debug, Deserialize)]
pub(super) struct ZoneOutlook {
    pub(super) enough: bool,
    pools: Vec<PoolOutlook>,
}

#[derive(Debug, Deserialize)]
struct PoolOutlook {
    pool: String,
    capacity_left: f64,
    capacity_needed: f64,
    sessions: u64,
    zones: Vec<ZoneShare>,
}

/// Of a drain, and of taking a target down or bringing it up.
#[derive(Debug, Deserialize)]
pub(super) struct TargetOutlook {
    pub(super) enough: bool,
    targets: u64,
    open_now: u64,
    open_then: u64,
    sessions: u64,
    sessions_move: u64,
    in_flight: u64,
    deadline_seconds: Option<f64>,
    panic: bool,
    zones: Vec<ZoneShare>,
}

#[derive(Debug, Deserialize)]
struct ZoneShare {
    zone: String,
    targets: u64,
    healthy: u64,
    share_now: f64,
    share_then: f64,
}

impl ZoneOutlook {
    /// A line and a table for each pool.
    pub(super) fn words(&self) -> String {
        let words = self.pools.iter().map(|pool| {
            let (left, needed) = (pool.capacity_left * 100.0, pool.capacity_needed * 100.0);
            let line = format!(
                "pool {}: {left:.0} % of the targets left and healthy ({needed:.0} % needed), about {} move\n",
                pool.pool,
                many(pool.sessions, "session")
            );
            line + &shares(&pool.zones)
        });
        words.collect()
    }
}

impl TargetOutlook {
    /// Some lines, and a table.
    pub(super) fn words(&self) -> String {
        let bound = many(self.sessions, "session");
        let mut text = match (self.sessions, self.sessions_move, self.deadline_seconds) {
            (0, ..) => "no session is bound to it".to_owned(),
            (_, 0, Some(deadline)) => format!("about {bound} may stay for {}", span(deadline)),
            (_, 0, None) => format!("about {bound} stay"),
            _ => format!("about {bound} move at once"),
        };
        text += &format!(", {} under way\n", many(self.in_flight, "request"));
        let (then, all, now) = (self.open_then, self.targets, self.open_now);
        text += &format!("{then} of {all} targets take new sessions then, {now} do now\n");
        if !self.enough {
            text += "nobody is left for new sessions: requests wait, and then fail\n";
        }
        if self.panic {
            text += "so few are healthy then that health is ignored\n";
        }
        text + &shares(&self.zones)
    }
}

fn shares(zones: &[ZoneShare]) -> String {
    let mut rows = vec![["zone", "healthy", "share now", "share then"].map(str::to_owned)];
    rows.extend(zones.iter().map(|zone| {
        let percent = |share: f64| format!("{:.1} %", share * 100.0);
        let healthy = format!("{} of {}", zone.healthy, zone.targets);
        [zone.zone.clone(), healthy, percent(zone.share_now), percent(zone.share_then)]
    }));
    aligned(&rows)
}
