//! The control plane: decides who is in service, and tells people about it.
//!
//! ```text
//! membership   one PoolControl per pool: who is in it; the only writer of snapshots
//! tended       all that is known of one target
//! sources      who lists which targets; standing: what follows for each of them
//! state        what operators decided, kept over a restart
//! discovery/   finds targets in DNS
//! health/      checks the targets
//! review       the regular look at each pool, which carries out what these decide:
//! outlier, gray_zone, drain, shift     who is out, for what reason, until when; window: what they look at
//! figures      what a change of a target would do
//! reloads      the way to ask for another configuration, and what came of it
//! upgrades     the same for another program; inheritance: what it is left
//! acme/        obtains certificates; durable: files that are whole after a crash
//! dns_answers/ which nodes are answered to questions for the balancer's own names
//! strain       whether the node has room for what is asked of it
//! recent       durations of the last minute
//! metrics      everything that is counted, as Prometheus reads it
//! admin/       the HTTP API and the dashboard
//! ```
//!
//! All of it runs on one thread, next to the workers and not in their way: the planes share nothing but `pool`.

pub mod acme;
pub mod admin;
pub mod discovery;
pub mod dns_answers;
pub mod drain;
pub mod durable;
pub mod figures;
pub mod gray_zone;
pub mod health;
pub mod inheritance;
pub mod membership;
pub mod metrics;
pub mod outlier;
pub mod recent;
pub mod reloads;
pub mod review;
pub mod shift;
pub mod sources;
pub mod standing;
pub mod state;
pub mod strain;
pub mod tended;
pub mod upgrades;
pub mod window;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use tokio::task::spawn_local;
use tracing::warn;

use crate::config::{self, Config, ZoneName};
use crate::decision::{Query, Trace, Wrong};
pub use crate::lifecycle::Phase;
use crate::pool::{AdminState, Pool, Pools};
pub use admin::{AdminListener, SocketFile};
use discovery::Resolver;
pub use dns_answers::DnsListener;
use dns_answers::{Answers, Nodes};
use inheritance::Inheritance;
use membership::PoolControl;
use reloads::Reloads;
use shift::{Shift, Shifts};
use sources::{Listed, Source};
use state::{OutState, State};
use upgrades::Upgrades;

/// What the control plane is given of the node it is part of.
pub struct Node {
    /// What is shared with the data plane.
    pub pools: Arc<Pools>,
    /// What the node is doing.
    pub phase: watch::Receiver<Phase>,
    /// When the process started.
    pub started: Instant,
    /// Decides about a request as the data plane does, without sending it.
    pub explain: Explain,
}

/// See [`Node::explain`]. The pools are those of the configuration, in its order.
pub type Explain = fn(&Query, &Config, &[Arc<Pool>]) -> Result<Trace, Wrong>;

/// Runs the control plane until dropped: checks the targets of every pool, and answers on `admin`.
///
/// Needs a `LocalSet`, and a runtime with I/O and time.
pub async fn run(control: Rc<Control>, admin: Option<AdminListener>) {
    control.running().pools.iter().for_each(|pool| control.tend(pool));
    spawn_local(keep_recent(control.clone()));
    spawn_local(end_shifts(control.clone()));
    spawn_local(strain::watch(control.clone()));
    let (serving, obtaining) = (control.clone(), control.clone());
    spawn_local(async move {
        // The process that takes the place of this one obtains certificates from then on.
        tokio::select! {
            () = acme::run(obtaining) => {}
            () = serving.succeeded() => {}
        }
    });
    if let Some(dns) = &control.dns {
        dns.start();
    }
    if let Some(listener) = admin {
        tokio::select! {
            () = admin::serve(control.clone(), listener) => {}
            () = control.succeeded() => {}
        }
    }
    std::future::pending().await
}

/// Follows the names of a pool, checks its targets for as long as they are in it, and lets those go whose drain has ended.
/// Ends with the pool.
async fn tend(pool: Rc<PoolControl>, resolver: Rc<Resolver>) {
    let (mut names, mut checks) = (discovery::Names::default(), health::Checking::default());
    let mut next_look = tokio::time::Instant::now();
    while !pool.is_retired() {
        names.follow(&pool, &resolver);
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
        control.tell_dns_of_zones();
    }
}

async fn keep_recent(control: Rc<Control>) {
    loop {
        tokio::time::sleep(recent::STEP).await;
        control.running().pools.iter().for_each(|pool| pool.keep_recent());
    }
}

