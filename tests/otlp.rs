//! Spans from outside: what a collector is sent, what targets are told, and that nobody waits for either. With the feature
//! `otlp` only.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use support::{Authority, Client, Conn, Edge, Gate, Origin, Refusing, Reply, Setup, eventually, within};

const SPANS: &str = "selvedge_otlp_spans_total";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector that takes everything.
async fn collector() -> Origin {
    Origin::replying(|_| Reply::ok("")).await
}

/// What a node needs to send spans of all requests to `endpoint` soon.
fn exporting_to(setup: Setup, endpoint: &str, keys: &str) -> Setup {
    let all = if keys.contains("sample") { "" } else { "sample = \"100%\"" };
    setup.and(&format!(
        "[forwarding]\ntraceparent = true\n\
         [otlp]\nendpoint = \"{endpoint}\"\ninterval = \"20ms\"\n{all}\n{keys}\n"
    ))
}

fn exporting(setup: Setup, collector: &Origin, keys: &str) -> Setup {
    exporting_to(setup, &format!("http://{collector}/v1/traces"), keys)
}

/// All spans that the collector was sent, requests before their attempts.
fn spans(collector: &Origin) -> Vec<Span> {
    let mut spans = Vec::new();
    for request in collector.requests() {
        assert_eq!((&*request.method, &*request.target), ("POST", "/v1/traces"));
        assert_eq!(request.fields.get("content-type"), Some("application/x-protobuf"));
        for of_node in ExportTraceServiceRequest::decode(&*request.body).unwrap().resource_spans {
            spans.extend(of_node.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
    spans
}

/// The same, once there are so many.
async fn sent(collector: &Origin, count: usize) -> Vec<Span> {
    eventually(&format!("{count} spans at the collector"), async || spans(collector).len() >= count).await;
    let spans = spans(collector);
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

fn shown(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|any| any.value.clone()) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => panic!("{other:?} is of another kind"),
    };
    let all: BTreeMap<_, _> = attributes.iter().map(|one| (one.key.clone(), value(one))).collect();
    assert_eq!(all.len(), attributes.len(), "each attribute is there once: {attributes:?}");
    all
}

/// The attributes with these keys.
fn values(span: &Span, keys: &[&str]) -> Vec<String> {
    let all = shown(&span.attributes);
    keys.iter().map(|key| all.get(*key).cloned().unwrap_or_else(|| panic!("no {key} in {all:?}"))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_error(span: &Span) -> bool {
    span.status.as_ref().is_some_and(|status| status.code == i32::from(StatusCode::Error))
}

/// What a target was told: `TRACE-SPAN-FLAGS`.
fn told(origin: &Origin) -> String {
    origin.last().fields.get("traceparent").unwrap().strip_prefix("00-").unwrap().to_owned()
}

fn traceparent(flags: &str) -> String {
    format!("traceparent: 00-{TRACE}-{PARENT}-{flags}")
}

#[tokio::test]
async fn a_span_says_all_that_is_known_of_a_request() {
    let (origin, collector) = (Origin::replying(|_| Reply::ok("hello")).await, collector().await);
    let setup = Setup::default()
        .top("zone = \"az-a\"")
        .route("path = \"/cart\"")
        .target_with(&origin, "zone = \"az-b\"")
        .pool("stickiness.mode = \"lb_cookie\"");
    let keys = "service = \"edge\"\nresource = { \"deployment.environment.name\" = \"test\", \"host.name\" = \"h\" }";
    let edge = exporting(setup, &collector, keys).start().await;
    let mut client = Client::of(&edge);
    client.host = "shop.test:8080".to_owned();
    client.request("POST", "/cart/items?token=secret", &["User-Agent: tests/1"], b"four").await;
    let [request, attempt] = &sent(&collector, 2).await[..] else { unreachable!("there are two") };

    assert_eq!(request.name, "POST /cart");
    assert_eq!(request.kind, i32::from(SpanKind::Server));
    assert!(request.parent_span_id.is_empty() && !is_error(request), "{request:?}");
    let target = format!("az-b/{origin}");
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/cart"),
        ("http.response.status_code", "200"),
        ("http.request.body.size", "4"),
        ("http.response.body.size", "5"),
        ("url.scheme", "http"),
        ("url.path", "/cart/items"),
        ("server.address", "shop.test"),
        ("server.port", "8080"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "tests/1"),
        ("selvedge.request_id", origin.requests()[0].fields.get("x-request-id").unwrap()),
        ("selvedge.route", "*/cart"),
        ("selvedge.pool", "shop"),
        ("selvedge.target", &target),
        ("selvedge.zone", "az-b"),
        ("selvedge.verdict", "none"),
        ("selvedge.decision", "new/any"),
    ] {
        assert_eq!(values(request, &[key]), [value], "{key}");
    }

    assert_eq!((&*attempt.name, attempt.kind), ("POST", i32::from(SpanKind::Client)));
    assert_eq!(attempt.trace_id, request.trace_id);
    assert_eq!(attempt.parent_span_id, request.span_id);
    let full = format!("http://{origin}/cart/items");
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("url.full", &*full),
        ("server.address", "127.0.0.1"),
        ("server.port", &origin.address.port().to_string()),
        ("selvedge.target", &target),
    ] {
        assert_eq!(values(attempt, &[key]), [value], "{key}");
    }
    assert!(
        request.start_time_unix_nano <= attempt.start_time_unix_nano
            && attempt.start_time_unix_nano <= attempt.end_time_unix_nano
            && attempt.end_time_unix_nano <= request.end_time_unix_nano
    );

    let first = ExportTraceServiceRequest::decode(&*collector.requests()[0].body).unwrap();
    let resource = shown(&first.resource_spans[0].resource.as_ref().unwrap().attributes);
    let said = |key: &str| resource.get(key).map(String::as_str);
    assert_eq!(said("service.name"), Some("edge"));
    assert_eq!(said("deployment.environment.name"), Some("test"));
    assert_eq!(said("host.name"), Some("h"));
    assert_eq!(said("cloud.availability_zone"), Some("az-a"));
    let everything = format!("{:?}", spans(&collector));
    assert!(!everything.contains("secret"), "no query leaves the node");
}

#[tokio::test]
async fn a_trusted_parent_is_continued_and_its_target_told_of_the_attempts_span() {
    let (origin, collector) = (Origin::start().await, collector().await);
    let setup = Edge::before(&origin).listener("trusted = [\"127.0.0.0/8\"]");
    let edge = exporting(setup, &collector, "sample = \"0%\"").start().await;
    let mut client = Client::of(&edge);
    client.get_with("/", &[&traceparent("01"), "tracestate: a=b"]).await;
    let told = told(&origin);
    assert_eq!(origin.last().fields.get("tracestate"), Some("a=b"));
    let [request, attempt] = &sent(&collector, 2).await[..] else { unreachable!("there are two") };
    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()));
    assert_eq!(told, format!("{TRACE}-{}-01", hex(&attempt.span_id)));
    // One that is not sampled stays so, and so do those that begin here.
    client.get_with("/", &[&traceparent("00")]).await;
    let told = self::told(&origin);
    assert!(told.starts_with(TRACE) && told.ends_with("-00") && !told.contains(PARENT), "{told}");
    client.get("/").await;
    assert!(self::told(&origin).ends_with("-00"));
    // Spans come in the order of their requests.
    client.get_with("/", &[&traceparent("01")]).await;
    sent(&collector, 4).await;
}

