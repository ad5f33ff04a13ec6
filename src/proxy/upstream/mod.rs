//! One attempt: a request to one target, and its answer.
//!
//! Each worker keeps its own idle connections to each target, the one used last on top, so that the others can age.
//! Nothing here chooses a target or decides about a retry: an attempt ends with an answer or with a [`Failure`] and whether
//! any byte of the request may have been processed.

mod attempt;
mod connection;
mod upload;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderValue, StatusCode};
use tokio::net::TcpStream;

use super::Worker;
use super::io::Io;
use super::worker::PoolWorker;
use crate::config;
use crate::pool::{Failure, Pool, TargetLane, TargetState};
pub(crate) use attempt::{Attempt, AttemptError, send};
pub(crate) use connection::{AnswerBody, Connection};
pub(crate) use upload::Upload;

/// One target as one worker sees it.
pub(crate) struct Upstream {
    pub(crate) state: Arc<TargetState>,
    worker: usize,
    keep_alive: Cell<config::UpstreamKeepAlive>,
    /// Boxed: they are moved with every request.
    idle: RefCell<VecDeque<Box<Connection>>>,
}

impl Upstream {
    pub(crate) fn new(state: Arc<TargetState>, worker: usize, keep_alive: config::UpstreamKeepAlive) -> Self {
        Self { state, worker, keep_alive: Cell::new(keep_alive), idle: RefCell::default() }
    }

    /// This worker's counters of the target.
    pub(crate) fn lane(&self) -> &TargetLane {
        self.state.lanes.of(self.worker)
    }

    /// An idle connection that is still open, the one used last.
    fn reuse(&self, now_ticks: u64) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        for at in (0..idle.len()).rev() {
            if idle[at].usable_from > now_ticks {
                continue;
            }
            // One that has closed is useless; one that speaks unasked would answer a stranger's request.
            let connection = idle.remove(at)?;
            if connection.io.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    fn keep(&self, mut connection: Box<Connection>, now_ticks: u64, pause_ticks: u64) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.keep_alive.get().connections {
            connection.rest(now_ticks, pause_ticks);
            idle.push_back(connection);
        }
    }

    /// Closes connections that have been idle too long, or that the target has closed.
    pub(crate) fn sweep(&self, now_ticks: u64) {
        let oldest = super::deadline::Deadlines::ticks_of(self.keep_alive.get().timeout);
        self.idle.borrow_mut().retain(|connection| {
            now_ticks.saturating_sub(connection.idle_since) < oldest && connection.io.is_quiet()
        });
    }

    /// The target has answered a request.
    fn heard(&self, pool: &Pool, status: StatusCode, now: Instant) {
        self.state.answered();
        pool.queue.hesitating.wake_one();
        let conduct = &self.state.conduct;
        if !status.is_server_error() {
            conduct.succeed(now);
        } else if conduct.answer_badly(now) {
            pool.alarm.notify_one();
        }
    }

    /// An attempt that began at `sent` has ended without an answer.
    fn failed(&self, pool: &Pool, failure: Failure, sent: Instant) {
        let suspended = match failure {
            Failure::FirstByteTimeout => self.state.conduct.time_out(sent),
            _ => self.state.conduct.break_off(failure),
        };
        if suspended {
            pool.alarm.notify_one();
        }
    }

    /// Keeps so many idle connections from now on.
    pub(crate) fn set_keep_alive(&self, keep_alive: config::UpstreamKeepAlive) {
        self.keep_alive.set(keep_alive);
    }

    /// Closes all idle connections.
    pub(crate) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Opens a connection.
    async fn connect(
        &self,
        worker: &Worker,
        timeouts: &config::Timeouts,
    ) -> Result<Box<Connection>, (Failure, std::io::Error)> {
        self.lane().connects.bump();
        let deadline = worker.deadlines.register();
        let tcp = deadline
            .limit(timeouts.connect, TcpStream::connect(self.state.address))
            .await
            .map_err(|_| (Failure::ConnectTimeout, std::io::ErrorKind::TimedOut.into()))?
            .map_err(|error| (Failure::Connect, error))?;
        // A socket that refuses the option is slower, not wrong.
        let _ = tcp.set_nodelay(true);
        Ok(Box::new(Connection::new(Io::new(tcp), deadline)))
    }
}

/// A request counted at its target, from the pick to the last byte of the answer.
pub(crate) struct InFlight {
    pool: Rc<PoolWorker>,
    upstream: Rc<Upstream>,
}

impl InFlight {
    /// For a target whose `begin` has succeeded.
    pub(crate) fn begun(pool: &Rc<PoolWorker>, upstream: &Rc<Upstream>) -> Self {
        Self { pool: pool.clone(), upstream: upstream.clone() }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.upstream.state;
        state.end();
        // Whoever waits for this target and whoever waits for any may look: a needless look does no harm.
        state.line.wake_one();
        self.pool.shared.queue.line.wake_one();
    }
}

/// A connection that a target has agreed to turn into a tunnel.
pub(crate) struct Tunnel {
    pub(crate) connection: Box<Connection>,
    /// What it turns into.
    pub(crate) protocol: HeaderValue,
    /// Longest silence.
    pub(crate) idle: std::time::Duration,
    /// Counted until the tunnel ends.
    pub(crate) in_flight: InFlight,
}
