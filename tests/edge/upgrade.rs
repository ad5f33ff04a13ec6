//! WebSocket tunnels, and what is not one: only `websocket`, only when both sides say so, only after the origin's 101.

use std::time::Duration;

use crate::support::{Client, Conn, Edge, End, Gate, Origin, Raw, Reply, eventually, still_waiting_after};

const HANDSHAKE: &str = "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Sends back whatever comes, until the other side is done.
async fn echo(conn: &mut Conn) {
    while let Ok(bytes) = conn.some_patiently().await {
        if conn.try_send(&bytes).await.is_err() {
            return;
        }
    }
}

/// An origin that switches when it is asked to, and then echoes.
async fn chat() -> Origin {
    Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            if request.fields.lists("connection", "upgrade") && request.fields.lists("upgrade", "websocket") {
                conn.send(SWITCH).await;
                echo(&mut conn).await;
                return;
            }
            conn.send(Reply::ok("no upgrade").bytes(&request.method)).await;
        }
    })
    .await
}

async fn connected(edge: &Edge) -> Raw {
    let mut raw = Raw::connect(edge).await;
    raw.send(HANDSHAKE).await;
    let head = raw.head().await.unwrap();
    assert_eq!(head.status(), 101);
    assert!(head.fields.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.fields.get("upgrade"), Some("websocket"));
    assert_eq!(head.fields.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    raw
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways() {
    let origin = chat().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = connected(&edge).await;
    for message in ["\u{81}hello", "GET / HTTP/1.1\r\n\r\n", "\0\0\0\n\n"] {
        raw.send(message).await;
        assert_eq!(raw.exactly(message.len()).await.unwrap(), message.as_bytes());
    }
    let large = vec![7u8; 1 << 20];
    let (mut sent, mut received) = (0, 0);
    while received < large.len() {
        if sent < large.len() {
            raw.send(&large[sent..sent + 65_536]).await;
            sent += 65_536;
        }
        received += raw.some().await.unwrap().len();
    }
    edge.counts("selvedge_tunnels_open", 1).await;
    let request = origin.last();
    assert_eq!(request.fields.get("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    drop(raw);
    edge.counts("selvedge_tunnels_open", 0).await;
    eventually("the origin's side to be closed", async || origin.open() == 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
}

#[tokio::test]
async fn an_end_of_one_direction_leaves_the_other_open() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send(SWITCH).await;
        let (bytes, end) = conn.until_end().await;
        assert_eq!(end, End::Closed);
        conn.send(format!("after the end: {}", String::from_utf8_lossy(&bytes))).await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = connected(&edge).await;
    raw.send("last words").await;
    raw.finish().await;
    let (bytes, end) = raw.until_end().await;
    assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end), ("after the end: last words", End::Closed));
    edge.counts("selvedge_tunnels_open", 0).await;
}

#[tokio::test]
async fn an_origin_that_ends_its_direction_still_hears_the_client() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            conn.request().await;
            conn.send(format!("{SWITCH}goodbye")).await;
            conn.finish().await;
            let (bytes, _) = conn.until_end().await;
            assert_eq!(bytes, b"one more thing");
            gate.open();
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = connected(&edge).await;
    let (bytes, end) = raw.until_end().await;
    assert_eq!((bytes.as_slice(), end), (b"goodbye".as_slice(), End::Closed));
    raw.send("one more thing").await;
    raw.finish().await;
    gate.pass().await;
}

#[tokio::test]
async fn bytes_before_the_101_wait_for_it() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            conn.request().await;
            let early = still_waiting_after(Duration::from_millis(200), conn.some_patiently()).await;
            assert!(early, "bytes came before the switch");
            gate.open();
            conn.send(SWITCH).await;
            echo(&mut conn).await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(format!("{HANDSHAKE}too early")).await;
    gate.pass().await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    assert_eq!(raw.exactly(9).await.unwrap(), b"too early");
}

