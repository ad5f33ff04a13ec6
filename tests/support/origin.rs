//! Origins that tests script: one that answers by the book and names itself, and raw ones that send what they are told.
//!
//! All of them record what they receive. An origin keeps its port from its start to its drop, also while it is stopped, so
//! that no other test's origin can come to live there.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::{SocketAddr, TcpStream as StdStream};
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::message::Request;
use super::wire::Wire;
use super::{eventually, within};

type Script = Arc<dyn Fn(Conn) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// See the module's documentation.
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    script: Script,
    /// TLS of connections accepted from now on.
    tls: Option<TlsAcceptor>,
    seen: Arc<Seen>,
    accepting: Option<JoinHandle<()>>,
    /// Holds the port.
    _reserved: Refusing,
}

/// What an origin has seen, and what its connections share.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    probes: AtomicUsize,
    sick: AtomicBool,
    requests: Mutex<Vec<Request>>,
    unfinished: Mutex<Vec<Request>>,
    records: Mutex<Vec<Arc<Mutex<Vec<u8>>>>>,
    routes: Mutex<BTreeMap<String, Reply>>,
}

impl Origin {
    /// An origin called `origin`: see [`Origin::named`].
    pub async fn start() -> Self {
        Self::named("origin").await
    }

    /// An origin that answers everything with 200, `X-Origin: NAME`, and its name as body; `/healthz` while it is well.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::replying(move |_| Reply::ok(&name).field(&format!("X-Origin: {name}"))).await
    }

    /// The same at this address.
    pub async fn named_at(name: &str, address: SocketAddr) -> Self {
        let name = name.to_owned();
        let reply = move |_: &Request| Reply::ok(&name).field(&format!("X-Origin: {name}"));
        Self::replying_at(Refusing::at(address), reply).await
    }

    /// An origin that answers each request with what `reply` makes of it, and keeps connections alive.
    pub async fn replying(reply: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::replying_at(Refusing::new(), reply).await
    }

    async fn replying_at(
        reserved: Refusing,
        reply: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let reply = Arc::new(reply);
        Self::raw_at(reserved, move |mut conn| {
            let reply = reply.clone();
            async move {
                while let Some(request) = conn.request().await {
                    let routed = conn.seen.routes.lock().unwrap().get(&request.target).cloned();
                    let answer = routed.unwrap_or_else(|| reply(&request));
                    if conn.try_send(answer.bytes(&request.method)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    /// An origin that reads each request to its end and then sends exactly `bytes`, on connections that it keeps.
    pub async fn answering(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::raw(move |mut conn| {
            let bytes = bytes.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.send(&bytes).await;
                }
            }
        })
        .await
    }

    /// An origin that answers each request with this body, once the gate lets it pass.
    pub async fn holding(gate: &Gate, body: &'static str) -> Self {
        let gate = gate.clone();
        Self::raw(move |mut conn| {
            let gate = gate.clone();
            async move {
                while let Some(request) = conn.request().await {
                    gate.pass().await;
                    conn.send(Reply::ok(body).bytes(&request.method)).await;
                }
            }
        })
        .await
    }

    /// An origin whose every connection is handled by `script`; the connection ends with it.
    pub async fn raw<F, S>(script: S) -> Self
    where
        S: Fn(Conn) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::raw_at(Refusing::new(), script).await
    }

    async fn raw_at<F, S>(reserved: Refusing, script: S) -> Self
    where
        S: Fn(Conn) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let mut origin = Self {
            address: reserved.address,
            script: Arc::new(move |conn| Box::pin(script(conn))),
            tls: None,
            seen: Arc::default(),
            accepting: None,
            _reserved: reserved,
        };
        origin.resume();
        origin
    }

    /// Answers `target` with `reply` from now on, if this is not a raw origin.
    pub fn route(self, target: &str, reply: Reply) -> Self {
        self.seen.routes.lock().unwrap().insert(target.to_owned(), reply);
        self
    }

    /// Speaks TLS from now on.
    pub async fn with_tls(mut self, config: Arc<rustls::ServerConfig>) -> Self {
        self.tls = Some(TlsAcceptor::from(config));
        self.stop().await;
        self.resume();
        self
    }

    /// Cuts all connections and refuses new ones, as a killed process does.
    pub async fn stop(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            let _ = accepting.await;
        }
    }

    /// Listens (again). A program that another test starts just now may hold the last listener for a moment, between its fork
    /// and its exec.
    pub fn resume(&mut self) {
        let listen = || {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind(self.address).and_then(|()| socket.listen(1024))
        };
        let mut listener = listen();
        for _ in 0..500 {
            if !matches!(&listener, Err(error) if error.kind() == std::io::ErrorKind::AddrInUse) {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            listener = listen();
        }
        let accepting = accept(listener.unwrap(), self.tls.clone(), self.script.clone(), self.seen.clone());
        self.accepting = Some(tokio::spawn(accepting));
    }

    /// Whether `/healthz` is answered with 503 from now on.
    pub fn set_sick(&self, sick: bool) {
        self.seen.sick.store(sick, SeqCst);
    }

    /// Health checks answered so far.
    pub fn probes(&self) -> usize {
        self.seen.probes.load(SeqCst)
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Complete requests so far, in the order in which they were complete; health checks not among them.
    pub fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// How many complete requests came so far.
    pub fn count(&self) -> usize {
        self.seen.requests.lock().unwrap().len()
    }

    /// The last complete request.
    pub fn last(&self) -> Request {
        self.seen.requests.lock().unwrap().last().expect("the origin has received a request").clone()
    }

    /// Requests whose body was cut.
    pub fn unfinished(&self) -> Vec<Request> {
        self.seen.unfinished.lock().unwrap().clone()
    }

    /// Every byte received, connection after connection (1 MiB of each at most).
    pub fn bytes(&self) -> Vec<u8> {
        self.seen.records.lock().unwrap().iter().flat_map(|record| record.lock().unwrap().clone()).collect()
    }

    /// Waits until `count` requests are complete.
    pub async fn received(&self, count: usize) {
        eventually(&format!("{count} requests at the origin"), async || self.count() >= count).await;
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, script: Script, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        seen.open.fetch_add(1, SeqCst);
        let number = seen.connections.fetch_add(1, SeqCst) + 1;
        let mut conn = Conn { number, wire: None, seen: seen.clone() };
        let (tls, script) = (tls.clone(), script.clone());
        connections.spawn(async move {
            let wire = match tls {
                None => Wire::of(stream),
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => Wire::over(stream),
                    Err(_) => return,
                },
            };
            conn.seen.records.lock().unwrap().push(wire.record());
            conn.wire = Some(wire);
            script(conn).await;
        });
    }
}

/// A connection that an origin has accepted.
pub struct Conn {
    /// Which of the origin's connections this is, from 1.
    pub number: usize,
    wire: Option<Wire>,
    seen: Arc<Seen>,
}

impl Deref for Conn {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        self.wire.as_ref().expect("a connection that was not reset")
    }
}

