//! Sending a request to a target and waiting for the head of its answer, while the body is still being sent if need be.

use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, StatusCode};

use super::connection::{self, Connection, HeadError};
use super::upload::{Upload, UploadError};
use super::{InFlight, Tunnel, Upstream, Way, http2};
use crate::config::{Balance, TargetProtocol};
use crate::pool::{Failure, Overload, Refusal, room};
use crate::proxy::Worker;
use crate::proxy::body::{Answer, Body, Cut, RequestBodyError};
use crate::proxy::deadline::Deadline;
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
    /// Ours: no file descriptor is left.
    NoRoom,
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
    if attempt.head.websocket && attempt.pool.config.protocol == TargetProtocol::H2 {
        return Err(AttemptError::Client(RequestBodyError::Refused(Refusal::Websocket)));
    }
    let mut has_moved = false;
    loop {
        let begun = begin(attempt, upload).await;
        let started = Instant::now();
        let (stopped, wire) = match begun {
            Err(stopped) => (stopped, None),
            Ok(mut wire) => match answer_head(attempt, &mut wire, upload).await {
                Err(stopped) => (stopped, Some(wire)),
                Ok(answer) => {
                    answered(attempt, upload, answer.status, started, wire.connected());
                    wire.settle(upload);
                    return Ok(Arrived { answer, wire, in_flight });
                }
            },
        };
        let (failure, why, untouched) = match stopped {
            Stopped::Client(error) => return Err(AttemptError::Client(error)),
            Stopped::NoRoom => return Err(AttemptError::NoRoom),
            Stopped::Target(failure, why) => (failure, why, false),
            Stopped::Ended => {
                let untouched = wire.as_ref().is_some_and(Wire::nothing_arrived);
                (Failure::Reset, CLOSED.to_owned(), untouched)
            }
            // Nothing is wrong with the target: it is asked again, on a connection of its liking.
            Stopped::Moved(_) if !has_moved && upload.is_replayable() => {
                has_moved = true;
                upload.rewind();
                continue;
            }
            Stopped::Untouched(failure, why) => (failure, why, true),
            Stopped::Moved(why) => (Failure::Reset, why, true),
        };
        if failure == Failure::FirstByteTimeout
            && let Some(Wire::Http2(stream)) = &wire
        {
            stream.suspect();
        }
        lane.failures[failure as usize].bump();
        let connected = wire.as_ref().and_then(Wire::connected).unwrap_or(started);
        attempt.upstream.failed(&attempt.pool.shared, failure, started, connected);
        return Err(AttemptError::Target { failure, untouched, why });
    }
}

/// Counts an answer whose head has arrived.
fn answered(
    attempt: &Attempt<'_>,
    upload: &Upload,
    status: StatusCode,
    started: Instant,
    connected: Option<Instant>,
) {
    let (lane, now) = (attempt.upstream.lane(), Instant::now());
    let took = now.duration_since(started);
    lane.first_byte.record(took);
    attempt.pool.observe(took);
    attempt.upstream.heard(&attempt.pool.shared, status, now, connected);
    if attempt.pool.config.balance == Balance::PeakEwma {
        attempt.upstream.state.conduct.observe_latency(now, took);
    }
    lane.responses[status.as_u16() as usize / 100 - 1].bump();
    lane.bytes_sent.add(upload.bytes);
}

enum Stopped {
    Client(RequestBodyError),
    /// The target ended the connection in an orderly way before the first byte of an answer.
    Ended,
    Target(Failure, String),
    /// The target has seen nothing of the request.
    Untouched(Failure, String),
    /// The same, because it wants another connection to be used.
    Moved(String),
    /// There is no file descriptor for a connection.
    NoRoom,
}

impl From<HeadError> for Stopped {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Ended => Self::Ended,
            HeadError::Broken(why) => Self::Target(Failure::Reset, why),
            HeadError::Bad(bad) => Self::Target(Failure::Protocol, bad.0.into()),
            HeadError::Untouched(why) => Self::Untouched(Failure::Reset, why),
            HeadError::Moved(why) => Self::Moved(why),
        }
    }
}

/// A request under way on a connection, whatever is spoken there.
enum Wire {
    Http1(Box<Connection>),
    Http2(Box<http2::Stream>),
}

