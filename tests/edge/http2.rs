//! HTTP/2 with clients: what comes as HTTP/2 is for the target a request like any other, and its answer is for the client.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use h2::Reason;
use h2::ext::Protocol;
use http::{HeaderMap, HeaderValue, Request};

use crate::support::http2::{Http2, answer, asking, get};
use crate::support::message::Framing;
use crate::support::{Authority, Client, Edge, Gate, Origin, Raw, Refusing, Reply, eventually, within};

const REQUESTS: &str = "selvedge_http2_requests_total";

#[tokio::test]
async fn a_request_reaches_the_target_as_any_other() {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let sent = asking(
        "GET",
        "/cart?x=1",
        &[("te", "trailers"), ("x-own", "1"), ("cookie", "a=1"), ("cookie", "b=2")],
    );
    let answer = client.request(sent, b"").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "a"));
    assert_eq!(answer.field("content-length"), Some("1"));
    assert_eq!(answer.field("via"), Some("1.1 selvedge"));
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/cart?x=1"));
    assert_eq!(request.version, "HTTP/1.1");
    assert_eq!(request.fields.get("host"), Some("shop.test"));
    assert_eq!(request.fields.get("via"), Some("2.0 selvedge"));
    assert_eq!(request.fields.get("te"), Some("trailers"));
    assert_eq!(request.fields.get("x-forwarded-proto"), Some("http"));
    assert_eq!(request.fields.all("cookie"), ["a=1; b=2"], "crumbs are one field");
    assert!(!request.fields.has("content-length") && !request.fields.has("transfer-encoding"));
    edge.counts(REQUESTS, 1).await;
    edge.counts("selvedge_http2_connections_open", 1).await;
}

#[tokio::test]
async fn a_body_goes_with_its_length_or_in_chunks_and_trailers_follow_it() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    client.request(asking("POST", "/", &[("content-length", "5")]), b"hello").await;
    let request = origin.last();
    assert_eq!((request.framing, &request.body[..]), (Framing::Length(5), &b"hello"[..]));
    client.request(asking("POST", "/", &[]), b"hello").await;
    let request = origin.last();
    assert_eq!((request.framing, &request.body[..]), (Framing::Chunked, &b"hello"[..]));
    client.request(asking("POST", "/", &[("content-length", "0")]), b"").await;
    assert_eq!(origin.last().fields.get("content-length"), Some("0"));
    let (response, mut stream) = client.begin(asking("POST", "/", &[("trailer", "x-sum")]), false).await;
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("7"));
    trailers.insert("content-type", HeaderValue::from_static("text/html"));
    stream.send_trailers(trailers).unwrap();
    assert_eq!(within("an answer", response).await.unwrap().status(), 200);
    let request = origin.last();
    assert_eq!((request.trailers.get("x-sum"), &request.body[..]), (Some("7"), &b"hello"[..]));
    assert!(!request.trailers.has("content-type"), "it has no place there");
}

