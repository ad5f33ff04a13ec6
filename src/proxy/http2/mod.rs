//! HTTP/2 on the client's side: from a connection to requests for the exchange, and back (RFC 9113).
//!
//! `h2` speaks the protocol: frames, compression, flow control. Here is what it leaves to its user, and what it does not
//! bound: a task for each stream ([`stream`]), strict heads ([`head`]), bodies both ways that wait for whoever is slow
//! ([`incoming`], [`outgoing`]), and a watch over what the client makes us do ([`wire`], [`frames`], [`held`]). Knows
//! nothing of pools, sessions and retries. There are no PINGs to see whether a client is alive: every wait has a deadline.

mod frames;
mod head;
mod held;
mod incoming;
mod outgoing;
mod stream;
mod tunnel;
mod wire;

use std::future::Future as _;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use h2::{Reason, server};

use self::head::CRUMBS_MAX;
use self::held::{Held, Piece};
pub(crate) use self::incoming::Incoming;
pub(crate) use self::stream::Responder;
pub(crate) use self::tunnel::TunnelStream;
use self::wire::{Watch, Wire};
use super::Worker;
use super::deadline::Deadline;
use super::exchange::Peer;
use super::io::Io;
use super::listener::Listening;
use crate::config;
use crate::pool::Http2Fault;

/// What a connection without requests is given to end itself once it was asked to; and to hear why it was ended.
const LAST_GRACE: Duration = Duration::from_secs(1);
/// What a connection that was accepted while its listener closes is given to begin.
const FIRST_GRACE: Duration = Duration::from_millis(250);
/// Requests that may come after a connection was asked to end, because they were on their way.
const LATE: Duration = Duration::from_secs(5);
/// Bytes of an answer that `h2` may have in its queue.
const QUEUE: usize = 128 * 1024;
/// Streams that were taken back before anybody looked at them.
const UNSEEN_RESETS: usize = 100;
/// Bytes that are read from a client that was told why its connection ends, so that it can read it.
const LINGER_BYTES: usize = 1024 * 1024;

/// A connection that is known to speak HTTP/2, or believed to, and what has been read of it.
pub(crate) struct Begun {
    pub(crate) io: Io,
    pub(crate) input: BytesMut,
    pub(crate) peer: Peer,
}

/// What the streams of a connection share.
struct Shared {
    worker: &'static Worker,
    /// What the configuration said of the listener when the connection was accepted.
    listener: Rc<config::Listener>,
    peer: Peer,
    watch: Rc<Watch>,
    held: Rc<Held>,
}

/// One connection of a client, to its end.
pub(crate) async fn serve(
    worker: &'static Worker,
    listening: Rc<Listening>,
    listener: Rc<config::Listener>,
    begun: Begun,
) {
    let io = Rc::new(begun.io);
    let watch = Rc::new(Watch::new(worker));
    let wire = Wire::new(io.clone(), begun.input, watch.clone());
    let deadline = worker.deadlines.register();
    let place = worker.random.unit();
    let end = match shake_hands((&listening, place), &listener, wire, (worker, &deadline)).await {
        Ok(h2) => {
            let _open = Open::count(worker);
            let held = Held::new(listener.http2.max_buffered);
            let shared = Rc::new(Shared { worker, listener, peer: begun.peer, watch, held });
            let mut connection = Connection {
                h2,
                listening,
                shared,
                deadline: &deadline,
                asked: None,
                place,
                phase: Phase::Open,
                waits: Waits::Nothing,
            };
            connection.run().await
        }
        Err(end) => end,
    };
    if let End::Fault(fault) = end {
        worker.lane().http2.faults[fault as usize].bump();
        tracing::debug!(reason = fault.as_str(), "an HTTP/2 connection was ended");
    }
    match end {
        End::Fault(Http2Fault::WriteTimeout) => io.reset_on_close(),
        End::Fault(_) | End::Idle => linger(&io, &deadline).await,
        End::Gone => {}
    }
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The client has closed it, or it broke.
    Gone,
    /// We have closed it in good order.
    Idle,
    /// We have closed it for a reason.
    Fault(Http2Fault),
}

