//! OTLP: spans of sampled requests, sent to a collector as protobuf over HTTP, by a thread of its own.
//!
//! ```text
//! worker:  Finished ──try_send──▶ ┐
//! worker:  Finished ──try_send──▶ ┴ queue ─▶ batch ─▶ encode ─▶ deliver: send, pause, send again, give up
//! ```
//!
//! While the exporter gathers or sends, nobody wakes it: a worker's part is to put something into the queue. While it cannot
//! deliver, the queue fills up and workers drop. One batch is under way at a time, so what is in memory is bounded by
//! the queue and one batch. What is sampled is decided in [`spans`](super::spans).

mod collector;
mod encode;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout_at};

use super::spans::{Finished, Lane};
use crate::config::Config;
use crate::config::otlp::Otlp;
use crate::pool::Pools;
use collector::{Collector, Said};

/// Between two looks at the queue while a batch is gathered. Shorter than it takes to fill the default queue at 20 000 sampled
/// requests a second.
const LOOK: Duration = Duration::from_millis(100);

/// For what is left when the node ends.
const GRACE: Duration = Duration::from_secs(2);

/// Between two words about spans that were dropped.
const SILENCE: Duration = Duration::from_secs(10);

/// Pause after the first failure, and the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Shortest pause, whatever the collector says.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);

/// The exporter as whoever started it sees it.
pub struct Exporter {
    thread: JoinHandle<()>,
    /// Moment at which it has to be done; `None` while the node serves.
    ending: watch::Sender<Option<Instant>>,
    /// Not yet taken by their workers.
    lanes: Vec<Lane>,
}

impl Exporter {
    /// Starts the thread. An error says what is wrong.
    pub fn start(otlp: &Otlp, config: &Config, shared: &Arc<Pools>) -> io::Result<Self> {
        let (lanes, from_workers) = Lane::for_workers(otlp, config.workers);
        let collector = Collector::new(otlp)?;
        let resource = encode::resource(otlp, config.zone.as_deref());
        let (ending, watching) = watch::channel(None);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exporting = Exporting {
            collector,
            resource,
            batch: otlp.batch,
            interval: otlp.interval,
            give_up: otlp.give_up,
            shared: shared.clone(),
            ending: watching,
            quiet: None,
            is_failing: false,
            dropped: 0,
            told: None,
        };
        let thread = std::thread::Builder::new().name("otlp".into());
        let thread = thread.spawn(move || runtime.block_on(exporting.run(from_workers)))?;
        Ok(Self { thread, ending, lanes })
    }

    /// The workers' ends, in their order; none the second time.
    pub fn take_lanes(&mut self) -> Vec<Lane> {
        std::mem::take(&mut self.lanes)
    }

    /// Waits for the last spans to be sent, but not for long: what the collector does not take then is lost.
    pub async fn finish(&self) {
        let end = Instant::now() + GRACE;
        self.ending.send_replace(Some(end));
        while !self.thread.is_finished() && Instant::now() < end + SHORTEST_PAUSE {
            sleep(Duration::from_millis(2)).await;
        }
        if !self.thread.is_finished() {
            tracing::warn!("otlp: spans that the collector has not taken in {GRACE:?} are lost");
        }
    }
}

/// What the thread has.
struct Exporting {
    collector: Collector,
    resource: Resource,
    batch: usize,
    interval: Duration,
    give_up: Duration,
    shared: Arc<Pools>,
    ending: watch::Receiver<Option<Instant>>,
    /// Until then the collector wants to be left alone.
    quiet: Option<Instant>,
    /// The last batch was not taken, and that was said.
    is_failing: bool,
    /// Spans of which it was said that they were dropped, and when.
    dropped: u64,
    told: Option<Instant>,
}

impl Exporting {
    /// Sends what comes until it is told to end.
    async fn run(mut self, mut from_workers: mpsc::Receiver<Finished>) {
        let mut batch = Vec::with_capacity(self.batch);
        loop {
            self.gather(&mut from_workers, &mut batch).await;
            if batch.is_empty() {
                // It ends, and nothing is left.
                return;
            }
            let spans = batch.iter().map(Finished::spans).sum();
            let body = encode::request(&self.resource, &batch);
            batch.clear();
            self.deliver(body, spans).await;
            self.tell_of_dropped();
        }
    }

