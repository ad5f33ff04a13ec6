//! The record of one request: a guard that counts it, and writes its line into the access log when it is over.
//!
//! Made when the head was read, dropped after the last byte of the answer or when the client has left, so that every request
//! is counted once and has one line whatever becomes of it. Without an access log there is nothing but counters. What is noted
//! is copied: no request holds on to its head because of its line. Of a request that is sampled, the same is gathered for its
//! spans.

use std::rc::Rc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::Worker;
use super::balance::{Choice, Pick, Place};
use super::body::Cut;
use super::fields::Fields;
use super::headers::Origin;
use super::traceparent::{self, TraceParent};
use super::upgrade::Carried;
use super::upstream::{AttemptError, Upstream};
use super::worker::PoolWorker;
use crate::config::{self, ZoneName};
use crate::decision::Trace;
use crate::pool::{Refusal, TunnelEnd};
use crate::telemetry::access_log::{Entry, Piece};
use crate::telemetry::spans::{Finished, Span};

/// See the module's documentation.
pub(crate) struct Record {
    worker: &'static Worker,
    started: Instant,
    status: Option<StatusCode>,
    /// The pool that its route leads to.
    pool: Option<Rc<PoolWorker>>,
    /// Its line in the making; `None` without an access log, unless it is sampled.
    line: Option<Line>,
    /// What is told to a client that may ask and does.
    trace: Option<Box<Trace>>,
}

struct Line {
    entry: Box<Entry>,
    /// Whom it was sent to last.
    target: Option<Rc<Upstream>>,
    /// What its spans will say beside the entry; `None` unless it is sampled.
    span: Option<Box<Span>>,
}

impl Record {
    /// A request begins.
    pub(crate) fn start(worker: &'static Worker) -> Self {
        let log = worker.access_log.borrow();
        let line = log.as_ref().map(|log| Line { entry: log.entry(), target: None, span: None });
        Self { worker, started: Instant::now(), status: None, pool: None, line, trace: None }
    }

    /// Decides whether it is sampled, if anybody wants spans. Before anything is noted.
    pub(crate) fn sample(&mut self, origin: &Origin, headers: &mut Fields) {
        let Some(spans) = &self.worker.spans else { return };
        let random = &self.worker.random;
        let flag = || TraceParent::of(headers).map(TraceParent::is_sampled);
        if !spans.sampler().wants(flag, origin.is_trusted(), random.next()) {
            return;
        }
        let came = TraceParent::of(headers);
        if came.is_none() {
            traceparent::forget(headers);
        }
        let trace = came.unwrap_or_else(|| TraceParent::begin(random));
        let span = Box::new(Span {
            trace: trace.trace,
            parent: came.map(|came| came.span),
            id: traceparent::span(random),
            secure: origin.is_secure(headers),
            attempts: Vec::new(),
        });
        let line = self.line.get_or_insert_with(|| Line { entry: Box::default(), target: None, span: None });
        line.entry.want_all();
        line.span = Some(span);
    }

    /// Whether it is sampled; `None` if that is not decided here.
    pub(crate) fn is_sampled(&self) -> Option<bool> {
        let sampled = || self.line.as_ref().is_some_and(|line| line.span.is_some());
        self.worker.spans.as_ref().map(|_| sampled())
    }

    fn span(&mut self) -> Option<&mut Span> {
        self.line.as_mut()?.span.as_deref_mut()
    }

    /// Notes something for its line, if it will have one.
    pub(crate) fn note(&mut self, take: impl FnOnce(&mut Entry)) {
        if let Some(line) = &mut self.line {
            take(&mut line.entry);
        }
    }

    /// From now on all that is decided is noted in words.
    pub(crate) fn begin_trace(&mut self) {
        self.trace = Some(Box::default());
    }

    /// Notes something in words, if anybody asks for that.
    pub(crate) fn tell(&mut self, what: impl FnOnce(&mut Trace)) {
        if let Some(trace) = &mut self.trace {
            what(trace);
        }
    }

    /// Notes what came of an attempt, in words.
    fn tell_attempt(&mut self, what: impl FnOnce() -> String) {
        self.tell(|trace| {
            if let Some(round) = trace.rounds.last_mut() {
                round.attempt = Some(what());
            }
        });
    }

    /// A target has been picked, or none.
    pub(crate) fn picked(
        &mut self,
        choice: &Choice<'_>,
        pick: Pick,
        pool: &config::Pool,
        here: Option<&ZoneName>,
    ) {
        let place = Place::new(pool, here);
        self.note(|entry| entry.decision = Some(choice.decision(pick, place)));
        self.tell(|trace| {
            // Of a request that waits, only the last look counts.
            trace.rounds.pop_if(|last| last.pick.is_none());
            trace.rounds.push(choice.round(pick, place));
        });
    }

    /// All that was told, at its end.
    pub(crate) fn take_trace(&mut self) -> Option<Box<Trace>> {
        self.trace.take()
    }

    /// Its pool is known: it counts there.
    pub(crate) fn enter(&mut self, pool: &Rc<PoolWorker>) {
        pool.lane().requests.bump();
        pool.lane().live.bump();
        self.worker.lane().live.bump();
        self.pool = Some(pool.clone());
    }

    /// It is sent to a target, which is told of the attempt's span in `headers` if there is one.
    pub(crate) fn sent_to(&mut self, target: &Rc<Upstream>, secure: bool, headers: &mut Fields) {
        let Some(line) = &mut self.line else { return };
        line.entry.attempts += 1;
        line.target = Some(target.clone());
        if let Some(span) = &mut line.span {
            let id = traceparent::span(&self.worker.random);
            let told = span.begin_attempt(id, target.state.clone(), secure, Instant::now());
            traceparent::tell(headers, span.trace, told);
        }
    }

