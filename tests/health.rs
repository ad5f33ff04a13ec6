//! Active checks: what is sent, what passes, and what follows for requests.
//!
//! Intervals are short here, so that a round of checks takes no time; what they are by default is the business of the
//! configuration's own tests.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::edge::Address;
use support::{Client, Edge, Origin, Refusing, Reply, Setup, Silent, eventually};

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
