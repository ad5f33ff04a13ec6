//! May this failure be tried again? Pure, but for the budget that it takes from.
//!
//! * Nothing of the request can have been processed (no connection, or the kernel says that no byte arrived): always, whatever
//!   the method. Such a failure put no load on anything, so it costs no budget and does not count as an attempt.
//! * The request may be repeated (idempotent, or `Idempotency-Key`): while attempts and the pool's budget last.
//! * Else never: what may have been processed once is not sent again.
//!
//! A body that is larger than `retry.max_body` cannot be sent twice, whatever the reason.

use http::StatusCode;

use super::plan::PoolPlan;
use super::request::Head;
use super::upstream::{AttemptError, Upload};
use crate::pool::Snapshot;

/// The retries of one request.
pub(crate) struct Retries<'a> {
    pool: &'a PoolPlan,
    repeatable: bool,
    attempts: u32,
    /// Retries taken from the budget, given back at the end of the request.
    taken: u32,
    /// Targets that have failed this request, by index in its snapshot.
    pub(crate) tried: Vec<u32>,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Again {
    /// Try another target.
    Yes,
    /// Give up.
    No,
    /// Another attempt would be right, but the budget is spent.
    OverBudget,
}

impl<'a> Retries<'a> {
    pub(crate) fn new(pool: &'a PoolPlan, head: &Head) -> Self {
        Self { pool, repeatable: head.is_repeatable(), attempts: 1, taken: 0, tried: Vec::new() }
    }

    /// Whether a request that failed like this at target `index` is sent again.
    pub(crate) fn after_failure(&mut self, index: usize, error: &AttemptError, upload: &Upload) -> Again {
        let AttemptError::Target { untouched, .. } = error else { return Again::No };
        self.tried.push(index as u32);
        if !upload.is_replayable() {
            return Again::No;
        }
        if *untouched { Again::Yes } else { self.repeat() }
    }

    /// Whether a request that was answered with `status` at target `index` is sent again: only if somebody else is left
    /// to ask, because an answer is better than none.
    pub(crate) fn after_status(
        &mut self,
        snapshot: &Snapshot,
        index: usize,
        status: StatusCode,
        upload: &Upload,
    ) -> Again {
        let config = &self.pool.config.retry;
        if !config.statuses.iter().any(|range| range.contains(&status.as_u16())) || !upload.is_replayable() {
            return Again::No;
        }
        self.tried.push(index as u32);
        if snapshot.open.iter().all(|index| self.tried.contains(index)) {
            return Again::No;
        }
        self.repeat()
    }

    fn repeat(&mut self) -> Again {
        let config = &self.pool.config.retry;
        if !self.repeatable || self.attempts >= config.attempts {
            return Again::No;
        }
        let shared = &self.pool.shared;
        if !shared.budget.begin(config, shared.live(), shared.requests()) {
            return Again::OverBudget;
        }
        self.taken += 1;
        self.attempts += 1;
        Again::Yes
    }

    /// Forgets which targets failed, to begin another round once the request has waited.
    pub(crate) fn forgive(&mut self) {
        self.tried.clear();
    }
}

impl Drop for Retries<'_> {
    fn drop(&mut self) {
        (0..self.taken).for_each(|_| self.pool.shared.budget.end());
    }
}
