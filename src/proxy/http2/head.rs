//! Request heads that came as HTTP/2 (RFC 9113 §8), checked as strictly as those of HTTP/1 before they become one.
//!
//! `h2` has refused some already by then and reset their streams: pseudo-fields that are missing, doubled, unknown or late,
//! names in upper case, control bytes in values, fields of the connection, lengths that differ. What it lets pass is
//! refused here. Routing and forwarding are not known here.

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Version};

use crate::pool::Refusal;
use crate::proxy::fields::Fields;
use crate::proxy::http1::framing::{Framing, TRAILERS_MAX};
use crate::proxy::http1::head::{Limits, TRAILER_FIELDS_MAX, belongs_in_head};
use crate::proxy::http1::names::Role;
use crate::proxy::http1::target::is_host;
use crate::proxy::request::Head;

/// Cookies that come in a field each: they become one field, so they count as one.
pub(super) const CRUMBS_MAX: usize = 256;

/// A request head, and where its body ends.
pub(super) struct Request {
    pub(super) head: Head,
    /// How the body is delimited on its way to a target that speaks HTTP/1.
    pub(super) framing: Framing,
}

/// Takes a head apart. `fields` is an empty list whose room is used. With `bodiless`, the stream ended with
/// the head.
pub(super) fn read(
    request: Parts,
    bodiless: bool,
    limits: Limits,
    fields: &mut Fields,
) -> Result<Request, Refusal> {
    check_size(&request, limits)?;
    let websocket = asks_for_websocket(&request);
    if (request.method == Method::CONNECT && !websocket) || request.method == Method::TRACE {
        return Err(Refusal::Method);
    }
    let path = path(&request)?;
    let authority = authority(&request)?;
    let mut seen = Seen::default();
    gather(request.headers, fields, &mut seen)?;
    join(std::mem::take(&mut seen.crumbs), fields)?;
    host(authority, fields)?;
    let framing = match (bodiless, seen.length) {
        // What follows is no body, and what would be one is no tunnel.
        (false, None) if websocket => Framing::None,
        _ if websocket => return Err(Refusal::Http2Message),
        (true, None) => Framing::None,
        // Trailers need chunks.
        (_, Some(length)) if bodiless || !fields.contains(header::TRAILER) => Framing::Length(length),
        _ => Framing::Chunked,
    };
    let expect_continue = match seen.expect {
        None => false,
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => !bodiless,
        Some(_) => return Err(Refusal::Expectation),
    };
    let head = Head {
        version: Version::HTTP_2,
        method: if websocket { Method::GET } else { request.method },
        path,
        accepts_trailers: seen.accepts_trailers,
        claims_origin: seen.claims_origin,
        expect_continue,
        websocket,
        headers: std::mem::take(fields),
    };
    Ok(Request { head, framing })
}

/// Whether this opens a WebSocket on its stream (RFC 8441 §5), which in HTTP/1 is a GET.
fn asks_for_websocket(request: &Parts) -> bool {
    let protocol = request.extensions.get::<h2::ext::Protocol>();
    request.method == Method::CONNECT
        && protocol.is_some_and(|protocol| protocol.as_str().eq_ignore_ascii_case("websocket"))
}

/// What one pass over the fields finds beside those that are end to end.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    expect: Option<HeaderValue>,
    accepts_trailers: bool,
    claims_origin: bool,
    crumbs: Vec<HeaderValue>,
}

/// Fields are counted and measured as HTTP/1 would write them.
fn check_size(request: &Parts, limits: Limits) -> Result<(), Refusal> {
    let target = request.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if target > limits.max_head {
        return Err(Refusal::TargetTooLong);
    }
    let (mut count, mut crumbs) = (0, 0);
    let mut size = target + request.uri.authority().map_or(0, |host| host.as_str().len());
    for (name, value) in &request.headers {
        *(if *name == header::COOKIE { &mut crumbs } else { &mut count }) += 1;
        size += name.as_str().len() + value.len() + 4;
    }
    let count = count + usize::from(crumbs > 0);
    if count > limits.max_fields || crumbs > CRUMBS_MAX || size > limits.max_head {
        return Err(Refusal::HeadTooLarge);
    }
    Ok(())
}

