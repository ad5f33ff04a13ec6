//! The body of a request on its way from an HTTP/2 client.
//!
//! Read only when somebody asks. The client may send more when what it has sent was taken: a piece is given back to its
//! window when the next one is asked for, so a slow target slows its client and nobody else. That what arrives is as long
//! as was announced is checked by `h2` and, at the end, again.

use std::cell::Cell;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use http::StatusCode;
use http_body::Frame;

use super::head;
use super::stream::Responder;
use crate::pool::Refusal;
use crate::proxy::body::RequestBodyError;
use crate::proxy::deadline::Deadline;
use crate::proxy::fields::Fields;
use crate::proxy::http1::framing::Framing;

/// See the module's documentation.
pub(crate) struct Incoming {
    pub(super) stream: RecvStream,
    /// For `100 Continue`.
    pub(super) responder: Rc<Responder>,
    pub(super) framing: Framing,
    /// The client waits for `100 Continue`.
    pub(super) expects_continue: bool,
    /// Bytes that the body may still bring.
    pub(super) allowance: u64,
    pub(super) deadline: Deadline,
    /// Longest time between two bytes.
    pub(super) idle: Duration,
    pub(super) progress: Progress,
}

/// How much of the body has come.
#[derive(Default)]
pub(super) struct Progress {
    /// Bytes read; its stream looks at that too.
    read: Rc<Cell<u64>>,
    /// Of these, not given back to the window yet.
    unreleased: usize,
    /// All data has come, trailers may follow.
    data_ended: bool,
    ended: bool,
}

impl Incoming {
    /// How the body is delimited towards a target that speaks HTTP/1.
    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// The count of bytes read.
    pub(super) fn count(&self) -> Rc<Cell<u64>> {
        self.progress.read.clone()
    }

    /// Whether the client still waits for leave to send it.
    pub(crate) fn is_expecting(&self) -> bool {
        self.expects_continue
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let unreleased = std::mem::take(&mut self.progress.unreleased);
        if unreleased > 0 {
            // The only error is that there was not so much to give back.
            let _ = self.stream.flow_control().release_capacity(unreleased);
        }
        loop {
            if self.progress.ended {
                return Poll::Ready(None);
            }
            if self.progress.data_ended {
                return self.poll_trailers(cx);
            }
            match self.stream.poll_data(cx) {
                Poll::Ready(Some(Ok(data))) if data.is_empty() => {}
                Poll::Ready(Some(Ok(data))) => return Poll::Ready(Some(self.take(data).map(Frame::data))),
                // Reset, or the connection is gone: h2 has told the client if it was the client's fault.
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Some(Err(RequestBodyError::Gone))),
                Poll::Ready(None) => self.progress.data_ended = true,
                Poll::Pending => return self.poll_stalled(cx),
            }
        }
    }

    fn take(&mut self, data: Bytes) -> Result<Bytes, RequestBodyError> {
        self.deadline.clear();
        self.expects_continue = false;
        self.progress.unreleased = data.len();
        self.progress.read.set(self.progress.read.get() + data.len() as u64);
        match self.allowance.checked_sub(data.len() as u64) {
            Some(left) => self.allowance = left,
            None => return Err(RequestBodyError::Refused(Refusal::BodyTooLarge)),
        }
        Ok(data)
    }

    fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let trailers = match self.stream.poll_trailers(cx) {
            Poll::Ready(Ok(trailers)) => trailers,
            Poll::Ready(Err(_)) => return Poll::Ready(Some(Err(RequestBodyError::Gone))),
            Poll::Pending => return self.poll_stalled(cx),
        };
        self.deadline.clear();
        self.progress.ended = true;
        if matches!(self.framing, Framing::Length(length) if length != self.progress.read.get()) {
            return Poll::Ready(Some(Err(RequestBodyError::Refused(Refusal::ContentLength))));
        }
        let Some(trailers) = trailers else { return Poll::Ready(None) };
        let checked = head::trailers(&trailers).ok_or(RequestBodyError::Refused(Refusal::Field));
        Poll::Ready(Some(checked.map(Frame::trailers)))
    }

    /// The body has no byte for us: how long may that go on?
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        if std::mem::take(&mut self.expects_continue)
            && self.responder.inform(StatusCode::CONTINUE, &Fields::new()).is_err()
        {
            return Poll::Ready(Some(Err(RequestBodyError::Gone)));
        }
        if !self.deadline.is_set() {
            self.deadline.set(self.idle);
        }
        self.deadline.poll(cx).map(|_| Some(Err(RequestBodyError::Refused(Refusal::BodyTimeout))))
    }
}
