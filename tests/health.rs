//! Active checks: what is sent, what passes, and what follows for requests.
//!
//! Intervals are short here, so that a round of checks takes no time; what they are by default is the business of the
//! configuration's own tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::edge::Address;
use support::h2_origin::H2Origin;
use support::{Authority, Call, Client, Edge, Origin, Refusing, Reply, Setup, Silent, eventually};

/// Checks at a pace for tests, of the path that origins answer by how well they are.
const QUICK: &str = "health.path = \"/healthz\"\nhealth.interval = \"200ms\"";

/// The same, of a path that an origin answers like any other.
const QUICK_UP: &str = "health.path = \"/up\"\nhealth.interval = \"200ms\"";

/// A second pool that needs no target to be up: a node is ready with it, whatever becomes of the first.
const STEADY: &str = "[[route]]\npath = \"/steady\"\npool = \"steady\"\n[pool.steady]\nhealth.enabled = false\n\
                      stickiness.mode = \"off\"\n[[pool.steady.target]]\naddress = \"127.0.0.1:1\"";

/// A node whose pool `shop` has one target and these lines.
async fn checking(target: &impl Address, lines: &str) -> Edge {
    Setup::default().target(target).pool(lines).and(STEADY).start().await
}

async fn pool(edge: &Edge) -> Value {
    serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap()
}

/// What the API says of the target at this address.
async fn target(edge: &Edge, address: impl ToString) -> Value {
    let (address, pool) = (address.to_string(), pool(edge).await);
    let mut targets = pool["targets"].as_array().unwrap().iter();
    targets.find(|target| target["address"] == *address).unwrap().clone()
}

/// Waits until what the API says of a target is so.
async fn shows(edge: &Edge, address: impl ToString, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let (address, mut last) = (address.to_string(), Value::Null);
    eventually(&format!("{address} to be {what}"), async || {
        last = target(edge, &address).await;
        holds(&last)
    })
    .await;
    last
}

/// Waits until a target has this status.
async fn becomes(edge: &Edge, address: impl ToString, status: &str) -> Value {
    shows(edge, address, status, |target| target["status"] == status).await
}

/// Waits until a check has ended with these words.
async fn finds(edge: &Edge, address: impl ToString, what: &str) -> Value {
    shows(edge, address, what, |target| target["last_probe"]["what"] == what).await
}

#[tokio::test]
async fn a_sick_target_gets_no_requests_until_it_is_well_again() {
    let (well, sick) = (Origin::named("well").await, Origin::named("sick").await);
    let edge = Edge::before_all(&[&well, &sick]).pool(QUICK).pool("zones.panic = \"0%\"").start().await;
    sick.set_sick(true);
    let shown = becomes(&edge, &sick, "unhealthy").await;
    assert_eq!(shown["last_probe"]["what"], "503 is not in 200-299");
    assert_eq!((&shown["takes_new"], &shown["keeps_bound"]), (&Value::Bool(false), &Value::Bool(false)));
    let before = sick.count();
    let mut client = Client::of(&edge);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.origin(), "well");
    }
    assert_eq!(sick.count(), before, "requests at the sick target");
    sick.set_sick(false);
    becomes(&edge, &sick, "healthy").await;
    eventually("a request at the target that is well again", async || {
        client.get("/").await.origin() == "sick"
    })
    .await;
}

#[tokio::test]
async fn a_target_that_dies_and_returns_is_found_out_and_taken_back() {
    let mut origin = Origin::start().await;
    let edge = checking(&origin, QUICK).await;
    becomes(&edge, &origin, "healthy").await;
    origin.stop().await;
    let shown = becomes(&edge, &origin, "unhealthy").await;
    assert_eq!(shown["last_probe"]["what"], "connection refused");
    assert_eq!(shown["last_probe"]["passed"], false);
    origin.resume();
    becomes(&edge, &origin, "healthy").await;
}

#[tokio::test]
async fn transitions_are_logged_once_with_their_numbers() {
    let origin = Origin::start().await;
    let edge = checking(&origin, &format!("{QUICK}\nhealth.unhealthy = 3\nhealth.healthy = 2")).await;
    becomes(&edge, &origin, "healthy").await;
    origin.set_sick(true);
    becomes(&edge, &origin, "unhealthy").await;
    shows(&edge, &origin, "checked five times more", |target| {
        target["checks"]["consecutive"].as_u64().unwrap() >= 8
    })
    .await;
    origin.set_sick(false);
    becomes(&edge, &origin, "healthy").await;
    let name = format!("target=-/{origin} ");
    edge.logged(&["to=healthy", "consecutive=2"]).await;
    let log = edge.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&name)).collect();
    assert_eq!(lines.len(), 3, "{log}");
    for (line, parts) in lines.iter().zip([
        ["INFO", "from=initial", "to=healthy", "consecutive=1", "reason=\"200\""],
        ["WARN", "from=healthy", "to=unhealthy", "consecutive=3", "reason=\"503 is not in 200-299\""],
        ["INFO", "from=unhealthy", "to=healthy", "consecutive=2", "reason=\"200\""],
    ]) {
        for part in parts {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }
}

