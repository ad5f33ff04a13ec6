//! The data plane. Files in the order a request meets them:
//!
//! 1. [`listener`] accepts a connection on the worker's own socket,
//! 2. [`http1`] reads a request head strictly,
//! 3. [`exchange`] takes the worker's [`plan`], and knows the whole order of what follows:
//! 4. [`route`] finds what to do with it, [`session`] reads the cookie, [`headers`] readies the fields,
//! 5. [`balance`] picks a target, [`upstream`] sends the attempt, [`retry`] decides about a failure,
//! 6. [`session`] stamps the answer, [`body`] carries it back, [`upgrade`] if it is a tunnel, [`error`] if there is none.
//!
//! A request never leaves its worker's thread, and never waits for the control plane.

pub mod balance;
mod body;
mod deadline;
mod error;
mod exchange;
mod headers;
mod http1;
mod io;
pub mod listener;
mod patience;
mod plan;
pub mod request;
mod retry;
pub mod route;
pub mod session;
mod stickiness;
mod tcp_info;
mod upgrade;
mod upstream;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use crate::config::Config;
use crate::lifecycle::Phase;
use crate::pool::Pools;
use listener::WorkerSocket;
pub use listener::{BindError, BoundListener};
use worker::{Random, Worker};

/// Polls between two looks at the sockets. Lower than tokio's 61: a worker's polls are short, and what has arrived should
/// not wait for all of them.
const EVENT_INTERVAL: u32 = 31;

/// Starts the data plane: one thread for each worker, each with its own socket of every listener.
///
/// A thread ends when the phase is [`Phase::Stopping`] and its last connection is done.
pub fn start(
    config: &Arc<Config>,
    pools: &Arc<Pools>,
    listeners: &mut [BoundListener],
    phase: &watch::Receiver<Phase>,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let (started, starting) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    for index in 0..config.workers {
        let sockets: Vec<WorkerSocket> = listeners.iter_mut().filter_map(BoundListener::take).collect();
        let (config, pools, phase, started) = (config.clone(), pools.clone(), phase.clone(), started.clone());
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
            runtime.block_on(run(index, config, pools, sockets, phase));
        })?);
    }
    starting.iter().take(threads.len()).collect::<std::io::Result<()>>()?;
    Ok(threads)
}

/// One worker, to its end.
async fn run(
    index: usize,
    config: Arc<Config>,
    pools: Arc<Pools>,
    sockets: Vec<WorkerSocket>,
    mut phase: watch::Receiver<Phase>,
) {
    // Lives as long as its thread; connections hold plain references to it instead of counting them.
    let worker: &'static Worker = Box::leak(Box::new(Worker::new(index, config, pools)));
    tokio::task::spawn_local(worker.deadlines.clone().sweep());
    tokio::task::spawn_local(worker.sweep());
    let accepting: Vec<_> =
        sockets.into_iter().map(|socket| tokio::task::spawn_local(socket.run(worker))).collect();
    // An error means that the server is gone: the same as a stop.
    let _ = phase.wait_for(|phase| *phase == Phase::Stopping).await;
    worker.stop();
    for listener in accepting {
        // A panic in there has been logged; the others still finish.
        let _ = listener.await;
    }
    while worker.lane().open.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
