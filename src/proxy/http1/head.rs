//! Reading HTTP/1 heads strictly (RFC 9112 §2 to §6): what is ambiguous is refused, what belongs to the connection is
//! taken out, what is left is end to end.
//!
//! `httparse` splits the bytes; it lets bare LF pass and knows no semantics, so line ends are checked before it and
//! lengths, Host, Connection and the target after it. The field map that comes out has no Content-Length,
//! Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection, TE, Upgrade, HTTP2-Settings or Expect: the body's framing
//! and the flags beside it say the same without ambiguity. Routing and forwarding are not known here.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, StatusCode, Version};

use super::framing::Framing;
use crate::pool::Refusal;
use crate::proxy::request::Head;

/// Fields that fit the table on the stack; `max_fields` is at most this.
pub(crate) const FIELDS_MAX: usize = 256;

/// A request head as the connection needs it.
#[derive(Debug)]
pub(crate) struct Request {
    /// What is end to end.
    pub(crate) head: Head,
    /// Where the body ends.
    pub(crate) framing: Framing,
    /// HTTP/1.0: no chunks, no 1xx, and the connection closes unless the client asked otherwise.
    pub(crate) http10: bool,
    /// Another request may follow.
    pub(crate) keep_alive: bool,
}

/// An answer's head as the connection to the target needs it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) version: Version,
    pub(crate) status: StatusCode,
    /// Without the fields named in the module's documentation, except Content-Length when there is no body that could
    /// restate it (HEAD, 304).
    pub(crate) headers: HeaderMap,
    pub(crate) framing: Framing,
    /// Another request may follow on this connection.
    pub(crate) keep_alive: bool,
    /// The token of a 101.
    pub(crate) upgrade: Option<HeaderValue>,
}

/// Bounds of a request head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_head: usize,
    pub(crate) max_fields: usize,
}

/// Why an answer's head is not passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadAnswer(pub(crate) &'static str);

/// Where the head in `buffer` ends, searching from `from`; `None` when it is not all there.
///
/// Refuses LF without CR and continued lines on the way: a parser that forgives them sees other fields than we do.
pub(crate) fn end_of_head(buffer: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    let from = from.min(buffer.len());
    for newline in memchr::memchr_iter(b'\n', &buffer[from..]).map(|at| at + from) {
        if newline == 0 || buffer[newline - 1] != b'\r' {
            return Err(Refusal::LineEnding);
        }
        match buffer.get(newline + 1) {
            Some(b' ' | b'\t') => return Err(Refusal::ObsFold),
            Some(b'\r') if buffer.get(newline + 2) == Some(&b'\n') => return Ok(Some(newline + 3)),
            _ => {}
        }
    }
    Ok(None)
}

/// Takes the request head off `buffer` once it is all there. `scanned` is where the last call stopped; `map` is an
/// empty map whose room is used.
pub(crate) fn take_request(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: Limits,
    map: &mut HeaderMap,
) -> Result<Option<Request>, Refusal> {
    // One empty line before a request is the work of old clients (RFC 9112 §2.2).
    if *scanned == 0 && buffer.starts_with(b"\r\n") {
        buffer.advance(2);
    }
    let Some(end) = end_of_head(buffer, *scanned)? else {
        if buffer.len() >= limits.max_head {
            return Err(too_large(buffer, limits));
        }
        // The last three bytes may be the beginning of the end.
        *scanned = buffer.len().saturating_sub(3);
        return Ok(None);
    };
    *scanned = 0;
    if end > limits.max_head {
        return Err(too_large(buffer, limits));
    }
    let bytes = buffer.split_to(end).freeze();
    parse_request(&bytes, limits.max_fields, map).map(Some)
}

/// Of a head that is too large, whether the request line alone is.
fn too_large(buffer: &[u8], limits: Limits) -> Refusal {
    match memchr::memchr(b'\n', &buffer[..limits.max_head.min(buffer.len())]) {
        Some(_) => Refusal::HeadTooLarge,
        None => Refusal::TargetTooLong,
    }
}

