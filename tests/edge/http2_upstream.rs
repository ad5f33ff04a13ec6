//! HTTP/2 to the targets, for clients with HTTP/1.1: what is passed on and how, and many requests on few connections. What
//! goes wrong there is in `http2_upstream_trouble`.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue};

use crate::REFUSALS;
use crate::support::h2_origin::send_all;
use crate::support::message::Framing;
use crate::support::{
    Authority, Call, Client, Edge, Gate, H2Origin, Origin, Raw, Reply, Setup, all, eventually,
    still_waiting_after,
};

const H2: &str = "protocol = \"h2\"";
const FAILURES: &str = "selvedge_target_failures_total";
const CONNECTS: &str = "selvedge_target_connects_total";

pub(crate) fn before(origin: &H2Origin) -> Setup {
    Edge::before(origin).pool(H2)
}

/// An origin that sends a request's body back, with its length only if asked at `/length`.
pub(crate) async fn echo() -> H2Origin {
    H2Origin::start(async |mut call: Call| {
        let body = call.read().await;
        let length = body.len().to_string();
        let fields = [("content-length", length.as_str())];
        let mut sending = call.head(200, if call.path() == "/length" { &fields } else { &[] }, false);
        let _ = send_all(&mut sending, body.into(), false).await;
        let _ = sending.send_data(Bytes::new(), true);
    })
    .await
}

#[tokio::test]
async fn a_request_and_its_answer_say_the_same_in_both_versions() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        call.answer(201, &[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("x-a", "é")], b"made");
    })
    .await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(
        "POST /cart?x=1 HTTP/1.1\r\nHost: shop.test:8080\r\nCookie: a=1\r\nX-Hop: 1\r\nConnection: x-hop\r\n\
         Keep-Alive: 1\r\nCookie: b=2\r\nTE: trailers, gzip\r\nContent-Length: 5\r\nX-B: b\r\n\r\nhello",
    )
    .await;
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (201, "made"));
    assert_eq!(answer.fields.all("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(answer.fields.get("via"), Some("2.0 selvedge"));
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.body.as_slice()), ("POST", &b"hello"[..]));
    assert_eq!(request.uri, "http://shop.test:8080/cart?x=1");
    for (name, value) in [
        ("cookie", "a=1; b=2"),
        ("te", "trailers"),
        ("x-b", "b"),
        ("content-length", "5"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(request.field(name), value, "{name}");
    }
    for name in ["host", "x-hop", "keep-alive", "connection"] {
        assert!(!request.headers.contains_key(name), "{name}");
    }
}

#[tokio::test]
async fn bodies_of_all_sizes_and_framings_go_both_ways() {
    let origin = echo().await;
    let edge = before(&origin).start().await;
    let mut client = Client::of(&edge);
    for size in [0, 1, 1000, 70_000, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|at: u32| (at / 3) as u8).collect();
        for path in ["/", "/length"] {
            assert!(client.post(path, &body).await.body == body, "{size} {path}");
        }
        let mut raw = Raw::connect(&edge).await;
        raw.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for chunk in body.chunks(50_000) {
            raw.send(format!("{:x}\r\n", chunk.len())).await.send(chunk).await.send("\r\n").await;
        }
        raw.send("0\r\n\r\n").await;
        assert!(raw.response().await.body == body, "{size} in chunks");
    }
    assert_eq!((client.connects, origin.connections()), (1, 1));
}