#[tokio::test]
async fn a_trace_begins_here_when_none_came_or_what_came_is_none() {
    let (origin, collector) = (Origin::start().await, collector().await);
    let edge = exporting(Edge::before(&origin), &collector, "").start().await;
    let mut client = Client::of(&edge);
    let none: &[&str] = &[];
    for (index, fields) in [none, &["traceparent: 00-0-0-01", "tracestate: a=b"]].into_iter().enumerate() {
        client.get_with("/", fields).await;
        let spans = sent(&collector, 2 * index + 2).await;
        let [request, attempt] = &spans[2 * index..] else { unreachable!("there are two") };
        assert!(request.parent_span_id.is_empty(), "{request:?}");
        assert_eq!(told(&origin), format!("{}-{}-01", hex(&request.trace_id), hex(&attempt.span_id)));
        assert!(!origin.last().fields.has("tracestate"));
    }
}

#[tokio::test]
async fn strangers_cannot_have_their_requests_sampled_unless_the_configuration_says_so() {
    let (origin, collector) = (Origin::start().await, collector().await);
    let edge = exporting(Edge::before(&origin), &collector, "sample = \"0%\"").start().await;
    Client::of(&edge).get_with("/", &[&traceparent("01")]).await;
    let told = self::told(&origin);
    assert!(told.starts_with(TRACE) && told.ends_with("-00"), "{told}");
    let open =
        exporting(Edge::before(&origin), &collector, "sample = \"0%\"\nparents = \"all\"").start().await;
    Client::of(&open).get_with("/", &[&traceparent("01")]).await;
    assert!(self::told(&origin).ends_with("-01"));
    sent(&collector, 2).await;
    let mut edge = edge;
    assert!(edge.stop_gracefully().await.success());
    sent(&collector, 2).await;
}

