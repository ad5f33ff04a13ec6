//! HTTP/1 on the client's side: from an accepted connection to requests for the exchange, and back.
//!
//! One loop per connection: read a head strictly, hand it to [`exchange`](super::exchange::exchange), write the answer
//! as it comes. Pipelined requests are answered in order. Knows framing, keep-alive and deadlines of the client; knows
//! nothing of pools, sessions and retries.

mod client;
pub(crate) mod encode;
pub(crate) mod framing;
pub(crate) mod head;
mod hop;
mod lines;
pub(crate) mod names;
pub(crate) mod outgoing;
pub(crate) mod target;

use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Method, StatusCode};

pub(crate) use client::Client;
use client::NoRequest;
use encode::After;
use framing::Framing;
use outgoing::Outgoing;

use super::body::{Answer, Body, Cut, RequestBody};
use super::deadline::Deadline;
use super::error::{ProxyError, Reader};
use super::exchange::{self, Peer};
use super::fields::Fields;
use super::http2::Begun;
use super::inform::Inform;
use super::io::Io;
use super::listener::Listening;
use super::upgrade::Side;
use super::{Worker, upgrade};
use crate::config;
use crate::pool::Refusal;

/// Unread rest of a request's body that is read and thrown away to keep the connection; more closes it.
const DRAIN_MAX: usize = 64 * 1024;

/// One connection of a client, to its end. With `sniff` it may begin as HTTP/2 does: then it is given back at once.
pub(crate) async fn serve(
    worker: &'static Worker,
    listening: Rc<Listening>,
    listener: Rc<config::Listener>,
    io: Io,
    peer: Peer,
    sniff: bool,
) -> Option<Begun> {
    let client = Rc::new(Client::new(io, worker.deadlines.register(), &listener, sniff));
    let mut connection = Connection {
        worker,
        listening,
        listener,
        client,
        peer,
        writing: worker.deadlines.register(),
        outgoing: Outgoing::default(),
        place: worker.random.unit(),
    };
    connection.run().await;
    let Connection { client, peer, .. } = connection;
    let client = Rc::into_inner(client)?;
    let input = client.into_http2()?;
    Some(Begun { io: input.0, input: input.1, peer })
}

struct Connection {
    worker: &'static Worker,
    listening: Rc<Listening>,
    /// What the configuration said of the listener when the connection was accepted.
    listener: Rc<config::Listener>,
    client: Rc<Client>,
    peer: Peer,
    writing: Deadline,
    outgoing: Outgoing,
    /// Where among all connections it leaves when the listener closes, 0.0 to 1.0.
    place: f64,
}

/// Whether the connection goes on after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Request,
    /// An orderly end: what was written arrives.
    Close,
    /// The answer was cut short, or the client has left: no orderly end, so that nothing looks complete.
    Abort,
}

impl Connection {
    async fn run(&mut self) {
        let mut first = true;
        loop {
            let request = self
                .client
                .next_request((&self.listening, self.place), &self.listener, first, self.worker)
                .await;
            let next = match request {
                Ok(request) => {
                    self.worker.lane().requests.bump();
                    self.one_request(request).await
                }
                Err(NoRequest::Http2) => return,
                Err(NoRequest::Over) => {
                    self.client.io.say_goodbye();
                    Next::Abort
                }
                Err(NoRequest::Refused(refusal)) => {
                    self.worker.lane().requests.bump();
                    self.refuse(refusal).await
                }
            };
            match next {
                Next::Request => first = false,
                Next::Close => return self.close().await,
                Next::Abort => return,
            }
        }
    }