#[tokio::test]
async fn an_answer_keeps_its_trailers_and_loses_what_belongs_to_the_connection() {
    let origin = Origin::answering(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         X-Kept: 1\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await;
    let edge = Edge::before(&origin).start().await;
    let answer = Http2::connect(&edge).await.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    assert_eq!(answer.field("x-kept"), Some("1"));
    for gone in ["connection", "keep-alive", "x-hop", "transfer-encoding", "content-length"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert_eq!(answer.trailers.unwrap()["x-sum"], "7");
}

#[tokio::test]
async fn answers_without_a_body_end_with_their_head() {
    let origin = Origin::start()
        .await
        .route("/none", Reply::status(204))
        .route("/same", Reply::status(304).field("ETag: x"))
        .route("/empty", Reply::ok(""));
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let head = client.request(asking("HEAD", "/", &[]), b"").await;
    assert_eq!((head.status, head.field("content-length"), head.body.len()), (200, Some("6"), 0));
    for (path, status) in [("/none", 204), ("/same", 304), ("/empty", 200)] {
        let (response, _) = client.begin(get(path), true).await;
        let response = within("an answer", response).await.unwrap();
        assert_eq!((response.status().as_u16(), response.body().is_end_stream()), (status, true), "{path}");
    }
}

#[tokio::test]
async fn interim_answers_are_passed_on_and_a_body_is_sent_when_it_may_be() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(mut request) = conn.request_head().await {
            conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n").await;
            conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            conn.rest_of(&mut request).await;
            conn.send(Reply::ok("done").bytes(&request.method)).await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let sent = asking("POST", "/", &[("expect", "100-continue"), ("content-length", "5")]);
    let (mut response, mut stream) = client.begin(sent, false).await;
    let mut interim = Vec::new();
    while interim.len() < 2 {
        let next = within("an interim answer", std::future::poll_fn(|cx| response.poll_informational(cx)));
        interim.push(next.await.expect("it comes before the answer").unwrap());
    }
    assert_eq!((interim[0].status().as_u16(), interim[1].status().as_u16()), (103, 100));
    assert_eq!(interim[0].headers()["link"], "</a.css>");
    stream.send_data(Bytes::from_static(b"hello"), true).unwrap();
    let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
    assert_eq!((answer.text().as_str(), &origin.last().body[..]), ("done", &b"hello"[..]));
}

#[tokio::test]
async fn one_session_is_the_same_by_http1_and_http2() {
    let origins = [Origin::named("a").await, Origin::named("b").await, Origin::named("c").await];
    let edge = Edge::before_all(&origins.each_ref()).pool("stickiness.mode = \"lb_cookie\"").start().await;
    let mut http2 = Http2::connect(&edge).await;
    let mut http1 = Client::of(&edge);
    for _ in 0..6 {
        let first = http2.get("/").await;
        let cookie = first.field("set-cookie").unwrap().split(';').next().unwrap().to_owned();
        let by_http1 = http1.get_with("/", &[&format!("Cookie: {cookie}")]).await;
        assert_eq!(by_http1.origin(), first.text());
        let crumbs = [("cookie", "theme=dark"), ("cookie", &cookie), ("cookie", "lang=en")];
        let again = http2.request(asking("GET", "/", &crumbs), b"").await;
        assert_eq!((again.text(), again.field("set-cookie")), (first.text(), None));
    }
    let seen: Vec<_> = origins.iter().flat_map(Origin::requests).collect();
    assert!(seen.iter().all(|request| request.cookies().iter().all(|one| !one.starts_with("SELVEDGE"))));
    assert!(seen.iter().any(|request| request.fields.get("cookie") == Some("theme=dark; lang=en")));
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    for head in ["Content-Length: 10", "Transfer-Encoding: chunked"] {
        let body = if head.starts_with('C') { "hello" } else { "5\r\nhello\r\n" };
        let whole = format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}");
        let origin = Origin::raw(move |mut conn| {
            let whole = whole.clone();
            async move {
                conn.request().await;
                conn.send(whole).await;
            }
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        let mut client = Http2::connect(&edge).await;
        let error = client.try_request(asking("POST", "/", &[]), b"").await.unwrap_err();
        assert!(error.is_reset() && error.reason() == Some(Reason::INTERNAL_ERROR), "{head}: {error}");
    }
}

#[tokio::test]
async fn a_stream_that_is_taken_back_is_cancelled_at_the_target() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        let _ = conn.idle().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let (response, mut stream) = client.begin(get("/"), true).await;
    origin.received(1).await;
    stream.send_reset(Reason::CANCEL);
    eventually("the attempt to be given up", async || origin.open() == 0).await;
    drop((response, stream));
    edge.counts("selvedge_http2_streams_open", 0).await;
    let (_response, _stream) = client.begin(get("/"), true).await;
    origin.received(2).await;
    drop(client);
    drop((_response, _stream));
    eventually("the attempt to be given up with the connection", async || origin.open() == 0).await;
    edge.counts("selvedge_http2_connections_open", 0).await;
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_ends_takes_the_rest_of_it_off_the_client() {
    let origin = Origin::raw(async |mut conn| {
        conn.request_head().await;
        conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        let _ = conn.some().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let (response, mut stream) = client.begin(asking("POST", "/", &[]), false).await;
    let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    let reset = within("the stream to be closed", std::future::poll_fn(|cx| stream.poll_reset(cx)));
    assert_eq!(reset.await.unwrap(), Reason::NO_ERROR);
}

#[tokio::test]
async fn a_stop_lets_what_is_under_way_end_and_takes_nothing_more() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "finished").await;
    let mut edge = Edge::before(&origin).start().await;
    let mut idle = Http2::connect(&edge).await;
    let mut client = Http2::connect(&edge).await;
    let (response, _) = client.begin(get("/"), true).await;
    origin.received(1).await;
    edge.terminate();
    assert_eq!(idle.ended().await, None, "an idle connection ends at once, in good order");
    assert!(!gate.is_open());
    gate.open();
    let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
    assert_eq!(answer.text(), "finished");
    assert_eq!(client.ended().await, None);
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_listener_that_is_removed_sends_its_clients_away() {
    let origin = Origin::start().await;
    let second = "[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\n";
    let setup = || Edge::before(&origin).top("watch = false");
    let mut edge = setup().and(second).start().await;
    let mut client = Http2::connect(&edge).await;
    let first = edge.web;
    edge.web = edge.address_of("second").await;
    let mut elsewhere = Http2::connect(&edge).await;
    assert_eq!(elsewhere.get("/").await.status, 200);
    edge.web = first;
    edge.becomes(&setup().text()).await;
    assert_eq!(elsewhere.ended().await, None);
    assert_eq!(client.get("/").await.status, 200, "the other listener is as it was");
}

#[tokio::test]
async fn errors_are_told_to_grpc_in_its_own_way() {
    let nobody = Refusing::new();
    let edge = Edge::before(&nobody)
        .pool("queue.timeout = \"50ms\"")
        .route("path = \"/shop\"")
        .listener("max_body = \"1KiB\"")
        .start()
        .await;
    let mut client = Http2::connect(&edge).await;
    for (path, length, status) in
        [("/shop/Get", "0", "14"), ("/other/Get", "0", "12"), ("/shop/Get", "2048", "8")]
    {
        let call =
            [("content-type", "application/grpc+proto"), ("te", "trailers"), ("content-length", length)];
        let (response, _stream) = client.begin(asking("POST", path, &call), length == "0").await;
        let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(status)), "{path}");
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
        assert!(answer.field("grpc-message").is_some_and(|text| !text.is_empty()) && answer.body.is_empty());
    }
    let page = client.request(asking("POST", "/shop/Get", &[("content-length", "0")]), b"").await;
    assert!(matches!(page.status, 502 | 503) && page.field("grpc-status").is_none(), "{page:?}");
}

#[tokio::test]
async fn a_listener_speaks_only_what_it_is_told_to() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let issued = ca.issue("shop", &["shop.test"]).listener();
    let edge = Edge::before(&origin).listener("protocols = [\"http/1.1\"]").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 505);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    let edge = Edge::before(&origin).listener("protocols = [\"h2\"]").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.into_wire().ended().await;
    edge.counts("selvedge_http2_faults_total{reason=\"preface\"}", 1).await;
    assert_eq!(Http2::connect(&edge).await.get("/").await.status, 200);
    for (protocols, agreed) in
        [("\"http/1.1\", \"h2\"", "http/1.1"), ("\"h2\"", "h2"), ("\"http/1.1\"", "http/1.1")]
    {
        let lines = format!("protocols = [{protocols}]\n{issued}");
        let edge = Edge::before(&origin).listener(&lines).start().await;
        let wire = ca.dialer("shop.test").offering(&["h2", "http/1.1"]).dial(edge.web).await.unwrap();
        assert_eq!(wire.tls().unwrap().get_ref().1.alpn_protocol(), Some(agreed.as_bytes()), "{protocols}");
    }
}

