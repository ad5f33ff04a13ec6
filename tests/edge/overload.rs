//! A node that is asked for more than it has: it refuses early, sheds what is idle, serves who can be served, and is well again
//! as soon as the load ends.
//!
//! `SELVEDGE_SOAK=1` brings 2000 clients to 256 file descriptors instead of 400, and ten times the load for a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::support::http2::{END_HEADERS, END_STREAM, Frames, HEADERS, Http2, WINDOW_UPDATE, frame};
use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, all, eventually};

const SHED: &str = "selvedge_connections_shed_total";
const REFUSED: &str = "selvedge_overload_refusals_total";

fn soak() -> bool {
    std::env::var_os("SELVEDGE_SOAK").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_file_descriptors_are_served_in_turn() {
    let (clients, rounds) = if soak() { (2000, 5) } else { (400, 3) };
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .pool("health.path = \"/\"\nhealth.interval = \"200ms\"\nhealth.unhealthy = 1")
        .open_files(256)
        .start()
        .await;
    edge.logged(&["file descriptors are few"]).await;
    let most = edge.metric("selvedge_connections_max").await;
    assert!((64..128).contains(&most), "{most} client connections of 256 descriptors");
    let edge = Arc::new(edge);
    let begun = Instant::now();
    // Each keeps its connection open between its requests: nobody leaves by itself.
    let served = all((0..clients).map(|_| {
        let edge = edge.clone();
        async move {
            let mut client = Client::of(&edge);
            for _ in 0..rounds {
                assert_eq!(client.get("/").await.status, 200);
            }
            client
        }
    }))
    .await;
    let took = begun.elapsed();
    let (shed, open) = (edge.metric(SHED).await, edge.metric("selvedge_connections_open").await);
    println!(
        "{clients} clients on 256 descriptors: {rounds} requests each in {took:?}; {shed} idle connections shed"
    );
    assert!(open <= most, "{open} of {most} connections");
    assert!(edge.metric("selvedge_connections_shed_total{side=\"client\"}").await > 0);
    assert_eq!(
        edge.metric("selvedge_target_checks_total{result=\"failed\"}").await,
        0,
        "checks have descriptors"
    );
    assert_eq!(edge.metric("selvedge_target_failures_total").await, 0, "and so have requests");
    edge.logged(&["no file descriptor is left for another client"]).await;
    assert!(edge.log().matches("no file descriptor is left").count() < 20, "the log says it now and then");
    drop(served);
    eventually("the node to be free again", async || edge.metric("selvedge_connections_open").await == 0)
        .await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}

#[tokio::test]
async fn accepting_without_descriptors_waits_and_sheds_and_blames_no_target() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).pool("keep_alive.connections = 0").start().await;
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        assert_eq!(raw.response().await.status, 200);
        idle.push(raw);
    }
    // Room for one or two, and each request needs another for its target.
    edge.leave_descriptors(3);
    for _ in 0..10 {
        let mut client = Client::of(&edge);
        assert_eq!(client.get("/").await.status, 200);
        idle.push(Raw::connect(&edge).await);
    }
    assert!(edge.metric(SHED).await > 0);
    assert_eq!(edge.metric("selvedge_target_failures_total").await, 0);
    edge.logged(&["the node has no room"]).await;
}

