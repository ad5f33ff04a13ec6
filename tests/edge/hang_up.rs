//! A client that leaves takes its attempt with it: the origin sees the end, the target's place is free again, and the count
//! says so.

use crate::support::{Client, Edge, Gate, Origin, Raw, eventually};

const ABANDONED: &str = "selvedge_requests_abandoned_total{pool=\"shop\"}";

/// One place at the target, and no queue: a place that is not given back is a 503.
const ONE_PLACE: &str = "max_connections = 1";

#[tokio::test]
async fn leaving_before_the_answer_cancels_the_attempt() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            if request.target == "/hang" {
                conn.ended().await;
                return;
            }
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let edge = Edge::without_pool().target_with(&origin, ONE_PLACE).pool("queue.length = 0").start().await;
    for (number, reset) in [(1, false), (2, true)] {
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET /hang HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        eventually("the request at the origin", async || origin.count() == number * 2 - 1).await;
        if reset {
            raw.into_wire().reset();
        } else {
            drop(raw);
        }
        eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
        edge.counts(ABANDONED, number as u64).await;
        edge.counts("selvedge_target_in_flight", 0).await;
        assert_eq!(Client::of(&edge).get("/").await.status, 200, "the target's place was not given back");
        eventually("the second request at the origin", async || origin.count() == number * 2).await;
    }
    assert_eq!(edge.metric("selvedge_target_failures_total").await, 0, "it was not the target's fault");
}

#[tokio::test]
async fn leaving_in_the_middle_of_an_answer_ends_it() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
        let block = vec![b'x'; 65_536];
        while conn.send_or_fail(&block).await.is_ok() {}
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.head().await.unwrap();
    raw.skip(1_000_000).await.unwrap();
    drop(raw);
    eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
    edge.counts("selvedge_requests_in_flight", 0).await;
}

#[tokio::test]
async fn leaving_while_an_answer_pauses_ends_it() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
        conn.ended().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.head().await.unwrap();
    drop(raw);
    eventually("the attempt's connection to be closed", async || origin.open() == 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn leaving_in_the_middle_of_a_body_never_completes_it() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let parts = [("Content-Length: 10", "hello"), ("Transfer-Encoding: chunked", "5\r\nhello\r\n")];
    for (number, (framing, part)) in (1..).zip(parts) {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n{part}")).await;
        eventually("the first bytes at the origin", async || {
            String::from_utf8_lossy(&origin.bytes()).matches("hello").count() == number
        })
        .await;
        drop(raw);
        eventually("the body to be cut", async || origin.unfinished().len() == number).await;
    }
    eventually("the attempts' connections to be closed", async || origin.open() == 0).await;
    assert_eq!(origin.count(), 0);
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn leaving_the_queue_makes_room_in_it() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "ok").await;
    let edge = Edge::without_pool()
        .target_with(&origin, ONE_PLACE)
        .pool("queue.length = 1\nqueue.timeout = \"10s\"")
        .start()
        .await;
    let mut first = Raw::connect(&edge).await;
    first.send("GET /1 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    let mut second = Raw::connect(&edge).await;
    second.send("GET /2 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    edge.counts("selvedge_requests_waiting", 1).await;
    drop(second);
    edge.counts("selvedge_requests_waiting", 0).await;
    let mut third = Raw::connect(&edge).await;
    third.send("GET /3 HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    edge.counts("selvedge_requests_waiting", 1).await;
    gate.open();
    assert_eq!(first.response().await.status, 200);
    assert_eq!(third.response().await.status, 200);
    let targets: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/1", "/3"], "a request whose client left was sent");
}

#[tokio::test]
async fn a_hundred_clients_that_leave_at_any_moment_leave_nothing_behind() {
    let origin = Origin::named("origin").await;
    let edge = Edge::before(&origin).top("workers = 2").start().await;
    let request =
        b"POST /some/where HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 20\r\n\r\nbodybodybodybodybody";
    for cut in 0..=request.len() {
        let mut raw = Raw::connect(&edge).await;
        raw.send(&request[..cut]).await;
        if cut % 2 == 0 {
            raw.into_wire().reset();
        }
    }
    edge.counts("selvedge_connections_open", 0).await;
    edge.counts("selvedge_requests_in_flight", 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
    assert!(origin.requests().iter().all(|request| request.body.len() == 20));
}