/// The control plane's own view of the node.
pub struct Control {
    /// What it was given.
    pub node: Node,
    /// Reloads of the configuration.
    pub reloads: Reloads,
    /// Upgrades of the program.
    pub upgrades: Upgrades,
    /// Zones that the operator has taken out.
    pub shifts: Rc<Shifts>,
    /// What operators decided, as it is kept.
    pub state: State,
    resolver: Rc<Resolver>,
    /// Certificates that the node obtains by itself.
    pub certificates: acme::Certificates,
    /// What is answered over DNS; `None` when this node answers nothing.
    pub dns: Option<Rc<Nodes>>,
    /// Open connections to the admin API.
    pub asked: Cell<usize>,
    running: RefCell<Rc<Running>>,
}

/// What a reload replaces as a whole.
pub struct Running {
    /// The configuration that runs; what waits for a restart is as it was.
    pub config: Arc<Config>,
    /// How many configurations have run, this one included.
    pub generation: u64,
    /// Since when it runs.
    pub since: SystemTime,
    /// What its file says and only a restart can do, in words.
    pub restart: Vec<String>,
    /// Names of the listeners, and where they are bound.
    pub listeners: Vec<(Arc<str>, SocketAddr)>,
    /// Same order as [`Config::pools`].
    pub pools: Vec<Rc<PoolControl>>,
}

impl Running {
    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<&Rc<PoolControl>> {
        self.pools.iter().find(|pool| &*pool.pool().name == name)
    }
}

impl Control {
    /// Takes charge of every pool of `config`, and publishes it.
    /// With what the process before this one has left, it goes on from there.
    pub fn new(
        node: Node,
        config: Arc<Config>,
        listeners: Vec<(Arc<str>, SocketAddr)>,
        inheritance: Option<&Inheritance>,
    ) -> Self {
        let shifts = Rc::new(Shifts::default());
        let pool = |pool: &Arc<config::Pool>| {
            let (shared, zone) = (node.pools.pool(pool), config.zone.clone());
            Rc::new(PoolControl::new(shared, pool.clone(), &node.pools, zone, shifts.clone()))
        };
        let pools = config.pools.iter().map(pool).collect();
        let resolver = Rc::new(Resolver::new(config.resolver.clone()));
        let running = Running {
            config,
            generation: 1,
            since: SystemTime::now(),
            restart: Vec::new(),
            listeners,
            pools,
        };
        let state = State::open(running.config.state.as_deref(), inheritance.map(Inheritance::kept));
        for name in state.kept().targets.keys().filter(|name| running.pool(name).is_none()) {
            warn!(pool = name, "state: targets are kept for a pool that is not in the configuration");
        }
        for (zone, kept) in &state.kept().shifts {
            shifts.begin(&ZoneName::from(zone.as_str()), Shift::from(kept));
        }
        // Those whose time came while the node was away are over.
        shifts.expire(SystemTime::now());
        running.pools.iter().for_each(|pool| register_kept(&state, pool));
        let certificates = acme::Certificates::default();
        certificates.follow(running.config.acme.as_ref(), running.generation, &node.pools.managed);
        let (reloads, running) = (Reloads::default(), RefCell::new(Rc::new(running)));
        let control = Self {
            node,
            reloads,
            upgrades: Upgrades::default(),
            shifts,
            state,
            resolver,
            certificates,
            dns: None,
            asked: Cell::new(0),
            running,
        };
        if let Some(inheritance) = inheritance {
            control.inherit(inheritance);
        }
        control
    }

    /// Takes charge of what is answered over DNS too, with what another process has left.
    pub fn answering(self, dns: Answers, inheritance: Option<&Inheritance>) -> Self {
        let nodes = Nodes::new(dns);
        if let Some(inheritance) = inheritance {
            nodes.inherit(inheritance.nodes());
        }
        Self { dns: Some(Rc::new(nodes)), ..self }
    }

    /// Tends a pool from now on. Needs a `LocalSet`.
    fn tend(&self, pool: &Rc<PoolControl>) {
        spawn_local(tend(pool.clone(), self.resolver.clone()));
    }

    /// What runs now.
    pub fn running(&self) -> Rc<Running> {
        self.running.borrow().clone()
    }

