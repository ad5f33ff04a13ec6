//! A WebSocket on a stream (RFC 8441): for the client an extended CONNECT, for the target the upgrade of HTTP/1.1.
//!
//! What HTTP/1.1 asks of both ends to show that they mean it, a key and its digest, does not exist in HTTP/2: here is the end
//! that asks, and looks at the answer. What is in the tunnel is carried by [`upgrade`](crate::proxy::upgrade).

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};

use super::Shared;
use super::held::{Held, Piece};
use super::stream::{Responder, map_of};
use crate::proxy::Random;
use crate::proxy::body::{Answer, Body};
use crate::proxy::fields::Fields;
use crate::proxy::http1::outgoing::Outgoing;
use crate::proxy::upgrade::{Side, Tunnel};

/// What a server adds to the key before it makes a digest of both (RFC 6455 §1.3).
const MAGIC: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What a target must answer to the key that it was sent.
pub(super) struct Handshake {
    accept: String,
}

impl Handshake {
    /// Adds a key to the fields of a request.
    pub(super) fn ask(random: &Random, headers: &mut Fields) -> Self {
        let key = [random.next().to_ne_bytes(), random.next().to_ne_bytes()].concat();
        let key = BASE64_STANDARD.encode(key);
        let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), MAGIC].concat());
        if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(key)) {
            headers.insert(header::SEC_WEBSOCKET_KEY, value);
        }
        Self { accept: BASE64_STANDARD.encode(sum) }
    }

    /// Whether the target has understood, by the fields of its 101; what says so is taken out.
    pub(super) fn is_agreed(&self, headers: &mut Fields) -> bool {
        let accepted = headers.get(header::SEC_WEBSOCKET_ACCEPT).is_some_and(|value| *value == *self.accept);
        headers.retain(|name, _| *name != header::SEC_WEBSOCKET_ACCEPT);
        accepted
    }
}

/// Carries bytes between a stream and a target that has agreed, until the tunnel is over.
pub(super) async fn run(
    connection: &Shared,
    responder: &Responder,
    stream: Option<RecvStream>,
    mut answer: Answer,
) {
    let (Body::Tunnel(target), Some(receive)) = (answer.body, stream) else { return };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    *response.headers_mut() = map_of(&answer.headers);
    let Ok(send) = responder.answer(response, false) else {
        return responder.reset(Reason::INTERNAL_ERROR);
    };
    let stream = TunnelStream {
        receive: RefCell::new(receive),
        send: RefCell::new(send),
        ahead: RefCell::default(),
        received_all: Cell::new(false),
        held: connection.held.clone(),
    };
    let tunnel = Tunnel {
        client: Side::Stream(&stream),
        input: BytesMut::new(),
        outgoing: Outgoing::default(),
        target,
        worker: connection.worker,
    };
    let carried = tunnel.run().await;
    connection.watch.answered();
    if let Some(record) = &mut answer.record {
        record.tunnelled(carried);
    }
}

/// A stream as a tunnel reads and writes it.
pub(crate) struct TunnelStream {
    receive: RefCell<RecvStream>,
    send: RefCell<SendStream<Piece>>,
    /// Received, and not read.
    ahead: RefCell<Bytes>,
    received_all: Cell<bool>,
    held: Rc<Held>,
}

impl TunnelStream {
    /// Ready when a read would not wait.
    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut ahead = self.ahead.borrow_mut();
        while ahead.is_empty() && !self.received_all.get() {
            match ready!(self.receive.borrow_mut().poll_data(cx)) {
                Some(Ok(data)) => *ahead = data,
                Some(Err(_)) => return Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
                None => self.received_all.set(true),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the spare room of `buffer`. 0 is the end.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(cx))?;
        let mut ahead = self.ahead.borrow_mut();
        let count = ahead.len().min(buffer.capacity() - buffer.len());
        buffer.extend_from_slice(&ahead[..count]);
        ahead.advance(count);
        let _ = self.receive.borrow_mut().flow_control().release_capacity(count);
        Poll::Ready(Ok(count))
    }

    /// Writes as much of `bytes` as the client's windows let go.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.held.poll_room(cx));
        let mut send = self.send.borrow_mut();
        send.reserve_capacity(bytes.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Err(ErrorKind::BrokenPipe.into())),
            }
        }
        let count = send.capacity().min(bytes.len());
        let piece = self.held.take(Bytes::copy_from_slice(&bytes[..count]));
        let sent = send.send_data(piece, false).map_err(|_| ErrorKind::BrokenPipe.into());
        Poll::Ready(sent.map(|()| count))
    }

    /// Says that nothing more will be written.
    pub(crate) fn end(&self) -> io::Result<()> {
        let end = self.held.take(Bytes::new());
        // It may have been said already.
        let _ = self.send.borrow_mut().send_data(end, true);
        Ok(())
    }
}
