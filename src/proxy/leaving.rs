//! When the connections of a listener that closes are asked to leave: each at a moment of its own, or all clients would come
//! back, here or elsewhere, in the same one. Pure.
//!
//! Until its moment a connection is served as ever. From then on an answer says so (`Connection: close`, GOAWAY), and one
//! that is idle is closed after a grace, in which its client may be told instead: a connection that is closed just as a
//! request is on its way costs that request.

use std::time::Duration;

use super::deadline::Deadlines;
use crate::config::Shutdown;

/// Longest grace of an idle connection when nobody takes the place of this process: its end waits for them.
const GRACE_MAX: Duration = Duration::from_secs(1);

/// How the connections of a listener leave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Leaving {
    /// In the worker's ticks.
    from: u64,
    spread: u64,
    grace: Duration,
    /// Another process accepts from the listener's sockets.
    pub(crate) succeeded: bool,
}

impl Leaving {
    /// All at once: the listener is gone from the configuration.
    pub(crate) fn at_once() -> Self {
        Self::default()
    }

    /// In good order from `now` on: the node stops, or another process has taken its place.
    pub(crate) fn in_time(shutdown: &Shutdown, succeeded: bool, now: u64) -> Self {
        let quarter = shutdown.deadline / 4;
        let grace = if succeeded { quarter } else { quarter.min(GRACE_MAX) };
        let spread = Deadlines::ticks_of(shutdown.spread.min(shutdown.deadline / 2));
        Self { from: now, spread, grace, succeeded }
    }

    /// How long the connection at this place (0.0 to 1.0) is not asked yet.
    pub(crate) fn wait(&self, place: f64, now: u64) -> Duration {
        let moment = self.from + (self.spread as f64 * place) as u64;
        Duration::from_millis(moment.saturating_sub(now) * (1000 / Deadlines::TICKS_PER_SECOND))
    }

    /// What an idle one has from its moment on.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn connections_leave_one_after_the_other_and_before_the_deadline() {
        let shutdown = |deadline, spread| Shutdown { deadline, spread, delay: Duration::ZERO };
        let leaving = Leaving::in_time(&shutdown(30 * SECOND, 2 * SECOND), false, 500);
        assert_eq!(
            [0.0, 0.5, 1.0].map(|place| leaving.wait(place, 500)),
            [Duration::ZERO, SECOND, 2 * SECOND]
        );
        assert_eq!((leaving.wait(0.5, 600), leaving.wait(0.5, 900)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(leaving.grace(), SECOND);
        let leaving = Leaving::in_time(&shutdown(4 * SECOND, 60 * SECOND), true, 0);
        assert_eq!((leaving.wait(1.0, 0), leaving.grace()), (2 * SECOND, SECOND));
        let leaving = Leaving::in_time(&shutdown(Duration::ZERO, 60 * SECOND), true, 0);
        assert_eq!((leaving.wait(1.0, 0), leaving.grace()), (Duration::ZERO, Duration::ZERO));
        assert_eq!(Leaving::at_once().wait(1.0, 7), Duration::ZERO);
    }
}