fn parse_request(bytes: &Bytes, max_fields: usize, map: &mut HeaderMap) -> Result<Request, Refusal> {
    let mut table = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(bytes, &mut table[..max_fields.min(FIELDS_MAX)]) {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Ok(_) => return Err(Refusal::LineEnding),
        Err(error) => return Err(refusal_of(error, bytes)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return Err(Refusal::RequestLine);
    };
    let http10 = version == 0;
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::RequestLine)?;
    let mut fields = Fields::new(map);
    for field in parsed.headers.iter() {
        fields.add(bytes, field).map_err(|_| Refusal::Field)?;
    }
    let framing = fields.request_framing(http10)?;
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let Target { authority, path } = Target::parse(&method, target, bytes)?;
    let host = fields.host(authority, http10)?;
    let expect_continue = match fields.expect.take() {
        None => false,
        Some(_) if http10 => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => framing != Framing::None,
        Some(_) => return Err(Refusal::Expectation),
    };
    let connection = fields.connection(true).map_err(|_| Refusal::Connection)?;
    let websocket = connection.upgrade && fields.asks_for_websocket() && !http10;
    let websocket = websocket && method == Method::GET && framing == Framing::None;
    Ok(Request {
        framing,
        http10,
        keep_alive: if http10 { connection.keep_alive && !connection.close } else { !connection.close },
        head: Head {
            version: version_of(http10),
            method,
            host,
            path,
            accepts_trailers: fields.accepts_trailers,
            claims_origin: fields.claims_origin,
            expect_continue,
            websocket,
            headers: std::mem::take(map),
        },
    })
}

/// Takes an answer's head off `buffer` once it is all there. `request` is the method it answers.
pub(crate) fn take_answer(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: Limits,
    request: &Method,
    map: &mut HeaderMap,
) -> Result<Option<Answer>, BadAnswer> {
    let end = match end_of_head(buffer, *scanned) {
        Ok(Some(end)) if end <= limits.max_head => end,
        Ok(None) if buffer.len() < limits.max_head => {
            // What cannot become a status line is refused at once instead of at a deadline.
            let begin = buffer.len().min(7);
            if buffer[..begin] != b"HTTP/1."[..begin] {
                return Err(BadAnswer("it does not begin with HTTP/1."));
            }
            *scanned = buffer.len().saturating_sub(3);
            return Ok(None);
        }
        Ok(_) => return Err(BadAnswer("its head is too large")),
        Err(Refusal::ObsFold) => return Err(BadAnswer("a field is continued on the next line")),
        Err(_) => return Err(BadAnswer("a line does not end in CRLF")),
    };
    *scanned = 0;
    let bytes = buffer.split_to(end).freeze();
    parse_answer(&bytes, limits.max_fields, request, map).map(Some)
}

fn parse_answer(
    bytes: &Bytes,
    max_fields: usize,
    request: &Method,
    map: &mut HeaderMap,
) -> Result<Answer, BadAnswer> {
    let mut table = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut []);
    let result = httparse::ParserConfig::default().parse_response_with_uninit_headers(
        &mut parsed,
        bytes,
        &mut table[..max_fields.min(FIELDS_MAX)],
    );
    match result {
        Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
        Err(httparse::Error::TooManyHeaders) => return Err(BadAnswer("it has too many fields")),
        _ => return Err(BadAnswer("its head is not HTTP/1")),
    }
    let (Some(code), Some(version)) = (parsed.code, parsed.version) else {
        return Err(BadAnswer("its status line is not HTTP/1"));
    };
    let status = match StatusCode::from_u16(code) {
        Ok(status) if code < 600 => status,
        _ => return Err(BadAnswer("its status is not between 100 and 599")),
    };
    let http10 = version == 0;
    let mut fields = Fields::new(map);
    for field in parsed.headers.iter() {
        fields.add(bytes, field).map_err(|_| BadAnswer("a field has bytes that may not be there"))?;
    }
    let connection =
        fields.connection(false).map_err(|_| BadAnswer("Connection names a field it may not name"))?;
    let framing = fields.answer_framing(status, request, http10)?;
    let upgrade = fields.upgrade.take().filter(|_| connection.upgrade);
    // What is not passed on by framing is passed on as a field: the length of what a GET would have brought.
    if framing == Framing::None
        && !(status.is_informational() || status == StatusCode::NO_CONTENT)
        && let Some(length) = fields.content_length
    {
        map.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let asked = if http10 { connection.keep_alive && !connection.close } else { !connection.close };
    Ok(Answer {
        version: version_of(http10),
        status,
        framing,
        keep_alive: asked && framing != Framing::Close,
        upgrade,
        headers: std::mem::take(map),
    })
}

