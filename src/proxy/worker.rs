//! What one data-plane thread owns: nothing in here is ever touched by another.
//!
//! A worker sees each pool through a [`View`]: the pool's snapshot with this worker's own connections to its targets. A
//! request takes the view once and keeps it; a newer snapshot makes a new view for the requests that follow.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use http::HeaderValue;

use super::deadline::Deadlines;
use super::error::ProxyError;
use super::fields::Fields;
use super::leaving::Leaving;
use super::listener::{self, Listening};
use super::plan::Plan;
use super::retry::Again;
use super::session::OpenedCookies;
use super::tunnels::{Tunnels, Window};
use super::upstream::{AttemptError, Terms, Upstream};
use super::workers::Change;
use crate::config;
use crate::pool::{
    Lanes, Managed, Pool, PoolLane, Pools, Refusal, Room, Snapshot, TargetId, TunnelEnd, WorkerLane,
};
use crate::telemetry::{access_log, spans};

/// Empty lists of fields kept for the next heads, and the most fields that one may have room for.
const SPARE_FIELDS: usize = 64;
const SPARE_ROOM: usize = 256;
/// Between two looks at idle connections.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two looks at who leaves, while there are tunnels.
const LOOK: Duration = Duration::from_millis(100);

/// One data-plane thread. Lives as long as its thread, hence the `'static` references to it.
pub(crate) struct Worker {
    /// Which lane of every counter is this worker's.
    pub(crate) index: usize,
    shared: Arc<Pools>,
    /// For requests that begin now.
    plan: RefCell<Rc<Plan>>,
    pub(crate) deadlines: Rc<Deadlines>,
    pub(crate) random: Random,
    /// Cookies opened lately.
    pub(crate) opened: OpenedCookies,
    spare_fields: RefCell<Vec<Fields>>,
    /// Its listeners that are open.
    pub(crate) listening: RefCell<Vec<Rc<Listening>>>,
    /// Tasks that accept, also those that are about to end.
    pub(crate) accepting: Cell<usize>,
    /// Its tunnels that are open.
    pub(crate) tunnels: Tunnels,
    /// Its end of the access log, if there is one. Not to be held across an await.
    pub(crate) access_log: RefCell<Option<Rc<access_log::Lane>>>,
    /// Its end of the queue of spans, if anybody wants them.
    pub(crate) spans: Option<spans::Lane>,
}

impl Worker {
    /// A worker that serves nothing yet.
    pub(crate) fn new(
        index: usize,
        shared: Arc<Pools>,
        config: Arc<config::Config>,
        access_log: Option<access_log::Lane>,
        spans: Option<spans::Lane>,
    ) -> Self {
        Self {
            index,
            plan: RefCell::new(Rc::new(Plan::empty(config))),
            deadlines: Deadlines::new(),
            random: Random::from_system(),
            opened: OpenedCookies::new(),
            spare_fields: RefCell::default(),
            listening: RefCell::default(),
            accepting: Cell::new(0),
            tunnels: Tunnels::default(),
            access_log: RefCell::new(access_log.map(Rc::new)),
            spans,
            shared,
        }
    }

    /// Takes on a configuration: requests that begin from now on follow it, on whatever connection.
    pub(crate) fn adopt(&'static self, change: Change) {
        let plan = Rc::new(self.plan().followed_by(&change, self.index));
        let before = self.plan.replace(plan);
        before.retire_pools_missing_in(&self.plan());
        // What was opened with the keys of then, for the pools of then.
        self.opened.forget();
        listener::listen(self, change.listeners);
        if let Some(log) = change.access_log {
            let before = self.access_log.replace(log.map(Rc::new));
            before.inspect(|before| before.close());
            self.flush_regularly();
        }
    }

    /// Sends the lines of its access log now and then, for as long as it has that log.
    pub(crate) fn flush_regularly(&self) {
        if let Some(log) = self.access_log.borrow().clone() {
            tokio::task::spawn_local(async move { log.flush_regularly().await });
        }
    }

    /// This worker's counters that belong to no pool.
    pub(crate) fn lane(&self) -> &WorkerLane {
        self.shared.workers.of(self.index)
    }

    /// Those of all workers.
    pub(crate) fn all_lanes(&self) -> &Lanes<WorkerLane> {
        &self.shared.workers
    }

    /// What the node has room for.
    pub(crate) fn room(&self) -> &Room {
        &self.shared.room
    }

    /// Certificates that the node obtains by itself, and their proofs.
    pub(crate) fn managed(&self) -> &Managed {
        &self.shared.managed
    }

    /// The plan of a request that begins now.
    pub(crate) fn plan(&self) -> Rc<Plan> {
        self.plan.borrow().clone()
    }

    /// An empty list of fields, with room if one is at hand.
    pub(crate) fn spare_fields(&self) -> Fields {
        self.spare_fields.borrow_mut().pop().unwrap_or_default()
    }

