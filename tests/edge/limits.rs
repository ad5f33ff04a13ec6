//! Bounds of what one client may use: head, fields, target, body, connections.

use std::process::Command;
use std::time::Duration;

use crate::support::{Client, Edge, End, Gate, Origin, Raw, Reply, eventually, still_waiting_after};

fn refused(reason: &str) -> String {
    format!("{}{{reason=\"{reason}\"}}", crate::REFUSALS)
}

async fn status_of(edge: &Edge, request: impl AsRef<[u8]>) -> u16 {
    let mut raw = Raw::connect(edge).await;
    raw.send(request).await;
    let answer = raw.response().await;
    if answer.fields.lists("connection", "close") {
        // A reset could overtake the answer, and the client would never read why.
        assert_eq!(raw.ended().await.1, End::Closed, "the end of a connection after {}", answer.status);
    } else {
        assert!(matches!(answer.status, 200 | 413), "a broken head leaves the connection open: {answer:?}");
    }
    answer.status
}

#[tokio::test]
async fn a_head_larger_than_allowed_is_a_431() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_head = \"4KiB\"").start().await;
    let request =
        |filler: usize| format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX: {}\r\n\r\n", "x".repeat(filler));
    let overhead = request(0).len();
    assert_eq!(status_of(&edge, request(4096 - overhead)).await, 200);
    assert_eq!(status_of(&edge, request(4097 - overhead)).await, 431);
    assert_eq!(status_of(&edge, request(1_000_000)).await, 431);
    edge.counts(&refused("head_too_large"), 2).await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn more_fields_than_allowed_are_a_431() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_fields = 10").start().await;
    let request =
        |more: usize| format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{}\r\n", "X: y\r\n".repeat(more));
    assert_eq!(status_of(&edge, request(9)).await, 200);
    assert_eq!(status_of(&edge, request(10)).await, 431);
    edge.counts(&refused("head_too_large"), 1).await;
}

#[tokio::test]
async fn the_default_bounds_are_32_kib_and_100_fields() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let request = |more: usize, filler: usize| {
        let filler = "x".repeat(filler);
        format!("GET / HTTP/1.1\r\nHost: shop.test\r\nX: {filler}\r\n{}\r\n", "X: y\r\n".repeat(more))
    };
    assert_eq!(status_of(&edge, request(98, 30_000)).await, 200);
    assert_eq!(status_of(&edge, request(99, 0)).await, 431);
    assert_eq!(status_of(&edge, request(0, 32 * 1024)).await, 431);
}

#[tokio::test]
async fn a_target_longer_than_allowed_is_a_414() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_head = \"4KiB\"").start().await;
    let request = format!("GET /{} HTTP/1.1\r\nHost: shop.test\r\n\r\n", "x".repeat(5000));
    assert_eq!(status_of(&edge, request).await, 414);
    let endless = format!("GET /{}", "x".repeat(500_000));
    assert_eq!(status_of(&edge, endless).await, 414);
    edge.counts(&refused("target_too_long"), 2).await;
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_body_larger_than_allowed_is_a_413() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_body = \"1KiB\"").start().await;
    let fixed = |length: usize| {
        format!(
            "POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {length}\r\n\r\n{}",
            "x".repeat(length)
        )
    };
    let chunks = |length: usize| {
        let chunk = format!("100\r\n{}\r\n", "x".repeat(256)).repeat(length / 256);
        format!("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n")
    };
    assert_eq!(status_of(&edge, fixed(1024)).await, 200);
    assert_eq!(status_of(&edge, chunks(1024)).await, 200);
    let connections = origin.connections();
    assert_eq!(status_of(&edge, fixed(1025)).await, 413);
    assert_eq!(
        origin.connections(),
        connections,
        "a length that is too large says so before any target is asked"
    );
    assert_eq!(status_of(&edge, chunks(1280)).await, 413);
    assert_eq!(status_of(&edge, chunks(256_000)).await, 413);
    edge.counts(&refused("body_too_large"), 3).await;
    assert_eq!(origin.count(), 2, "a body that is too large is never complete at an origin");
}

