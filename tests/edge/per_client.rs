//! What one client may use of a listener: connections and requests. Everybody else is served.
//!
//! `SELVEDGE_SOAK=1` opens 10 000 connections instead of 1000.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;

use crate::support::http2::{Http2, asking};
use crate::support::{Client, Edge, Origin, Raw, Wire, all, eventually};

const LIMITED: &str = "selvedge_connections_limited_total";
const RATE_LIMITED: &str = "selvedge_refusals_total{reason=\"rate_limited\"}";
const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

#[tokio::test]
async fn more_connections_than_a_client_may_have_are_closed() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener("per_client = { max_connections = 2, exempt = [\"127.0.0.9\"] }")
        .start()
        .await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::from(&edge, "127.0.0.2").await;
        raw.send(GET).await;
        assert_eq!(raw.response().await.status, 200);
        kept.push(raw);
    }
    Raw::from(&edge, "127.0.0.2").await.closed().await;
    edge.counts(LIMITED, 1).await;
    for other in ["127.0.0.3", "127.0.0.9", "127.0.0.9", "127.0.0.9"] {
        let mut raw = Raw::from(&edge, other).await;
        raw.send(GET).await;
        assert_eq!(raw.response().await.status, 200, "{other}");
        kept.push(raw);
    }
    drop(kept);
    eventually("the client's places to be free again", async || {
        let mut raw = Raw::from(&edge, "127.0.0.2").await;
        raw.try_send(GET).await.is_ok() && raw.try_response("GET").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn the_client_that_a_proxy_announces_is_the_one_that_counts() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener(
            "proxy_protocol.from = [\"127.0.0.1\"]\nper_client = { max_connections = 1, rate = \"2/h\" }",
        )
        .start()
        .await;
    let connect = async |client: &str| {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("PROXY TCP4 {client} 192.0.2.1 1 1\r\n")).await;
        raw
    };
    let mut first = connect("198.51.100.1").await;
    first.send(GET).await;
    assert_eq!(first.response().await.status, 200);
    connect("198.51.100.1").await.closed().await;
    let mut second = connect("198.51.100.2").await;
    second.send(GET).await;
    assert_eq!(second.response().await.status, 200);
    second.send(GET).await;
    assert_eq!(second.response().await.status, 429, "a burst of one, as it is less than one a second");
    edge.counts(LIMITED, 1).await;
}

#[tokio::test]
async fn requests_beyond_the_rate_are_a_429_that_says_when_to_come_again() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .listener("per_client = { rate = \"60/h\", burst = 5, exempt = [\"127.0.0.9\"] }")
        .start()
        .await;
    let mut greedy = Client::of(&edge).from("127.0.0.2");
    for _ in 0..5 {
        assert_eq!(greedy.get("/").await.status, 200);
        greedy.hang_up();
    }
    let answer = greedy.get_with("/", &["Accept: application/json"]).await;
    assert_eq!(answer.status, 429);
    assert!(answer.text().contains("\"rate_limited\""), "{}", answer.text());
    let seconds: u64 = answer.fields.get("retry-after").unwrap().parse().unwrap();
    assert!((50..=60).contains(&seconds), "{seconds}");
    assert_eq!(Client::of(&edge).from("127.0.0.3").get("/").await.status, 200, "another client");
    let mut exempt = Client::of(&edge).from("127.0.0.9");
    for _ in 0..20 {
        assert_eq!(exempt.get("/").await.status, 200);
    }
    edge.counts(RATE_LIMITED, 1).await;
    assert_eq!(origin.count(), 26, "what is refused reaches no target");
}

#[tokio::test]
async fn streams_of_http2_and_calls_of_grpc_are_requests() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("per_client = { rate = \"60/h\", burst = 3 }").start().await;
    let mut client = Http2::connect(&edge).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert_eq!(client.get("/").await.status, 429);
    let call = asking("POST", "/shop.Cart/Get", &[("content-type", "application/grpc"), ("te", "trailers")]);
    let answer = client.request(call, b"").await;
    assert_eq!((answer.status, answer.field("grpc-status")), (200.try_into().unwrap(), Some("14")));
    edge.counts(RATE_LIMITED, 2).await;
}

#[tokio::test]
async fn only_trusted_proxies_say_whose_a_request_is() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener(
            "trusted = [\"127.0.0.2\"]\nper_client = { rate = \"60/h\", burst = 2, max_connections = 1 }",
        )
        .start()
        .await;
    let ask = async |from: &str, named: &str| {
        let mut client = Client::of(&edge).from(from);
        client.get_with("/", &[&format!("X-Forwarded-For: {named}"), "Connection: close"]).await.status
    };
    for _ in 0..2 {
        assert_eq!(ask("127.0.0.2", "198.51.100.1").await, 200);
    }
    assert_eq!(ask("127.0.0.2", "198.51.100.1").await, 429);
    assert_eq!(ask("127.0.0.2", "198.51.100.2").await, 200, "another client of the proxy");
    assert_eq!(
        ask("127.0.0.2", "203.0.113.9, 198.51.100.1").await,
        429,
        "what a client says of itself is not believed"
    );
    // The connections of a proxy are those of many.
    let _held = [Raw::from(&edge, "127.0.0.2").await, Raw::from(&edge, "127.0.0.2").await];
    assert_eq!(ask("127.0.0.2", "198.51.100.3").await, 200);
    let mut liar = Client::of(&edge).from("127.0.0.3");
    let mut statuses = Vec::new();
    for named in ["198.51.100.4", "198.51.100.5", "198.51.100.6"] {
        statuses.push(liar.get_with("/", &[&format!("X-Forwarded-For: {named}")]).await.status);
    }
    assert_eq!(statuses, [200, 200, 429], "whoever it names, it is one client");
}

