//! The client's side of an HTTP/1 connection: its socket, what has been read and not used, and where in a body it is.
//!
//! Shared by the connection's own loop and by the body of the request under way, which read in turn. A connection that
//! waits for its next request holds no buffer.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;

use super::framing::{Decoded, Decoder, Framing};
use super::head::{self, Limits, Request};
use super::outgoing::Outgoing;
use crate::config;
use crate::pool::Refusal;
use crate::proxy::Worker;
use crate::proxy::body::RequestBodyError;
use crate::proxy::deadline::Deadline;
use crate::proxy::io::{Io, SHARED_READ};
use crate::proxy::listener::Listening;

/// What a connection that was accepted while its listener closes is given to send its request.
const FIRST_GRACE: Duration = Duration::from_millis(250);
/// Room for a read of a body.
const BODY_READ: usize = 64 * 1024;

/// See the module's documentation.
pub(crate) struct Client {
    pub(crate) io: Io,
    /// For reading: head, keep-alive and body. Writing has its own in the connection's loop.
    deadline: Deadline,
    input: RefCell<BytesMut>,
    /// Of `input`, searched for the end of a head already.
    scanned: Cell<usize>,
    body: RefCell<Decoder>,
    framing: Cell<Framing>,
    /// The body could not be read to its end: what follows it is not a request.
    broken: Cell<bool>,
    /// Bytes of body that this request may still bring.
    allowance: Cell<u64>,
    /// Bytes of body that it has brought.
    read: Cell<u64>,
    /// The client waits for `100 Continue`.
    expects_continue: Cell<bool>,
    continuing: RefCell<Outgoing>,
    limits: Limits,
    idle: Duration,
    /// Its first bytes may be those of HTTP/2.
    sniff: Cell<bool>,
}

/// How a connection begins that speaks HTTP/2 (RFC 9113 §3.4). Not to be mistaken for a request: there is no such method.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes of a connection say.
enum Begins {
    Http1,
    Http2,
    /// There must be more of them.
    NotSaid,
}

/// Why no further request comes from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRequest {
    /// It closed, broke, or was idle for too long between requests: nothing to say.
    Over,
    /// Something came that must be refused.
    Refused(Refusal),
    /// It speaks HTTP/2.
    Http2,
}

impl Client {
    /// With `sniff` the connection may turn out to be one of HTTP/2.
    pub(crate) fn new(io: Io, deadline: Deadline, listener: &config::Listener, sniff: bool) -> Self {
        Self {
            io,
            deadline,
            input: RefCell::default(),
            scanned: Cell::new(0),
            body: RefCell::new(Decoder::Done),
            framing: Cell::new(Framing::None),
            broken: Cell::new(false),
            allowance: Cell::new(0),
            read: Cell::new(0),
            expects_continue: Cell::new(false),
            continuing: RefCell::default(),
            limits: Limits { max_head: listener.max_head, max_fields: listener.max_fields },
            idle: listener.idle,
            sniff: Cell::new(sniff),
        }
    }

    /// The connection and what has been read of it, if it speaks HTTP/2.
    pub(crate) fn into_http2(self) -> Option<(Io, BytesMut)> {
        let input = self.input.into_inner();
        input.starts_with(HTTP2_PREFACE).then_some((self.io, input))
    }

    /// What is known of the protocol so far, asked before the first request is read.
    fn begins(&self) -> Begins {
        let input = self.input.borrow();
        if input.starts_with(HTTP2_PREFACE) {
            Begins::Http2
        } else if HTTP2_PREFACE.starts_with(&input) {
            Begins::NotSaid
        } else {
            self.sniff.set(false);
            Begins::Http1
        }
    }

