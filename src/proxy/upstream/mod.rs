//! One attempt: a request to one target, and its answer.
//!
//! Each worker keeps its own idle connections to each target, the one used last on top, so that the others can age.
//! Nothing here chooses a target or decides about a retry: an attempt ends with an answer or with a [`Failure`] and whether
//! any byte of the request may have been processed.

mod attempt;
mod connection;
mod http2;
mod upload;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use http_body::Frame;
use rustls::ClientConnection;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Worker;
use super::http1::framing::Framing;
use super::io::Io;
use super::proxy_protocol::Ends;
use super::tls::TlsStream;
use super::tunnels::Window;
use super::worker::PoolWorker;
use crate::config::tls::UpstreamTls;
use crate::config::{self, TargetProtocol};
use crate::pool::{Failure, Leave, Pool, TargetLane, TargetState, room};
pub(crate) use attempt::{Attempt, AttemptError, send};
pub(crate) use connection::Connection;
pub(crate) use upload::Upload;

/// What a pool's configuration says of idle connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) keep_alive: config::UpstreamKeepAlive,
    /// Digest of the TLS that they have; 0 for none.
    pub(crate) tls: u64,
    pub(crate) protocol: TargetProtocol,
    /// Whether they began with a PROXY header.
    pub(crate) announced: bool,
    /// How long tunnels stay at a target that vanishes without having drained.
    drain: Duration,
}

impl Terms {
    pub(crate) fn of(pool: &config::Pool) -> Self {
        let tls = pool.tls.as_ref().map_or(0, |tls| tls.digest);
        Self {
            keep_alive: pool.keep_alive,
            tls,
            protocol: pool.protocol,
            announced: pool.proxy_protocol,
            drain: pool.drain.deadline,
        }
    }

    /// Whether connections made on these terms are of no use on the `other` ones.
    fn is_other_wire(&self, other: &Self) -> bool {
        (self.tls, self.protocol, self.announced) != (other.tls, other.protocol, other.announced)
    }
}

/// An open connection on which nothing has been said.
enum Opened {
    Http1(Box<Connection>),
    Http2(Io),
}

/// A connection for one request.
enum Way {
    Http1(Box<Connection>),
    Http2(http2::Place),
}

/// The body of an answer, still arriving.
pub(crate) enum AnswerBody {
    Http1(connection::AnswerBody),
    Http2(http2::AnswerBody),
}

impl AnswerBody {
    pub(crate) fn framing(&self) -> Framing {
        match self {
            Self::Http1(body) => body.framing(),
            Self::Http2(body) => body.framing(),
        }
    }

    /// The next part; `None` at the end.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Self::Http1(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    /// Goes on sending the rest of the request.
    pub(crate) fn poll_upload(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Http1(body) => body.poll_upload(cx),
            Self::Http2(body) => body.poll_upload(cx),
        }
    }
}

/// One target as one worker sees it.
pub(crate) struct Upstream {
    pub(crate) state: Arc<TargetState>,
    worker: usize,
    terms: Cell<Terms>,
    leave: Cell<Leave>,
    /// When its tunnels are told that they have to leave.
    window: Cell<Option<Window>>,
    /// Boxed: they are moved with every request.
    idle: RefCell<VecDeque<Box<Connection>>>,
    http2: http2::Connections,
}

impl Upstream {
    pub(crate) fn new(state: Arc<TargetState>, worker: usize, terms: Terms) -> Self {
        let (terms, leave, window) = (Cell::new(terms), Cell::new(Leave::No), Cell::new(None));
        let (idle, http2) = (RefCell::default(), http2::Connections::default());
        Self { state, worker, terms, leave, window, idle, http2 }
    }

    /// Until when its tunnels may stay, as of `now`. Whether that is news.
    pub(crate) fn set_leave(&self, leave: Leave, now: Instant) -> bool {
        let news = self.leave.replace(leave) != leave;
        if news {
            self.window.set(Window::of(leave, now));
        }
        news
    }

    /// It is no longer in the pool: its connections end, and its tunnels as in a drain. Whether these have to be told.
    pub(crate) fn vanish(&self, now: Instant) -> bool {
        self.close_idle();
        let end = now + self.terms.get().drain;
        self.leave.get() == Leave::No && self.set_leave(Leave::By { since: now, end }, now)
    }

    /// When its tunnels are told that they have to leave, if they have to.
    pub(crate) fn window(&self) -> Option<Window> {
        self.window.get()
    }

