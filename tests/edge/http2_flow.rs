//! Flow control and deadlines of HTTP/2: whoever is slow slows its own stream, and nobody waits for ever.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::Builder;

use crate::support::http2::{Frames, GET, HEADERS, Http2, RST_STREAM, WINDOW_UPDATE, answer, asking, get};
use crate::support::wire::Wire;
use crate::support::{Client, Edge, End, Gate, Origin, Reply, eventually, within};

const FAULTS: &str = "selvedge_http2_faults_total";

/// An origin that reads nothing of a body until the gate opens.
async fn slow_reader(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::raw(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(mut request) = conn.request_head().await {
                if request.method == "POST" {
                    gate.pass().await;
                }
                conn.rest_of(&mut request).await;
                conn.send(Reply::ok("read").bytes(&request.method)).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_slow_target_slows_its_client_and_no_other_stream() {
    const LENGTH: usize = 32 << 20;
    let gate = Gate::closed();
    let origin = slow_reader(&gate).await;
    let edge = Edge::before(&origin).listener("http2.stream_window = \"64KiB\"").start().await;
    let mut client = Http2::connect(&edge).await;
    let before = edge.rss();
    let (response, mut stream) = client.begin(asking("POST", "/", &[]), false).await;
    let sending = tokio::spawn(async move {
        let mut left = LENGTH;
        while left > 0 {
            stream.reserve_capacity(left.min(64 << 10));
            let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
            let piece = room.min(left);
            left -= piece;
            stream.send_data(Bytes::from(vec![b'x'; piece]), left == 0).unwrap();
        }
    });
    // What the kernel takes on two sockets is some megabytes; then everything stands still.
    for _ in 0..20 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(!sending.is_finished(), "the target has read nothing");
    assert!(edge.rss() < before + (8 << 20), "{} of {before}", edge.rss());
    gate.open();
    let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
    assert_eq!((answer.status, origin.last().body.len()), (200, LENGTH));
}

#[tokio::test]
async fn a_client_that_stalls_in_its_body_is_answered_with_408() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("idle = \"200ms\"").start().await;
    let mut client = Http2::connect(&edge).await;
    let (response, mut stream) = client.begin(asking("POST", "/", &[("content-length", "10")]), false).await;
    stream.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(within("an answer", response).await.unwrap().status(), 408);
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_whether_or_not_it_was_announced() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("max_body = \"1KiB\"").start().await;
    let mut client = Http2::connect(&edge).await;
    let large = [b'x'; 2000];
    for fields in [&[("content-length", "2000")][..], &[]] {
        let (response, mut stream) = client.begin(asking("POST", "/", fields), false).await;
        let _ = stream.send_data(Bytes::copy_from_slice(&large), true);
        assert_eq!(within("an answer", response).await.unwrap().status(), 413);
    }
    assert_eq!(client.request(asking("POST", "/", &[]), &large[..1024]).await.status, 200);
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn a_window_that_stays_shut_costs_the_stream_and_not_the_others() {
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 1 << 20]));
    let edge = Edge::before(&origin).listener("idle = \"500ms\"").start().await;
    let mut client = Http2::with(&edge, Builder::new().initial_window_size(1000)).await;
    let (response, _) = client.begin(get("/large"), true).await;
    let mut body = within("an answer", response).await.unwrap().into_body();
    assert_eq!(client.get("/").await.status, 200);
    let error = loop {
        match within("the stream to end", body.data()).await.expect("it is not whole") {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    eventually("the target's connection to be closed", async || origin.open() <= 1).await;
    assert_eq!(client.get("/").await.status, 200, "the connection lives");
}

#[tokio::test]
async fn who_reads_nothing_from_the_socket_is_closed() {
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 16 << 20]));
    let edge = Edge::before(&origin).listener("idle = \"300ms\"").start().await;
    let mut wire = Wire::connect_narrow(edge.web, 4096).await;
    let settings = crate::support::http2::frame(4, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    let window = crate::support::http2::frame(WINDOW_UPDATE, 0, 0, &0x7f00_0000u32.to_be_bytes());
    wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.send(settings).await.send(window).await;
    let large = [&b"\x82\x86\x44\x06/large\x41\x09shop.test"[..]].concat();
    wire.send(crate::support::http2::frame(HEADERS, 5, 1, &large)).await;
    edge.counts(&format!("{FAULTS}{{reason=\"write_timeout\"}}"), 1).await;
    eventually("the target's connection to be closed", async || origin.open() == 0).await;
    assert_eq!(wire.ended().await.1, End::Reset);
}

#[tokio::test]
async fn connections_without_requests_end_in_good_order() {
    let origin = Origin::start().await;
    let edge =
        Edge::before(&origin).listener("keep_alive = \"300ms\"\nhead_timeout = \"300ms\"").start().await;
    let mut client = Http2::connect(&edge).await;
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.ended().await, None);
    // One that says nothing more than how it begins, and does not listen to what it is asked.
    let mut silent = Frames::connect(&edge, &[]).await;
    assert_eq!(silent.goes_away().await.0, 0);
    assert_eq!(silent.goes_away().await.0, 0);
    let mut half = Wire::connect(edge.web, None).await.unwrap();
    half.send("PRI * HTTP/2.0\r\n\r\n").await;
    half.ended().await;
    edge.counts("selvedge_connections_open", 0).await;
}

#[tokio::test]
async fn streams_of_one_connection_are_served_side_by_side() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            while let Some(request) = conn.request().await {
                if request.target != "/last" {
                    gate.pass().await;
                }
                conn.send(Reply::ok(&request.target).bytes(&request.method)).await;
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).start().await;
    let mut client = Http2::connect(&edge).await;
    let mut waiting = Vec::new();
    for at in 0..50 {
        waiting.push((at, client.begin(get(&format!("/{at}")), true).await.0));
    }
    origin.received(50).await;
    assert_eq!(client.get("/last").await.text(), "/last");
    gate.open();
    for (at, response) in waiting {
        let answer = answer(within("an answer", response).await.unwrap()).await.unwrap();
        assert_eq!(answer.text(), format!("/{at}"));
    }
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_may_be_tried_again() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        let _ = conn.idle().await;
    })
    .await;
    let edge = Edge::before(&origin).listener("http2.max_concurrent_streams = 2").start().await;
    let mut frames = Frames::connect(&edge, &[]).await;
    for stream in [1, 3, 5] {
        frames.open(stream, GET, true).await;
    }
    let refused = frames.until(RST_STREAM).await;
    assert_eq!((refused.stream, &refused.payload[..]), (5, &[0, 0, 0, 7][..]), "REFUSED_STREAM");
    origin.received(2).await;
    assert_eq!(origin.count(), 2);
    let _ = tokio::time::timeout(Duration::ZERO, frames.next()).await;
    drop(frames);
    edge.counts("selvedge_http2_connections_open", 0).await;
    assert_eq!(Client::to(edge.admin).get("/livez").await.status, 200);
}
