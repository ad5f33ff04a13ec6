//! Counters that workers write without sharing: one lane per worker, summed when somebody looks.
//!
//! A lane has one writer, so adding is a plain load and store; the atomics only make reading from another thread
//! sound. Lanes are padded to two cache lines, the unit in which x86 fetches.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::outcome::{
    Failure, HandshakeFailure, Http2Fault, Overload, ProxyHeaderFailure, Refusal, TunnelEnd, Verdict,
};

/// A count with one writer and any number of readers, unless [`Counter::add_beside`] is used.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one. For the lane's own worker only.
    pub fn bump(&self) {
        self.add(1);
    }

    /// Adds `n`. For the lane's own worker only.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds `n`, where there are other writers for a while.
    pub fn add_beside(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Takes one off a gauge. For the lane's own worker only.
    pub fn drop_one(&self) {
        self.0.store(self.0.load(Relaxed).wrapping_sub(1), Relaxed);
    }

    /// The present value.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One `T` for each worker, and one more for what another process has counted.
pub struct Lanes<T>(Box<[Padded<T>]>);

#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

impl<T: Default> Lanes<T> {
    /// A lane for each of `workers`.
    pub fn new(workers: usize) -> Self {
        Self((0..=workers).map(|_| Padded::default()).collect())
    }
}

impl<T> Lanes<T> {
    /// The lane of one worker.
    pub fn of(&self, worker: usize) -> &T {
        &self.0[worker].0
    }

    /// The lane that is no worker's; the control thread writes it. See [`super::inherit`].
    pub(super) fn inherited(&self) -> &T {
        &self.0[self.0.len() - 1].0
    }

    /// Every lane.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|padded| &padded.0)
    }

    /// The sum over all lanes of one of their counters.
    pub fn sum(&self, counter: impl Fn(&T) -> &Counter) -> u64 {
        self.iter().map(|lane| counter(lane).get()).sum()
    }
}

/// Counters of one pool in one worker.
#[derive(Debug, Default)]
pub struct PoolLane {
    /// Requests begun.
    pub requests: Counter,
    /// Requests in flight now, waiting ones included.
    pub live: Counter,
    /// Answers to clients by class of status: index 0 is 1xx.
    pub responses: [Counter; 5],
    /// Requests that ended without an answer because the client left.
    pub abandoned: Counter,
    /// Attempts after the first.
    pub retries: Counter,
    /// Retries that the budget refused.
    pub retries_refused: Counter,
    /// Requests that had to wait in the queue.
    pub queued: Counter,
    /// Requests that found the queue full or waited in vain.
    pub queue_refused: Counter,
    /// Requests refused because as many as may be were in flight.
    pub overloaded: Counter,
    /// What reading the session cookie found, by [`Verdict`].
    pub verdicts: [Counter; Verdict::COUNT],
    /// Sessions that moved to another target because theirs could not keep them.
    pub rehomed: Counter,
    /// From the request's head to the last byte of the answer.
    pub duration: Histogram,
}

/// Counters of one worker that belong to no pool.
#[derive(Debug, Default)]
pub struct WorkerLane {
    /// Connections accepted.
    pub accepted: Counter,
    /// Connections open now.
    pub open: Counter,
    /// Connections closed at accept because `allow` does not list their source.
    pub denied: Counter,
    /// Connections closed because their client has as many as it may.
    pub limited: Counter,
    /// Clients forgotten for others although their use mattered.
    pub forgotten: Counter,
    /// Idle connections of clients closed to make room.
    pub shed_clients: Counter,
    /// Idle connections to targets closed to make room.
    pub shed_targets: Counter,
    /// Connections that began with a PROXY header, as they should.
    pub proxy_headers: Counter,
    /// Connections closed because they did not, by [`ProxyHeaderFailure`].
    pub proxy_header_failures: [Counter; ProxyHeaderFailure::COUNT],
    /// Failed accepts, such as for want of file descriptors.
    pub accept_errors: Counter,
    /// Requests whose head was read, refused ones included.
    pub requests: Counter,
    /// Requests of pools in flight now.
    pub live: Counter,
    /// Requests refused for want of room, by [`Overload`].
    pub overloads: [Counter; Overload::COUNT],
    /// Refused requests, by [`Refusal`].
    pub refusals: [Counter; Refusal::COUNT],
    /// Looks that it has taken around: at least one in a second, or it stands still.
    pub turns: Counter,
    /// Connections lost to a panic.
    pub panics: Counter,
    /// Lines of the access log dropped because too many wait for its output.
    pub access_dropped: Counter,
    /// Spans dropped because those of too many requests wait for the collector.
    pub spans_dropped: Counter,
    /// Tunnels (upgraded connections) open now.
    pub tunnels: Counter,
    /// Tunnels that are over, by [`TunnelEnd`].
    pub tunnels_closed: [Counter; TunnelEnd::COUNT],
    /// TLS with clients.
    pub tls: TlsLane,
    /// HTTP/2 with clients.
    pub http2: Http2Lane,
}

