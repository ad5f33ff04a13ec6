//! TLS to the targets: whom to believe, what to show them, and that checks and requests go the same way.

use std::time::Duration;

use crate::support::{Authority, Client, Edge, End, Findings, Origin, Raw, Reply, eventually};

const FAILURES: &str = "selvedge_target_failures_total";

fn believing(ca: &Authority, more: &str) -> String {
    format!("tls.ca = \"{}\"\n{more}", ca.bundle().display())
}

#[tokio::test]
async fn a_target_with_the_right_certificate_serves() {
    let ca = Authority::new("ca");
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at / 3) as u8).collect();
    let origin = Origin::replying(|request| Reply::ok(&request.body)).await;
    let origin = origin.route("/large", Reply::ok(&large)).route("/chunks", Reply::ok(&large).chunked());
    let origin = origin.with_tls(ca.server(&ca.issue("target", &["target.internal"]))).await;
    let pool = believing(&ca, "tls.server_name = \"target.internal\"");
    let edge = Edge::before(&origin).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..3 {
        assert_eq!(client.post("/", b"hello").await.text(), "hello");
    }
    assert_eq!(client.get("/large").await.body, large);
    assert_eq!(client.get("/chunks").await.body, large);
    assert_eq!(client.post("/", &large).await.body, large);
    assert_eq!(
        client.request("HEAD", "/large", &[], b"").await.fields.get("content-length"),
        Some("3000000")
    );
    assert_eq!(origin.connections(), 1, "the connection is kept");
    assert!(origin.bytes().starts_with(b"POST / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn by_default_the_certificate_has_to_hold_the_address() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await.with_tls(ca.server(&ca.issue("target", &["127.0.0.1"]))).await;
    let edge = Edge::before(&origin).pool(&believing(&ca, "")).start().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
}

#[tokio::test]
async fn a_target_that_is_not_believed_gets_no_request() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let mut findings = Findings::default();
    for (what, server, more) in [
        ("another name", ca.server(&ca.issue("a", &["other.internal"])), ""),
        ("another authority", other.server(&other.issue("b", &["target.internal"])), ""),
        ("expired", ca.server(&ca.issue_for("c", &["target.internal"], -20..=-10)), ""),
        ("not yet", ca.server(&ca.issue_for("d", &["target.internal"], 10..=20)), ""),
        (
            "no certificate of ours",
            ca.strict_server(&ca.issue("e", &["target.internal"])),
            "tls.min_version = \"1.2\"",
        ),
    ] {
        let origin = Origin::start().await.with_tls(server).await;
        let pool =
            believing(&ca, &format!("tls.server_name = \"target.internal\"\nretry.attempts = 1\n{more}"));
        let edge = Edge::before(&origin).pool(&pool).start().await;
        let answer = Client::of(&edge).post("/", b"secret").await;
        findings.expect(answer.status == 502 || answer.status == 503, || format!("{what}: {answer:?}"));
        findings.expect(origin.count() == 0, || format!("{what}: the target got the request"));
        let failed = edge.metric(FAILURES).await;
        findings.expect(failed >= 1, || format!("{what}: {failed} failures"));
    }
    findings.report();
}

#[tokio::test]
async fn a_plain_target_of_a_pool_with_tls_fails_as_such_and_the_request_goes_to_another() {
    let ca = Authority::new("ca");
    let plain = Origin::raw(async |mut conn| {
        let _ = conn.some().await;
        conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        conn.until_end().await;
    })
    .await;
    let good = Origin::named("good").await.with_tls(ca.server(&ca.issue("target", &["127.0.0.1"]))).await;
    let pool = believing(&ca, "balance = \"round_robin\"\noutlier.enabled = false");
    let edge = Edge::before_all(&[&plain, &good]).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..6 {
        assert_eq!(
            client.post("/", b"order").await.text(),
            "good",
            "nothing was sent: a POST may go elsewhere"
        );
    }
    assert!(edge.metric(&format!("{FAILURES}{{reason=\"tls\"}}")).await >= 1);
}

#[tokio::test]
async fn a_target_that_admits_the_balancer_only_admits_it() {
    let ca = Authority::new("ca");
    let strict = ca.strict_server(&ca.issue("target", &["target.internal"]));
    let origin = Origin::named("a").await.with_tls(strict).await;
    let node = ca.issue("node", &["node.internal"]);
    let pool = believing(
        &ca,
        &format!(
            "tls.server_name = \"target.internal\"\ntls.cert = \"{}\"\ntls.key = \"{}\"",
            node.cert.display(),
            node.key.display()
        ),
    );
    let edge = Edge::before(&origin).pool(&pool).start().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
}

#[tokio::test]
async fn the_name_to_send_and_the_name_to_find_may_differ() {
    let ca = Authority::new("ca");
    let origin =
        Origin::named("a").await.with_tls(ca.server(&ca.issue("target", &["pinned.internal"]))).await;
    let names = "tls.server_name = \"public.test\"\ntls.verify_name = \"pinned.internal\"";
    let edge = Edge::before(&origin).pool(&believing(&ca, names)).start().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
}

