//! Spans as OTLP has them, with the names of OpenTelemetry's conventions for HTTP; what is our own is called `selvedge.…`.
//!
//! The query of a request is left out: it may hold what is nobody's business. Text that is not UTF-8 is made so.

use std::borrow::Cow;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message as _;

use crate::config::otlp::Otlp;
use crate::telemetry::access_log::{Entry, Piece, Tls};
use crate::telemetry::spans::{Attempt, Finished};

/// Methods that conventions know; a client's own would make as many names of spans as it likes.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];

/// Bits of a span's flags: it is sampled; whether its parent is another process' is known; that it is.
const SAMPLED: u32 = 1;
const REMOTE_IS_KNOWN: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;

/// What all spans say of their origin.
pub(super) fn resource(otlp: &Otlp, zone: Option<&str>) -> Resource {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let mut of_node = vec![
        text("service.version", env!("CARGO_PKG_VERSION")),
        number("process.pid", std::process::id().into()),
    ];
    of_node.extend(Some(host).filter(|host| !host.is_empty()).map(|host| text("host.name", host)));
    of_node.extend(zone.map(|zone| text("cloud.availability_zone", zone)));
    of_node.retain(|known| otlp.resource.iter().all(|(key, _)| *key != known.key));
    let configured = otlp.resource.iter().map(|(key, value)| text(key, value.as_str()));
    Resource { attributes: configured.chain(of_node).collect(), ..Resource::default() }
}

/// What the collector is sent.
pub(super) fn request(resource: &Resource, batch: &[Finished]) -> Bytes {
    let clock = Clock { instant: Instant::now(), system: SystemTime::now() };
    let mut spans = Vec::with_capacity(batch.len() * 2);
    for finished in batch {
        spans.push(of_request(finished, clock));
        let of_attempts = finished.span.attempts.iter().zip(0..);
        spans.extend(of_attempts.map(|(attempt, index)| of_attempt(finished, attempt, index, clock)));
    }
    let scope = InstrumentationScope {
        name: "selvedge".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let of_node = ResourceSpans { resource: Some(resource.clone()), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_node] }.encode_to_vec().into()
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    system: SystemTime,
}

impl Clock {
    fn nanos(self, at: Instant) -> u64 {
        let ago = self.instant.saturating_duration_since(at);
        let moment = self.system.checked_sub(ago).unwrap_or(UNIX_EPOCH);
        moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64
    }
}

fn of_request(finished: &Finished, clock: Clock) -> Span {
    let Finished { started, entry, span } = finished;
    let route = piece(entry, Piece::Route);
    // A route is called by its host and its path.
    let route = route.as_deref().and_then(|name| Some(&name[name.find('/')?..]));
    let (method, _) = method(entry);
    let name = match route {
        Some(route) => format!("{method} {route}"),
        None => method.to_owned(),
    };
    let is_error = entry.status >= 500 || entry.reason == Some("answer_broken");
    Span {
        parent_span_id: span.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        flags: SAMPLED | REMOTE_IS_KNOWN | if span.parent.is_some() { IS_REMOTE } else { 0 },
        name,
        kind: SpanKind::Server.into(),
        attributes: attributes_of_request(finished, route),
        status: status(is_error, entry.reason),
        ..during(span.trace, span.id, clock.nanos(*started), entry.duration)
    }
}

fn attributes_of_request(finished: &Finished, route: Option<&str>) -> Vec<KeyValue> {
    let Finished { entry, span, .. } = finished;
    let mut all = of_method(entry);
    all.push(text("url.scheme", scheme(span.secure)));
    if let Some(path) = path(entry) {
        all.push(text("url.path", path));
    }
    if let Some(host) = piece(entry, Piece::Host) {
        let (host, port) = host_and_port(&host);
        all.push(text("server.address", host));
        all.extend(port.map(|port| number("server.port", port.into())));
    }
    all.push(text("client.address", entry.client.to_string()));
    if let Some(version) = version(entry.protocol) {
        all.push(text("network.protocol.version", version));
    }
    match entry.tls {
        Tls::None => {}
        Tls::Tls12 => all.push(text("tls.protocol.version", "1.2")),
        Tls::Tls13 => all.push(text("tls.protocol.version", "1.3")),
    }
    all.extend(route.map(|route| text("http.route", route)));
    if entry.status > 0 {
        all.push(number("http.response.status_code", entry.status.into()));
    }
    all.push(number("http.request.body.size", entry.bytes_in as i64));
    all.push(number("http.response.body.size", entry.bytes_out as i64));
    all.extend(error_type(entry.status, entry.reason).map(|what| text("error.type", what)));
    for (key, of) in [
        ("user_agent.original", Piece::UserAgent),
        ("selvedge.request_id", Piece::RequestId),
        ("selvedge.route", Piece::Route),
        ("selvedge.pool", Piece::Pool),
        ("selvedge.target", Piece::Target),
    ] {
        all.extend(piece(entry, of).map(|value| text(key, value)));
    }
    let zone = span.attempts.last().map(|attempt| &*attempt.target.zone);
    all.extend(zone.map(|zone| text("selvedge.zone", zone)));
    all.extend(entry.verdict.map(|verdict| text("selvedge.verdict", verdict.as_str())));
    all.extend(entry.decision.map(|decision| text("selvedge.decision", decision.to_string())));
    all.extend(entry.reason.map(|reason| text("selvedge.reason", reason)));
    if entry.moved {
        all.push(attribute("selvedge.moved", Value::BoolValue(true)));
    }
    all
}

