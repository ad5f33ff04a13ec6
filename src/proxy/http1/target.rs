//! The request target and the host that it is for (RFC 9112 §3.2, RFC 9110 §7.2).
//!
//! Accepts the origin form, the absolute form, and `*` for OPTIONS; never a fragment or user information. Whether target
//! and `Host` agree is asked in `hop`, where both are known.

use bytes::Bytes;
use http::Method;
use http::header::HeaderValue;
use http::uri::PathAndQuery;

use crate::pool::Refusal;

/// A request target in its parts (RFC 9112 §3.2).
pub(super) struct Target {
    pub(super) authority: Option<HeaderValue>,
    pub(super) path: PathAndQuery,
}

impl Target {
    pub(super) fn parse(method: &Method, target: &str, head: &Bytes) -> Result<Self, Refusal> {
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
pub(super) fn is_host(value: &[u8]) -> bool {
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