#[tokio::test]
async fn a_share_of_the_requests_is_sampled_and_targets_are_told_which() {
    let (origin, collector) = (Origin::start().await, collector().await);
    let mut edge = exporting(Edge::before(&origin), &collector, "sample = \"50%\"").start().await;
    let mut client = Client::of(&edge);
    for _ in 0..400 {
        client.get("/").await;
    }
    assert!(edge.stop_gracefully().await.success());
    let spans = spans(&collector);
    let exported = spans.iter().filter(|span| span.kind == i32::from(SpanKind::Client));
    let requests = origin.requests();
    let told: Vec<_> = requests.iter().map(|request| request.fields.get("traceparent").unwrap()).collect();
    let mut sampled: Vec<_> =
        told.iter().filter(|told| told.ends_with("-01")).map(|told| told[36..52].to_owned()).collect();
    let mut ids: Vec<_> = exported.map(|span| hex(&span.span_id)).collect();
    // Within seven standard deviations.
    assert!((130..=270).contains(&ids.len()), "{} of 400", ids.len());
    ids.sort();
    sampled.sort();
    assert_eq!(ids, sampled);
}

#[tokio::test]
async fn each_attempt_of_a_retried_request_has_a_span_that_its_target_was_told_of() {
    let bad = Origin::raw(async |mut conn: Conn| {
        if conn.request().await.is_some() {
            conn.reset();
        }
    })
    .await;
    let (good, collector) = (Origin::start().await, collector().await);
    let setup = Edge::before_all(&[&bad, &good]).pool("balance = \"round_robin\"");
    let edge = exporting(setup, &collector, "").start().await;
    let mut client = Client::of(&edge);
    eventually("a request that goes to the bad one first", async || {
        client.get("/").await;
        bad.count() > 0
    })
    .await;
    let id = told(&bad)[33..49].to_owned();
    let mut all = Vec::new();
    eventually("its spans", async || {
        all = spans(&collector);
        all.iter().any(|span| hex(&span.span_id) == id)
    })
    .await;
    let first = all.iter().find(|span| hex(&span.span_id) == id).unwrap();
    let family: Vec<_> = all.iter().filter(|span| span.trace_id == first.trace_id).collect();
    let [request, first, second] = &family[..] else { panic!("three spans: {family:#?}") };
    assert!(!is_error(request) && is_error(first) && !is_error(second), "{family:#?}");
    assert_eq!(values(first, &["error.type"]), ["reset"]);
    assert!(!shown(&first.attributes).contains_key("http.response.status_code"));
    assert_eq!(values(second, &["http.response.status_code", "http.request.resend_count"]), ["200", "1"]);
    assert_eq!((&first.parent_span_id, &second.parent_span_id), (&request.span_id, &request.span_id));
    assert!(first.end_time_unix_nano <= second.start_time_unix_nano);
    let by_good = good.requests();
    let told: Vec<_> = by_good.iter().filter_map(|request| request.fields.get("traceparent")).collect();
    assert!(told.iter().any(|told| told.contains(&hex(&second.span_id))), "{told:?}");
}