    /// Takes a list of fields back.
    pub(crate) fn keep_fields(&self, mut fields: Fields) {
        let mut spare = self.spare_fields.borrow_mut();
        if (1..=SPARE_ROOM).contains(&fields.capacity()) && spare.len() < SPARE_FIELDS {
            fields.clear();
            spare.push(fields);
        }
    }

    /// From now on nothing new is taken; `succeeded` if another process takes it.
    pub(crate) fn stop(&self, succeeded: bool) {
        let shutdown = self.plan().config.shutdown;
        let leaving = Leaving::in_time(&shutdown, succeeded, self.deadlines.coarse_ticks());
        listener::close(self, &self.listening.take(), leaving);
        let (now, lasts) = (Instant::now(), shutdown.deadline);
        self.tunnels.leave(Window::before(now, now + lasts, TunnelEnd::Shutdown), now);
    }

    /// Whether a connection is open, or may still come of what the kernel has completed.
    pub(crate) fn is_busy(&self) -> bool {
        self.accepting.get() > 0 || self.lane().open.get() > 0
    }

    /// Closes what has been idle for too long, every second, for as long as the worker lives; and looks more often for
    /// targets that leave while there are tunnels.
    pub(crate) async fn sweep(&self) {
        let mut swept = Instant::now();
        loop {
            if self.tunnels.is_empty() {
                let _ = tokio::time::timeout(SWEEP, self.tunnels.first()).await;
            } else {
                tokio::time::sleep(LOOK).await;
            }
            self.lane().turns.bump();
            let (now, mut news) = (Instant::now(), false);
            let due = now.duration_since(swept) >= SWEEP;
            if due {
                swept = now;
            }
            for pool in &self.plan().pools {
                // A pool that has no requests would otherwise hold on to a snapshot for ever.
                let view = pool.view();
                news |= pool.leaving_changed.take();
                if !due {
                    continue;
                }
                let ticks = self.deadlines.coarse_ticks();
                view.upstreams.iter().for_each(|upstream| upstream.sweep(ticks));
                if self.index == 0 {
                    pool.shared.budget.mark(now, pool.shared.requests());
                }
            }
            if news {
                self.tunnels.look(now);
            }
        }
    }

    /// Counts and logs a request that ended with a page of ours.
    pub(crate) fn report(&self, error: &ProxyError, id: &HeaderValue) {
        let id = id.to_str().unwrap_or_default();
        match error {
            ProxyError::Refused(refusal) => {
                self.lane().refusals[*refusal as usize].bump();
                tracing::debug!(request = id, reason = refusal.as_str(), "request refused");
            }
            ProxyError::RateLimited { .. } => {
                self.lane().refusals[Refusal::RateLimited as usize].bump();
                tracing::debug!(request = id, "its client asks too often");
            }
            ProxyError::NoRoom(why) => {
                self.lane().overloads[*why as usize].bump();
                tracing::debug!(request = id, reason = why.as_str(), "no room for a request");
            }
            ProxyError::ClientGone => tracing::debug!(request = id, "client left"),
            ProxyError::NoTarget
            | ProxyError::Overloaded
            | ProxyError::QueueFull
            | ProxyError::QueueTimeout => {
                tracing::debug!(request = id, "no target: {error:?}");
            }
            ProxyError::Target { failure, target, why } => {
                tracing::warn!(
                    request = id,
                    target,
                    reason = failure.as_str(),
                    "no answer for the client: {why}"
                );
            }
        }
    }

    /// Logs an attempt that failed, whatever becomes of its request. The attempt itself has counted it.
    pub(crate) fn report_attempt(&self, error: &AttemptError, upstream: &Upstream, id: &HeaderValue) {
        if let AttemptError::Target { failure, untouched, why, .. } = error {
            let id = id.to_str().unwrap_or_default();
            let target = upstream.state.name.as_str();
            tracing::debug!(
                request = id,
                target,
                reason = failure.as_str(),
                untouched,
                "attempt failed: {why}"
            );
        }
    }
}

/// A pool as one worker sees it, whatever the plan says of it.
pub(crate) struct PoolWorker {
    pub(crate) shared: Arc<Pool>,
    worker: usize,
    terms: Cell<Terms>,
    view: RefCell<Rc<View>>,
    turn: Cell<usize>,
    /// Moving average of the times to the first byte, in microseconds.
    typical_us: Cell<f32>,
    /// Requests that this worker has sent since any target of the pool has answered it.
    unheard: Cell<u32>,
    /// Which targets leave is not what it was when tunnels were told last.
    leaving_changed: Cell<bool>,
}

/// A snapshot, and this worker's connections to its targets in the same order.
pub(crate) struct View {
    pub(crate) snapshot: Arc<Snapshot>,
    /// Of the snapshot, or of one before it.
    version: u64,
    pub(crate) upstreams: Box<[Rc<Upstream>]>,
}

