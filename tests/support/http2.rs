//! HTTP/2 from a client's side: `h2` for what is in order, and frames by hand for what is not.

use std::net::SocketAddr;

use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::tls::Dialer;
use super::wire::{End, Wire};
use super::{Edge, within};

/// A connection to an edge that speaks HTTP/2 in good order.
pub struct Http2 {
    pub send: SendRequest<Bytes>,
    ended: watch::Receiver<Option<Option<Reason>>>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl Answer {
    /// A field's value.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http2 {
    /// Without TLS, knowing that there is HTTP/2.
    pub async fn connect(edge: &Edge) -> Self {
        Self::with(edge, Builder::new().enable_push(false)).await
    }

    /// The same with settings of the test's.
    pub async fn with(edge: &Edge, builder: &Builder) -> Self {
        let tcp = TcpStream::connect(edge.web).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        Self::on(tcp, builder).await
    }

    /// With TLS.
    pub async fn over(dialer: &Dialer, edge: &Edge) -> Self {
        let tls = dialer.offering(&["h2"]).stream(edge.web).await.unwrap();
        Self::on(tls, Builder::new().enable_push(false)).await
    }

    async fn on(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, builder: &Builder) -> Self {
        let (send, connection) = within("a handshake", builder.handshake(io)).await.unwrap();
        let (tell, ended) = watch::channel(None);
        tokio::spawn(async move {
            let ended = connection.await;
            let _ = tell.send(Some(ended.err().and_then(|error| error.reason())));
        });
        Self { send, ended }
    }

    /// Sends a request; with `end` that is all of it.
    pub async fn begin(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let ready = self.send.clone().ready();
        self.send = within("a place for a stream", ready).await.unwrap();
        self.send.send_request(request, end).unwrap()
    }

    /// The answer to GET.
    pub async fn get(&mut self, path: &str) -> Answer {
        self.try_request(get(path), b"").await.unwrap()
    }

    /// The answer to a request with this body.
    pub async fn request(&mut self, request: Request<()>, body: &[u8]) -> Answer {
        self.try_request(request, body).await.unwrap()
    }

    /// The same, if it comes whole.
    pub async fn try_request(&mut self, request: Request<()>, body: &[u8]) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.begin(request, body.is_empty()).await;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        answer(within("an answer", response).await?).await
    }

    /// Waits for the connection to end; with the reason if the edge gave one other than NO_ERROR.
    pub async fn ended(&mut self) -> Option<Reason> {
        let ended = within("the connection to end", self.ended.wait_for(Option::is_some)).await.unwrap();
        ended.flatten()
    }
}

/// GET `path` of the shop.
pub fn get(path: &str) -> Request<()> {
    asking("GET", path, &[])
}

/// A request to the shop with these fields.
pub fn asking(method: &str, path: &str, fields: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder().method(method).uri(format!("http://shop.test{path}"));
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// The whole answer.
pub async fn answer(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = within("a body", stream.data()).await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        body.extend_from_slice(&data);
    }
    let trailers = within("trailers", stream.trailers()).await?;
    Ok(Answer { status: parts.status.as_u16(), headers: parts.headers, body, trailers })
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// GET / of shop.test by HTTP, without any other field, compressed.
pub const GET: &[u8] = b"\x82\x86\x84\x41\x09shop.test";

/// A field that is not compressed.
pub fn literal(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0];
    for text in [name, value] {
        assert!(text.len() < 127);
        field.push(text.len() as u8);
        field.extend_from_slice(text.as_bytes());
    }
    field
}

/// A frame as it goes over the wire.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A frame of the edge's.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// A connection to an edge on which a test writes frames by hand.
pub struct Frames {
    pub wire: Wire,
}

impl Frames {
    /// After the preface and these settings.
    pub async fn connect(edge: &Edge, settings: &[(u16, u32)]) -> Self {
        Self::to(edge.web, settings).await
    }

    /// The same at any address.
    pub async fn to(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut wire = Wire::connect(address, None).await.unwrap();
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend_from_slice(&id.to_be_bytes());
            payload.extend_from_slice(&value.to_be_bytes());
        }
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        wire.send(frame(SETTINGS, 0, 0, &payload)).await;
        Self { wire }
    }

    /// Sends a frame.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> &mut Self {
        self.wire.send(frame(kind, flags, stream, payload)).await;
        self
    }

    /// Begins a stream with these compressed fields.
    pub async fn open(&mut self, stream: u32, fields: &[u8], end: bool) -> &mut Self {
        let end = if end { END_STREAM } else { 0 };
        self.send(HEADERS, END_HEADERS | end, stream, fields).await
    }

    /// The next frame; how the connection ended if there is none.
    pub async fn next(&mut self) -> Result<Frame, End> {
        let head = self.wire.exactly(9).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let payload = self.wire.exactly(length as usize).await?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// The next frame of this type; those before it are passed over.
    pub async fn until(&mut self, kind: u8) -> Frame {
        loop {
            let frame =
                self.next().await.unwrap_or_else(|end| panic!("{end:?} before a frame of type {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// The reason of the GOAWAY that comes, and the words with it.
    pub async fn goes_away(&mut self) -> (u32, String) {
        let frame = self.until(GOAWAY).await;
        let code = u32::from_be_bytes(frame.payload[4..8].try_into().unwrap());
        (code, String::from_utf8_lossy(&frame.payload[8..]).into_owned())
    }

    /// Sends `frames` again and again, up to `most` times, while the edge reads: as an attacker does. How many it took.
    pub async fn flood(&mut self, most: usize, mut frames: impl FnMut(usize) -> Vec<u8>) -> usize {
        for at in 0..most {
            let piece = frames(at);
            let sent = tokio::time::timeout(Duration::from_secs(2), self.wire.send_or_fail(&piece)).await;
            if !matches!(sent, Ok(Ok(()))) {
                return at;
            }
        }
        most
    }
}
