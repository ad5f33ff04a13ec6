//! Active checks: one loop per target, on the control thread.
//!
//! ```text
//! watch: wait → probe::Check::run → PoolControl::record ─▶ verdict::Checks::observe ─▶ publish, when it changed
//! ```
//!
//! A target is never checked twice at the same time: the next check is due one interval after the *start* of the last,
//! or when that one ends, whichever is later. A loop costs a timer between checks and nothing else.

mod grpc;
mod http2;
pub mod probe;
pub mod verdict;

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, sleep_until};

use super::membership::PoolControl;
use crate::config::{self, TargetProtocol, tls::UpstreamTls};
use crate::pool::{TargetId, TargetState};

/// First checks of targets that came together begin this far apart, so that many of them are no burst.
const FIRST_CHECK_GAP: Duration = Duration::from_millis(2);

/// Between two tries of a check for which this node had no file descriptor.
const NO_ROOM_PAUSE: Duration = Duration::from_secs(1);

/// The result of one check.
#[derive(Debug, Clone)]
pub struct Probed {
    /// When it began.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
    /// Whether it passed.
    pub passed: bool,
    /// The target asks to be drained.
    pub drain: bool,
    /// What came of it, in words.
    pub what: String,
}

/// The checks of one pool: a loop for each target that is in it.
#[derive(Default)]
pub struct Checking {
    loops: HashMap<TargetId, Loop>,
    /// What the loops go by.
    rules: Option<(config::Health, Option<UpstreamTls>, TargetProtocol)>,
}

/// A loop that ends when this is dropped.
struct Loop(AbortHandle);

impl Drop for Loop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checking {
    /// Begins to check targets that have come, and ends the checks of those that have gone; begins anew under other rules.
    /// Needs a `LocalSet`.
    pub fn follow(&mut self, pool: &Rc<PoolControl>) {
        let config = pool.config();
        let rules = (config.health.clone(), config.tls.clone(), config.protocol);
        if self.rules.as_ref() != Some(&rules) {
            self.loops.clear();
            self.rules = Some(rules);
        }
        if !config.health.enabled {
            return;
        }
        let targets = pool.targets();
        let present: HashSet<_> = targets.iter().map(|target| target.state.id).collect();
        self.loops.retain(|id, _| present.contains(id));
        let mut position = 0;
        for target in targets.iter() {
            self.loops.entry(target.state.id).or_insert_with(|| {
                position += 1;
                Loop(spawn_local(watch(pool.clone(), target.state.clone(), position - 1)).abort_handle())
            });
        }
    }
}

/// Checks one target until dropped. `position` is its number among those that came together: later ones begin a little
/// later.
async fn watch(pool: Rc<PoolControl>, target: Arc<TargetState>, position: u32) {
    let config = pool.config();
    let record = |probed| pool.record(target.id, probed);
    let over = (config.tls.as_ref(), config.protocol);
    repeat(&config.health, over, target.address, position, record).await;
}

/// Checks what is at `address` until dropped, over what its requests go over, and hands every result to `record`.
pub async fn repeat(
    rules: &config::Health,
    (tls, protocol): (Option<&UpstreamTls>, TargetProtocol),
    address: SocketAddr,
    position: u32,
    mut record: impl FnMut(Probed),
) {
    let check = probe::Check::new(rules, tls, protocol, address);
    sleep(first_delay(rules.interval, position)).await;
    loop {
        let (at, begun) = (SystemTime::now(), Instant::now());
        let result = check.run().await;
        let took = begun.elapsed();
        if result == Err(probe::Fault::NoRoom) {
            // Not a check: the next one comes sooner, as there may be room in a moment.
            sleep(NO_ROOM_PAUSE).await;
            continue;
        }
        let (passed, drain, what) = match result {
            Ok(pass) => (true, pass.asks_to_drain(), pass.to_string()),
            Err(fault) => (false, false, fault.to_string()),
        };
        record(Probed { at, took, passed, drain, what });
        sleep_until(begun + jittered(rules.interval, random_unit())).await;
    }
}

/// The wait before a target's first check: short, and never longer than an interval.
fn first_delay(interval: Duration, position: u32) -> Duration {
    (FIRST_CHECK_GAP * position).min(interval)
}

/// `interval` ± 10 %, for `unit` from 0.0 to 1.0.
fn jittered(interval: Duration, unit: f64) -> Duration {
    interval.mul_f64(0.9 + 0.2 * unit)
}

/// A number from 0.0 to 1.0 that differs from call to call; good enough to keep checks and lookups apart.
pub(super) fn random_unit() -> f64 {
    RandomState::new().hash_one(0u8) as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_stay_within_a_tenth_of_their_interval_and_do_not_fall_into_step() {
        let interval = Duration::from_secs(5);
        let waits: Vec<_> = (0..200).map(|_| jittered(interval, random_unit())).collect();
        let allowed = Duration::from_millis(4500)..=Duration::from_millis(5500);
        assert!(waits.iter().all(|wait| allowed.contains(wait)), "{waits:?}");
        let spread = waits.iter().max().unwrap().abs_diff(*waits.iter().min().unwrap());
        assert!(spread > Duration::from_millis(500), "{spread:?}");
    }

    #[test]
    fn first_checks_begin_at_once_and_are_spread_when_there_are_many() {
        let interval = Duration::from_secs(5);
        assert_eq!(first_delay(interval, 0), Duration::ZERO);
        assert_eq!(first_delay(interval, 300), Duration::from_millis(600));
        assert_eq!(first_delay(Duration::from_millis(50), 300), Duration::from_millis(50));
    }
}
