//! Spans of sampled requests, on their way from a worker to whoever exports them: one for the request, one for each attempt.
//!
//! A worker decides at a request's start whether it is sampled, gathers what becomes known of it, as for a line of the access
//! log, and puts that into a bounded queue at the end. What does not fit is dropped and counted: a request never waits for its
//! spans. Ids are made here, as targets are told of them; everything else about the form of spans is the exporter's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::access_log::Entry;
use crate::config::otlp::{Otlp, Parents};
use crate::pool::{Counter, TargetState};

/// Attempts of one request that have a span; those that follow have none.
const ATTEMPTS_MAX: usize = 32;

/// What is known of a sampled request beside its entry.
#[derive(Debug)]
pub struct Span {
    /// The trace that it is part of.
    pub trace: u128,
    /// Span that it was begun by; `None` if the trace begins here.
    pub parent: Option<u64>,
    /// Its own.
    pub id: u64,
    /// Whether the client's side is encrypted, as far as that is known and believed.
    pub secure: bool,
    /// In their order.
    pub attempts: Vec<Attempt>,
}

/// One attempt.
pub struct Attempt {
    /// Span that its target is told of.
    pub id: u64,
    /// Whom it was sent to.
    pub target: Arc<TargetState>,
    /// Whether that is by TLS.
    pub secure: bool,
    /// When it was begun.
    pub started: Instant,
    /// How long it took; `None` if it lasted as long as its request.
    pub took: Option<Duration>,
    /// Status of the target's answer, if there was one.
    pub status: Option<u16>,
    /// Why there was none, or none that was whole, as a code.
    pub failure: Option<&'static str>,
}

impl std::fmt::Debug for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x} at {}: {:?} {:?}", self.id, self.target.name, self.status, self.failure)
    }
}

impl Span {
    /// An attempt begins: the span that its target is told of.
    pub fn begin_attempt(&mut self, id: u64, target: Arc<TargetState>, secure: bool, now: Instant) -> u64 {
        if self.attempts.len() >= ATTEMPTS_MAX {
            return self.id;
        }
        let (took, status, failure) = (None, None, None);
        self.attempts.push(Attempt { id, target, secure, started: now, took, status, failure });
        id
    }

    /// The last attempt's target has answered.
    pub fn answered(&mut self, status: u16) {
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.took.is_none()) {
            attempt.status = Some(status);
        }
    }

    /// The last attempt is over, and its request is not. A `failure` says why there was no answer.
    pub fn end_attempt(&mut self, failure: Option<&'static str>, now: Instant) {
        if let Some(attempt) = self.attempts.last_mut().filter(|attempt| attempt.took.is_none()) {
            attempt.took = Some(now.saturating_duration_since(attempt.started));
            attempt.failure = failure;
        }
    }
}

/// A sampled request that is over.
#[derive(Debug)]
pub struct Finished {
    /// When it began.
    pub started: Instant,
    /// What is known of it.
    pub entry: Box<Entry>,
    /// The rest.
    pub span: Box<Span>,
}

impl Finished {
    /// How many spans it makes.
    pub fn spans(&self) -> u64 {
        1 + self.span.attempts.len() as u64
    }
}

/// One worker's end of the queue.
pub struct Lane {
    sampler: Sampler,
    to_exporter: mpsc::Sender<Finished>,
}

impl Lane {
    /// An end for each worker, and the exporter's.
    pub fn for_workers(config: &Otlp, workers: usize) -> (Vec<Self>, mpsc::Receiver<Finished>) {
        let (to_exporter, from_workers) = mpsc::channel(config.queue);
        let sampler = Sampler::new(config.sample, config.parents);
        let lanes = (0..workers).map(|_| Self { sampler, to_exporter: to_exporter.clone() });
        (lanes.collect(), from_workers)
    }

    /// Who decides what is sampled.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// Puts a request on its way, or counts its spans as dropped.
    pub fn push(&self, finished: Finished, dropped: &Counter) {
        if let Err(error) = self.to_exporter.try_send(finished) {
            dropped.add(error.into_inner().spans());
        }
    }
}

/// Decides which requests are sampled.
#[derive(Debug, Clone, Copy)]
pub struct Sampler {
    /// Random numbers below it are sampled.
    below: u64,
    parents: Parents,
}

impl Sampler {
    /// For this share of the requests whose parents do not decide.
    pub fn new(share: f64, parents: Parents) -> Self {
        // Conversion saturates.
        Self { below: (share * u64::MAX as f64) as u64, parents }
    }

    /// Whether a request is sampled. `parent` reads what its `traceparent` says, if that counts, and `trusted` is whether it came
    /// from a trusted proxy.
    pub fn wants(self, parent: impl FnOnce() -> Option<bool>, trusted: bool, random: u64) -> bool {
        let believed = match self.parents {
            Parents::Trusted => trusted,
            Parents::All => true,
            Parents::None => false,
        };
        let decided = if believed { parent() } else { None };
        // The largest number there is would else never be sampled.
        decided.unwrap_or(random < self.below || self.below == u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_requests_is_sampled_and_all_or_none_are_exact() {
        let wants = |share: f64, random: u64| Sampler::new(share, Parents::None).wants(|| None, true, random);
        assert!([0, 1, u64::MAX].iter().all(|random| !wants(0.0, *random) && wants(1.0, *random)));
        assert!(wants(0.25, u64::MAX / 4 - 10_000) && !wants(0.25, u64::MAX / 4 + 10_000));
    }

    #[test]
    fn a_parent_decides_if_it_is_believed() {
        let wants = |parents, parent, trusted| {
            Sampler::new(0.0, parents).wants(|| Some(parent), trusted, u64::MAX / 2)
        };
        assert!(wants(Parents::Trusted, true, true) && wants(Parents::All, true, false));
        assert!(!wants(Parents::Trusted, true, false) && !wants(Parents::None, true, true));
        // Also against the share.
        assert!(!Sampler::new(1.0, Parents::All).wants(|| Some(false), false, 0));
        assert!(Sampler::new(1.0, Parents::Trusted).wants(|| Some(false), false, 0));
    }

    #[test]
    fn attempts_beyond_the_bound_are_told_of_their_request() {
        let target = || Arc::new(TargetState::new(crate::pool::TargetId(1), "az-a".into(), ADDRESS, 1));
        let now = Instant::now();
        let mut span = Span { trace: 1, parent: None, id: 7, secure: false, attempts: Vec::new() };
        for id in 100..100 + ATTEMPTS_MAX as u64 {
            assert_eq!(span.begin_attempt(id, target(), false, now), id);
            span.end_attempt(Some("connect"), now);
        }
        assert_eq!(span.begin_attempt(1, target(), false, now), 7);
        span.answered(200);
        let last = span.attempts.last().unwrap();
        assert_eq!((span.attempts.len(), last.status, last.failure), (ATTEMPTS_MAX, None, Some("connect")));
    }

    const ADDRESS: std::net::SocketAddr =
        std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (to_exporter, mut held) = mpsc::channel(2);
        let lane = Lane { sampler: Sampler::new(1.0, Parents::None), to_exporter };
        let dropped = Counter::default();
        let finished = || Finished {
            started: Instant::now(),
            entry: Box::default(),
            span: Box::new(Span { trace: 1, parent: None, id: 1, secure: false, attempts: Vec::new() }),
        };
        (0..5).for_each(|_| lane.push(finished(), &dropped));
        assert_eq!(dropped.get(), 3);
        assert!(held.try_recv().is_ok());
        lane.push(finished(), &dropped);
        assert_eq!(dropped.get(), 3);
    }
}
