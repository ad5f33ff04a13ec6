//! Bounded lines of requests that wait for a target.
//!
//! Requests of all workers stand in one line per pool, first come, first served; a session that is bound to a full
//! target stands in that target's own line, because no other turn is of use to it. Both count against one bound. Waiting
//! costs the others nothing while nobody waits: one relaxed load when a request ends. A line does not know why somebody
//! waits, nor for how long: the request brings its own deadline.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Of the usual time, the part that is waited in a line that stands: a tenth.
const STANDING: u32 = 10;

/// The bound of a pool's lines, and the line of those that any target would serve.
#[derive(Default)]
pub struct WaitQueue {
    waiting: AtomicUsize,
    /// Requests that any target would serve.
    pub line: Line,
    /// Requests that every target has failed: only a change of the pool is news to them.
    pub news: Line,
    /// Requests that hesitate: any answer is news to them. They stand apart, because a turn in the first line that went to one
    /// of them would be lost to those who wait there.
    pub hesitating: Line,
}

/// One line.
#[derive(Default)]
pub struct Line {
    waiting: AtomicUsize,
    notify: Notify,
    /// Since when somebody waits without a break.
    busy_since: Mutex<Option<Instant>>,
}

/// A place in a line; dropping it gives the place up.
pub struct Place<'a> {
    queue: &'a WaitQueue,
    line: &'a Line,
}

impl WaitQueue {
    /// Takes a place in `line`, which is the pool's own or that of one of its targets; `None` when `length` requests wait
    /// already in all lines together.
    pub fn join<'a>(&'a self, line: &'a Line, length: usize) -> Option<Place<'a>> {
        self.waiting.try_update(SeqCst, SeqCst, |now| (now < length).then_some(now + 1)).ok()?;
        if line.waiting.fetch_add(1, SeqCst) == 0 {
            line.set_busy(Some(Instant::now()));
        }
        Some(Place { queue: self, line })
    }

    /// Requests that wait now, in all lines.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }
}

impl Line {
    /// Requests that wait in this line.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// How long somebody may wait who joins now, if it is `timeout` in good times. A burst is over before that; a line that
    /// has not been empty for so long *stands*, and would only make everybody late: whoever joins it is told soon. The line
    /// is then short enough to be empty a moment after the load has ended.
    pub fn patience(&self, timeout: Duration, now: Instant) -> Duration {
        let since = *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(now);
        let stands = now.saturating_duration_since(since) >= timeout;
        if stands { timeout / STANDING } else { timeout }
    }

    fn set_busy(&self, since: Option<Instant>) {
        *self.busy_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// A request has ended: the first in line may look for a target.
    pub fn wake_one(&self) {
        if self.waiting() > 0 {
            self.notify.notify_one();
        }
    }

    /// Things have changed: everybody in line may look.
    pub fn wake_all(&self) {
        self.notify.notify_waiters();
    }
}

impl<'a> Place<'a> {
    /// Completes at this place's turn. `enable` it before looking for a target, or a turn that comes between the look
    /// and the wait is lost.
    pub fn turn(&self) -> Notified<'a> {
        self.line.notify.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if self.line.waiting.fetch_sub(1, SeqCst) == 1 {
            self.line.set_busy(None);
        }
        self.queue.waiting.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_short_in_a_line_that_has_not_been_empty_for_long() {
        let (queue, timeout) = (WaitQueue::default(), Duration::from_secs(5));
        let first = queue.join(&queue.line, 2).expect("there is room");
        let now = Instant::now();
        let later = now + timeout;
        assert_eq!(queue.line.patience(timeout, now), timeout);
        assert_eq!(queue.line.patience(timeout, later), timeout / 10);
        let second = queue.join(&queue.line, 2).expect("there is room");
        assert!(queue.join(&queue.line, 2).is_none());
        drop(first);
        assert_eq!(queue.line.patience(timeout, later), timeout / 10, "somebody still waits");
        drop(second);
        assert_eq!(queue.line.patience(timeout, later), timeout);
    }
}