fn version_of(http10: bool) -> Version {
    if http10 { Version::HTTP_10 } else { Version::HTTP_11 }
}

/// Fields of a complete trailer section (with its empty line); `None` if one is malformed. Those that have no place in
/// a trailer are dropped.
pub(crate) fn parse_trailers(section: &Bytes) -> Option<HeaderMap> {
    let mut table = [httparse::EMPTY_HEADER; 64];
    let parsed = match httparse::parse_headers(section, &mut table).ok()? {
        httparse::Status::Complete((length, parsed)) if length == section.len() => parsed,
        _ => return None,
    };
    let mut trailers = HeaderMap::new();
    for field in parsed {
        let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
        let value = HeaderValue::from_bytes(field.value).ok()?;
        if !belongs_in_head(&name) {
            trailers.append(name, value);
        }
    }
    Some(trailers)
}

/// Fields that frame, route or authenticate: meaningless or dangerous after the body (RFC 9110 §6.5.1).
fn belongs_in_head(name: &HeaderName) -> bool {
    is_connection_field(name)
        || [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONTENT_ENCODING,
            header::CONTENT_TYPE,
            header::CONTENT_RANGE,
            header::TRAILER,
            header::EXPECT,
            header::COOKIE,
            header::SET_COOKIE,
            header::AUTHORIZATION,
            header::CACHE_CONTROL,
            header::MAX_FORWARDS,
        ]
        .contains(name)
        || claims_origin(name)
}

/// Fields that say where a request comes from.
fn claims_origin(name: &HeaderName) -> bool {
    *name == header::FORWARDED || name.as_str().starts_with("x-forwarded-")
}

/// Fields that belong to one connection whether or not `Connection` names them.
fn is_connection_field(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TE
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "http2-settings")
}

fn refusal_of(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Refusal::HeadTooLarge,
        // HTTP/0.9 and things that are no version at all read like this too.
        httparse::Error::Version => match memchr::memmem::find(bytes, b" HTTP/") {
            Some(at) if bytes[at + 6..].first().is_some_and(u8::is_ascii_digit) => Refusal::Version,
            _ => Refusal::RequestLine,
        },
        httparse::Error::Token => Refusal::RequestLine,
        // Lines end well or were refused before: this is something after the version, or a CR where a field begins.
        httparse::Error::NewLine => match bytes.split(|byte| *byte == b'\r').next() {
            Some(line) if line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0") => Refusal::LineEnding,
            _ => Refusal::RequestLine,
        },
        _ => Refusal::Field,
    }
}

/// A field that is not one.
struct BadField;

/// What the fields of one head say, gathered in one pass.
struct Fields<'a> {
    map: &'a mut HeaderMap,
    content_length: Option<u64>,
    bad_length: bool,
    transfer_encoding: Option<Coding>,
    hosts: u32,
    connection: Vec<HeaderValue>,
    upgrade: Option<HeaderValue>,
    expect: Option<HeaderValue>,
    accepts_trailers: bool,
    claims_origin: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    Chunked,
    /// A registered coding that is not supported here.
    Unsupported,
    Nonsense,
}