#[tokio::test]
async fn it_is_spoken_over_tls_too() {
    let ca = Authority::new("ca");
    let large = vec![b'x'; 3 << 20];
    let origin = Origin::start().await.route("/large", Reply::ok(&large));
    let edge = Edge::before(&origin).listener(&ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut client = Http2::over(&ca.dialer("shop.test"), &edge).await;
    assert!(client.get("/large").await.body == large);
    assert_eq!(origin.last().fields.get("x-forwarded-proto"), Some("https"));
    let (response, mut stream) = client.begin(asking("POST", "/", &[]), false).await;
    stream.send_data(Bytes::from(large.clone()), true).unwrap();
    assert_eq!(within("an answer", response).await.unwrap().status(), 200);
    assert!(origin.last().body == large);
}

/// The handshake of a target that speaks WebSocket, and then an echo of what it is sent.
async fn echo() -> Origin {
    Origin::raw(async |mut conn| {
        let Some(request) = conn.request().await else { return };
        let key = request.fields.get("sec-websocket-key").unwrap_or_default();
        let sum = digest(
            &SHA1_FOR_LEGACY_USE_ONLY,
            format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
        );
        let accept = if request.target == "/wrong" { "x".to_owned() } else { BASE64_STANDARD.encode(sum) };
        if request.target == "/none" {
            conn.send(Reply::ok("no").bytes("GET")).await;
            return;
        }
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
        );
        conn.send(head).await;
        while let Ok(bytes) = conn.some_patiently().await {
            conn.send(bytes).await;
        }
    })
    .await
}

