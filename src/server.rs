//! The only wiring of both planes: everything is built from the configuration here, started in order, stopped in order.
//!
//! Start: bind every socket, so that nothing is half started; then give up privileges; then publish the pools; then the workers; then
//! the rest of the control plane, on this thread. SIGHUP reloads (see `reload`), SIGUSR2 upgrades (see `handover`). Stop (SIGTERM,
//! SIGINT): `/readyz` fails; after `shutdown.delay` the listeners close, and clients are asked to leave one after the other; what is in flight finishes
//! within `shutdown.deadline`. A second signal ends the process at once.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::LocalSet;

use crate::config::{AdminAddress, Config};
use crate::control::{self, AdminListener, Control, DnsListener, SocketFile};
use crate::descriptors;
use crate::handover::passed::Passed;
use crate::handover::predecessor::{Leftovers, Predecessor};
use crate::handover::successor::{Others, Program, REPORT, Successor, Upgrader};
use crate::lifecycle::Phase;
use crate::pool::Pools;
use crate::privileges::{self, NotGivenUp};
use crate::proxy::{BindError, BoundListener, Workers, explain};
use crate::reload::Reloader;
use crate::systemd::{Notify, Turning};
use crate::telemetry::access_log;
#[cfg(feature = "otlp")]
use crate::telemetry::{otlp::Exporter, spans};

/// Longest wait for the workers to take up their work in the place of another process.
const TAKING: Duration = Duration::from_secs(10);

/// For the answers of the admin API that are under way when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

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
    /// Systemd passes sockets that nobody wants.
    #[error("{0}")]
    Passed(String),
    /// The process is not who it should be.
    #[error(transparent)]
    User(#[from] NotGivenUp),
    /// The system gives no thread, no timer or no signal.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A worker has died: a defect.
    #[error("a worker has died; this is a defect, please report it with the log")]
    Worker,
}

/// Serves until a signal asks for the end, or another process has taken the place of this one. With a `predecessor` it takes
/// the place of that one first.
pub fn run(config: &Arc<Config>, mut predecessor: Option<Predecessor>) -> Result<(), ServerError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(serve(config, &mut predecessor));
    if let (Err(error), Some(predecessor)) = (&result, &mut predecessor) {
        predecessor.fail(false, vec![error.to_string()]);
    }
    result
}

async fn serve(config: &Arc<Config>, predecessor: &mut Option<Predecessor>) -> Result<(), ServerError> {
    let program = Program::this()?;
    let passed = match predecessor {
        Some(predecessor) => predecessor.take_sockets(),
        None => Passed::by_systemd(config).map_err(ServerError::Passed)?,
    };
    let Sockets { listeners, admin, dns } = Sockets::of(config, passed)?;
    privileges::give_up(config, admin.as_ref().and_then(AdminListener::file))?;
    let (hangup, replace) = (signal(SignalKind::hangup())?, signal(SignalKind::user_defined2())?);
    let moved = signal(SignalKind::user_defined1())?;
    let mut signals = Signals::listen()?;
    let (others, file) = shared(config, admin.as_ref(), dns.as_ref())?;
    let pools = Arc::new(Pools::new(config.workers));
    pools.room.set_connections(descriptors::share_out(config));
    let (phase, watching) = watch::channel(Phase::Starting);
    let (log, lanes) = access_log::Current::start(config.access_log.as_ref(), config.workers, &pools)?;
    let log = Rc::new(log);
    #[cfg(feature = "otlp")]
    let (exporter, spans) = exporter(config, &pools)?;
    #[cfg(not(feature = "otlp"))]
    let spans = Vec::new();
    let workers = Rc::new(Workers::start(config, &pools, &watching, lanes, spans)?);
    // Nothing that can be wrong is left. What the process before knows is the newest here.
    let inheritance = predecessor.as_mut().map(Predecessor::take).transpose()?;
    let started = Instant::now();
    let node = control::Node { pools: pools.clone(), phase: watching.clone(), started, explain };
    let places = listeners.iter().map(|bound| (bound.config.name.clone(), bound.address)).collect();
    announce(&listeners, admin.as_ref(), dns.as_ref());
    let mut control = Control::new(node, config.clone(), places, inheritance.as_ref());
    let mut answering = None;
    if let Some(dns) = dns {
        let (prepared, answers) = dns.prepare();
        control = control.answering(answers, inheritance.as_ref());
        answering = Some(prepared.start(watching)?);
    }
    let control = Rc::new(control);
    let taking = workers.open(config, &control.shared_pools(), listeners)?;
    if predecessor.is_some() && !taking.wait(TAKING).await {
        return Err(ServerError::System(io::Error::other("the workers do not take up their work")));
    }
    let threads = Threads { workers: &workers, answering };
    let notify = Rc::new(Notify::from_env());
    phase.send_replace(Phase::Serving);
    let leftovers = predecessor.take().map(|predecessor| predecessor.relieve(&control)).transpose()?;
    notify.ready(&status(&control));
    let reloader = Reloader::new(control.clone(), workers.clone(), notify.clone(), log.clone());
    let upgrader = Upgrader { control: control.clone(), workers: workers.clone(), program, others };
    let all = async {
        let stop = Stop { control: &control, phase: &phase, threads: &threads, notify: &notify };
        tokio::select! {
            result = stop.when_asked(&mut signals, upgrader.run(replace), file.as_ref()) => result,
            () = keep_telling(&control, &workers, &notify) => unreachable!("there is always more to tell"),
            () = follow(leftovers, &control) => unreachable!("it waits after its end"),
            () = reloader.run(hangup) => unreachable!("reloads have no end"),
            () = keep_log(&log, &pools, moved) => unreachable!("a log is kept to the end"),
            () = control::run(control.clone(), admin) => {
                unreachable!("the control plane runs until it is dropped")
            }
        }
    };
    let result = LocalSet::new().run_until(all).await;
    log.finish().await;
    #[cfg(feature = "otlp")]
    if let Some(exporter) = &exporter {
        exporter.finish().await;
    }
    result
}