#[tokio::test]
async fn requests_beyond_what_the_node_allows_are_refused_at_once() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "ok").await;
    let edge = Edge::before(&origin).and("[limits]\nmax_requests = 3").start().await;
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        waiting.push(raw);
    }
    origin.received(3).await;
    let mut client = Client::of(&edge);
    let answer = client.get("/").await;
    assert_eq!((answer.status, answer.fields.get("retry-after")), (503, Some("1")));
    assert_eq!(client.connects, 1, "the connection goes on");
    let mut http2 = Http2::connect(&edge).await;
    assert_eq!(http2.get("/").await.status, 503);
    edge.counts(&format!("{REFUSED}{{reason=\"requests\"}}"), 2).await;
    assert_eq!(origin.count(), 3);
    gate.open();
    for raw in &mut waiting {
        assert_eq!(raw.response().await.status, 200);
    }
    edge.counts("selvedge_requests_in_flight", 0).await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_beyond_the_limit_is_given_back_before_more_is_taken() {
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 1 << 20]));
    let edge = Edge::before(&origin)
        .listener("http2.max_buffered = \"32MiB\"")
        .and("[limits]\nmemory = \"96MiB\"")
        .start()
        .await;
    let mut idle = Raw::connect(&edge).await;
    idle.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(idle.response().await.status, 200);
    let large = b"\x82\x86\x44\x06/large\x41\x09shop.test";
    let mut readers = Vec::new();
    // They open all windows and take nothing.
    for _ in 0..8 {
        let mut reader = Frames::connect(&edge, &[(4, 1 << 30)]).await;
        reader.send(WINDOW_UPDATE, 0, 0, &(1u32 << 30).to_be_bytes()).await;
        reader.flood(120, |at| frame(HEADERS, END_HEADERS | END_STREAM, at as u32 * 2 + 1, large)).await;
        readers.push(reader);
    }
    edge.logged(&["memory is full"]).await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!((answer.status, answer.fields.get("retry-after")), (503, Some("1")));
    assert!(edge.metric(&format!("{REFUSED}{{reason=\"memory\"}}")).await > 0);
    idle.closed().await;
    drop(readers);
    edge.counts("selvedge_http2_streams_open", 0).await;
    eventually("the node to serve again", async || Client::of(&edge).get("/").await.status == 200).await;
    assert_eq!(edge.metric("selvedge_panics_total").await, 0);
}

/// What became of the requests of a crowd.
#[derive(Debug, Default)]
struct Outcome {
    served: usize,
    refused: usize,
    waits: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_load_is_refused_early_and_forgotten_at_once() {
    let lasts = if soak() { Duration::from_secs(60) } else { Duration::from_secs(5) };
    // Four at a time, each for 160 ms: twenty-five requests a second.
    let origin = Origin::raw(async |mut conn| {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(160)).await;
            if conn.try_send(Reply::ok("ok").bytes("GET")).await.is_err() {
                return;
            }
        }
    })
    .await;
    let edge = Edge::without_pool()
        .target_with(&origin, "max_connections = 4")
        .top("workers = 2")
        .pool("queue = { length = 512, timeout = \"2s\" }")
        .start()
        .await;
    let edge = Arc::new(edge);
    let stop = Arc::new(AtomicBool::new(false));
    // Ten times as many come, whatever became of those before.
    let (finish, mut finished) = tokio::sync::mpsc::unbounded_channel();
    let load = tokio::spawn({
        let (edge, stop) = (edge.clone(), stop.clone());
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(40));
            while !stop.load(SeqCst) {
                pace.tick().await;
                for _ in 0..10 {
                    let (edge, finish) = (edge.clone(), finish.clone());
                    tokio::spawn(async move {
                        let begun = Instant::now();
                        let status = Client::of(&edge).get_with("/", &["Connection: close"]).await.status;
                        let _ = finish.send((status, begun.elapsed()));
                    });
                }
            }
        }
    });
    tokio::time::sleep(lasts).await;
    stop.store(true, SeqCst);
    load.await.unwrap();
    let ended = Instant::now();
    // Well again: a request is answered as if nothing had been.
    let mut client = Client::of(&edge);
    eventually("a request to be served without waiting", async || {
        let begun = Instant::now();
        client.get("/").await.status == 200 && begun.elapsed() < Duration::from_millis(500)
    })
    .await;
    let recovery = ended.elapsed();
    let mut outcome = Outcome::default();
    while let Some((status, wait)) = finished.recv().await {
        match status {
            200 => {
                outcome.served += 1;
                outcome.waits.push(wait);
            }
            503 => outcome.refused += 1,
            other => panic!("{other}"),
        }
    }
    outcome.waits.sort_unstable();
    let Outcome { served, refused, waits } = outcome;
    let median = waits[waits.len() / 2];
    println!(
        "{served} served (median {median:?}), {refused} refused in {lasts:?}; well again after {recovery:?}"
    );
    let capacity = 25 * lasts.as_secs() as usize;
    // The machine of a test is shared.
    assert!(served * 2 > capacity, "{served} of {capacity} that the target could have served");
    assert!(refused > served, "{refused} refused, {served} served");
    assert!(recovery < Duration::from_secs(2), "{recovery:?}");
    assert_eq!(edge.metric("selvedge_panics_total").await, 0);
    edge.counts("selvedge_requests_in_flight", 0).await;
}
