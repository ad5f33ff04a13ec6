//! The only wiring of both planes: everything is built from the configuration here, started in order, stopped in order.
//!
//! Start: bind every socket, so that nothing is half started; then the workers; then the control plane, on this thread.
//! Stop (SIGTERM, SIGINT): `/readyz` fails; after `shutdown.delay` the listeners close and idle connections with them;
//! what is in flight finishes within `shutdown.deadline`. A second signal ends the process at once.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::config::{AdminAddress, Config};
use crate::control::{self, AdminListener};
use crate::lifecycle::Phase;
use crate::pool::Pools;
use crate::proxy::{self, BindError, BoundListener};

/// Why a node did not start, or stopped without being asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A listener's address cannot be had.
    #[error(transparent)]
    Listener(#[from] BindError),
    /// The admin API's address cannot be had.
    #[error(transparent)]
    Admin(#[from] control::admin::BindError),
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
        listeners.push(BoundListener::bind(listener, config.workers)?);
    }
    runtime.block_on(async {
        let admin = config.admin.as_ref().map(AdminListener::bind).transpose()?;
        let mut signals = Signals::listen()?;
        let pools = Arc::new(Pools::new(&config.pools, config.workers));
        let (phase, watching) = watch::channel(Phase::Starting);
        let workers = proxy::start(config, &pools, &mut listeners, &watching)?;
        announce(&listeners, admin.as_ref());
        let node = control::Node {
            config: config.clone(),
            pools,
            phase: watching,
            started: Instant::now(),
            listeners: listeners.iter().map(|bound| (bound.config.name.clone(), bound.address)).collect(),
        };
        drop(listeners);
        phase.send_replace(Phase::Serving);
        let serving = serve_until_stopped(config, &phase, workers, &mut signals);
        tokio::select! {
            result = serving => result,
            () = control::run(node, admin) => unreachable!("the control plane runs until it is dropped"),
        }
    })
}

fn announce(listeners: &[BoundListener], admin: Option<&AdminListener>) {
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
}

async fn serve_until_stopped(
    config: &Config,
    phase: &watch::Sender<Phase>,
    workers: Vec<JoinHandle<()>>,
    signals: &mut Signals,
) -> Result<(), ServerError> {
    tokio::select! {
        () = signals.next() => {}
        () = any_finished(&workers) => return Err(ServerError::Worker),
    }
    let shutdown = config.shutdown;
    tracing::info!(delay = ?shutdown.delay, deadline = ?shutdown.deadline, "stopping");
    phase.send_replace(Phase::Leaving);
    let stop = async {
        tokio::time::sleep(shutdown.delay).await;
        phase.send_replace(Phase::Stopping);
        let all = async {
            while !workers.iter().all(JoinHandle::is_finished) {
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

async fn any_finished(workers: &[JoinHandle<()>]) {
    while !workers.iter().any(JoinHandle::is_finished) {
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