#[tokio::test]
async fn trailers_pass_between_the_versions_in_both_directions() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        let mut sending = call.head(200, &[], false);
        sending.send_data(Bytes::from_static(b"body"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("content-length", HeaderValue::from_static("9"));
        sending.send_trailers(trailers).unwrap();
    })
    .await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 7\r\n\r\n").await;
    let answer = raw.response().await;
    assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "body"));
    assert_eq!(answer.trailers.0, [("grpc-status".to_owned(), "0".to_owned())]);
    assert_eq!(origin.last().trailers.unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable_and_are_not_reset() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        let path = call.path();
        let status = if path == "/204" { 204 } else { if path == "/304" { 304 } else { 200 } };
        // The end comes in a frame of its own.
        let fields: &[_] = if status == 204 { &[] } else { &[("content-length", "5")] };
        let mut sending = call.head(status, fields, false);
        tokio::task::yield_now().await;
        let _ = sending.send_data(Bytes::new(), true);
        assert!(
            still_waiting_after(Duration::from_millis(50), std::future::poll_fn(|cx| sending.poll_reset(cx)))
                .await,
            "{path} was reset"
        );
    })
    .await;
    let edge = before(&origin).start().await;
    let mut client = Client::of(&edge);
    for (method, target, status, length) in
        [("HEAD", "/", 200, Some("5")), ("GET", "/204", 204, None), ("GET", "/304", 304, Some("5"))]
    {
        let answer = client.request(method, target, &[], b"").await;
        assert_eq!(
            (answer.status, answer.fields.get("content-length")),
            (status, length),
            "{method} {target}"
        );
    }
    assert_eq!((client.connects, origin.connections()), (1, 1));
}

#[tokio::test]
async fn interim_answers_are_passed_on() {
    let origin = H2Origin::start(async |mut call: Call| {
        let early = http::Response::builder().status(103).header("link", "</a.css>").body(()).unwrap();
        call.respond.send_informational(early).unwrap();
        call.read().await;
        call.answer(200, &[], b"late");
    })
    .await;
    let edge = before(&origin).start().await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!(answer.text(), "late");
    assert_eq!(answer.interim.len(), 1);
    assert_eq!((answer.interim[0].status(), answer.interim[0].fields.get("link")), (103, Some("</a.css>")));
}

#[tokio::test]
async fn a_body_that_waits_for_leave_is_sent_when_the_target_gives_it_and_not_when_it_refuses() {
    let origin = H2Origin::start(async |mut call: Call| {
        assert_eq!(call.head.field("expect"), "100-continue");
        if call.path() == "/no" {
            return call.answer(403, &[], b"no");
        }
        let leave = http::Response::builder().status(100).body(()).unwrap();
        call.respond.send_informational(leave).unwrap();
        let body = call.read().await;
        call.answer(200, &[], &body);
    })
    .await;
    let edge = before(&origin).start().await;
    for (path, status) in [("/yes", 200), ("/no", 403)] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        ))
        .await;
        if path == "/yes" {
            assert_eq!(raw.head().await.unwrap().status(), 100);
            raw.send("body").await;
        }
        let answer = raw.response().await;
        assert_eq!((answer.status, answer.interim.len()), (status, 0));
    }
}

#[tokio::test]
async fn many_requests_share_one_connection_and_another_is_opened_when_it_is_full() {
    let gate = Gate::closed();
    let held = gate.clone();
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(10);
    let origin = H2Origin::built(builder, None, move |mut call| {
        let gate = held.clone();
        async move {
            call.read().await;
            gate.pass().await;
            call.answer(200, &[], call.connection.to_string().as_bytes());
        }
    })
    .await;
    let edge = before(&origin).start().await;
    let address = edge.web;
    assert_eq!(origin.connections(), 0);
    let waiting =
        tokio::spawn(all((0..35).map(move |_| async move { Client::to(address).get("/").await.text() })));
    origin.received(35).await;
    assert_eq!(origin.connections(), 4);
    gate.open();
    let answers = waiting.await.unwrap();
    for connection in 1..=4 {
        let count = answers.iter().filter(|answer| **answer == connection.to_string()).count();
        assert_eq!(count, if connection < 4 { 10 } else { 5 }, "{answers:?}");
    }
    edge.counts(CONNECTS, 4).await;
}

