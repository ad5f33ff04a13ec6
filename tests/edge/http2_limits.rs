//! What a client may repeat by HTTP/2: little, if nobody gains by it. Whoever goes on is told to calm down
//! (ENHANCE_YOUR_CALM) and counted, the memory stays small, and everybody else is served.
//!
//! `SELVEDGE_SOAK=1` makes the floods as large as the specification asks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GET, HEADERS, Http2, PING, PRIORITY, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, frame, literal,
};
use crate::support::{Client, Edge, Origin, Reply, eventually};

const FAULTS: &str = "selvedge_http2_faults_total";
const ENHANCE_YOUR_CALM: u32 = 11;
/// Memory that an attack may cost.
const MEMORY: u64 = 64 << 20;

fn soak() -> bool {
    std::env::var_os("SELVEDGE_SOAK").is_some()
}

/// The stream with this number, counted from 0.
fn stream(at: usize) -> u32 {
    at as u32 * 2 + 1
}

/// Floods an edge with these frames, of which there are `most`, until it ends the connection: with the right error, counted as
/// `reason`. Nobody else notices.
async fn is_told_to_calm_down(reason: &str, most: usize, frames: impl FnMut(usize) -> Vec<u8>) {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).start().await;
    let mut other = Http2::connect(&edge).await;
    assert_eq!(other.get("/").await.status, 200);
    let before = edge.rss();
    let mut offender = Frames::connect(&edge, &[]).await;
    let sent = offender.flood(most, frames).await;
    assert_eq!(offender.goes_away().await.0, ENHANCE_YOUR_CALM, "{reason}");
    eventually("the offender to be closed", async || offender.next().await.is_err()).await;
    edge.counts(&format!("{FAULTS}{{reason=\"{reason}\"}}"), 1).await;
    let grown = edge.rss().saturating_sub(before);
    assert!(grown < MEMORY, "{reason}: {grown} bytes more after {sent} times");
    assert_eq!(other.get("/").await.status, 200, "{reason}: others are served");
    edge.counts("selvedge_http2_streams_open", 0).await;
    edge.counts("selvedge_http2_connections_open", 1).await;
}

fn many() -> usize {
    if soak() { 100_000 } else { 5_000 }
}

#[tokio::test]
async fn streams_that_are_begun_and_taken_back() {
    is_told_to_calm_down("resets", many(), |at| {
        let begin = frame(HEADERS, END_HEADERS | END_STREAM, stream(at), GET);
        [begin, frame(RST_STREAM, 0, stream(at), &8u32.to_be_bytes())].concat()
    })
    .await;
}

#[tokio::test]
async fn streams_that_we_are_made_to_reset() {
    is_told_to_calm_down("provoked_resets", many(), |at| {
        let begin = frame(HEADERS, END_HEADERS, stream(at), GET);
        [begin, frame(WINDOW_UPDATE, 0, stream(at), &0x7fff_ffffu32.to_be_bytes())].concat()
    })
    .await;
}

#[tokio::test]
async fn a_head_that_never_ends() {
    is_told_to_calm_down("continuation", many(), |at| match at {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &literal("x", "y")),
    })
    .await;
}

#[tokio::test]
async fn a_head_of_references_to_one_large_field() {
    is_told_to_calm_down("head_size", many(), |at| {
        let large: String = "v".repeat(3900);
        let mut field = b"\x40\x01x\x7f".to_vec();
        // 3900 - 127, in groups of seven bits.
        field.extend_from_slice(&[0x80 | (3773 & 0x7f) as u8, (3773 >> 7) as u8]);
        field.extend_from_slice(large.as_bytes());
        let bomb = [GET, &field, &[0xbe; 10_000]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream(at), &bomb)
    })
    .await;
}

#[tokio::test]
async fn a_head_of_references_to_a_small_field() {
    is_told_to_calm_down("head_size", many(), |at| {
        // "accept-encoding: gzip, deflate" is one byte.
        let bomb = [GET, &[0x90; 10_000]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream(at), &bomb)
    })
    .await;
}

#[tokio::test]
async fn settings() {
    is_told_to_calm_down("settings", many(), |_| frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0])).await;
}

#[tokio::test]
async fn pings() {
    is_told_to_calm_down("ping", many(), |_| frame(PING, 0, 0, &[0; 8])).await;
}

#[tokio::test]
async fn priorities() {
    is_told_to_calm_down("priority", many(), |at| frame(PRIORITY, 0, stream(at), &[0, 0, 0, 0, 7])).await;
}

#[tokio::test]
async fn windows_that_are_opened_byte_by_byte() {
    is_told_to_calm_down("window_update", many(), |_| frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes())).await;
}

#[tokio::test]
async fn frames_of_types_that_do_not_exist() {
    is_told_to_calm_down("other_frame", many(), |_| frame(0x42, 0, 0, b"x")).await;
}

#[tokio::test]
async fn data_that_is_none() {
    is_told_to_calm_down("data", many(), |at| match at {
        0 => frame(HEADERS, END_HEADERS, 1, GET),
        _ => frame(DATA, 0, 1, b""),
    })
    .await;
}