fn path(request: &Parts) -> Result<PathAndQuery, Refusal> {
    let path = request.uri.path_and_query().ok_or(Refusal::Target)?;
    let text = path.as_str().as_bytes();
    if text == b"*" && request.method == Method::OPTIONS {
        return Ok(path.clone());
    }
    if !text.starts_with(b"/") || text.iter().any(|byte| !(b'!'..=b'~').contains(byte) || *byte == b'#') {
        return Err(Refusal::Target);
    }
    if !request.uri.scheme_str().is_none_or(|scheme| scheme == "http" || scheme == "https") {
        return Err(Refusal::Target);
    }
    Ok(path.clone())
}

fn authority(request: &Parts) -> Result<Option<HeaderValue>, Refusal> {
    let Some(authority) = request.uri.authority() else { return Ok(None) };
    HeaderValue::from_str(authority.as_str()).map(Some).map_err(|_| Refusal::Host)
}

fn gather(headers: HeaderMap, fields: &mut Fields, seen: &mut Seen) -> Result<(), Refusal> {
    let mut last: Option<(HeaderName, Role)> = None;
    for (name, value) in headers {
        // Of several values of a name, only the first comes with it.
        if let Some(name) = name {
            let role = Role::of(&name);
            last = Some((name, role));
        }
        let Some((name, role)) = &last else { return Err(Refusal::Http2Message) };
        if has_outer_space(&value) {
            return Err(Refusal::Field);
        }
        match role {
            Role::EndToEnd if *name == header::COOKIE => seen.crumbs.push(value),
            Role::EndToEnd | Role::Host => fields.append(name.clone(), value),
            Role::Origin => {
                seen.claims_origin = true;
                fields.append(name.clone(), value);
            }
            Role::ContentLength => seen.length = Some(length(&value, seen.length)?),
            Role::Te if value.as_bytes() == b"trailers" => seen.accepts_trailers = true,
            Role::Expect => seen.expect = Some(value),
            Role::Connection | Role::TransferEncoding | Role::Upgrade | Role::Te | Role::Hop => {
                return Err(Refusal::Http2Message);
            }
        }
    }
    Ok(())
}

/// One number, or the same number again (RFC 9110 §8.6).
fn length(value: &HeaderValue, before: Option<u64>) -> Result<u64, Refusal> {
    let digits = value.to_str().map_err(|_| Refusal::ContentLength)?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::ContentLength);
    }
    let length = digits.parse().map_err(|_| Refusal::ContentLength)?;
    if before.is_some_and(|before| before != length) {
        return Err(Refusal::ContentLength);
    }
    Ok(length)
}

/// White space around a value is not part of it in HTTP/1, and may not be there in HTTP/2 (RFC 9113 §8.2.1).
fn has_outer_space(value: &HeaderValue) -> bool {
    let space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    space(value.as_bytes().first()) || space(value.as_bytes().last())
}

/// Cookies that came one by one are one field for everybody who reads them (RFC 9113 §8.2.3).
fn join(crumbs: Vec<HeaderValue>, fields: &mut Fields) -> Result<(), Refusal> {
    let cookie = match <[HeaderValue; 1]>::try_from(crumbs) {
        Ok([only]) => only,
        Err(crumbs) if crumbs.is_empty() => return Ok(()),
        Err(crumbs) => {
            let crumbs: Vec<_> = crumbs.iter().map(HeaderValue::as_bytes).collect();
            let joined = Bytes::from(crumbs.join(&b"; "[..]));
            HeaderValue::from_maybe_shared(joined).map_err(|_| Refusal::Field)?
        }
    };
    fields.append(header::COOKIE, cookie);
    Ok(())
}

/// The host that the request is for: `:authority` or Host, and the same if it is said twice.
fn host(authority: Option<HeaderValue>, fields: &mut Fields) -> Result<(), Refusal> {
    let mut hosts = fields.get_all(header::HOST);
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err(Refusal::Host);
    }
    for value in [host, authority.as_ref()].into_iter().flatten() {
        if !is_host(value.as_bytes()) {
            return Err(Refusal::Host);
        }
    }
    match (host, authority) {
        (None, None) => Err(Refusal::Host),
        (Some(host), Some(authority)) if !host.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) => {
            Err(Refusal::Host)
        }
        (Some(_), _) => Ok(()),
        (None, Some(authority)) => {
            drop(hosts);
            fields.append(header::HOST, authority);
            Ok(())
        }
    }
}