    /// From a request's head to the last byte of its answer.
    async fn one_request(&mut self, request: head::Request) -> Next {
        let head::Request { head, framing, http10, keep_alive } = request;
        let is_head = head.method == Method::HEAD;
        let body = if framing == Framing::None {
            RequestBody::None
        } else {
            RequestBody::Http1(self.client.clone())
        };
        let answer = {
            let (client, writing) = (&self.client, &self.writing);
            let informer = Informer { client, writing, enabled: !http10, idle: self.listener.idle };
            let inform = Inform::Http1(informer);
            let mut exchange = pin!(exchange::exchange(self.worker, &self.peer, &inform, head, body));
            std::future::poll_fn(|cx| match exchange.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => client.poll_gone(cx).map(|()| None),
            })
            .await
        };
        // The client has left: dropping the exchange has cancelled the attempt.
        let Some(Some(answer)) = answer else { return Next::Abort };
        let keep_alive = keep_alive && !self.is_leaving();
        self.answer(answer, Request { is_head, http10, keep_alive }).await
    }

    /// Whether the client is to leave now, with an answer that says so.
    fn is_leaving(&self) -> bool {
        let now = || self.worker.deadlines.coarse_ticks();
        self.listening.leaving().is_some_and(|leaving| leaving.wait(self.place, now()).is_zero())
    }

    async fn refuse(&mut self, refusal: Refusal) -> Next {
        let answer = exchange::refuse(self.worker, &self.peer, refusal, &Reader::default());
        match self.answer(answer, Request { is_head: false, http10: false, keep_alive: false }).await {
            Next::Abort => Next::Abort,
            _ => Next::Close,
        }
    }

    /// Writes an answer while its body arrives.
    async fn answer(&mut self, mut answer: Answer, request: Request) -> Next {
        self.outgoing = self.client.take_continuing();
        if let Body::Tunnel(target) = answer.body {
            let after = After::Upgrade(&target.protocol);
            encode::answer(self.outgoing.buffer(), answer.status, &answer.headers, Framing::None, after);
            self.worker.keep_fields(std::mem::take(&mut answer.headers));
            let tunnel = upgrade::Tunnel {
                client: Side::Socket(&self.client.io),
                input: self.client.take_input(),
                outgoing: std::mem::take(&mut self.outgoing),
                target,
                worker: self.worker,
            };
            let carried = tunnel.run().await;
            if let Some(record) = &mut answer.record {
                record.tunnelled(carried);
            }
            return Next::Abort;
        }
        let framing = match answer.body.framing() {
            Framing::Chunked | Framing::Close if request.http10 => Framing::Close,
            Framing::Close => Framing::Chunked,
            framing => framing,
        };
        // An answer that comes before the request was read whole ends the connection unless the rest is small.
        let unread = !self.client.body_is_done();
        let keep_alive = request.keep_alive
            && framing != Framing::Close
            && !self.client.is_expecting()
            && !self.client.is_broken()
            && !matches!(self.client.body_framing(), Framing::Length(length) if unread && length > DRAIN_MAX as u64);
        let after = match (keep_alive, request.http10) {
            (true, false) => After::KeepAlive,
            (true, true) => After::SayKeepAlive,
            (false, _) => After::Close,
        };
        // Restated by framing; a HEAD or 304 keeps the field, because there is no body to restate it.
        encode::answer(self.outgoing.buffer(), answer.status, &answer.headers, framing, after);
        self.worker.keep_fields(std::mem::take(&mut answer.headers));
        if request.is_head {
            answer.body = Body::Empty;
        }
        let mut sent = 0;
        let written = self.write_body(&mut answer.body, framing, &mut sent).await;
        if let Some(record) = &mut answer.record {
            record.ended(self.client.body_read(), sent, written.err());
        }
        drop(answer);
        if written.is_err() {
            self.client.io.reset_on_close();
            return Next::Abort;
        }
        if keep_alive && self.drain().await { Next::Request } else { Next::Close }
    }

    /// Writes what is pending and then the body, frame by frame; `sent` counts its bytes.
    async fn write_body(&mut self, body: &mut Body, framing: Framing, sent: &mut u64) -> Result<(), Cut> {
        let Self { client, outgoing, writing, listener, .. } = self;
        let chunked = framing == Framing::Chunked;
        let (mut ended, mut cut) = (false, false);
        std::future::poll_fn(|cx| {
            loop {
                let mut waits = false;
                // Frames that are there already travel with the head.
                while !ended && outgoing.takes_more() {
                    match body.poll_frame(cx) {
                        Poll::Ready(Some(Ok(frame))) => {
                            *sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                            ended = push_frame(outgoing, frame, chunked);
                        }
                        Poll::Ready(None) => {
                            ended = true;
                            if chunked {
                                encode::last_chunk(outgoing.buffer(), None);
                            }
                        }
                        // What has come is still the client's.
                        Poll::Ready(Some(Err(_))) => (ended, cut) = (true, true),
                        Poll::Pending => {
                            waits = true;
                            break;
                        }
                    }
                }
                match outgoing.poll_flush(cx, &client.io) {
                    Poll::Ready(Ok(())) => writing.clear(),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Cut::Gone)),
                    Poll::Pending => {
                        body.poll_upload(cx);
                        return poll_slow_reader(cx, outgoing, writing, listener.idle);
                    }
                }
                if ended {
                    return Poll::Ready(if cut { Err(Cut::Target) } else { Ok(()) });
                }
                if waits {
                    return client.poll_gone(cx).map(|()| Err(Cut::Gone));
                }
            }
        })
        .await
    }

    /// Reads the rest of a request's body that nobody wanted; whether the next request can be read after it.
    async fn drain(&mut self) -> bool {
        let mut read = 0;
        while !self.client.body_is_done() {
            match std::future::poll_fn(|cx| self.client.poll_body(cx)).await {
                Some(Ok(frame)) => read += frame.data_ref().map_or(0, bytes::Bytes::len),
                None => return true,
                Some(Err(_)) => return false,
            }
            if read > DRAIN_MAX {
                return false;
            }
        }
        true
    }

    /// Ends the connection so that the client can read what was written last: closing a socket with unread input
    /// would reset it.
    async fn close(&mut self) {
        let linger = std::time::Duration::from_secs(2);
        let io = &self.client.io;
        let mut rest = self.client.take_input();
        let mut discarded = 0;
        let lingering = std::future::poll_fn(|cx| {
            if io.poll_shutdown(cx).is_pending() {
                return Poll::Pending;
            }
            loop {
                rest.clear();
                rest.reserve(8 * 1024);
                match io.poll_read(cx, &mut rest) {
                    Poll::Ready(Ok(count)) if count > 0 && discarded < 16 * DRAIN_MAX => discarded += count,
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let _ = self.writing.limit(linger, lingering).await;
    }
}

/// What of a request matters to its answer.
struct Request {
    is_head: bool,
    http10: bool,
    keep_alive: bool,
}

/// Adds a frame; whether it was the last.
fn push_frame(outgoing: &mut Outgoing, frame: http_body::Frame<bytes::Bytes>, chunked: bool) -> bool {
    match frame.into_data() {
        Ok(data) if chunked => outgoing.push_chunk(data),
        Ok(data) => outgoing.push(data),
        Err(frame) => {
            if chunked {
                encode::last_chunk(outgoing.buffer(), frame.trailers_ref());
            }
            return true;
        }
    }
    false
}

/// The client does not read: it has `idle` from the last byte that it took.
fn poll_slow_reader(
    cx: &mut Context<'_>,
    outgoing: &mut Outgoing,
    writing: &Deadline,
    idle: std::time::Duration,
) -> Poll<Result<(), Cut>> {
    if outgoing.take_progress() || !writing.is_set() {
        writing.set(idle);
    }
    writing.poll(cx).map(|_| Err(Cut::Stalled))
}

/// The way for 1xx answers to reach the client before the exchange is over.
pub(crate) struct Informer<'a> {
    client: &'a Rc<Client>,
    writing: &'a Deadline,
    enabled: bool,
    idle: std::time::Duration,
}

impl Informer<'_> {
    /// Passes a 1xx on; never to HTTP/1.0, which does not know them.
    pub(crate) async fn send(&self, status: StatusCode, headers: &Fields) -> Result<(), ProxyError> {
        if !self.enabled {
            return Ok(());
        }
        let mut outgoing = self.client.take_continuing();
        encode::answer(outgoing.buffer(), status, headers, Framing::None, After::KeepAlive);
        let flush = std::future::poll_fn(|cx| outgoing.poll_flush(cx, &self.client.io));
        match self.writing.limit(self.idle, flush).await {
            Ok(Ok(())) => Ok(()),
            _ => {
                self.client.set_broken();
                Err(ProxyError::client_gone())
            }
        }
    }
}