#[tokio::test]
async fn what_goes_wrong_is_an_error_and_what_no_target_answers_has_no_attempt() {
    let (origin, collector) = (Origin::start().await.route("/500", Reply::status(500)), collector().await);
    let refusing = Refusing::new();
    let setup =
        Edge::before(&origin).and("[[route]]\npath = \"/moved\"\nredirect = { path = \"/\" }").and(&format!(
            "[[route]]\npath = \"/none\"\npool = \"none\"\n[pool.none]\nhealth.enabled = false\n\
             stickiness.mode = \"off\"\nqueue.timeout = \"50ms\"\n[[pool.none.target]]\naddress = \"{}\"",
            refusing.address
        ));
    let edge = exporting(setup, &collector, "").start().await;
    let mut client = Client::of(&edge);
    assert_eq!(client.get("/500").await.status, 500);
    let spans = sent(&collector, 2).await;
    assert!(spans.iter().all(is_error), "{spans:#?}");
    assert!(spans.iter().all(|span| values(span, &["error.type"]) == ["500"]));

    assert_eq!(client.get("/moved").await.status, 308);
    let moved = &sent(&collector, 3).await[2];
    assert_eq!((&*moved.name, is_error(moved)), ("GET /moved", false));

    let status = client.request("BREW", "/none", &[], b"").await.status;
    assert!(status >= 500, "{status}");
    let mut last = Vec::new();
    eventually("the spans of a request that nobody answers", async || {
        last = self::spans(&collector).split_off(3);
        last.len() >= 2
    })
    .await;
    assert_eq!(last[0].name, "HTTP /none");
    assert_eq!(
        values(&last[0], &["http.request.method", "http.request.method_original"]),
        ["_OTHER", "BREW"]
    );
    assert!(last.iter().all(is_error), "{last:#?}");
    assert_eq!(values(&last[1], &["error.type"]), ["connect"]);
}

#[tokio::test]
async fn an_access_log_beside_it_has_its_line_too() {
    let (origin, collector) = (Origin::start().await, collector().await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = format!("[access_log]\noutput = {path:?}\nfields = [\"status\", \"target\"]");
    let edge = exporting(Edge::before(&origin).and(&log), &collector, "").start().await;
    Client::of(&edge).get("/a").await;
    let spans = sent(&collector, 2).await;
    assert_eq!(values(&spans[0], &["url.path"]), ["/a"]);
    let expected = format!("{{\"status\":200,\"target\":\"{origin}\"}}\n");
    eventually("the line", async || std::fs::read_to_string(&path).is_ok_and(|text| text == expected)).await;
}

#[tokio::test]
async fn a_collector_that_has_too_much_to_do_is_asked_again_when_it_says() {
    let origin = Origin::start().await;
    let gate = Gate::closed();
    let busy = gate.clone();
    let collector = Origin::replying(move |_| match busy.is_open() {
        true => Reply::ok(""),
        false => Reply::status(503).field("Retry-After: 0"),
    })
    .await;
    let edge = exporting(Edge::before(&origin), &collector, "").start().await;
    Client::of(&edge).get("/").await;
    collector.received(3).await;
    edge.logged(&["otlp: spans cannot be delivered", "503"]).await;
    gate.open();
    edge.counts(&format!("{SPANS}{{result=\"exported\"}}"), 2).await;
    edge.logged(&["otlp: the collector takes spans again"]).await;
    // It was the same batch each time.
    let requests = collector.requests();
    assert!(requests.iter().all(|request| request.body == requests[0].body));
}

#[tokio::test]
async fn what_a_collector_refuses_is_not_sent_again_and_is_counted() {
    let origin = Origin::start().await;
    let said = ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "too old".to_owned(),
        }),
    };
    let (said, asked) = (said.encode_to_vec(), AtomicUsize::new(0));
    let collector = Origin::replying(move |_| match asked.fetch_add(1, SeqCst) {
        0 => Reply::status(400),
        _ => Reply::ok(&said),
    })
    .await;
    let edge = exporting(Edge::before(&origin), &collector, "").start().await;
    let mut client = Client::of(&edge);
    client.get("/").await;
    edge.counts(&format!("{SPANS}{{result=\"failed\"}}"), 2).await;
    client.get("/").await;
    edge.counts(&format!("{SPANS}{{result=\"rejected\"}}"), 1).await;
    edge.counts(&format!("{SPANS}{{result=\"exported\"}}"), 1).await;
    edge.logged(&["otlp: the collector rejects spans", "too old"]).await;
    assert_eq!(collector.count(), 2);
}

