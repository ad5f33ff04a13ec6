//! One request on a connection with HTTP/2, and the body of its answer.
//!
//! Dropping a stream before its end resets it (CANCEL), so that the target stops working for a client who has left. The
//! target's window grows as the client takes bytes, and not before. Which of the target's ends are proof that it has seen
//! nothing of a request is decided here: a reset that says so, and a GOAWAY that does not count the stream.

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::Method;
use http::uri::Scheme;
use http_body::Frame;
use tokio::task::spawn_local;

use super::super::connection::HeadError;
use super::super::upload::{Upload, UploadError};
use super::super::{AnswerBody as AnyBody, Attempt, InFlight, Upstream};
use super::{Place, head};
use crate::pool::Failure;
use crate::proxy::Worker;
use crate::proxy::body::Body;
use crate::proxy::deadline::Deadline;
use crate::proxy::http1::framing::Framing;
use crate::proxy::http1::head::{Answer, BadAnswer};

/// How long the end of an answer without a body is waited for, and how much may come before it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX: usize = 16 * 1024;

/// A request that has been begun.
pub(in super::super) struct Stream {
    pub(in super::super) deadline: Deadline,
    sending: SendStream<Bytes>,
    answer: ResponseFuture,
    /// Of the answer, once its head is there.
    body: Option<RecvStream>,
    place: Place,
    /// What had gone over the connection before.
    written_before: u64,
    read_before: u64,
}

impl Stream {
    /// Begins a request whose body, if there is one, is `framing` long.
    pub(in super::super) fn begin(
        place: Place,
        attempt: &Attempt<'_>,
        framing: Framing,
    ) -> Result<Self, HeadError> {
        let connection = &place.connection;
        let scheme = if connection.terms.tls == 0 { Scheme::HTTP } else { Scheme::HTTPS };
        let request = head::request(attempt.head, framing, scheme, attempt.upstream.state.address)
            .map_err(|_| HeadError::Bad(BadAnswer("HTTP/2 cannot say this request")))?;
        let bodiless = matches!(framing, Framing::None | Framing::Length(0));
        let (written_before, read_before) = (connection.written(), connection.traffic.read.get());
        let mut requests = connection.requests.borrow().clone();
        match requests.send_request(request, bodiless) {
            Ok((answer, sending)) => {
                let deadline = attempt.worker.deadlines.register();
                Ok(Self { deadline, sending, answer, body: None, place, written_before, read_before })
            }
            Err(error) => {
                connection.retired.set(true);
                Err(HeadError::Moved(error.to_string()))
            }
        }
    }

    /// Sends what there is of the body; ready when all of it has been sent.
    pub(in super::super) fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        upload: &mut Upload,
        hold: bool,
    ) -> Poll<Result<(), UploadError>> {
        if hold { Poll::Pending } else { upload.poll_stream(cx, &mut self.sending) }
    }

    /// Waits for the next head: of an interim answer, or of the answer.
    pub(in super::super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &Method,
        worker: &Worker,
    ) -> Poll<Result<Answer, HeadError>> {
        let fields = || worker.spare_fields();
        match ready!(self.answer.poll_informational(cx)) {
            Some(Ok(interim)) => {
                let (parts, ()) = interim.into_parts();
                let head = head::answer(parts.status, parts.headers, false, request, fields());
                return Poll::Ready(head.map_err(HeadError::Bad));
            }
            Some(Err(error)) => return Poll::Ready(Err(self.broken(&error))),
            None => {}
        }
        let (parts, body) = match ready!(Pin::new(&mut self.answer).poll(cx)) {
            Ok(answer) => answer.into_parts(),
            Err(error) => return Poll::Ready(Err(self.broken(&error))),
        };
        let head = head::answer(parts.status, parts.headers, body.is_end_stream(), request, fields());
        self.body = Some(body);
        Poll::Ready(head.map_err(HeadError::Bad))
    }

    /// What an error before the answer's head says of the request.
    fn broken(&self, error: &h2::Error) -> HeadError {
        let connection = &self.place.connection;
        if error.is_go_away() && error.is_remote() {
            // Only streams that the target did not count are ended like this (RFC 9113 §6.8).
            return HeadError::Moved(error.to_string());
        }
        if error.is_reset() && error.is_remote() {
            return match error.reason() {
                Some(Reason::REFUSED_STREAM) => HeadError::Untouched("it refused the stream".into()),
                Some(Reason::HTTP_1_1_REQUIRED) => HeadError::Bad(BadAnswer("it wants HTTP/1.1 for this")),
                _ => HeadError::Broken(error.to_string()),
            };
        }
        match error.get_io() {
            Some(_) if connection.nothing_arrived_after(self.written_before) => {
                HeadError::Untouched("it closed the connection".into())
            }
            Some(error) => HeadError::Broken(error.to_string()),
            None => HeadError::Bad(BadAnswer("its HTTP/2 is broken")),
        }
    }

    /// The request has waited in vain. If nothing at all has come over its connection in that time, no other shall.
    pub(in super::super) fn suspect(&self) {
        let connection = &self.place.connection;
        if connection.traffic.read.get() == self.read_before {
            connection.retired.set(true);
        }
    }
}

