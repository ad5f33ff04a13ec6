//! Sending a request to a target and waiting for the head of its answer, while the body is still being sent if need be.

use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, StatusCode};

use super::connection::{AnswerBody, Connection, HeadError};
use super::upload::{Upload, UploadError};
use super::{InFlight, Tunnel, Upstream};
use crate::config::Balance;
use crate::pool::Failure;
use crate::proxy::Worker;
use crate::proxy::body::{Answer, Body, RequestBodyError};
use crate::proxy::error::ProxyError;
use crate::proxy::http1::{encode, head};
use crate::proxy::inform::Inform;
use crate::proxy::plan::PoolPlan;
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::request::Head;

/// Interim answers that one attempt may bring; more is not a protocol but an attack.
const INTERIM_MAX: u32 = 16;
/// How long a target may take to say `100 Continue` before the body is sent without it (RFC 9110 §10.1.1: a server may
/// not know the expectation).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// All that an attempt needs besides the body.
pub(crate) struct Attempt<'a> {
    pub(crate) worker: &'static Worker,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) pool: &'a PoolPlan,
    pub(crate) head: &'a Head,
    pub(crate) inform: &'a Inform<'a>,
    /// For whom the request is.
    pub(crate) client: &'a Rc<Ends>,
}

impl Attempt<'_> {
    /// Whose connections it may use: its client's only, if the target is told of clients; else those of all.
    fn owner(&self) -> Option<&Rc<Ends>> {
        self.pool.config.proxy_protocol.then_some(self.client)
    }
}

/// What went wrong.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// The client's fault, or its departure: no other target can help.
    Client(RequestBodyError),
    /// The target's.
    Target {
        failure: Failure,
        /// No byte of the request can have been processed: even a POST may be sent elsewhere.
        untouched: bool,
        /// For the log.
        why: String,
    },
}

/// Sends the request and waits for the answer's head. `upload` stays the caller's, for another attempt.
pub(crate) async fn send(
    attempt: &Attempt<'_>,
    upload: &mut Upload,
    in_flight: InFlight,
) -> Result<Arrived, AttemptError> {
    let lane = attempt.upstream.lane();
    lane.attempts.bump();
    let owner = attempt.owner();
    let mut connection = match attempt.upstream.reuse(attempt.worker.deadlines.coarse_ticks(), owner) {
        Some(connection) => connection,
        None => match attempt.upstream.connect(attempt.worker, &attempt.pool.config, owner).await {
            Ok(connection) => connection,
            Err((failure, error)) => {
                lane.failures[failure as usize].bump();
                attempt.upstream.failed(&attempt.pool.shared, failure, Instant::now());
                return Err(AttemptError::Target { failure, untouched: true, why: error.to_string() });
            }
        },
    };
    let websocket = attempt.head.websocket.then_some(HeaderValue::from_static("websocket"));
    let framing = upload.framing();
    encode::request(upload.outgoing.buffer(), attempt.head, framing, websocket.as_ref());
    connection.begin();
    let started = Instant::now();
    match answer_head(attempt, &mut connection, upload).await {
        Ok(answer) => {
            let now = Instant::now();
            let took = now.duration_since(started);
            lane.first_byte.record(took);
            attempt.pool.observe(took);
            attempt.upstream.heard(&attempt.pool.shared, answer.status, now);
            if attempt.pool.config.balance == Balance::PeakEwma {
                attempt.upstream.state.conduct.observe_latency(now, took);
            }
            lane.responses[answer.status.as_u16() as usize / 100 - 1].bump();
            lane.bytes_sent.add(upload.bytes);
            connection.settle(upload.outgoing.written());
            connection.deadline.clear();
            Ok(Arrived { answer, connection, in_flight })
        }
        Err(Stopped::Client(error)) => Err(AttemptError::Client(error)),
        Err(stopped) => {
            let (failure, why, untouched) = match stopped {
                Stopped::Target(failure, why) => (failure, why, false),
                _ => (Failure::Reset, CLOSED.to_owned(), connection.nothing_arrived()),
            };
            lane.failures[failure as usize].bump();
            attempt.upstream.failed(&attempt.pool.shared, failure, started);
            Err(AttemptError::Target { failure, untouched, why })
        }
    }
}

enum Stopped {
    Client(RequestBodyError),
    /// The target ended the connection in an orderly way before the first byte of an answer.
    Ended,
    Target(Failure, String),
}

/// Drives the upload and the wait for the answer together, passing interim answers on.
async fn answer_head(
    attempt: &Attempt<'_>,
    connection: &mut Connection,
    upload: &mut Upload,
) -> Result<head::Answer, Stopped> {
    let mut hold = attempt.head.expect_continue;
    let mut uploading = true;
    let mut interim = 0;
    if hold {
        connection.deadline.set(CONTINUE_WAIT);
    }
    loop {
        let answer = std::future::poll_fn(|cx| {
            poll_attempt(cx, attempt, connection, upload, &mut hold, &mut uploading)
        })
        .await?;
        if !answer.status.is_informational() {
            connection.deadline.clear();
            return Ok(answer);
        }
        if answer.status == StatusCode::SWITCHING_PROTOCOLS {
            return switching(attempt, answer);
        }
        interim += 1;
        if interim > INTERIM_MAX {
            return Err(Stopped::Target(Failure::Protocol, "too many interim answers".into()));
        }
        if answer.status == StatusCode::CONTINUE {
            // The client hears it when its body is first asked for.
            if std::mem::take(&mut hold) {
                connection.deadline.clear();
            }
        } else if attempt.inform.send(answer.status, &answer.headers).await.is_err() {
            return Err(Stopped::Client(RequestBodyError::Gone));
        }
        attempt.worker.keep_fields(answer.headers);
    }
}