#[tokio::test]
async fn a_check_is_a_get_that_says_who_asks_and_wants_no_second_answer() {
    let origin = Origin::start().await;
    let _edge = checking(&origin, "health.path = \"/up?deep=1\"\nhealth.interval = \"200ms\"").await;
    origin.received(3).await;
    let requests = origin.requests();
    for (number, request) in (1..).zip(&requests) {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", "/up?deep=1"));
        assert_eq!(request.fields.get("host"), Some(origin.to_string().as_str()));
        let asks = concat!("selvedge-health/", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.fields.get("user-agent"), Some(asks));
        assert_eq!(request.fields.get("connection"), Some("close"));
        assert_eq!(request.connection, number, "each check has a connection of its own");
    }
}

#[tokio::test]
async fn host_port_and_expected_statuses_are_those_of_the_configuration() {
    let (origin, checked) = (Origin::start().await, Origin::replying(|_| Reply::status(307)).await);
    let port = checked.address.port();
    let lines = format!(
        "{QUICK_UP}\nhealth.host = \"myclothes.test\"\nhealth.port = {port}\nhealth.expect = [\"204\", \"300-399\"]"
    );
    let edge = checking(&origin, &lines).await;
    finds(&edge, &origin, "307").await;
    assert_eq!(checked.last().fields.get("host"), Some("myclothes.test"));
    assert_eq!(origin.connections(), 0, "the target's own port is not asked");
}

#[tokio::test]
async fn a_status_that_is_not_expected_is_named_with_those_that_are() {
    let origin = Origin::start().await;
    let edge = checking(&origin, &format!("{QUICK_UP}\nhealth.expect = [\"204\", \"300-399\"]")).await;
    let shown = becomes(&edge, &origin, "unhealthy").await;
    assert_eq!(shown["last_probe"]["what"], "200 is not in 204, 300-399");
    assert!(shown["reason"].as_str().unwrap().contains("checks failed: 200 is not in"), "{shown}");
}

#[tokio::test]
async fn a_tcp_check_asks_for_a_connection_only() {
    let origin = Origin::start().await;
    let edge = checking(&origin, "health.type = \"tcp\"\nhealth.interval = \"200ms\"").await;
    finds(&edge, &origin, "connected").await;
    eventually("three checks", async || origin.connections() >= 3).await;
    assert_eq!(origin.bytes(), b"", "bytes at the target");
    let refusing = Refusing::new();
    let edge = checking(&refusing, "health.type = \"tcp\"\nhealth.interval = \"200ms\"").await;
    finds(&edge, refusing.address, "connection refused").await;
}

#[tokio::test]
async fn a_check_that_takes_longer_than_its_timeout_has_failed_at_any_stage() {
    let quick = format!("{QUICK_UP}\nhealth.timeout = \"150ms\"");
    let never_accepts = Silent::new();
    let edge = checking(&never_accepts, &quick).await;
    finds(&edge, never_accepts.address, "no answer in 150ms").await;
    for sent in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"] {
        let stalls = Origin::raw(move |mut conn| async move {
            conn.request_head().await;
            conn.send(sent).await;
            conn.until_end().await;
        })
        .await;
        let edge = checking(&stalls, &quick).await;
        finds(&edge, &stalls, "no answer in 150ms").await;
    }
}

#[tokio::test]
async fn answers_that_are_not_complete_http_fail_the_check() {
    for (sent, what) in [
        ("", "the connection closed before the answer was complete"),
        ("HTTP/1.1 200 OK\r\nConte", "the connection closed before the answer was complete"),
        ("SSH-2.0-OpenSSH_10.0\r\n\r\n", "the answer is not HTTP"),
    ] {
        let nonsense = Origin::raw(move |mut conn| async move {
            conn.request_head().await;
            conn.send(sent).await;
        })
        .await;
        let edge = checking(&nonsense, QUICK_UP).await;
        finds(&edge, &nonsense, what).await;
    }
}