/// The body of an answer, still arriving.
pub(crate) struct AnswerBody {
    /// `None` once it has ended or broken.
    arriving: Option<Arriving>,
    framing: Framing,
    idle: Duration,
    upstream: Rc<Upstream>,
    _in_flight: InFlight,
}

struct Arriving {
    body: RecvStream,
    /// Bytes handed on, for which the target has not been given room again.
    unreleased: usize,
    /// All data is there; the trailers are not.
    data_ended: bool,
    /// The rest of the request, if the target answers before it was sent.
    upload: Option<(Upload, SendStream<Bytes>)>,
    deadline: Deadline,
    _place: Place,
}

/// The body of an answer whose head came on `stream`. Of `upload`, what is still to be sent goes on beside it.
pub(in super::super) fn receive(
    answer: &Answer,
    stream: Stream,
    upload: &mut Upload,
    attempt: &Attempt<'_>,
    in_flight: InFlight,
) -> Body {
    let Stream { deadline, sending, body, place, .. } = stream;
    let Some(body) = body else { return Body::Empty };
    if answer.framing == Framing::None {
        // The end may come by itself.
        if upload.is_sent() && !body.is_end_stream() {
            spawn_local(linger(body, sending, deadline, place));
        }
        return Body::Empty;
    }
    if body.is_end_stream() {
        return Body::Full(Bytes::new());
    }
    deadline.clear();
    let unsent = !upload.is_sent() && !upload.is_held();
    let arriving = Arriving {
        body,
        unreleased: 0,
        data_ended: false,
        upload: unsent.then(|| (upload.take(), sending)),
        deadline,
        _place: place,
    };
    Body::Target(Box::new(AnyBody::Http2(AnswerBody {
        arriving: Some(arriving),
        framing: answer.framing,
        idle: attempt.pool.config.timeouts.idle,
        upstream: attempt.upstream.clone(),
        _in_flight: in_flight,
    })))
}

/// Waits for the end of an answer that has no body: a target must not take us for somebody who resets streams.
async fn linger(mut body: RecvStream, sending: SendStream<Bytes>, deadline: Deadline, place: Place) {
    let mut left = LINGER_MAX;
    let ending = std::future::poll_fn(|cx| {
        while let Some(Ok(data)) = ready!(body.poll_data(cx)) {
            if data.len() > left {
                break;
            }
            left -= data.len();
        }
        Poll::Ready(())
    });
    let _ = deadline.limit(LINGER, ending).await;
    drop((body, sending, place));
}

impl AnswerBody {
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        let Some(arriving) = &mut self.arriving else { return };
        let Some((upload, sending)) = &mut arriving.upload else { return };
        let before = upload.bytes;
        // The answer may still be whole.
        let over = upload.poll_stream(cx, sending).is_ready();
        if upload.bytes > before {
            arriving.deadline.clear();
        }
        if over {
            arriving.upload = None;
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_upload(cx);
        let Some(arriving) = &mut self.arriving else { return Poll::Ready(None) };
        match arriving.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                arriving.deadline.clear();
                match frame.data_ref() {
                    Some(data) => self.upstream.lane().bytes_received.add(data.len() as u64),
                    None => self.arriving = None,
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                self.arriving = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(failure))) => Poll::Ready(Some(Err(self.fail(failure)))),
            Poll::Pending => {
                if !arriving.deadline.is_set() {
                    arriving.deadline.set(self.idle);
                }
                ready!(arriving.deadline.poll(cx));
                Poll::Ready(Some(Err(self.fail(Failure::IdleTimeout))))
            }
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.arriving = None;
        self.upstream.lane().failures[failure as usize].bump();
        tracing::warn!(target = %self.upstream.state.name, reason = failure.as_str(), "an answer broke off");
        failure
    }
}

impl Arriving {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // Whoever asks for more has taken what there was.
        let taken = std::mem::take(&mut self.unreleased);
        if taken > 0 && self.body.flow_control().release_capacity(taken).is_err() {
            return Poll::Ready(Some(Err(Failure::Protocol)));
        }
        while !self.data_ended {
            match ready!(self.body.poll_data(cx)) {
                // To clients with HTTP/1.1, an empty part would be the last.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(failure_of(&error)))),
                None => self.data_ended = true,
            }
        }
        Poll::Ready(match ready!(self.body.poll_trailers(cx)) {
            Ok(Some(trailers)) => Some(match head::trailers(trailers) {
                Some(trailers) => Ok(Frame::trailers(trailers)),
                None => Err(Failure::Protocol),
            }),
            Ok(None) => None,
            Err(error) => Some(Err(failure_of(&error))),
        })
    }
}

/// Why an answer breaks off.
fn failure_of(error: &h2::Error) -> Failure {
    if error.is_library() { Failure::Protocol } else { Failure::Reset }
}
