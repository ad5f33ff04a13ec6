//! The only wiring of both planes: everything is built from the configuration here, started in order, stopped in order.
//!
//! Start: bind every socket, so that nothing is half started; then publish the pools; then the workers; then the rest of the
//! control plane, on this thread. SIGHUP reloads (see `reload`). Stop (SIGTERM, SIGINT): `/readyz` fails; after
//! `shutdown.delay` the listeners close and idle connections with them; what is in flight finishes within
//! `shutdown.deadline`. A second signal ends the process at once.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::{AdminAddress, Config};
use crate::control::{self, AdminListener, Control, DnsListener};
use crate::lifecycle::Phase;
use crate::pool::Pools;
use crate::proxy::{BindError, BoundListener, Workers, explain};
use crate::reload::Reloader;
use crate::systemd::{Notify, Turning};
use crate::telemetry::access_log;

/// Between two looks at whether there is something to tell systemd, at most.
const TELLING: Duration = Duration::from_secs(5);

/// Why a node did not start, or stopped without being asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The admin API's address cannot be had.
    #[error(transparent)]
    Admin(#[from] control::admin::BindError),
    /// An address for DNS cannot be had.
    #[error(transparent)]
    Dns(#[from] control::dns_answers::BindError),
    /// The system gives no thread, no timer or no signal.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A worker has died: a defect.
    #[error("a worker has died; this is a defect, please report it with the log")]
    Worker,
}

/// Serves until a signal asks for the end.
pub fn run(config: &Arc<Config>) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        listeners.push(BoundListener::bind(listener, config.workers, &[])?);
    }
    runtime.block_on(async {
        let admin = config.admin.as_ref().map(|admin| AdminListener::bind(&admin.address)).transpose()?;
        let dns = config.dns.as_ref().map(DnsListener::bind).transpose()?;
        let hangup = signal(SignalKind::hangup())?;
        let mut signals = Signals::listen()?;
        let moved = signal(SignalKind::user_defined1())?;
        let pools = Arc::new(Pools::new(config.workers));
        let (phase, watching) = watch::channel(Phase::Starting);
        let started = Instant::now();
        let node = control::Node { pools: pools.clone(), phase: watching.clone(), started, explain };
        let places = listeners.iter().map(|bound| (bound.config.name.clone(), bound.address)).collect();
        announce(&listeners, admin.as_ref(), dns.as_ref());
        let mut control = Control::new(node, config.clone(), places);
        let mut answering = None;
        if let Some(dns) = dns {
            let (thread, answers) = dns.start(watching.clone())?;
            (control, answering) = (control.answering(answers), Some(thread));
        }
        let control = Rc::new(control);
        let log = config.access_log.as_ref().map(|log| access_log::Log::start(log, config.workers, &pools));
        let mut log = log.transpose()?;
        let lanes = log.as_mut().map(access_log::Log::take_lanes).unwrap_or_default();
        let shared = control.shared_pools();
        let workers = Rc::new(Workers::start(config, &shared, &pools, listeners, &watching, lanes)?);
        let threads = Threads { workers: &workers, answering };
        let notify = Rc::new(Notify::from_env());
        phase.send_replace(Phase::Serving);
        notify.ready(&status(&control));
        let reloader = Reloader::new(control.clone(), workers.clone(), notify.clone());
        let all = async {
            tokio::select! {
                result = serve_until_stopped(&control, &phase, &threads, &mut signals, &notify) => result,
                () = keep_telling(&control, &workers, &notify) => unreachable!("there is always more to tell"),
                () = reloader.run(hangup) => unreachable!("reloads have no end"),
                () = keep_log(log.as_ref(), &pools, moved) => unreachable!("a log is kept to the end"),
                () = control::run(control.clone(), admin) => {
                    unreachable!("the control plane runs until it is dropped")
                }
            }
        };
        let result = LocalSet::new().run_until(all).await;
        if let Some(log) = &log {
            log.finish().await;
        }
        result
    })
}

