//! How a target behaves, as far as a worker must know at once: failures in a row, silence, and how long it took lately.
//!
//! Not obvious: a worker that sees the limit reached *suspends* the target itself, so that no other request is spent on it while
//! the control plane makes up its mind; only the control plane ejects, and only it ends a suspension. Limits are set by the
//! control plane too: a target on trial is suspended earlier. A connection that breaks says nothing of the process that is
//! there now if that has answered since on a newer one, or if the target has returned since: that is what a quick restart looks
//! like, whose broken connections are noticed one by one. Nothing here looks at other targets.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use super::outcome::Failure;

/// Written by the workers, read and reset by the control plane.
pub struct Conduct {
    /// Failures since the last success.
    failures: AtomicU32,
    /// Of these, the last ones that were no answer at all.
    unreachable: AtomicU32,
    /// The last connection was refused: there is nothing at the address just now, and asking costs nothing.
    refused: AtomicBool,
    /// Failures in a row that suspend.
    limit: AtomicU32,
    /// First-byte deadlines that passed while the target answered nothing at all, since it last answered.
    silences: AtomicU32,
    suspended: AtomicBool,
    /// When the newest connection began that an answer came on, or when the target last returned if that was later, in
    /// nanoseconds since `epoch`. A connection that is not newer, and breaks, may have been one to another process.
    proven_ns: AtomicU64,
    /// When the target last answered, in nanoseconds since `epoch`: a request may follow an answer within a millisecond.
    answered_ns: AtomicU64,
    /// Moving average of the time to the first byte: microseconds as `f32` bits in the upper half, milliseconds since `epoch`
    /// of its last change in the lower half.
    latency: AtomicU64,
    epoch: Instant,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            failures: AtomicU32::new(0),
            unreachable: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            limit: AtomicU32::new(u32::MAX),
            silences: AtomicU32::new(0),
            suspended: AtomicBool::new(false),
            proven_ns: AtomicU64::new(0),
            answered_ns: AtomicU64::new(0),
            latency: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }
}

/// Time in which the memory of a slow answer fades to 37 %.
const FADE_MS: f32 = 10_000.0;

impl Conduct {
    /// The target has answered at `now`, with an answer that is no failure.
    pub fn succeed(&self, now: Instant) {
        self.answer(now);
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.unreachable.store(0, Relaxed);
        }
    }

    /// The target has answered at `now`, with a failure. True if that suspends it.
    pub fn answer_badly(&self, now: Instant) -> bool {
        self.answer(now);
        self.unreachable.store(0, Relaxed);
        self.fail()
    }

    /// Answers come on a connection that was begun at `connected`, and is one request's at a time.
    pub fn prove(&self, connected: Instant) {
        let connected = self.ns(connected);
        // Rarely true. Two workers may overwrite each other with moments that are close together.
        if connected > self.proven_ns.load(Relaxed) {
            self.proven_ns.store(connected, Relaxed);
        }
    }

    /// The target has failed without an answer that counts, on a connection that was begun at `connected`. True if that
    /// suspends it.
    pub fn break_off(&self, failure: Failure, connected: Instant) -> bool {
        if failure == Failure::Reset && self.ns(connected) <= self.proven_ns.load(Relaxed) {
            return false;
        }
        match failure {
            Failure::Connect | Failure::Reset | Failure::ConnectTimeout | Failure::Tls => {
                self.unreachable.fetch_add(1, Relaxed);
                self.refused.store(failure == Failure::Connect, Relaxed);
            }
            Failure::FirstByteTimeout | Failure::IdleTimeout | Failure::Protocol => {
                self.unreachable.store(0, Relaxed);
            }
        }
        self.fail()
    }

    fn fail(&self) -> bool {
        let failures = self.failures.fetch_add(1, Relaxed).saturating_add(1);
        failures >= self.limit.load(Relaxed) && !self.suspended.swap(true, Relaxed)
    }

    /// A request sent at `sent` has waited for its first byte in vain. True if that suspends the target, because nobody
    /// else has heard from it in that time either.
    pub fn time_out(&self, sent: Instant) -> bool {
        let failed = self.break_off(Failure::FirstByteTimeout, sent);
        let silent = self.answered_ns.load(Relaxed) < self.ns(sent);
        if !silent || self.limit.load(Relaxed) == u32::MAX {
            return failed;
        }
        self.silences.fetch_add(1, Relaxed);
        !self.suspended.swap(true, Relaxed) || failed
    }

    fn answer(&self, now: Instant) {
        self.answered_ns.store(self.ns(now), Relaxed);
        if self.silences.load(Relaxed) != 0 {
            self.silences.store(0, Relaxed);
        }
    }

    /// Whether requests should keep away until the control plane has decided.
    pub fn is_suspended(&self) -> bool {
        self.suspended.load(Relaxed)
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures.load(Relaxed)
    }

    /// Failures in a row, the last ones, that were no answer at all.
    pub fn unreachable(&self) -> u32 {
        self.unreachable.load(Relaxed)
    }

    /// Whether the last of these was a refused connection.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// Deadlines that passed in silence.
    pub fn silences(&self) -> u32 {
        self.silences.load(Relaxed)
    }

    /// How long ago it answered last; `None` if it never has.
    pub fn answered_ago(&self, now: Instant) -> Option<Duration> {
        (self.answered_ns.load(Relaxed) != 0).then(|| self.silent_for(now))
    }

    /// How long the target has not answered anything.
    pub fn silent_for(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.ns(now).saturating_sub(self.answered_ns.load(Relaxed)))
    }

    /// Begins anew with this many failures in a row as the limit, and ends a suspension.
    pub fn pardon(&self, limit: u32) {
        self.failures.store(0, Relaxed);
        self.unreachable.store(0, Relaxed);
        self.silences.store(0, Relaxed);
        self.set_limit(limit);
        self.suspended.store(false, Relaxed);
    }

    /// The target is back at `now`, perhaps as another process: what was before counts no longer, not even what is heard of it
    /// only from now on.
    pub fn begin_anew(&self, now: Instant) {
        self.proven_ns.store(self.ns(now), Relaxed);
        self.pardon(self.limit.load(Relaxed));
    }

    /// Sets how many failures in a row suspend; `u32::MAX` for none.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Relaxed);
    }

    /// An answer's first byte took `took`. A slower one than the average counts in full at once, a faster one by and by.
    pub fn observe_latency(&self, now: Instant, took: Duration) {
        let (now_ms, took) = ((self.ns(now) / 1_000_000) as u32, took.as_micros() as f32);
        let (average, at_ms) = unpack(self.latency.load(Relaxed));
        let average = if took >= average {
            took
        } else {
            let kept = (-(now_ms.wrapping_sub(at_ms) as f32) / FADE_MS).exp();
            average * kept + took * (1.0 - kept)
        };
        // Two workers may overwrite each other: one sample more or less does not matter.
        self.latency.store(u64::from(average.to_bits()) << 32 | u64::from(now_ms), Relaxed);
    }

    /// Microseconds to the first byte lately; 0 before the first answer.
    pub fn latency_us(&self) -> f32 {
        unpack(self.latency.load(Relaxed)).0
    }

    fn ns(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_nanos() as u64
    }
}

