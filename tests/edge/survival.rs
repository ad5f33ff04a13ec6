//! Whatever comes, the node stays: random bytes, truncations and mutations of valid requests over many connections, and then a
//! well-formed request is answered by every worker and memory is where it was.
//!
//! The inputs follow from a seed that a failure prints; `SELVEDGE_SEED` chooses another, `SELVEDGE_SOAK=1` sends 100 000.

use std::time::Duration;

use crate::support::{Client, Edge, Origin, Reply, Wire, all, eventually};

const MIB: u64 = 1 << 20;

/// SplitMix64: enough chance for inputs, the same on every machine.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    /// The next number.
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound.max(1) as u64) as usize
    }
}

fn seed() -> u64 {
    std::env::var("SELVEDGE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5e1_7ed6e)
}

fn valid_requests() -> Vec<Vec<u8>> {
    [
        "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
        "GET http://shop.test/a?b=c HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n".to_owned(),
        "HEAD /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".to_owned(),
        "POST /form HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 11\r\n\r\nhello world".to_owned(),
        "PUT /c HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n".to_owned(),
        "POST / HTTP/1.1\r\nHost: shop.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nok".to_owned(),
        "OPTIONS * HTTP/1.1\r\nHost: shop.test\r\nMax-Forwards: 0\r\n\r\n".to_owned(),
        "GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n".to_owned(),
        format!("GET / HTTP/1.1\r\nHost: shop.test\r\nCookie: a=1; SELVEDGE={}; b=\"2\"\r\nCookie: c\r\n\r\n", "A".repeat(100)),
        format!("GET / HTTP/1.1\r\nHost: shop.test\r\n{}\r\n", "X-Field: some value\r\n".repeat(60)),
        "GET / HTTP/1.1\r\nHost: shop.test\r\nAccept: text/html;q=0.5, application/json\r\nTE: trailers\r\nConnection: TE\r\n\r\n".to_owned(),
        "GET /1 HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /2 HTTP/1.1\r\nHost: shop.test\r\n\r\n".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

/// Pieces that have meaning somewhere in a request.
const MEANINGFUL: [&[u8]; 22] = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b":",
    b";",
    b"=",
    b",",
    b"\"",
    b"\0",
    b"\xff",
    b"HTTP/1.1",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: other\r\n",
    b"Connection: close\r\n",
    b"0\r\n\r\n",
    b"ffffffffffffffff\r\n",
    b"-1",
    b"SELVEDGE=",
];

/// One input: random bytes, a truncation, or a valid request with a few changes.
fn input(dice: &mut Dice, valid: &[Vec<u8>]) -> Vec<u8> {
    if dice.below(5) == 0 {
        let length = dice.below(400);
        return (0..length).map(|_| dice.roll() as u8).collect();
    }
    let mut bytes = valid[dice.below(valid.len())].clone();
    if dice.below(4) == 0 {
        bytes.truncate(dice.below(bytes.len()));
        return bytes;
    }
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len());
        match dice.below(6) {
            0 => bytes[at] = dice.roll() as u8,
            1 => bytes[at] ^= 1 << dice.below(8),
            2 => drop(bytes.remove(at)),
            3 => drop(bytes.splice(at..at, MEANINGFUL[dice.below(MEANINGFUL.len())].iter().copied())),
            4 => {
                let end = (at + 1 + dice.below(40)).min(bytes.len());
                let part = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let end = (at + 1 + dice.below(20)).min(bytes.len());
                drop(bytes.drain(at..end));
            }
        }
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

/// Sends `count` inputs, each on a connection of its own; whoever is answered reads the answers.
async fn pelt(address: std::net::SocketAddr, mut dice: Dice, count: usize) {
    let valid = valid_requests();
    for _ in 0..count {
        let bytes = input(&mut dice, &valid);
        let mut wire = Wire::connect(address, None).await.expect("the node accepts connections");
        wire.send(&bytes).await;
        match dice.below(4) {
            // Leave at once, in order or not.
            0 => drop(wire),
            1 => wire.reset(),
            // Say that nothing more comes, and take what is answered.
            _ => {
                wire.try_finish().await;
                wire.ended().await;
            }
        }
    }
}

async fn stays_alive(count: usize) {
    let seed = seed();
    println!("SELVEDGE_SEED={seed}");
    let origin = Origin::replying(|request| Reply::ok(request.body.len().to_string())).await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .listener("head_timeout = \"300ms\"\nidle = \"300ms\"\nkeep_alive = \"300ms\"")
        .pool("stickiness.mode = \"lb_cookie\"\ntimeouts.first_byte = \"1s\"\ntimeouts.idle = \"300ms\"\nqueue.timeout = \"1s\"")
        .start()
        .await;
    let pelting = |count: usize, salt: u64| {
        let address = edge.web;
        all((0..16).map(move |task| pelt(address, Dice(seed ^ salt ^ (task << 32)), count / 16)))
    };
    pelting(count / 5, 1).await;
    edge.counts("selvedge_connections_open", 0).await;
    let before = edge.rss();
    pelting(count, 2).await;
    edge.counts("selvedge_connections_open", 0).await;
    edge.counts("selvedge_requests_in_flight", 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
    let grown = edge.rss().saturating_sub(before);
    assert!(grown < 16 * MIB, "memory grew by {grown} over {count} inputs, seed {seed}");
    assert_eq!(edge.metric("selvedge_panics_total").await, 0, "seed {seed}");
    // The kernel spreads connections over the workers; forty reach both.
    for _ in 0..40 {
        assert_eq!(Client::of(&edge).get("/").await.status, 200, "seed {seed}");
    }
}

#[tokio::test]
async fn random_broken_and_mutated_requests_do_no_harm() {
    let soak = std::env::var_os("SELVEDGE_SOAK").is_some();
    stays_alive(if soak { 100_000 } else { 10_000 }).await;
}

#[tokio::test]
async fn mutated_requests_on_one_connection_never_desynchronise_it() {
    // A marker that no origin sends, and requests that ask for their own target back: whatever stands between two good
    // requests, an answer that is given belongs to its own request, in order.
    let seed = seed();
    let origin = Origin::replying(|request| Reply::ok(&request.target)).await;
    let edge = Edge::before(&origin).listener("head_timeout = \"300ms\"\nidle = \"300ms\"").start().await;
    let valid = valid_requests();
    let mut dice = Dice(seed ^ 3);
    for round in 0..300 {
        let mut bytes = format!("GET /first/{round} HTTP/1.1\r\nHost: shop.test\r\n\r\n").into_bytes();
        bytes.extend(input(&mut dice, &valid));
        bytes.extend(format!("GET /second/{round} HTTP/1.1\r\nHost: shop.test\r\n\r\n").into_bytes());
        let mut wire = Wire::connect(edge.web, None).await.unwrap();
        wire.send(&bytes).await;
        wire.try_finish().await;
        let first = wire.try_response("GET").await;
        if let Ok(first) = first {
            assert_eq!(first.text(), format!("/first/{round}"), "seed {seed}");
        }
        wire.ended().await;
    }
    let stray: Vec<_> =
        origin.requests().into_iter().filter(|request| request.version != "HTTP/1.1").collect();
    assert!(stray.is_empty(), "{stray:?}");
}

#[tokio::test]
async fn broken_answers_do_no_harm() {
    // The origin mutates valid answers; clients get an answer or a cut connection, never somebody else's.
    let seed = seed();
    let count = if std::env::var_os("SELVEDGE_SOAK").is_some() { 20_000 } else { 2_000 };
    let answers: Vec<Vec<u8>> = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "HTTP/1.1 204 No Content\r\nX: y\r\n\r\n",
        "HTTP/1.0 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
    ]
    .map(|answer| answer.as_bytes().to_vec())
    .to_vec();
    let dice = std::sync::Arc::new(std::sync::Mutex::new(Dice(seed ^ 4)));
    let origin = Origin::raw(move |mut conn| {
        let (dice, answers) = (dice.clone(), answers.clone());
        async move {
            while conn.request().await.is_some() {
                let bytes = input(&mut dice.lock().unwrap(), &answers);
                if conn.try_send(bytes).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .pool("timeouts.first_byte = \"200ms\"\ntimeouts.idle = \"200ms\"\nstickiness.mode = \"lb_cookie\"")
        .start()
        .await;
    let before = edge.rss();
    let address = edge.web;
    all((0..32).map(|_| async move {
        for _ in 0..count / 32 {
            let mut client = Client::to(address);
            let answer = tokio::time::timeout(
                Duration::from_secs(10),
                client.try_request("POST", "/", &["Connection: close"], b"x"),
            );
            answer.await.expect("an answer, or the end, in time").ok();
        }
    }))
    .await;
    edge.counts("selvedge_requests_in_flight", 0).await;
    edge.counts("selvedge_target_in_flight", 0).await;
    assert_eq!(edge.metric("selvedge_panics_total").await, 0, "seed {seed}");
    assert!(edge.rss().saturating_sub(before) < 16 * MIB, "seed {seed}");
    eventually("connections to the origin to be few", async || origin.open() < 10).await;
}