/// Settings both ways.
async fn shake_hands(
    (listening, place): (&Listening, f64),
    listener: &config::Listener,
    wire: Wire,
    (worker, deadline): (&Worker, &Deadline),
) -> Result<server::Connection<Wire, Piece>, End> {
    let bounds = &listener.http2;
    // More than may be, so that what is too large is seen, and answered by us. Each field counts 32 bytes more than it has.
    let list = 2 * (listener.max_head + 32 * (listener.max_fields + CRUMBS_MAX));
    let handshake = server::Builder::new()
        .max_concurrent_streams(bounds.max_concurrent_streams)
        .initial_window_size(bounds.stream_window)
        .initial_connection_window_size(bounds.connection_window)
        .max_frame_size(bounds.max_frame_size)
        .max_header_list_size(list.try_into().unwrap_or(u32::MAX))
        .max_send_buffer_size(QUEUE)
        .max_concurrent_reset_streams(bounds.max_concurrent_streams as usize)
        .max_pending_accept_reset_streams(UNSEEN_RESETS)
        // Counted over the life of a connection: the watch counts over time.
        .max_local_error_reset_streams(None)
        .enable_connect_protocol()
        .data_frame_budget(bounds.connection_window as usize)
        .handshake(wire);
    let mut handshake = pin!(handshake);
    deadline.set(listener.head_timeout);
    let mut leaves = false;
    std::future::poll_fn(|cx| {
        match handshake.as_mut().poll(cx) {
            Poll::Ready(Ok(connection)) => {
                deadline.clear();
                return Poll::Ready(Ok(connection));
            }
            Poll::Ready(Err(error)) if error.is_io() => return Poll::Ready(Err(End::Gone)),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Fault(Http2Fault::Preface))),
            Poll::Pending => {}
        }
        if let Some(leaving) = listening.leaving()
            && !std::mem::replace(&mut leaves, true)
        {
            let wait = leaving.wait(place, worker.deadlines.coarse_ticks());
            deadline.set((wait + leaving.grace()).max(FIRST_GRACE));
        }
        deadline.poll(cx).map(|_| Err(if leaves { End::Gone } else { End::Fault(Http2Fault::Preface) }))
    })
    .await
}

/// A connection after its handshake.
struct Connection<'a> {
    h2: server::Connection<Wire, Piece>,
    listening: Rc<Listening>,
    shared: Rc<Shared>,
    deadline: &'a Deadline,
    /// When the client is to be asked to leave, once the listener is closed.
    asked: Option<Deadline>,
    /// Where among all connections that is, 0.0 to 1.0.
    place: f64,
    phase: Phase,
    waits: Waits,
}

/// Where a connection is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The client was asked not to begin anything more; ticks of the worker since when nothing is begun any more.
    Leaving(u64),
    /// What is left to do is to say why it ends.
    Ending(End),
}

/// What the connection's deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Nothing,
    /// For a request.
    Request,
    /// For the socket to take something.
    Write,
    /// For the end.
    End,
}

