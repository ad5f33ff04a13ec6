//! `grpc.health.v1.Health/Check`: the question, and what an answer says.
//!
//! The two messages have one field each, so they are written and read by hand. Fields that later versions may add are
//! skipped. Nothing is sent from here.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, Version, header};

use super::http2::Answer;

const METHOD: &str = "/grpc.health.v1.Health/Check";

/// The question whether `service` serves, for a server called `authority`; head and body.
pub(super) fn question(
    scheme: &str,
    authority: &str,
    service: &str,
    user_agent: &'static str,
) -> Result<(Request<()>, Bytes), http::Error> {
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(METHOD).build()?;
    let mut request = Request::post(uri).version(Version::HTTP_2).body(())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(user_agent));
    let mut message = BytesMut::new();
    if !service.is_empty() {
        // Field 1, a string.
        message.put_u8(0x0a);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    Ok((request, body.freeze()))
}

/// Whether an answer says `SERVING`; else, what it says.
pub(super) fn judge(answer: &Answer) -> Result<(), String> {
    if answer.status != StatusCode::OK {
        return Err(format!("{} instead of an answer of gRPC", answer.status.as_u16()));
    }
    // An answer without a message has all its fields in its head.
    let fields = if answer.trailers.contains_key(STATUS) { &answer.trailers } else { &answer.headers };
    match fields.get(STATUS).map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(code) => return Err(failure(code, fields)),
        None => return Err("the answer has no grpc-status".into()),
    }
    match serving_status(&answer.body).ok_or("the answer is not that of a health service")? {
        1 => Ok(()),
        0 => Err("UNKNOWN".into()),
        2 => Err("NOT_SERVING".into()),
        3 => Err("SERVICE_UNKNOWN".into()),
        other => Err(format!("serving status {other}")),
    }
}

const STATUS: &str = "grpc-status";

/// A call that failed: `UNIMPLEMENTED: unknown service`.
fn failure(code: &[u8], fields: &HeaderMap) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let code = String::from_utf8_lossy(code);
    let name = code.parse().ok().and_then(|number: usize| NAMES.get(number)).copied();
    let name = name.map_or_else(|| format!("grpc-status {}", code.escape_debug()), str::to_owned);
    match fields.get("grpc-message").and_then(|message| message.to_str().ok()) {
        Some(message) if !message.is_empty() => {
            format!("{name}: {}", message.chars().take(200).collect::<String>())
        }
        _ => name,
    }
}

/// Field 1 of the only message in `body`; 0 if it has none. `None` if this is no such message.
fn serving_status(body: &[u8]) -> Option<u64> {
    // Compressed messages were not asked for.
    let (&[0, a, b, c, d], mut message) = body.split_first_chunk::<5>()? else { return None };
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return None;
    }
    let mut status = 0;
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        match tag & 7 {
            0 => {
                let value = take_varint(&mut message)?;
                if tag >> 3 == 1 {
                    status = value;
                }
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn put_varint(out: &mut BytesMut, mut number: u64) {
    while number >= 0x80 {
        out.put_u8(number as u8 | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(status: &str, body: &[u8]) -> Answer {
        let mut trailers = HeaderMap::new();
        trailers.insert(STATUS, HeaderValue::from_str(status).unwrap());
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        Answer { status, headers, body: Bytes::copy_from_slice(body), trailers }
    }

    #[test]
    fn the_question_names_the_service_and_nothing_for_the_whole_server() {
        let (request, body) = question("https", "shop.test", "shop.Cart", "x").unwrap();
        assert_eq!(request.uri(), "https://shop.test/grpc.health.v1.Health/Check");
        assert_eq!(&body[..], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
        assert_eq!(&question("http", "127.0.0.1:1", "", "x").unwrap().1[..], b"\0\0\0\0\0");
        let long = "s".repeat(300);
        assert_eq!(question("http", "a", &long, "x").unwrap().1[5..8], [0x0a, 0xac, 0x02]);
    }

    #[test]
    fn only_serving_passes_and_the_rest_says_why_not() {
        assert_eq!(judge(&answer("0", &[0, 0, 0, 0, 2, 8, 1])), Ok(()));
        assert_eq!(
            judge(&answer("0", &[0, 0, 0, 0, 7, 0x12, 1, b'x', 8, 1, 0x18, 9])),
            Ok(()),
            "other fields"
        );
        for (status, body, why) in [
            ("0", &[0, 0, 0, 0, 2, 8, 2][..], "NOT_SERVING"),
            ("0", &[0, 0, 0, 0, 2, 8, 3], "SERVICE_UNKNOWN"),
            ("0", &[0, 0, 0, 0, 0], "UNKNOWN"),
            ("0", &[0, 0, 0, 0, 3, 8, 0x80, 1], "serving status 128"),
            ("0", &[], "the answer is not that of a health service"),
            ("0", &[1, 0, 0, 0, 2, 8, 1], "the answer is not that of a health service"),
            ("0", &[0, 0, 0, 0, 3, 8, 1], "the answer is not that of a health service"),
            ("12", &[], "UNIMPLEMENTED"),
            ("99", &[], "grpc-status 99"),
        ] {
            assert_eq!(judge(&answer(status, body)).unwrap_err(), why, "{body:?}");
        }
        let mut said = answer("14", b"");
        said.trailers.insert("grpc-message", HeaderValue::from_static("starting"));
        assert_eq!(judge(&said).unwrap_err(), "UNAVAILABLE: starting");
        std::mem::swap(&mut said.headers, &mut said.trailers);
        assert_eq!(judge(&said).unwrap_err(), "UNAVAILABLE: starting");
        said.headers.clear();
        assert_eq!(judge(&said).unwrap_err(), "the answer has no grpc-status");
    }

    proptest! {
        #[test]
        fn no_message_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut framed = vec![0, 0, 0, 0, body.len() as u8];
            framed.extend(body);
            let _ = judge(&answer("0", &framed));
        }

        #[test]
        fn a_number_survives(number: u64) {
            let mut bytes = BytesMut::new();
            put_varint(&mut bytes, number);
            prop_assert_eq!(take_varint(&mut &bytes[..]), Some(number));
        }
    }
}