    /// Its target has answered.
    pub(crate) fn heard(&mut self, status: StatusCode) {
        if let Some(span) = self.span() {
            span.answered(status.as_u16());
        }
        self.tell_attempt(|| format!("answered {}", status.as_u16()));
    }

    /// Its target has not answered.
    pub(crate) fn failed(&mut self, error: &AttemptError) {
        if let Some(span) = self.span() {
            span.end_attempt(Some(error.code()), Instant::now());
        }
        self.tell_attempt(|| error.to_string());
    }

    /// What its target has answered is thrown away: it is sent again.
    pub(crate) fn discarded(&mut self) {
        if let Some(span) = self.span() {
            span.end_attempt(None, Instant::now());
        }
    }

    /// The head of its answer is there.
    pub(crate) fn answered(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        let started = self.started;
        self.note(|entry| {
            entry.status = status.as_u16();
            entry.first_byte = Some(started.elapsed());
        });
        self
    }

    /// Its answer is over: how much of both bodies has passed, and whether it was cut.
    pub(crate) fn ended(&mut self, bytes_in: u64, bytes_out: u64, cut: Option<Cut>) {
        self.note(|entry| {
            (entry.bytes_in, entry.bytes_out) = (bytes_in, bytes_out);
            if let Some(cut) = cut {
                entry.reason = Some(cut.code());
            }
        });
    }

    /// It was a tunnel, which is over.
    pub(crate) fn tunnelled(&mut self, carried: Carried) {
        self.note(|entry| {
            (entry.bytes_in, entry.bytes_out) = (carried.up, carried.down);
            entry.reason = (carried.why != TunnelEnd::Ended).then(|| carried.why.as_str());
        });
    }

    /// The client is given another answer than the target's.
    pub(crate) fn replaced(&mut self, status: StatusCode) {
        self.status = Some(status);
        self.note(|entry| {
            entry.status = status.as_u16();
            entry.reason = Some(Refusal::Websocket.as_str());
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        if let Some(pool) = &self.pool {
            let lane = pool.lane();
            lane.live.drop_one();
            self.worker.lane().live.drop_one();
            lane.duration.record(took);
            match self.status {
                Some(status) => lane.responses[status.as_u16() as usize / 100 - 1].bump(),
                None => lane.abandoned.bump(),
            }
        }
        if let Some(line) = self.line.take() {
            self.write(line, took);
        }
    }
}

impl Record {
    /// Puts all that was gathered on its way.
    fn write(&self, line: Line, took: Duration) {
        let Line { mut entry, target, span } = line;
        entry.duration = took;
        if let Some(target) = target {
            entry.set(Piece::Target, target.state.name.as_bytes());
        }
        if self.status.is_none() && entry.reason.is_none() {
            entry.reason = Some(Cut::Gone.code());
        }
        let (started, lane) = (self.started, self.worker.lane());
        // It may be another log than at the begin: then it has what was gathered for that one.
        let log = self.worker.access_log.borrow();
        match (self.worker.spans.as_ref().zip(span), &*log) {
            (None, Some(log)) => log.push(entry, started, &lane.access_dropped),
            (Some((spans, span)), None) => {
                spans.push(Finished { started, entry, span }, &lane.spans_dropped);
            }
            (Some((spans, span)), Some(log)) => {
                let copy = entry.clone();
                log.push(entry, started, &lane.access_dropped);
                spans.push(Finished { started, entry: copy, span }, &lane.spans_dropped);
            }
            (None, None) => {}
        }
    }
}

/// What is taken down of a request, as it becomes known.
pub(crate) mod note {
    use http::header::{self, HeaderValue};

    use super::{Entry, Piece};
    use crate::config::Route;
    use crate::pool::Refusal;
    use crate::proxy::exchange::Peer;
    use crate::proxy::plan::PoolPlan;
    use crate::proxy::request::Head;
    use crate::proxy::stickiness::Session;

    /// Its head was read.
    pub(crate) fn head(entry: &mut Entry, peer: &Peer, head: &Head, id: &HeaderValue) {
        entry.client = peer.origin.source(&head.headers);
        entry.tls = peer.tls();
        entry.protocol = match head.version {
            http::Version::HTTP_10 => 10,
            http::Version::HTTP_2 => 20,
            _ => 11,
        };
        entry.set(Piece::Method, head.method.as_str().as_bytes());
        if let Some(host) = head.host() {
            entry.set(Piece::Host, host.as_bytes());
        }
        entry.set(Piece::Path, head.path.as_str().as_bytes());
        for (piece, name) in [(Piece::UserAgent, header::USER_AGENT), (Piece::Referer, header::REFERER)] {
            if let Some(value) = head.headers.get(name) {
                entry.set(piece, value.as_bytes());
            }
        }
        entry.set(Piece::RequestId, id.as_bytes());
    }

    /// Its route was found.
    pub(crate) fn route(entry: &mut Entry, route: &Route) {
        entry.set(Piece::Route, route.name.as_bytes());
    }

    /// Its head could not be read.
    pub(crate) fn refusal(entry: &mut Entry, peer: &Peer, refusal: Refusal, id: &HeaderValue) {
        (entry.client, entry.tls) = (peer.origin.address.ip(), peer.tls());
        entry.reason = Some(refusal.as_str());
        entry.set(Piece::RequestId, id.as_bytes());
    }

    /// Its pool was found, and its session was read.
    pub(crate) fn pool(entry: &mut Entry, pool: &PoolPlan, session: &Session) {
        entry.verdict = session.verdict();
        entry.set(Piece::Pool, pool.config.name.as_bytes());
    }
}