impl DerefMut for Conn {
    fn deref_mut(&mut self) -> &mut Wire {
        self.wire.as_mut().expect("a connection that was not reset")
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.seen.open.fetch_sub(1, SeqCst);
    }
}

impl Conn {
    /// The next request's head, waiting as long as it takes; `None` when the connection ended.
    pub async fn request_head(&mut self) -> Option<Request> {
        self.idle().await.ok()?;
        let head = self.head().await.ok()?;
        Some(Request::new(self.number, head))
    }

    /// The next complete request, recorded; `None` when the connection ended. Health checks are answered on the way.
    pub async fn request(&mut self) -> Option<Request> {
        loop {
            let mut request = self.request_head().await?;
            if request.target == "/healthz" {
                self.answer_probe().await;
                continue;
            }
            return self.rest_of(&mut request).await.then_some(request);
        }
    }

    /// Reads the body that follows a head, and records the request. Whether it came to its end.
    pub async fn rest_of(&mut self, request: &mut Request) -> bool {
        let mut body = Vec::new();
        let end = self.body(request.framing, &mut body).await;
        request.body = body;
        let complete = end.is_ok();
        request.trailers = end.unwrap_or_default();
        let list = if complete { &self.seen.requests } else { &self.seen.unfinished };
        list.lock().unwrap().push(request.clone());
        complete
    }