#[tokio::test]
async fn verifying_nothing_works_and_is_warned_of() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await.with_tls(ca.server(&ca.issue("target", &["x.test"]))).await;
    let edge = Edge::before(&origin).pool("tls.verify = \"none\"").start().await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
    edge.logged(&["WARN", "pool.shop.tls: verify = \"none\" believes whoever answers"]).await;
}

#[tokio::test]
async fn checks_go_over_tls_too() {
    let ca = Authority::new("ca");
    let good = Origin::named("good").await.with_tls(ca.server(&ca.issue("target", &["127.0.0.1"]))).await;
    let other = Authority::new("other");
    let bad = Origin::named("bad").await.with_tls(other.server(&other.issue("x", &["127.0.0.1"]))).await;
    for check in ["health.path = \"/healthz\"", "health.type = \"tcp\""] {
        let pool = believing(&ca, &format!("health.interval = \"100ms\"\n{check}"));
        let edge = Edge::before_all(&[&good, &bad]).pool(&pool).start().await;
        eventually("one target to be healthy", async || {
            edge.metric("selvedge_zone_healthy_targets").await == 1
        })
        .await;
        eventually("the other to be unhealthy", async || {
            edge.admin("/v1/pools").await.text().contains("no TLS handshake")
        })
        .await;
        let mut client = Client::of(&edge);
        for _ in 0..4 {
            assert_eq!(client.get("/").await.text(), "good");
        }
    }
    assert!(good.probes() > 0);
}

#[tokio::test]
async fn an_answer_to_the_end_of_the_connection_needs_an_announced_end() {
    let ca = Authority::new("ca");
    let server = ca.server(&ca.issue("target", &["127.0.0.1"]));
    let origin = Origin::raw(async |mut conn| {
        let Some(request) = conn.request().await else { return };
        conn.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
        if request.target == "/announced" {
            conn.finish().await;
            conn.until_end().await;
        }
    });
    let origin = origin.await.with_tls(server).await;
    let edge = Edge::before(&origin).pool(&believing(&ca, "")).start().await;
    assert_eq!(Client::of(&edge).get("/announced").await.text(), "to the end");
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET /cut HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let cut = raw.cut().await;
    assert_eq!((cut.body.as_slice(), cut.end), (&b"to the end"[..], End::Reset));
}

#[tokio::test]
async fn an_idle_connection_that_the_target_ends_is_not_used_and_a_post_survives_it() {
    let ca = Authority::new("ca");
    let server = ca.server(&ca.issue("target", &["127.0.0.1"]));
    let origin = Origin::raw(async |mut conn| {
        // One request for each connection, then an orderly end that was not announced in the answer.
        if let Some(request) = conn.request().await {
            conn.send(Reply::ok("once").bytes(&request.method)).await;
            conn.finish().await;
        }
    });
    let origin = origin.await.with_tls(server).await;
    let edge = Edge::before(&origin).pool(&believing(&ca, "")).start().await;
    let mut client = Client::of(&edge);
    for count in 1..=30 {
        assert_eq!(client.post("/", b"order").await.text(), "once", "request {count}");
    }
    assert_eq!(origin.count(), 30, "none was sent twice");
}

#[tokio::test]
async fn a_pool_that_turns_to_tls_leaves_its_plain_connections() {
    let ca = Authority::new("ca");
    let mut origin = Origin::named("a").await;
    let setup = |tls: &str| Edge::before(&origin).pool(tls).top("watch = false");
    let (plain, secure) = (setup("").text(), setup(&believing(&ca, "")).text());
    let edge = Edge::start(&plain).await;
    let mut client = Client::of(&edge);
    assert_eq!(client.get("/").await.text(), "a");
    origin = origin.with_tls(ca.server(&ca.issue("target", &["127.0.0.1"]))).await;
    edge.becomes(&secure).await;
    for _ in 0..3 {
        assert_eq!(client.get("/").await.text(), "a");
    }
    assert_eq!(client.connects, 1, "the client noticed nothing");
    edge.becomes(&plain).await;
    let refused =
        tokio::time::timeout(Duration::from_secs(10), client.try_request("GET", "/", &[], b"")).await;
    assert_ne!(refused.unwrap().unwrap().status, 200, "a connection with TLS is not used for a pool without");
    assert_eq!(origin.count(), 4);
}

#[tokio::test]
async fn a_websocket_goes_to_a_target_with_tls() {
    let ca = Authority::new("ca");
    let server = ca.server(&ca.issue("target", &["127.0.0.1"]));
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        )
        .await;
        while let Ok(bytes) = conn.some_patiently().await {
            conn.send(&bytes).await;
        }
        conn.finish().await;
    });
    let origin = origin.await.with_tls(server).await;
    let listener = ca.issue("shop", &["shop.test"]).listener();
    let edge = Edge::before(&origin).pool(&believing(&ca, "")).listener(&listener).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    assert_eq!(raw.exactly(5).await.unwrap(), b"hello");
    raw.send("there").await;
    assert_eq!(raw.exactly(5).await.unwrap(), b"there");
    raw.finish().await;
    assert_eq!(raw.closed().await, End::Closed);
}
