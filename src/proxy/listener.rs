//! Listening sockets: bound before anything starts, accepted by every worker on its own.
//!
//! Each worker has its own socket on the same address (SO_REUSEPORT), so the kernel spreads connections and no lock is
//! shared. What an accepted connection says is not read here.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::{Worker, http1};
use crate::config;

/// Connections that the kernel completes while no worker accepts.
const BACKLOG: i32 = 4096;
/// Pause after an accept that failed for want of something, such as file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One listener, bound: a socket for each worker.
pub struct BoundListener {
    /// What the configuration says of it.
    pub config: config::Listener,
    /// Where it is bound; the port is the real one even if 0 was asked for.
    pub address: SocketAddr,
    sockets: Vec<std::net::TcpListener>,
    /// Open connections over all workers.
    open: Arc<AtomicUsize>,
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
    /// Binds one socket for each worker.
    pub fn bind(config: &config::Listener, workers: usize) -> Result<Self, BindError> {
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
        // A socket that shares its port would be bound even beside a stranger's: ask without sharing first.
        drop(socket(config.address, false).map_err(fail)?);
        let first = socket(config.address, true).map_err(fail)?;
        let address = first.local_addr().map_err(fail)?;
        let mut sockets = vec![first];
        for _ in 1..workers {
            sockets.push(socket(address, true).map_err(fail)?);
        }
        Ok(Self { config: config.clone(), address, sockets, open: Arc::default() })
    }

    /// Takes the socket of one worker out, to be moved to its thread.
    pub(crate) fn take(&mut self) -> Option<WorkerSocket> {
        let socket = self.sockets.pop()?;
        Some(WorkerSocket { config: self.config.clone(), socket, open: self.open.clone() })
    }
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if shared {
        socket.listen(BACKLOG)?;
    }
    Ok(socket.into())
}

/// A listener's socket for one worker.
pub(crate) struct WorkerSocket {
    config: config::Listener,
    socket: std::net::TcpListener,
    open: Arc<AtomicUsize>,
}

impl WorkerSocket {
    /// Accepts and serves until the worker stops; what the kernel has completed by then is still served.
    pub(crate) async fn run(self, worker: &'static Worker) {
        let watched = self.socket.try_clone().and_then(TcpListener::from_std);
        let listener = match watched {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(listener = %self.config.name, "the socket cannot be watched: {error}");
                return;
            }
        };
        let config = Rc::new(self.config.clone());
        loop {
            match next(worker, &listener).await {
                Some(Ok((tcp, address))) => self.admit(worker, &config, tcp, address).await,
                Some(Err(error)) if is_about_one_connection(&error) => {}
                Some(Err(error)) => {
                    worker.lane().accept_errors.bump();
                    tracing::warn!(listener = %config.name, "cannot accept: {error}");
                    worker.pause(ACCEPT_PAUSE).await;
                }
                None => break,
            }
        }
        // What the kernel has completed by now would be reset when the socket closes. Asked without the runtime, which may
        // say "nothing" when a task has had its share.
        while let Ok((tcp, address)) = self.socket.accept() {
            if let Ok(tcp) = tcp.set_nonblocking(true).and_then(|()| TcpStream::from_std(tcp)) {
                self.admit(worker, &config, tcp, address).await;
            }
        }
    }

    /// Serves a connection if its source may connect, once there is a place for it.
    async fn admit(
        &self,
        worker: &'static Worker,
        config: &Rc<config::Listener>,
        tcp: TcpStream,
        address: SocketAddr,
    ) {
        let lane = worker.lane();
        lane.accepted.bump();
        let source = address.ip().to_canonical();
        if !config.allow.iter().any(|net| net.contains(&source)) {
            lane.denied.bump();
            return;
        }
        let place = self.place(worker, config).await;
        serve(worker, config, place, tcp, address);
    }

    /// A place among the listener's connections. While there is none, the kernel's queue holds the others, and refuses
    /// when it is full too.
    async fn place(&self, worker: &'static Worker, config: &config::Listener) -> OpenConnection {
        let mut told = false;
        loop {
            if let Some(place) = OpenConnection::count(worker, &self.open, config.max_connections) {
                return place;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(listener = %config.name, max_connections = config.max_connections, "listener is full");
            }
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// The next connection; `None` once the worker stops and the kernel has no more.
async fn next(worker: &Worker, listener: &TcpListener) -> Option<io::Result<(TcpStream, SocketAddr)>> {
    std::future::poll_fn(|cx: &mut Context<'_>| match listener.poll_accept(cx) {
        Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
        Poll::Pending if worker.stopping.get() => Poll::Ready(None),
        Poll::Pending => worker.poll_stop(cx).map(|()| None),
    })
    .await
}

/// Serves a connection in a task of its own.
fn serve(
    worker: &'static Worker,
    config: &Rc<config::Listener>,
    place: OpenConnection,
    tcp: TcpStream,
    address: SocketAddr,
) {
    let _ = tcp.set_nodelay(true);
    let serving = http1::serve(worker, config.clone(), tcp, address);
    tokio::task::spawn_local(async move {
        let _place = place;
        serving.await;
    });
}

/// An open connection: counted, and the place where a panic is noticed that would end it.
pub(crate) struct OpenConnection {
    worker: &'static Worker,
    open: Arc<AtomicUsize>,
}

impl OpenConnection {
    /// Counts one more unless that would be more than `max`.
    fn count(worker: &'static Worker, open: &Arc<AtomicUsize>, max: usize) -> Option<Self> {
        open.try_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1)).ok()?;
        worker.lane().open.bump();
        Some(Self { worker, open: open.clone() })
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Relaxed);
        self.worker.lane().open.drop_one();
        if std::thread::panicking() {
            self.worker.lane().panics.bump();
            tracing::error!("a panic has cost one connection; this is a defect, please report it");
        }
    }
}

/// Errors that say that the connection to be accepted has gone already (accept(2)): the next one may be fine.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