/// Lines of the access log that have reached its writer.
#[derive(Debug, Default)]
pub struct AccessLogCounts {
    /// Written.
    pub written: Counter,
    /// Lost, because the output took them not or only in part.
    pub failed: Counter,
}

/// What became of spans that were sent to the collector.
#[derive(Debug, Default)]
pub struct SpanCounts {
    /// Taken.
    pub exported: Counter,
    /// Refused by a collector that took others with them.
    pub rejected: Counter,
    /// Lost with their batch, which the collector did not take.
    pub failed: Counter,
}

/// Counters of HTTP/2 with clients in one worker. Its connections and requests are also among all others.
#[derive(Debug, Default)]
pub struct Http2Lane {
    /// Connections on which both sides have said that they speak it.
    pub connections: Counter,
    /// Of these, open now.
    pub open: Counter,
    /// Requests whose head was read.
    pub requests: Counter,
    /// Requests under way now.
    pub streams: Counter,
    /// Connections ended before their time, by [`Http2Fault`].
    pub faults: [Counter; Http2Fault::COUNT],
}

/// Counters of TLS with clients in one worker.
#[derive(Debug, Default)]
pub struct TlsLane {
    /// Handshakes that succeeded: first index 0 for TLS 1.2 and 1 for TLS 1.3, second 1 for resumed ones.
    pub handshakes: [[Counter; 2]; 2],
    /// Handshakes that failed, by [`HandshakeFailure`].
    pub failures: [Counter; HandshakeFailure::COUNT],
    /// Handshakes under way now.
    pub under_way: Counter,
}

/// Counters of one target in one worker.
#[derive(Debug, Default)]
pub struct TargetLane {
    /// Requests sent, retries included.
    pub attempts: Counter,
    /// Answers by class of status: index 0 is 1xx.
    pub responses: [Counter; 5],
    /// Attempts without a usable answer, by [`Failure`].
    pub failures: [Counter; Failure::COUNT],
    /// Connections opened.
    pub connects: Counter,
    /// Bytes of bodies sent to the target.
    pub bytes_sent: Counter,
    /// Bytes of bodies received from the target.
    pub bytes_received: Counter,
    /// From the attempt's start to the answer's head.
    pub first_byte: Histogram,
}

/// Upper bounds of the histogram's buckets in microseconds: 4 for each power of two, from 64 µs to 67 s.
const BUCKETS: usize = 81;

/// Durations, counted in buckets each 19 % wider than the one before.
#[derive(Debug)]
pub struct Histogram {
    buckets: [Counter; BUCKETS],
    sum_us: Counter,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum_us: Counter::default() }
    }
}

impl Histogram {
    /// Counts one duration. For the lane's own worker only.
    pub fn record(&self, duration: Duration) {
        let us = duration.as_micros() as u64;
        self.buckets[Self::bucket(us)].bump();
        self.sum_us.add(us);
    }

    /// Sum of all durations, in microseconds.
    pub fn sum_us(&self) -> u64 {
        self.sum_us.get()
    }

