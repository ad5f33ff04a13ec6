//! Listening sockets: bound before anything starts, accepted by every worker on its own.
//!
//! Each worker has its own socket on the same address (SO_REUSEPORT), so the kernel spreads connections and no lock is
//! shared. A socket stays as it is while the configuration of its listener changes: what is new holds for connections
//! accepted from then on. What an accepted connection says is not read here.

use std::cell::{Cell, RefCell};
use std::future::Future as _;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::exchange::Peer;
use super::http2::Begun;
use super::io::Io;
use super::leaving::Leaving;
use super::place::{ClientConnection, Full, Occupancy, OpenConnection};
use super::tls::{self, Acceptor};
use super::{Worker, announced, http1, http2};
use crate::config::{self, KeyRing, Protocol};
use crate::pool::{Managed, room};
use crate::telemetry::access_log::Tls;

/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Between two looks for a place while there is none.
const PLACE_PAUSE: Duration = Duration::from_millis(10);
/// Between two words about the same trouble.
const TELLING: Duration = Duration::from_secs(10);

/// One listener, bound: a socket for each worker, or as many as were passed.
pub struct BoundListener {
    /// What the configuration says of it.
    pub config: config::Listener,
    /// Where it is bound; the port is the real one even if 0 was asked for.
    pub address: SocketAddr,
    sockets: Vec<Arc<std::net::TcpListener>>,
    /// The workers have them.
    dealt: bool,
    /// Also tells one listener from another.
    occupancy: Arc<Occupancy>,
}

/// A listener cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("listener {name}: cannot listen on {address}: {source}{hint}")]
pub struct BindError {
    name: Arc<str>,
    address: SocketAddr,
    hint: &'static str,
    source: io::Error,
}

impl BoundListener {
    /// Binds one socket for each worker, `beside` listeners of this node that are bound already.
    pub fn bind(config: &config::Listener, workers: usize, beside: &[Self]) -> Result<Self, BindError> {
        let fail = |source: io::Error| BindError {
            name: config.name.clone(),
            address: config.address,
            hint: match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another process listens there: stop it, or change listener.address"
                }
                io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
                io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
                _ => "",
            },
            source,
        };
        // A socket that shares its port would be bound even beside a stranger's: ask without sharing first, unless the port
        // is ours already, on another address.
        if !beside.iter().any(|other| other.address.port() == config.address.port()) {
            drop(socket(config.address, None).map_err(fail)?);
        }
        let backlog = Some(config.backlog);
        let first = socket(config.address, backlog).map_err(fail)?;
        let address = first.local_addr().map_err(fail)?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(socket(address, backlog).map_err(fail)?);
        }
        Ok(Self::of(config, address, sockets))
    }

    /// A listener whose sockets were bound by whoever started this process; `sockets` is not empty. Workers share them if they
    /// are fewer, and have several if they are more: a socket that nobody accepts from would keep its connections waiting.
    pub fn adopt(config: &config::Listener, sockets: Vec<std::net::TcpListener>) -> io::Result<Self> {
        let mut address = config.address;
        for socket in &sockets {
            socket.set_nonblocking(true)?;
            set_backlog(socket, config.backlog)?;
            address = socket.local_addr()?;
        }
        Ok(Self::of(config, address, sockets))
    }

    fn of(config: &config::Listener, address: SocketAddr, sockets: Vec<std::net::TcpListener>) -> Self {
        let sockets = sockets.into_iter().map(Arc::new).collect();
        Self { config: config.clone(), address, sockets, dealt: false, occupancy: Arc::default() }
    }

    /// Its sockets, for a process that is to accept from them too.
    pub fn sockets(&self) -> &[Arc<std::net::TcpListener>] {
        &self.sockets
    }

    /// The same listener under another configuration.
    pub(crate) fn under(self, config: config::Listener) -> Self {
        for socket in &self.sockets {
            if let Err(error) = set_backlog(socket, config.backlog) {
                tracing::warn!(listener = %config.name, "backlog: stays as it was: {error}");
            }
        }
        Self { config, ..self }
    }

    /// What each of so many workers is told of it: its socket too, the first time. `ring` seals session tickets.
    pub(crate) fn for_workers(
        &mut self,
        count: usize,
        ring: &Arc<KeyRing>,
        managed: &Arc<Managed>,
    ) -> Vec<WorkerListener> {
        let tls = self
            .config
            .tls
            .as_ref()
            .map(|tls| tls::server_config(tls, &self.config.protocols, ring, managed));
        let dealt = std::mem::replace(&mut self.dealt, true);
        let one = |worker| WorkerListener {
            config: self.config.clone(),
            tls: tls.clone(),
            sockets: if dealt { Vec::new() } else { self.sockets_of(worker, count) },
            occupancy: self.occupancy.clone(),
        };
        (0..count).map(one).collect()
    }

    /// The sockets that one of `count` workers accepts from.
    fn sockets_of(&self, worker: usize, count: usize) -> Vec<Arc<std::net::TcpListener>> {
        let has = self.sockets.len();
        let own = (worker..has).step_by(count);
        if worker < has {
            own.map(|at| self.sockets[at].clone()).collect()
        } else {
            vec![self.sockets[worker % has].clone()]
        }
    }
}

