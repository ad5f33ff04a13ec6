//! The control plane: decides who is in service, and tells people about it.
//!
//! ```text
//! membership   one PoolControl per pool: who is in it; the only writer of snapshots
//! sources      who lists which targets; standing: what follows for each of them
//! health/      checks the targets
//! recent       durations of the last minute
//! metrics      everything that is counted, as Prometheus reads it
//! admin/       the HTTP API and the dashboard
//! ```
//!
//! All of it runs on one thread, next to the workers and not in their way: the planes share nothing but `pool`.

pub mod admin;
pub mod health;
pub mod membership;
pub mod metrics;
pub mod recent;
pub mod sources;
pub mod standing;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::Config;
pub use crate::lifecycle::Phase;
use crate::pool::Pools;
pub use admin::AdminListener;
use membership::PoolControl;

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
    loop {
        checks.follow(&pool);
        let departure = pool.next_departure();
        tokio::select! {
            () = pool.published() => {}
            () = at(departure) => pool.publish(),
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
}

impl Control {
    /// Takes charge of every pool of the node, and publishes it.
    pub fn new(node: Node) -> Self {
        let both = node.pools.all.iter().zip(&node.config.pools);
        let pools =
            both.map(|(pool, config)| Rc::new(PoolControl::new(pool.clone(), config.clone(), &node.pools)));
        Self { pools: pools.collect(), node }
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
