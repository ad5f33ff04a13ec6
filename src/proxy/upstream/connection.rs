//! A connection to a target that speaks HTTP/1, and the body of the answer that arrives on it.

use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::Method;
use http_body::Frame;

use super::upload::Upload;
use super::{AnswerBody as AnyBody, InFlight, Upstream};
use crate::pool::Failure;
use crate::proxy::Worker;
use crate::proxy::body::Body;
use crate::proxy::deadline::Deadline;
use crate::proxy::http1::framing::{Decoded, Decoder, Framing};
use crate::proxy::http1::head::{self, BadAnswer, Limits};
use crate::proxy::io::{Io, SHARED_READ};
use crate::proxy::proxy_protocol::Ends;
use crate::proxy::tcp_info::bytes_acked;

/// Room for a read of a body.
const BODY_READ: usize = 64 * 1024;
/// Bounds of an answer's head: what a request's may be by default, doubled.
const LIMITS: Limits = Limits { max_head: 64 * 1024, max_fields: head::FIELDS_MAX };

/// Ticks that a connection rests after an answer without a body. The worker has then looked at its sockets at least once.
const BODILESS_PAUSE: u64 = 2;

/// See the module's documentation.
pub(crate) struct Connection {
    pub(crate) io: Io,
    pub(crate) deadline: Deadline,
    pub(super) begun: Instant,
    input: BytesMut,
    scanned: usize,
    /// Bytes that the wire has taken of this connection before the present request.
    pub(crate) written_before: u64,
    /// When it was last used, while it is idle.
    pub(super) idle_since: u64,
    /// When it may serve again, while it is idle.
    pub(super) usable_from: u64,
    /// Digest of the TLS that it has; 0 for none.
    pub(super) tls: u64,
    /// Bytes of the PROXY header that it began with.
    header: u64,
    /// The client that header names: it serves no other. `None` without a header: it serves all.
    owner: Option<Weak<Ends>>,
}

impl Connection {
    pub(super) fn new(io: Io, deadline: Deadline, tls: u64) -> Self {
        Self {
            io,
            deadline,
            begun: Instant::now(),
            input: BytesMut::new(),
            scanned: 0,
            written_before: 0,
            idle_since: 0,
            usable_from: 0,
            tls,
            header: 0,
            owner: None,
        }
    }

    /// The same, begun with a PROXY header of so many bytes that names `owner`.
    pub(super) fn owned_by(self, owner: &Rc<Ends>, header: usize) -> Self {
        let header = header as u64;
        Self { owner: Some(Rc::downgrade(owner)), header, written_before: header, ..self }
    }

    /// Whether it may serve requests of this client, or of any for `None`.
    pub(super) fn serves(&self, owner: Option<&Rc<Ends>>) -> bool {
        match (&self.owner, owner) {
            (None, None) => true,
            (Some(own), Some(other)) => std::ptr::eq(own.as_ptr(), Rc::as_ptr(other)),
            _ => false,
        }
    }

    /// Whether it serves one client only.
    pub(super) fn is_owned(&self) -> bool {
        self.owner.is_some()
    }