#[tokio::test]
async fn a_collector_that_is_away_delays_no_request_and_what_is_lost_is_counted() {
    let (origin, nobody) = (Origin::start().await, Refusing::new());
    let endpoint = format!("http://{}/v1/traces", nobody.address);
    let mut edge = exporting_to(Edge::before(&origin), &endpoint, "queue = 8\nbatch = 4").start().await;
    let mut client = Client::of(&edge);
    for _ in 0..40 {
        assert_eq!(client.get("/").await.status, 200);
    }
    // One batch is under way, and the queue is full: what is beyond is dropped.
    eventually("spans to be dropped", async || {
        edge.metric(&format!("{SPANS}{{result=\"dropped\"}}")).await >= 2 * 20
    })
    .await;
    edge.logged(&["otlp: spans cannot be delivered", "refused"]).await;
    // It would be asked again for a minute, but not by a node that stops.
    assert!(edge.stop_gracefully().await.success());
}

#[tokio::test]
async fn a_collector_that_does_not_answer_delays_no_request() {
    let (origin, gate) = (Origin::start().await, Gate::closed());
    let held = gate.clone();
    let collector = Origin::raw(move |mut conn: Conn| {
        let gate = held.clone();
        async move {
            if conn.request().await.is_some() {
                gate.opens().await;
            }
        }
    })
    .await;
    let keys = "queue = 1\nbatch = 1\ntimeout = \"50ms\"\ngive_up = \"10ms\"";
    let edge = exporting(Edge::before(&origin), &collector, keys).start().await;
    let mut client = Client::of(&edge);
    eventually("spans to be dropped and to fail", async || {
        for _ in 0..10 {
            assert_eq!(client.get("/").await.status, 200);
        }
        let count = async |result| edge.metric(&format!("{SPANS}{{result=\"{result}\"}}")).await;
        count("dropped").await > 0 && count("failed").await > 0
    })
    .await;
    edge.logged(&["otlp: spans cannot be delivered", "no answer in 50ms"]).await;
    edge.logged(&["otlp: spans were dropped"]).await;
    gate.open();
}

#[tokio::test]
async fn a_node_that_stops_sends_what_is_left() {
    let (origin, collector) = (Origin::start().await, collector().await);
    // An interval that is longer than the test.
    let text = exporting(Edge::before(&origin), &collector, "batch = 2").text();
    let mut edge = Edge::start(&text.replace("\"20ms\"", "\"1m\"")).await;
    let mut client = Client::of(&edge);
    for _ in 0..5 {
        client.get("/").await;
    }
    sent(&collector, 8).await;
    assert!(edge.stop_gracefully().await.success());
    sent(&collector, 10).await;
}

#[tokio::test]
async fn a_collector_behind_tls_hears_the_fields_of_the_file() {
    let authority = Authority::new("collectors");
    let issued = authority.issue("collector", &["127.0.0.1"]);
    let collector = collector().await.with_tls(authority.server(&issued)).await;
    let origin = Origin::start().await;
    let fields = authority.folder().path().join("otlp.headers");
    std::fs::write(&fields, "Authorization: Bearer a-secret\n\nx-scope: shop\n").unwrap();
    let endpoint = format!("https://{collector}/v1/traces");
    let keys = format!("ca = {:?}\nheaders_file = {fields:?}", authority.bundle());
    let edge = exporting_to(Edge::before(&origin), &endpoint, &keys).start().await;
    Client::of(&edge).get("/").await;
    sent(&collector, 2).await;
    let request = collector.last();
    assert_eq!(request.fields.get("authorization"), Some("Bearer a-secret"));
    assert_eq!(request.fields.get("x-scope"), Some("shop"));
    assert!(!edge.log().contains("a-secret"));
    // Without the authority nobody is believed, and nothing is sent.
    let stranger = Authority::new("strangers");
    let keys = format!("ca = {:?}", stranger.bundle());
    let other = exporting_to(Edge::before(&origin), &endpoint, &keys).start().await;
    Client::of(&other).get("/").await;
    other.logged(&["otlp: spans cannot be delivered", "certificate"]).await;
    assert_eq!(spans(&collector).len(), 2);
}