/// Who exports spans, and the workers' ends of it, if anybody wants them.
#[cfg(feature = "otlp")]
fn exporter(config: &Config, pools: &Arc<Pools>) -> io::Result<(Option<Exporter>, Vec<spans::Lane>)> {
    let exporter = config.otlp.as_ref().map(|otlp| Exporter::start(otlp, config, pools));
    let mut exporter = exporter.transpose()?;
    let lanes = exporter.as_mut().map(Exporter::take_lanes).unwrap_or_default();
    Ok((exporter, lanes))
}

/// Everything that is listened to, bound by this process or by whoever started it.
struct Sockets {
    listeners: Vec<BoundListener>,
    admin: Option<AdminListener>,
    dns: Option<DnsListener>,
}

impl Sockets {
    fn of(config: &Config, mut passed: Passed) -> Result<Self, ServerError> {
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let sockets = passed.listener(listener);
            listeners.push(match sockets.is_empty() {
                true => BoundListener::bind(listener, config.workers, &[])?,
                false => BoundListener::adopt(listener, sockets)?,
            });
        }
        let admin = config.admin.as_ref().map(|admin| match passed.admin(&admin.address) {
            Some(socket) => AdminListener::adopt(&admin.address, socket).map_err(ServerError::System),
            None => AdminListener::bind(&admin.address).map_err(ServerError::Admin),
        });
        let dns = config.dns.as_ref().map(|dns| match passed.dns(dns) {
            Some(sockets) => DnsListener::adopt(dns, sockets).map_err(ServerError::System),
            None => DnsListener::bind(dns).map_err(ServerError::Dns),
        });
        Ok(Self { listeners, admin: admin.transpose()?, dns: dns.transpose()? })
    }
}

/// What is handed over beside the workers' sockets, and the file of the admin API's.
fn shared(
    config: &Config,
    admin: Option<&AdminListener>,
    dns: Option<&DnsListener>,
) -> io::Result<(Others, Option<SocketFile>)> {
    let address = config.admin.as_ref().map(|admin| admin.address.to_string());
    let (socket, file) = admin.map(AdminListener::share).transpose()?.unzip();
    let dns = dns.map(DnsListener::share).transpose()?.unwrap_or_default();
    Ok((Others { admin: address.zip(socket), dns }, file.flatten()))
}

async fn follow(leftovers: Option<Leftovers>, control: &Control) {
    if let Some(leftovers) = leftovers {
        leftovers.follow(control).await;
    }
    std::future::pending().await
}

