//! Where the planes meet: what is known of each pool, in a form that a request reads without waiting.
//!
//! The control plane publishes a [`Snapshot`]; a request loads it once and keeps that view to its end. What outlives a
//! snapshot (requests in flight, counters) is in [`TargetState`], one per target identity, shared by every
//! snapshot that names it. Nothing here does I/O, and nothing here awaits anything but the queue's own turn.

pub mod budget;
pub mod clients;
pub mod conduct;
pub mod counters;
pub mod distinct;
pub mod inherit;
pub mod managed;
pub mod outcome;
pub mod queue;
pub mod room;
pub mod snapshot;
pub mod target;
pub mod tiers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Release};
use std::time::Instant;

use arc_swap::ArcSwap;
use dashmap::DashMap;
use tokio::sync::Notify;

use crate::config;
pub use budget::Budget;
pub use clients::Clients;
pub use counters::{
    AccessLogCounts, Counter, Histogram, Http2Lane, Lanes, PoolLane, SpanCounts, TargetLane, TlsLane,
    WorkerLane,
};
pub use managed::Managed;
pub use outcome::{
    Chosen, Decision, Failure, HandshakeFailure, Http2Fault, Overload, OwnTarget, ProxyHeaderFailure,
    Refusal, TunnelEnd, Verdict, ZoneChoice,
};
pub use queue::{Line, WaitQueue};
pub use room::Room;
pub use snapshot::{
    AdminState, Duty, HealthState, Keeps, Leave, Member, Snapshot, Status, Stay, Target, ZoneOut,
};
pub use target::{TargetId, TargetState};
pub use tiers::Tier;

/// One pool at run time: what a reload leaves as it is. Its configuration is in the hands of each plane.
pub struct Pool {
    /// Unique, and bound into the sessions of its clients: a pool of another name is another pool.
    pub name: Arc<str>,
    /// The view that requests take. Written by [`Pool::publish`] only.
    snapshot: ArcSwap<Snapshot>,
    /// Counts the snapshots, so that workers see with one load whether theirs is the newest.
    version: AtomicU64,
    /// Requests that wait for a target.
    pub queue: WaitQueue,
    /// What retries may cost.
    pub budget: Budget,
    /// Counters, one lane for each worker.
    pub lanes: Lanes<PoolLane>,
    /// Rung by a worker that has suspended a target: the control plane should look now.
    pub alarm: Notify,
}

impl Pool {
    /// A pool that has no target yet.
    pub fn new(config: &config::Pool, workers: usize) -> Self {
        let empty = Snapshot::build(config, None, Vec::new());
        Self {
            queue: WaitQueue::default(),
            budget: Budget::new(Instant::now()),
            name: config.name.clone(),
            snapshot: ArcSwap::from_pointee(empty),
            version: AtomicU64::new(0),
            lanes: Lanes::new(workers),
            alarm: Notify::new(),
        }
    }

    /// The present view.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Grows with every published view. Asked before [`Pool::snapshot`], it is never ahead of what that gives.
    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Makes `snapshot` the view of every request that starts from now on, and lets waiting requests look again.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.version.fetch_add(1, Release);
        self.queue.line.wake_all();
        self.queue.news.wake_all();
        self.queue.hesitating.wake_all();
        self.snapshot.load().targets.iter().for_each(|target| target.state.line.wake_all());
    }

    /// Requests in flight, waiting ones included.
    pub fn live(&self) -> u64 {
        self.lanes.sum(|lane| &lane.live)
    }

    /// Requests ever begun.
    pub fn requests(&self) -> u64 {
        self.lanes.sum(|lane| &lane.requests)
    }
}

/// States kept, of targets that have left too: beyond that, those are forgotten.
const STATES_MAX: usize = 16_384;

/// What the two planes of a node share beside the pools themselves.
pub struct Pools {
    /// One state per target identity, however often the target leaves and returns.
    states: DashMap<TargetId, Arc<TargetState>, foldhash::fast::RandomState>,
    /// Counters of the workers themselves.
    pub workers: Lanes<WorkerLane>,
    /// Lines of the access log. Counted by the one thread that writes them.
    pub access_log: AccessLogCounts,
    /// Spans of sampled requests. Counted by the one thread that sends them.
    pub spans: SpanCounts,
    /// Certificates that the node obtains by itself.
    pub managed: Arc<Managed>,
    /// What the node has room for.
    pub room: Room,
    worker_count: usize,
}

impl Pools {
    /// For so many workers.
    pub fn new(workers: usize) -> Self {
        Self {
            states: DashMap::default(),
            workers: Lanes::new(workers),
            access_log: AccessLogCounts::default(),
            spans: SpanCounts::default(),
            managed: Arc::default(),
            room: Room::default(),
            worker_count: workers,
        }
    }

    /// A new pool, without targets.
    pub fn pool(&self, config: &config::Pool) -> Arc<Pool> {
        Arc::new(Pool::new(config, self.worker_count))
    }

    /// The state of this target; made at its first appearance.
    pub fn state(
        &self,
        pool: &str,
        zone: &config::ZoneName,
        address: std::net::SocketAddr,
    ) -> Arc<TargetState> {
        let id = TargetId::of(pool, zone, address);
        if self.states.len() >= STATES_MAX && !self.states.contains_key(&id) {
            // Addresses that come and go must not add up.
            self.states.retain(|_, state| Arc::strong_count(state) > 1);
        }
        self.states
            .entry(id)
            .or_insert_with(|| Arc::new(TargetState::new(id, zone.clone(), address, self.worker_count)))
            .clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_that_nobody_uses_are_forgotten_when_they_are_many() {
        let pools = Pools::new(1);
        let address = |port: u16| std::net::SocketAddr::from(([127, 0, 0, 1], port));
        let state = |port: u16| pools.state("shop", &"az-a".into(), address(port));
        let used = state(1);
        (2..=STATES_MAX as u16).for_each(|port| drop(state(port)));
        assert_eq!(pools.states.len(), STATES_MAX);
        let new = state(STATES_MAX as u16 + 1);
        assert_eq!(pools.states.len(), 2);
        assert!(Arc::ptr_eq(&new, &state(STATES_MAX as u16 + 1)));
        assert!(Arc::ptr_eq(&used, &state(1)));
    }
}
