//! The sockets, and the thread that answers on them.
//!
//! It is a thread of its own: checks and the admin API, which share the control thread, must not wait behind a flood of
//! questions, and workers have nothing to do with it. What it knows of the nodes is a [`View`] that it is handed.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;

use super::answerer::Answerer;
use super::counters::Counters;
use super::tcp::Connections;
use super::udp;
use super::view::View;
use crate::config::Dns;
use crate::lifecycle::Phase;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

/// Bytes of datagrams that wait to be read: some thousand queries.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Free ports that are tried until one is free over both UDP and TCP.
const PORT_TRIES: usize = 32;

/// Sockets for DNS, bound and not yet answered.
pub struct DnsListener {
    config: Arc<Dns>,
    sockets: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
}

/// Sockets and what is answered there, before anybody is answered.
pub struct Prepared {
    sockets: Vec<(UdpSocket, TcpListener)>,
    view: Arc<ArcSwap<View>>,
    counters: Arc<Counters>,
}

/// What the control plane has of the answering thread.
pub struct Answers {
    /// Where: with the ports that were found, when 0 was asked for.
    pub addresses: Vec<SocketAddr>,
    /// What is answered.
    pub view: Arc<ArcSwap<View>>,
    /// What was counted.
    pub counters: Arc<Counters>,
}

/// An address for DNS cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("dns.addresses {address}: cannot be bound: {source}{hint}")]
pub struct BindError {
    address: SocketAddr,
    hint: &'static str,
    source: io::Error,
}

impl DnsListener {
    /// Binds every address of the configuration over UDP and TCP.
    pub fn bind(config: &Arc<Dns>) -> Result<Self, BindError> {
        let mut bound = Self { config: config.clone(), sockets: Vec::new(), addresses: Vec::new() };
        for address in &config.addresses {
            let (udp, tcp, found) = bind(*address).map_err(|source| BindError {
                address: *address,
                hint: match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        "; another process answers there: stop it, or write the address that clients ask instead of \
                         all addresses, or another port"
                    }
                    io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
                    io::ErrorKind::AddrNotAvailable => "; no interface of this machine has that address",
                    _ => "",
                },
                source,
            })?;
            bound.sockets.push((udp, tcp));
            bound.addresses.push(found);
        }
        Ok(bound)
    }

    /// Sockets that another process has bound to the addresses of the configuration, in their order.
    pub fn adopt(config: &Arc<Dns>, sockets: Vec<(UdpSocket, TcpListener)>) -> io::Result<Self> {
        let mut addresses = Vec::new();
        for (udp, tcp) in &sockets {
            udp.set_nonblocking(true)?;
            tcp.set_nonblocking(true)?;
            addresses.push(udp.local_addr()?);
        }
        Ok(Self { config: config.clone(), sockets, addresses })
    }

    /// Its sockets, with the addresses of the configuration, for a process that is to answer there too.
    pub fn share(&self) -> io::Result<Vec<(SocketAddr, OwnedFd, OwnedFd)>> {
        let one = |(address, (udp, tcp)): (&SocketAddr, &(UdpSocket, TcpListener))| {
            Ok((*address, udp.as_fd().try_clone_to_owned()?, tcp.as_fd().try_clone_to_owned()?))
        };
        self.config.addresses.iter().zip(&self.sockets).map(one).collect()
    }

    /// Where it is bound.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes the sockets and what is answered apart: every node, unless the control plane knows better.
    pub fn prepare(self) -> (Prepared, Answers) {
        let Self { config, sockets, addresses } = self;
        let all = vec![true; config.nodes.len()];
        let view = Arc::new(ArcSwap::from_pointee(View::new(config, &all)));
        let counters = Arc::new(Counters::default());
        let answers = Answers { addresses, view: view.clone(), counters: counters.clone() };
        (Prepared { sockets, view, counters }, answers)
    }
}

impl Prepared {
    /// Starts to answer. The thread ends when the phase is [`Phase::Stopping`] or a later one, and what was asked over TCP is
    /// answered.
    pub fn start(self, mut phase: watch::Receiver<Phase>) -> io::Result<JoinHandle<()>> {
        let Self { sockets, view, counters } = self;
        let (started, starting) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("dns".into()).spawn(move || {
            // A runtime cannot move between threads: it is made where it runs.
            let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            runtime.block_on(async {
                let answerer = Rc::new(Answerer::new(view, counters));
                let connections = Rc::new(Connections::new(answerer.clone()));
                let stopping = watch::Sender::new(false);
                let serving = serve(sockets, &answerer, &connections, &stopping);
                let failed = serving.is_err();
                drop(started.send(serving));
                if !failed {
                    // An error means that the server is gone: the same as a stop.
                    let _ = phase.wait_for(|phase| *phase >= Phase::Stopping).await;
                    stopping.send_replace(true);
                    connections.finish().await;
                }
            });
        })?;
        starting.recv().unwrap_or_else(|_| Err(io::Error::other("the thread for DNS ended")))?;
        Ok(thread)
    }
}

fn serve(
    sockets: Vec<(UdpSocket, TcpListener)>,
    answerer: &Rc<Answerer>,
    connections: &Rc<Connections>,
    stopping: &watch::Sender<bool>,
) -> io::Result<()> {
    for (udp, tcp) in sockets {
        let udp = Rc::new(tokio::net::UdpSocket::from_std(udp)?);
        let tcp = Rc::new(tokio::net::TcpListener::from_std(tcp)?);
        let (for_udp, for_tcp) = (answerer.clone(), connections.clone());
        let udp =
            keep_up(answerer.clone(), stopping.subscribe(), move || udp::run(udp.clone(), for_udp.clone()));
        let tcp = keep_up(answerer.clone(), stopping.subscribe(), move || for_tcp.clone().run(tcp.clone()));
        tokio::task::spawn_local(udp);
        tokio::task::spawn_local(tcp);
    }
    Ok(())
}

/// Runs what `run` gives, again and again, until it is time to stop: it ends by itself only by a panic, which costs the message
/// that caused it.
async fn keep_up<F: Future<Output = ()> + 'static>(
    answerer: Rc<Answerer>,
    mut stopping: watch::Receiver<bool>,
    run: impl Fn() -> F,
) {
    loop {
        let mut running = tokio::task::spawn_local(run());
        tokio::select! {
            ended = &mut running => if let Err(panic) = ended {
                answerer.counters.panics.bump();
                tracing::error!(%panic, "answering DNS has met a defect and goes on; please report it with the log");
            },
            _ = stopping.wait_for(|stopping| *stopping) => return running.abort(),
        }
    }
}

/// Both sockets at one port.
fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    for _ in 0..PORT_TRIES {
        let udp = socket(address, Type::DGRAM, Protocol::UDP)?;
        let udp = UdpSocket::from(udp);
        let found = udp.local_addr()?;
        match socket(found, Type::STREAM, Protocol::TCP) {
            Ok(tcp) => return Ok((udp, tcp.into(), found)),
            Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    if kind == Type::STREAM {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}