/// What `Connection` says.
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn new(map: &'a mut HeaderMap) -> Self {
        Self {
            map,
            content_length: None,
            bad_length: false,
            transfer_encoding: None,
            hosts: 0,
            connection: Vec::new(),
            upgrade: None,
            expect: None,
            accepts_trailers: false,
            claims_origin: false,
        }
    }

    fn add(&mut self, head: &Bytes, field: &httparse::Header<'_>) -> Result<(), BadField> {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadField)?;
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value)).map_err(|_| BadField)?;
        match name {
            header::CONTENT_LENGTH => self.add_content_length(&value),
            header::TRANSFER_ENCODING => {
                let coding = Coding::of(value.as_bytes());
                // A second field makes a list, and a list is never exactly one `chunked`.
                self.transfer_encoding = Some(match self.transfer_encoding {
                    None => coding,
                    Some(_) => Coding::Nonsense,
                });
            }
            header::CONNECTION => self.connection.push(value),
            header::TE => {
                self.accepts_trailers |= tokens(value.as_bytes()).any(|token| {
                    let name = token.split(|byte| *byte == b';').next().unwrap_or_default();
                    name.trim_ascii().eq_ignore_ascii_case(b"trailers")
                });
            }
            header::UPGRADE => self.upgrade = Some(value),
            header::EXPECT => self.expect = Some(value),
            name if is_connection_field(&name) => {}
            name => {
                self.hosts += u32::from(name == header::HOST);
                self.claims_origin |= claims_origin(&name);
                self.map.try_append(name, value).map_err(|_| BadField)?;
            }
        }
        Ok(())
    }

    /// One number, or the same number again (RFC 9110 §8.6).
    fn add_content_length(&mut self, value: &HeaderValue) {
        let digits = value.as_bytes();
        let number = (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit))
            .then(|| std::str::from_utf8(digits).ok()?.parse().ok())
            .flatten();
        match (number, self.content_length) {
            (None, _) => self.bad_length = true,
            (Some(number), Some(before)) if number != before => self.bad_length = true,
            (Some(number), _) => self.content_length = Some(number),
        }
    }

    fn request_framing(&self, http10: bool) -> Result<Framing, Refusal> {
        if self.bad_length {
            return Err(Refusal::ContentLength);
        }
        match (self.transfer_encoding, self.content_length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(_), Some(_)) => Err(Refusal::LengthConflict),
            (Some(_), None) if http10 => Err(Refusal::TransferEncoding),
            (Some(Coding::Chunked), None) => Ok(Framing::Chunked),
            (Some(Coding::Unsupported), None) => Err(Refusal::TransferCoding),
            (Some(Coding::Nonsense), None) => Err(Refusal::TransferEncoding),
        }
    }

    fn answer_framing(
        &self,
        status: StatusCode,
        request: &Method,
        http10: bool,
    ) -> Result<Framing, BadAnswer> {
        if self.bad_length {
            return Err(BadAnswer("its Content-Length is not one number"));
        }
        let framing = match (self.transfer_encoding, self.content_length) {
            (None, None) => Framing::Close,
            (None, Some(length)) => Framing::Length(length),
            (Some(_), Some(_)) => return Err(BadAnswer("it has Content-Length and Transfer-Encoding")),
            (Some(Coding::Chunked), None) if !http10 => Framing::Chunked,
            (Some(_), None) => return Err(BadAnswer("its Transfer-Encoding is not exactly chunked")),
        };
        let bodiless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || request == Method::HEAD;
        Ok(if bodiless { Framing::None } else { framing })
    }

    /// The host that the request is for: exactly one, well formed, and the same wherever it is said.
    fn host(&mut self, authority: Option<HeaderValue>, http10: bool) -> Result<Option<HeaderValue>, Refusal> {
        if self.hosts > 1 || (self.hosts == 0 && !http10) {
            return Err(Refusal::Host);
        }
        let host = self.map.get(header::HOST);
        for value in [host, authority.as_ref()].into_iter().flatten() {
            if !is_host(value.as_bytes()) {
                return Err(Refusal::Host);
            }
        }
        match (host, authority) {
            (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
                Err(Refusal::Host)
            }
            (None, Some(authority)) => {
                self.map.insert(header::HOST, authority.clone());
                Ok(Some(authority))
            }
            (host, _) => Ok(host.cloned()),
        }
    }

    /// Takes out of the map what `Connection` names.
    fn connection(&mut self, of_request: bool) -> Result<Connection, BadField> {
        let mut connection = Connection { close: false, keep_alive: false, upgrade: false };
        for value in std::mem::take(&mut self.connection) {
            for token in tokens(value.as_bytes()) {
                if token.eq_ignore_ascii_case(b"close") {
                    connection.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    connection.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    connection.upgrade = true;
                } else {
                    let name = HeaderName::from_bytes(token).map_err(|_| BadField)?;
                    let needed = [
                        header::HOST,
                        header::CONTENT_LENGTH,
                        header::COOKIE,
                        header::AUTHORIZATION,
                        header::SET_COOKIE,
                        header::TRANSFER_ENCODING,
                    ];
                    if needed.contains(&name) {
                        if of_request {
                            return Err(BadField);
                        }
                        continue;
                    }
                    self.map.remove(name);
                }
            }
        }
        Ok(connection)
    }

    fn asks_for_websocket(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
    }
}

