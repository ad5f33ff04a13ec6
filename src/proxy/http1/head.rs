//! Reading HTTP/1 heads strictly (RFC 9112 §2 to §6): what is ambiguous is refused, what belongs to the connection is
//! taken out, what is left is end to end.
//!
//! `lines` splits the bytes, `hop` gathers what the fields say, `target` reads what the request is for; here is the order.
//! The list of fields that comes out has no Content-Length,
//! Transfer-Encoding, Connection, Keep-Alive, Proxy-Connection, TE, Upgrade, HTTP2-Settings or Expect: the body's framing
//! and the flags beside it say the same without ambiguity. Routing and forwarding are not known here.

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};

use super::framing::Framing;
use super::hop::Hop;
use super::lines::{self, Lines, end_of_head};
use super::names::{Names, Role};
use super::target::Target;
use crate::pool::Refusal;
use crate::proxy::fields::Fields;
use crate::proxy::request::Head;

/// Fields of a head at most; `max_fields` is at most this.
pub(crate) const FIELDS_MAX: usize = 256;
/// Fields of a trailer section at most.
pub(crate) const TRAILER_FIELDS_MAX: usize = 64;

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
    Names::with(|names| parse_request(&bytes, limits.max_fields, names, fields)).map(Some)
}

/// Of a head that is too large, whether the request line alone is.
fn too_large(buffer: &[u8], limits: Limits) -> Refusal {
    match memchr::memchr(b'\n', &buffer[..limits.max_head.min(buffer.len())]) {
        Some(_) => Refusal::HeadTooLarge,
        None => Refusal::TargetTooLong,
    }
}

fn parse_request(
    head: &Bytes,
    max_fields: usize,
    names: &mut Names,
    fields: &mut Fields,
) -> Result<Request, Refusal> {
    let mut lines = Lines::of(head, names);
    let (method, target, version) = lines::request_line(lines.start_line()?)?;
    let http10 = version == Version::HTTP_10;
    let mut hop = Hop::new(fields);
    let mut count = 0;
    while let Some(field) = lines.next_field()? {
        count += 1;
        if count > max_fields {
            return Err(Refusal::HeadTooLarge);
        }
        hop.add(field);
    }
    let framing = hop.request_framing(http10)?;
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let Target { authority, path } = Target::parse(&method, target, &lines)?;
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
            version,
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
        Err(refusal) => return Err(bad_line(refusal)),
    };
    *scanned = 0;
    let bytes = buffer.split_to(end).freeze();
    Names::with(|names| parse_answer(&bytes, limits.max_fields, request, names, fields)).map(Some)
}

fn parse_answer(
    head: &Bytes,
    max_fields: usize,
    request: &Method,
    names: &mut Names,
    fields: &mut Fields,
) -> Result<Answer, BadAnswer> {
    let mut lines = Lines::of(head, names);
    let (version, status) = lines::status_line(lines.start_line().map_err(bad_line)?).map_err(BadAnswer)?;
    let http10 = version == Version::HTTP_10;
    let mut hop = Hop::new(fields);
    let mut count = 0;
    while let Some(field) = lines.next_field().map_err(bad_line)? {
        count += 1;
        if count > max_fields {
            return Err(BadAnswer("it has too many fields"));
        }
        hop.add(field);
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
        version,
        status,
        framing,
        keep_alive: asked && framing != Framing::Close,
        upgrade,
        headers: std::mem::take(fields),
    })
}

/// What is wrong with an answer's line.
fn bad_line(refusal: Refusal) -> BadAnswer {
    BadAnswer(match refusal {
        Refusal::ObsFold => "a field is continued on the next line",
        Refusal::LineEnding => "a line does not end in CRLF",
        Refusal::Field => "a field has bytes that may not be there",
        _ => "its status line is not HTTP/1",
    })
}

/// Fields of a complete trailer section (with its empty line); `None` if one is malformed. Those that have no place in
/// a trailer are dropped.
pub(crate) fn parse_trailers(section: &Bytes) -> Option<HeaderMap> {
    Names::with(|names| read_trailers(&mut Lines::of(section, names)))
}

fn read_trailers(lines: &mut Lines<'_>) -> Option<HeaderMap> {
    let mut trailers = HeaderMap::new();
    let mut count = 0;
    while let Some(field) = lines.next_field().ok()? {
        count += 1;
        if count > TRAILER_FIELDS_MAX {
            return None;
        }
        if !belongs_in_head(&field.name, field.role) {
            trailers.append(field.name, field.value);
        }
    }
    Some(trailers)
}

/// Fields that frame, route or authenticate: meaningless or dangerous after the body (RFC 9110 §6.5.1).
pub(crate) fn belongs_in_head(name: &HeaderName, role: Role) -> bool {
    role != Role::EndToEnd
        || [
            header::CONTENT_ENCODING,
            header::CONTENT_TYPE,
            header::CONTENT_RANGE,
            header::TRAILER,
            header::COOKIE,
            header::SET_COOKIE,
            header::AUTHORIZATION,
            header::CACHE_CONTROL,
            header::MAX_FORWARDS,
        ]
        .contains(name)
}

/// Whether a field speaks of the connection or of the body's framing, and is not passed on as it is.
pub(crate) fn is_of_connection(name: &HeaderName) -> bool {
    !matches!(Role::of(name), Role::EndToEnd | Role::Host | Role::Origin)
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