#[tokio::test]
async fn bytes_that_come_with_the_101_reach_the_client() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send(format!("{SWITCH}welcome")).await;
        echo(&mut conn).await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = connected(&edge).await;
    assert_eq!(raw.exactly(7).await.unwrap(), b"welcome");
}

#[tokio::test]
async fn a_declined_upgrade_is_an_ordinary_answer() {
    let origin = Origin::named("plain").await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(HANDSHAKE).await;
    assert_eq!(raw.response().await.text(), "plain");
    raw.send(HANDSHAKE).await;
    assert_eq!(raw.response().await.text(), "plain");
    edge.counts("selvedge_tunnels_open", 0).await;
}

#[tokio::test]
async fn a_switch_to_another_protocol_than_asked_for_is_a_502() {
    for switch in [
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n",
    ] {
        let origin = Origin::raw(move |mut conn| async move {
            conn.request().await;
            conn.send(switch).await;
            conn.ended().await;
        })
        .await;
        let edge = Edge::before(&origin).pool("retry.attempts = 1").start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send(HANDSHAKE).await;
        assert_eq!(raw.response().await.status, 502);
        edge.counts("selvedge_target_failures_total{reason=\"protocol\"}", 1).await;
        eventually("the connection to be closed", async || origin.open() == 0).await;
    }
}

#[tokio::test]
async fn other_upgrades_are_ordinary_requests() {
    let origin = chat().await;
    let edge = Edge::before(&origin).start().await;
    let handshake = |method: &str, version: &str, upgrade: &str, more: &str, body: &str| {
        format!(
            "{method} / HTTP/{version}\r\nHost: shop.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\n\
             HTTP2-Settings: AAMAAABkAAQAAP__\r\n{more}\r\n{body}"
        )
    };
    for request in [
        handshake("GET", "1.1", "h2c", "", ""),
        handshake("GET", "1.1", "TLS/1.0", "", ""),
        handshake("GET", "1.0", "websocket", "", ""),
        handshake("POST", "1.1", "websocket", "Content-Length: 2\r\n", "ok"),
        handshake("GET", "1.1", "websocket", "Content-Length: 2\r\n", "ok"),
        "GET / HTTP/1.1\r\nHost: shop.test\r\nUpgrade: websocket\r\n\r\n".to_owned(),
    ] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(&request).await;
        let answer = raw.response().await;
        // A websocket handshake that may not be one can also be refused outright.
        assert!(answer.status == 400 || answer.text() == "no upgrade", "{request:?}: {answer:?}");
    }
    for request in origin.requests() {
        assert!(!request.fields.has("upgrade") && !request.fields.has("http2-settings"), "{request:?}");
    }
    assert_eq!(edge.metric("selvedge_tunnels_open").await, 0);
}

#[tokio::test]
async fn a_silent_tunnel_is_closed_after_the_idle_time() {
    let origin = chat().await;
    let edge = Edge::before(&origin).pool("timeouts.idle = \"300ms\"").start().await;
    let mut raw = connected(&edge).await;
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for _ in 0..6 {
        tick.tick().await;
        raw.send("ping").await;
        assert_eq!(raw.exactly(4).await.unwrap(), b"ping", "a tunnel in use stays open");
    }
    raw.ended().await;
    edge.counts("selvedge_tunnels_open", 0).await;
    eventually("the origin's side to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn a_tunnel_does_not_end_with_the_deadlines_of_requests() {
    let origin = chat().await;
    let edge = Edge::before(&origin)
        .listener("head_timeout = \"200ms\"\nkeep_alive = \"200ms\"\nidle = \"200ms\"")
        .pool("timeouts.first_byte = \"200ms\"\ntimeouts.idle = \"30s\"")
        .start()
        .await;
    let mut raw = connected(&edge).await;
    assert!(still_waiting_after(Duration::from_millis(700), raw.some_patiently()).await);
    raw.send("still here").await;
    assert_eq!(raw.exactly(10).await.unwrap(), b"still here");
    assert_eq!(Client::of(&edge).get("/").await.text(), "no upgrade");
}