/// Trailers without those that have no place there; `None` if one is malformed or there are too many.
pub(super) fn trailers(sent: &HeaderMap) -> Option<HeaderMap> {
    let size: usize = sent.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if sent.len() > TRAILER_FIELDS_MAX || size > TRAILERS_MAX || sent.values().any(has_outer_space) {
        return None;
    }
    let mut trailers = HeaderMap::new();
    for (name, value) in sent {
        if !belongs_in_head(name, Role::of(name)) {
            trailers.append(name.clone(), value.clone());
        }
    }
    Some(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request as Message;

    const LIMITS: Limits = Limits { max_head: 1024, max_fields: 10 };

    fn parts(method: &str, uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut message = Message::builder().method(method).uri(uri);
        for (name, value) in fields {
            message = message.header(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        message.body(()).unwrap().into_parts().0
    }

    fn refusal(uri: &str, fields: &[(&str, &str)]) -> Option<Refusal> {
        read(parts("GET", uri, fields), true, LIMITS, &mut Fields::new()).err()
    }

    #[test]
    fn what_h2_lets_pass_is_refused() {
        let good = "https://shop.test/";
        assert_eq!(refusal(good, &[("host", "SHOP.test"), ("te", "trailers")]), None);
        for (uri, fields, expected) in [
            (good, vec![("host", "other.test")], Refusal::Host),
            (good, vec![("host", "shop.test"), ("host", "shop.test")], Refusal::Host),
            ("https://user@shop.test/", vec![], Refusal::Host),
            ("/", vec![], Refusal::Host),
            ("ftp://shop.test/", vec![], Refusal::Target),
            (good, vec![("x", " a")], Refusal::Field),
            (good, vec![("x", "a\t")], Refusal::Field),
            (good, vec![("content-length", "+1")], Refusal::ContentLength),
            (good, vec![("content-length", "1"), ("content-length", "2")], Refusal::ContentLength),
            (good, vec![("connection", "close")], Refusal::Http2Message),
            (good, vec![("te", "gzip")], Refusal::Http2Message),
            (good, vec![("expect", "200-ok")], Refusal::Expectation),
            (good, vec![("x", "y"); 11], Refusal::HeadTooLarge),
            (good, vec![("cookie", "a=1"); CRUMBS_MAX + 1], Refusal::HeadTooLarge),
        ] {
            assert_eq!(refusal(uri, &fields), Some(expected), "{uri} {fields:?}");
        }
        let long = format!("https://shop.test/{}", "a".repeat(1024));
        assert_eq!(refusal(&long, &[]), Some(Refusal::TargetTooLong));
    }

    #[test]
    fn crumbs_are_one_cookie() {
        let sent = parts("GET", "https://shop.test/", &[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
        let request = read(sent, true, LIMITS, &mut Fields::new()).unwrap_or_else(|_| panic!("it is fine"));
        let cookies: Vec<_> = request.head.headers.get_all(header::COOKIE).collect();
        assert_eq!(cookies, ["a=1; b=2"]);
        assert_eq!(request.head.headers[header::HOST], "shop.test");
    }

    #[test]
    fn a_body_keeps_its_length_unless_trailers_follow() {
        let framing = |fields: &[(&str, &str)], bodiless| {
            let sent = parts("POST", "https://shop.test/", fields);
            read(sent, bodiless, LIMITS, &mut Fields::new()).map(|request| request.framing).ok()
        };
        assert_eq!(framing(&[], true), Some(Framing::None));
        assert_eq!(framing(&[("content-length", "0")], true), Some(Framing::Length(0)));
        assert_eq!(framing(&[("content-length", "7")], false), Some(Framing::Length(7)));
        assert_eq!(framing(&[("content-length", "7"), ("trailer", "x")], false), Some(Framing::Chunked));
        assert_eq!(framing(&[], false), Some(Framing::Chunked));
    }
}
