//! Pages of our own for clients that speak gRPC: they read a status in a field, and no page.
//!
//! An error is an answer with 200, `grpc-status` and no body ("Trailers-Only"). Which status stands for which error is as
//! gRPC's own documents map statuses of HTTP, and as other proxies do it: what may be tried again is UNAVAILABLE.

use http::StatusCode;
use http::header::HeaderValue;

use super::fields::Fields;

/// Statuses of gRPC that are used here (<https://grpc.io/docs/guides/status-codes/>).
const UNKNOWN: HeaderValue = HeaderValue::from_static("2");
const RESOURCE_EXHAUSTED: HeaderValue = HeaderValue::from_static("8");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");
const INTERNAL: HeaderValue = HeaderValue::from_static("13");
const UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// What answers to gRPC say that they are.
pub(crate) const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Whether a body of this type is a call of gRPC: `application/grpc`, perhaps with the name of an encoding. The dialect for
/// browsers (grpc-web) is none: its clients read pages.
pub(crate) fn is_call(content_type: Option<&HeaderValue>) -> bool {
    let Some(value) = content_type else { return false };
    let (name, rest) = value.as_bytes().split_at(CONTENT_TYPE.len().min(value.len()));
    name.eq_ignore_ascii_case(CONTENT_TYPE.as_bytes()) && matches!(rest, [] | [b'+' | b';' | b' ', ..])
}

/// `grpc-status` for an answer of ours that would have this status, by its class if it has no own.
fn status(status: StatusCode) -> HeaderValue {
    match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => UNIMPLEMENTED,
        StatusCode::PAYLOAD_TOO_LARGE
        | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
        | StatusCode::URI_TOO_LONG => RESOURCE_EXHAUSTED,
        StatusCode::BAD_REQUEST | StatusCode::REQUEST_TIMEOUT => INTERNAL,
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// Adds what says that a call has failed. `message` is one of our sentences: letters, spaces and stops, so nothing in it
/// must be encoded.
pub(crate) fn fail(headers: &mut Fields, with: StatusCode, message: &'static str) {
    headers.append(http::header::CONTENT_TYPE, CONTENT_TYPE);
    headers.append(http::HeaderName::from_static("grpc-status"), status(with));
    headers.append(http::HeaderName::from_static("grpc-message"), HeaderValue::from_static(message));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (text, call) in [
            ("application/grpc", true),
            ("Application/gRPC+proto", true),
            ("application/grpc;charset=utf-8", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("application", false),
        ] {
            assert_eq!(is_call(Some(&HeaderValue::from_static(text))), call, "{text}");
        }
        assert!(!is_call(None));
    }
}
