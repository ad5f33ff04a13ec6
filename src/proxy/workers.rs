//! The workers as whoever started them sees them: their threads, and the way to give them another configuration.
//!
//! A [`Change`] goes to each worker as a message; the worker takes it between two polls, so no request of it is half of one
//! configuration and half of another, and no request pays for the possibility. Sockets travel with the message. What
//! changes, and whether it may, is decided elsewhere: see `reload`.

use std::cell::{Ref, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};

use super::listener::{BindError, BoundListener, WorkerListener};
use super::route::RouteTable;
use super::worker::Worker;
use crate::config::{self, Config};
use crate::lifecycle::Phase;
use crate::pool::{Managed, Pool, Pools};
use crate::telemetry::{access_log, spans};

/// Polls between two looks at the sockets. Lower than tokio's 61: a worker's polls are short, and what has arrived should
/// not wait for all of them.
const EVENT_INTERVAL: u32 = 31;

/// See the module's documentation.
pub struct Workers {
    threads: Vec<JoinHandle<()>>,
    inboxes: Vec<mpsc::Sender<Change>>,
    /// In the order of the configuration.
    listeners: RefCell<Vec<BoundListener>>,
    managed: Arc<Managed>,
}

/// What a worker is to follow from now on.
pub(crate) struct Change {
    pub(crate) config: Arc<Config>,
    pub(crate) routes: Arc<RouteTable>,
    /// Same order as [`Config::pools`].
    pub(crate) pools: Vec<Arc<Pool>>,
    /// All that the worker is to have.
    pub(crate) listeners: Vec<WorkerListener>,
    /// Its end of another access log, or of none; `None` if that stays as it is.
    pub(crate) access_log: Option<Option<access_log::Lane>>,
    /// Dropped once the worker has taken the change.
    taken: mpsc::Sender<()>,
}

/// All that another configuration needs and that could be refused: a place in every worker's inbox, and every listener
/// bound. Dropping it unbinds what was bound for it.
pub struct Prepared<'a> {
    workers: &'a Workers,
    places: Vec<mpsc::Permit<'a, Change>>,
    listeners: Vec<Bound>,
    /// The workers' ends of another access log.
    access_log: Option<Vec<Option<access_log::Lane>>>,
}

enum Bound {
    /// Index among those that are bound already, and what they become.
    Already(usize, config::Listener),
    Now(BoundListener),
}

/// The workers cannot take another configuration.
#[derive(Debug, thiserror::Error)]
pub enum Unprepared {
    /// One has not taken up the last one.
    #[error("a worker has not taken up the last configuration yet; try again")]
    Busy,
    /// An address cannot be had.
    #[error(transparent)]
    Listener(#[from] BindError),
}

/// Completes when every worker has taken a change.
pub struct Taking(mpsc::Receiver<()>);

impl Workers {
    /// Starts the threads of the data plane. They serve nothing before [`Workers::open`].
    ///
    /// `access_log` has an end of the access log for each, if there is one; `spans` one of the queue of spans, or is empty. A thread
    /// ends when the phase is [`Phase::Stopping`] or a later one, and its last connection is done.
    pub fn start(
        config: &Arc<Config>,
        shared: &Arc<Pools>,
        phase: &watch::Receiver<Phase>,
        access_log: Vec<Option<access_log::Lane>>,
        spans: Vec<spans::Lane>,
    ) -> std::io::Result<Self> {
        let (started, starting) = std::sync::mpsc::channel();
        let (mut threads, mut inboxes) = (Vec::new(), Vec::new());
        let (mut access_log, mut spans) = (access_log.into_iter(), spans.into_iter());
        for index in 0..config.workers {
            let (inbox, changes) = mpsc::channel(1);
            inboxes.push(inbox);
            let worker = (index, shared.clone(), config.clone(), access_log.next().flatten(), spans.next());
            let (phase, started) = (phase.clone(), started.clone());
            let name = format!("worker-{index}");
            threads.push(std::thread::Builder::new().name(name).spawn(move || {
                // A runtime cannot move between threads: it is made where it runs.
                let runtime = Builder::new_current_thread()
                    .enable_io()
                    .enable_time()
                    .event_interval(EVENT_INTERVAL)
                    .build_local(LocalOptions::default());
                let runtime = match runtime {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(())));
                let (index, shared, config, access_log, spans) = worker;
                let worker = Worker::new(index, shared, config, access_log, spans);
                runtime.block_on(run(worker, changes, phase));
            })?);
        }
        starting.iter().take(threads.len()).collect::<std::io::Result<()>>()?;
        let managed = shared.managed.clone();
        Ok(Self { threads, inboxes, listeners: RefCell::default(), managed })
    }

    /// Begins to serve: every worker accepts from its own socket of every listener.
    pub fn open(
        &self,
        config: &Arc<Config>,
        pools: &[Arc<Pool>],
        listeners: Vec<BoundListener>,
    ) -> std::io::Result<Taking> {
        let places = self.inboxes.iter().map(mpsc::Sender::try_reserve).collect::<Result<_, _>>();
        let places = places.map_err(|_| std::io::Error::other("a worker has ended at its start"))?;
        let listeners = listeners.into_iter().map(Bound::Now).collect();
        Ok(Prepared { workers: self, places, listeners, access_log: None }.commit(config, pools))
    }