#[tokio::test]
async fn a_body_too_large_is_refused_before_it_is_sent_when_the_client_asks() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_body = \"1KiB\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 5000\r\n\r\n")
        .await;
    let answer = raw.response().await;
    assert!(answer.interim.is_empty(), "{answer:?}");
    assert_eq!(answer.status, 413);
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_their_turn() {
    for workers in ["workers = 1", "workers = 2"] {
        let origin = Origin::start().await;
        let edge = Edge::before(&origin).top(workers).listener("max_connections = 2").start().await;
        let mut first = Raw::connect(&edge).await;
        let mut second = Raw::connect(&edge).await;
        for raw in [&mut first, &mut second] {
            raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
            assert_eq!(raw.response().await.status, 200);
        }
        let mut third = Raw::connect(&edge).await;
        third.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert!(still_waiting_after(Duration::from_millis(300), third.head()).await, "{workers}");
        drop(first);
        assert_eq!(third.response().await.status, 200);
        drop((second, third));
        for _ in 0..10 {
            assert_eq!(Client::of(&edge).get("/").await.status, 200, "{workers}");
        }
    }
}

#[tokio::test]
async fn a_large_answer_head_passes() {
    let reply = (0..30)
        .fold(Reply::ok("ok"), |reply, n| reply.field(&format!("Set-Cookie: c{n}={}", "v".repeat(1000))));
    let reply = (0..100).fold(reply, |reply, n| reply.field(&format!("X-{n}: y")));
    let origin = Origin::start().await.route("/", reply);
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!((answer.status, answer.fields.all("set-cookie").len()), (200, 30));
    assert_eq!(answer.fields.get("x-99"), Some("y"));
}

#[tokio::test]
async fn idle_connections_to_a_target_are_kept_up_to_a_bound() {
    for (kept, bound) in [("keep_alive.connections = 5", 5), ("keep_alive.connections = 0", 0)] {
        let gate = Gate::closed();
        let origin = Origin::holding(&gate, "ok").await;
        let edge = Edge::before(&origin).pool(kept).start().await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            let mut raw = Raw::connect(&edge).await;
            raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
            clients.push(raw);
        }
        origin.received(20).await;
        gate.open();
        for raw in &mut clients {
            assert_eq!(raw.response().await.status, 200);
        }
        eventually("idle connections to be closed", async || origin.open() == bound).await;
        assert_eq!(Client::of(&edge).get("/").await.status, 200);
        assert_eq!(origin.connections(), if bound == 0 { 21 } else { 20 });
    }
}

#[tokio::test]
async fn an_idle_client_connection_costs_little_memory() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut clients = Vec::new();
    let open = async |count: usize, clients: &mut Vec<Raw>| {
        for _ in 0..count {
            let mut raw = Raw::connect(&edge).await;
            raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
            assert_eq!(raw.response().await.status, 200);
            clients.push(raw);
        }
    };
    open(200, &mut clients).await;
    let before = edge.rss();
    open(800, &mut clients).await;
    let each = edge.rss().saturating_sub(before) / 800;
    assert!(each < 16 * 1024, "{each} bytes for an idle connection");
}

/// How long the queue of each socket may become that listens on this port, as the kernel says.
fn backlogs(port: u16) -> Vec<u32> {
    let output = Command::new("ss").args(["-Htln", &format!("sport = :{port}")]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap()).collect()
}

#[tokio::test]
async fn the_backlog_is_that_of_the_configuration_and_follows_a_reload_and_an_upgrade() {
    let origin = Origin::start().await;
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let setup = |backlog: &str| {
        let setup = Edge::before(&origin).top("workers = 2\nwatch = false").listener(backlog);
        setup.and("[shutdown]\ndeadline = \"2s\"\nspread = \"100ms\"")
    };
    let mut edge = setup("").start().await;
    let port = edge.web.port();
    assert_eq!(backlogs(port), [4096.min(most); 2]);
    edge.becomes(&setup("backlog = 7").text()).await;
    assert_eq!(backlogs(port), [7.min(most); 2]);
    edge.write(&setup("backlog = 11").text());
    edge.is_upgraded().await;
    assert_eq!(edge.exit().await.code(), Some(0));
    assert_eq!(backlogs(port), [11.min(most); 2]);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}