#[tokio::test]
async fn max_connections_bounds_the_requests_in_flight_and_not_the_connections() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = H2Origin::start(move |mut call| {
        let gate = held.clone();
        async move {
            call.read().await;
            gate.pass().await;
            call.answer(200, &[], b"ok");
        }
    })
    .await;
    let edge = Setup::default().target_with(&origin, "max_connections = 2").pool(H2).start().await;
    let address = edge.web;
    let waiting =
        tokio::spawn(all((0..5).map(move |_| async move { Client::to(address).get("/").await.status })));
    origin.received(2).await;
    edge.counts("selvedge_queue_entered_total", 3).await;
    assert_eq!(origin.count(), 2);
    gate.open();
    assert_eq!(waiting.await.unwrap(), [200; 5]);
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let origin = H2Origin::named("a").await;
    let edge = before(&origin).pool("keep_alive.timeout = \"300ms\"").start().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
    assert_eq!(origin.open(), 1);
    eventually("the connection to be closed", async || origin.open() == 0).await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn without_keep_alive_every_connection_ends_with_its_last_request() {
    let origin = H2Origin::named("a").await;
    let edge = before(&origin).pool("keep_alive.connections = 0").start().await;
    let mut client = Client::of(&edge);
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "a");
        eventually("the connection to be closed", async || origin.open() == 0).await;
    }
    assert_eq!(origin.connections(), 3);
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_and_no_other() {
    let left = Gate::closed();
    let noted = left.clone();
    let origin = H2Origin::start(move |mut call| {
        let left = noted.clone();
        async move {
            call.read().await;
            if call.path() == "/" {
                return call.answer(200, &[], b"fine");
            }
            let mut sending = call.head(200, &[], false);
            let reason = std::future::poll_fn(|cx| sending.poll_reset(cx)).await;
            assert_eq!(reason.unwrap(), Reason::CANCEL);
            left.open();
        }
    })
    .await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.head().await.unwrap().status(), 200);
    drop(raw);
    left.pass().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "fine");
    assert_eq!(origin.connections(), 1);
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_target_back_and_not_other_clients() {
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = sent.clone();
    let origin = H2Origin::start(move |mut call| {
        let sent = counted.clone();
        async move {
            call.read().await;
            if call.path() != "/endless" {
                return call.answer(200, &[], b"fine");
            }
            let mut sending = call.head(200, &[], false);
            let piece = Bytes::from(vec![b'x'; 10_000]);
            while send_all(&mut sending, piece.clone(), false).await.is_ok() {
                sent.fetch_add(piece.len(), std::sync::atomic::Ordering::SeqCst);
            }
        }
    })
    .await;
    let edge = before(&origin).start().await;
    let mut readers = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::narrow(&edge).await;
        raw.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(raw.head().await.unwrap().status(), 200);
        readers.push(raw);
    }
    let settled = || sent.load(std::sync::atomic::Ordering::SeqCst);
    let mut before = 0;
    eventually("the target to be held back", async || {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = settled();
        std::mem::replace(&mut before, now) == now
    })
    .await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "fine");
    assert_eq!(origin.connections(), 1);
    // Each: the window, what is being written, and what the sockets between hold.
    assert!(settled() < 20 * 4_000_000, "{} bytes", settled());
}

#[tokio::test]
async fn a_target_that_does_not_read_holds_the_client_back() {
    let origin = H2Origin::start(async |call: Call| {
        // Never gives room.
        let _call = call;
        std::future::pending::<()>().await;
    })
    .await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::narrow(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await;
    let taken = raw.send_when_possible(&vec![b'x'; 100_000_000]).await;
    assert!(taken < 20_000_000, "{taken} bytes");
}

#[tokio::test]
async fn an_answer_before_the_end_of_the_request_reaches_the_client() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.part().await;
        // What follows is a reset without an error: it wants no more of the request.
        call.answer(413, &[], b"too much");
    })
    .await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nsome").await;
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "too much"));
    edge.counts("selvedge_target_in_flight", 0).await;
}

