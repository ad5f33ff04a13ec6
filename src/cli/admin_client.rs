//! How commands ask a running node: one request to its admin API, with a deadline and a bound.
//!
//! Plain HTTP/1.1 over TCP or a unix socket, one connection for each request. What the answers mean is up to the commands.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{ACCEPT, AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::{ConfigArguments, Failure};
use crate::config::units::Secret;
use crate::config::{AdminAddress, Config};

/// For the whole exchange.
const DEADLINE: Duration = Duration::from_secs(5);

/// Of an answer: many thousand targets.
const BODY_MAX: usize = 64 << 20;

const WRONG_TOKEN: &str = "it wants another token; give --token-file or --config";

/// Which node to ask.
#[derive(Debug, Args)]
pub(super) struct AdminArguments {
    /// Admin API: http://ADDRESS:PORT or unix:PATH [default: that of --config, else http://127.0.0.1:9900]
    #[arg(long, value_name = "WHERE")]
    admin: Option<Endpoint>,

    /// File with the bearer token [default: that of --config]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Configuration of the node, to take both from
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Where an admin API listens, as somebody who wants to reach it writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `http://HOST:PORT`; the authority is kept as written, as it goes into the Host field.
    Http(String),
    /// `unix:PATH`.
    Unix(PathBuf),
}