#[tokio::test]
async fn limits_come_with_a_reload() {
    let origin = Origin::start().await;
    let setup = || Edge::before(&origin);
    let edge = setup().start().await;
    let address = edge.web.to_string();
    let with =
        |lines: &str| setup().listener(lines).text().replace("127.0.0.1:0\"\n", &format!("{address}\"\n"));
    let limited = with("per_client = { rate = \"60/h\", burst = 1 }");
    let admin = edge.admin.to_string();
    let limited = limited
        .replace(&format!("[admin]\naddress = \"{address}\""), &format!("[admin]\naddress = \"{admin}\""));
    edge.becomes(&limited).await;
    let mut client = Client::of(&edge);
    assert_eq!((client.get("/").await.status, client.get("/").await.status), (200, 429));
}

/// The 99th percentile of the waits of clients at `sources`, who together ask a hundred times a second for `lasts`. All must be
/// served.
pub(crate) async fn p99_of_the_good(edge: &Edge, sources: u8, lasts: Duration) -> Duration {
    let count = lasts.as_millis() as usize / 10;
    let mut clients: Vec<_> =
        (0..sources).map(|at| Client::of(edge).from(&format!("127.0.1.{}", at + 1))).collect();
    let (mut waits, mut pace) = (Vec::new(), tokio::time::interval(Duration::from_millis(10)));
    for at in 0..count {
        pace.tick().await;
        let begun = Instant::now();
        let client = &mut clients[at % usize::from(sources)];
        assert_eq!(client.get("/good").await.status, 200);
        waits.push(begun.elapsed());
    }
    waits.sort_unstable();
    waits[count * 99 / 100]
}

/// Opens so many connections of one address, a hundred at a time, and holds them.
async fn crowd(at: SocketAddr, count: usize) -> Vec<Wire> {
    let mut held = Vec::new();
    while held.len() < count {
        let some = (0..100).map(|_| async move { Wire::connect(at, Some("127.0.0.2:0")).await.unwrap() });
        held.extend(all(some).await);
    }
    held
}

/// Closes all connections but the first hundred at once: what a crowd costs whoever makes it.
async fn sink() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            if kept.len() < 100 {
                kept.push(stream);
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_connections_of_one_address_stops_at_its_limit() {
    let soak = std::env::var_os("SELVEDGE_SOAK").is_some();
    let (count, lasts) =
        if soak { (10_000, Duration::from_secs(20)) } else { (1_000, Duration::from_secs(3)) };
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .listener("per_client.max_connections = 100\nhead_timeout = \"10m\"")
        .start()
        .await;
    let alone = p99_of_the_good(&edge, 4, lasts).await;
    let before = edge.rss();
    let elsewhere = tokio::spawn(crowd(sink().await, count));
    let control = p99_of_the_good(&edge, 4, lasts).await;
    drop(elsewhere.await.unwrap());
    let here = tokio::spawn(crowd(edge.web, count));
    let beside = p99_of_the_good(&edge, 4, lasts).await;
    let held = here.await.unwrap();
    edge.counts(LIMITED, count as u64 - 100).await;
    edge.counts("selvedge_connections_open", 100).await;
    let grown = edge.rss().saturating_sub(before);
    println!(
        "{count} connections of one address: p99 of others {alone:?} alone, {control:?} while they go elsewhere, {beside:?} \
         while they come here; {grown} bytes more"
    );
    assert!(grown < 16 << 20, "{grown} bytes more");
    // A machine that is busy with other tests has pauses of its own.
    assert!(beside < 3 * control + Duration::from_millis(300), "{beside:?} instead of {control:?}");
    drop(held);
    edge.counts("selvedge_connections_open", 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_the_rate_of_one_client_is_not_felt_by_others() {
    let soak = std::env::var_os("SELVEDGE_SOAK").is_some();
    let lasts = if soak { Duration::from_secs(60) } else { Duration::from_secs(3) };
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .top("workers = 2")
        .listener("per_client = { rate = \"100/s\", burst = 20 }")
        .start()
        .await;
    let alone = p99_of_the_good(&edge, 4, lasts).await;
    let edge = Arc::new(edge);
    let stop = Arc::new(AtomicBool::new(false));
    // A thousand requests a second of one address, over ten connections.
    let greedy = (0..10).map(|_| {
        let (edge, stop) = (edge.clone(), stop.clone());
        tokio::spawn(async move {
            let mut client = Client::of(&edge).from("127.0.0.2");
            let (mut pace, mut served) = (tokio::time::interval(Duration::from_millis(10)), [0u64; 2]);
            while !stop.load(SeqCst) {
                pace.tick().await;
                match client.get("/greedy").await.status {
                    200 => served[0] += 1,
                    429 => served[1] += 1,
                    other => panic!("{other}"),
                }
            }
            served
        })
    });
    let greedy: Vec<_> = greedy.collect();
    let begun = Instant::now();
    let beside = p99_of_the_good(&edge, 4, lasts).await;
    stop.store(true, SeqCst);
    let took = begun.elapsed();
    let mut sums = [0; 2];
    for task in greedy {
        let [served, refused] = task.await.unwrap();
        sums = [sums[0] + served, sums[1] + refused];
    }
    println!(
        "p99 of others {alone:?} alone, {beside:?} beside {sums:?} requests served and refused of one client in {took:?}"
    );
    let most = 20 + 100 * (took.as_secs() + 2);
    assert!(sums[0] <= most, "{} of {most}", sums[0]);
    assert!(sums[1] > sums[0], "{sums:?}");
    // A machine that is busy with other tests has pauses of its own.
    assert!(beside < 3 * alone + Duration::from_millis(300), "{beside:?} instead of {alone:?}");
}