impl Wire {
    fn deadline(&self) -> &Deadline {
        match self {
            Self::Http1(connection) => &connection.deadline,
            Self::Http2(stream) => &stream.deadline,
        }
    }

    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
        hold: bool,
    ) -> Poll<Result<(), UploadError>> {
        match self {
            Self::Http1(connection) => upload.poll(cx, &connection.io, hold),
            Self::Http2(stream) => stream.poll_upload(cx, upload, hold),
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &Method,
        worker: &Worker,
    ) -> Poll<Result<head::Answer, HeadError>> {
        match self {
            Self::Http1(connection) => connection.poll_head(cx, request, worker),
            Self::Http2(stream) => stream.poll_head(cx, request, worker),
        }
    }

    /// When the connection was begun, if it is this request's alone for now.
    fn connected(&self) -> Option<Instant> {
        match self {
            Self::Http1(connection) => Some(connection.begun),
            Self::Http2(_) => None,
        }
    }

    /// Whether no byte of the request has arrived at a target that ended the connection.
    fn nothing_arrived(&self) -> bool {
        // A stream knows when its head is waited for.
        matches!(self, Self::Http1(connection) if connection.nothing_arrived())
    }

    /// The body of an answer whose head has arrived.
    fn receive(
        self,
        answer: &head::Answer,
        attempt: &Attempt<'_>,
        upload: &mut Upload,
        in_flight: InFlight,
    ) -> Body {
        match self {
            Self::Http1(connection) => {
                connection::AnswerBody::receive(answer, connection, upload, attempt, in_flight)
            }
            Self::Http2(stream) => http2::receive(answer, *stream, upload, attempt, in_flight),
        }
    }

    /// The request has been answered: what was sent of it has arrived.
    fn settle(&mut self, upload: &Upload) {
        if let Self::Http1(connection) = self {
            connection.settle(upload.outgoing.written());
        }
        self.deadline().clear();
    }
}

/// Begins the request on a connection of its target.
async fn begin(attempt: &Attempt<'_>, upload: &mut Upload) -> Result<Wire, Stopped> {
    let websocket = attempt.head.websocket;
    let way = attempt.upstream.obtain(attempt.worker, &attempt.pool.config, websocket, attempt.owner()).await;
    let framing = upload.framing();
    match way {
        Err((_, error)) if room::is_want_of_room(&error) => Err(Stopped::NoRoom),
        Err((failure, error)) => Err(Stopped::Untouched(failure, error.to_string())),
        Ok(Way::Http1(mut connection)) => {
            let upgrade = websocket.then_some(HeaderValue::from_static("websocket"));
            encode::request(upload.outgoing.buffer(), attempt.head, framing, upgrade.as_ref());
            connection.begin();
            Ok(Wire::Http1(connection))
        }
        Ok(Way::Http2(place)) => Ok(Wire::Http2(Box::new(http2::Stream::begin(place, attempt, framing)?))),
    }
}