/// A bound socket. With a backlog it listens, and shares its port.
fn socket(address: SocketAddr, backlog: Option<u32>) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(socket2::Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(backlog.is_some())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if let Some(backlog) = backlog {
        socket.listen(backlog as i32)?;
    }
    Ok(socket.into())
}

/// Changes the length of a queue, for connections completed from now on: those in it stay.
fn set_backlog(socket: &std::net::TcpListener, backlog: u32) -> io::Result<()> {
    SockRef::from(socket).listen(backlog as i32)
}

/// A listener as one worker is to have it.
pub(crate) struct WorkerListener {
    config: config::Listener,
    /// Its TLS, the same for all workers.
    tls: Option<Arc<rustls::ServerConfig>>,
    /// None when the worker has them already.
    sockets: Vec<Arc<std::net::TcpListener>>,
    occupancy: Arc<Occupancy>,
}

impl WorkerListener {
    fn acceptor(&self) -> Option<Rc<Acceptor>> {
        let config = self.tls.clone()?;
        Some(Rc::new(Acceptor::new(config, self.config.tls.as_ref()?)))
    }
}

/// A listener as one worker has it.
pub(crate) struct Listening {
    /// For connections accepted from now on.
    config: RefCell<Rc<config::Listener>>,
    tls: RefCell<Option<Rc<Acceptor>>>,
    occupancy: Arc<Occupancy>,
    /// When it was said last that nothing can be accepted.
    told: Cell<Option<Instant>>,
    /// How its connections leave, once it is closed.
    leaving: Cell<Option<Leaving>>,
    /// Who accepts, for each socket, to be told of the close.
    accepting: RefCell<Vec<Option<Waker>>>,
}

/// Gives a worker exactly the listeners of `wanted`: those it has take on their new configuration, the others are closed.
pub(crate) fn listen(worker: &'static Worker, wanted: Vec<WorkerListener>) {
    let mut present = worker.listening.borrow_mut();
    let is =
        |wanted: &WorkerListener, listening: &Listening| Arc::ptr_eq(&wanted.occupancy, &listening.occupancy);
    let (stay, go) = present.drain(..).partition(|listening| wanted.iter().any(|one| is(one, listening)));
    *present = stay;
    close(worker, &go, Leaving::at_once());
    for listener in wanted {
        let mut listener = listener;
        let sockets = std::mem::take(&mut listener.sockets);
        match present.iter().find(|listening| is(&listener, listening)) {
            Some(listening) => {
                listening.tls.replace(listener.acceptor());
                listening.config.replace(Rc::new(listener.config));
            }
            None => {
                let listening = Rc::new(Listening {
                    tls: RefCell::new(listener.acceptor()),
                    config: RefCell::new(Rc::new(listener.config)),
                    occupancy: listener.occupancy,
                    told: Cell::new(None),
                    leaving: Cell::new(None),
                    accepting: RefCell::new(vec![None; sockets.len()]),
                });
                present.push(listening.clone());
                for (index, socket) in sockets.into_iter().enumerate() {
                    let accepting = Accepting::count(worker);
                    tokio::task::spawn_local(listening.clone().run(worker, accepting, index, socket));
                }
            }
        }
    }
}