#[tokio::test]
async fn a_long_body_is_cut_off_and_the_status_decides() {
    let endless = Origin::raw(|mut conn| async move {
        conn.request_head().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
        while conn.try_send([b'x'; 16 * 1024]).await.is_ok() {}
    })
    .await;
    let edge = checking(&endless, QUICK_UP).await;
    finds(&edge, &endless, "200").await;
    eventually("the checks' connections to be closed", async || endless.open() <= 1).await;
}

#[tokio::test]
async fn without_checks_every_target_is_healthy_at_once_and_nobody_asks() {
    let origin = Origin::start().await;
    let edge = checking(&origin, "health.enabled = false").await;
    let shown = target(&edge, &origin).await;
    assert_eq!((&shown["status"], &shown["reason"]), (&"healthy".into(), &"checks are off".into()));
    assert_eq!(shown["last_probe"], Value::Null);
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_new_target_takes_requests_after_its_first_pass_whatever_the_threshold() {
    let origin = Origin::start().await;
    let slow = "health.path = \"/healthz\"\nhealth.interval = \"1h\"\nhealth.healthy = 10";
    let begun = Instant::now();
    let edge = checking(&origin, slow).await;
    becomes(&edge, &origin, "healthy").await;
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert_eq!(origin.probes(), 1);
}

#[tokio::test]
async fn when_most_targets_fail_health_is_ignored_and_said_so() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let edge = Edge::before_all(&[&a, &b, &c]).pool(QUICK).pool("zones.panic = \"50%\"").start().await;
    becomes(&edge, &c, "healthy").await;
    for origin in [&a, &b] {
        origin.set_sick(true);
        becomes(&edge, origin, "unhealthy").await;
    }
    assert_eq!(pool(&edge).await["panic"], true);
    let shown = target(&edge, &a).await;
    assert_eq!(shown["takes_new"], true);
    assert!(shown["reason"].as_str().unwrap().ends_with("too few targets are healthy"), "{shown}");
    edge.logged(&["WARN", "health is ignored", "healthy=1", "targets=3"]).await;
    assert_eq!(edge.metric("selvedge_pool_panic{pool=\"shop\"}").await, 1);
    a.set_sick(false);
    becomes(&edge, &a, "healthy").await;
    assert_eq!(pool(&edge).await["panic"], false);
    edge.logged(&["health counts"]).await;
}

#[tokio::test]
async fn a_node_whose_targets_all_fail_is_not_ready_and_says_why() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).pool(QUICK).start().await;
    origin.set_sick(true);
    becomes(&edge, &origin, "unhealthy").await;
    let answer = edge.admin("/readyz").await;
    assert_eq!((answer.status, answer.text().as_str()), (503, "no target of any pool is in service\n"));
    assert_eq!(edge.admin("/livez").await.status, 200);
    origin.set_sick(false);
    edge.ready().await;
}

#[tokio::test]
async fn three_hundred_targets_are_all_checked() {
    let nobody = Refusing::new();
    let lines = format!("{QUICK_UP}\nhealth.port = {}", nobody.address.port());
    let mut setup = Setup::default().pool(&lines).and(STEADY);
    for number in 0..300u16 {
        setup = setup.target(&Somewhere(SocketAddr::from((nobody.address.ip(), 1000 + number))));
    }
    let edge = setup.start().await;
    eventually("all to be found out", async || {
        edge.metric("selvedge_target_status{status=\"unhealthy\"}").await == 300
    })
    .await;
    assert!(edge.metric("selvedge_target_checks_total{result=\"failed\"}").await >= 600);
}

/// An address that nobody listens at.
struct Somewhere(SocketAddr);

impl Address for Somewhere {
    fn address(&self) -> SocketAddr {
        self.0
    }
}

#[tokio::test]
async fn targets_that_speak_http2_are_checked_over_http2() {
    let origin = H2Origin::start(async |mut call: Call| {
        assert_eq!((call.path().as_str(), call.head.uri.host()), ("/up?x", Some("shop.test")));
        let sick = call.connection > 2;
        call.answer(if sick { 503 } else { 200 }, &[], b"so it is");
    })
    .await;
    let lines = "protocol = \"h2\"\nhealth.path = \"/up?x\"\nhealth.host = \"shop.test\"\nhealth.interval = \"200ms\"";
    let edge = checking(&origin, lines).await;
    finds(&edge, origin.address, "200").await;
    let shown = becomes(&edge, origin.address, "unhealthy").await;
    assert_eq!(shown["last_probe"]["what"], "503 is not in 200-299");
    assert!(origin.connections() >= 4, "a connection for each check");
}

