//! One stream: a request for the exchange, and its answer as the client's windows let it go.
//!
//! A task of its own on the worker's thread. Whoever resets the stream, or ends its connection, cancels it at whatever
//! point it is. Frames, settings and the connection's windows are `h2`'s business.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::Shared;
use super::head;
use super::held::Piece;
use super::incoming::{Incoming, Progress};
use super::outgoing::Outgoing;
use super::tunnel::{self, Handshake};
use crate::pool::{Refusal, WorkerLane};
use crate::proxy::Worker;
use crate::proxy::body::{Answer, Body, Cut, RequestBody};
use crate::proxy::error::{ProxyError, Reader};
use crate::proxy::exchange;
use crate::proxy::fields::Fields;
use crate::proxy::http1::framing::Framing;
use crate::proxy::http1::head::Limits;
use crate::proxy::inform::Inform;
use crate::proxy::place::note_panic;

/// What a stream is answered with, shared by all who may answer.
pub(crate) struct Responder(RefCell<SendResponse<Piece>>);

impl Responder {
    pub(super) fn new(respond: SendResponse<Piece>) -> Rc<Self> {
        Rc::new(Self(RefCell::new(respond)))
    }

    /// Sends an interim answer.
    pub(crate) fn inform(&self, status: StatusCode, headers: &Fields) -> Result<(), ProxyError> {
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = map_of(headers);
        self.0.borrow_mut().send_informational(response).map_err(|_| ProxyError::client_gone())
    }

    /// Sends an answer's head; with `end`, that is all of it.
    pub(super) fn answer(&self, response: Response<()>, end: bool) -> Result<SendStream<Piece>, h2::Error> {
        self.0.borrow_mut().send_response(response, end)
    }

    /// Ready when nobody waits for an answer any more.
    fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.borrow_mut().poll_reset(cx).map(|_| ())
    }

    pub(super) fn reset(&self, reason: Reason) {
        self.0.borrow_mut().send_reset(reason);
    }
}

pub(super) fn map_of(headers: &Fields) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(headers.capacity().min(64));
    for (name, value) in headers.iter() {
        map.append(name.clone(), value.clone());
    }
    map
}

/// A request, from its head to the last byte of its answer.
pub(super) async fn serve(
    connection: Rc<Shared>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Piece>,
) {
    let worker = connection.worker;
    worker.lane().requests.bump();
    worker.lane().http2.requests.bump();
    let _open = Open::count(worker);
    let (parts, stream) = request.into_parts();
    let mut stream = Some(stream);
    let responder = Responder::new(respond);
    let is_head = parts.method == Method::HEAD;
    let of = |name| parts.headers.get(name);
    let reader = Reader::who_sends(of(header::ACCEPT), of(header::CONTENT_TYPE));
    let mut fields = worker.spare_fields();
    let mut asked = None;
    let mut received = None;
    let answer = match read(&connection, parts, &mut stream, &responder, &mut fields, &mut received) {
        Ok((mut head, body)) => {
            asked = head.websocket.then(|| Handshake::ask(&worker.random, &mut head.headers));
            let inform = Inform::Http2(&responder);
            let mut exchange = pin!(exchange::exchange(worker, &connection.peer, &inform, head, body));
            std::future::poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer),
                Poll::Pending => responder.poll_gone(cx).map(|()| None),
            })
            .await
        }
        Err(refusal) => Some(exchange::refuse(worker, &connection.peer, refusal, &reader)),
    };
    // Without an answer the client has left, and all that is dropped now is cancelled.
    let Some(mut answer) = answer else { return };
    if let Some(asked) = asked
        && answer.status.as_u16() < 300
    {
        if let Body::Tunnel(_) = answer.body
            && asked.is_agreed(&mut answer.headers)
        {
            return tunnel::run(&connection, &responder, stream, answer).await;
        }
        // What is not a tunnel may not look like one.
        tracing::debug!("the target did not agree to a WebSocket");
        answer.status = StatusCode::BAD_GATEWAY;
        answer.body = Body::Empty;
        if let Some(record) = &mut answer.record {
            record.replaced(answer.status);
        }
    }
    send(&connection, &responder, answer, is_head, received).await;
}

/// The request as the exchange wants it.
fn read(
    connection: &Shared,
    parts: Parts,
    stream: &mut Option<RecvStream>,
    responder: &Rc<Responder>,
    fields: &mut Fields,
    received: &mut Option<Rc<Cell<u64>>>,
) -> Result<(crate::proxy::request::Head, RequestBody), Refusal> {
    let listener = &connection.listener;
    let bodiless = stream.as_ref().is_none_or(RecvStream::is_end_stream);
    let limits = Limits { max_head: listener.max_head, max_fields: listener.max_fields };
    let head::Request { head, framing } = head::read(parts, bodiless, limits, fields)?;
    let allowance = listener.max_body.unwrap_or(u64::MAX);
    if matches!(framing, Framing::Length(length) if length > allowance) {
        return Err(Refusal::BodyTooLarge);
    }
    // A tunnel reads its stream by itself.
    let body = if framing == Framing::None { None } else { stream.take() };
    let Some(stream) = body else { return Ok((head, RequestBody::None)) };
    let incoming = Incoming {
        stream,
        responder: responder.clone(),
        framing,
        expects_continue: head.expect_continue,
        allowance,
        deadline: connection.worker.deadlines.register(),
        idle: listener.idle,
        progress: Progress::default(),
    };
    *received = Some(incoming.count());
    Ok((head, RequestBody::Http2(Box::new(incoming))))
}

/// Sends an answer while its body arrives. `read` counts the bytes of the request's body.
async fn send(
    connection: &Shared,
    responder: &Responder,
    mut answer: Answer,
    is_head: bool,
    read: Option<Rc<Cell<u64>>>,
) {
    let framing = answer.body.framing();
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    let mut headers = map_of(&answer.headers);
    if let Framing::Length(length) = framing {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *response.headers_mut() = headers;
    connection.worker.keep_fields(std::mem::take(&mut answer.headers));
    let end = is_head || matches!(framing, Framing::None | Framing::Length(0));
    let stream = match responder.answer(response, end) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!("an answer cannot be sent by HTTP/2: {error}");
            responder.reset(Reason::INTERNAL_ERROR);
            return;
        }
    };
    let (mut sent, mut bytes) = (Ok(()), 0);
    if !end {
        let mut outgoing = Outgoing::new(connection, stream, answer.body);
        sent = outgoing.run().await;
        bytes = outgoing.sent;
    }
    if let Some(record) = &mut answer.record {
        record.ended(read.map_or(0, |count| count.get()), bytes, sent.err());
    }
    match sent {
        Ok(()) => connection.watch.answered(),
        // What is cut off must not look complete.
        Err(Cut::Target) => responder.reset(Reason::INTERNAL_ERROR),
        Err(Cut::Stalled) => {
            responder.reset(Reason::CANCEL);
            connection.watch.gave_up();
        }
        Err(Cut::Gone) => {}
    }
}

/// Counts a request as under way, and is the place where a panic is noticed that would end it.
struct Open(&'static Worker);

impl Open {
    fn count(worker: &'static Worker) -> Self {
        lane(worker).bump();
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lane(self.0).drop_one();
        note_panic(self.0);
    }
}

fn lane(worker: &Worker) -> &crate::pool::Counter {
    let lane: &WorkerLane = worker.lane();
    &lane.http2.streams
}
