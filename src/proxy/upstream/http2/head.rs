//! Heads of HTTP/2: a request for a target, and what a target answers, taken as strictly as from HTTP/1.1 (RFC 9113 §8).
//!
//! The `h2` crate has seen to pseudo fields, to fields of the connection, to the bytes of names and values, and that the body
//! is as long as Content-Length says. What is left, and what the rest of the proxy relies on, is looked at here.

use std::net::SocketAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Parts, Scheme};
use http::{Method, Request, StatusCode, Uri, Version};

use crate::proxy::fields::Fields;
use crate::proxy::http1::framing::Framing;
use crate::proxy::http1::head::{self, Answer, BadAnswer};
use crate::proxy::http1::names::Role;
use crate::proxy::request::Head;

/// The head of a request as the `h2` crate sends it. `:scheme` says what the connection to the target is, as many servers insist;
/// what the client's is stands in `X-Forwarded-Proto`. A request without a host gets the target's own address.
pub(super) fn request(
    head: &Head,
    framing: Framing,
    scheme: Scheme,
    target: SocketAddr,
) -> Result<Request<()>, http::Error> {
    let authority = match head.host() {
        Some(host) => Authority::try_from(host.as_bytes())?,
        None => Authority::try_from(target.to_string())?,
    };
    let mut uri = Parts::default();
    (uri.scheme, uri.authority) = (Some(scheme), Some(authority));
    uri.path_and_query = Some(head.path.clone());
    let mut request = Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = Uri::from_parts(uri)?;
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    for (name, value) in head.headers.iter() {
        if *name != header::HOST && *name != header::COOKIE {
            headers.try_append(name.clone(), value.clone())?;
        }
    }
    if let Some(cookies) = cookies(&head.headers) {
        headers.try_append(header::COOKIE, cookies)?;
    }
    if head.accepts_trailers {
        headers.try_append(header::TE, HeaderValue::from_static("trailers"))?;
    }
    if head.expect_continue {
        headers.try_append(header::EXPECT, HeaderValue::from_static("100-continue"))?;
    }
    if let Framing::Length(length) = framing {
        headers.try_append(header::CONTENT_LENGTH, HeaderValue::from(length))?;
    }
    Ok(request)
}

/// All cookies as one field: HTTP/2 lets a client send a field for each.
fn cookies(fields: &Fields) -> Option<HeaderValue> {
    let mut all = fields.get_all(header::COOKIE);
    let first = all.next()?;
    let mut rest = all.peekable();
    if rest.peek().is_none() {
        return Some(first.clone());
    }
    let mut joined = first.as_bytes().to_vec();
    for cookies in rest {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(cookies.as_bytes());
    }
    HeaderValue::from_bytes(&joined).ok()
}

/// The head of an answer to a request with `method`. `ended`: nothing comes after it. `fields` is an empty list whose room is
/// used.
pub(super) fn answer(
    status: StatusCode,
    headers: HeaderMap,
    ended: bool,
    method: &Method,
    mut fields: Fields,
) -> Result<Answer, BadAnswer> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return Err(BadAnswer("it switches protocols, which HTTP/2 cannot"));
    }
    if status.as_u16() > 599 {
        return Err(BadAnswer("its status is not between 100 and 599"));
    }
    let mut length = None;
    let (mut name, mut count) = (None, 0);
    for (next, value) in headers {
        name = next.or(name);
        let Some(name) = &name else { continue };
        count += 1;
        if count > head::FIELDS_MAX {
            return Err(BadAnswer("it has too many fields"));
        }
        if let ([b' ' | b'\t', ..], _) | (_, [.., b' ' | b'\t']) = (value.as_bytes(), value.as_bytes()) {
            return Err(BadAnswer("a field begins or ends with white space"));
        }
        if *name == header::CONTENT_LENGTH {
            length = Some(number(&value).ok_or(BadAnswer("its Content-Length is not one number"))?);
        } else if !head::is_of_connection(name) {
            fields.append(name.clone(), value);
        }
    }
    let bodiless = status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || method == Method::HEAD;
    let framing = match length {
        _ if bodiless => Framing::None,
        Some(length) => Framing::Length(length),
        None if ended => Framing::Length(0),
        None => Framing::Chunked,
    };
    // As with HTTP/1.1: the length of what a GET would have brought.
    if bodiless
        && !(status.is_informational() || status == StatusCode::NO_CONTENT)
        && let Some(length) = length
    {
        fields.append(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Answer { version: Version::HTTP_2, status, headers: fields, framing, keep_alive: true, upgrade: None })
}

