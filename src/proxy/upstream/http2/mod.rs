//! Connections to a target that speaks HTTP/2, each shared by many requests.
//!
//! Not obvious: a request waits until a connection is open or a stream is free, for at most `timeouts.connect`, so that a burst
//! out of nothing opens one connection and not hundreds; another one is opened when all are full. A connection that the
//! target does not want to be used any more (GOAWAY), or that has gone silent under a request, is *retired*: what is under
//! way on it ends there, and nothing new begins. What one request does on its stream is in `stream`.

mod head;
mod stream;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;

use super::{Opened, Terms, Upstream, Way};
use crate::config::{self, TargetProtocol};
use crate::pool::Failure;
use crate::proxy::Worker;
use crate::proxy::deadline::Deadline;
use crate::proxy::io::{H2Io, Io, Traffic};
use crate::proxy::tcp_info::bytes_acked;
pub(crate) use stream::AnswerBody;
pub(super) use stream::{Stream, receive};

/// Requests under way on one connection, if the target allows as many.
const STREAMS_MAX: usize = 128;
/// The same before the target has said how many.
const UNTOLD: usize = 0;
/// Connections to one target from one worker.
const CONNECTIONS_MAX: usize = 16;
/// Bytes of an answer that a target may send before the client has taken any.
const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for a connection: slow clients do not hold up the others that share it.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * STREAMS_MAX as u32;
/// What may be held of frames beside their bytes: many small messages for slow clients are no attack.
const FRAME_BUDGET: usize = 2 * CONNECTION_WINDOW as usize;
/// Bytes of a request that wait for the socket. More come from the client when these have gone.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of an answer's head, as HTTP/2 counts them.
const HEAD_MAX: u32 = 64 * 1024;
/// How long a connection that is done may take to say so.
const CLOSING: Duration = Duration::from_secs(2);

/// This worker's connections to one target.
#[derive(Default)]
pub(super) struct Connections {
    open: RefCell<Vec<Rc<Connection>>>,
    opening: Cell<bool>,
    /// The target chose HTTP/1.1 when it was asked last.
    declined: Cell<bool>,
    /// A stream is free, or a connection is open or could not be opened.
    changed: Notify,
}

/// One connection. It is closed when nobody refers to it any more.
pub(super) struct Connection {
    requests: RefCell<SendRequest<Bytes>>,
    io: Rc<Io>,
    traffic: Rc<Traffic>,
    /// Requests under way.
    streams: Cell<usize>,
    /// Nothing new begins here.
    retired: Cell<bool>,
    /// When its last request ended.
    idle_since: Cell<u64>,
    terms: Terms,
    /// Set when it is to be closed.
    closing: Rc<Deadline>,
}

impl Connection {
    /// Begins to speak HTTP/2 on an open socket.
    async fn begin(io: Io, worker: &Worker, terms: Terms) -> io::Result<Rc<Self>> {
        let io = Rc::new(io);
        let wire = H2Io::new(io.clone());
        let traffic = wire.traffic();
        let mut builder = Builder::new();
        builder
            .enable_push(false)
            .initial_max_send_streams(UNTOLD)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .data_frame_budget(FRAME_BUDGET)
            .max_send_buffer_size(SEND_BUFFER)
            .max_header_list_size(HEAD_MAX);
        let (requests, driving) = builder.handshake::<_, Bytes>(wire).await.map_err(io::Error::other)?;
        let closing = Rc::new(worker.deadlines.register());
        let (tell, told) = oneshot::channel();
        spawn_local(drive(driving, closing.clone(), tell));
        let connection = Rc::new(Self {
            requests: RefCell::new(requests),
            io,
            traffic,
            streams: Cell::new(0),
            retired: Cell::new(false),
            idle_since: Cell::new(0),
            terms,
            closing,
        });
        // The target's first word says how many requests it takes at a time.
        match told.await {
            Ok(Err(error)) => Err(io::Error::other(format!("it does not speak HTTP/2: {error}"))),
            _ => Ok(connection),
        }
    }

    /// Whether it has not ended, and the target has not asked to use another.
    fn is_usable(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        !self.retired.get() && matches!(self.requests.borrow_mut().poll_ready(cx), Poll::Ready(Ok(())))
    }

    fn has_room(&self) -> bool {
        self.streams.get() < self.requests.borrow().current_max_send_streams().min(STREAMS_MAX)
    }

    /// Bytes that the wire has taken.
    fn written(&self) -> u64 {
        self.io.wire_bytes().unwrap_or(self.traffic.written.get())
    }

    /// See [`super::Connection::nothing_arrived`]; here for what was sent when the wire had taken `written` bytes.
    fn nothing_arrived_after(&self, written: u64) -> bool {
        self.traffic.ended.get() && self.io.with_socket(bytes_acked).is_some_and(|acked| acked <= written + 1)
    }
}

