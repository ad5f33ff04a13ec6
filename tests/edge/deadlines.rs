//! Every wait ends: slow heads, idle connections, hung origins, stalled bodies, and readers that do not read.

use std::time::{Duration, Instant};

use crate::support::{Client, Edge, End, Origin, PATIENCE, Raw, Silent, eventually, still_waiting_after};

const FAILURES: &str = "selvedge_target_failures_total";

fn refused(reason: &str) -> String {
    format!("{}{{reason=\"{reason}\"}}", crate::REFUSALS)
}

/// An origin that reads requests and never answers.
async fn hung() -> Origin {
    Origin::raw(async |mut conn| {
        conn.request().await;
        conn.idle().await.ok();
    })
    .await
}

#[tokio::test]
async fn a_head_that_does_not_come_is_a_408() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("head_timeout = \"200ms\"").start().await;
    for partial in ["G", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: shop.test\r\nX: y\r\n"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(partial).await;
        let answer = raw.response().await;
        assert_eq!(answer.status, 408, "{partial:?}");
        assert!(answer.fields.lists("connection", "close"));
        raw.closed().await;
    }
    edge.counts(&refused("head_timeout"), 3).await;
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_head_that_trickles_in_is_cut_all_the_same() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("head_timeout = \"300ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n").await;
    let started = Instant::now();
    let mut tick = tokio::time::interval(Duration::from_millis(30));
    while raw.try_send("X: y\r\n").await.is_ok() && started.elapsed() < PATIENCE {
        tick.tick().await;
    }
    assert!(started.elapsed() < Duration::from_secs(5), "held for {:?}", started.elapsed());
    edge.counts(&refused("head_timeout"), 1).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("head_timeout = \"200ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.until_end().await;
    edge.counts("selvedge_connections_open", 0).await;
}

#[tokio::test]
async fn an_idle_kept_connection_is_closed_without_a_word() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("keep_alive = \"200ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(raw.closed().await, End::Closed);
    assert_eq!(edge.metric(crate::REFUSALS).await, 0);
}

#[tokio::test]
async fn a_second_head_has_the_deadline_of_the_first() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("head_timeout = \"200ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    raw.send("GET / HT").await;
    assert_eq!(raw.response().await.status, 408);
    edge.counts(&refused("head_timeout"), 1).await;
}

#[tokio::test]
async fn an_idle_connection_to_an_origin_is_closed() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).pool("keep_alive.timeout = \"200ms\"").start().await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    eventually("the connection to the origin to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn an_origin_that_does_not_accept_is_given_up() {
    let silent = Silent::new();
    let edge =
        Edge::before(&silent).pool("timeouts.connect = \"200ms\"\nqueue.timeout = \"300ms\"").start().await;
    let started = Instant::now();
    let answer = Client::of(&edge).get("/").await;
    assert!(matches!(answer.status, 502..=504), "{answer:?}");
    assert!(started.elapsed() < Duration::from_secs(8), "it took {:?}", started.elapsed());
    assert!(edge.metric(&format!("{FAILURES}{{reason=\"connect_timeout\"}}")).await >= 1);
}

#[tokio::test]
async fn an_origin_that_does_not_answer_is_a_504() {
    let origin = hung().await;
    let edge = Edge::before(&origin).pool("timeouts.first_byte = \"200ms\"").start().await;
    assert_eq!(Client::of(&edge).post("/", b"x").await.status, 504);
    edge.counts(&format!("{FAILURES}{{reason=\"first_byte_timeout\"}}"), 1).await;
    eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
    assert_eq!(origin.count(), 1, "a POST is never sent twice");
}

