//! Names in DNS whose records are targets: one loop per name, on the control thread.
//!
//! ```text
//! follow: lookup::look_up ─▶ knowledge::take ─▶ PoolControl::set_source ─▶ wait: TTL over, or reach::is_lost
//!         resolver, answer                      (membership decides what becomes of each target)
//! ```
//!
//! No request knows of any of this: it sees the targets in its snapshot. Lookups of a pool's names do not wait for each
//! other, and none of them is ever under way twice.

mod answer;
mod knowledge;
mod lookup;
mod progress;
mod reach;
mod resolver;

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::{AbortHandle, spawn_local};
use tokio::time::sleep;
use tracing::info;

use super::health::random_unit;
use super::membership::PoolControl;
use super::sources::Source;
use super::standing::Presence;
use crate::config::Discover;
use crate::pool::Failure;
use knowledge::Knowledge;
use lookup::Hosts;
pub use progress::{Good, Progress, RESULTS, Shown};
use reach::{Reach, Sight};
pub use resolver::{Lack, Resolver};

/// Between two looks at whether a name's targets can be reached.
const LOOK: Duration = Duration::from_millis(250);

/// The names of one pool: a loop for each that its configuration has.
#[derive(Default)]
pub struct Names(HashMap<String, (Discover, Loop)>);

/// A loop that ends when this is dropped.
struct Loop(AbortHandle);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Names {
    /// Begins to follow names that have come into the configuration of `pool`, or come anew with other settings, and lets
    /// go of those that have gone, with their targets. Needs a `LocalSet`.
    pub fn follow(&mut self, pool: &Rc<PoolControl>, resolver: &Rc<Resolver>) {
        let config = pool.config();
        let wanted: HashMap<_, _> =
            config.discover.iter().map(|discover| (discover.question(), discover)).collect();
        let gone: Vec<_> =
            self.0.keys().filter(|question| !wanted.contains_key(*question)).cloned().collect();
        for question in gone {
            self.0.remove(&question);
            pool.forget_name(&question);
        }
        for (question, discover) in wanted {
            if self.0.get(&question).is_none_or(|(known, _)| known != discover) {
                let progress = pool.name(&question);
                let task = follow(pool.clone(), resolver.clone(), discover.clone(), progress);
                let task = Loop(spawn_local(task).abort_handle());
                self.0.insert(question, (discover.clone(), task));
            }
        }
    }
}

/// Keeps the targets of one name up to date, until dropped.
async fn follow(pool: Rc<PoolControl>, resolver: Rc<Resolver>, rules: Discover, progress: Rc<Progress>) {
    let source = Source::Dns(progress.question.clone());
    let (mut hosts, mut reach) = (Hosts::default(), Reach::default());
    let mut knowledge = Knowledge::from_before(!pool.sources().of(&source).is_empty());
    loop {
        let outcome = lookup::look_up(&resolver, &rules, &mut hosts).await;
        let name = &pool.pool().name;
        progress.note(name, &outcome);
        let now = Instant::now();
        let decision = knowledge.take(outcome, now, &rules, random_unit());
        progress.plan(name, &decision, knowledge.doubted_since(), now);
        if let Some(list) = decision.list {
            pool.set_source(&source, list);
        }
        wait(&pool, &source, now + decision.wait, &rules, &mut reach).await;
    }
}

/// Waits until then, or until none of the name's targets can be reached.
async fn wait(pool: &PoolControl, source: &Source, until: Instant, rules: &Discover, reach: &mut Reach) {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(LOOK)).await;
        if reach.is_lost(sights(pool, source).into_iter(), Instant::now(), rules.min_ttl) {
            info!(pool = %pool.pool().name, %source, "no target of a name can be reached: it is asked again");
            return;
        }
    }
}

fn sights(pool: &PoolControl, source: &Source) -> Vec<Sight> {
    let targets = pool.targets();
    let listed = targets
        .iter()
        .filter(|target| target.standing.source == *source && target.standing.presence == Presence::Listed);
    let sight = |target: &super::tended::Tended| {
        let lanes = &target.state.lanes;
        let failed = |failure: Failure| lanes.sum(|lane| &lane.failures[failure as usize]);
        Sight {
            id: target.state.id,
            unconnected: failed(Failure::Connect) + failed(Failure::ConnectTimeout),
            answers: (0..5).map(|class| lanes.sum(|lane| &lane.responses[class])).sum(),
            check_failed: target.last_probe.as_ref().is_some_and(|probe| !probe.passed),
        }
    };
    listed.map(sight).collect()
}
