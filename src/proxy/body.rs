//! Bodies in both directions, and who holds what until their last byte.
//!
//! A request's body is read from the client only when somebody polls it; an answer's body likewise from the target.
//! Frames are `http_body`'s, so that every protocol can bring and take them.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use http_body::Frame;

use super::fields::Fields;
use super::http1::framing::Framing;
use super::record::Record;
use super::{http1, http2, upstream};
use crate::pool::{Failure, Refusal};

/// The body of a request on its way from the client.
pub(crate) enum RequestBody {
    /// There is none, or it has been read to its end.
    None,
    /// From an HTTP/1 connection.
    Http1(Rc<http1::Client>),
    /// From a stream of an HTTP/2 connection.
    Http2(Box<http2::Incoming>),
}

/// Why a request's body ends before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestBodyError {
    /// The client left.
    Gone,
    /// It stalled, is too large, or is not well framed.
    Refused(Refusal),
}

impl RequestBody {
    /// How the body is delimited; the next hop frames it the same way.
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::None => Framing::None,
            Self::Http1(client) => client.body_framing(),
            Self::Http2(incoming) => incoming.framing(),
        }
    }

    /// Whether the client still waits for leave to send it.
    pub(crate) fn is_held(&self) -> bool {
        match self {
            Self::None => false,
            Self::Http1(client) => client.is_expecting(),
            Self::Http2(incoming) => incoming.is_expecting(),
        }
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        match self {
            Self::None => Poll::Ready(None),
            Self::Http1(client) => client.poll_body(cx),
            Self::Http2(incoming) => incoming.poll_frame(cx),
        }
    }
}

/// The body of an answer on its way to the client.
pub(crate) enum Body {
    /// There is none.
    Empty,
    /// All of it.
    Full(Bytes),
    /// Still arriving from the target.
    Target(Box<upstream::AnswerBody>),
    /// Not a body: the connection to the target, now a tunnel.
    Tunnel(Box<upstream::Tunnel>),
}

impl Body {
    /// How the body is delimited towards a client that takes chunks.
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Empty | Self::Tunnel(_) => Framing::None,
            Self::Full(bytes) => Framing::Length(bytes.len() as u64),
            Self::Target(body) => body.framing(),
        }
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Self::Empty | Self::Tunnel(_) => Poll::Ready(None),
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Target(body) => body.poll_frame(cx),
        }
    }

    /// Goes on with what does not wait for the client to read: sending the rest of the request.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        if let Self::Target(body) = self {
            body.poll_upload(cx);
        }
    }
}

/// A whole answer, of a target or of our own.
pub(crate) struct Answer {
    /// Protocol that brought it; HTTP/1.1 for our own.
    pub(crate) version: Version,
    pub(crate) status: http::StatusCode,
    pub(crate) headers: Fields,
    pub(crate) body: Body,
    /// Counts the answer when it is dropped: after the last byte, or when the client has left.
    pub(crate) record: Option<Record>,
}

/// Why an answer was not sent to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The target's fault.
    Target,
    /// The client did not take it.
    Stalled,
    /// The client has left.
    Gone,
}

impl Cut {
    /// As the access log writes it.
    pub(crate) fn code(self) -> &'static str {
        match self {
            Self::Target => "answer_broken",
            Self::Stalled => "client_stalled",
            Self::Gone => "client_gone",
        }
    }
}