#[tokio::test]
async fn readers_of_single_bytes_hold_little_and_are_sent_away() {
    let (connections, streams) = if soak() { (10, 100) } else { (4, 50) };
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 1 << 20]));
    let edge = Edge::before(&origin).listener("idle = \"2s\"").start().await;
    let mut other = Http2::connect(&edge).await;
    assert_eq!(other.get("/large").await.body.len(), 1 << 20);
    let before = edge.rss();
    let large = b"\x82\x86\x44\x06/large\x41\x09shop.test";
    let mut readers = Vec::new();
    for _ in 0..connections {
        // SETTINGS_INITIAL_WINDOW_SIZE is one byte.
        let mut reader = Frames::connect(&edge, &[(4, 1)]).await;
        for at in 0..streams {
            reader.open(stream(at), large, true).await;
        }
        readers.push(reader);
    }
    edge.counts("selvedge_http2_streams_open", connections * streams as u64).await;
    origin.received(1 + connections as usize * streams).await;
    let began = Instant::now();
    assert_eq!(other.get("/large").await.body.len(), 1 << 20, "others are served");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let grown = edge.rss().saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more");
    for reader in &mut readers {
        assert_eq!(reader.goes_away().await.0, ENHANCE_YOUR_CALM);
    }
    edge.counts(&format!("{FAULTS}{{reason=\"shut_window\"}}"), connections).await;
    edge.counts("selvedge_http2_streams_open", 0).await;
    eventually("the targets' connections to be closed", async || origin.open() <= 2).await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}

#[tokio::test]
async fn a_reader_that_opens_its_windows_by_single_bytes_is_sent_away() {
    let origin = Origin::start().await.route("/large", Reply::ok(vec![b'x'; 1 << 20]));
    let edge = Edge::before(&origin).start().await;
    let mut reader = Frames::connect(&edge, &[(4, 1)]).await;
    reader.open(1, b"\x82\x86\x44\x06/large\x41\x09shop.test", true).await;
    reader.until(DATA).await;
    reader.flood(100_000, |_| frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())).await;
    assert_eq!(reader.goes_away().await.0, ENHANCE_YOUR_CALM);
    edge.counts(&format!("{FAULTS}{{reason=\"window_update\"}}"), 1).await;
    eventually("the target's connection to be closed", async || origin.open() == 0).await;
}

/// The 99th percentile of one client's waits at 200 requests a second.
async fn p99(edge: &Edge, requests: usize) -> Duration {
    let (mut client, mut waits) = (Client::of(edge), Vec::new());
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..requests {
        pace.tick().await;
        let begun = Instant::now();
        assert_eq!(client.get("/").await.status, 200);
        waits.push(begun.elapsed());
    }
    waits.sort_unstable();
    waits[requests * 99 / 100]
}

/// A flood's frames, by their number.
type Flood = fn(usize) -> Vec<u8>;

/// Floods `at` again and again until it is told to stop; how often it was sent away.
async fn offend(at: SocketAddr, flood: Flood, stop: Arc<AtomicBool>) -> usize {
    let mut times = 0;
    while !stop.load(SeqCst) {
        Frames::to(at, &[]).await.flood(100_000, flood).await;
        times += 1;
    }
    times
}

/// Takes as little of each connection as the edge does of a flood, and closes it: what the flood costs whoever makes it.
async fn sink() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taking = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut taken, mut buffer) = (0, vec![0; 16 << 10]);
            while taken < 64 << 10 {
                match stream.read(&mut buffer).await {
                    Ok(count) if count > 0 => taken += count,
                    _ => break,
                }
            }
        }
    });
    (address, taking)
}

#[tokio::test(flavor = "multi_thread")]
async fn offenders_who_come_back_again_and_again_delay_nobody_much() {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).start().await;
    let requests = if soak() { 4000 } else { 200 };
    let alone = p99(&edge, requests).await;
    let taken_back = |at| {
        let begin = frame(HEADERS, END_HEADERS | END_STREAM, stream(at), GET);
        [begin, frame(RST_STREAM, 0, stream(at), &8u32.to_be_bytes())].concat()
    };
    let endless = |at| match at {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &literal("x", "y")),
    };
    let bombs = |at| frame(HEADERS, END_HEADERS | END_STREAM, stream(at), &[GET, &[0x90; 10_000]].concat());
    let floods: [(&str, Flood); 3] = [("resets", taken_back), ("CONTINUATION", endless), ("bombs", bombs)];
    for (name, flood) in floods {
        let (elsewhere, taking) = sink().await;
        let mut waits = Vec::new();
        for at in [elsewhere, edge.web] {
            let stop = Arc::new(AtomicBool::new(false));
            let offender = tokio::spawn(offend(at, flood, stop.clone()));
            waits.push(p99(&edge, requests).await);
            stop.store(true, SeqCst);
            let times = offender.await.unwrap();
            assert!(times > 1, "{name}: sent away {times} times");
        }
        taking.abort();
        let [control, beside] = waits[..] else { unreachable!("two were measured") };
        eprintln!(
            "p99 of others {alone:?} alone, {control:?} while a flood of {name} goes elsewhere, {beside:?} while it comes here"
        );
        // The machine of a test is shared: far more than twice as long would be felt anywhere.
        assert!(
            beside < 4 * control + Duration::from_millis(300),
            "{name}: {beside:?} instead of {control:?}"
        );
    }
}

#[tokio::test]
async fn a_busy_client_may_do_all_of_this_now_and_then() {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).start().await;
    let mut frames = Frames::connect(&edge, &[]).await;
    for at in 0..600 {
        frames.open(stream(2 * at), GET, true).await;
        frames.until(HEADERS).await;
        frames.send(PING, 0, 0, &[0; 8]).await.send(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()).await;
        frames.send(PRIORITY, 0, stream(2 * at), &[0, 0, 0, 0, 7]).await;
        frames.open(stream(2 * at + 1), GET, true).await;
        frames.send(RST_STREAM, 0, stream(2 * at + 1), &8u32.to_be_bytes()).await;
    }
    assert_eq!(edge.metric(FAULTS).await, 0);
}
