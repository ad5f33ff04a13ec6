//! Bodies pass through without being kept: memory stays flat however large they are and however slow their reader is.
//!
//! `SELVEDGE_SOAK=1` sends 2 GiB each way instead of 256 MiB.

use std::time::Duration;

use crate::support::message::Framing;
use crate::support::{Edge, End, Gate, Origin, Raw, eventually, still_waiting_after};

const MIB: u64 = 1 << 20;

fn large() -> u64 {
    if std::env::var_os("SELVEDGE_SOAK").is_some() { 2048 * MIB } else { 256 * MIB }
}

/// Highest resident memory seen while `work` runs, above what it was before.
async fn growth(edge: &Edge, work: impl Future<Output = ()>) -> u64 {
    let before = edge.rss();
    let mut peak = before;
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => break,
            _ = tick.tick() => peak = peak.max(edge.rss()),
        }
    }
    peak.max(edge.rss()) - before
}

/// An origin that answers `/chunked` and everything else with `size` bytes, and reads what it is sent.
async fn bulk(size: u64) -> Origin {
    Origin::raw(move |mut conn| async move {
        let block = vec![b'x'; 128 * 1024];
        while let Some(mut request) = conn.request_head().await {
            let received = match request.framing {
                Framing::Length(length) => conn.skip(length).await.is_ok().then_some(length),
                Framing::Chunked => conn.skip_chunks().await.ok(),
                _ => Some(0),
            };
            let Some(received) = received else { return };
            request.body = received.to_string().into_bytes();
            conn.note(&request);
            if request.method != "GET" {
                conn.send(crate::support::Reply::ok(received.to_string()).bytes("POST")).await;
                continue;
            }
            let chunked = request.target == "/chunked";
            let framing = if chunked {
                "Transfer-Encoding: chunked".to_owned()
            } else {
                format!("Content-Length: {size}")
            };
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n")).await;
            for _ in 0..size / block.len() as u64 {
                if chunked {
                    conn.send(format!("{:x}\r\n", block.len())).await;
                }
                if conn.try_send(&block).await.is_err() {
                    return;
                }
                if chunked {
                    conn.send("\r\n").await;
                }
            }
            if chunked {
                conn.send("0\r\n\r\n").await;
            }
        }
    })
    .await
}