    /// Reads the next request's head. The deadline for its first byte is `keep_alive`, for its last `head_timeout` from
    /// the first; of a listener that is closed, the connection at this `place` waits for as long as [`Leaving`] says.
    ///
    /// [`Leaving`]: crate::proxy::leaving::Leaving
    pub(crate) async fn next_request(
        &self,
        (listening, place): (&Listening, f64),
        listener: &config::Listener,
        first: bool,
        worker: &Worker,
    ) -> Result<Request, NoRequest> {
        let mut begun = !self.input.borrow().is_empty();
        let mut leaves = false;
        match (begun, first) {
            (true, _) => self.deadline.set(listener.head_timeout),
            (false, true) => self.deadline.set_new(listener.head_timeout),
            (false, false) => self.deadline.set_idle(listener.keep_alive),
        }
        let request = std::future::poll_fn(|cx| {
            loop {
                let begins = if begun && self.sniff.get() { self.begins() } else { Begins::Http1 };
                if matches!(begins, Begins::Http2) {
                    return Poll::Ready(Err(NoRequest::Http2));
                }
                if begun && matches!(begins, Begins::Http1) {
                    let mut input = self.input.borrow_mut();
                    let mut scanned = self.scanned.get();
                    let mut fields = worker.spare_fields();
                    let taken = head::take_request(&mut input, &mut scanned, self.limits, &mut fields);
                    self.scanned.set(scanned);
                    match taken {
                        Ok(Some(request)) => return Poll::Ready(Ok(request)),
                        Ok(None) => {
                            worker.keep_fields(fields);
                            // Who sends slowly waits with a buffer of its own, not with one that others share.
                            input.reserve(SHARED_READ);
                        }
                        Err(refusal) => return Poll::Ready(Err(NoRequest::Refused(refusal))),
                    }
                }
                match self.poll_fill(cx, SHARED_READ) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(NoRequest::Over)),
                    Poll::Ready(Ok(_)) if !begun => {
                        begun = true;
                        self.deadline.set(listener.head_timeout);
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending if self.deadline.poll(cx).is_ready() => {
                        let refused = NoRequest::Refused(Refusal::HeadTimeout);
                        return Poll::Ready(Err(if begun { refused } else { NoRequest::Over }));
                    }
                    Poll::Pending => match listening.leaving() {
                        Some(leaving) if !begun && !leaves => {
                            leaves = true;
                            // A connection that was accepted just now has its request under way.
                            let least = if first { FIRST_GRACE } else { Duration::ZERO };
                            let wait = leaving.wait(place, worker.deadlines.coarse_ticks());
                            self.deadline.set((wait + leaving.grace()).max(least));
                        }
                        _ => return Poll::Pending,
                    },
                }
            }
        })
        .await?;
        self.deadline.clear();
        self.begin_body(&request, listener.max_body)?;
        Ok(request)
    }

    fn begin_body(&self, request: &Request, max_body: Option<u64>) -> Result<(), NoRequest> {
        let allowance = max_body.unwrap_or(u64::MAX);
        if matches!(request.framing, Framing::Length(length) if length > allowance) {
            return Err(NoRequest::Refused(Refusal::BodyTooLarge));
        }
        self.allowance.set(allowance);
        self.read.set(0);
        self.framing.set(request.framing);
        self.expects_continue.set(request.head.expect_continue);
        *self.body.borrow_mut() = Decoder::new(request.framing);
        if self.input.borrow().is_empty() {
            *self.input.borrow_mut() = BytesMut::new();
        }
        Ok(())
    }

    /// How the present request's body is delimited.
    pub(crate) fn body_framing(&self) -> Framing {
        self.framing.get()
    }

    /// Bytes of the present request's body that have been read.
    pub(crate) fn body_read(&self) -> u64 {
        self.read.get()
    }

    /// Whether the present request has been read to its last byte.
    pub(crate) fn body_is_done(&self) -> bool {
        self.body.borrow().is_done()
    }

    /// Whether the client still waits for leave to send the body.
    pub(crate) fn is_expecting(&self) -> bool {
        self.expects_continue.get()
    }

    /// What has not been written yet of a `100 Continue`; whatever is written next comes behind it.
    pub(crate) fn take_continuing(&self) -> Outgoing {
        self.continuing.take()
    }

    /// Something was written in part, or the body was cut: the connection ends with this request.
    pub(crate) fn set_broken(&self) {
        self.broken.set(true);
    }

    /// Whether the present request's body could not be read to its end.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Reads on in the present request's body, telling the client to send it if it waits for that.
    pub(crate) fn poll_body(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let part = self.poll_part(cx);
        if matches!(part, Poll::Ready(Some(Err(_)))) {
            self.broken.set(true);
        }
        part
    }

    fn poll_part(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if self.expects_continue.replace(false) && !self.has_input() {
            self.continuing.borrow_mut().buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        match self.continuing.borrow_mut().poll_flush(cx, &self.io) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(RequestBodyError::Gone))),
            Poll::Pending => return self.poll_stalled(cx),
        }
        loop {
            let decoded = self.body.borrow_mut().decode(&mut self.input.borrow_mut());
            match decoded {
                Ok(Decoded::Data(data)) => {
                    self.deadline.clear();
                    let Some(left) = self.allowance.get().checked_sub(data.len() as u64) else {
                        return Poll::Ready(Some(Err(RequestBodyError::Refused(Refusal::BodyTooLarge))));
                    };
                    self.allowance.set(left);
                    self.read.set(self.read.get() + data.len() as u64);
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.deadline.clear();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.deadline.clear();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => return Poll::Ready(Some(Err(RequestBodyError::Refused(Refusal::Chunk)))),
            }
            match self.poll_fill(cx, BODY_READ) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Some(Err(RequestBodyError::Gone))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return self.poll_stalled(cx),
            }
        }
    }

    /// The body has no byte for us: how long may that go on?
    fn poll_stalled(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if !self.deadline.is_set() {
            self.deadline.set(self.idle);
        }
        self.deadline.poll(cx).map(|_| Some(Err(RequestBodyError::Refused(Refusal::BodyTimeout))))
    }

    /// Ready when the client has closed or broken the connection. Reads ahead (the next requests of a pipeline) up to
    /// one head's size, and not at all into an unfinished body.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        while self.body_is_done() && self.input.borrow().len() < self.limits.max_head {
            match self.poll_fill(cx, SHARED_READ) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Pending
    }

    /// What was read beyond the present request: of a tunnel, its first bytes.
    pub(crate) fn take_input(&self) -> BytesMut {
        std::mem::take(&mut *self.input.borrow_mut())
    }

    fn has_input(&self) -> bool {
        !self.input.borrow().is_empty()
    }

    fn poll_fill(&self, cx: &mut Context<'_>, room: usize) -> Poll<std::io::Result<usize>> {
        self.io.poll_fill(cx, &mut self.input.borrow_mut(), room)
    }
}
