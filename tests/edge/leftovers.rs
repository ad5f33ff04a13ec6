//! What one message leaves behind must not change the next: positions, promises, bytes and places in line.

use std::time::{Duration, Instant};

use crate::support::{Client, Edge, Gate, Origin, Raw, eventually, still_waiting_after};

const FAILURES: &str = "selvedge_target_failures_total";

/// Sends a head in two pieces, the second of which is only its end.
async fn head_in_two_pieces(raw: &mut Raw) {
    let head = format!("GET /1 HTTP/1.1\r\nHost: shop.test\r\nX-Long: {}\r\n\r\n", "x".repeat(400));
    let (most, end) = head.split_at(head.len() - 2);
    raw.send(most).await;
    assert!(still_waiting_after(Duration::from_millis(100), raw.head()).await, "half a head was answered");
    raw.send(end).await;
    assert_eq!(raw.response().await.status, 200);
}

#[tokio::test]
async fn a_small_head_after_one_that_came_in_pieces_is_read_from_its_beginning() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    head_in_two_pieces(&mut raw).await;
    raw.send("GET /2 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    edge.counts("selvedge_panics_total", 0).await;
}

#[tokio::test]
async fn a_loose_head_after_one_that_came_in_pieces_is_refused() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    head_in_two_pieces(&mut raw).await;
    raw.send(format!("GET /lf HTTP/1.1\nHost: shop.test\nX-A: b\nX: {}\r\n\r\n", "a".repeat(500))).await;
    assert_eq!(raw.response().await.status, 400);
    assert_eq!(origin.count(), 1, "a bare LF reached the origin");
}

#[tokio::test]
async fn a_body_held_back_is_not_asked_for_after_the_final_answer() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            conn.request_head().await;
            conn.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 6\r\n\r\nabc").await;
            gate.pass().await;
            conn.send("def").await;
            std::future::pending::<()>().await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n").await;
    eventually("the head at the origin", async || !origin.bytes().is_empty()).await;
    gate.open();
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (401, "abcdef"));
    assert!(answer.interim.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn an_expectation_without_a_body_still_has_a_deadline() {
    let origin = Origin::raw(async |mut conn| {
        conn.request_head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let edge =
        Edge::before(&origin).pool("timeouts.first_byte = \"300ms\"\nretry.attempts = 1").start().await;
    let mut raw = Raw::connect(&edge).await;
    let started = Instant::now();
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 504);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_late_100_does_not_take_the_deadline_away() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let edge = Edge::before(&origin).pool("timeouts.first_byte = \"300ms\"").start().await;
    let answer = Client::of(&edge).post("/", b"hello").await;
    assert_eq!(answer.status, 504);
    edge.counts(&format!("{FAILURES}{{reason=\"first_byte_timeout\"}}"), 1).await;
}

#[tokio::test]
async fn a_body_that_a_head_may_not_have_is_nobodys_answer() {
    const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nEVIL";
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            if request.method == "HEAD" {
                conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", EVIL.len())).await;
                tokio::task::yield_now().await;
                conn.send(EVIL).await;
            } else {
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").await;
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).top("workers = 1").start().await;
    let (mut asking, mut reading) = (Client::of(&edge), Client::of(&edge));
    for _ in 0..200 {
        let (head, get) = tokio::join!(asking.request("HEAD", "/", &[], b""), reading.get("/"));
        assert_eq!((head.status, get.text().as_str()), (200, "good"));
    }
}

#[tokio::test]
async fn places_freed_in_one_moment_are_given_to_as_many_who_wait() {
    let slow = Gate::closed();
    let held = Origin::holding(&slow, "done").await;
    let edge = Edge::before_all(&[])
        .target_with(&held, "max_connections = 2")
        .pool("queue.timeout = \"10s\"")
        .start()
        .await;
    let mut all = Vec::new();
    for _ in 0..8 {
        let mut client = Client::of(&edge);
        all.push(tokio::spawn(async move { client.get("/").await.status }));
    }
    edge.counts("selvedge_requests_waiting", 6).await;
    let started = Instant::now();
    slow.open();
    for request in all {
        assert_eq!(request.await.unwrap(), 200);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "somebody waited beside a free place");
}