/// Moves a connection's frames until it is over, or `closing` comes due. `tell` hears of the target's settings.
async fn drive(
    driving: h2::client::Connection<H2Io, Bytes>,
    closing: Rc<Deadline>,
    tell: oneshot::Sender<Result<(), h2::Error>>,
) {
    let (mut driving, mut tell) = (pin!(driving), Some(tell));
    std::future::poll_fn(|cx| {
        let over = driving.as_mut().poll(cx);
        let is_over = over.is_ready();
        if (is_over || driving.max_concurrent_send_streams() != UNTOLD)
            && let Some(tell) = tell.take()
        {
            // Ends that come later are told to every request under way.
            let _ = tell.send(match over {
                Poll::Ready(ended) => ended,
                Poll::Pending => Ok(()),
            });
        }
        if is_over { Poll::Ready(()) } else { closing.poll(cx).map(|_| ()) }
    })
    .await;
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.closing.set(CLOSING);
    }
}

/// The right to one stream of a connection, from the pick of the connection to the last byte of the answer.
pub(super) struct Place {
    connection: Rc<Connection>,
    upstream: Rc<Upstream>,
    worker: &'static Worker,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (connection, upstream) = (&self.connection, &self.upstream);
        connection.streams.update(|streams| streams - 1);
        if connection.streams.get() == 0 {
            connection.idle_since.set(self.worker.deadlines.coarse_ticks());
            upstream.http2.rest(connection, upstream.terms.get());
        }
        upstream.http2.changed.notify_one();
    }
}

/// Somebody opens a connection; the others wait for it.
struct Opening<'a>(&'a Connections);

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.changed.notify_waiters();
    }
}

impl Connections {
    /// A connection with room for one more request.
    fn with_room(&self) -> Option<Rc<Connection>> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| connection.is_usable());
        open.iter().find(|connection| connection.has_room()).cloned()
    }

    fn may_open(&self) -> bool {
        self.declined.get() || (!self.opening.get() && self.open.borrow().len() < CONNECTIONS_MAX)
    }

    /// The last request on `connection` has ended.
    fn rest(&self, connection: &Rc<Connection>, terms: Terms) {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().filter(|connection| connection.streams.get() == 0).count();
        if idle > terms.keep_alive.connections || connection.terms.is_other_wire(&terms) {
            open.retain(|other| !Rc::ptr_eq(other, connection));
        }
    }

    /// Closes connections that have been idle for `oldest` ticks, or have ended.
    pub(super) fn sweep(&self, now_ticks: u64, oldest: u64) {
        self.open.borrow_mut().retain(|connection| {
            let idle = connection.streams.get() == 0;
            let too_long = idle && now_ticks.saturating_sub(connection.idle_since.get()) >= oldest;
            connection.is_usable() && !too_long
        });
    }

    /// Closes connections: idle ones now, the others when they become idle.
    pub(super) fn close(&self) {
        self.open.borrow_mut().clear();
    }
}

impl Upstream {
    /// A place on a connection, opened if need be; or a connection with HTTP/1.1, if the target chose that.
    pub(super) async fn place(
        self: &Rc<Self>,
        worker: &'static Worker,
        pool: &config::Pool,
    ) -> Result<Way, (Failure, io::Error)> {
        if let Some(way) = self.open_place(worker, pool) {
            return Ok(way);
        }
        // Boxed: what it takes to open a connection would be part of every client's connection, open or not.
        let opening = Box::pin(self.await_place(worker, pool));
        let deadline = worker.deadlines.register();
        match deadline.limit(pool.timeouts.connect, opening).await {
            Ok(found) => found,
            Err(_) => Err((Failure::ConnectTimeout, io::ErrorKind::TimedOut.into())),
        }
    }

    /// A place on a connection that is open.
    fn open_place(self: &Rc<Self>, worker: &'static Worker, pool: &config::Pool) -> Option<Way> {
        if let Some(connection) = self.http2.with_room() {
            return Some(self.place_on(connection, worker));
        }
        let http1 = (pool.protocol == TargetProtocol::Auto)
            .then(|| self.reuse(worker.deadlines.coarse_ticks(), None));
        http1.flatten().map(Way::Http1)
    }

    fn place_on(self: &Rc<Self>, connection: Rc<Connection>, worker: &'static Worker) -> Way {
        connection.streams.update(|streams| streams + 1);
        Way::Http2(Place { connection, upstream: self.clone(), worker })
    }

    async fn await_place(
        self: &Rc<Self>,
        worker: &'static Worker,
        pool: &config::Pool,
    ) -> Result<Way, (Failure, io::Error)> {
        let all = &self.http2;
        while !all.may_open() {
            all.changed.notified().await;
            if let Some(way) = self.open_place(worker, pool) {
                return Ok(way);
            }
        }
        all.opening.set(true);
        let _opening = Opening(all);
        let opened = self.connect(worker, pool, pool.protocol, None).await?;
        all.declined.set(matches!(opened, Opened::Http1(_)));
        match opened {
            Opened::Http1(connection) => Ok(Way::Http1(connection)),
            Opened::Http2(io) => {
                let begun = Connection::begin(io, worker, Terms::of(pool)).await;
                let connection = begun.map_err(|error| (Failure::Protocol, error))?;
                all.open.borrow_mut().push(connection.clone());
                Ok(self.place_on(connection, worker))
            }
        }
    }
}