    /// Whether it serves one client only, and that has left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.strong_count() == 0)
    }

    /// Goes to rest: holds no buffer and waits for nothing.
    pub(super) fn rest(&mut self, now_ticks: u64, pause_ticks: u64) {
        self.input = BytesMut::new();
        self.deadline.clear();
        self.idle_since = now_ticks;
        self.usable_from = now_ticks + pause_ticks;
    }

    /// Goes back to its target after an answer that was framed like this, unless it has said more than that.
    fn give_back(self: Box<Self>, upstream: &Upstream, worker: &Worker, framing: Framing) {
        if self.input.is_empty() {
            // A target that sends a body where none may be sends it now: nobody else may read it as an answer.
            let pause = if framing == Framing::None { BODILESS_PAUSE } else { 0 };
            upstream.keep(self, worker.deadlines.coarse_ticks(), pause);
        } else {
            // Bytes after a complete answer belong to no request.
            upstream.lane().failures[Failure::Protocol as usize].bump();
            tracing::warn!(target = %upstream.state.name, "surplus bytes after an answer: connection closed");
        }
    }

    /// A request is about to be written.
    pub(super) fn begin(&mut self) {
        if let Some(written) = self.io.wire_bytes() {
            self.written_before = self.header + written;
        }
    }

    /// A request of so many bytes has been answered: they have arrived.
    pub(super) fn settle(&mut self, written: u64) {
        self.written_before += written;
    }

    /// Whether the target ended this connection before one byte of the present request had arrived, so that its
    /// application cannot have seen any. Costs a system call: for failures only.
    ///
    /// Only to be asked after an orderly end: the segment that ends a connection acknowledges all that came before it, so
    /// what it does not acknowledge came too late. A reset proves nothing, because the kernel ignores what it acknowledges.
    pub(super) fn nothing_arrived(&self) -> bool {
        // The kernel counts the SYN too.
        self.io.with_socket(bytes_acked).is_some_and(|acked| acked <= self.written_before + 1)
    }

    /// Reads on until an answer's head is there.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        request: &Method,
        worker: &Worker,
    ) -> Poll<Result<head::Answer, HeadError>> {
        loop {
            if !self.input.is_empty() {
                let mut fields = worker.spare_fields();
                match head::take_answer(&mut self.input, &mut self.scanned, LIMITS, request, &mut fields) {
                    Ok(Some(answer)) => return Poll::Ready(Ok(answer)),
                    Ok(None) => {
                        worker.keep_fields(fields);
                        // As with a client: who sends slowly waits with a buffer of its own.
                        self.input.reserve(SHARED_READ);
                    }
                    Err(bad) => return Poll::Ready(Err(HeadError::Bad(bad))),
                }
            }
            match self.poll_fill(cx, SHARED_READ) {
                Poll::Ready(Ok(0)) if self.input.is_empty() => {
                    return Poll::Ready(Err(HeadError::Ended));
                }
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(HeadError::Bad(BadAnswer("it ends within its head"))));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(HeadError::Broken(error.to_string()))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// What has been read beyond an answer's head: the first bytes of a tunnel.
    pub(crate) fn take_input(&mut self) -> BytesMut {
        std::mem::take(&mut self.input)
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<usize>> {
        self.io.poll_fill(cx, &mut self.input, room)
    }

    /// The whole body, if it has come with the head.
    fn take_whole(&mut self, framing: Framing) -> Option<Bytes> {
        match Decoder::new(framing) {
            Decoder::Done => Some(Bytes::new()),
            Decoder::Length(length) if length <= self.input.len() as u64 => {
                Some(self.input.split_to(length as usize).freeze())
            }
            _ => None,
        }
    }
}

/// Why no head arrived.
#[derive(Debug)]
pub(super) enum HeadError {
    /// The connection ended in an orderly way before the first byte.
    Ended,
    /// It broke.
    Broken(String),
    /// What arrived may not be passed on.
    Bad(BadAnswer),
    /// The target says that it has seen nothing of the request.
    Untouched(String),
    /// The same, and that another connection is to be used.
    Moved(String),
}

/// The body of an answer that arrives with HTTP/1.
pub(crate) struct AnswerBody {
    /// `None` once it has gone back to rest, or broke.
    connection: Option<Box<Connection>>,
    decoder: Decoder,
    framing: Framing,
    /// The rest of the request, if the target answers before it was sent.
    upload: Option<Upload>,
    keep_alive: bool,
    idle: Duration,
    upstream: Rc<Upstream>,
    worker: &'static Worker,
    _in_flight: InFlight,
}

impl AnswerBody {
    /// The body of an answer whose head came on `connection`: all of it if it is there already. Of `upload`, what is still
    /// to be sent goes on beside it.
    pub(super) fn receive(
        answer: &head::Answer,
        mut connection: Box<Connection>,
        upload: &mut Upload,
        attempt: &super::Attempt<'_>,
        in_flight: InFlight,
    ) -> Body {
        // A body that the client still holds back is not wanted any more.
        let keep_alive = answer.keep_alive && !upload.is_held();
        let upstream = &attempt.upstream;
        if let Some(whole) = connection.take_whole(answer.framing) {
            upstream.lane().bytes_received.add(whole.len() as u64);
            if keep_alive && upload.is_sent() {
                connection.give_back(upstream, attempt.worker, answer.framing);
            }
            return if answer.framing == Framing::None { Body::Empty } else { Body::Full(whole) };
        }
        Body::Target(Box::new(AnyBody::Http1(Self {
            decoder: Decoder::new(answer.framing),
            framing: answer.framing,
            keep_alive,
            idle: attempt.pool.config.timeouts.idle,
            upload: (!upload.is_sent() && !upload.is_held()).then(|| upload.take()),
            connection: Some(connection),
            upstream: upstream.clone(),
            worker: attempt.worker,
            _in_flight: in_flight,
        })))
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let (Some(upload), Some(connection)) = (&mut self.upload, &self.connection) {
            match upload.poll(cx, &connection.io, false) {
                Poll::Ready(Ok(())) => self.upload = None,
                // The answer may still be whole; the connection is not used again.
                Poll::Ready(Err(_)) => {
                    self.keep_alive = false;
                    self.upload = None;
                }
                Poll::Pending => {}
            }
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.poll_upload(cx);
        loop {
            let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
            match self.decoder.decode(&mut connection.input) {
                Ok(Decoded::Data(data)) => {
                    connection.deadline.clear();
                    self.upstream.lane().bytes_received.add(data.len() as u64);
                    if self.decoder.is_done() {
                        self.end();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::Trailers(trailers)) => {
                    self.end();
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
                Ok(Decoded::End) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Ok(Decoded::NeedMore) => {}
                Err(_) => return Poll::Ready(Some(Err(self.fail(Failure::Protocol)))),
            }
            match connection.poll_fill(cx, BODY_READ) {
                Poll::Ready(Ok(0)) if self.decoder.finish() => {
                    self.end();
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Some(Err(self.fail(Failure::Reset)))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    if !connection.deadline.is_set() {
                        connection.deadline.set(self.idle);
                    }
                    if connection.deadline.poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    return Poll::Ready(Some(Err(self.fail(Failure::IdleTimeout))));
                }
            }
        }
    }

    /// The answer is complete: its connection may serve another request if nothing is left over on either side.
    fn end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        if self.keep_alive && self.upload.is_none() {
            connection.give_back(&self.upstream, self.worker, self.framing);
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        self.connection = None;
        self.upstream.lane().failures[failure as usize].bump();
        tracing::warn!(target = %self.upstream.state.name, reason = failure.as_str(), "an answer broke off");
        failure
    }
}
