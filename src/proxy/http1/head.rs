//! Reading HTTP/1 heads strictly (RFC 9112 §2 to §6): what is ambiguous is refused, what belongs to the connection is
//! taken out, what is left is end to end.
//!
//! `httparse` splits the bytes; it lets bare LF pass and knows no semantics, so line ends are checked before it and
//! lengths, Host, Connection and the target after it. The list of fields that comes out has no Content-Length,
//! Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection, TE, Upgrade, HTTP2-Settings or Expect: the body's framing
//! and the flags beside it say the same without ambiguity. Routing and forwarding are not known here.

use std::mem::MaybeUninit;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use super::framing::Framing;
use super::hop::{Hop, claims_origin, is_connection_field};
use super::target::Target;
use crate::pool::Refusal;
use crate::proxy::fields::Fields;
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
    pub(crate) headers: Fields,
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

/// Takes the request head off `buffer` once it is all there. `scanned` is where the last call stopped; `fields` is an
/// empty list whose room is used.
pub(crate) fn take_request(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: Limits,
    fields: &mut Fields,
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
    parse_request(&bytes, limits.max_fields, fields).map(Some)
}

/// Of a head that is too large, whether the request line alone is.
fn too_large(buffer: &[u8], limits: Limits) -> Refusal {
    match memchr::memchr(b'\n', &buffer[..limits.max_head.min(buffer.len())]) {
        Some(_) => Refusal::HeadTooLarge,
        None => Refusal::TargetTooLong,
    }
}

fn parse_request(bytes: &Bytes, max_fields: usize, fields: &mut Fields) -> Result<Request, Refusal> {
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
    let mut hop = Hop::new(fields);
    for field in parsed.headers.iter() {
        hop.add(bytes, field).map_err(|_| Refusal::Field)?;
    }
    let framing = hop.request_framing(http10)?;
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let Target { authority, path } = Target::parse(&method, target, bytes)?;
    hop.host(authority, http10)?;
    let expect_continue = match hop.expect.take() {
        None => false,
        Some(_) if http10 => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => framing != Framing::None,
        Some(_) => return Err(Refusal::Expectation),
    };
    let connection = hop.connection(true).map_err(|_| Refusal::Connection)?;
    let websocket = connection.upgrade && hop.asks_for_websocket() && !http10;
    let websocket = websocket && method == Method::GET && framing == Framing::None;
    Ok(Request {
        framing,
        http10,
        keep_alive: if http10 { connection.keep_alive && !connection.close } else { !connection.close },
        head: Head {
            version: version_of(http10),
            method,
            path,
            accepts_trailers: hop.accepts_trailers,
            claims_origin: hop.claims_origin,
            expect_continue,
            websocket,
            headers: std::mem::take(fields),
        },
    })
}

/// Takes an answer's head off `buffer` once it is all there. `request` is the method it answers.
pub(crate) fn take_answer(
    buffer: &mut BytesMut,
    scanned: &mut usize,
    limits: Limits,
    request: &Method,
    fields: &mut Fields,
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
    parse_answer(&bytes, limits.max_fields, request, fields).map(Some)
}

fn parse_answer(
    bytes: &Bytes,
    max_fields: usize,
    request: &Method,
    fields: &mut Fields,
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
    let mut hop = Hop::new(fields);
    for field in parsed.headers.iter() {
        hop.add(bytes, field).map_err(|_| BadAnswer("a field has bytes that may not be there"))?;
    }
    let connection =
        hop.connection(false).map_err(|_| BadAnswer("Connection names a field it may not name"))?;
    let framing = hop.answer_framing(status, request, http10)?;
    let upgrade = hop.upgrade.take().filter(|_| connection.upgrade);
    // What is not passed on by framing is passed on as a field: the length of what a GET would have brought.
    if framing == Framing::None
        && !(status.is_informational() || status == StatusCode::NO_CONTENT)
        && let Some(length) = hop.content_length
    {
        fields.append(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let asked = if http10 { connection.keep_alive && !connection.close } else { !connection.close };
    Ok(Answer {
        version: version_of(http10),
        status,
        framing,
        keep_alive: asked && framing != Framing::Close,
        upgrade,
        headers: std::mem::take(fields),
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

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
