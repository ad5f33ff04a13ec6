//! A worker's open tunnels, and when those that have to leave are told so.
//!
//! A tunnel has no end of its own, so that one which stays at a target keeps it from being switched off. It goes on to the
//! end of its target's drain, or of the node's stop; shortly before that it is told, and each at another moment, or ten
//! thousand clients would come back in the same. Not obvious: nothing looks at tunnels regularly. The moment is a deadline
//! that is set when a snapshot changes who leaves. How a tunnel is told is in [`super::upgrade`].

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::Worker;
use super::deadline::Deadline;
use super::upstream::Upstream;
use crate::pool::{Leave, TunnelEnd};

/// Of the time that a drain lasts, the part in which tunnels are told, and the part that they have then to say goodbye.
const PART: u32 = 10;
/// The longest of these.
const TELLING_MAX: Duration = Duration::from_secs(10);
const GOODBYE_MAX: Duration = Duration::from_secs(1);
/// The first of them, where nothing was announced.
const TELLING_AT_ONCE: Duration = Duration::from_secs(1);

/// The time in which some tunnels are told that they have to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    first: Instant,
    last: Instant,
    /// What they have from then on to say goodbye.
    pub(crate) goodbye: Duration,
    pub(crate) why: TunnelEnd,
}

impl Window {
    /// For tunnels of a target that leaves, as of `now`.
    pub(crate) fn of(leave: Leave, now: Instant) -> Option<Self> {
        match leave {
            Leave::No => None,
            Leave::By { since, end } => Some(Self::before(since, end, TunnelEnd::Drain)),
            Leave::Now => {
                let last = now + TELLING_AT_ONCE;
                Some(Self { first: now, last, goodbye: GOODBYE_MAX, why: TunnelEnd::Down })
            }
        }
    }

    /// The last part of the time from `since` to `end`: when it ends, the last one has said goodbye.
    pub(crate) fn before(since: Instant, end: Instant, why: TunnelEnd) -> Self {
        let part = end.saturating_duration_since(since) / PART;
        let goodbye = part.min(GOODBYE_MAX);
        let last = end.checked_sub(goodbye).unwrap_or(end);
        let first = last.checked_sub(part.min(TELLING_MAX)).unwrap_or(last);
        Self { first, last, goodbye, why }
    }

    /// The moment for the tunnel at this place (0.0 to 1.0).
    fn moment(&self, place: f64) -> Instant {
        self.first + self.last.saturating_duration_since(self.first).mul_f64(place)
    }
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Tunnels {
    open: RefCell<Vec<Rc<Entry>>>,
    /// Set when the node stops.
    node: Cell<Option<Window>>,
    /// Told when there is one after there was none.
    first: Notify,
}

struct Entry {
    /// Where it is in the list.
    index: Cell<usize>,
    upstream: Rc<Upstream>,
    /// Where in any window it is told, 0.0 to 1.0.
    place: f64,
    window: Cell<Option<Window>>,
    told: Deadline,
}

/// An open tunnel's entry in the list, until it is dropped.
pub(crate) struct Entered {
    worker: &'static Worker,
    entry: Rc<Entry>,
}

impl Tunnels {
    /// Adds a tunnel to a target.
    pub(crate) fn enter(&self, worker: &'static Worker, upstream: &Rc<Upstream>) -> Entered {
        let place = worker.random.unit();
        let mut open = self.open.borrow_mut();
        let entry = Rc::new(Entry {
            index: Cell::new(open.len()),
            upstream: upstream.clone(),
            place,
            window: Cell::new(None),
            told: worker.deadlines.register(),
        });
        entry.look(self.node.get(), Instant::now());
        if open.is_empty() {
            self.first.notify_one();
        }
        open.push(entry.clone());
        worker.lane().tunnels.bump();
        Entered { worker, entry }
    }

    /// Whether there is any.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.borrow().is_empty()
    }

    /// Waits for the first.
    pub(crate) async fn first(&self) {
        self.first.notified().await;
    }

    /// Which targets leave is not what it was: every tunnel gets its moment, or loses it.
    pub(crate) fn look(&self, now: Instant) {
        self.open.borrow().iter().for_each(|entry| entry.look(self.node.get(), now));
    }

    /// The node stops: all leave within this window at the latest.
    pub(crate) fn leave(&self, window: Window, now: Instant) {
        self.node.set(Some(window));
        self.look(now);
    }
}

impl Entry {
    fn look(&self, node: Option<Window>, now: Instant) {
        let both = self.upstream.window().into_iter().chain(node);
        let window = both.min_by_key(|window| window.last);
        if window == self.window.replace(window) {
            return;
        }
        match window {
            Some(window) => self.told.set(window.moment(self.place).saturating_duration_since(now)),
            None => self.told.clear(),
        }
    }
}

impl Entered {
    /// Ready when the tunnel has to leave.
    pub(crate) fn poll_told(&self, cx: &mut Context<'_>) -> Poll<Window> {
        ready!(self.entry.told.poll(cx));
        // A deadline that passes was set with its window.
        self.entry.window.get().map_or(Poll::Pending, Poll::Ready)
    }

    /// The tunnel is over.
    pub(crate) fn end(self, why: TunnelEnd) {
        self.worker.lane().tunnels_closed[why as usize].bump();
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.worker.lane().tunnels.drop_one();
        let mut open = self.worker.tunnels.open.borrow_mut();
        let index = self.entry.index.get();
        open.swap_remove(index);
        if let Some(moved) = open.get(index) {
            moved.index.set(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn tunnels_are_told_in_the_last_part_of_a_drain_and_have_time_to_say_goodbye() {
        let since = Instant::now() + 1000 * SECOND;
        for (lasts, first, last, goodbye) in [
            (300 * SECOND, 289 * SECOND, 299 * SECOND, SECOND),
            (10 * SECOND, 8 * SECOND, 9 * SECOND, SECOND),
            (SECOND, SECOND * 8 / 10, SECOND * 9 / 10, SECOND / 10),
            (Duration::ZERO, Duration::ZERO, Duration::ZERO, Duration::ZERO),
        ] {
            let window = Window::of(Leave::By { since, end: since + lasts }, since).unwrap();
            assert_eq!((window.first, window.last), (since + first, since + last), "{lasts:?}");
            assert_eq!((window.goodbye, window.why), (goodbye, TunnelEnd::Drain));
            assert_eq!(window.moment(0.0), window.first);
            assert_eq!(window.moment(0.5), window.first + (last - first) / 2);
        }
    }

    #[test]
    fn those_of_a_target_that_is_down_are_told_within_a_second() {
        let now = Instant::now();
        let window = Window::of(Leave::Now, now).unwrap();
        assert_eq!((window.first, window.last, window.why), (now, now + SECOND, TunnelEnd::Down));
        assert_eq!(Window::of(Leave::No, now), None);
    }
}
