//! The request target and the host that it is for (RFC 9112 §3.2, RFC 9110 §7.2).
//!
//! Accepts the origin form, the absolute form, and `*` for OPTIONS; never a fragment or user information. Whether target
//! and `Host` agree is asked in `hop`, where both are known.

use http::Method;
use http::header::HeaderValue;
use http::uri::PathAndQuery;

use super::lines::Lines;
use crate::pool::Refusal;

/// A request target in its parts (RFC 9112 §3.2).
pub(super) struct Target {
    pub(super) authority: Option<HeaderValue>,
    pub(super) path: PathAndQuery,
}

impl Target {
    /// `lines` is the head that `target` is part of.
    pub(super) fn parse(method: &Method, target: &[u8], lines: &Lines<'_>) -> Result<Self, Refusal> {
        if target.iter().any(|byte| !(b'!'..=b'~').contains(byte) || *byte == b'#') {
            return Err(Refusal::Target);
        }
        let path =
            |text: &[u8]| PathAndQuery::from_maybe_shared(lines.shared(text)).map_err(|_| Refusal::Target);
        match target {
            [b'/', ..] => return Ok(Self { authority: None, path: path(target)? }),
            b"*" if method == Method::OPTIONS => {
                return Ok(Self { authority: None, path: PathAndQuery::from_static("*") });
            }
            _ => {}
        }
        let colon = memchr::memmem::find(target, b"://").ok_or(Refusal::Target)?;
        let (scheme, rest) = (&target[..colon], &target[colon + 3..]);
        if !scheme.eq_ignore_ascii_case(b"http") && !scheme.eq_ignore_ascii_case(b"https") {
            return Err(Refusal::Target);
        }
        let (authority, path) = match memchr::memchr2(b'/', b'?', rest) {
            None => (rest, PathAndQuery::from_static("/")),
            Some(at) if rest[at] == b'/' => (&rest[..at], path(&rest[at..])?),
            Some(at) => {
                let path = [b"/", &rest[at..]].concat();
                (&rest[..at], PathAndQuery::try_from(path).map_err(|_| Refusal::Target)?)
            }
        };
        let authority = HeaderValue::from_maybe_shared(lines.shared(authority)).map_err(|_| Refusal::Host)?;
        Ok(Self { authority: Some(authority), path })
    }
}

/// Bytes that a host may consist of (RFC 3986 §3.2.2, `reg-name`), and the colons of an address in brackets.
const IN_HOST: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')')
            || matches!(byte, b'*' | b'+' | b',' | b';' | b'=' | b'%' | b':');
        byte += 1;
    }
    table
};

/// `uri-host [":" port]` (RFC 9110 §7.2), without user information and never empty.
pub(crate) fn is_host(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match memchr::memchr(b']', rest) {
            Some(end) if rest[..end].iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.')) => {
                (&rest[..end], &rest[end + 1..])
            }
            _ => return false,
        },
        _ => value.split_at(memchr::memchr(b':', value).unwrap_or(value.len())),
    };
    let host_is_fine = !host.is_empty() && host.iter().all(|byte| IN_HOST[usize::from(*byte)]);
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
