//! How messages begin and end: keep-alive, pipelining, HTTP/1.0, chunks, trailers, answers without a body, and the interim
//! answers 100 and 103.

use crate::support::message::{Framing, latin1};
use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, eventually};

#[tokio::test]
async fn one_connection_carries_many_requests_on_both_sides() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..50 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!((client.connects, origin.connections()), (1, 1));
    edge.counts("selvedge_requests_total{pool=\"shop\",class=\"2xx\"}", 50).await;
    edge.counts("selvedge_target_attempts_total{pool=\"shop\"}", 50).await;
}

#[tokio::test]
async fn twenty_pipelined_requests_are_answered_in_order() {
    let origin =
        Origin::replying(|request| Reply::ok(format!("{} {}", request.target, latin1(&request.body)))).await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    let mut bytes = String::new();
    for number in 0..20 {
        bytes += &match number % 3 {
            0 => format!("GET /{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n"),
            1 => format!("POST /{number} HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 3\r\n\r\nabc"),
            _ => format!(
                "POST /{number} HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
            ),
        };
    }
    raw.send(&bytes).await;
    for number in 0..20 {
        let body = if number % 3 == 0 { "" } else { "abc" };
        assert_eq!(raw.response().await.text(), format!("/{number} {body}"));
    }
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_answered() {
    let origin = Origin::replying(|request| Reply::ok(&request.body)).await;
    let edge = Edge::before(&origin).start().await;
    for request in [
        "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n",
    ] {
        let mut raw = Raw::connect(&edge).await;
        for byte in request.as_bytes() {
            raw.send([*byte]).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.response().await.text(), "hello");
    }
}

#[tokio::test]
async fn a_head_that_came_in_parts_leaves_no_trace_on_the_next() {
    let origin = Origin::replying(|request| Reply::ok(&request.target)).await;
    let edge = Edge::before(&origin).start().await;
    let long = format!("GET /long HTTP/1.1\r\nHost: shop.test\r\nX: {}\r\n\r\n", "x".repeat(200));
    let short = "GET /s HTTP/1.1\r\nHost: a\r\n\r\n";
    let bad = "GET /bad HTTP/1.1\nHost: shop.test\r\n\r\n";
    for cut in [1, 16, 30, 100, long.len() - 3, long.len() - 1] {
        for (pipelined, next, status) in
            [(false, short, 200), (true, short, 200), (false, bad, 400), (true, bad, 400)]
        {
            let mut raw = Raw::connect(&edge).await;
            raw.send(&long[..cut]).await;
            // The worker has looked at its sockets, and so at this part, once it has answered somebody else.
            assert_eq!(Client::of(&edge).get("/between").await.status, 200);
            if pipelined {
                raw.send(format!("{}{next}", &long[cut..])).await;
                assert_eq!(raw.response().await.text(), "/long");
            } else {
                raw.send(&long[cut..]).await;
                assert_eq!(raw.response().await.text(), "/long");
                raw.send(next).await;
            }
            assert_eq!(raw.response().await.status, status, "{next:?} after a head cut at {cut}");
        }
    }
    assert!(origin.requests().iter().all(|request| request.target != "/bad"));
}

#[tokio::test]
async fn an_answer_that_comes_byte_by_byte_is_passed_on() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n2\r\nlo\r\n0\r\nX: y\r\n\r\n",
    ] {
        let origin = Origin::raw(move |mut conn| async move {
            while conn.request().await.is_some() {
                for byte in answer.as_bytes() {
                    conn.send([*byte]).await;
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        let mut client = Client::of(&edge);
        assert_eq!(client.get("/").await.text(), "hello");
        assert_eq!(client.get("/").await.text(), "hello");
        assert_eq!((client.connects, origin.connections()), (1, 1));
    }
}

#[tokio::test]
async fn http_1_0_without_keep_alive_is_closed_after_its_answer() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    let answer = raw.response().await;
    assert_eq!(answer.status, 200);
    raw.closed().await;
    let request = origin.last();
    assert_eq!(request.version, "HTTP/1.1", "origins are spoken to in HTTP/1.1");
    assert!(request.fields.has("host"));
}

#[tokio::test]
async fn http_1_0_with_keep_alive_stays_open_and_is_told_so() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..3 {
        raw.send("GET / HTTP/1.0\r\nHost: shop.test\r\nConnection: keep-alive\r\n\r\n").await;
        let answer = raw.response().await;
        assert_eq!(answer.status, 200);
        assert!(answer.fields.lists("connection", "keep-alive"), "{answer:?}");
        assert!(matches!(answer.framing, Framing::Length(_)));
    }
}

#[tokio::test]
async fn http_1_0_never_gets_chunks() {
    let origin = Origin::start().await.route("/", Reply::ok("in chunks").chunked());
    let edge = Edge::before(&origin).start().await;
    for connection in ["", "Connection: keep-alive\r\n"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("GET / HTTP/1.0\r\nHost: shop.test\r\n{connection}\r\n")).await;
        let answer = raw.response().await;
        assert_eq!((answer.framing, answer.text().as_str()), (Framing::UntilClose, "in chunks"));
        assert!(!answer.fields.lists("connection", "keep-alive"), "{answer:?}");
    }
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    for field in ["Connection: close", "connection: x, CLOSE"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{field}\r\n\r\n")).await;
        assert!(raw.response().await.fields.lists("connection", "close"));
        raw.closed().await;
    }
    assert_eq!(origin.connections(), 1, "a client that leaves does not end the connection to the origin");
}