/// Drives the upload and the wait for the answer together, passing interim answers on.
async fn answer_head(
    attempt: &Attempt<'_>,
    wire: &mut Wire,
    upload: &mut Upload,
) -> Result<head::Answer, Stopped> {
    let mut hold = attempt.head.expect_continue;
    let mut uploading = true;
    let mut interim = 0;
    if hold {
        wire.deadline().set(CONTINUE_WAIT);
    }
    loop {
        let answer =
            std::future::poll_fn(|cx| poll_attempt(cx, attempt, wire, upload, &mut hold, &mut uploading))
                .await?;
        if !answer.status.is_informational() {
            wire.deadline().clear();
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
                wire.deadline().clear();
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
    wire: &mut Wire,
    upload: &mut Upload,
    hold: &mut bool,
    uploading: &mut bool,
) -> Poll<Result<head::Answer, Stopped>> {
    let mut broken = None;
    if *uploading {
        let before = upload.progress();
        match wire.poll_upload(cx, upload, *hold) {
            Poll::Ready(Ok(())) => {
                *uploading = false;
                *hold = false;
                wire.deadline().set(attempt.pool.config.timeouts.first_byte);
            }
            Poll::Ready(Err(UploadError::Client(error))) => return Poll::Ready(Err(Stopped::Client(error))),
            // The target may have answered before it stopped reading: look before giving up.
            Poll::Ready(Err(UploadError::Target(error))) => broken = Some(error.to_string()),
            Poll::Pending if *hold => {}
            // It is the client that we wait for, and that has a deadline of its own.
            Poll::Pending if upload.is_starved() => wire.deadline().clear(),
            Poll::Pending if upload.progress() > before || !wire.deadline().is_set() => {
                wire.deadline().set(attempt.pool.config.timeouts.idle);
            }
            Poll::Pending => {}
        }
    }
    match wire.poll_head(cx, &attempt.head.method, attempt.worker) {
        Poll::Ready(Ok(answer)) => return Poll::Ready(Ok(answer)),
        Poll::Ready(Err(HeadError::Broken(why))) => broken = Some(why),
        Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
        Poll::Pending => {}
    }
    if let Some(error) = broken {
        return Poll::Ready(Err(Stopped::Target(Failure::Reset, error)));
    }
    if wire.deadline().poll(cx).is_pending() {
        return Poll::Pending;
    }
    if *hold {
        *hold = false;
        wire.deadline().clear();
        return poll_attempt(cx, attempt, wire, upload, hold, uploading);
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
    wire: Wire,
    in_flight: InFlight,
}

impl Arrived {
    pub(crate) fn status(&self) -> StatusCode {
        self.answer.status
    }

    /// The answer for the client: its body is all there, arrives later, or is a tunnel.
    pub(crate) fn into_answer(self, attempt: &Attempt<'_>, upload: &mut Upload) -> Answer {
        let Self { mut answer, wire, in_flight } = self;
        let (version, status) = (answer.version, answer.status);
        let headers = std::mem::take(&mut answer.headers);
        let body = match wire {
            Wire::Http1(connection) if status == StatusCode::SWITCHING_PROTOCOLS => {
                let tunnel = Tunnel {
                    connection,
                    protocol: answer.upgrade.take().unwrap_or(HeaderValue::from_static("websocket")),
                    idle: attempt.pool.config.timeouts.idle,
                    in_flight,
                };
                Body::Tunnel(Box::new(tunnel))
            }
            wire => wire.receive(&answer, attempt, upload, in_flight),
        };
        Answer { version, status, headers, body, record: None }
    }

    /// Throws the answer away, to try again. The connection is kept if the answer is short and `upload` was sent whole.
    pub(crate) fn discard(self, attempt: &Attempt<'_>, upload: &mut Upload) {
        if upload.is_sent() {
            drop(self.wire.receive(&self.answer, attempt, upload, self.in_flight));
        }
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(RequestBodyError::Gone) => f.write_str("given up: the client left"),
            Self::Client(RequestBodyError::Refused(refusal)) => write!(f, "given up: {}", refusal.as_str()),
            Self::NoRoom => {
                f.write_str("given up: no file descriptor is left for a connection to the target")
            }
            Self::Target { failure, untouched, why } => {
                write!(f, "failed: {}: {why}", failure.as_str())?;
                if *untouched { f.write_str(", and it has seen nothing of the request") } else { Ok(()) }
            }
        }
    }
}

impl AttemptError {
    /// As spans say it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Client(RequestBodyError::Gone) => Cut::Gone.code(),
            Self::Client(RequestBodyError::Refused(refusal)) => refusal.as_str(),
            Self::NoRoom => Overload::Descriptors.as_str(),
            Self::Target { failure, .. } => failure.as_str(),
        }
    }

    /// Whether some of the request may have been processed.
    pub(crate) fn touched(&self) -> bool {
        !matches!(self, Self::Target { untouched: true, .. })
    }

    /// The request's end, if no other attempt follows.
    pub(crate) fn into_error(self, upstream: &Upstream) -> ProxyError {
        match self {
            Self::Client(RequestBodyError::Gone) => ProxyError::client_gone(),
            Self::NoRoom => ProxyError::NoRoom(Overload::Descriptors),
            Self::Client(RequestBodyError::Refused(refusal)) => ProxyError::refused(refusal),
            Self::Target { failure, why, .. } => {
                ProxyError::target(failure, upstream.state.name.clone(), why)
            }
        }
    }
}