#[tokio::test]
async fn a_change_waits_for_a_restart_and_an_upgrade_is_one() {
    let (origin, first, second) = (Origin::start().await, collector().await, collector().await);
    let edge = exporting(Edge::before(&origin), &first, "").start().await;
    let text = exporting(Edge::before(&origin), &second, "").text();
    edge.write(&text);
    let answer = edge.reload().await;
    assert!(answer.text().contains("otlp: stays as it is until a restart"), "{}", answer.text());
    Client::of(&edge).get("/").await;
    sent(&first, 2).await;
    assert_eq!(second.count(), 0);
    edge.is_upgraded().await;
    // The process before may still have taken a connection or two.
    eventually("spans of the process that follows", async || {
        assert_eq!(Client::of(&edge).get("/").await.status, 200);
        !spans(&second).is_empty()
    })
    .await;
}

#[tokio::test]
async fn mistakes_are_told_with_what_to_write() {
    let origin = Origin::start().await;
    let folder = tempfile::tempdir().unwrap();
    let fields = folder.path().join("fields");
    std::fs::write(&fields, "a-secret-without-a-name\n").unwrap();
    for (keys, expected) in [
        (
            "endpoint = \"127.0.0.1:4318\"".to_owned(),
            "\"127.0.0.1:4318\" is not an address of http:// or https://",
        ),
        (
            "endpoint = \"ftp://a/b\"".to_owned(),
            "write it with its path, such as \"http://127.0.0.1:4318/v1/traces\"",
        ),
        (format!("headers_file = {fields:?}"), "line 1 of"),
        ("headers_file = \"/none/fields\"".to_owned(), "/none/fields cannot be read"),
        ("ca = \"ca.pem\"".to_owned(), "otlp.ca: has a meaning only with an endpoint of https://"),
        ("sample = \"101%\"".to_owned(), "write \"0%\" to \"100%\""),
        ("sample = 0.5".to_owned(), "0.5 is not a percentage"),
        ("parents = \"some\"".to_owned(), "otlp.parents"),
        ("resource = { \"service.name\" = \"a\" }".to_owned(), "write it as service = "),
        ("service = \"\"".to_owned(), "otlp.service: is empty"),
        ("queue = 0".to_owned(), "0 is out of range; write 1 to 65536"),
        ("headers = {}".to_owned(), "otlp.headers: there is no such key"),
    ] {
        let text = Edge::before(&origin).and("[forwarding]\ntraceparent = true\n[otlp]\n").and(&keys).text();
        let (code, said) = within("the refusal", Edge::refuses(&text)).await;
        assert!(code == Some(78) && said.contains(expected), "{keys}: {code:?} {said}");
        assert!(!said.contains("a-secret"), "{said}");
    }
    let (code, said) = Edge::refuses(&Edge::before(&origin).and("[otlp]\n").text()).await;
    assert!(code == Some(78) && said.contains("write traceparent = true in [forwarding]"), "{code:?} {said}");
}

#[test]
fn the_page_shows_a_configuration_that_is_good() {
    let page = include_str!("../docs/tracing.md");
    let blocks: Vec<_> = page.split("\n```").skip(1).step_by(2).collect();
    let block = blocks.iter().find_map(|block| block.strip_prefix("toml\n")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("selvedge.toml");
    std::fs::write(&file, format!("{block}\n[[listener]]\naddress = \"127.0.0.1:8080\"\n")).unwrap();
    let overrides = selvedge::config::Overrides::default();
    let config =
        selvedge::config::Config::load(&file, &overrides).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(config.otlp.is_some());
}
