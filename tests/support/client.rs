//! Clients of the edge: [`Raw`] sends exact bytes, [`Client`] behaves as a browser's connection does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

use super::edge::Edge;
use super::message::Response;
use super::tls::Dialer;
use super::wire::{Cut, End, Wire};

/// A connection to the edge, and the bytes a test wants on it.
pub struct Raw(Wire);

impl Deref for Raw {
    type Target = Wire;
    fn deref(&self) -> &Wire {
        &self.0
    }
}

impl DerefMut for Raw {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.0
    }
}

impl Raw {
    /// Connects to the edge's listener.
    pub async fn connect(edge: &Edge) -> Self {
        Self::to(edge.web).await
    }

    /// Connects to any address.
    pub async fn to(address: SocketAddr) -> Self {
        Self(Wire::connect(address, None).await.unwrap())
    }

    /// Connects from another loopback address, such as `127.0.0.2`.
    pub async fn from(edge: &Edge, source: &str) -> Self {
        Self(Wire::connect(edge.web, Some(&format!("{source}:0"))).await.unwrap())
    }

    /// Connects with a small receive buffer: a reader that stops is felt soon.
    pub async fn narrow(edge: &Edge) -> Self {
        Self(Wire::connect_narrow(edge.web, 16 * 1024).await)
    }

    /// Connects with TLS; panics if the handshake fails.
    pub async fn over(tls: &Dialer, edge: &Edge) -> Self {
        Self(tls.dial(edge.web).await.unwrap())
    }

    /// The connection itself.
    pub fn into_wire(self) -> Wire {
        self.0
    }

    /// The next complete answer, to anything but HEAD.
    pub async fn response(&mut self) -> Response {
        self.response_to("GET").await
    }

    /// The next complete answer, to a request with `method`.
    pub async fn response_to(&mut self, method: &str) -> Response {
        match self.0.try_response(method).await {
            Ok(response) => response,
            Err(cut) => panic!("a complete answer expected, got {cut:?}"),
        }
    }

    /// The next answer, which must not be complete.
    pub async fn cut(&mut self) -> Cut {
        match self.0.try_response("GET").await {
            Err(cut) => cut,
            Ok(response) => panic!("a truncated answer expected, got {response:?}"),
        }
    }

    /// Waits for the edge to close the connection without another byte.
    pub async fn closed(&mut self) -> End {
        let (bytes, end) = self.0.until_end().await;
        assert!(bytes.is_empty(), "bytes before the end: {:?}", String::from_utf8_lossy(&bytes));
        end
    }
}

/// A keep-alive connection with a cookie jar. It connects when it needs to, and again when the edge has closed.
pub struct Client {
    address: SocketAddr,
    source: Option<String>,
    tls: Option<Dialer>,
    wire: Option<Wire>,
    /// Sent in `Host`; `shop.test` at first.
    pub host: String,
    /// Cookies by name, as the last `Set-Cookie` of each left them.
    pub jar: BTreeMap<String, String>,
    /// Connections opened so far.
    pub connects: usize,
}

impl Client {
    /// A client of the edge's listener.
    pub fn of(edge: &Edge) -> Self {
        Self::to(edge.web)
    }

    /// A client of any address.
    pub fn to(address: SocketAddr) -> Self {
        let (host, jar) = ("shop.test".to_owned(), BTreeMap::new());
        Self { address, source: None, tls: None, wire: None, host, jar, connects: 0 }
    }

    /// The same client at another node, with the same cookies.
    pub fn at(&self, edge: &Edge) -> Self {
        let (jar, host, tls) = (self.jar.clone(), self.host.clone(), self.tls.clone());
        Self { jar, host, tls, ..Self::to(edge.web) }
    }

    /// Connects from another loopback address from now on.
    pub fn from(mut self, source: &str) -> Self {
        self.source = Some(format!("{source}:0"));
        self
    }

    /// Speaks TLS from now on.
    pub fn over(mut self, tls: &Dialer) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Closes the connection, if there is one.
    pub fn hang_up(&mut self) {
        self.wire = None;
    }

    /// GET `target`.
    pub async fn get(&mut self, target: &str) -> Response {
        self.request("GET", target, &[], b"").await
    }

    /// GET `target` with more fields.
    pub async fn get_with(&mut self, target: &str, fields: &[&str]) -> Response {
        self.request("GET", target, fields, b"").await
    }

    /// POST `body` to `target`.
    pub async fn post(&mut self, target: &str, body: &[u8]) -> Response {
        self.request("POST", target, &[], body).await
    }

    /// A complete answer; panics if it is cut.
    pub async fn request(&mut self, method: &str, target: &str, fields: &[&str], body: &[u8]) -> Response {
        match self.try_request(method, target, fields, body).await {
            Ok(response) => response,
            Err(cut) => panic!("{method} {target}: a complete answer expected, got {cut:?}"),
        }
    }

    /// Sends a request with these fields (`"Name: value"`), Host, the jar's cookies, and a length if there is a body.
    ///
    /// A reused connection that ends before the answer's first byte is opened once more, as a browser does for GET.
    pub async fn try_request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[&str],
        body: &[u8],
    ) -> Result<Response, Cut> {
        let bytes = self.bytes(method, target, fields, body);
        let reused = self.wire.is_some();
        let mut answer = self.exchange(&bytes, method).await;
        let unanswered = matches!(&answer, Err(cut) if cut.head.is_none() && cut.body.is_empty());
        if reused && unanswered && method == "GET" {
            answer = self.exchange(&bytes, method).await;
        }
        if let Ok(response) = &answer {
            self.keep_cookies(response);
        }
        answer
    }

    /// Sends exactly these bytes of a request other than HEAD; the answer. The jar stays as it is.
    pub async fn send(&mut self, bytes: &[u8]) -> Response {
        match self.exchange(bytes, "GET").await {
            Ok(response) => response,
            Err(cut) => {
                panic!("{:?}: a complete answer expected, got {cut:?}", String::from_utf8_lossy(bytes))
            }
        }
    }

    fn bytes(&self, method: &str, target: &str, fields: &[&str], body: &[u8]) -> Vec<u8> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        for field in fields {
            head += &format!("{field}\r\n");
        }
        if !self.jar.is_empty() {
            let cookies: Vec<_> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
            head += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        if !body.is_empty() || method == "POST" || method == "PUT" {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        [head.as_bytes(), b"\r\n", body].concat()
    }

    async fn exchange(&mut self, bytes: &[u8], method: &str) -> Result<Response, Cut> {
        let mut wire = match self.wire.take() {
            Some(wire) => wire,
            None => {
                self.connects += 1;
                let connected = match &self.tls {
                    None => Wire::connect(self.address, self.source.as_deref()).await,
                    Some(tls) => tls.dial(self.address).await,
                };
                match connected {
                    Ok(wire) => wire,
                    Err(_) => return Err(Cut { head: None, body: Vec::new(), end: End::Reset }),
                }
            }
        };
        wire.send(bytes).await;
        let response = wire.try_response(method).await?;
        if !response.fields.lists("connection", "close") && response.version == "HTTP/1.1" {
            self.wire = Some(wire);
        }
        Ok(response)
    }

    fn keep_cookies(&mut self, response: &Response) {
        for cookie in response.fields.all("set-cookie") {
            let pair = cookie.split(';').next().unwrap_or_default();
            if let Some((name, value)) = pair.split_once('=') {
                self.jar.insert(name.to_owned(), value.to_owned());
            }
        }
    }
}
