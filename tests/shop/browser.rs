//! A small HTTP/1.1 client that behaves like a browser where it matters: it keeps cookies, and its connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// From a request to the last byte of its answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// One visitor.
pub(crate) struct Browser {
    to: SocketAddr,
    /// By name; a value is what the server set last.
    pub(crate) cookies: BTreeMap<String, String>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in the body of {self:?}"))
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// A field of the head; empty when absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The instance that made the answer.
    pub(crate) fn served_by(&self) -> &str {
        self.header("x-served-by")
    }

    /// The token in the forms of a page.
    pub(crate) fn form_token(&self) -> &str {
        self.between("name=\"token\" value=\"", "\"")
    }

    /// The text between two others, at their first occurrence.
    pub(crate) fn between(&self, before: &str, after: &str) -> &str {
        let (_, rest) =
            self.text().split_once(before).unwrap_or_else(|| panic!("no {before} in {}", self.text()));
        rest.split_once(after).unwrap().0
    }
}

impl Browser {
    /// A visitor without cookies.
    pub(crate) fn new(to: SocketAddr) -> Self {
        Self { to, cookies: BTreeMap::new(), connection: None }
    }

    /// Another window of the same browser: same cookies, a connection of its own.
    pub(crate) fn clone_to(&self, to: SocketAddr) -> Self {
        Self { to, cookies: self.cookies.clone(), connection: None }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.try_send(Method::GET, path, &[], "").await.unwrap()
    }

    pub(crate) async fn delete(&mut self, path: &str) -> Answer {
        self.try_send(Method::DELETE, path, &[], "").await.unwrap()
    }

    /// A POST with a JSON body.
    pub(crate) async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.try_post(path, body).await.unwrap()
    }

    /// The same, for where it may fail.
    pub(crate) async fn try_post(&mut self, path: &str, body: Value) -> Result<Answer, String> {
        let json = (CONTENT_TYPE.as_str(), "application/json");
        self.try_send(Method::POST, path, &[json], &body.to_string()).await
    }

    /// A POST as a page's form makes it.
    pub(crate) async fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let encoded: Vec<String> =
            fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        let form = (CONTENT_TYPE.as_str(), "application/x-www-form-urlencoded");
        self.try_send(Method::POST, path, &[form], &encoded.join("&")).await.unwrap()
    }

    /// Any request; `Err` when no whole answer came.
    pub(crate) async fn try_send(
        &mut self,
        method: Method,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Result<Answer, String> {
        let request = || {
            let mut request = Request::builder().method(&method).uri(path).header(HOST, self.to.to_string());
            if !self.cookies.is_empty() {
                let pairs: Vec<_> =
                    self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
                request = request.header(COOKIE, pairs.join("; "));
            }
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
        };
        let request = request();
        let answer = tokio::time::timeout(DEADLINE, self.exchange(request))
            .await
            .map_err(|_| format!("{method} {path}: no answer within {DEADLINE:?}"))?
            .map_err(|error| format!("{method} {path}: {error}"))?;
        for cookie in answer.headers.get_all(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap();
            let (name, value) = pair.split_once('=').unwrap();
            self.cookies.insert(name.to_owned(), value.to_owned());
        }
        Ok(answer)
    }

    async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Answer, String> {
        loop {
            let (mut connection, fresh) = match self.connection.take() {
                Some(kept) => (kept, false),
                None => (connect(self.to).await?, true),
            };
            if connection.ready().await.is_err() && !fresh {
                continue;
            }
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let (head, body) = response.into_parts();
                    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
                    self.connection = Some(connection);
                    return Ok(Answer { status: head.status, headers: head.headers, body });
                }
                // A kept connection may be closed by the server at any moment; nothing was sent on it.
                Err(mut error) => match error.take_message() {
                    Some(unsent) if !fresh => request = unsent,
                    _ => return Err(format!("{:?}", error.into_error())),
                },
            }
        }
    }
}

async fn connect(to: SocketAddr) -> Result<SendRequest<Full<Bytes>>, String> {
    let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    Ok(sender)
}

fn encode(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}