    /// Takes on another configuration and publishes its pools: those that stay keep all that is known of their targets.
    /// Needs a `LocalSet`.
    pub fn adopt(&self, config: Arc<Config>, listeners: Vec<(Arc<str>, SocketAddr)>, restart: Vec<String>) {
        let before = self.running();
        let pools = config.pools.iter().map(|pool| match before.pool(&pool.name) {
            Some(present) => {
                present.adopt(pool.clone(), config.zone.clone());
                present.clone()
            }
            None => {
                let (all, zone) = (&self.node.pools, config.zone.clone());
                let new = PoolControl::new(all.pool(pool), pool.clone(), all, zone, self.shifts.clone());
                let new = Rc::new(new);
                new.join_late();
                register_kept(&self.state, &new);
                self.tend(&new);
                new
            }
        });
        let pools: Vec<_> = pools.collect();
        self.resolver.adopt(&config.resolver);
        let gone = before.pools.iter().filter(|pool| !pools.iter().any(|other| Rc::ptr_eq(pool, other)));
        gone.for_each(|pool| pool.retire());
        if let (Some(nodes), Some(dns)) = (&self.dns, &config.dns) {
            nodes.adopt(dns);
        }
        let (generation, since) = (before.generation + 1, SystemTime::now());
        self.running.replace(Rc::new(Running { config, generation, since, restart, listeners, pools }));
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
        for pool in self.running().pools.iter().filter(|pool| pool.has_zone(zone)) {
            pool.decide(zone.to_owned(), what, reason.to_owned());
            pool.publish();
        }
        self.tell_dns_of_zones();
    }

    fn tell_dns_of_zones(&self) {
        if let Some(dns) = &self.dns {
            dns.look_at_zones(|zone| self.zone_is_out(zone));
        }
    }

    /// Whether a zone as a whole is out of service: taken out by the operator, or gray or failed for every pool that has
    /// targets in it.
    fn zone_is_out(&self, zone: &ZoneName) -> bool {
        let running = self.running();
        let mut pools = running.pools.iter().filter(|pool| pool.has_zone(zone)).peekable();
        let is_out = |pool: &Rc<PoolControl>| {
            pool.zone_out(zone).is_some() || pool.pool().snapshot().failed_zones.contains(zone)
        };
        self.shifts.of(zone).is_some() || (pools.peek().is_some() && pools.all(is_out))
    }

    /// The pools themselves, in the order of the configuration that runs.
    pub fn shared_pools(&self) -> Vec<Arc<Pool>> {
        self.running().pools.iter().map(|pool| pool.pool().clone()).collect()
    }

    /// The pool called `name`.
    pub fn pool(&self, name: &str) -> Option<Rc<PoolControl>> {
        self.running().pool(name).cloned()
    }

    /// What the node is doing.
    pub fn phase(&self) -> Phase {
        *self.node.phase.borrow()
    }

    /// Waits for another process to have taken the place of this one.
    pub async fn succeeded(&self) {
        if self.node.phase.clone().wait_for(|phase| *phase == Phase::Succeeded).await.is_err() {
            std::future::pending().await
        }
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
            Phase::Leaving | Phase::Stopping | Phase::Succeeded => return Err("the node is stopping".into()),
            Phase::Serving => {}
        }
        let mut in_service = 0;
        let running = self.running();
        for pool in &running.pools {
            pool.known().map_err(|unknown| format!("pool {}: {unknown}", pool.config().name))?;
            in_service += pool.targets().iter().filter(|target| target.in_service()).count();
        }
        if in_service == 0 && !running.pools.is_empty() {
            return Err("no target of any pool is in service".into());
        }
        Ok(())
    }
}

/// Registers the targets of `pool` that the state file keeps.
fn register_kept(state: &State, pool: &PoolControl) {
    let name = &*pool.pool().name;
    let mut list = Vec::new();
    for (target, kept) in state.kept().targets.get(name).into_iter().flatten() {
        match Listed::registered(target, kept.weight, kept.max_connections) {
            Ok(listed) => list.push(listed),
            Err(wrong) => warn!(pool = name, "state: a target is left out: {wrong}"),
        }
    }
    let now = SystemTime::now();
    for (target, kept) in state.kept().out.get(name).into_iter().flatten() {
        let until = kept.until.map(|until| SystemTime::UNIX_EPOCH + Duration::from_secs(until));
        let left = until.map(|until| until.duration_since(now).unwrap_or_default());
        let admin = match kept.state {
            OutState::Drain => AdminState::Drain,
            OutState::Down => AdminState::Down,
        };
        pool.expect(target, admin, left);
    }
    pool.set_source(&Source::Runtime, list);
}

/// As the API and the metrics write it.
pub fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Serving => "serving",
        Phase::Leaving => "leaving",
        Phase::Stopping => "stopping",
        Phase::Succeeded => "succeeded",
    }
}
