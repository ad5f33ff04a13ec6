//! Upgrades, reloads and a stop in the middle of traffic: no request fails, no download is cut, every WebSocket is told.
//!
//! The numbers are small; `SELVEDGE_SOAK=1` makes them 20 upgrades and 20 reloads under 2000 requests a second, and a stop in
//! the middle of 200 downloads and 200 WebSockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::support::websocket::{BINARY, CLOSE, Socket, echoing, frame};
use crate::support::{Conn, Edge, Origin, Raw, Setup, Wire, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";
const PIECE: usize = 4096;
const PIECES: usize = 40;

fn soaking() -> bool {
    std::env::var_os("SELVEDGE_SOAK").is_some()
}

/// What the clients have done, and whether they go on.
#[derive(Default)]
struct Traffic {
    over: AtomicBool,
    answers: AtomicUsize,
    downloads: AtomicUsize,
    told: AtomicUsize,
}

/// An origin whose answers take `PIECES` times `pause`.
async fn downloads(pause: Duration) -> Origin {
    Origin::raw(move |mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", PIECE * PIECES)).await;
            let mut pace = interval(pause);
            for _ in 0..PIECES {
                pace.tick().await;
                conn.send(vec![b'x'; PIECE]).await;
            }
        }
    })
    .await
}

/// A node before an origin for pages, one for downloads and one for WebSockets.
fn setup(pages: &Origin, files: &Origin, chats: &Origin) -> Setup {
    let pool = |name: &str, origin: &Origin| {
        format!(
            "[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n[pool.{name}]\nhealth.enabled = false\n\
             stickiness.mode = \"off\"\n[[pool.{name}.target]]\naddress = \"{origin}\"\n"
        )
    };
    Edge::before(pages).top("workers = 2").and(&pool("file", files)).and(&pool("chat", chats))
}

async fn connect(address: SocketAddr) -> Wire {
    Wire::connect(address, None).await.expect("a connection is accepted")
}