    /// Fills the batch, or waits no longer for that than the interval; an empty one means the end.
    async fn gather(&mut self, from_workers: &mut mpsc::Receiver<Finished>, batch: &mut Vec<Finished>) {
        tokio::select! {
            _ = from_workers.recv_many(batch, self.batch) => {}
            _ = is_ending(&mut self.ending) => {}
        }
        let due = tokio::time::Instant::now() + self.interval;
        while batch.len() < self.batch {
            while batch.len() < self.batch
                && let Ok(finished) = from_workers.try_recv()
            {
                batch.push(finished);
            }
            let look = (tokio::time::Instant::now() + LOOK).min(due);
            if batch.len() == self.batch
                || tokio::time::Instant::now() >= due
                || timeout_at(look, is_ending(&mut self.ending)).await.is_ok()
            {
                break;
            }
        }
        // What came between the last look and the end.
        while batch.len() < self.batch
            && let Ok(finished) = from_workers.try_recv()
        {
            batch.push(finished);
        }
    }

    /// Sends a batch until the collector takes it, refuses it, or it is time to give up. Counts what becomes of it.
    async fn deliver(&mut self, body: Bytes, spans: u64) {
        if let Some(end) = self.quiet.take() {
            let _ = timeout_at(end.into(), is_ending(&mut self.ending)).await;
        }
        let began = Instant::now();
        let mut pause = FIRST_PAUSE;
        let why = loop {
            let end = *self.ending.borrow();
            let last = end.unwrap_or(began + self.give_up);
            let limit = end.map(|end| end.saturating_duration_since(Instant::now()));
            let (why, after) = match self.collector.send(body.clone(), limit).await {
                Said::Taken { rejected, why } => return self.taken(spans, rejected, &why),
                Said::Refused(why) => break why,
                Said::Later { why, after } => (why, after),
            };
            let left = last.saturating_duration_since(Instant::now());
            let Some(wait) = wait(pause, after, left, random()) else {
                self.quiet = after.map(|after| Instant::now() + after);
                break why;
            };
            self.tell_of_failure(&why);
            match end {
                Some(_) => sleep(wait).await,
                // When the node ends, what is left is tried at once.
                None => drop(tokio::time::timeout(wait, is_ending(&mut self.ending)).await),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        self.tell_of_failure(&why);
        self.shared.spans.failed.add(spans);
    }

    fn taken(&mut self, spans: u64, rejected: u64, why: &str) {
        let rejected = rejected.min(spans);
        self.shared.spans.rejected.add(rejected);
        self.shared.spans.exported.add(spans - rejected);
        if rejected > 0 || !why.is_empty() {
            tracing::warn!(spans = rejected, "otlp: the collector rejects spans: {why}");
        }
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("otlp: the collector takes spans again");
        }
    }

    fn tell_of_failure(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!("otlp: spans cannot be delivered: {why}");
        }
    }

    fn tell_of_dropped(&mut self) {
        let dropped = self.shared.workers.sum(|lane| &lane.spans_dropped);
        if dropped > self.dropped && self.told.is_none_or(|told| told.elapsed() >= SILENCE) {
            tracing::warn!(spans = dropped - self.dropped, "otlp: spans were dropped, too many wait");
            (self.dropped, self.told) = (dropped, Some(Instant::now()));
        }
    }
}

/// Completes when the node ends.
async fn is_ending(ending: &mut watch::Receiver<Option<Instant>>) {
    // An error means that the node is gone: the same.
    let _ = ending.wait_for(Option::is_some).await;
}

/// How long to wait before another try, of which there is one only if it can begin in what is `left`: as long as the collector
/// asks for, else for some of the `pause`. `random` is from 0.0 to 1.0: nodes whose collector comes back do not all ask at once.
fn wait(pause: Duration, asked: Option<Duration>, left: Duration, random: f64) -> Option<Duration> {
    let wait = asked.unwrap_or_else(|| pause.mul_f64(0.5 + random / 2.0)).max(SHORTEST_PAUSE);
    (wait <= left).then_some(wait)
}

/// From 0.0 to 1.0.
fn random() -> f64 {
    let mut byte = [0];
    // Without random numbers all pauses are short ones, which does no harm.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    f64::from(byte[0]) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_unless_the_collector_says_how_long_and_end_in_time() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        assert_eq!(wait(second, None, minute, 0.0), Some(second / 2));
        assert_eq!(wait(second, None, minute, 1.0), Some(second));
        assert_eq!(wait(second, Some(second * 7), minute, 0.0), Some(second * 7));
        assert_eq!(wait(second, Some(Duration::ZERO), minute, 0.0), Some(SHORTEST_PAUSE));
        assert_eq!(wait(second, Some(minute * 2), minute, 0.0), None);
        assert_eq!(wait(second, None, Duration::ZERO, 0.0), None);
    }
}