fn poll_attempt(
    cx: &mut Context<'_>,
    attempt: &Attempt<'_>,
    connection: &mut Connection,
    upload: &mut Upload,
    hold: &mut bool,
    uploading: &mut bool,
) -> Poll<Result<head::Answer, Stopped>> {
    let mut broken = None;
    if *uploading {
        let before = upload.outgoing.written();
        match upload.poll(cx, &connection.io, *hold) {
            Poll::Ready(Ok(())) => {
                *uploading = false;
                *hold = false;
                connection.deadline.set(attempt.pool.config.timeouts.first_byte);
            }
            Poll::Ready(Err(UploadError::Client(error))) => return Poll::Ready(Err(Stopped::Client(error))),
            // The target may have answered before it stopped reading: look before giving up.
            Poll::Ready(Err(UploadError::Target(error))) => broken = Some(error),
            Poll::Pending if *hold => {}
            // It is the client that we wait for, and that has a deadline of its own.
            Poll::Pending if upload.outgoing.is_empty() => connection.deadline.clear(),
            Poll::Pending if upload.outgoing.written() > before || !connection.deadline.is_set() => {
                connection.deadline.set(attempt.pool.config.timeouts.idle);
            }
            Poll::Pending => {}
        }
    }
    match connection.poll_head(cx, &attempt.head.method, attempt.worker) {
        Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(answer)),
        Poll::Ready(Err(HeadError::Bad(bad))) => {
            return Poll::Ready(Err(Stopped::Target(Failure::Protocol, bad.0.into())));
        }
        Poll::Ready(Err(HeadError::Ended)) => return Poll::Ready(Err(Stopped::Ended)),
        Poll::Ready(Err(HeadError::Broken(error))) => broken = Some(error),
        Poll::Pending => {}
    }
    if let Some(error) = broken {
        return Poll::Ready(Err(Stopped::Target(Failure::Reset, error.to_string())));
    }
    if connection.deadline.poll(cx).is_pending() {
        return Poll::Pending;
    }
    if *hold {
        *hold = false;
        connection.deadline.clear();
        return poll_attempt(cx, attempt, connection, upload, hold, uploading);
    }
    if *uploading {
        let why = format!("it read nothing for {:?}", attempt.pool.config.timeouts.idle);
        return Poll::Ready(Err(Stopped::Target(Failure::IdleTimeout, why)));
    }
    let why = format!("no answer in {:?}", attempt.pool.config.timeouts.first_byte);
    Poll::Ready(Err(Stopped::Target(Failure::FirstByteTimeout, why)))
}

const CLOSED: &str = "the target closed the connection";

/// A 101 is passed on only if it is the one that was asked for (RFC 9110 §7.8).
fn switching(attempt: &Attempt<'_>, answer: head::Answer) -> Result<head::Answer, Stopped> {
    let asked =
        answer.upgrade.as_ref().is_some_and(|token| token.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if attempt.head.websocket && asked {
        return Ok(answer);
    }
    Err(Stopped::Target(Failure::Protocol, "it switches to a protocol nobody asked for".into()))
}

/// An answer whose head is there, and nobody has decided yet what to do with it.
pub(crate) struct Arrived {
    answer: head::Answer,
    connection: Box<Connection>,
    in_flight: InFlight,
}

impl Arrived {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// The answer for the client: its body is all there, arrives later, or is a tunnel.
    pub(crate) fn into_answer(mut self, attempt: &Attempt<'_>, upload: &mut Upload) -> Answer {
        let status = self.answer.status;
        let headers = std::mem::take(&mut self.answer.headers);
        let body = if status == StatusCode::SWITCHING_PROTOCOLS {
            let tunnel = Tunnel {
                connection: self.connection,
                protocol: self.answer.upgrade.take().unwrap_or(HeaderValue::from_static("websocket")),
                idle: attempt.pool.config.timeouts.idle,
                in_flight: self.in_flight,
            };
            Body::Tunnel(Box::new(tunnel))
        } else {
            AnswerBody::receive(&self.answer, self.connection, upload, attempt, self.in_flight)
        };
        Answer { version: self.answer.version, status, headers, body, record: None }
    }

    /// Throws the answer away, to try again. The connection is kept if the answer is short and `upload` was sent whole.
    pub(crate) fn discard(self, attempt: &Attempt<'_>, upload: &mut Upload) {
        if upload.is_sent() {
            drop(AnswerBody::receive(&self.answer, self.connection, upload, attempt, self.in_flight));
        }
    }
}

impl AttemptError {
    /// Whether some of the request may have been processed.
    pub(crate) fn touched(&self) -> bool {
        !matches!(self, Self::Target { untouched: true, .. })
    }

    /// The request's end, if no other attempt follows.
    pub(crate) fn into_error(self, upstream: &Upstream) -> ProxyError {
        match self {
            Self::Client(RequestBodyError::Gone) => ProxyError::client_gone(),
            Self::Client(RequestBodyError::Refused(refusal)) => ProxyError::refused(refusal),
            Self::Target { failure, why, .. } => {
                ProxyError::target(failure, upstream.state.name.clone(), why)
            }
        }
    }
}
