//! How a request waits for a target: in a line, in which each has its turn, and never for longer than the queue's deadline.
//!
//! Three reasons, three lines. Every target is full: the end of any request gives the first in line a turn. The session's own
//! target is full: the end of a request there. Every target has failed this request: only a change of the pool is worth another
//! look, and a look now and then. Apart from those, a request may *hesitate* for some milliseconds before it is sent to a target
//! that has let several requests go by without an answer.

use std::pin::pin;
use std::time::{Duration, Instant};

use super::Worker;
use super::balance::Pick;
use super::error::ProxyError;
use super::plan::PoolPlan;
use super::worker::View;
use crate::pool::queue::Place;

/// Between two looks at targets that all refused: nothing announces that one has come back before its next check.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a request hesitates at most. Where answers usually take longer than this, it does not hesitate: silence says
/// nothing there.
const HESITATION_MAX: Duration = Duration::from_millis(10);

/// Requests sent without an answer from anywhere that make a burst.
const BURST: u32 = 3;

/// The same before the first answer, when nobody knows how long they take.
const FIRST_HESITATION: Duration = Duration::from_millis(50);

/// What one request has waited so far.
pub(crate) struct Patience<'a> {
    worker: &'a Worker,
    pool: &'a PoolPlan,
    /// Since when it waits, and how long it may.
    since: Option<(Instant, Duration)>,
    hesitating_since: Option<Instant>,
    hesitated: bool,
}

impl<'a> Patience<'a> {
    pub(crate) fn new(worker: &'a Worker, pool: &'a PoolPlan) -> Self {
        Self { worker, pool, since: None, hesitating_since: None, hesitated: false }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn may_hesitate(&self) -> bool {
        // While answers come in, the targets differ by them: only out of nothing is it worth to wait for one.
        !self.hesitated && self.pool.unheard() >= BURST && self.pool.typical_answer() < HESITATION_MAX
    }

    /// Gives the targets time to answer somebody: several times what they usually take.
    async fn hesitate(&mut self, place: &Place<'_>) {
        let since = *self.hesitating_since.get_or_insert_with(Instant::now);
        let limit = match self.pool.typical_answer() {
            Duration::ZERO => FIRST_HESITATION,
            typical => (typical * 4).clamp(HESITATION_MAX / 4, HESITATION_MAX),
        };
        let left = limit.saturating_sub(since.elapsed());
        self.hesitated = left.is_zero() || tokio::time::timeout(left, place.turn()).await.is_err();
    }

    /// Waits for a turn, a change of the pool, or the end of patience.
    pub(crate) async fn wait(
        &mut self,
        view: &View,
        why: Pick,
        tried: &[u32],
        last_error: &mut Option<ProxyError>,
    ) -> Result<(), ProxyError> {
        let waited = self.wait_in_line(view, why, tried, last_error).await;
        // Whoever gave the turn has just given a connection back too. Before it is used again, the runtime looks at its socket:
        // what a target sends unasked must not be taken for an answer.
        tokio::task::yield_now().await;
        waited
    }

    async fn wait_in_line(
        &mut self,
        view: &View,
        why: Pick,
        tried: &[u32],
        last_error: &mut Option<ProxyError>,
    ) -> Result<(), ProxyError> {
        let shared = &self.pool.shared;
        let line = match why {
            Pick::OwnIsFull { index } => &view.snapshot.targets[index].state.line,
            Pick::NoneLeft => &shared.queue.news,
            Pick::AllSilent => &shared.queue.hesitating,
            _ => &shared.queue.line,
        };
        let place = shared.queue.join(line, self.pool.config.queue.length);
        if why == Pick::AllSilent {
            self.hesitated |= place.is_none();
            if let Some(place) = place {
                self.hesitate(&place).await;
            }
            return Ok(());
        }
        let refused = |full: ProxyError, last_error: &mut Option<ProxyError>| {
            self.pool.lane().queue_refused.bump();
            let error = if why == Pick::NoneLeft { ProxyError::NoTarget } else { full };
            Err(last_error.take().unwrap_or(error))
        };
        let Some(place) = place else { return refused(ProxyError::QueueFull, last_error) };
        let mut turn = pin!(place.turn());
        turn.as_mut().enable();
        if self.since.is_none() {
            self.pool.lane().queued.bump();
        }
        let now = Instant::now();
        let timeout = self.pool.config.queue.timeout;
        // For who waits for a change of the pool there is nothing that others could be late for.
        let (since, most) = *self.since.get_or_insert_with(|| match why {
            Pick::NoneLeft => (now, timeout),
            _ => (now, line.patience(timeout, now)),
        });
        let left = most.saturating_sub(now.duration_since(since));
        if left.is_zero() {
            return refused(ProxyError::QueueTimeout, last_error);
        }
        // What changed between the look and the place in line wakes nobody: look again.
        let ahead = (line.waiting() as u32).saturating_sub(1);
        let room = |index: usize, ahead: u32| {
            let target = &view.snapshot.targets[index];
            target.state.has_room(target.max_connections, ahead)
        };
        let has_room = match why {
            Pick::OwnIsFull { index } => room(index, 0),
            Pick::AllFull => {
                view.snapshot.open.iter().any(|index| !tried.contains(index) && room(*index as usize, ahead))
            }
            Pick::Target { .. } | Pick::NoneLeft | Pick::AllSilent => false,
        };
        if has_room || !self.pool.is_current(view) {
            return Ok(());
        }
        let nap = if why == Pick::NoneLeft { left.min(LOOK_AGAIN) } else { left };
        let _ = self.worker.deadlines.register().limit(nap, turn).await;
        Ok(())
    }
}
