//! One check of one target: connect, ask, judge the answer, all within one deadline.
//!
//! Every check opens a connection of its own, because "can a connection be made" is half of the question. What the
//! results of several checks mean is not known here: see `verdict`.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{grpc, http2};
use crate::config::{self, HealthDrain, TargetProtocol, tls::UpstreamTls};
use crate::pool::room;

/// Bytes of an answer's body that are read; what follows is of no interest.
pub(super) const BODY_MAX: usize = 64 * 1024;

/// Bytes of an answer's head that are read.
pub(super) const HEAD_MAX: usize = 16 * 1024;

const USER_AGENT: &str = concat!("selvedge-health/", env!("CARGO_PKG_VERSION"));

/// The PROXY header (version 2, LOCAL) of a connection that is nobody's but the proxy's.
const OWN_CONNECTION: [u8; 16] = *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// How one target is checked.
pub struct Check<'a> {
    rules: &'a config::Health,
    tls: Option<&'a UpstreamTls>,
    protocol: TargetProtocol,
    address: SocketAddr,
    /// `Host` field.
    host: HeaderValue,
}

/// A check passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// The answer has a status that was expected.
    Status(StatusCode),
    /// The answer asks to drain the target, which therefore lives.
    Drain(StatusCode),
    /// The connection opened.
    Connected,
    /// The health service says so.
    Serving,
}

impl Pass {
    /// Whether the target wants no new sessions.
    pub fn asks_to_drain(self) -> bool {
        matches!(self, Self::Drain(_))
    }
}

/// The field with which a target asks to be drained; its value is `1`.
const DRAIN: HeaderName = HeaderName::from_static("x-selvedge-drain");

/// A check failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This node has no file descriptor for a connection: that says nothing of the target.
    NoRoom,
    /// No connection.
    Connect(String),
    /// No TLS handshake.
    Tls(String),
    /// Not over within `timeout`.
    Timeout(Duration),
    /// An answer with another status than expected.
    Status(StatusCode, Vec<RangeInclusive<u16>>),
    /// Something else than a complete HTTP answer, or a health service that says no.
    Answer(String),
    /// The configured path or host cannot be sent.
    Request(String),
}

impl<'a> Check<'a> {
    /// The check of the target at `address`, to which requests go by `protocol`.
    pub fn new(
        rules: &'a config::Health,
        tls: Option<&'a UpstreamTls>,
        protocol: TargetProtocol,
        address: SocketAddr,
    ) -> Self {
        let own_name = HeaderValue::try_from(address.to_string());
        let host = match &rules.probe {
            config::Probe::Http { host: Some(host), .. } | config::Probe::Grpc { host: Some(host), .. } => {
                host.clone()
            }
            _ => own_name.unwrap_or(HeaderValue::from_static("")),
        };
        let address = SocketAddr::new(address.ip(), rules.port.unwrap_or(address.port()));
        Self { rules, tls, protocol, address, host }
    }

    /// Checks the target once.
    pub async fn run(&self) -> Result<Pass, Fault> {
        match timeout(self.rules.timeout, self.ask()).await {
            Ok(result) => result,
            Err(_) => Err(Fault::Timeout(self.rules.timeout)),
        }
    }

    async fn ask(&self) -> Result<Pass, Fault> {
        let connect = |error: io::Error| match room::is_want_of_room(&error) {
            true => Fault::NoRoom,
            false => Fault::Connect(words(&error)),
        };
        let mut stream = TcpStream::connect(self.address).await.map_err(connect)?;
        if self.rules.proxy_protocol {
            stream.write_all(&OWN_CONNECTION).await.map_err(connect)?;
        }
        let http2 =
            matches!(self.rules.probe, config::Probe::Grpc { .. }) || self.protocol == TargetProtocol::H2;
        let Some(tls) = self.tls else { return self.judge(stream, http2).await };
        let client = if http2 { &tls.h2 } else { &tls.client };
        let connected = TlsConnector::from(client.clone()).connect(tls.name_of(self.address), stream);
        let stream = connected.await.map_err(|error| Fault::Tls(error.to_string()))?;
        let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        if http2 && !agreed && self.rules.probe != config::Probe::Tcp {
            return Err(Fault::Tls("the target did not agree on h2 (ALPN)".into()));
        }
        self.judge(stream, agreed).await
    }

    async fn judge(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        is_http2: bool,
    ) -> Result<Pass, Fault> {
        let (path, expect) = match &self.rules.probe {
            config::Probe::Tcp => return Ok(Pass::Connected),
            config::Probe::Grpc { service, .. } => return self.ask_service(stream, service).await,
            config::Probe::Http { path, expect, .. } => (path, expect),
        };
        let (status, drain) = match is_http2 {
            true => self.get_http2(stream, path).await?,
            false => get(stream, self.request(path)?).await?,
        };
        let asks = match self.rules.drain {
            HealthDrain::Off => false,
            HealthDrain::Header => drain,
            HealthDrain::NotFound => drain || status == StatusCode::NOT_FOUND,
        };
        if asks {
            Ok(Pass::Drain(status))
        } else if expect.iter().any(|range| range.contains(&status.as_u16())) {
            Ok(Pass::Status(status))
        } else {
            Err(Fault::Status(status, expect.clone()))
        }
    }

    fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The `Host` field as `:authority`.
    fn authority(&self) -> &str {
        self.host.to_str().unwrap_or_default()
    }

    /// As [`get`], over HTTP/2.
    async fn get_http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        path: &str,
    ) -> Result<(StatusCode, bool), Fault> {
        let unsendable = |error: http::Error| Fault::Request(error.to_string());
        let uri = Uri::builder().scheme(self.scheme()).authority(self.authority()).path_and_query(path);
        let request = Request::get(uri.build().map_err(unsendable)?)
            .version(http::Version::HTTP_2)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .body(())
            .map_err(unsendable)?;
        let answer = http2::exchange(stream, request, None).await.map_err(Fault::Answer)?;
        Ok((answer.status, asks_for_drain(&answer.headers)))
    }

    async fn ask_service(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        service: &str,
    ) -> Result<Pass, Fault> {
        let (request, body) = grpc::question(self.scheme(), self.authority(), service, USER_AGENT)
            .map_err(|error| Fault::Request(error.to_string()))?;
        let answer = http2::exchange(stream, request, Some(body)).await.map_err(Fault::Answer)?;
        let drain = asks_for_drain(&answer.headers) || asks_for_drain(&answer.trailers);
        if drain && self.rules.drain != HealthDrain::Off {
            return Ok(Pass::Drain(answer.status));
        }
        grpc::judge(&answer).map_err(Fault::Answer)?;
        Ok(Pass::Serving)
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, Fault> {
        Request::get(path)
            .header(header::HOST, &self.host)
            .header(header::USER_AGENT, USER_AGENT)
            .header(header::ACCEPT, "*/*")
            .header(header::CONNECTION, "close")
            .body(Empty::new())
            .map_err(|error| Fault::Request(error.to_string()))
    }
}

/// The status of the answer and whether it has the field that asks for a drain, once its body has arrived too.
async fn get(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
) -> Result<(StatusCode, bool), Fault> {
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Fault::Answer(error_text(&error)))?;
    let mut exchange = pin!(async {
        let mut response = sender.send_request(request).await.map_err(|error| error_text(&error))?;
        let mut left = BODY_MAX;
        while left > 0 {
            let Some(frame) = response.frame().await else { break };
            let frame = frame.map_err(|error| error_text(&error))?;
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
        Ok((response.status(), asks_for_drain(response.headers())))
    });
    let mut connection = pin!(connection);
    let mut connected = true;
    // The connection may be over before the exchange has taken its last bytes from it.
    loop {
        tokio::select! {
            biased;
            result = &mut exchange => return result.map_err(Fault::Answer),
            _ = &mut connection, if connected => connected = false,
        }
    }
}

fn asks_for_drain(fields: &HeaderMap) -> bool {
    fields.get(DRAIN).is_some_and(|value| value == "1")
}

/// An error and its cause in one line.
fn error_text(error: &hyper::Error) -> String {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<io::Error>()) {
        Some(cause) => words(cause),
        None if error.is_incomplete_message() => {
            "the connection closed before the answer was complete".into()
        }
        None if error.is_parse() => "the answer is not HTTP".into(),
        None => error.to_string(),
    }
}

/// "connection refused" instead of "Connection refused (os error 111)", where there is a word for it.
fn words(error: &io::Error) -> String {
    use io::ErrorKind::{
        AddrNotAvailable, BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable,
        NetworkDown, NetworkUnreachable, PermissionDenied, TimedOut,
    };
    match error.kind() {
        kind @ (AddrNotAvailable | BrokenPipe | ConnectionAborted | ConnectionRefused | ConnectionReset
        | HostUnreachable | NetworkDown | NetworkUnreachable | PermissionDenied | TimedOut) => {
            kind.to_string()
        }
        _ => error.to_string(),
    }
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{}", status.as_u16()),
            Self::Drain(status) => write!(f, "{}, asks to be drained", status.as_u16()),
            Self::Connected => f.write_str("connected"),
            Self::Serving => f.write_str("SERVING"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom => f.write_str("this node has no file descriptor for a check"),
            Self::Connect(why) => f.write_str(why),
            Self::Tls(why) => write!(f, "no TLS handshake: {why}"),
            Self::Timeout(limit) => write!(f, "no answer in {limit:?}"),
            Self::Status(status, expect) => {
                write!(f, "{} is not in ", status.as_u16())?;
                for (index, range) in expect.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    match (range.start(), range.end()) {
                        (one, other) if one == other => write!(f, "{comma}{one}")?,
                        (first, last) => write!(f, "{comma}{first}-{last}")?,
                    }
                }
                Ok(())
            }
            Self::Answer(what) => f.write_str(what),
            Self::Request(what) => write!(f, "the check cannot be sent: {what}"),
        }
    }
}
