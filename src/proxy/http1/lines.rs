//! A head taken apart into its start line and its fields (RFC 9112 §2 to §5): syntax only, nothing is understood here.
//!
//! Strict where parsers differ: a line ends in CRLF and is never continued, the start line has single spaces, no white space
//! stands before a colon, and the only control byte within a line is HTAB.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{Method, StatusCode, Version};
use memchr::memmem::Finder;

use super::names::{Names, Role};
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

/// One field.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub(super) name: HeaderName,
    pub(super) role: Role,
    pub(super) value: HeaderValue,
}

/// The lines of a whole head or of a whole trailer section, up to the empty one.
pub(super) struct Lines<'a> {
    head: &'a Bytes,
    rest: &'a [u8],
    names: &'a mut Names,
}

impl<'a> Lines<'a> {
    pub(super) fn of(head: &'a Bytes, names: &'a mut Names) -> Self {
        Self { head, rest: head, names }
    }

    /// The first line without its end.
    pub(super) fn start_line(&mut self) -> Result<&'a [u8], Refusal> {
        self.next_line()
            .map_err(|refusal| if refusal == Refusal::Field { Refusal::RequestLine } else { refusal })
    }

    /// The next line without its end; empty after the last one. It has no control byte but HTAB.
    fn next_line(&mut self) -> Result<&'a [u8], Refusal> {
        let (line, end) = self.rest.split_at(text_length(self.rest));
        match end {
            [b'\r', b'\n', b' ' | b'\t', ..] => return Err(Refusal::ObsFold),
            [b'\r', b'\n', next @ ..] => self.rest = next,
            [b'\n', ..] | [] => return Err(Refusal::LineEnding),
            _ => return Err(Refusal::Field),
        }
        Ok(line)
    }

    /// The next field; `None` after the last one.
    pub(super) fn next_field(&mut self) -> Result<Option<Field>, Refusal> {
        let line = self.next_line()?;
        if line.is_empty() {
            return Ok(None);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Refusal::Field)?;
        let (name, role) = self.names.read(&line[..colon]).ok_or(Refusal::Field)?;
        let value = self.shared(without_space(&line[colon + 1..]));
        // SAFETY: a line has no control byte but HTAB, and that is all that `HeaderValue::from_shared` looks at.
        let value = unsafe { HeaderValue::from_maybe_shared_unchecked(value) };
        Ok(Some(Field { name, role, value }))
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

/// How many bytes come before the first control byte other than HTAB.
fn text_length(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += printable_length(&bytes[at..]);
        if bytes.get(at) != Some(&b'\t') {
            return at;
        }
        at += 1;
    }
}

/// How many bytes come before the first control byte. Looks at eight at a time.
fn printable_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    let (eights, rest) = bytes.as_chunks::<8>();
    for (index, eight) in eights.iter().enumerate() {
        let eight = u64::from_le_bytes(*eight);
        // The high bit of each byte that is below SP, or is DEL; the lowest one that is set is right.
        let not_delete = eight ^ (ONES * 0x7f);
        let below = eight.wrapping_sub(ONES * 0x20) & !eight;
        let delete = not_delete.wrapping_sub(ONES) & !not_delete;
        let control = (below | delete) & (ONES << 7);
        if control != 0 {
            return index * 8 + control.trailing_zeros() as usize / 8;
        }
    }
    let control = |byte: &u8| *byte < b' ' || *byte == 0x7f;
    eights.len() * 8 + rest.iter().position(control).unwrap_or(rest.len())
}

/// Method, target and version.
pub(super) fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), Refusal> {
    let space = |byte: &u8| *byte == b' ';
    let first = line.iter().position(space).ok_or(Refusal::RequestLine)?;
    let last = line.iter().rposition(space).filter(|last| *last > first).ok_or(Refusal::RequestLine)?;
    let (target, version) = (&line[first + 1..last], &line[last + 1..]);
    if target.is_empty() || memchr::memchr(b' ', target).is_some() {
        return Err(Refusal::RequestLine);
    }
    let method = Method::from_bytes(&line[..first]).map_err(|_| Refusal::RequestLine)?;
    match version {
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
    if reason.first().is_some_and(|byte| *byte != b' ') {
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
    use proptest::prelude::*;

    #[test]
    fn a_field_is_a_name_a_colon_and_a_value_without_white_space_around_it() {
        let head = Bytes::from_static(b"X-A:1\r\nB: \t a : b\t \r\nC:\r\n\r\nX");
        let mut names = Names::default();
        let mut lines = Lines::of(&head, &mut names);
        for (name, value) in [("x-a", "1"), ("b", "a : b"), ("c", "")] {
            let field = lines.next_field().unwrap().unwrap();
            assert_eq!((field.name.as_str(), field.value.to_str().unwrap()), (name, value));
        }
        assert_eq!(lines.next_field(), Ok(None));
        for bad in
            ["X : 1", " X: 1", ": 1", "X", "X\r: 1", "X: a\rb", "X: a\x0bb", "X: \x0b", "X: 1\r", "X(: 1"]
        {
            let head = Bytes::from(format!("{bad}\r\n\r\n"));
            assert_eq!(Lines::of(&head, &mut Names::default()).next_field(), Err(Refusal::Field), "{bad:?}");
        }
    }

    #[test]
    fn a_line_that_ends_badly_is_refused_whether_or_not_the_head_is_whole() {
        for (head, refusal) in [("X: 1\n", Refusal::LineEnding), ("X: 1\r\n 2", Refusal::ObsFold)] {
            assert_eq!(end_of_head(head.as_bytes(), 0), Err(refusal), "{head:?}");
            let head = Bytes::from(format!("{head}\r\n\r\n"));
            assert_eq!(end_of_head(&head, 0), Ok(Some(head.len())));
            assert_eq!(Lines::of(&head, &mut Names::default()).next_field(), Err(refusal), "{head:?}");
        }
        let bad_reason = Bytes::from_static(b"HTTP/1.1 200 a\rb\r\n\r\n");
        assert_eq!(Lines::of(&bad_reason, &mut Names::default()).start_line(), Err(Refusal::RequestLine));
        assert_eq!(end_of_head(b"\n", 0), Err(Refusal::LineEnding));
        assert_eq!(end_of_head(b"X: 1\r\nX", 0), Ok(None));
    }

    proptest! {
        #[test]
        fn a_line_ends_before_its_first_control_byte(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
            prop_assert_eq!(text_length(&bytes), bytes.iter().position(control).unwrap_or(bytes.len()));
        }

        #[test]
        fn text_of_any_length_is_found_whole(text in "[ -~\t\u{80}-\u{10ffff}]{0,60}", end in 0u8..32) {
            prop_assume!(end != b'\t');
            let bytes = [text.as_bytes(), &[end, b'x']].concat();
            prop_assert_eq!(text_length(&bytes), text.len());
        }
    }

    #[test]
    fn start_lines_have_one_form() {
        assert_eq!(request_line(b"GET /a HTTP/1.0"), Ok((Method::GET, &b"/a"[..], Version::HTTP_10)));
        for (line, refusal) in [
            ("GET / HTTP/1.2", Refusal::Version),
            ("GET / HTTP/1.1x", Refusal::Version),
            ("GET /a b HTTP/1.1", Refusal::RequestLine),
            ("GET HTTP/1.1", Refusal::RequestLine),
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
        for line in
            ["", "HTTP/1.1", "HTTP/1.1 20", "HTTP/1.1 2000", "HTTP/1.1  200", "HTTP/2 200", "HTTP/1.1 200x"]
        {
            assert!(status_line(line.as_bytes()).is_err(), "{line:?}");
        }
    }
}