/// Opens the access log again at SIGUSR1, and tells of lines that were dropped.
async fn keep_log(log: Option<&access_log::Log>, pools: &Pools, mut moved: Signal) {
    let reopening = async {
        while let Some(()) = moved.recv().await {
            match log {
                Some(log) => log.reopen(),
                None => tracing::warn!("SIGUSR1 opens the access log again, and there is none"),
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = reopening => {}
        () = access_log::tell_of_losses(pools), if log.is_some() => {}
    }
}

fn announce(listeners: &[BoundListener], admin: Option<&AdminListener>, dns: Option<&DnsListener>) {
    for bound in listeners {
        tracing::info!(name = %bound.config.name, address = %bound.address, "listening");
    }
    match admin.map(AdminListener::address) {
        Some(AdminAddress::Tcp(address)) => tracing::info!(%address, "admin API"),
        Some(AdminAddress::Unix(path)) => {
            tracing::info!(address = %format_args!("unix:{}", path.display()), "admin API")
        }
        None => {}
    }
    for address in dns.into_iter().flat_map(DnsListener::addresses) {
        tracing::info!(%address, "answering DNS");
    }
}

/// What must run for as long as the node does.
struct Threads<'w> {
    workers: &'w Workers,
    /// The one for DNS.
    answering: Option<JoinHandle<()>>,
}

impl Threads<'_> {
    fn any_finished(&self) -> bool {
        self.workers.any_finished() || self.answering.as_ref().is_some_and(JoinHandle::is_finished)
    }

    fn are_finished(&self) -> bool {
        self.workers.are_finished() && self.answering.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

async fn serve_until_stopped(
    control: &Control,
    phase: &watch::Sender<Phase>,
    threads: &Threads<'_>,
    signals: &mut Signals,
    notify: &Notify,
) -> Result<(), ServerError> {
    tokio::select! {
        () = signals.next() => {}
        () = any_finished(threads) => return Err(ServerError::Worker),
    }
    let shutdown = control.running().config.shutdown;
    tracing::info!(delay = ?shutdown.delay, deadline = ?shutdown.deadline, "stopping");
    phase.send_replace(Phase::Leaving);
    notify.stopping(&status(control));
    let stop = async {
        tokio::time::sleep(shutdown.delay).await;
        phase.send_replace(Phase::Stopping);
        let all = async {
            while !threads.are_finished() {
                tick().await
            }
        };
        if tokio::time::timeout(shutdown.deadline, all).await.is_err() {
            tracing::warn!("requests still in flight at the deadline were cut");
        }
    };
    tokio::select! {
        () = stop => tracing::info!("stopped"),
        () = signals.next() => tracing::warn!("stopped at once by a second signal"),
    }
    Ok(())
}

/// Tells systemd how the node is, and that it is well, for as long as it is polled.
async fn keep_telling(control: &Control, workers: &Workers, notify: &Notify) {
    if !notify.is_heard() {
        return std::future::pending().await;
    }
    let (mut turning, mut told) = (Turning::default(), String::new());
    let pause = notify.watchdog().map_or(TELLING, |feed| feed.min(TELLING));
    loop {
        if turning.all_have_turned(&control.node.pools.workers, &workers.ended()) {
            notify.feed_watchdog();
        } else {
            tracing::error!("a worker stands still: the watchdog is not fed");
        }
        let status = status(control);
        match control.phase() {
            Phase::Leaving | Phase::Stopping => notify.extend_timeout(&status),
            _ if status != told => notify.status(&status),
            _ => {}
        }
        told = status;
        tokio::time::sleep(pause).await;
    }
}

/// What the node does, in a line.
fn status(control: &Control) -> String {
    let running = control.running();
    let open = control.node.pools.workers.sum(|lane| &lane.open);
    match control.phase() {
        Phase::Leaving | Phase::Stopping => return format!("stopping: {open} connections are still open"),
        Phase::Starting | Phase::Serving => {}
    }
    let (mut targets, mut in_service) = (0, 0);
    for pool in &running.pools {
        targets += pool.targets().len();
        in_service += pool.targets().iter().filter(|target| target.in_service()).count();
    }
    let (listeners, pools) = (running.listeners.len(), running.pools.len());
    format!("serving: {listeners} listeners, {pools} pools, {in_service} of {targets} targets in service")
}

async fn any_finished(threads: &Threads<'_>) {
    while !threads.any_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn tick() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// The signals that ask for the end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
