//! A head taken apart into its start line and its fields (RFC 9112 §2 to §5): syntax only, nothing is understood here.
//!
//! Strict where parsers differ: a line ends in CRLF and is never continued, the start line has single spaces, no white space
//! stands before a colon. Every byte of a name and of a value is checked by `http`'s own types.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use memchr::memmem::Finder;

use crate::pool::Refusal;

/// Where the head in `buffer` ends, searching from `from`; `None` when it is not all there.
///
/// What is not all there is refused as soon as one of its lines ends badly: it might never end. The lines of a whole head
/// are looked at by [`Lines`].
pub(super) fn end_of_head(buffer: &[u8], from: usize) -> Result<Option<usize>, Refusal> {
    static END: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));
    let from = from.min(buffer.len());
    if let Some(at) = END.find(&buffer[from..]) {
        return Ok(Some(from + at + 4));
    }
    for newline in memchr::memchr_iter(b'\n', &buffer[from..]).map(|at| from + at) {
        check_end(&buffer[..newline], &buffer[newline + 1..])?;
    }
    Ok(None)
}

/// Whether a line, given without its LF, ends well, and the next one is not its continuation: a parser that forgives these
/// sees other fields than we do.
fn check_end(line: &[u8], next: &[u8]) -> Result<(), Refusal> {
    match (line, next) {
        ([.., b'\r'], [b' ' | b'\t', ..]) => Err(Refusal::ObsFold),
        ([.., b'\r'], _) => Ok(()),
        _ => Err(Refusal::LineEnding),
    }
}

/// The lines of a whole head or of a whole trailer section, up to the empty one.
pub(super) struct Lines<'a> {
    head: &'a Bytes,
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    pub(super) fn of(head: &'a Bytes) -> Self {
        Self { head, rest: head }
    }

    /// The next line without its end; empty after the last one.
    pub(super) fn next_line(&mut self) -> Result<&'a [u8], Refusal> {
        let newline = memchr::memchr(b'\n', self.rest).ok_or(Refusal::LineEnding)?;
        let (line, next) = (&self.rest[..newline], &self.rest[newline + 1..]);
        check_end(line, next)?;
        self.rest = next;
        Ok(&line[..newline - 1])
    }

    /// The next field; `None` after the last one.
    pub(super) fn next_field(&mut self) -> Result<Option<(HeaderName, HeaderValue)>, Refusal> {
        let line = self.next_line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::Field)?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| Refusal::Field)?;
        let value = self.shared(without_space(&line[colon + 1..]));
        let value = HeaderValue::from_maybe_shared(value).map_err(|_| Refusal::Field)?;
        Ok(Some((name, value)))
    }

    /// Part of the head as bytes of their own, without copying them.
    pub(super) fn shared(&self, part: &[u8]) -> Bytes {
        self.head.slice_ref(part)
    }
}

/// The value without the white space around it: SP and HTAB, nothing else.
fn without_space(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// Method, target and version.
pub(super) fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let mut parts = line.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(version)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Refusal::RequestLine);
    };
    let method = Method::from_bytes(method).map_err(|_| Refusal::RequestLine)?;
    match version {
        _ if target.is_empty() || version.contains(&b' ') => Err(Refusal::RequestLine),
        b"HTTP/1.1" => Ok((method, target, Version::HTTP_11)),
        b"HTTP/1.0" => Ok((method, target, Version::HTTP_10)),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', ..] => Err(Refusal::Version),
        _ => Err(Refusal::RequestLine),
    }
}

/// Version and status; the reason is not of interest, and may be missing with its space. `Err` says what is wrong.
pub(super) fn status_line(line: &[u8]) -> Result<(Version, StatusCode), &'static str> {
    let (version, rest) = match line.split_at_checked(9) {
        Some((b"HTTP/1.1 ", rest)) => (Version::HTTP_11, rest),
        Some((b"HTTP/1.0 ", rest)) => (Version::HTTP_10, rest),
        _ => return Err("its status line is not HTTP/1"),
    };
    let (code, reason) = rest.split_at_checked(3).ok_or("its status line is not HTTP/1")?;
    let reason_is_fine = reason.first().is_none_or(|byte| *byte == b' ')
        && reason.iter().all(|byte| (*byte >= b' ' && *byte != 0x7f) || *byte == b'\t');
    if !reason_is_fine {
        return Err("its status line is not HTTP/1");
    }
    match StatusCode::from_bytes(code) {
        Ok(status) if status.as_u16() < 600 => Ok((version, status)),
        _ => Err("its status is not between 100 and 599"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value_without_white_space_around_it() {
        let head = Bytes::from_static(b"X-A:1\r\nB: \t a : b\t \r\nC:\r\n\r\nX");
        let mut lines = Lines::of(&head);
        for (name, value) in [("x-a", "1"), ("b", "a : b"), ("c", "")] {
            let field = lines.next_field().unwrap().unwrap();
            assert_eq!((field.0.as_str(), field.1.to_str().unwrap()), (name, value));
        }
        assert_eq!(lines.next_field(), Ok(None));
        for bad in
            ["X : 1", " X: 1", ": 1", "X", "X\r: 1", "X: a\rb", "X: a\x0bb", "X: \x0b", "X: 1\r", "X(: 1"]
        {
            let head = Bytes::from(format!("{bad}\r\n\r\n"));
            assert_eq!(Lines::of(&head).next_field(), Err(Refusal::Field), "{bad:?}");
        }
    }

    #[test]
    fn a_line_that_ends_badly_is_refused_whether_or_not_the_head_is_whole() {
        for (head, refusal) in [("X: 1\n", Refusal::LineEnding), ("X: 1\r\n 2", Refusal::ObsFold)] {
            assert_eq!(end_of_head(head.as_bytes(), 0), Err(refusal), "{head:?}");
            let head = Bytes::from(format!("{head}\r\n\r\n"));
            assert_eq!(end_of_head(&head, 0), Ok(Some(head.len())));
            assert_eq!(Lines::of(&head).next_field(), Err(refusal), "{head:?}");
        }
        assert_eq!(end_of_head(b"\n", 0), Err(Refusal::LineEnding));
        assert_eq!(end_of_head(b"X: 1\r\nX", 0), Ok(None));
    }

    #[test]
    fn start_lines_have_one_form() {
        assert_eq!(request_line(b"GET /a HTTP/1.0"), Ok((Method::GET, &b"/a"[..], Version::HTTP_10)));
        for (line, refusal) in [
            ("GET / HTTP/1.2", Refusal::Version),
            ("GET / HTTP/1.1\r", Refusal::Version),
            ("GET  HTTP/1.1", Refusal::RequestLine),
            ("GET / HTTP/1.1 ", Refusal::RequestLine),
            ("GET / http/1.1", Refusal::RequestLine),
            ("", Refusal::RequestLine),
        ] {
            assert_eq!(request_line(line.as_bytes()), Err(refusal), "{line:?}");
        }
        for line in ["HTTP/1.1 200", "HTTP/1.1 200 ", "HTTP/1.1 200 \tFine \u{e9}"] {
            assert_eq!(status_line(line.as_bytes()), Ok((Version::HTTP_11, StatusCode::OK)), "{line:?}");
        }
        for line in [
            "",
            "HTTP/1.1",
            "HTTP/1.1 20",
            "HTTP/1.1 2000",
            "HTTP/1.1  200",
            "HTTP/2 200",
            "HTTP/1.1 200 a\rb",
        ] {
            assert!(status_line(line.as_bytes()).is_err(), "{line:?}");
        }
    }
}
