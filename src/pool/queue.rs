//! A bounded line of requests that wait for a target.
//!
//! Requests of all workers stand in one line per pool, first come, first served. It costs a request nothing while
//! nobody waits: one relaxed load when a request ends. It does not know why somebody waits, nor for how long: the
//! waiting request brings its own deadline.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The line of one pool.
pub struct WaitQueue {
    length: usize,
    waiting: AtomicUsize,
    notify: Notify,
}

/// A place in the line; dropping it gives the place up.
pub struct Place<'a> {
    queue: &'a WaitQueue,
}

impl WaitQueue {
    /// A line that holds `length` requests.
    pub fn new(length: usize) -> Self {
        Self { length, waiting: AtomicUsize::new(0), notify: Notify::new() }
    }

    /// Takes a place; `None` when the line is full.
    pub fn join(&self) -> Option<Place<'_>> {
        self.waiting
            .try_update(SeqCst, SeqCst, |now| (now < self.length).then_some(now + 1))
            .is_ok()
            .then_some(Place { queue: self })
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.waiting.load(SeqCst)
    }

    /// A request has ended somewhere: the first in line may look for a target.
    pub fn wake_one(&self) {
        if self.waiting() > 0 {
            self.notify.notify_one();
        }
    }

    /// The pool has changed: everybody may look.
    pub fn wake_all(&self) {
        self.notify.notify_waiters();
    }
}

impl<'a> Place<'a> {
    /// Completes at this place's turn. Poll it (or `enable` it) before looking for a target, or a wake-up between the
    /// look and the wait is lost.
    pub fn turn(&self) -> Notified<'a> {
        self.queue.notify.notified()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.waiting.fetch_sub(1, SeqCst);
        // A turn that this place was given but did not use belongs to the next one.
        self.queue.wake_one();
    }
}