    /// Notes a request whose body the script reads by itself as complete.
    pub fn note(&self, request: &Request) {
        self.seen.requests.lock().unwrap().push(request.clone());
    }

    async fn answer_probe(&mut self) {
        self.seen.probes.fetch_add(1, SeqCst);
        let reply = if self.seen.sick.load(SeqCst) { Reply::status(503) } else { Reply::ok("well") };
        let bytes = reply.bytes("GET");
        self.send(bytes).await;
    }

    /// Ends the connection with a reset.
    pub fn reset(&mut self) {
        if let Some(wire) = self.wire.take() {
            wire.reset();
        }
    }
}

/// What an origin answers.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    fields: Vec<String>,
    body: Vec<u8>,
    chunked: bool,
}

impl Reply {
    /// 200 with this body.
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self { status: 200, fields: Vec::new(), body: body.as_ref().to_vec(), chunked: false }
    }

    /// An empty answer with this status.
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    /// With another field, `"Name: value"`.
    pub fn field(mut self, field: &str) -> Self {
        self.fields.push(field.to_owned());
        self
    }

    /// With a chunked body.
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// As it goes over the wire in answer to `method`.
    pub fn bytes(&self, method: &str) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} Whatever\r\n", self.status);
        for field in &self.fields {
            head += &format!("{field}\r\n");
        }
        let mut body = self.body.clone();
        if self.chunked {
            head += "Transfer-Encoding: chunked\r\n";
            body = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        } else if !matches!(self.status, 204 | 304) {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        if method == "HEAD" || matches!(self.status, 204 | 304) {
            body.clear();
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }
}

/// An address at which every connection is refused, and that nobody else can take.
pub struct Refusing {
    /// Where connections are refused.
    pub address: SocketAddr,
    _socket: Socket,
}

impl Refusing {
    /// A fresh address.
    pub fn new() -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// This address.
    pub fn at(address: SocketAddr) -> Self {
        // Bound, but never listening.
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, _socket: socket }
    }
}

/// An address at which connections are neither accepted nor refused: its backlog is full.
pub struct Silent {
    /// Where connecting takes for ever.
    pub address: SocketAddr,
    _socket: Socket,
    _filling: Vec<StdStream>,
}

impl Silent {
    /// A fresh address.
    pub fn new() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let patience = Duration::from_millis(100);
        let filling: Vec<_> =
            (0..16).map_while(|_| StdStream::connect_timeout(&address, patience).ok()).collect();
        assert!(filling.len() < 16, "the backlog of {address} never filled");
        Self { address, _socket: socket, _filling: filling }
    }
}

/// Holds scripts back until a test opens it.
#[derive(Clone)]
pub struct Gate(Arc<watch::Sender<bool>>);

impl Gate {
    /// A closed gate.
    pub fn closed() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }

    /// Lets everybody pass from now on.
    pub fn open(&self) {
        self.0.send_replace(true);
    }

    /// Whether everybody may pass.
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for the gate to be open, for as long as it takes.
    pub async fn opens(&self) {
        let _ = self.0.subscribe().wait_for(|open| *open).await;
    }

    /// Waits for the gate to be open.
    pub async fn pass(&self) {
        let mut open = self.0.subscribe();
        within("a gate to open", open.wait_for(|open| *open)).await.unwrap();
    }
}

/// What several origins of a test count together.
#[derive(Clone, Default)]
pub struct Tally(Arc<Mutex<BTreeMap<String, usize>>>);

impl Tally {
    /// Counts one more of `what`; how many there are now.
    pub fn add(&self, what: &str) -> usize {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(what.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// How many of `what` were counted.
    pub fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or(0)
    }
}
