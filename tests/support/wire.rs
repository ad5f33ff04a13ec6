//! One end of a TCP connection that sends exact bytes and reads HTTP by hand.
//!
//! Used by clients and by origins. The one thing that isn't obvious: it tells an orderly end from a reset, because to a
//! client without a length that is the difference between a complete and a truncated answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use super::message::{Fields, Framing, Head, Response, latin1};
use super::within;

/// Recorded of one connection at most.
const RECORDED: usize = 1 << 20;

/// How the peer ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order (FIN).
    Closed,
    /// By a reset, or another error.
    Reset,
}

/// An answer that ended before it was complete.
#[derive(Debug)]
pub struct Cut {
    /// Its head, if that came.
    pub head: Option<Head>,
    /// What came of its body.
    pub body: Vec<u8>,
    /// How the connection ended.
    pub end: End,
}

/// What the bytes go over.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, into),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

/// See the module's documentation.
pub struct Wire {
    stream: Stream,
    /// Received and not yet consumed.
    pending: Vec<u8>,
    /// Everything received, for whoever looks later.
    record: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    /// Connects to `address`, from `source` if one is given (`127.0.0.2:0`).
    pub async fn connect(address: SocketAddr, source: Option<&str>) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = source {
            socket.bind(source.parse().expect("a source address"))?;
        }
        Ok(Self::of(within("a connection", socket.connect(address)).await?))
    }

    /// Connects with a receive buffer of `bytes`, so that a reader that stops is felt soon.
    pub async fn connect_narrow(address: SocketAddr, bytes: u32) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(bytes).unwrap();
        Self::of(within("a connection", socket.connect(address)).await.unwrap())
    }

    /// This end of an open connection.
    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self { stream: Stream::Plain(stream), pending: Vec::new(), record: Arc::default() }
    }

    /// This end of a connection after its handshake.
    pub fn over(tls: impl Into<tokio_rustls::TlsStream<TcpStream>>) -> Self {
        let stream = Stream::Tls(Box::new(tls.into()));
        Self { stream, pending: Vec::new(), record: Arc::default() }
    }

    /// What was agreed on with the peer; `None` without TLS.
    pub fn tls(&self) -> Option<&tokio_rustls::TlsStream<TcpStream>> {
        match &self.stream {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => Some(tls),
        }
    }

    /// The same socket without its TLS: what is sent from now on is not encrypted, and the end is no announced one.
    pub fn without_tls(self) -> Self {
        match self.stream {
            Stream::Plain(_) => self,
            Stream::Tls(tls) => Self::of(match *tls {
                tokio_rustls::TlsStream::Client(tls) => tls.into_inner().0,
                tokio_rustls::TlsStream::Server(tls) => tls.into_inner().0,
            }),
        }
    }

    /// Everything received so far and from now on, up to 1 MiB.
    pub fn record(&self) -> Arc<Mutex<Vec<u8>>> {
        self.record.clone()
    }

    /// Own address.
    pub fn local(&self) -> SocketAddr {
        self.stream.tcp().local_addr().unwrap()
    }

    /// Sends `bytes`. A peer that no longer reads is not an error here: what it does is read from its answer.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let _ = self.try_send(bytes).await;
        self
    }

    /// Sends `bytes`, or says that the peer no longer reads.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let sending = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        };
        within("the peer to take bytes", sending).await
    }

    /// Sends `bytes` like [`Wire::try_send`], for scripts that stall on purpose: a peer that takes nothing is not an error.
    pub async fn send_or_fail(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Sends as much of `bytes` as the peer takes at once, waiting for as long as it takes none; how many it took.
    pub async fn send_when_possible(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).await.unwrap()
    }

    /// Ends this end's direction (FIN).
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Ends this end's direction, if there is still somebody to tell.
    pub async fn try_finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.stream.tcp().set_zero_linger().unwrap();
    }

    /// Waits for more bytes; how many came.
    async fn fill(&mut self) -> Result<usize, End> {
        let before = self.pending.len();
        self.pending.reserve(64 * 1024);
        match within("bytes from the peer", self.stream.read_buf(&mut self.pending)).await {
            Ok(0) => Err(End::Closed),
            Err(_) => Err(End::Reset),
            Ok(count) => {
                self.note(before);
                Ok(count)
            }
        }
    }

    /// Records what has been received from `before` on.
    fn note(&self, before: usize) {
        let mut record = self.record.lock().unwrap();
        let room = RECORDED.saturating_sub(record.len()).min(self.pending.len() - before);
        record.extend_from_slice(&self.pending[before..before + room]);
    }

    /// Waits for the first byte of whatever comes next, for as long as it takes: the one wait without a deadline, for
    /// connections that are idle by right.
    pub async fn idle(&mut self) -> Result<(), End> {
        if !self.pending.is_empty() {
            return Ok(());
        }
        self.pending.reserve(64 * 1024);
        match self.stream.read_buf(&mut self.pending).await {
            Ok(0) => Err(End::Closed),
            Ok(count) => {
                self.note(self.pending.len() - count);
                Ok(())
            }
            Err(_) => Err(End::Reset),
        }
    }

    /// Takes `count` bytes that are there.
    fn take(&mut self, count: usize) -> Vec<u8> {
        let rest = self.pending.split_off(count);
        std::mem::replace(&mut self.pending, rest)
    }

    /// A line, without its CRLF.
    pub async fn line(&mut self) -> Result<String, End> {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n") {
                let line = self.take(at + 2);
                return Ok(latin1(&line[..at]));
            }
            self.fill().await?;
        }
    }

    /// A head, to its empty line.
    pub async fn head(&mut self) -> Result<Head, End> {
        loop {
            if let Some(at) = find(&self.pending, b"\r\n\r\n") {
                return Ok(Head::parse(&self.take(at + 4)));
            }
            self.fill().await?;
        }
    }

    /// Exactly `count` bytes.
    pub async fn exactly(&mut self, count: usize) -> Result<Vec<u8>, End> {
        while self.pending.len() < count {
            self.fill().await?;
        }
        Ok(self.take(count))
    }

    /// At least one byte: whatever is there.
    pub async fn some(&mut self) -> Result<Vec<u8>, End> {
        if self.pending.is_empty() {
            self.fill().await?;
        }
        Ok(std::mem::take(&mut self.pending))
    }

    /// At least one byte, for as long as it takes.
    pub async fn some_patiently(&mut self) -> Result<Vec<u8>, End> {
        self.idle().await?;
        self.some().await
    }

    /// All that comes until the peer ends the connection, and how it does.
    pub async fn until_end(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Err(end) = self.fill().await {
                return (std::mem::take(&mut self.pending), end);
            }
        }
    }

    /// Waits until the peer ends the connection, counting what comes before without keeping it.
    pub async fn ended(&mut self) -> (u64, End) {
        let mut count = self.pending.len() as u64;
        loop {
            self.pending.clear();
            match self.fill().await {
                Ok(more) => count += more as u64,
                Err(end) => return (count, end),
            }
        }
    }

    /// Reads `count` bytes without keeping them.
    pub async fn skip(&mut self, count: u64) -> Result<(), End> {
        let mut missing = count;
        loop {
            let some = missing.min(self.pending.len() as u64);
            self.pending.drain(..some as usize);
            missing -= some;
            if missing == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Reads a chunked body without keeping it; its length.
    pub async fn skip_chunks(&mut self) -> Result<u64, End> {
        let mut sum = 0;
        loop {
            let size = self.chunk_size().await?;
            if size == 0 {
                self.trailers().await?;
                return Ok(sum);
            }
            self.skip(size).await?;
            sum += size;
            assert_eq!(self.line().await?, "", "what follows a chunk's data");
        }
    }

    /// Reads a body framed like this into `body`; its trailers.
    pub async fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<Fields, End> {
        match framing {
            Framing::Empty => Ok(Fields::default()),
            Framing::Length(length) => self.fixed(length, body).await.map(|()| Fields::default()),
            Framing::Chunked => self.chunks(body).await,
            Framing::UntilClose => loop {
                body.append(&mut self.pending);
                match self.fill().await {
                    Ok(_) => {}
                    Err(End::Closed) => return Ok(Fields::default()),
                    Err(End::Reset) => return Err(End::Reset),
                }
            },
        }
    }

    async fn fixed(&mut self, length: u64, body: &mut Vec<u8>) -> Result<(), End> {
        let mut missing = usize::try_from(length).expect("a length that fits into memory");
        loop {
            let count = missing.min(self.pending.len());
            body.extend(self.pending.drain(..count));
            missing -= count;
            if missing == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    async fn chunks(&mut self, body: &mut Vec<u8>) -> Result<Fields, End> {
        loop {
            let size = self.chunk_size().await?;
            if size == 0 {
                return self.trailers().await;
            }
            self.fixed(size, body).await?;
            assert_eq!(self.line().await?, "", "what follows a chunk's data");
        }
    }

    async fn chunk_size(&mut self) -> Result<u64, End> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default();
        Ok(u64::from_str_radix(size, 16).unwrap_or_else(|_| panic!("chunk size {line:?}")))
    }

    async fn trailers(&mut self) -> Result<Fields, End> {
        let mut lines = Vec::new();
        loop {
            match self.line().await? {
                line if line.is_empty() => return Ok(Fields::parse(lines.iter().map(String::as_str))),
                line => lines.push(line),
            }
        }
    }

    /// A complete answer to a request with `method`, interim answers before it included.
    pub async fn try_response(&mut self, method: &str) -> Result<Response, Cut> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head().await;
            let head =
                head.map_err(|end| Cut { head: None, body: std::mem::take(&mut self.pending), end })?;
            match head.status() {
                100 | 102..200 => interim.push(head),
                0 => panic!("not an answer: {:?}", head.line),
                _ => break head,
            }
        };
        let framing = if head.status() == 101 { Framing::Empty } else { head.framing(Some(method)) };
        let mut body = Vec::new();
        match self.body(framing, &mut body).await {
            Err(end) => Err(Cut { head: Some(head), body, end }),
            Ok(trailers) => Ok(Response {
                interim,
                version: head.line.split(' ').next().unwrap_or_default().to_owned(),
                status: head.status(),
                fields: head.fields,
                framing,
                body,
                trailers,
            }),
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}