fn with_alpn(config: &rustls::ServerConfig, protocols: &[&str]) -> Arc<rustls::ServerConfig> {
    let mut config = config.clone();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

#[tokio::test]
async fn with_tls_the_target_has_to_agree() {
    let ca = Authority::new("ca");
    let server = ca.server(&ca.issue("target", &["127.0.0.1"]));
    let tls = format!("tls.ca = \"{}\"", ca.bundle().display());
    let name = async |mut call: Call| {
        call.read().await;
        let scheme = call.head.uri.scheme_str().unwrap_or_default().to_owned();
        call.answer(200, &[], scheme.as_bytes());
    };
    let builder = h2::server::Builder::new();
    let both = with_alpn(&server, &["h2", "http/1.1"]);
    let origin = H2Origin::built(builder, Some(both), name).await;
    for protocol in ["h2", "auto"] {
        let pool = format!("protocol = \"{protocol}\"\n{tls}");
        let edge = Edge::before(&origin).pool(&pool).start().await;
        assert_eq!(Client::of(&edge).get("/").await.text(), "https", "{protocol}");
    }
    for (protocol, offered, status) in
        [("auto", &["http/1.1"][..], 200), ("auto", &[], 200), ("h2", &["http/1.1"], 502), ("h2", &[], 502)]
    {
        let origin = Origin::named("old").await.with_tls(with_alpn(&server, offered)).await;
        let pool = format!("protocol = \"{protocol}\"\n{tls}\nqueue.timeout = \"200ms\"");
        let edge = Edge::before(&origin).pool(&pool).start().await;
        let mut client = Client::of(&edge);
        let answer = client.get("/").await;
        if status == 200 {
            assert_eq!(answer.text(), "old", "{protocol} {offered:?}");
            assert_eq!(client.get("/").await.text(), "old");
            assert_eq!(origin.connections(), 1, "it is kept as any other");
        } else {
            assert!(answer.status >= 502, "{protocol} {offered:?}: {answer:?}");
            assert!(edge.metric(&format!("{FAILURES}{{reason=\"tls\"}}")).await >= 1);
        }
    }
}

const WEBSOCKET: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

#[tokio::test]
async fn a_websocket_goes_to_a_target_that_speaks_both_and_is_refused_where_http2_is_all() {
    let ca = Authority::new("ca");
    let server = with_alpn(&ca.server(&ca.issue("target", &["127.0.0.1"])), &["h2", "http/1.1"]);
    let both = Origin::raw(async |mut conn| {
        let agreed = conn.tls().and_then(|tls| tls.get_ref().1.alpn_protocol().map(<[u8]>::to_vec));
        assert_eq!(agreed.as_deref(), Some(&b"http/1.1"[..]));
        conn.request().await;
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        )
        .await;
        conn.until_end().await;
    })
    .await
    .with_tls(server)
    .await;
    let pool = format!("protocol = \"auto\"\ntls.ca = \"{}\"", ca.bundle().display());
    let edge = Edge::before(&both).pool(&pool).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(WEBSOCKET).await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    assert_eq!(raw.exactly(5).await.unwrap(), b"hello");

    let origin = H2Origin::named("a").await;
    let edge = before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(WEBSOCKET).await;
    assert_eq!(raw.response().await.status, 501);
    assert_eq!(edge.metric(&format!("{REFUSALS}{{reason=\"websocket\"}}")).await, 1);
    assert_eq!(edge.metric(FAILURES).await, 0);
}

#[tokio::test]
async fn a_reload_changes_the_protocol() {
    let old = Origin::replying(|_| Reply::ok("old")).await;
    let new = H2Origin::named("new").await;
    let edge = Edge::before(&old).start().await;
    let mut client = Client::of(&edge);
    assert_eq!(client.get("/").await.text(), "old");
    edge.becomes(&before(&new).text()).await;
    assert_eq!(client.get("/").await.text(), "new");
}
