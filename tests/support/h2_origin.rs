//! An origin that speaks HTTP/2, on the `h2` crate's server: each request is handed to a script of the test's.
//!
//! It records what it receives, as [`super::Origin`] does. Frames that the crate would not send are written by hand on a raw
//! origin, with [`frame`].

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Response, Uri};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::edge::Address;
use super::eventually;

/// See the module's documentation.
pub struct H2Origin {
    /// Where it listens.
    pub address: SocketAddr,
    seen: Arc<Seen>,
    ending: watch::Sender<End>,
    accepting: JoinHandle<()>,
}

/// How connections are to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Not,
    /// GOAWAY, after which what is under way goes on.
    Gracefully,
    /// The socket is closed, without a word.
    Cut,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Received>>,
}

/// A request as its script finds it.
pub struct Call {
    /// Which of the origin's connections brought it, from 1.
    pub connection: usize,
    /// Its head.
    pub head: Received,
    /// Its body.
    pub body: RecvStream,
    /// For the answer.
    pub respond: SendResponse<Bytes>,
    seen: Arc<Seen>,
}

/// A request's head, and its body if the script has read it.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method.
    pub method: Method,
    /// Scheme, authority and path.
    pub uri: Uri,
    /// Fields.
    pub headers: HeaderMap,
    /// Body.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Option<HeaderMap>,
}

impl Received {
    /// The value of the only field of this name; `""` when there is none.
    pub fn field(&self, name: &str) -> String {
        let all: Vec<_> = self.headers.get_all(name).iter().collect();
        assert!(all.len() <= 1, "field {name} came {} times: {all:?}", all.len());
        all.first().map_or(String::new(), |value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    }
}

impl H2Origin {
    /// An origin that answers everything with 200 and `name`.
    pub async fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::start(move |mut call| {
            let name = name.clone();
            async move {
                call.read().await;
                call.answer(200, &[("x-origin", &name)], name.as_bytes());
            }
        })
        .await
    }

    /// An origin whose every request is handled by `script`.
    pub async fn start<F, S>(script: S) -> Self
    where
        S: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::built(Builder::new(), None, script).await
    }

    /// The same with settings of its own, and TLS.
    pub async fn built<F, S>(builder: Builder, tls: Option<Arc<rustls::ServerConfig>>, script: S) -> Self
    where
        S: Fn(Call) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, ending) = (Arc::<Seen>::default(), watch::Sender::new(End::Not));
        let (shared, endings, script) = (seen.clone(), ending.clone(), Arc::new(script));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let number = shared.connections.fetch_add(1, SeqCst) + 1;
                let (seen, script, ending) = (shared.clone(), script.clone(), endings.subscribe());
                let (builder, tls) = (builder.clone(), tls.clone());
                connections.spawn(async move {
                    let Some(tls) = tls else {
                        return serve(stream, builder, number, seen, ending, script).await;
                    };
                    if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                        serve(stream, builder, number, seen, ending, script).await;
                    }
                });
            }
        });
        Self { address, seen, ending, accepting }
    }

    /// Says on every connection that it is not to be used any more (GOAWAY).
    pub fn go_away(&self) {
        self.ending.send_replace(End::Gracefully);
        self.ending.send_replace(End::Not);
    }

    /// Closes every connection without a word.
    pub fn cut(&self) {
        self.ending.send_replace(End::Cut);
    }

    /// Connections accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Requests whose body was read to its end, in that order.
    pub fn requests(&self) -> Vec<Received> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// How many of these came so far.
    pub fn count(&self) -> usize {
        self.seen.requests.lock().unwrap().len()
    }

    /// The last of these.
    pub fn last(&self) -> Received {
        self.seen.requests.lock().unwrap().last().expect("the origin has received a request").clone()
    }

    /// Waits until `count` requests are complete.
    pub async fn received(&self, count: usize) {
        eventually(&format!("{count} requests at the origin"), async || self.count() >= count).await;
    }
}

impl Address for H2Origin {
    fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve<F: Future<Output = ()> + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    builder: Builder,
    connection: usize,
    seen: Arc<Seen>,
    mut ending: watch::Receiver<End>,
    script: Arc<impl Fn(Call) -> F>,
) {
    let Ok(mut accepting) = builder.handshake::<_, Bytes>(stream).await else { return };
    seen.open.fetch_add(1, SeqCst);
    let mut calls = JoinSet::new();
    let mut told = false;
    loop {
        tokio::select! {
            accepted = accepting.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                let (parts, body) = request.into_parts();
                let head = Received {
                    method: parts.method,
                    uri: parts.uri,
                    headers: parts.headers,
                    body: Vec::new(),
                    trailers: None,
                };
                calls.spawn(script(Call { connection, head, body, respond, seen: seen.clone() }));
            }
            changed = ending.changed(), if !told => {
                if changed.is_err() || *ending.borrow() == End::Cut {
                    break;
                }
                told = true;
                accepting.graceful_shutdown();
            }
        }
    }
    seen.open.fetch_sub(1, SeqCst);
}

impl Call {
    /// Path and query.
    pub fn path(&self) -> String {
        self.head.uri.path_and_query().map_or(String::new(), ToString::to_string)
    }

    /// The next part of the body, given room for at once; `None` at its end.
    pub async fn part(&mut self) -> Option<Bytes> {
        let data = self.body.data().await?.ok()?;
        let _ = self.body.flow_control().release_capacity(data.len());
        Some(data)
    }

    /// Reads the body, and records the request if that came to its end.
    pub async fn read(&mut self) -> Vec<u8> {
        let mut head = self.head.clone();
        while let Some(data) = self.body.data().await {
            let Ok(data) = data else { return head.body };
            let _ = self.body.flow_control().release_capacity(data.len());
            head.body.extend_from_slice(&data);
        }
        let Ok(trailers) = self.body.trailers().await else { return head.body };
        head.trailers = trailers;
        let body = head.body.clone();
        self.seen.requests.lock().unwrap().push(head);
        body
    }

    /// Sends the head of an answer; its body follows, unless `ended`.
    pub fn head(&mut self, status: u16, fields: &[(&str, &str)], ended: bool) -> SendStream<Bytes> {
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        self.respond.send_response(response.body(()).unwrap(), ended).unwrap()
    }

    /// Sends a whole answer.
    pub fn answer(&mut self, status: u16, fields: &[(&str, &str)], body: &[u8]) {
        let mut sending = self.head(status, fields, body.is_empty());
        if !body.is_empty() {
            sending.send_data(Bytes::copy_from_slice(body), true).unwrap();
        }
    }

    /// Refuses or breaks off the request.
    pub fn reset(&mut self, reason: Reason) {
        self.respond.send_reset(reason);
    }
}

/// Sends `data` as the target's window allows.
pub async fn send_all(
    sending: &mut SendStream<Bytes>,
    mut data: Bytes,
    ended: bool,
) -> Result<(), h2::Error> {
    while !data.is_empty() {
        sending.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
        let Some(room) = room.transpose()? else { return Err(Reason::CANCEL.into()) };
        let part = data.split_to(room.min(data.len()));
        sending.send_data(part, ended && data.is_empty())?;
    }
    Ok(())
}

/// A frame of HTTP/2 as it goes over the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
