//! Deadlines of a worker: one array of due times, swept every 10 ms.
//!
//! A connection moves its deadline with every request and every read, and nearly none ever comes due. So moving one is
//! a store into an array, and only the sweep, which is linear and touches eight bytes per connection, looks at the
//! clock. Deadlines are therefore up to 20 ms late, never early. Not for precise timing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;

/// Between two sweeps.
const TICK: Duration = Duration::from_millis(10);
const NEVER: u64 = u64::MAX;

/// All deadlines of a worker, and its coarse clock.
pub(crate) struct Deadlines {
    start: Instant,
    /// Ticks since `start`, as of the last sweep.
    now: Cell<u64>,
    /// Seconds since 1970, as of the last sweep.
    unix_seconds: Cell<u64>,
    slots: RefCell<Slots>,
    /// Wakes the sweep when the first deadline appears.
    first: Notify,
}

#[derive(Default)]
struct Slots {
    due: Vec<u64>,
    /// Since when the connection does nothing but wait for a request; [`NEVER`] if it does not.
    idle_since: Vec<u64>,
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

/// One deadline, not set at first.
pub(crate) struct Deadline {
    all: Rc<Deadlines>,
    slot: u32,
}

/// A deadline has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

impl Deadlines {
    pub(crate) const TICKS_PER_SECOND: u64 = 100;

    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            start: Instant::now(),
            now: Cell::new(0),
            unix_seconds: Cell::new(unix_seconds()),
            slots: RefCell::default(),
            first: Notify::new(),
        })
    }

    /// A deadline of its own for somebody who waits.
    pub(crate) fn register(self: &Rc<Self>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        if slots.free.len() == slots.due.len() {
            self.look_at_clocks();
            self.first.notify_one();
        }
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.due.push(NEVER);
            slots.idle_since.push(NEVER);
            slots.wakers.push(None);
            slots.due.len() as u32 - 1
        });
        Deadline { all: self.clone(), slot }
    }

    /// Seconds since 1970, as of the last sweep. Current for as long as any deadline is registered.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.unix_seconds.get()
    }

    /// Ticks of 10 ms since the worker started, as of the last sweep.
    pub(crate) fn coarse_ticks(&self) -> u64 {
        self.now.get()
    }

    /// Ticks that `duration` lasts.
    pub(crate) fn ticks_of(duration: Duration) -> u64 {
        // Not `as_millis`, which divides numbers of 128 bits.
        let in_second = u64::from(duration.subsec_nanos()).div_ceil(TICK.subsec_nanos().into());
        duration.as_secs().saturating_mul(Self::TICKS_PER_SECOND).saturating_add(in_second).min(NEVER / 2)
    }

    /// Sweeps for as long as the worker lives.
    pub(crate) async fn sweep(self: Rc<Self>) {
        loop {
            if self.idle() {
                self.first.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.look_at_clocks();
            self.wake(|due, now| due <= now);
        }
    }

    /// Wakes everybody who waits, as when the worker stops and idle connections must look up.
    pub(crate) fn wake_everyone(&self) {
        self.wake(|_, _| true);
    }

    /// Lets the deadlines pass of those that have been idle for longest, `count` at most, and for `least` ticks at least. How
    /// many these were.
    pub(crate) fn shed(&self, count: usize, least: u64) -> usize {
        let mut slots = self.slots.borrow_mut();
        let latest = self.now.get().saturating_sub(least);
        let mut idle: Vec<_> =
            (0..slots.due.len()).filter(|slot| slots.idle_since[*slot] <= latest).collect();
        if idle.len() > count {
            idle.select_nth_unstable_by_key(count, |slot| slots.idle_since[*slot]);
            idle.truncate(count);
        }
        for slot in &idle {
            (slots.due[*slot], slots.idle_since[*slot]) = (0, NEVER);
            if let Some(waker) = slots.wakers[*slot].take() {
                waker.wake();
            }
        }
        idle.len()
    }

    fn idle(&self) -> bool {
        let slots = self.slots.borrow();
        slots.free.len() == slots.due.len()
    }

    fn wake(&self, due: impl Fn(u64, u64) -> bool) {
        let now = self.now.get();
        let mut slots = self.slots.borrow_mut();
        let Slots { due: times, wakers, .. } = &mut *slots;
        for (time, waker) in times.iter().zip(wakers) {
            if due(*time, now)
                && let Some(waker) = waker.take()
            {
                waker.wake();
            }
        }
    }

    fn look_at_clocks(&self) {
        self.now.set((self.start.elapsed().as_millis() / TICK.as_millis()) as u64);
        self.unix_seconds.set(unix_seconds());
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Deadline {
    /// Comes due after `duration` from now.
    pub(crate) fn set(&self, duration: Duration) {
        self.set_both(duration, NEVER);
    }

    /// The same for a connection that waits for a request: it may be asked to go earlier, see [`Deadlines::shed`].
    pub(crate) fn set_idle(&self, duration: Duration) {
        self.set_both(duration, self.all.now.get());
    }

    /// The same for a connection that has asked nothing yet: it counts as idle only after a second, as its first request may
    /// still be on its way.
    pub(crate) fn set_new(&self, duration: Duration) {
        self.set_both(duration, self.all.now.get() + Deadlines::TICKS_PER_SECOND);
    }

    fn set_both(&self, duration: Duration, idle_since: u64) {
        // One tick for the one that is under way: never early.
        let due = self.all.now.get().saturating_add(Deadlines::ticks_of(duration)).saturating_add(1);
        let (mut slots, slot) = (self.all.slots.borrow_mut(), self.slot as usize);
        slots.due[slot] = due.min(NEVER - 1);
        slots.idle_since[slot] = idle_since;
    }

    /// Never comes due.
    pub(crate) fn clear(&self) {
        let (mut slots, slot) = (self.all.slots.borrow_mut(), self.slot as usize);
        (slots.due[slot], slots.idle_since[slot]) = (NEVER, NEVER);
    }

    /// Whether it will ever come due.
    pub(crate) fn is_set(&self) -> bool {
        self.all.slots.borrow().due[self.slot as usize] != NEVER
    }

    /// Ready once the deadline has passed, and until it is set anew.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Elapsed> {
        let mut slots = self.all.slots.borrow_mut();
        if slots.due[self.slot as usize] <= self.all.now.get() {
            return Poll::Ready(Elapsed);
        }
        match &mut slots.wakers[self.slot as usize] {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            waker => *waker = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Runs `future` for at most `duration`.
    pub(crate) async fn limit<F: Future>(&self, duration: Duration, future: F) -> Result<F::Output, Elapsed> {
        self.set(duration);
        let mut future = pin!(future);
        let result = std::future::poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll(cx).map(Err)
        })
        .await;
        self.clear();
        result
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        let mut slots = self.all.slots.borrow_mut();
        slots.due[self.slot as usize] = NEVER;
        slots.idle_since[self.slot as usize] = NEVER;
        slots.wakers[self.slot as usize] = None;
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(test: impl Future<Output = ()> + 'static) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build_local(tokio::runtime::LocalOptions::default())
            .unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn a_deadline_is_never_early_and_little_late() {
        run(async {
            let all = Deadlines::new();
            tokio::task::spawn_local(all.clone().sweep());
            let deadline = all.register();
            let start = Instant::now();
            assert!(deadline.limit(Duration::from_millis(50), std::future::pending::<()>()).await.is_err());
            assert!(start.elapsed() >= Duration::from_millis(50));
            assert!(deadline.limit(Duration::from_secs(60), async { 7 }).await == Ok(7));
        });
    }

    #[test]
    fn who_is_asked_to_go_has_waited_longest_for_a_request() {
        run(async {
            let all = Deadlines::new();
            let deadlines: Vec<_> = (0..4).map(|_| all.register()).collect();
            let long = Duration::from_secs(60);
            for (deadline, at) in deadlines.iter().zip([30, 10, 20, 0]) {
                all.now.set(at);
                if at > 0 { deadline.set_idle(long) } else { deadline.set(long) }
            }
            all.now.set(35);
            assert_eq!(all.shed(1, 10), 1);
            let due = || all.slots.borrow().due.iter().map(|due| *due == 0).collect::<Vec<_>>();
            assert_eq!(due(), [false, true, false, false]);
            assert_eq!(all.shed(9, 10), 1, "not who has just begun to wait");
            assert_eq!(due(), [false, true, true, false], "nor who is busy");
            assert_eq!(all.shed(9, 0), 1);
        });
    }

    #[test]
    fn a_slot_is_used_again() {
        let all = Deadlines::new();
        let first = all.register();
        drop(first);
        let _second = all.register();
        assert_eq!(all.slots.borrow().due.len(), 1);
    }
}