/// An extended CONNECT.
fn websocket(path: &str) -> Request<()> {
    let mut request = Request::builder().method("CONNECT").uri(format!("http://shop.test{path}"));
    for (name, value) in [("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat")] {
        request = request.header(name, value);
    }
    request.extension(Protocol::from_static("websocket")).body(()).unwrap()
}

#[tokio::test]
async fn a_websocket_on_a_stream_is_an_upgrade_for_the_target() {
    let origin = echo().await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    eventually("the edge to say that it can", async || client.send.is_extended_connect_protocol_enabled())
        .await;
    let (response, mut stream) = client.begin(websocket("/chat"), false).await;
    let response = within("an answer", response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    assert!(
        !response.headers().contains_key("sec-websocket-accept")
            && !response.headers().contains_key("upgrade")
    );
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.fields.get("upgrade")), ("GET", Some("websocket")));
    assert_eq!(request.fields.get("host"), Some("shop.test"));
    let mut body = response.into_body();
    for word in ["hello", "again"] {
        stream.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(within("an echo", body.data()).await.unwrap().unwrap(), word);
        body.flow_control().release_capacity(word.len()).unwrap();
    }
    edge.counts("selvedge_tunnels_open", 1).await;
    stream.send_data(Bytes::new(), true).unwrap();
    assert!(within("the end", body.data()).await.is_none_or(|data| data.is_ok_and(|data| data.is_empty())));
    edge.counts("selvedge_tunnels_open", 0).await;
    edge.counts("selvedge_http2_streams_open", 0).await;
}

#[tokio::test]
async fn a_websocket_that_a_target_did_not_agree_to_is_none() {
    let origin = echo().await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    eventually("the edge to say that it can", async || client.send.is_extended_connect_protocol_enabled())
        .await;
    for path in ["/wrong", "/none"] {
        let (response, _stream) = client.begin(websocket(path), false).await;
        assert_eq!(within("an answer", response).await.unwrap().status(), 502, "{path}");
    }
    edge.counts("selvedge_tunnels_open", 0).await;
}