/// A body with its media type.
pub(super) type Content = (&'static str, Bytes);

/// An admin API that can be asked.
pub(super) struct AdminClient {
    endpoint: Endpoint,
    token: Option<Secret>,
}

impl AdminArguments {
    /// As given to a command that reads a configuration anyway.
    pub(super) fn new(admin: Option<Endpoint>, token_file: Option<PathBuf>) -> Self {
        Self { admin, token_file, config: None }
    }

    /// The client these arguments describe.
    pub(super) fn client(&self) -> Result<AdminClient, Failure> {
        let load = |config: &PathBuf| ConfigArguments { config: config.clone(), zone: None }.load();
        self.client_for(self.config.as_ref().map(load).transpose()?.as_ref())
    }

    /// The same, what is not given being taken from `config`.
    pub(super) fn client_for(&self, config: Option<&Config>) -> Result<AdminClient, Failure> {
        let mut endpoint = Endpoint::Http("127.0.0.1:9900".to_owned());
        let mut token = None;
        if let Some(config) = config {
            let disabled = "the configuration has no admin API ([admin] enabled = false); enable it, or give --admin for another node";
            match &config.admin {
                Some(admin) => {
                    endpoint = Endpoint::of(&admin.address);
                    token = admin.token.as_deref().cloned();
                }
                None if self.admin.is_some() => {}
                None => return Err(Failure::Other(disabled.to_owned())),
            }
        }
        if let Some(file) = &self.token_file {
            let text =
                std::fs::read_to_string(file).map_err(|error| Failure::Other(unreadable(file, &error)))?;
            token = Some(Secret::new(text.trim().to_owned()));
        }
        Ok(AdminClient { endpoint: self.admin.clone().unwrap_or(endpoint), token })
    }
}

impl Endpoint {
    /// Where to connect for an API that is bound to `address`: "all addresses" is reached through loopback.
    fn of(address: &AdminAddress) -> Self {
        match address {
            AdminAddress::Unix(path) => Self::Unix(path.clone()),
            AdminAddress::Tcp(address) => {
                let ip = match address.ip() {
                    IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
                    ip => ip,
                };
                Self::Http(SocketAddr::new(ip, address.port()).to_string())
            }
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let authority = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
        let authority = authority.and_then(|text| text.parse::<http::uri::Authority>().ok());
        match authority {
            Some(authority) if authority.port_u16().is_some() && !authority.as_str().contains('@') => {
                Ok(Self::Http(authority.to_string()))
            }
            _ => Err("write http://ADDRESS:PORT or unix:PATH".to_owned()),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(authority) => write!(f, "http://{authority}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl AdminClient {
    /// The body of the answer to `GET path`. Anything but a 200 is a failure that says what to do.
    pub(super) fn get(&self, path: &str) -> Result<Bytes, Failure> {
        self.good(&Method::GET, path, None)
    }

    /// The body of the answer to a request that changes something, with `body` as its JSON. What the API refuses is a failure
    /// in its own words.
    pub(super) fn send(
        &self,
        method: &Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Bytes, Failure> {
        self.good(method, path, Some(("application/json", body.to_string().into())))
    }

    fn good(&self, method: &Method, path: &str, body: Option<Content>) -> Result<Bytes, Failure> {
        match self.ask(method, path, body, DEADLINE)? {
            (StatusCode::OK, body) => Ok(body),
            (status, body) => Err(match api_error(&body) {
                Some(message) => Failure::Other(message),
                None => self.failure(&format!(
                    "it answered {status} to {method} {path}; is this the admin API of selvedge?"
                )),
            }),
        }
    }

    /// Any answer, but for one that wants another token.
    pub(super) fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<Content>,
        deadline: Duration,
    ) -> Result<(StatusCode, Bytes), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| self.failure(&format!("cannot start: {error}")))?;
        let answer = runtime
            .block_on(async { tokio::time::timeout(deadline, self.exchange(method, path, body)).await });
        // A name lookup that hangs must not hold up the exit.
        runtime.shutdown_background();
        match answer {
            Ok(Ok((StatusCode::UNAUTHORIZED, _))) => Err(self.failure(WRONG_TOKEN)),
            Ok(answer) => answer.map_err(|what| self.failure(&what)),
            Err(_) => Err(self.failure(&format!(
                "no answer within {} s; is it a node of selvedge, and has its machine time for it?",
                deadline.as_secs()
            ))),
        }
    }

    /// Where it is.
    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn failure(&self, what: &str) -> Failure {
        Failure::Other(format!("admin API at {}: {what}", self.endpoint))
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<Content>,
    ) -> Result<(StatusCode, Bytes), String> {
        let (mut sender, host) = self.open().await?;
        let request = self.request(host, method, path, body)?;
        let (head, body) = sender.send_request(request).await.map_err(unusable)?.into_parts();
        let body = Limited::new(body, BODY_MAX).collect().await;
        Ok((head.status, body.map_err(|error| format!("broken answer: {error}"))?.to_bytes()))
    }

    /// The same as [`AdminClient::send`], within a runtime; what went wrong is in words.
    pub(super) async fn change(
        &self,
        method: &Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<Bytes, String> {
        let body = ("application/json", body.to_string().into());
        match tokio::time::timeout(DEADLINE, self.exchange(method, path, Some(body))).await {
            Ok(Ok((StatusCode::OK, body))) => Ok(body),
            Ok(Ok((status, body))) => Err(refusal(status, &body)),
            Ok(Err(what)) => Err(what),
            Err(_) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
        }
    }

    /// Hands the answer to `GET path` to `piece` as it comes, to its end. The head and each piece may take as long as `patience`.
    pub(super) async fn follow(
        &self,
        path: &str,
        patience: Duration,
        mut piece: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        let late = |_| format!("nothing came for {} s", patience.as_secs());
        let head = async {
            let (mut sender, host) = self.open().await?;
            let request = self.request(host, &Method::GET, path, None)?;
            // The sender is kept, as its end is that of the connection.
            Ok::<_, String>((sender.send_request(request).await.map_err(unusable)?, sender))
        };
        let (answer, _sender) = tokio::time::timeout(patience, head).await.map_err(late)??;
        let (head, mut body) = answer.into_parts();
        if head.status != StatusCode::OK {
            let body = tokio::time::timeout(patience, Limited::new(body, BODY_MAX).collect()).await;
            let body = body.map_err(late)?.map_err(|error| format!("broken answer: {error}"))?;
            return Err(refusal(head.status, &body.to_bytes()));
        }
        while let Some(frame) = tokio::time::timeout(patience, body.frame()).await.map_err(late)? {
            frame.map_err(unusable)?.data_ref().into_iter().for_each(|data| piece(data));
        }
        Ok(())
    }

    /// A connection, and what its Host field says. Needs a runtime, which drives it.
    async fn open(&self) -> Result<(SendRequest<Full<Bytes>>, &str), String> {
        let unreachable = |error: std::io::Error| {
            format!("{error}; is the node running, and is this the address in its [admin]?")
        };
        match &self.endpoint {
            Endpoint::Http(authority) => {
                let stream = TcpStream::connect(authority).await.map_err(unreachable)?;
                Ok((driven(stream).await?, authority))
            }
            Endpoint::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(unreachable)?;
                Ok((driven(stream).await?, "localhost"))
            }
        }
    }

    fn request(
        &self,
        host: &str,
        method: &Method,
        path: &str,
        body: Option<Content>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut request = Request::builder().method(method).uri(path);
        request = request.header(HOST, host).header(ACCEPT, "application/json").header(CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.reveal()));
        }
        let mut sent = Bytes::new();
        if let Some((content_type, body)) = body {
            request = request.header(CONTENT_TYPE, content_type);
            sent = body;
        }
        request.body(Full::new(sent)).map_err(|error| error.to_string())
    }
}

/// A connection over `stream` that goes on for as long as its sender is kept.
async fn driven(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<SendRequest<Full<Bytes>>, String> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(unusable)?;
    // Its own end says nothing that an exchange does not.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender)
}

#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
fn unusable(error: hyper::Error) -> String {
    format!("no usable answer: {error}")
}

/// Why an answer is none that can be used, in words.
fn refusal(status: StatusCode, body: &[u8]) -> String {
    match api_error(body) {
        _ if status == StatusCode::UNAUTHORIZED => WRONG_TOKEN.to_owned(),
        Some(message) => message,
        None => format!("it answered {status}; is this the admin API of selvedge?"),
    }
}

fn unreadable(file: &Path, error: &std::io::Error) -> String {
    format!("cannot read {}: {error}; give a file with the token that this user may read", file.display())
}

/// Something answers, but in another form than a node does.
#[expect(clippy::needless_pass_by_value, reason = "what map_err calls")]
pub(super) fn not_ours(error: serde_json::Error) -> Failure {
    let what = format!("the answer is not that of selvedge's admin API: {error}");
    Failure::Other(what + "; is this its address, and has it the version of this program?")
}

/// What the API says of a request that it refuses.
fn api_error(body: &[u8]) -> Option<String> {
    let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    body.get("error")?.get("message")?.as_str().map(str::to_owned)
}

/// `text` as one segment of a path.
pub(super) fn segment(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte);
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_a_socket() {
        let parse = |text: &str| text.parse::<Endpoint>().ok();
        let http = |authority: &str| Some(Endpoint::Http(authority.to_owned()));
        assert_eq!(parse("http://127.0.0.1:9900"), http("127.0.0.1:9900"));
        assert_eq!(parse("http://[::1]:9900/"), http("[::1]:9900"));
        assert_eq!(parse("http://localhost:9900"), http("localhost:9900"));
        assert_eq!(parse("unix:/run/s.sock"), Some(Endpoint::Unix("/run/s.sock".into())));
        for text in ["", "127.0.0.1:9900", "https://a:1", "http://a", "http://a:1/x", "http://u@a:1", "unix:"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn names_become_segments_of_a_path() {
        assert_eq!(segment("az-a/127.0.1.1:9001"), "az-a%2F127.0.1.1:9001");
        assert_eq!(segment("a b?#%"), "a%20b%3F%23%25");
    }

    #[test]
    fn an_api_on_all_addresses_is_reached_through_loopback() {
        let of = |address: &str| Endpoint::of(&AdminAddress::Tcp(address.parse().unwrap())).to_string();
        assert_eq!(of("0.0.0.0:9900"), "http://127.0.0.1:9900");
        assert_eq!(of("[::]:9900"), "http://[::1]:9900");
        assert_eq!(of("10.0.0.1:9900"), "http://10.0.0.1:9900");
    }
}
