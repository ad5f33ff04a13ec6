//! The control plane: decides who is in service, and tells people about it.
//!
//! ```text
//! membership   one PoolControl per pool: who is in it; the only writer of snapshots
//! sources      who lists which targets; standing: what follows for each of them
//! health/      checks the targets
//! review       the regular look at each pool, which carries out what these decide:
//! outlier, gray_zone, drain, shift     who is out, for what reason, until when; window: what they look at
//! recent       durations of the last minute
//! metrics      everything that is counted, as Prometheus reads it
//! admin/       the HTTP API and the dashboard
//! ```
//!
//! All of it runs on one thread, next to the workers and not in their way: the planes share nothing but `pool`.

pub mod admin;
pub mod drain;
pub mod gray_zone;
pub mod health;
pub mod membership;
pub mod metrics;
pub mod outlier;
pub mod recent;
pub mod review;
pub mod shift;
pub mod sources;
pub mod standing;
pub mod window;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::{self, Config, ZoneName};
pub use crate::lifecycle::Phase;
use crate::pool::{Pool, Pools};
pub use admin::AdminListener;
use membership::PoolControl;
use shift::{Shift, Shifts};

/// What the control plane is given of the node it is part of.
pub struct Node {
    /// The configuration that runs.
    pub config: Arc<Config>,
    /// What is shared with the data plane.
    pub pools: Arc<Pools>,
    /// What the node is doing.
    pub phase: watch::Receiver<Phase>,
    /// When the process started.
    pub started: Instant,
    /// Names of the listeners, and where they are bound.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
}

/// Runs the control plane until dropped: publishes every pool, checks its targets, and answers on `admin`.
///
/// Needs a current-thread runtime with I/O and time.
pub async fn run(node: Node, admin: Option<AdminListener>) {
    let tasks = LocalSet::new();
    let control = Rc::new(Control::new(node));
    control.pools.iter().for_each(|pool| drop(tasks.spawn_local(tend(pool.clone()))));
    tasks.spawn_local(keep_recent(control.pools.clone()));
    tasks.spawn_local(end_shifts(control.clone()));
    let serving = async move {
        match admin {
            Some(listener) => admin::serve(control, listener).await,
            None => std::future::pending().await,
        }
    };
    tasks.run_until(serving).await;
}

/// Checks the targets of a pool for as long as they are in it, and lets those go whose drain has ended.
async fn tend(pool: Rc<PoolControl>) {
    let mut checks = health::Checking::default();
    let mut next_look = tokio::time::Instant::now();
    loop {
        checks.follow(&pool);
        let departure = pool.next_departure();
        tokio::select! {
            () = pool.published() => {}
            () = at(departure) => pool.publish(),
            () = pool.pool().alarm.notified() => pool.review(Instant::now()),
            () = tokio::time::sleep_until(next_look) => {
                next_look = tokio::time::Instant::now() + window::STEP;
                pool.review(Instant::now());
            }
        }
    }
}

/// Completes then; never, if there is no such time.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time.into()).await,
        None => std::future::pending().await,
    }
}

async fn end_shifts(control: Rc<Control>) {
    loop {
        tokio::time::sleep(window::STEP).await;
        control.expire_shifts();
    }
}

async fn keep_recent(pools: Vec<Rc<PoolControl>>) {
    loop {
        tokio::time::sleep(recent::STEP).await;
        pools.iter().for_each(|pool| pool.keep_recent());
    }
}

/// The control plane's own view of the node.
pub struct Control {
    /// What it was given.
    pub node: Node,
    /// Same order as [`Pools::all`].
    pub pools: Vec<Rc<PoolControl>>,
    /// Zones that the operator has taken out.
    pub shifts: Rc<Shifts>,
}

impl Control {
    /// Takes charge of every pool of the node, and publishes it.
    pub fn new(node: Node) -> Self {
        let both = node.pools.all.iter().zip(&node.config.pools);
        let (zone, shifts) = (&node.config.zone, Rc::new(Shifts::default()));
        let control = |(pool, config): (&Arc<Pool>, &Arc<config::Pool>)| {
            let (pool, config) = (pool.clone(), config.clone());
            Rc::new(PoolControl::new(pool, config, &node.pools, zone.clone(), shifts.clone()))
        };
        Self { pools: both.map(control).collect(), shifts, node }
    }

    /// Takes a zone out, in every pool.
    pub fn begin_shift(&self, zone: &ZoneName, shift: Shift) {
        let until = crate::telemetry::time::rfc3339(shift.until);
        let comment = shift.comment.as_deref().map(|comment| format!(": {comment}")).unwrap_or_default();
        self.shifts.begin(zone, shift);
        self.announce(zone, "shifted", &format!("by the operator until {until}{comment}"));
    }

    /// Gives a zone back; `false` if it is not out.
    pub fn end_shift(&self, zone: &str) -> bool {
        let ended = self.shifts.end(zone);
        if ended {
            self.announce(zone, "restored", "by the operator");
        }
        ended
    }

    /// Gives back the zones whose time is up.
    fn expire_shifts(&self) {
        for zone in self.shifts.expire(SystemTime::now()) {
            self.announce(&zone, "restored", "the time of its shift is up");
        }
    }

    fn announce(&self, zone: &str, what: &'static str, reason: &str) {
        for pool in self.pools.iter().filter(|pool| pool.has_zone(zone)) {
            pool.decide(zone.to_owned(), what, reason.to_owned());
            pool.publish();
        }
    }

    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<&Rc<PoolControl>> {
        self.pools.iter().find(|pool| &*pool.pool().name == name)
    }

    /// What the node is doing.
    pub fn phase(&self) -> Phase {
        *self.node.phase.borrow()
    }

    /// Since the process started.
    pub fn uptime(&self) -> Duration {
        self.node.started.elapsed()
    }

    /// Whether traffic may be sent to this node, or why not.
    ///
    /// Panic does not count: a node whose targets all fail still tries them, but another node may do better.
    pub fn ready(&self) -> Result<(), String> {
        match self.phase() {
            Phase::Starting => return Err("the node is starting".into()),
            Phase::Leaving | Phase::Stopping => return Err("the node is stopping".into()),
            Phase::Serving => {}
        }
        let mut in_service = 0;
        for pool in &self.pools {
            pool.known().map_err(|unknown| format!("pool {}: {unknown}", pool.config().name))?;
            in_service += pool.targets().iter().filter(|target| target.in_service()).count();
        }
        if in_service == 0 && !self.pools.is_empty() {
            return Err("no target of any pool is in service".into());
        }
        Ok(())
    }
}

/// As the API and the metrics write it.
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Leaving => "leaving",
        Phase::Stopping => "stopping",
    }
}