    /// Shows every counter under the name of the histogram: buckets by their upper bound in microseconds.
    pub(super) fn each(&self, name: &str, show: &mut dyn FnMut(String, &Counter)) {
        show(format!("{name}/sum_us"), &self.sum_us);
        for (index, bucket) in self.buckets.iter().enumerate() {
            show(format!("{name}/{}us", Self::bound_us(index)), bucket);
        }
    }

    /// Index of the first bucket whose bound is at least `us`.
    fn bucket(us: u64) -> usize {
        if us <= 64 {
            return 0;
        }
        let above = us - 1;
        let power = above.ilog2() as usize;
        let quarter = ((above >> (power - 2)) & 3) as usize;
        ((power - 6) * 4 + quarter + 1).min(BUCKETS - 1)
    }

    /// Upper bound of bucket `index`, in microseconds; the last bucket has none.
    fn bound_us(index: usize) -> u64 {
        match index {
            0 => 64,
            _ => {
                let (power, quarter) = ((index - 1) / 4 + 6, (index - 1) % 4);
                (1 << power) + ((quarter as u64 + 1) << (power - 2))
            }
        }
    }

    /// Adds this histogram to `sum`.
    pub fn add_to(&self, sum: &mut Distribution) {
        for (into, bucket) in sum.buckets.iter_mut().zip(&self.buckets) {
            *into += bucket.get();
        }
        sum.sum_us += self.sum_us.get();
    }
}

/// Histograms of several lanes, added up.
#[derive(Debug, Clone)]
pub struct Distribution {
    buckets: [u64; BUCKETS],
    sum_us: u64,
}

impl Default for Distribution {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], sum_us: 0 }
    }
}

impl Distribution {
    /// The histograms that `of` finds in the lanes, added up.
    pub fn of_lanes<T>(lanes: &Lanes<T>, of: impl Fn(&T) -> &Histogram) -> Self {
        let mut sum = Self::default();
        lanes.iter().for_each(|lane| of(lane).add_to(&mut sum));
        sum
    }

    /// Adds what another has counted.
    pub fn add(&mut self, other: &Self) {
        for (into, bucket) in self.buckets.iter_mut().zip(&other.buckets) {
            *into += bucket;
        }
        self.sum_us += other.sum_us;
    }

    /// What was counted since `earlier`, which is an earlier state of the same histograms.
    pub fn since(&self, earlier: &Self) -> Self {
        let mut since = self.clone();
        for (now, then) in since.buckets.iter_mut().zip(&earlier.buckets) {
            *now = now.saturating_sub(*then);
        }
        since.sum_us = since.sum_us.saturating_sub(earlier.sum_us);
        since
    }

    /// Durations counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Their sum, in seconds.
    pub fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }

    /// Durations of at most `bound`. Exact when `bound` is a power of two of microseconds.
    pub fn at_most(&self, bound: Duration) -> u64 {
        let us = bound.as_micros() as u64;
        (0..BUCKETS - 1).take_while(|index| Histogram::bound_us(*index) <= us).map(|i| self.buckets[i]).sum()
    }

    /// The duration that a share `q` (0.0 to 1.0) of all does not exceed, to within 19 %; `None` when none was counted.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = ((count as f64 * q).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= rank {
                return Some(Duration::from_micros(Histogram::bound_us(index)));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_falls_into_the_first_bucket_that_bounds_it() {
        for us in (0..5000).chain([65_536, 65_537, 1_000_000, 66_999_999]) {
            let index = Histogram::bucket(us);
            assert!(us <= Histogram::bound_us(index), "{us} in {index}");
            assert!(index == 0 || us > Histogram::bound_us(index - 1), "{us} in {index}");
        }
    }

    #[test]
    fn quantiles_are_within_a_bucket_of_the_truth() {
        let histogram = Histogram::default();
        (1..=10_000).for_each(|us| histogram.record(Duration::from_micros(us)));
        let mut sum = Distribution::default();
        histogram.add_to(&mut sum);
        let median = sum.quantile(0.5).unwrap().as_micros();
        assert!((5000..6000).contains(&median), "{median}");
        assert_eq!(sum.at_most(Duration::from_micros(1024)), 1024);
    }
}