/// Opens the access log again at SIGUSR1, and tells of lines that were dropped.
async fn keep_log(log: &access_log::Current, pools: &Pools, mut moved: Signal) {
    let reopening = async {
        while let Some(()) = moved.recv().await {
            if !log.reopen() {
                tracing::warn!("SIGUSR1 opens the access log again, and there is none");
            }
        }
        std::future::pending().await
    };
    tokio::select! {
        () = reopening => {}
        () = access_log::tell_of_losses(pools) => {}
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

/// How the node ends.
struct Stop<'n> {
    control: &'n Control,
    phase: &'n watch::Sender<Phase>,
    threads: &'n Threads<'n>,
    notify: &'n Notify,
}

impl Stop<'_> {
    /// Waits for a reason to end, and ends in good order.
    async fn when_asked(
        &self,
        signals: &mut Signals,
        replaced: impl Future<Output = Successor>,
        file: Option<&SocketFile>,
    ) -> Result<(), ServerError> {
        tokio::select! {
            () = signals.next() => self.stop(signals).await,
            successor = replaced => {
                // From here on it is its file.
                file.inspect(|file| file.leave());
                self.succeed(successor, signals).await;
            }
            () = any_finished(self.threads) => return Err(ServerError::Worker),
        }
        Ok(())
    }

    async fn stop(&self, signals: &mut Signals) {
        let shutdown = self.control.running().config.shutdown;
        tracing::info!(delay = ?shutdown.delay, deadline = ?shutdown.deadline, "stopping");
        self.phase.send_replace(Phase::Leaving);
        self.notify.stopping(&status(self.control));
        let stop = async {
            tokio::time::sleep(shutdown.delay).await;
            self.phase.send_replace(Phase::Stopping);
            self.threads.workers.release();
            if tokio::time::timeout(shutdown.deadline, self.all_done()).await.is_err() {
                tracing::warn!("requests still in flight at the deadline were cut");
            }
        };
        tokio::select! {
            () = stop => tracing::info!("stopped"),
            () = signals.next() => tracing::warn!("stopped at once by a second signal"),
        }
    }

    /// Another process serves: what is in flight here finishes.
    async fn succeed(&self, mut successor: Successor, signals: &mut Signals) {
        let deadline = self.control.running().config.shutdown.deadline;
        self.notify.hand_over(successor.pid);
        self.phase.send_replace(Phase::Succeeded);
        self.threads.workers.release();
        // So that the other one shows at once what is left.
        successor.report(self.control).await;
        let drain = async {
            let end = tokio::time::Instant::now() + deadline;
            loop {
                let pause = tokio::time::Instant::now() + REPORT;
                match tokio::time::timeout_at(pause.min(end), self.all_done()).await {
                    Ok(()) => return,
                    Err(_) if tokio::time::Instant::now() >= end => {
                        tracing::warn!("requests still in flight at the deadline were cut");
                        return;
                    }
                    Err(_) => successor.report(self.control).await,
                }
            }
        };
        tokio::select! {
            () = drain => tracing::info!("this process ends, nothing is in flight"),
            () = signals.next() => tracing::warn!("this process ends at once by a signal"),
        }
        let _ = tokio::time::timeout(LAST_ANSWERS, self.nobody_asks()).await;
        successor.report(self.control).await;
        successor.finish().await;
    }

    async fn all_done(&self) {
        while !self.threads.are_finished() {
            tick().await
        }
    }

    /// Whoever asked the admin API has the answer.
    async fn nobody_asks(&self) {
        while self.control.asked.get() > 0 {
            tick().await
        }
    }
}

async fn any_finished(threads: &Threads<'_>) {
    while !threads.any_finished() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn tick() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// Tells systemd how the node is, and that it is well, for as long as it is polled.
async fn keep_telling(control: &Control, workers: &Workers, notify: &Notify) {
    if !notify.is_heard() {
        return std::future::pending().await;
    }
    let (mut turning, mut told) = (Turning::default(), String::new());
    let pause = notify.watchdog().map_or(TELLING, |feed| feed.min(TELLING));
    loop {
        if control.phase() == Phase::Succeeded {
            // The other process speaks.
            return std::future::pending().await;
        }
        if turning.all_have_turned(&control.node.pools.workers, &workers.ended()) {
            notify.feed_watchdog();
        } else {
            tracing::error!("a worker stands still: the watchdog is not fed");
        }
        let status = status(control);
        match control.phase() {
            Phase::Leaving | Phase::Stopping | Phase::Succeeded => notify.extend_timeout(&status),
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
        Phase::Leaving | Phase::Stopping | Phase::Succeeded => {
            return format!("stopping: {open} connections are still open");
        }
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