/// Requests at this pace, each on a connection of its own if `fresh`. A client that is told to go opens another one.
async fn browse(address: SocketAddr, traffic: Arc<Traffic>, pace: Duration, fresh: bool) {
    let mut wire = None;
    let mut pace = interval(pace);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !traffic.over.load(Relaxed) {
        pace.tick().await;
        let mut open = match wire.take() {
            Some(open) => open,
            None => connect(address).await,
        };
        open.send(GET).await;
        let answer = open.try_response("GET").await.expect("a whole answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        traffic.answers.fetch_add(1, Relaxed);
        let stays = !fresh && !answer.fields.lists("connection", "close");
        wire = stays.then_some(open);
    }
}

async fn download(address: SocketAddr, traffic: Arc<Traffic>) {
    while !traffic.over.load(Relaxed) {
        let mut wire = connect(address).await;
        wire.send(GET.replace("GET /", "GET /file")).await;
        let answer = wire.try_response("GET").await.expect("a whole download");
        assert_eq!((answer.status, answer.body.len()), (200, PIECE * PIECES));
        traffic.downloads.fetch_add(1, Relaxed);
    }
}

/// A WebSocket that talks until it is told to go, and comes back. Ends when it is told, if the traffic is over.
async fn chat(address: SocketAddr, traffic: Arc<Traffic>) {
    let mut pace = interval(Duration::from_millis(50));
    while !traffic.over.load(Relaxed) {
        let mut socket = Socket::over(Raw::to(address).await).await;
        loop {
            pace.tick().await;
            if traffic.over.load(Relaxed) {
                return;
            }
            socket.say(b"hello").await;
            let heard = socket.hear().await.expect("an echo, or a Close");
            if heard.opcode == CLOSE {
                assert_eq!(heard.closes().0, 1001);
                socket.0.send(frame(CLOSE, Some([1, 2, 3, 4]), &1001u16.to_be_bytes())).await;
                traffic.told.fetch_add(1, Relaxed);
                break;
            }
            assert_eq!(heard.opcode, BINARY);
        }
    }
}

#[tokio::test]
async fn no_request_fails_in_many_upgrades_and_reloads() {
    let (rounds, pace, deadline) =
        if soaking() { (20, Duration::from_micros(4500), 6) } else { (2, Duration::from_millis(60), 4) };
    let (pages, files) = (Origin::start().await, downloads(Duration::from_millis(25)).await);
    let chats = echoing(|_| ()).await;
    let stop = format!("[shutdown]\ndeadline = \"{deadline}s\"\nspread = \"500ms\"");
    let edge = setup(&pages, &files, &chats).and(&stop).start().await;
    let traffic = Arc::new(Traffic::default());
    let mut clients = JoinSet::new();
    let begun = Instant::now();
    for index in 0..12 {
        // Some connect anew for each request.
        clients.spawn(browse(edge.web, traffic.clone(), pace, index % 4 == 0));
    }
    for _ in 0..4 {
        clients.spawn(download(edge.web, traffic.clone()));
        clients.spawn(chat(edge.web, traffic.clone()));
    }
    for round in 1..=rounds {
        edge.is_upgraded().await;
        let before = traffic.answers.load(Relaxed);
        eventually("traffic after the upgrade", async || traffic.answers.load(Relaxed) > before + 50).await;
        let via = round % 2 == 0;
        edge.becomes(
            &setup(&pages, &files, &chats).and(&stop).and(&format!("[forwarding]\nvia = {via}")).text(),
        )
        .await;
        eventually("the old process to end", async || {
            let shown: serde_json::Value =
                serde_json::from_slice(&edge.admin("/v1/pools").await.body).unwrap();
            shown["node"]["upgrade"]["predecessor"]["drains"] == false
        })
        .await;
    }
    traffic.over.store(true, Relaxed);
    while let Some(client) = clients.join_next().await {
        client.expect("a client that nobody let down");
    }
    let count = |count: &AtomicUsize| count.load(Relaxed);
    let (answers, downloads, told) =
        (count(&traffic.answers), count(&traffic.downloads), count(&traffic.told));
    let rate = answers as f64 / begun.elapsed().as_secs_f64();
    println!(
        "{rounds} upgrades and reloads: {answers} answers ({rate:.0}/s), {downloads} downloads, {told} Closes; none failed"
    );
    assert!(answers > 100 && downloads >= 4 && told >= 4 * (rounds - 1), "{answers} {downloads} {told}");
    assert!(!edge.log().contains("were cut"), "{}", edge.log());
    // Nothing was counted twice, and nothing is missing.
    let served = answers + downloads;
    edge.counts("selvedge_target_responses_total{class=\"2xx\"}", served as u64).await;
}

#[tokio::test]
async fn a_stop_finishes_downloads_and_tells_websockets() {
    let many = if soaking() { 200 } else { 20 };
    let (pages, files) = (Origin::start().await, downloads(Duration::from_millis(50)).await);
    let chats = echoing(|_| ()).await;
    let mut edge = setup(&pages, &files, &chats).and("[shutdown]\ndeadline = \"12s\"").start().await;
    let mut clients = JoinSet::new();
    let traffic = Arc::new(Traffic::default());
    let mut sockets = Vec::new();
    for _ in 0..many {
        let mut wire = connect(edge.web).await;
        wire.send(GET.replace("GET /", "GET /file")).await;
        assert_eq!(wire.head().await.unwrap().status(), 200);
        let traffic = traffic.clone();
        clients.spawn(async move {
            wire.skip((PIECE * PIECES) as u64).await.expect("a whole download");
            traffic.downloads.fetch_add(1, Relaxed);
        });
        sockets.push(Socket::open(&edge).await);
    }
    edge.terminate();
    let begun = Instant::now();
    for mut socket in sockets {
        let traffic = traffic.clone();
        clients.spawn(async move {
            assert_eq!(socket.closed().await.0, 1001);
            traffic.told.fetch_add(1, Relaxed);
        });
    }
    while let Some(client) = clients.join_next().await {
        client.expect("a client that nobody let down");
    }
    assert_eq!(edge.exit().await.code(), Some(0));
    let lasted = begun.elapsed();
    println!("a stop in the middle of {many} downloads and {many} WebSockets: {lasted:?}");
    assert_eq!((traffic.downloads.load(Relaxed), traffic.told.load(Relaxed)), (many, many));
    assert!(lasted < Duration::from_secs(13), "{lasted:?}");
    assert!(!edge.log().contains("were cut"), "{}", edge.log());
}