/// What [`health_service`] says next: a serving status, or what else it may do.
const UNIMPLEMENTED: u8 = 100;
const NO_GRPC: u8 = 101;
const SILENCE: u8 = 102;
const DRAINING: u8 = 103;

/// A health service, and the messages that it got.
async fn health_service(
    says: &Arc<AtomicU8>,
    tls: Option<Arc<rustls::ServerConfig>>,
) -> (H2Origin, Arc<Mutex<Vec<Vec<u8>>>>) {
    let (asked, says) = (Arc::new(Mutex::new(Vec::new())), says.clone());
    let noted = asked.clone();
    let script = move |mut call: Call| {
        let (asked, says) = (noted.clone(), says.clone());
        async move {
            assert_eq!(call.path(), "/grpc.health.v1.Health/Check");
            assert_eq!(call.head.field("content-type"), "application/grpc");
            assert_eq!(call.head.field("te"), "trailers");
            let body = call.read().await;
            asked.lock().unwrap().push(body);
            let grpc = ("content-type", "application/grpc");
            match says.load(SeqCst) {
                UNIMPLEMENTED => {
                    call.head(200, &[grpc, ("grpc-status", "12"), ("grpc-message", "no such service")], true);
                }
                NO_GRPC => call.answer(404, &[], b"who?"),
                SILENCE => std::future::pending().await,
                status => {
                    let drains = [grpc, ("x-selvedge-drain", "1")];
                    let (fields, status) =
                        if status == DRAINING { (&drains[..], 1) } else { (&drains[..1], status) };
                    let mut sending = call.head(200, fields, false);
                    sending.send_data(vec![0, 0, 0, 0, 2, 8, status].into(), false).unwrap();
                    let trailers = [("grpc-status".parse().unwrap(), http::HeaderValue::from_static("0"))];
                    sending.send_trailers(trailers.into_iter().collect()).unwrap();
                }
            }
        }
    };
    (H2Origin::built(h2::server::Builder::new(), tls, script).await, asked)
}

#[tokio::test]
async fn a_grpc_check_passes_while_the_service_says_that_it_serves_and_else_says_why_not() {
    let says = Arc::new(AtomicU8::new(1));
    let (origin, asked) = health_service(&says, None).await;
    let lines = "health.type = \"grpc\"\nhealth.service = \"shop.Cart\"\nhealth.interval = \"100ms\"";
    let edge = checking(&origin, lines).await;
    finds(&edge, origin.address, "SERVING").await;
    assert_eq!(target(&edge, origin.address).await["status"], "healthy");
    assert_eq!(asked.lock().unwrap()[0], b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    for (next, what) in [
        (2, "NOT_SERVING"),
        (3, "SERVICE_UNKNOWN"),
        (0, "UNKNOWN"),
        (UNIMPLEMENTED, "UNIMPLEMENTED: no such service"),
        (NO_GRPC, "404 instead of an answer of gRPC"),
        (SILENCE, "no answer in 100ms"),
    ] {
        says.store(next, SeqCst);
        finds(&edge, origin.address, what).await;
    }
    becomes(&edge, origin.address, "unhealthy").await;
    says.store(1, SeqCst);
    becomes(&edge, origin.address, "healthy").await;
    says.store(DRAINING, SeqCst);
    finds(&edge, origin.address, "200, asks to be drained").await;
}

#[tokio::test]
async fn a_grpc_check_goes_over_tls_whatever_the_pool_speaks() {
    let ca = Authority::new("ca");
    let mut server = rustls::ServerConfig::clone(&ca.server(&ca.issue("target", &["127.0.0.1"])));
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let (origin, _) = health_service(&Arc::new(AtomicU8::new(1)), Some(Arc::new(server))).await;
    let old = Origin::start().await.with_tls(ca.server(&ca.issue("old", &["127.0.0.1"]))).await;
    for protocol in ["http1", "h2", "auto"] {
        let lines = format!(
            "protocol = \"{protocol}\"\nhealth.type = \"grpc\"\nhealth.interval = \"100ms\"\ntls.ca = \"{}\"",
            ca.bundle().display()
        );
        let edge = Setup::default().target(&origin).target(&old).pool(&lines).and(STEADY).start().await;
        finds(&edge, origin.address, "SERVING").await;
        finds(&edge, &old, "no TLS handshake: the target did not agree on h2 (ALPN)").await;
    }
}