fn number(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    (!digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// Trailers without what has no place there; `None` if there are too many.
pub(super) fn trailers(mut trailers: HeaderMap) -> Option<HeaderMap> {
    if trailers.len() > head::TRAILER_FIELDS_MAX {
        return None;
    }
    let misplaced: Vec<_> =
        trailers.keys().filter(|name| head::belongs_in_head(name, Role::of(name))).cloned().collect();
    for name in misplaced {
        trailers.remove(name);
    }
    Some(trailers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::uri::PathAndQuery;

    fn answered(
        status: u16,
        fields: &[(&'static str, &'static str)],
        ended: bool,
    ) -> Result<Answer, BadAnswer> {
        let headers = fields
            .iter()
            .map(|(name, value)| (header::HeaderName::from_static(name), HeaderValue::from_static(value)));
        let status = StatusCode::from_u16(status).unwrap();
        answer(status, headers.collect(), ended, &Method::GET, Fields::new())
    }

    #[test]
    fn a_request_says_its_host_once_and_its_cookies_in_one_field() {
        let mut head =
            Head::get(HeaderValue::from_static("shop.test:8080"), PathAndQuery::from_static("/a?b=c"));
        head.headers.append(header::COOKIE, HeaderValue::from_static("a=1"));
        head.headers.append(header::ACCEPT, HeaderValue::from_static("*/*"));
        head.headers.append(header::COOKIE, HeaderValue::from_static("b=2"));
        head.accepts_trailers = true;
        let target = SocketAddr::from(([127, 0, 0, 1], 9001));
        let sent = request(&head, Framing::Length(3), Scheme::HTTPS, target).unwrap();
        assert_eq!(sent.uri(), "https://shop.test:8080/a?b=c");
        let fields: Vec<_> = sent.headers().iter().map(|(name, value)| (name.as_str(), value)).collect();
        assert_eq!(fields.len(), 4, "{fields:?}");
        for field in [("accept", "*/*"), ("cookie", "a=1; b=2"), ("te", "trailers"), ("content-length", "3")]
        {
            assert!(
                fields.iter().any(|(name, value)| (*name, value.to_str().unwrap()) == field),
                "{field:?}"
            );
        }
        head.headers.retain(|name, _| *name != header::HOST);
        let sent = request(&head, Framing::None, Scheme::HTTP, target).unwrap();
        assert_eq!(sent.uri(), "http://127.0.0.1:9001/a?b=c");
    }

    #[test]
    fn an_answer_is_framed_by_what_it_says_and_by_its_status() {
        for (status, length, ended, framing) in [
            (200, None, false, Framing::Chunked),
            (200, None, true, Framing::Length(0)),
            (200, Some("5"), false, Framing::Length(5)),
            (204, None, false, Framing::None),
            (304, Some("5"), true, Framing::None),
            (103, None, false, Framing::None),
        ] {
            let fields: Vec<_> = length.map(|length| ("content-length", length)).into_iter().collect();
            let answer = answered(status, &fields, ended).unwrap();
            assert_eq!(answer.framing, framing, "{status}");
            assert_eq!(answer.headers.contains("content-length"), status == 304);
        }
    }

    #[test]
    fn an_answer_that_may_not_be_passed_on_is_refused() {
        for (status, fields) in [
            (101, &[][..]),
            (600, &[]),
            (999, &[]),
            (200, &[("content-length", "+5")]),
            (200, &[("content-length", "")]),
            (200, &[("content-length", "99999999999999999999")]),
            (200, &[("x-a", " b")]),
            (200, &[("x-a", "b\t")]),
        ] {
            assert!(answered(status, fields, false).is_err(), "{status} {fields:?}");
        }
        let mut many = HeaderMap::new();
        for number in 0..=head::FIELDS_MAX {
            many.append("x-a", HeaderValue::from(number));
        }
        assert!(answer(StatusCode::OK, many, false, &Method::GET, Fields::new()).is_err());
    }

    #[test]
    fn fields_of_a_connection_do_not_pass_and_equal_names_all_do() {
        let fields = [("te", "trailers"), ("expect", "x"), ("set-cookie", "a=1"), ("set-cookie", "b=2")];
        let answer = answered(200, &fields, true).unwrap();
        let left: Vec<_> =
            answer.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        assert_eq!(left, [("set-cookie", "a=1"), ("set-cookie", "b=2")]);
    }

    #[test]
    fn trailers_neither_frame_nor_route() {
        let mut sent = HeaderMap::new();
        for name in ["grpc-status", "content-length", "host", "set-cookie", "x-sum"] {
            sent.append(name, HeaderValue::from_static("0"));
        }
        let kept = trailers(sent).unwrap();
        let mut names: Vec<_> = kept.keys().map(header::HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["grpc-status", "x-sum"]);
    }
}
