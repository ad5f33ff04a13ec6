//! Writing HTTP/1 heads: one form only, whatever came in. Fields keep their order and are written in lower case; framing
//! is stated here and nowhere else.

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::framing::Framing;
use crate::proxy::fields::Fields;
use crate::proxy::request::Head;

/// What happens to the connection after this message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After<'a> {
    /// Nothing is said: another message may follow.
    KeepAlive,
    /// As above, said to an HTTP/1.0 client, which would not assume it.
    SayKeepAlive,
    /// `Connection: close`.
    Close,
    /// It becomes a tunnel of this protocol.
    Upgrade(&'a HeaderValue),
}

/// Writes the head of a request to a target.
pub(crate) fn request(out: &mut Vec<u8>, head: &Head, framing: Framing, websocket: Option<&HeaderValue>) {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path.as_str().as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    fields(out, head.headers.iter());
    if head.accepts_trailers {
        out.extend_from_slice(b"te: trailers\r\n");
    }
    if head.expect_continue {
        out.extend_from_slice(b"expect: 100-continue\r\n");
    }
    match (head.accepts_trailers, websocket) {
        (_, Some(protocol)) => upgrade(out, protocol),
        (true, None) => out.extend_from_slice(b"connection: te\r\n"),
        (false, None) => {}
    }
    finish(out, framing);
}

/// Writes the head of an answer to a client.
pub(crate) fn answer(
    out: &mut Vec<u8>,
    status: StatusCode,
    headers: &Fields,
    framing: Framing,
    after: After<'_>,
) {
    status_line(out, status);
    fields(out, headers.iter());
    match after {
        After::KeepAlive => {}
        After::SayKeepAlive => out.extend_from_slice(b"connection: keep-alive\r\n"),
        After::Close => out.extend_from_slice(b"connection: close\r\n"),
        After::Upgrade(protocol) => upgrade(out, protocol),
    }
    finish(out, framing);
}

/// Writes trailers after the last chunk, or just its end.
pub(crate) fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    if let Some(trailers) = trailers {
        fields(out, trailers.iter());
    }
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode) {
    if status == StatusCode::OK {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn fields<'a>(out: &mut Vec<u8>, fields: impl Iterator<Item = (&'a HeaderName, &'a HeaderValue)>) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

fn upgrade(out: &mut Vec<u8>, protocol: &HeaderValue) {
    out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
    out.extend_from_slice(protocol.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn finish(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            push_decimal(out, length);
            out.extend_from_slice(b"\r\n");
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_written_in_decimal() {
        for number in [0, 9, 10, 1024, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }
}
