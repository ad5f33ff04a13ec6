//! The request's body on its way to a target, remembered for as long as it is small enough to be sent again.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::SendStream;
use http::HeaderMap;

use crate::proxy::body::{RequestBody, RequestBodyError};
use crate::proxy::http1::encode;
use crate::proxy::http1::framing::Framing;
use crate::proxy::http1::outgoing::Outgoing;
use crate::proxy::io::Io;

/// A body that can be sent several times if it stays under a bound.
pub(crate) struct Upload {
    source: RequestBody,
    framing: Framing,
    /// The source has been read to its end, with these trailers.
    source_ended: bool,
    trailers: Option<Box<HeaderMap>>,
    /// What was read from the source, if all of it.
    kept: BytesMut,
    /// Nothing read so far had to be thrown away.
    whole: bool,
    max_kept: usize,
    /// Of `kept`, bytes sent in this attempt.
    next: usize,
    /// The last chunk is written, or the last byte of a known length; with HTTP/2, the end of the stream.
    sent: bool,
    /// Read from the source for HTTP/2, for which the target has not given room yet.
    unsent: Bytes,
    /// Of this attempt, head included; HTTP/1 only.
    pub(crate) outgoing: Outgoing,
    /// Body bytes given to the socket, or to the stream, in this attempt.
    pub(crate) bytes: u64,
}

/// Why sending stopped.
#[derive(Debug)]
pub(crate) enum UploadError {
    /// The client's side.
    Client(RequestBodyError),
    /// The target's side.
    Target(io::Error),
}

impl Upload {
    pub(crate) fn new(source: RequestBody, max_kept: usize) -> Self {
        let framing = source.framing();
        let empty = matches!(framing, Framing::None | Framing::Length(0));
        Self {
            source,
            framing,
            source_ended: empty,
            trailers: None,
            kept: BytesMut::new(),
            whole: true,
            max_kept,
            next: 0,
            sent: empty,
            unsent: Bytes::new(),
            outgoing: Outgoing::default(),
            bytes: 0,
        }
    }

    /// What is left to send; nothing stays.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::new(RequestBody::None, 0))
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the client still waits for leave to send the body.
    pub(crate) fn is_held(&self) -> bool {
        self.source.is_held()
    }

    /// Whether another attempt could send the same body.
    pub(crate) fn is_replayable(&self) -> bool {
        self.whole
    }

    /// Begins anew, for another attempt.
    pub(crate) fn rewind(&mut self) {
        self.outgoing = Outgoing::default();
        self.unsent = Bytes::new();
        self.next = 0;
        self.bytes = 0;
        self.sent = matches!(self.framing, Framing::None | Framing::Length(0));
    }

    /// Everything of this attempt has been given to the socket.
    pub(crate) fn is_sent(&self) -> bool {
        self.sent && self.outgoing.is_empty()
    }

    /// Grows with every byte that goes on its way in this attempt.
    pub(crate) fn progress(&self) -> u64 {
        self.outgoing.written() + self.bytes
    }

    /// Whether nothing is at hand that could be sent: an upload that is not over waits for the client.
    pub(crate) fn is_starved(&self) -> bool {
        self.outgoing.is_empty() && self.unsent.is_empty()
    }

    /// Writes what there is; ready when all has been given to the socket. With `hold`, only what is pending already: the
    /// client still waits for leave to send the body.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        io: &Io,
        hold: bool,
    ) -> Poll<Result<(), UploadError>> {
        loop {
            while !hold && !self.sent && self.outgoing.takes_more() {
                match self.poll_next(cx) {
                    Poll::Ready(Ok(Some(data))) => {
                        self.bytes += data.len() as u64;
                        if self.framing == Framing::Chunked {
                            self.outgoing.push_chunk(data);
                        } else {
                            self.outgoing.push(data);
                        }
                    }
                    Poll::Ready(Ok(None)) => {
                        self.sent = true;
                        if self.framing == Framing::Chunked {
                            encode::last_chunk(self.outgoing.buffer(), self.trailers.as_deref());
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(UploadError::Client(error))),
                    Poll::Pending if self.outgoing.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            let waits = !self.sent && self.outgoing.takes_more();
            match self.outgoing.poll_flush(cx, io) {
                Poll::Ready(Ok(())) if self.sent => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) if waits => return Poll::Pending,
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UploadError::Target(error))),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Sends what there is on a stream of HTTP/2; ready when all has been sent, trailers included.
    ///
    /// Room is asked for only when there is something to put there: what is given to one stream is taken from the others.
    pub(crate) fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut SendStream<Bytes>,
    ) -> Poll<Result<(), UploadError>> {
        while !self.sent {
            if self.unsent.is_empty() {
                match ready!(self.poll_next(cx)) {
                    Ok(Some(data)) => self.unsent = data,
                    Ok(None) => self.end_stream(stream).map_err(broken)?,
                    Err(error) => return Poll::Ready(Err(UploadError::Client(error))),
                }
                continue;
            }
            stream.reserve_capacity(self.unsent.len());
            let room = match stream.capacity() {
                0 => match ready!(stream.poll_capacity(cx)) {
                    Some(Ok(room)) => room,
                    Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                    None => return Poll::Ready(Err(UploadError::Target(io::ErrorKind::BrokenPipe.into()))),
                },
                room => room,
            };
            let part = self.unsent.split_to(room.min(self.unsent.len()));
            self.bytes += part.len() as u64;
            // The last byte of a known length says itself that it is the last, unless trailers may follow.
            let complete = self.unsent.is_empty() && self.framing == Framing::Length(self.bytes);
            let ended =
                complete && matches!(self.poll_next(cx), Poll::Ready(Ok(None)) if self.trailers.is_none());
            stream.send_data(part, ended).map_err(broken)?;
            self.sent = ended;
        }
        Poll::Ready(Ok(()))
    }

    fn end_stream(&mut self, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        self.sent = true;
        match &self.trailers {
            Some(trailers) => stream.send_trailers(HeaderMap::clone(trailers)),
            None => stream.send_data(Bytes::new(), true),
        }
    }

    /// The next part of the body: from an earlier attempt's memory first, then from the client.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, RequestBodyError>> {
        if self.next < self.kept.len() {
            let data = Bytes::copy_from_slice(&self.kept[self.next..]);
            self.next = self.kept.len();
            return Poll::Ready(Ok(Some(data)));
        }
        if self.source_ended {
            return Poll::Ready(Ok(None));
        }
        let frame = match self.source.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
            Poll::Ready(None) => {
                self.source_ended = true;
                return Poll::Ready(Ok(None));
            }
            Poll::Pending => return Poll::Pending,
        };
        match frame.into_data() {
            Ok(data) => {
                self.remember(&data);
                Poll::Ready(Ok(Some(data)))
            }
            Err(frame) => {
                self.trailers = frame.into_trailers().ok().map(Box::new);
                self.source_ended = true;
                Poll::Ready(Ok(None))
            }
        }
    }

    fn remember(&mut self, data: &Bytes) {
        if self.whole && self.kept.len() + data.len() <= self.max_kept {
            self.kept.extend_from_slice(data);
            self.next = self.kept.len();
        } else {
            self.whole = false;
            self.kept = BytesMut::new();
            self.next = 0;
        }
    }
}

fn broken(error: h2::Error) -> UploadError {
    UploadError::Target(error.into_io().unwrap_or(io::ErrorKind::BrokenPipe.into()))
}