impl PoolWorker {
    pub(crate) fn new(shared: Arc<Pool>, config: &config::Pool, worker: usize) -> Self {
        let none =
            || View { version: shared.version(), snapshot: shared.snapshot(), upstreams: Box::default() };
        let (present, first) = (RefCell::new(Rc::new(none())), none());
        let pool = Self {
            shared,
            worker,
            terms: Cell::new(Terms::of(config)),
            // Workers begin at different places in the rotation, or they would all begin at the same target.
            turn: Cell::new(worker.wrapping_mul(0x9e37_79b9)),
            typical_us: Cell::new(0.0),
            unheard: Cell::new(0),
            leaving_changed: Cell::new(false),
            view: present,
        };
        pool.view.replace(pool.renew(&first));
        pool
    }

    /// Keeps idle connections on these terms from now on.
    pub(crate) fn set_terms(&self, terms: Terms) {
        self.terms.set(terms);
        self.view().upstreams.iter().for_each(|upstream| upstream.set_terms(terms));
    }

    /// No plan names the pool any more: whatever becomes idle is closed.
    pub(crate) fn retire(&self) {
        let mut terms = self.terms.get();
        terms.keep_alive.connections = 0;
        self.set_terms(terms);
        for upstream in &self.view().upstreams {
            upstream.close_idle();
        }
    }

    /// This worker's counters of the pool.
    pub(crate) fn lane(&self) -> &PoolLane {
        self.shared.lanes.of(self.worker)
    }

    /// A request is sent.
    pub(crate) fn send(&self) {
        self.unheard.set(self.unheard.get().saturating_add(1));
    }

    /// Requests that this worker has sent since any target of the pool has answered it.
    pub(crate) fn unheard(&self) -> u32 {
        self.unheard.get()
    }

    /// An answer's first byte took `took`.
    pub(crate) fn observe(&self, took: Duration) {
        self.unheard.set(0);
        let average = self.typical_us.get();
        self.typical_us.set(average + (took.as_micros() as f32 - average) / 16.0);
    }

    /// How long answers of this pool have taken lately at this worker; nothing before the first.
    pub(crate) fn typical_answer(&self) -> Duration {
        Duration::from_micros(self.typical_us.get() as u64)
    }

    /// The number of the next pick.
    pub(crate) fn turn(&self) -> usize {
        self.turn.replace(self.turn.get().wrapping_add(1))
    }

    /// The present view.
    pub(crate) fn view(&self) -> Rc<View> {
        let present = self.view.borrow().clone();
        if self.is_current(&present) {
            return present;
        }
        let renewed = self.renew(&present);
        self.view.replace(renewed.clone());
        renewed
    }

    /// Whether no newer snapshot has been published.
    pub(crate) fn is_current(&self, view: &View) -> bool {
        self.shared.version() == view.version
    }

    /// Counts a retry that the budget refused.
    pub(crate) fn count_refused(&self, again: Again) {
        if again == Again::OverBudget {
            self.lane().retries_refused.bump();
        }
    }

    /// A view of the newest snapshot; targets that stay keep their connections.
    fn renew(&self, old: &View) -> Rc<View> {
        let version = self.shared.version();
        let snapshot = self.shared.snapshot();
        let mut known: HashMap<TargetId, Rc<Upstream>> = HashMap::with_capacity(old.upstreams.len());
        known.extend(old.upstreams.iter().map(|upstream| (upstream.state.id, upstream.clone())));
        let (now, mut news) = (Instant::now(), false);
        let upstreams = snapshot
            .targets
            .iter()
            .map(|target| {
                let upstream = known.remove(&target.state.id).unwrap_or_else(|| {
                    Rc::new(Upstream::new(target.state.clone(), self.worker, self.terms.get()))
                });
                news |= upstream.set_leave(target.leave, now);
                upstream
            })
            .collect();
        known.values().for_each(|gone| news |= gone.vanish(now));
        self.leaving_changed.set(self.leaving_changed.get() | news);
        Rc::new(View { snapshot, version, upstreams })
    }
}

/// Random numbers of a worker: fast, seeded by the system, not for secrets.
pub(crate) struct Random(Cell<u64>);

impl Random {
    pub(crate) fn from_system() -> Self {
        let mut seed = [0; 8];
        if aws_lc_rs::rand::fill(&mut seed).is_err() {
            panic!("the operating system gives no random numbers");
        }
        Self::seeded(u64::from_ne_bytes(seed))
    }

    pub(crate) fn seeded(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): every state is good, and every number comes once in 2^64.
    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0.0 to 1.0.
    pub(crate) fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A nonce for a cookie.
    pub(crate) fn nonce(&self) -> [u8; 12] {
        let (first, second) = (self.next().to_ne_bytes(), self.next().to_ne_bytes());
        std::array::from_fn(|at| if at < 8 { first[at] } else { second[at - 8] })
    }
}