impl Connection<'_> {
    async fn run(&mut self) -> End {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            match self.h2.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => self.begin(request, respond),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(self.end_of(false)),
                Poll::Ready(None) => return Poll::Ready(self.end_of(true)),
                Poll::Pending => match self.poll_rest(cx) {
                    Poll::Ready(Some(end)) => return Poll::Ready(end),
                    // h2 was told something.
                    Poll::Ready(None) => {}
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    /// A stream was opened.
    fn begin(&mut self, request: http::Request<h2::RecvStream>, mut respond: server::SendResponse<Piece>) {
        match self.phase {
            Phase::Ending(_) => {}
            Phase::Leaving(since) if self.ticks() >= since => respond.send_reset(Reason::REFUSED_STREAM),
            Phase::Open | Phase::Leaving(_) => {
                tokio::task::spawn_local(stream::serve(self.shared.clone(), request, respond));
            }
        }
    }

    /// Looks at everything else there is: ready with the end, or with `None` when h2 has something to do.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<Option<End>> {
        if !matches!(self.phase, Phase::Ending(_)) {
            if let Poll::Ready(fault) = self.shared.watch.poll_fault(cx) {
                self.end(Reason::ENHANCE_YOUR_CALM, End::Fault(fault));
                return Poll::Ready(None);
            }
            if self.phase == Phase::Open && self.poll_asked(cx).is_ready() {
                self.leave();
                return Poll::Ready(None);
            }
        }
        self.set_deadline();
        if self.deadline.poll(cx).is_pending() {
            return Poll::Pending;
        }
        match (self.waits, self.phase) {
            (_, Phase::Ending(end)) => Poll::Ready(Some(end)),
            (Waits::Write, _) => Poll::Ready(Some(End::Fault(Http2Fault::WriteTimeout))),
            (_, Phase::Open) => {
                self.leave();
                Poll::Ready(None)
            }
            (_, Phase::Leaving(_)) => {
                self.end(Reason::NO_ERROR, End::Idle);
                Poll::Ready(None)
            }
        }
    }

    /// Ready when the listener is closed and it is this connection's turn to leave.
    fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(leaving) = self.listening.leaving() else { return Poll::Pending };
        let wait = leaving.wait(self.place, self.ticks());
        if wait.is_zero() {
            return Poll::Ready(());
        }
        let deadlines = &self.shared.worker.deadlines;
        let asked = self.asked.get_or_insert_with(|| deadlines.register());
        if !asked.is_set() {
            asked.set(wait);
        }
        asked.poll(cx).map(|_| ())
    }

    /// The deadline follows what is waited for just now.
    fn set_deadline(&mut self) {
        let watch = &self.shared.watch;
        let (now, lasts) = match self.phase {
            Phase::Ending(_) => (Waits::End, LAST_GRACE),
            _ if watch.is_blocked() => (Waits::Write, self.shared.listener.idle),
            _ if self.h2.has_streams() => (Waits::Nothing, Duration::ZERO),
            Phase::Leaving(_) => (Waits::End, LAST_GRACE),
            Phase::Open => (Waits::Request, self.shared.listener.keep_alive),
        };
        let moved = watch.take_progress() && now == Waits::Write;
        if now == self.waits && !moved {
            return;
        }
        self.waits = now;
        match now {
            Waits::Nothing => self.deadline.clear(),
            Waits::Request => self.deadline.set_idle(lasts),
            _ => self.deadline.set(lasts),
        }
    }

    /// Asks the client to begin nothing more; what is on its way is still served.
    fn leave(&mut self) {
        self.h2.graceful_shutdown();
        self.phase = Phase::Leaving(self.ticks() + super::deadline::Deadlines::ticks_of(LATE));
    }

    /// Ends the connection and all that is under way on it.
    fn end(&mut self, reason: Reason, end: End) {
        self.h2.abrupt_shutdown(reason);
        self.phase = Phase::Ending(end);
    }

    /// h2 has nothing more to do. `in_order` if nothing went wrong.
    fn end_of(&self, in_order: bool) -> End {
        match (self.phase, self.shared.watch.ended()) {
            (Phase::Ending(end), _) => end,
            (_, Some(fault)) => End::Fault(fault),
            (Phase::Leaving(_), None) if in_order => End::Idle,
            _ => End::Gone,
        }
    }

    fn ticks(&self) -> u64 {
        self.shared.worker.deadlines.coarse_ticks()
    }
}

/// Lets the client read what was written last: closing a socket with unread input would take it back.
async fn linger(io: &Io, deadline: &Deadline) {
    let mut scrap = BytesMut::new();
    let mut read = 0;
    let lingering = std::future::poll_fn(|cx| {
        std::task::ready!(io.poll_shutdown(cx)).ok();
        loop {
            scrap.clear();
            scrap.reserve(8 * 1024);
            match io.poll_read(cx, &mut scrap) {
                Poll::Ready(Ok(count)) if count > 0 && read < LINGER_BYTES => read += count,
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    });
    let _ = deadline.limit(LAST_GRACE, lingering).await;
}

/// Counts a connection as open.
struct Open(&'static Worker);

impl Open {
    fn count(worker: &'static Worker) -> Self {
        worker.lane().http2.connections.bump();
        worker.lane().http2.open.bump();
        Self(worker)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lane().http2.open.drop_one();
    }
}