/// Closes these listeners: whoever waits there for a connection or a request looks up.
pub(crate) fn close(worker: &Worker, listening: &[Rc<Listening>], leaving: Leaving) {
    for listening in listening {
        listening.leaving.set(Some(leaving));
        listening.accepting.borrow_mut().iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
    if !listening.is_empty() {
        worker.deadlines.wake_everyone();
    }
}

impl Listening {
    /// How its connections leave; `None` while it is open.
    pub(crate) fn leaving(&self) -> Option<Leaving> {
        self.leaving.get()
    }

    /// Accepts and serves until it is closed; what the kernel has completed by then is still served.
    async fn run(
        self: Rc<Self>,
        worker: &'static Worker,
        _here: Accepting,
        index: usize,
        socket: Arc<std::net::TcpListener>,
    ) {
        let listener = match socket.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                let name = self.config.borrow().name.clone();
                tracing::error!(listener = %name, "the socket cannot be watched: {error}");
                return;
            }
        };
        loop {
            match self.next(index, &listener).await {
                Some(Ok((tcp, address))) => self.admit(worker, tcp, address).await,
                Some(Err(error)) if is_about_one_connection(&error) => {}
                Some(Err(error)) => {
                    worker.lane().accept_errors.bump();
                    if room::is_want_of_room(&error) {
                        worker.room().press();
                    }
                    if self.may_tell() {
                        let name = self.config.borrow().name.clone();
                        tracing::warn!(listener = %name, "cannot accept: {error}; idle connections are closed");
                    }
                    self.pause(index, ACCEPT_PAUSE).await;
                }
                None => break,
            }
        }
        if self.leaving.get().is_some_and(|leaving| leaving.succeeded) {
            return;
        }
        // What the kernel has completed by now would be reset when the socket closes. Asked without the runtime, which may
        // say "nothing" when a task has had its share.
        while let Ok((tcp, address)) = socket.accept() {
            if let Ok(tcp) = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)) {
                self.admit(worker, tcp, address).await;
            }
        }
    }

    /// The next connection; `None` once the listener is closed and the kernel has no more.
    async fn next(
        &self,
        index: usize,
        listener: &TcpListener,
    ) -> Option<io::Result<(TcpStream, SocketAddr)>> {
        std::future::poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => self.poll_closing(index, cx).map(|()| None),
        })
        .await
    }

    /// Ready once the listener is closed.
    fn poll_closing(&self, index: usize, cx: &Context<'_>) -> Poll<()> {
        if self.leaving.get().is_some() {
            return Poll::Ready(());
        }
        self.accepting.borrow_mut()[index] = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits for a while, or until the listener is closed.
    async fn pause(&self, index: usize, duration: Duration) {
        let mut sleep = pin!(tokio::time::sleep(duration));
        std::future::poll_fn(|cx| match self.poll_closing(index, cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => sleep.as_mut().poll(cx),
        })
        .await;
    }

    /// Serves a connection if its source may connect, once there is a place for it.
    async fn admit(self: &Rc<Self>, worker: &'static Worker, tcp: TcpStream, address: SocketAddr) {
        let config = self.config.borrow().clone();
        let lane = worker.lane();
        lane.accepted.bump();
        let source = address.ip().to_canonical();
        if !config.allow.iter().any(|net| net.contains(&source)) {
            lane.denied.bump();
            return;
        }
        // Whose it is if a proxy announces it is not known yet.
        let counted = match announced::announces(&config, source) {
            true => None,
            false => match self.admit_client(worker, &config, source) {
                Some(counted) => counted,
                None => return,
            },
        };
        let place = self.place(worker).await;
        let _ = tcp.set_nodelay(true);
        let serving = self.clone().serve(worker, config, tcp, address);
        tokio::task::spawn_local(async move {
            let (_place, _counted) = (place, counted);
            serving.await;
        });
    }

    /// Counts a connection at its client; `None` if that has as many as it may.
    fn admit_client(
        &self,
        worker: &Worker,
        config: &config::Listener,
        client: IpAddr,
    ) -> Option<Option<ClientConnection>> {
        let admitted = self.occupancy.admit(worker, config, client);
        if admitted.is_err() {
            worker.lane().limited.bump();
        }
        admitted.ok()
    }

    /// Whether it is time again to say what is wrong.
    fn may_tell(&self) -> bool {
        let now = Instant::now();
        let due = self.told.get().is_none_or(|told| now.duration_since(told) >= TELLING);
        if due {
            self.told.set(Some(now));
        }
        due
    }

    /// Serves a connection by whatever protocol it speaks.
    async fn serve(
        self: Rc<Self>,
        worker: &'static Worker,
        config: Rc<config::Listener>,
        tcp: TcpStream,
        address: SocketAddr,
    ) {
        let Some(ends) = announced::ends(worker, &self, &config, &tcp, address).await else { return };
        let source = address.ip().to_canonical();
        let _counted = match announced::announces(&config, source) {
            true => match self.admit_client(worker, &config, ends.source.ip().to_canonical()) {
                Some(counted) => counted,
                None => return,
            },
            false => None,
        };
        let acceptor = self.tls.borrow().clone();
        let (io, agreed, version, identity) = match acceptor {
            None => (Io::new(tcp), None, Tls::None, None),
            Some(acceptor) => match acceptor.accept(worker, &self, tcp).await {
                Some(accepted) => {
                    (Io::encrypted(accepted.stream), accepted.protocol, accepted.version, accepted.identity)
                }
                None => return,
            },
        };
        let may_be = |protocol| config.protocols.contains(&protocol);
        // Who does not say speaks HTTP/1, unless it begins as only HTTP/2 does.
        let protocol = agreed.unwrap_or(match may_be(Protocol::Http1) {
            true => Protocol::Http1,
            false => Protocol::Http2,
        });
        let sniff = agreed.is_none() && may_be(Protocol::Http2) && config.tls.is_none();
        let peer = Peer::new(config.clone(), self.occupancy.clone(), ends, version, identity);
        let begun = match protocol {
            Protocol::Http1 => http1::serve(worker, self.clone(), config.clone(), io, peer, sniff).await,
            Protocol::Http2 => Some(Begun { io, input: BytesMut::new(), peer }),
        };
        if let Some(begun) = begun {
            http2::serve(worker, self, config, begun).await;
        }
    }

    /// A place among the listener's connections, and among all. While there is none, the kernel's queue holds the others, and
    /// refuses when it is full too.
    async fn place(&self, worker: &'static Worker) -> OpenConnection {
        loop {
            let config = self.config.borrow().clone();
            let full = match self.occupancy.place(worker, config.max_connections) {
                Ok(place) => return place,
                Err(full) => full,
            };
            if full == Full::Node {
                worker.room().press();
            }
            if self.may_tell() {
                let (name, most) = (&config.name, config.max_connections);
                match full {
                    Full::Listener => {
                        tracing::warn!(listener = %name, max_connections = most, "listener is full")
                    }
                    Full::Node => tracing::warn!(
                        listener = %name,
                        clients = worker.room().connections(),
                        "no file descriptor is left for another client: idle connections are closed"
                    ),
                }
            }
            tokio::time::sleep(PLACE_PAUSE).await;
        }
    }
}

/// Counts a task that accepts: a worker does not end before it.
struct Accepting(&'static Worker);

impl Accepting {
    fn count(worker: &'static Worker) -> Self {
        worker.accepting.set(worker.accepting.get() + 1);
        Self(worker)
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.set(self.0.accepting.get() - 1);
    }
}

/// Errors that say that the connection to be accepted has gone already (accept(2)): the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