    /// The listeners that are open, with their sockets.
    pub fn listeners(&self) -> Ref<'_, [BoundListener]> {
        Ref::map(self.listeners.borrow(), Vec::as_slice)
    }

    /// Lets go of the sockets: once the workers have too, they are closed, or another process' alone.
    pub fn release(&self) {
        self.listeners.take();
    }

    /// Whether all have ended.
    pub fn are_finished(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Of each, whether it has ended.
    pub fn ended(&self) -> Vec<bool> {
        self.threads.iter().map(JoinHandle::is_finished).collect()
    }

    /// Whether one has ended.
    pub fn any_finished(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Makes ready for a configuration with these listeners: waits, but not longer than `limit`, for the workers to have
    /// taken up the last one, and binds what is not bound. Nothing is accepted there yet.
    pub async fn prepare(
        &self,
        wanted: &[config::Listener],
        limit: Duration,
    ) -> Result<Prepared<'_>, Unprepared> {
        let end = Instant::now() + limit;
        let mut places = Vec::new();
        for inbox in &self.inboxes {
            let place = timeout_at(end, inbox.reserve()).await.map_err(|_| Unprepared::Busy)?;
            places.push(place.map_err(|_| Unprepared::Busy)?);
        }
        let present = self.listeners.borrow();
        let mut taken = vec![false; present.len()];
        let mut listeners = Vec::new();
        for listener in wanted {
            let already = (0..present.len())
                .find(|index| !taken[*index] && present[*index].config.is_at_the_place_of(listener));
            listeners.push(match already {
                Some(index) => {
                    taken[index] = true;
                    Bound::Already(index, listener.clone())
                }
                None => Bound::Now(BoundListener::bind(listener, self.threads.len(), &present)?),
            });
        }
        Ok(Prepared { workers: self, places, listeners, access_log: None })
    }
}

impl Prepared<'_> {
    /// With another access log, of which each worker gets its end.
    pub fn with_access_log(self, lanes: Vec<Option<access_log::Lane>>) -> Self {
        Self { access_log: Some(lanes), ..self }
    }

    /// Names of the listeners, and where they are bound.
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        let present = self.workers.listeners.borrow();
        let place = |bound: &Bound| match bound {
            Bound::Already(index, config) => (config.name.clone(), present[*index].address),
            Bound::Now(listener) => (listener.config.name.clone(), listener.address),
        };
        self.listeners.iter().map(place).collect()
    }

    /// Gives every worker the configuration: with the `pools` in its order.
    pub fn commit(self, config: &Arc<Config>, pools: &[Arc<Pool>]) -> Taking {
        let mut listeners = self.workers.listeners.borrow_mut();
        let mut before: Vec<_> = listeners.drain(..).map(Some).collect();
        listeners.extend(self.listeners.into_iter().filter_map(|bound| match bound {
            Bound::Now(listener) => Some(listener),
            Bound::Already(index, config) => before[index].take().map(|listener| listener.under(config)),
        }));
        let routes = Arc::new(RouteTable::new(&config.routes));
        let (taken, taking) = mpsc::channel(1);
        let count = self.places.len();
        let mut of_listeners: Vec<_> = listeners
            .iter_mut()
            .map(|listener| {
                listener.for_workers(count, &config.session_keys.ring, &self.workers.managed).into_iter()
            })
            .collect();
        let mut lanes = self.access_log.map(Vec::into_iter);
        for place in self.places {
            place.send(Change {
                config: config.clone(),
                routes: routes.clone(),
                pools: pools.to_vec(),
                listeners: of_listeners.iter_mut().filter_map(Iterator::next).collect(),
                access_log: lanes.as_mut().map(|lanes| lanes.next().flatten()),
                taken: taken.clone(),
            });
        }
        Taking(taking)
    }
}

impl Taking {
    /// Waits for it, but not for ever; `false` if that was too short.
    pub async fn wait(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0.recv()).await.is_ok()
    }
}

/// One worker, to its end.
async fn run(worker: Worker, mut changes: mpsc::Receiver<Change>, mut phase: watch::Receiver<Phase>) {
    // Lives as long as its thread; connections hold plain references to it instead of counting them.
    let worker: &'static Worker = Box::leak(Box::new(worker));
    tokio::task::spawn_local(worker.deadlines.clone().sweep());
    tokio::task::spawn_local(worker.sweep());
    worker.flush_regularly();
    tokio::task::spawn_local(worker.give_way());
    let taking = async {
        while let Some(change) = changes.recv().await {
            let taken = change.taken.clone();
            worker.adopt(change);
            drop(taken);
        }
        std::future::pending().await
    };
    let succeeded = tokio::select! {
        // An error means that the server is gone: the same as a stop.
        phase = phase.wait_for(|phase| *phase >= Phase::Stopping) => {
            phase.is_ok_and(|phase| *phase == Phase::Succeeded)
        }
        () = taking => unreachable!("changes have no end"),
    };
    worker.stop(succeeded);
    while worker.is_busy() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if let Some(log) = &*worker.access_log.borrow() {
        log.close();
    }
}