#[tokio::test]
async fn a_head_that_an_origin_never_finishes_is_a_504() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Le").await;
        conn.idle().await.ok();
    })
    .await;
    let edge = Edge::before(&origin)
        .pool("timeouts.first_byte = \"200ms\"\ntimeouts.idle = \"200ms\"")
        .start()
        .await;
    assert_eq!(Client::of(&edge).post("/", b"x").await.status, 504);
    eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn a_body_that_stops_coming_is_a_408() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("idle = \"200ms\"").start().await;
    for (framing, part) in
        [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n3\r\nx")]
    {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n{part}")).await;
        let answer = raw.response().await;
        assert_eq!(answer.status, 408, "{framing}");
        raw.closed().await;
    }
    edge.counts(&refused("body_timeout"), 2).await;
    eventually("the attempts' connections to be closed", async || origin.open() == 0).await;
    assert_eq!(
        (origin.count(), origin.unfinished().len()),
        (0, 2),
        "a cut body looks complete to the origin"
    );
    assert_eq!(edge.metric(FAILURES).await, 0, "it was not the target's fault");
}

#[tokio::test]
async fn a_slow_body_that_keeps_coming_is_not_cut() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener("idle = \"1s\"\nhead_timeout = \"1s\"")
        .pool("timeouts.idle = \"1s\"\ntimeouts.first_byte = \"1s\"")
        .start()
        .await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 12\r\n\r\n").await;
    let mut tick = tokio::time::interval(Duration::from_millis(130));
    for byte in b"hello, world" {
        tick.tick().await;
        raw.send([*byte]).await;
    }
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(origin.last().body, b"hello, world");
}

#[tokio::test]
async fn a_pause_of_the_client_is_not_held_against_the_target() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener("idle = \"10s\"")
        .pool("timeouts.first_byte = \"200ms\"\ntimeouts.idle = \"200ms\"")
        .start()
        .await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 12\r\n\r\nhello, ").await;
    assert!(still_waiting_after(Duration::from_millis(700), raw.head()).await);
    raw.send("world").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(edge.metric(FAILURES).await, 0);
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_cut() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ] {
        let origin = Origin::raw(move |mut conn| async move {
            conn.request().await;
            conn.send(answer).await;
            conn.idle().await.ok();
        })
        .await;
        let edge = Edge::before(&origin).pool("timeouts.idle = \"200ms\"").start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        let cut = raw.cut().await;
        assert_eq!(cut.body, b"hello", "{answer:?}");
        edge.counts(&format!("{FAILURES}{{reason=\"idle_timeout\"}}"), 1).await;
        eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
    }
}

#[tokio::test]
async fn an_origin_that_stops_reading_is_given_up() {
    let origin = Origin::raw(async |mut conn| {
        conn.request_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let edge = Edge::before(&origin).pool("timeouts.idle = \"300ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 100000000\r\n\r\n").await;
    let block = vec![b'x'; 1 << 20];
    let started = Instant::now();
    while started.elapsed() < PATIENCE && raw.try_send(&block).await.is_ok() {}
    assert!(started.elapsed() < PATIENCE, "the edge took everything, or waited for ever");
    edge.counts(&format!("{FAILURES}{{reason=\"idle_timeout\"}}"), 1).await;
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        let block = vec![b'x'; 1 << 20];
        while conn.send_or_fail(&block).await.is_ok() {}
    })
    .await;
    let edge = Edge::before(&origin).listener("idle = \"300ms\"").start().await;
    let mut raw = Raw::narrow(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.head().await.unwrap();
    eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
    edge.counts("selvedge_connections_open", 0).await;
    let (count, _) = raw.ended().await;
    assert!(count < 1_000_000_000);
}

#[tokio::test]
async fn a_reader_of_pipelined_answers_that_does_not_read_is_cut() {
    let origin = Origin::start().await.route("/", crate::support::Reply::ok(vec![b'x'; 60_000]));
    let edge = Edge::before(&origin).listener("idle = \"300ms\"").start().await;
    let mut raw = Raw::narrow(&edge).await;
    let requests = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".repeat(1000);
    let started = Instant::now();
    while started.elapsed() < PATIENCE && raw.try_send(&requests).await.is_ok() {}
    edge.counts("selvedge_connections_open", 0).await;
}