impl Coding {
    fn of(value: &[u8]) -> Self {
        if value.eq_ignore_ascii_case(b"chunked") {
            return Self::Chunked;
        }
        let registered = |token: &[u8]| {
            [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
                .iter()
                .any(|coding| token.eq_ignore_ascii_case(coding))
        };
        let mut list: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
        if list.last().is_some_and(|last| last.eq_ignore_ascii_case(b"chunked")) {
            list.pop();
        }
        if !list.is_empty() && list.into_iter().all(registered) { Self::Unsupported } else { Self::Nonsense }
    }
}

/// The members of a comma-separated list, without empty ones.
fn tokens(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

/// A request target in its parts (RFC 9112 §3.2).
struct Target {
    authority: Option<HeaderValue>,
    path: PathAndQuery,
}

impl Target {
    fn parse(method: &Method, target: &str, head: &Bytes) -> Result<Self, Refusal> {
        if target.bytes().any(|byte| !(b'!'..=b'~').contains(&byte) || byte == b'#') {
            return Err(Refusal::Target);
        }
        let path = |text: &str| {
            PathAndQuery::from_maybe_shared(head.slice_ref(text.as_bytes())).map_err(|_| Refusal::Target)
        };
        match target.as_bytes() {
            [b'/', ..] => return Ok(Self { authority: None, path: path(target)? }),
            b"*" if method == Method::OPTIONS => {
                return Ok(Self { authority: None, path: PathAndQuery::from_static("*") });
            }
            _ => {}
        }
        let (scheme, rest) = target.split_once("://").ok_or(Refusal::Target)?;
        if !["http", "https"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return Err(Refusal::Target);
        }
        let (authority, path) = match rest.find(['/', '?']) {
            None => (rest, PathAndQuery::from_static("/")),
            Some(at) if rest.as_bytes()[at] == b'/' => (&rest[..at], path(&rest[at..])?),
            Some(at) => (&rest[..at], format!("/{}", &rest[at..]).parse().map_err(|_| Refusal::Target)?),
        };
        let authority = HeaderValue::from_str(authority).map_err(|_| Refusal::Host)?;
        Ok(Self { authority: Some(authority), path })
    }
}

/// `uri-host [":" port]` (RFC 9110 §7.2), without user information and never empty.
fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match memchr::memchr(b']', rest) {
            Some(end) if rest[..end].iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) => {
                (&rest[..end], &rest[end + 1..])
            }
            _ => return false,
        },
        _ => value.split_at(memchr::memchr(b':', value).unwrap_or(value.len())),
    };
    let host_is_fine = !host.is_empty()
        && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%:".contains(byte));
    let port_is_fine = match port {
        [] | [b':'] => true,
        [b':', digits @ ..] => {
            digits.iter().all(u8::is_ascii_digit)
                && std::str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
        }
        _ => false,
    };
    host_is_fine && port_is_fine
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