    /// This worker's counters of the target.
    pub(crate) fn lane(&self) -> &TargetLane {
        self.state.lanes.of(self.worker)
    }

    /// An idle connection that is still open and may serve `owner`, the one used last.
    fn reuse(&self, now_ticks: u64, owner: Option<&Rc<Ends>>) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        for at in (0..idle.len()).rev() {
            if idle[at].usable_from > now_ticks || !idle[at].serves(owner) {
                continue;
            }
            // One that has closed is useless; one that speaks unasked would answer a stranger's request.
            let connection = idle.remove(at)?;
            if connection.io.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection for the next request.
    fn keep(&self, mut connection: Box<Connection>, now_ticks: u64, pause_ticks: u64) {
        let (mut idle, terms) = (self.idle.borrow_mut(), self.terms.get());
        let fits = connection.tls == terms.tls
            && terms.protocol != TargetProtocol::H2
            && connection.is_owned() == terms.announced;
        let full = idle.len() >= terms.keep_alive.connections;
        if full && fits && terms.announced
            // Whose client was here last may come again; the oldest is of use to nobody else either.
            && let Some(oldest) = idle.pop_front()
        {
            oldest.io.say_goodbye();
        }
        if fits && idle.len() < terms.keep_alive.connections {
            connection.rest(now_ticks, pause_ticks);
            idle.push_back(connection);
        } else {
            connection.io.say_goodbye();
        }
    }

    /// Closes connections that have been idle too long, that the target has closed, or whose client has left.
    pub(crate) fn sweep(&self, now_ticks: u64) {
        let oldest = super::deadline::Deadlines::ticks_of(self.terms.get().keep_alive.timeout);
        self.http2.sweep(now_ticks, oldest);
        self.idle.borrow_mut().retain(|connection| {
            let young = now_ticks.saturating_sub(connection.idle_since) < oldest;
            let stays = young && !connection.is_abandoned() && connection.io.is_quiet();
            if !stays {
                connection.io.say_goodbye();
            }
            stays
        });
    }

    /// The target has answered a request, on a connection that was begun at `connected` if no other request is on it.
    fn heard(&self, pool: &Pool, status: StatusCode, now: Instant, connected: Option<Instant>) {
        self.state.answered();
        pool.queue.hesitating.wake_one();
        let conduct = &self.state.conduct;
        if let Some(connected) = connected {
            conduct.prove(connected);
        }
        if !status.is_server_error() {
            conduct.succeed(now);
        } else if conduct.answer_badly(now) {
            pool.alarm.notify_one();
        }
    }

    /// An attempt that began at `sent`, on a connection that was begun at `connected`, has ended without an answer.
    fn failed(&self, pool: &Pool, failure: Failure, sent: Instant, connected: Instant) {
        let suspended = match failure {
            Failure::FirstByteTimeout => self.state.conduct.time_out(sent),
            _ => self.state.conduct.break_off(failure, connected),
        };
        if suspended {
            pool.alarm.notify_one();
        }
    }

    /// Keeps idle connections on these terms from now on.
    pub(crate) fn set_terms(&self, terms: Terms) {
        if self.terms.replace(terms).is_other_wire(&terms) {
            self.close_idle();
        }
    }

    /// Closes all idle connections, and those that are shared when they become idle.
    /// How many of the first kind these were.
    pub(crate) fn close_idle(&self) -> usize {
        self.http2.close();
        let idle = self.idle.take();
        idle.iter().for_each(|connection| connection.io.say_goodbye());
        idle.len()
    }

    /// A connection for one request: one that is open already, if there is one.
    async fn obtain(
        self: &Rc<Self>,
        worker: &'static Worker,
        pool: &config::Pool,
        websocket: bool,
        owner: Option<&Rc<Ends>>,
    ) -> Result<Way, (Failure, io::Error)> {
        let http1 = match pool.protocol {
            TargetProtocol::Http1 => true,
            TargetProtocol::H2 => false,
            TargetProtocol::Auto => websocket,
        };
        if !http1 {
            return self.place(worker, pool).await;
        }
        if let Some(connection) = self.reuse(worker.deadlines.coarse_ticks(), owner) {
            return Ok(Way::Http1(connection));
        }
        match self.connect(worker, pool, TargetProtocol::Http1, owner).await? {
            Opened::Http1(connection) => Ok(Way::Http1(connection)),
            Opened::Http2(_) => Err((Failure::Tls, io::Error::other(OTHER_PROTOCOL))),
        }
    }

    /// Opens a connection for this protocol; with an `owner` it begins with a PROXY header, and is that client's alone.
    async fn connect(
        &self,
        worker: &Worker,
        pool: &config::Pool,
        protocol: TargetProtocol,
        owner: Option<&Rc<Ends>>,
    ) -> Result<Opened, (Failure, io::Error)> {
        self.lane().connects.bump();
        let deadline = worker.deadlines.register();
        let header = owner.map(|owner| owner.encode()).unwrap_or_default();
        let opening = async {
            let connect = |error| (Failure::Connect, error);
            let mut tcp = self.connect_tcp(worker).await.map_err(connect)?;
            // A socket that refuses the option is slower, not wrong.
            let _ = tcp.set_nodelay(true);
            if !header.is_empty() {
                tcp.write_all(&header).await.map_err(connect)?;
            }
            match &pool.tls {
                None => Ok((Io::new(tcp), protocol == TargetProtocol::H2)),
                Some(tls) => {
                    self.shake_hands(tls, tcp, protocol).await.map_err(|error| (Failure::Tls, error))
                }
            }
        };
        let opened = deadline.limit(pool.timeouts.connect, opening).await;
        let (io, http2) = opened.map_err(|_| (Failure::ConnectTimeout, io::ErrorKind::TimedOut.into()))??;
        if http2 {
            return Ok(Opened::Http2(io));
        }
        let connection = Connection::new(io, deadline, Terms::of(pool).tls);
        Ok(Opened::Http1(Box::new(match owner {
            Some(owner) => connection.owned_by(owner, header.len()),
            None => connection,
        })))
    }

    /// A connection. While there is no room for one, others give way, for a moment.
    async fn connect_tcp(&self, worker: &Worker) -> io::Result<TcpStream> {
        for _ in 0..ROOM_TRIES {
            match TcpStream::connect(self.state.address).await {
                Err(error) if room::is_want_of_room(&error) => worker.make_room_for_target(),
                connected => return connected,
            }
            tokio::time::sleep(ROOM_PAUSE).await;
        }
        TcpStream::connect(self.state.address).await
    }

    /// TLS on `tcp`, and whether HTTP/2 was agreed on.
    async fn shake_hands(
        &self,
        tls: &UpstreamTls,
        tcp: TcpStream,
        protocol: TargetProtocol,
    ) -> io::Result<(Io, bool)> {
        let client = if protocol == TargetProtocol::Http1 { &tls.http1 } else { &tls.client };
        let session = ClientConnection::new(client.clone(), tls.name_of(self.state.address));
        let mut stream = TlsStream::new(tcp, session.map_err(io::Error::other)?.into());
        poll_fn(|cx| stream.poll_handshake(cx)).await?;
        let http2 = stream.session().alpn_protocol() == Some(b"h2");
        if protocol == TargetProtocol::H2 && !http2 {
            return Err(io::Error::other(OTHER_PROTOCOL));
        }
        Ok((Io::encrypted(stream), http2))
    }
}

/// How often, and after what pause, room is made for a connection to a target.
const ROOM_TRIES: u32 = 10;
const ROOM_PAUSE: Duration = Duration::from_millis(20);

const OTHER_PROTOCOL: &str = "the target did not agree on the pool's protocol (ALPN)";

/// A request counted at its target, from the pick to the last byte of the answer.
pub(crate) struct InFlight {
    pool: Rc<PoolWorker>,
    upstream: Rc<Upstream>,
}

impl InFlight {
    /// For a target whose `begin` has succeeded.
    pub(crate) fn begun(pool: &Rc<PoolWorker>, upstream: &Rc<Upstream>) -> Self {
        Self { pool: pool.clone(), upstream: upstream.clone() }
    }

    /// Its target.
    pub(crate) fn upstream(&self) -> &Rc<Upstream> {
        &self.upstream
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let state = &self.upstream.state;
        state.end();
        // Whoever waits for this target and whoever waits for any may look: a needless look does no harm.
        state.line.wake_one();
        self.pool.shared.queue.line.wake_one();
    }
}

/// A connection that a target has agreed to turn into a tunnel.
pub(crate) struct Tunnel {
    pub(crate) connection: Box<Connection>,
    /// What it turns into.
    pub(crate) protocol: HeaderValue,
    /// Longest silence.
    pub(crate) idle: Duration,
    /// Counted until the tunnel ends.
    pub(crate) in_flight: InFlight,
}