fn unpack(latency: u64) -> (f32, u32) {
    (f32::from_bits((latency >> 32) as u32), latency as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_suspend_once() {
        let conduct = Conduct::default();
        conduct.pardon(3);
        let now = Instant::now();
        let refused = || conduct.break_off(Failure::Connect, now);
        assert!(!refused() && !conduct.answer_badly(now));
        assert_eq!((conduct.failures(), conduct.unreachable()), (2, 0));
        conduct.succeed(now);
        assert!(!refused() && !refused() && refused());
        assert_eq!((conduct.failures(), conduct.unreachable()), (3, 3));
        assert!(!refused(), "the alarm is raised once");
        assert!(conduct.is_suspended());
        conduct.pardon(2);
        assert!(!conduct.is_suspended() && !refused() && refused());
    }

    #[test]
    fn a_connection_from_before_its_return_does_not_speak_against_a_target() {
        let conduct = Conduct::default();
        conduct.pardon(2);
        let at = |seconds| conduct.epoch + Duration::from_secs(seconds);
        assert!(!conduct.break_off(Failure::Reset, at(1)) && conduct.break_off(Failure::Reset, at(1)));
        conduct.begin_anew(at(2));
        assert_eq!((conduct.is_suspended(), conduct.failures()), (false, 0));
        assert!(!conduct.break_off(Failure::Reset, at(1)) && !conduct.break_off(Failure::Reset, at(1)));
        assert_eq!(conduct.failures(), 0, "they were connections to another process");
        assert!(!conduct.break_off(Failure::Reset, at(3)) && conduct.break_off(Failure::Reset, at(3)));
    }

    #[test]
    fn connections_that_break_after_a_newer_one_was_answered_were_to_a_process_that_is_gone() {
        let conduct = Conduct::default();
        conduct.pardon(2);
        let at = |seconds| conduct.epoch + Duration::from_secs(seconds);
        conduct.prove(at(2));
        conduct.prove(at(1));
        assert!((0..5).all(|_| !conduct.break_off(Failure::Reset, at(2))));
        assert_eq!(conduct.failures(), 0);
        // One that breaks on every connection that it takes, or takes none, is known by that.
        assert!(!conduct.break_off(Failure::Reset, at(3)) && conduct.break_off(Failure::Reset, at(3)));
        conduct.pardon(2);
        assert!(!conduct.break_off(Failure::Connect, at(1)) && conduct.break_off(Failure::Connect, at(1)));
    }

    #[test]
    fn a_deadline_that_passes_in_silence_suspends_and_a_slow_request_among_others_does_not() {
        let conduct = Conduct::default();
        conduct.pardon(5);
        let sent = conduct.epoch + Duration::from_secs(1);
        conduct.succeed(sent + Duration::from_millis(10));
        assert!(!conduct.time_out(sent), "others were answered since");
        assert!(conduct.time_out(sent + Duration::from_secs(1)));
        assert_eq!(conduct.silences(), 1);
        // A client may ask again as soon as it has its answer.
        conduct.pardon(5);
        conduct.succeed(sent + Duration::from_micros(900));
        assert!(conduct.time_out(sent + Duration::from_micros(950)));
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let conduct = Conduct::default();
        let at = |seconds| conduct.epoch + Duration::from_secs(seconds);
        conduct.observe_latency(at(0), Duration::from_millis(1));
        conduct.observe_latency(at(1), Duration::from_millis(100));
        assert_eq!(conduct.latency_us(), 100_000.0);
        conduct.observe_latency(at(11), Duration::from_millis(1));
        assert!((30_000.0..45_000.0).contains(&conduct.latency_us()), "{}", conduct.latency_us());
    }
}