async fn download(edge: &Edge, target: &str, size: u64) {
    let mut raw = Raw::connect(edge).await;
    raw.send(format!("GET {target} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
    let head = raw.head().await.unwrap();
    let received = match head.framing(Some("GET")) {
        Framing::Length(length) => raw.skip(length).await.map(|()| length),
        Framing::Chunked => raw.skip_chunks().await,
        other => panic!("{other:?}"),
    };
    assert_eq!(received.unwrap(), size);
}

async fn upload(edge: &Edge, chunked: bool, size: u64) {
    let block = vec![b'x'; 128 * 1024];
    let mut raw = Raw::connect(edge).await;
    let framing =
        if chunked { "Transfer-Encoding: chunked".to_owned() } else { format!("Content-Length: {size}") };
    raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\n{framing}\r\n\r\n")).await;
    for _ in 0..size / block.len() as u64 {
        if chunked {
            raw.send(format!("{:x}\r\n", block.len())).await;
        }
        raw.try_send(&block).await.unwrap();
        if chunked {
            raw.send("\r\n").await;
        }
    }
    if chunked {
        raw.send("0\r\n\r\n").await;
    }
    assert_eq!(raw.response().await.text(), size.to_string());
}

#[tokio::test]
async fn a_large_download_and_upload_leave_memory_flat() {
    let size = large();
    let origin = bulk(size).await;
    let edge = Edge::before(&origin).start().await;
    download(&edge, "/", size).await;
    let grown = growth(&edge, download(&edge, "/", size)).await;
    assert!(grown < 8 * MIB, "a download of {size} bytes: memory grew by {grown}");
    let grown = growth(&edge, upload(&edge, false, size)).await;
    assert!(grown < 8 * MIB, "an upload of {size} bytes: memory grew by {grown}");
}

#[tokio::test]
async fn a_large_chunked_download_and_upload_leave_memory_flat() {
    let size = large() / 4;
    let origin = bulk(size).await;
    let edge = Edge::before(&origin).start().await;
    let grown = growth(&edge, download(&edge, "/chunked", size)).await;
    assert!(grown < 8 * MIB, "a download of {size} bytes: memory grew by {grown}");
    let grown = growth(&edge, upload(&edge, true, size)).await;
    assert!(grown < 8 * MIB, "an upload of {size} bytes: memory grew by {grown}");
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_origin() {
    let size = 512 * MIB;
    let origin = bulk(size).await;
    let edge = Edge::before(&origin).start().await;
    let mut readers = Vec::new();
    let grown = growth(&edge, async {
        for _ in 0..8 {
            let mut raw = Raw::narrow(&edge).await;
            raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
            raw.head().await.unwrap();
            readers.push(raw);
        }
        passing_stops(&edge, "selvedge_target_received_bytes_total").await;
    })
    .await;
    let passed = edge.metric("selvedge_target_received_bytes_total").await;
    assert!(passed < 8 * 16 * MIB, "{passed} bytes were taken for eight readers that do not read");
    assert!(grown < 8 * MIB, "memory grew by {grown}");
}

#[tokio::test]
async fn an_origin_that_stops_reading_stops_the_client() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            let Some(request) = conn.request_head().await else { return };
            gate.pass().await;
            let Framing::Length(length) = request.framing else { panic!("{request:?}") };
            conn.skip(length).await.unwrap();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let size = 64 * MIB;
    let mut raw = Raw::connect(&edge).await;
    raw.send(format!("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: {size}\r\n\r\n")).await;
    let block = vec![b'x'; MIB as usize];
    let mut sent = 0u64;
    let grown = growth(&edge, async {
        let sending = async {
            while sent < size {
                sent +=
                    raw.send_when_possible(&block[..block.len().min((size - sent) as usize)]).await as u64;
            }
        };
        assert!(still_waiting_after(Duration::from_millis(700), sending).await, "all of it was taken");
    })
    .await;
    assert!(sent < 32 * MIB, "{sent} bytes were taken while the origin read nothing");
    assert!(grown < 8 * MIB, "memory grew by {grown}");
    gate.open();
    while sent < size {
        sent += raw.send_when_possible(&block[..block.len().min((size - sent) as usize)]).await as u64;
    }
    assert_eq!(raw.response().await.text(), "done");
}

#[tokio::test]
async fn the_first_bytes_of_an_answer_do_not_wait_for_the_rest() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            conn.request().await;
            conn.send(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
            )
            .await;
            conn.send("5\r\nfirst\r\n").await;
            gate.pass().await;
            conn.send("6\r\nsecond\r\n0\r\n\r\n").await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.head().await.unwrap();
    assert_eq!(raw.line().await.unwrap(), "5");
    assert_eq!(raw.line().await.unwrap(), "first");
    gate.open();
    assert_eq!(raw.line().await.unwrap(), "6");
    assert_eq!(raw.line().await.unwrap(), "second");
}

#[tokio::test]
async fn the_first_bytes_of_a_body_reach_the_origin_before_the_rest_is_sent() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            conn.request_head().await;
            assert_eq!(conn.exactly(5).await.unwrap(), b"first");
            gate.open();
            assert_eq!(conn.exactly(6).await.unwrap(), b"second");
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 11\r\n\r\nfirst").await;
    gate.pass().await;
    raw.send("second").await;
    assert_eq!(raw.response().await.text(), "ok");
}

#[tokio::test]
async fn an_early_answer_to_an_unfinished_upload_reaches_the_client() {
    for close in ["", "Connection: close\r\n"] {
        let origin = Origin::raw(move |mut conn| async move {
            let Some(request) = conn.request_head().await else { return };
            conn.note(&request);
            conn.send(format!("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n{close}\r\nno")).await;
            conn.ended().await;
        })
        .await;
        let edge = Edge::before(&origin).start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10000000\r\n\r\nsome of it").await;
        let answer = raw.response().await;
        assert_eq!((answer.status, answer.text().as_str()), (401, "no"));
        assert!(answer.fields.lists("connection", "close"), "{answer:?}");
        eventually("the half-used connection to the origin to be closed", async || origin.open() == 0).await;
    }
}

#[tokio::test]
async fn an_early_answer_while_the_client_keeps_sending_is_not_lost_to_a_reset() {
    let origin = Origin::raw(async |mut conn| {
        conn.request_head().await;
        conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
        conn.ended().await;
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 4000000\r\n\r\n").await;
    let block = vec![b'x'; 100_000];
    for _ in 0..10 {
        if raw.try_send(&block).await.is_err() {
            break;
        }
    }
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    assert_eq!(raw.ended().await.1, End::Closed);
}

/// Waits until a counter of bytes stands still.
async fn passing_stops(edge: &Edge, counter: &str) {
    let mut last = u64::MAX;
    let mut still = 0;
    eventually("bytes to stop passing", async || {
        let now = edge.metric(counter).await;
        still = if now == last { still + 1 } else { 0 };
        last = now;
        still >= 20
    })
    .await;
}
