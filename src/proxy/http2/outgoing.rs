//! The body of an answer on its way to an HTTP/2 client.
//!
//! A piece is read from the target only when the stream's window is open and the connection holds less than it may; `h2` gets
//! only what the windows let go at once. So a window that stays shut holds one piece at most, and costs the target's
//! connection, until `idle` is over.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use h2::SendStream;
use http::header::HeaderMap;
use http_body::Frame;

use super::Shared;
use super::held::{Held, Piece};
use crate::pool::Failure;
use crate::proxy::body::{Body, Cut};
use crate::proxy::deadline::Deadline;
use crate::proxy::http1::framing::Framing;
use std::rc::Rc;

/// See the module's documentation.
pub(super) struct Outgoing {
    stream: SendStream<Piece>,
    body: Body,
    /// Read, and not sent yet.
    piece: Option<Piece>,
    trailers: Option<HeaderMap>,
    /// The body has been read to its end.
    ended: bool,
    /// Bytes that are still to be read, if that is known.
    left: Option<u64>,
    held: Rc<Held>,
    writing: Deadline,
    idle: Duration,
    /// Bytes of the body that were sent.
    pub(super) sent: u64,
}

/// What was read.
enum Read {
    Some,
    /// The windows are shut, or too much is held.
    Shut,
    /// The target has no more just now.
    Nothing,
}

impl Outgoing {
    pub(super) fn new(connection: &Shared, stream: SendStream<Piece>, body: Body) -> Self {
        let left = match body.framing() {
            Framing::Length(length) => Some(length),
            _ => None,
        };
        Self {
            stream,
            body,
            piece: None,
            trailers: None,
            ended: false,
            left,
            held: connection.held.clone(),
            writing: connection.worker.deadlines.register(),
            idle: connection.listener.idle,
            sent: 0,
        }
    }

    /// Sends all of it.
    pub(super) async fn run(&mut self) -> Result<(), Cut> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        loop {
            if self.piece.is_none() && !self.ended {
                match self.read(cx)? {
                    Read::Some => {}
                    Read::Shut => return self.poll_slow_reader(cx),
                    Read::Nothing => {
                        self.writing.clear();
                        return self.stream.poll_reset(cx).map(|_| Err(Cut::Gone));
                    }
                }
            }
            let Some(mut piece) = self.piece.take() else { return Poll::Ready(self.end()) };
            match self.poll_window(cx, piece.remaining()) {
                Poll::Pending => {
                    self.piece = Some(piece);
                    return self.poll_slow_reader(cx);
                }
                Poll::Ready(Err(cut)) => return Poll::Ready(Err(cut)),
                Poll::Ready(Ok(count)) => {
                    self.writing.clear();
                    let whole = count >= piece.remaining();
                    let part = if whole {
                        piece
                    } else {
                        let part = piece.split_to(count);
                        self.piece = Some(piece);
                        part
                    };
                    self.sent += part.remaining() as u64;
                    let last = whole && self.ended && self.trailers.is_none();
                    self.stream.send_data(part, last).map_err(|_| Cut::Gone)?;
                    if last {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Reads a piece, if there is a use for one.
    fn read(&mut self, cx: &mut Context<'_>) -> Result<Read, Cut> {
        match self.poll_window(cx, 1) {
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(cut)) => return Err(cut),
            Poll::Pending => return Ok(Read::Shut),
        }
        if self.held.poll_room(cx).is_pending() {
            return Ok(Read::Shut);
        }
        loop {
            match self.body.poll_frame(cx) {
                Poll::Ready(frame) => self.take(frame)?,
                Poll::Pending => return Ok(if self.piece.is_some() { Read::Some } else { Read::Nothing }),
            }
            // After the last byte of a known length, whether that is the end is known at once: it goes with the byte.
            if self.ended || (self.piece.is_some() && self.left != Some(0)) {
                return Ok(Read::Some);
            }
        }
    }

    fn take(&mut self, frame: Option<Result<Frame<Bytes>, Failure>>) -> Result<(), Cut> {
        match frame.transpose().map_err(|_| Cut::Target)?.map(Frame::into_data) {
            None => self.ended = true,
            Some(Ok(data)) if data.is_empty() => {}
            Some(Ok(data)) => {
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(data.len() as u64).ok_or(Cut::Target)?;
                }
                self.piece = Some(self.held.take(data));
            }
            Some(Err(frame)) => {
                self.trailers = frame.into_trailers().ok();
                self.ended = true;
            }
        }
        if self.ended && self.left.is_some_and(|left| left > 0) { Err(Cut::Target) } else { Ok(()) }
    }

    /// Everything has been sent but what says so.
    fn end(&mut self) -> Result<(), Cut> {
        match self.trailers.take() {
            Some(trailers) => self.stream.send_trailers(trailers),
            None => self.stream.send_data(self.held.take(Bytes::new()), true),
        }
        .map_err(|_| Cut::Gone)
    }

    /// Bytes of `wanted` that the client's windows let go.
    fn poll_window(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<Result<usize, Cut>> {
        self.stream.reserve_capacity(wanted);
        let open = self.stream.capacity();
        if open > 0 {
            return Poll::Ready(Ok(open.min(wanted)));
        }
        loop {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(0))) => {}
                Poll::Ready(Some(Ok(open))) => return Poll::Ready(Ok(open.min(wanted))),
                Poll::Ready(_) => return Poll::Ready(Err(Cut::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// The client takes nothing: it has `idle` from the last time it did.
    fn poll_slow_reader(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cut>> {
        self.body.poll_upload(cx);
        if self.stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Cut::Gone));
        }
        if !self.writing.is_set() {
            self.writing.set(self.idle);
        }
        self.writing.poll(cx).map(|_| Err(Cut::Stalled))
    }
}