fn of_attempt(finished: &Finished, attempt: &Attempt, index: i64, clock: Clock) -> Span {
    let Finished { started, entry, span } = finished;
    let since = attempt.started.saturating_duration_since(*started);
    let took = attempt.took.unwrap_or_else(|| entry.duration.saturating_sub(since));
    // One that lasted as long as its request ended as that did.
    let failure = attempt.failure.or(entry.reason.filter(|_| attempt.took.is_none()));
    let is_error = match attempt.status {
        Some(status) => status >= 500 || attempt.took.is_none() && entry.reason == Some("answer_broken"),
        None => attempt.failure.is_some_and(|why| why != "client_gone"),
    };
    let (method, _) = method(entry);
    let mut all = of_method(entry);
    let address = attempt.target.address;
    let path = path(entry).unwrap_or_default();
    all.push(text("url.full", format!("{}://{address}{path}", scheme(attempt.secure))));
    all.push(text("server.address", address.ip().to_string()));
    all.push(number("server.port", address.port().into()));
    if index > 0 {
        all.push(number("http.request.resend_count", index));
    }
    all.extend(attempt.status.map(|status| number("http.response.status_code", status.into())));
    all.extend(error_type(attempt.status.unwrap_or(0), failure).map(|what| text("error.type", what)));
    all.push(text("selvedge.target", attempt.target.name.as_str()));
    all.push(text("selvedge.zone", &*attempt.target.zone));
    all.extend(piece(entry, Piece::Pool).map(|pool| text("selvedge.pool", pool)));
    Span {
        parent_span_id: span.id.to_be_bytes().to_vec(),
        flags: SAMPLED | REMOTE_IS_KNOWN,
        name: method.to_owned(),
        kind: SpanKind::Client.into(),
        attributes: all,
        status: status(is_error, failure),
        ..during(span.trace, attempt.id, clock.nanos(attempt.started), took)
    }
}

/// A span of which no more is known than when it was.
fn during(trace: u128, id: u64, start: u64, took: Duration) -> Span {
    Span {
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: id.to_be_bytes().to_vec(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(took.as_nanos() as u64),
        ..Span::default()
    }
}

fn status(is_error: bool, why: Option<&'static str>) -> Option<Status> {
    is_error.then(|| Status { message: why.unwrap_or_default().to_owned(), code: StatusCode::Error.into() })
}

/// Of what kind an error is: why there is no answer, or none that is whole; else its status, if it is one.
fn error_type(status: u16, reason: Option<&'static str>) -> Option<Cow<'static, str>> {
    match (status, reason) {
        (500.., None) => Some(status.to_string().into()),
        (0 | 500.., Some(reason)) | (_, Some(reason @ "answer_broken")) => Some(reason.into()),
        _ => None,
    }
}

/// The method as a name, and whether it is the client's own.
fn method(entry: &Entry) -> (&'static str, Option<Cow<'_, str>>) {
    let sent = piece(entry, Piece::Method).unwrap_or_default();
    match METHODS.iter().find(|known| **known == sent) {
        Some(known) => (*known, None),
        None => ("HTTP", Some(sent)),
    }
}

fn of_method(entry: &Entry) -> Vec<KeyValue> {
    match method(entry) {
        (known, None) => vec![text("http.request.method", known)],
        (_, Some(sent)) => {
            vec![text("http.request.method", "_OTHER"), text("http.request.method_original", sent)]
        }
    }
}

fn path(entry: &Entry) -> Option<String> {
    let target = piece(entry, Piece::Path)?;
    Some(target.split('?').next().unwrap_or_default().to_owned())
}

fn piece(entry: &Entry, piece: Piece) -> Option<Cow<'_, str>> {
    entry.piece(piece).map(String::from_utf8_lossy)
}

/// What `Host` says.
fn host_and_port(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
        _ => (host, None),
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

fn version(protocol: u8) -> Option<&'static str> {
    match protocol {
        10 => Some("1.0"),
        11 => Some("1.1"),
        20 => Some("2"),
        _ => None,
    }
}

fn text<'t>(key: &str, value: impl Into<Cow<'t, str>>) -> KeyValue {
    attribute(key, Value::StringValue(value.into().into_owned()))
}

fn number(key: &str, value: i64) -> KeyValue {
    attribute(key, Value::IntValue(value))
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_have_a_port_and_brackets() {
        for (host, expected) in [
            ("shop.test", ("shop.test", None)),
            ("shop.test:8080", ("shop.test", Some(8080))),
            ("[2001:db8::1]", ("[2001:db8::1]", None)),
            ("[2001:db8::1]:80", ("[2001:db8::1]", Some(80))),
            ("shop.test:", ("shop.test", None)),
        ] {
            assert_eq!(host_and_port(host), expected);
        }
    }

    #[test]
    fn an_error_is_named_by_its_reason_or_its_status() {
        for (status, reason, expected) in [
            (200, None, None),
            (404, Some("no_route"), None),
            (500, None, Some("500")),
            (502, Some("reset"), Some("reset")),
            (0, Some("client_gone"), Some("client_gone")),
            (200, Some("answer_broken"), Some("answer_broken")),
            (200, Some("client_gone"), None),
        ] {
            assert_eq!(error_type(status, reason).as_deref(), expected, "{status} {reason:?}");
        }
    }
}