#[tokio::test]
async fn an_origin_that_closes_after_its_answer_costs_nothing() {
    let origin = Origin::start().await.route("/", Reply::ok("bye").field("Connection: close"));
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for number in 1..=5 {
        let answer = client.get("/").await;
        assert_eq!(answer.text(), "bye");
        assert!(!answer.fields.has("connection"), "the client's connection stays open");
        assert_eq!((client.connects, origin.connections()), (1, number));
    }
}

#[tokio::test]
async fn an_http_1_0_origin_is_understood() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.0 200 OK\r\nX: y\r\n\r\nto the end").await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for number in 1..=3 {
        let answer = client.get("/").await;
        assert_eq!((answer.version.as_str(), answer.text().as_str()), ("HTTP/1.1", "to the end"));
        assert_eq!((client.connects, origin.connections()), (1, number));
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_framed_anew() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nX: y\r\n\r\nto the end").await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    let answer = client.get("/").await;
    assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "to the end"));
    assert_eq!(client.get("/").await.text(), "to the end");
    assert_eq!(client.connects, 1);
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let origin = Origin::raw(async |mut conn| {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n").await;
            conn.send("5;ext=\"a;b\"\r\nhello\r\n6\r\n world\r\n000\r\nX-Sum: 11\r\n\r\n").await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..2 {
        raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\nTE: trailers\r\nConnection: TE\r\n").await;
        raw.send("Trailer: X-Check\r\n\r\n4\r\nwiki\r\nA\r\npedia inst\r\n0\r\nX-Check: yes\r\n\r\n").await;
        let answer = raw.response().await;
        assert_eq!((answer.framing, answer.text().as_str()), (Framing::Chunked, "hello world"));
        assert_eq!(answer.trailers.get("x-sum"), Some("11"));
    }
    let request = origin.last();
    assert_eq!((request.framing, latin1(&request.body).as_str()), (Framing::Chunked, "wikipedia inst"));
    assert_eq!(request.trailers.get("x-check"), Some("yes"));
}

#[tokio::test]
async fn trailers_never_carry_what_frames_or_routes_a_message() {
    let origin = Origin::raw(async |mut conn| {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Length: 9\r\nX-Sum: 2\r\n\r\n").await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nHost: other\r\nTransfer-Encoding: gzip\r\n\r\n")
        .await;
    match raw.try_response("POST").await {
        Ok(answer) if answer.status == 200 => {
            assert!(!answer.trailers.has("content-length"), "{:?}", answer.trailers);
            let trailers = origin.last().trailers;
            for name in ["host", "transfer-encoding"] {
                assert!(!trailers.has(name), "{trailers:?}");
            }
        }
        Ok(answer) => assert!(matches!(answer.status, 400 | 502), "{answer:?}"),
        Err(cut) => assert!(cut.head.is_some(), "{cut:?}"),
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let origin =
        Origin::start().await.route("/", Reply::ok("hello")).route("/chunks", Reply::ok("hello").chunked());
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..2 {
        raw.send("HEAD / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let answer = raw.response_to("HEAD").await;
        assert_eq!((answer.status, answer.fields.get("content-length")), (200, Some("5")));
        raw.send("HEAD /chunks HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let answer = raw.response_to("HEAD").await;
        assert_eq!((answer.status, answer.fields.get("content-length")), (200, None));
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(raw.response().await.text(), "hello");
    }
}

#[tokio::test]
async fn answers_204_and_304_have_no_body_and_keep_the_connection() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            match request.target.as_str() {
                "/204" => conn.send("HTTP/1.1 204 No Content\r\nX: y\r\n\r\n").await,
                "/304" => {
                    conn.send("HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 500\r\n\r\n").await
                }
                _ => conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await,
            };
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..2 {
        let answer = client.get("/204").await;
        assert_eq!(answer.status, 204);
        assert!(
            !answer.fields.has("content-length") && !answer.fields.has("transfer-encoding"),
            "{answer:?}"
        );
        let answer = client.get("/304").await;
        assert_eq!((answer.status, answer.fields.get("etag")), (304, Some("\"a\"")));
        assert!(!answer.fields.has("transfer-encoding"), "{answer:?}");
        assert_eq!(client.get("/").await.text(), "ok");
    }
    assert_eq!(client.connects, 1);
    // The edge may look for surplus bytes for a moment before it uses the connection again.
    eventually("an answer without a body to leave its connection of use", async || {
        let before = origin.connections();
        client.get("/204").await;
        origin.connections() == before
    })
    .await;
}

#[tokio::test]
async fn a_request_keeps_its_framing_and_its_fields() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    client.get_with("/a?b", &["X-One: 1", "Accept: a", "X-One: 2", "Accept: b"]).await;
    let request = origin.last();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/a?b"));
    assert_eq!(request.framing, Framing::Empty, "a GET without a body stays one: {:?}", request.fields);
    assert_eq!(request.fields.all("x-one"), ["1", "2"]);
    assert_eq!(request.fields.all("accept"), ["a", "b"]);
    client.post("/", b"").await;
    assert_eq!(origin.last().framing, Framing::Length(0));
    client.post("/", b"12345").await;
    assert_eq!(origin.last().framing, Framing::Length(5));
    client.request("GET", "/", &[], b"a body").await;
    let request = origin.last();
    assert_eq!((request.method.as_str(), latin1(&request.body).as_str()), ("GET", "a body"));
    assert_eq!(origin.connections(), 1);
}

#[tokio::test]
async fn an_answer_keeps_its_status_and_its_fields() {
    let reply = Reply::status(418)
        .field("X-One: 1")
        .field("Set-Cookie: a=1")
        .field("X-One: 2")
        .field("Set-Cookie: b=2");
    let origin = Origin::start().await.route("/", reply);
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!((answer.status, answer.fields.get("content-length")), (418, Some("0")));
    assert_eq!(answer.fields.all("x-one"), ["1", "2"]);
    assert_eq!(answer.fields.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn an_expectation_is_answered_before_the_body_comes() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(mut request) = conn.request_head().await {
            if request.fields.has("expect") {
                conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            conn.rest_of(&mut request).await;
            conn.send(Reply::ok(&request.body).bytes("POST")).await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    for _ in 0..2 {
        raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
            .await;
        assert_eq!(raw.head().await.unwrap().status(), 100);
        raw.send("hello").await;
        assert_eq!(raw.response().await.text(), "hello");
    }
}

#[tokio::test]
async fn a_refused_expectation_spares_the_body() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request_head().await {
            conn.note(&request);
            conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
            conn.ended().await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 500000\r\n\r\n")
        .await;
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (403, "no"));
    // The edge itself may have asked for the body (100), but what is not sent is not waited for.
    assert!(
        answer.fields.lists("connection", "close"),
        "an unsent body leaves the connection unusable: {answer:?}"
    );
}

#[tokio::test]
async fn an_expectation_the_origin_ignores_does_not_hang() {
    // This origin says nothing until it has the whole body.
    let origin = Origin::replying(|request| Reply::ok(&request.body)).await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    // A client waits a second or so for 100, then sends anyway (RFC 9110 10.1.1); here it does not wait at all.
    raw.send("hello").await;
    assert_eq!(raw.response().await.text(), "hello");
}

#[tokio::test]
async fn http_1_0_never_gets_100() {
    let origin = Origin::replying(|request| Reply::ok(&request.body)).await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.0\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello")
        .await;
    let answer = raw.response().await;
    assert!(answer.interim.is_empty(), "{answer:?}");
    assert_eq!(answer.text(), "hello");
}

#[tokio::test]
async fn early_hints_reach_http_1_1_at_once_and_http_1_0_never() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n").await;
                gate.pass().await;
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let hint = raw.head().await.unwrap();
    assert_eq!((hint.status(), hint.fields.get("link")), (103, Some("</style.css>; rel=preload")));
    gate.open();
    assert_eq!(raw.response().await.text(), "ok");
    let mut old = Raw::connect(&edge).await;
    old.send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    let answer = old.response().await;
    assert!(answer.interim.is_empty(), "{answer:?}");
    assert_eq!(answer.text(), "ok");
}

#[tokio::test]
async fn a_stale_kept_connection_costs_nobody_an_error() {
    // The origin closes each connection once it is idle; the edge learns of it before, or as, it sends the next request.
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..50 {
        assert_eq!(client.get("/").await.text(), "ok");
    }
    eventually("all connections to be closed", async || origin.open() == 0).await;
    assert_eq!(client.post("/", b"x").await.status, 200, "the edge knew that the connection was closed");
}
