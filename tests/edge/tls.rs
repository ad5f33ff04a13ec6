//! TLS at the listener: which certificate, which version, what does not get in, and that HTTP over it is HTTP.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::tls::{curl, s_client};
use crate::support::{Authority, Client, Conn, Edge, End, Findings, Origin, Raw, Reply, Wire, eventually};

const HANDSHAKES: &str = "selvedge_tls_handshakes_total";
const FAILURES: &str = "selvedge_tls_handshake_failures_total";

fn tls_before(origin: &Origin, lines: &str) -> crate::support::Setup {
    Edge::before(origin).listener(lines)
}

#[tokio::test]
async fn curl_gets_an_answer_and_the_target_hears_of_https() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let url = format!("https://shop.test:{}/cart?x=1", edge.web.port());
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let version = version.split('=').collect::<Vec<_>>();
        let (code, text) = curl(edge.web, "shop.test", &ca.bundle(), &[&version[..], &[&url]].concat()).await;
        assert_eq!((code, text.as_str()), (0, "a"), "{version:?}");
    }
    let request = origin.last();
    assert_eq!(request.fields.get("x-forwarded-proto"), Some("https"));
    assert_eq!(request.fields.get("x-client-cert-verify"), None, "nobody was asked");
    edge.counts(&format!("{HANDSHAKES}{{version=\"1.3\",resumed=\"false\"}}"), 1).await;
    edge.counts(&format!("{HANDSHAKES}{{version=\"1.2\",resumed=\"false\"}}"), 1).await;
    assert!(edge.metric("selvedge_tls_certificate_not_after_seconds").await > 1_700_000_000);
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let issued = [
        ca.issue("default", &["default.test"]),
        ca.issue("wild", &["*.shop.test", "shop.test"]),
        ca.issue("exact", &["www.shop.test"]),
    ];
    let list: Vec<_> = issued.iter().map(|issued| issued.toml()).collect();
    let edge = tls_before(&origin, &format!("tls.certificates = [{}]", list.join(", "))).start().await;
    let mut findings = Findings::default();
    for (asked, subject) in [
        ("default.test", "default.test"),
        ("shop.test", "*.shop.test"),
        ("WWW.Shop.Test", "www.shop.test"),
        ("api.shop.test", "*.shop.test"),
        ("a.b.shop.test", "default.test"),
        ("elsewhere.test", "default.test"),
    ] {
        let text = s_client(edge.web, &["-servername", asked], "Q\n").await;
        findings.expect(text.contains(&format!("CN = {subject},")), || {
            format!("{asked}: not {subject} in {text}")
        });
    }
    let text = s_client(edge.web, &["-noservername"], "Q\n").await;
    findings.expect(text.contains("CN = default.test,"), || format!("without a name: {text}"));
    findings.report();
}

#[tokio::test]
async fn versions_below_the_least_are_refused_and_counted() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let lines = ca.issue("shop", &["shop.test"]).listener() + "\ntls.min_version = \"1.3\"";
    let edge = tls_before(&origin, &lines).start().await;
    let url = format!("https://shop.test:{}/", edge.web.port());
    let (code, text) = curl(edge.web, "shop.test", &ca.bundle(), &["--tls-max", "1.2", &url]).await;
    assert_eq!(code, 35, "{text}");
    assert!(text.contains("alert protocol version"), "{text}");
    edge.counts(&format!("{FAILURES}{{reason=\"version\"}}"), 1).await;
    assert_eq!(curl(edge.web, "shop.test", &ca.bundle(), &[&url]).await.0, 0);
}

#[tokio::test]
async fn the_order_of_ciphers_is_ours() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let (weaker, stronger) = ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384");
    for order in [format!("{weaker}:{stronger}"), format!("{stronger}:{weaker}")] {
        let text = s_client(edge.web, &["-tls1_2", "-cipher", &order], "Q\n").await;
        assert!(text.contains(&format!("Cipher is {stronger}")), "{order}: {text}");
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_offered_is_refused_and_the_preferred_one_is_agreed_on() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let dialer = ca.dialer("shop.test");
    for (offered, agreed) in [(&["http/1.1", "h2"][..], "h2"), (&["http/1.1"], "http/1.1")] {
        let wire = dialer.offering(offered).dial(edge.web).await.unwrap();
        assert_eq!(wire.tls().unwrap().get_ref().1.alpn_protocol(), Some(agreed.as_bytes()));
    }
    let Err(refused) = dialer.offering(&["spdy/1"]).dial(edge.web).await else { panic!("it was accepted") };
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
    edge.counts(&format!("{FAILURES}{{reason=\"protocol\"}}"), 1).await;
}

#[tokio::test]
async fn a_client_that_does_not_believe_the_certificate_is_counted() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    assert!(other.dialer("shop.test").dial(edge.web).await.is_err());
    edge.counts(&format!("{FAILURES}{{reason=\"client_alert\"}}"), 1).await;
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn plain_http_at_a_tls_address_is_told_so() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let answer = raw.response().await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("HTTPS"), "{answer:?}");
    raw.try_finish().await;
    edge.counts(&format!("{FAILURES}{{reason=\"plain_http\"}}"), 1).await;
    assert_eq!(origin.count(), 0);
}

#[tokio::test]
async fn garbage_gets_an_alert_and_an_end() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    for garbage in [
        &b"\x16\x03\x01\x00\x05nonsense that is long enough to be looked at"[..],
        &[0; 100],
        b"\x80\x2e\x01\x03\x01",
    ] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(garbage).await;
        raw.try_finish().await;
        let (bytes, _) = raw.until_end().await;
        assert!(bytes.is_empty() || bytes[0] == 21, "an alert or nothing: {bytes:?}");
    }
    eventually("three failures", async || edge.metric(FAILURES).await == 3).await;
    assert_eq!(edge.metric("selvedge_panics_total").await, 0);
}

#[tokio::test]
async fn a_handshake_has_a_deadline_and_waiting_for_a_place_counts() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let lines = ca.issue("shop", &["shop.test"]).listener()
        + "\ntls.handshake_timeout = \"300ms\"\ntls.max_handshakes = 1";
    let edge = tls_before(&origin, &lines).start().await;
    let mut silent = Raw::connect(&edge).await;
    let mut begun = Raw::connect(&edge).await;
    begun.send(b"\x16\x03\x01\x02\x00\x01").await;
    let mut waiting = Raw::connect(&edge).await;
    waiting.send(b"\x16\x03\x01\x02\x00\x01").await;
    for raw in [&mut silent, &mut begun, &mut waiting] {
        raw.closed().await;
    }
    edge.counts(&format!("{FAILURES}{{reason=\"timeout\"}}"), 3).await;
    edge.counts("selvedge_tls_handshakes_in_flight", 0).await;
    let mut client = Client::of(&edge).over(&ca.dialer("shop.test"));
    assert_eq!(client.get("/").await.text(), "a", "the place is free again");
}

#[tokio::test]
async fn silent_connections_take_no_place_from_others() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let lines = ca.issue("shop", &["shop.test"]).listener() + "\ntls.max_handshakes = 1";
    let edge = tls_before(&origin, &lines).start().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(Raw::connect(&edge).await);
    }
    assert_eq!(Client::of(&edge).over(&ca.dialer("shop.test")).get("/").await.text(), "a");
}

#[tokio::test]
async fn http_over_tls_is_http() {
    let ca = Authority::new("ca");
    let large: Vec<u8> = (0..3_000_000u32).map(|at| (at / 7) as u8).collect();
    let origin = Origin::replying(|request| Reply::ok(&request.body))
        .await
        .route("/large", Reply::ok(&large))
        .route("/chunks", Reply::ok(&large[..200_000]).chunked())
        .route("/none", Reply::status(204));
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut client = Client::of(&edge).over(&ca.dialer("shop.test"));
    assert_eq!(client.get("/large").await.body, large);
    assert_eq!(client.get("/chunks").await.body, &large[..200_000]);
    assert_eq!(client.post("/echo", &large).await.body, large);
    assert_eq!(client.post("/echo", b"small").await.body, b"small");
    assert_eq!(client.get("/none").await.status, 204);
    let head = client.request("HEAD", "/large", &[], b"").await;
    assert_eq!((head.fields.get("content-length"), head.body.len()), (Some("3000000"), 0));
    assert_eq!(client.get("/none").await.status, 204, "the connection is still in step");
    assert_eq!(client.connects, 1);
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("GET /none HTTP/1.1\r\nHost: shop.test\r\n\r\nGET /chunks HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 204);
    assert_eq!(raw.response().await.body.len(), 200_000);
    assert_eq!(raw.closed().await, End::Closed, "an orderly end is announced");
}

#[tokio::test]
async fn a_body_that_comes_slowly_and_one_that_is_read_slowly_are_whole() {
    let ca = Authority::new("ca");
    let large = vec![b'x'; 8 << 20];
    let origin = Origin::replying(|request| Reply::ok(format!("{}", request.body.len())))
        .await
        .route("/large", Reply::ok(&large));
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    for part in ["5", "\r", "\nhel", "lo\r\n", "1\r\n!\r\n0", "\r\n\r\n"] {
        raw.send(part).await;
    }
    assert_eq!(raw.response().await.text(), "6");
    raw.send("GET /large HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    let head = raw.head().await.unwrap();
    assert_eq!(head.status(), 200);
    for _ in 0..(8 << 20) / 65_536 {
        assert_eq!(raw.exactly(65_536).await.unwrap(), [b'x'; 65_536]);
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_request_that_ends_without_an_announced_end_is_not_taken_for_complete() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 10\r\n\r\nhalf").await;
    eventually("the request to begin", async || origin.bytes().ends_with(b"half")).await;
    raw.into_wire().without_tls().try_finish().await;
    eventually("the request to be given up", async || origin.open() == 0).await;
    assert_eq!((origin.count(), origin.unfinished().len()), (0, 1));
}

#[tokio::test]
async fn an_answer_that_breaks_off_has_no_announced_end() {
    let ca = Authority::new("ca");
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf").await;
        conn.reset();
    })
    .await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("GET / HTTP/1.0\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(raw.cut().await.end, End::Reset);
}

#[tokio::test]
async fn an_idle_connection_is_ended_with_an_announcement() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let lines = ca.issue("shop", &["shop.test"]).listener() + "\nkeep_alive = \"200ms\"";
    let edge = tls_before(&origin, &lines).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    raw.response().await;
    assert_eq!(raw.closed().await, End::Closed);
}

async fn echo(conn: &mut Conn) {
    while let Ok(bytes) = conn.some_patiently().await {
        if conn.try_send(&bytes).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_websocket_goes_through_tls() {
    let ca = Authority::new("ca");
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        echo(&mut conn).await;
    })
    .await;
    let edge = tls_before(&origin, &ca.issue("shop", &["shop.test"]).listener()).start().await;
    let mut raw = Raw::over(&ca.dialer("shop.test"), &edge).await;
    raw.send("GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(raw.head().await.unwrap().status(), 101);
    raw.send("\u{81}hello").await;
    assert_eq!(raw.exactly(7).await.unwrap(), "\u{81}hello".as_bytes());
    let large = vec![7u8; 1 << 20];
    let (mut sent, mut received) = (0, 0);
    while received < large.len() {
        if sent < large.len() {
            raw.send(&large[sent..sent + 65_536]).await;
            sent += 65_536;
        }
        received += raw.some().await.unwrap().len();
    }
    raw.finish().await;
    assert_eq!(raw.until_end().await.1, End::Closed);
    edge.counts("selvedge_tunnels_open", 0).await;
}

#[tokio::test]
async fn sessions_stick_over_tls_and_their_cookie_is_secure() {
    let ca = Authority::new("ca");
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let lines = ca.issue("shop", &["shop.test"]).listener();
    let edge =
        Edge::before_all(&[&a, &b]).listener(&lines).pool("stickiness.mode = \"lb_cookie\"").start().await;
    for _ in 0..4 {
        let mut client = Client::of(&edge).over(&ca.dialer("shop.test"));
        let first = client.get("/").await;
        assert!(first.fields.get("set-cookie").unwrap().contains("; Secure"), "{first:?}");
        for _ in 0..5 {
            assert_eq!(client.get("/").await.origin(), first.origin());
        }
        let mut again = client.at(&edge);
        assert_eq!(again.get("/").await.origin(), first.origin(), "on another connection");
    }
}

#[tokio::test]
async fn hsts_is_sent_over_tls_unless_the_target_has_its_own() {
    let ca = Authority::new("ca");
    let origin =
        Origin::start().await.route("/own", Reply::ok("own").field("Strict-Transport-Security: max-age=1"));
    let lines = ca.issue("shop", &["shop.test"]).listener()
        + "\ntls.hsts = { max_age = \"365d\", include_subdomains = true }";
    let edge = tls_before(&origin, &lines)
        .and("[[route]]\nhost = \"gone.test\"\nrespond = { status = 410 }")
        .start()
        .await;
    let mut client = Client::of(&edge).over(&ca.dialer("shop.test"));
    let hsts = async |client: &mut Client, path: &str| {
        client
            .get(path)
            .await
            .fields
            .all("strict-transport-security")
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(hsts(&mut client, "/").await, ["max-age=31536000; includeSubDomains"]);
    assert_eq!(hsts(&mut client, "/own").await, ["max-age=1"]);
    client.host = "gone.test".to_owned();
    assert_eq!(hsts(&mut client, "/").await, ["max-age=31536000; includeSubDomains"]);
}

#[tokio::test]
async fn a_plain_listener_redirects_to_https() {
    let origin = Origin::start().await;
    let edge =
        Edge::before(&origin).listener("redirect_to_https = 8443\ntrusted = [\"127.0.0.2\"]").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET /cart?x=1 HTTP/1.1\r\nHost: shop.test:8080\r\n\r\n").await;
    let answer = raw.response().await;
    assert_eq!(
        (answer.status, answer.fields.get("location")),
        (308, Some("https://shop.test:8443/cart?x=1"))
    );
    assert_eq!(origin.count(), 0);
    let mut trusted = Raw::from(&edge, "127.0.0.2").await;
    trusted.send("GET / HTTP/1.1\r\nHost: shop.test\r\nX-Forwarded-Proto: https\r\n\r\n").await;
    assert_eq!(trusted.response().await.status, 200, "a proxy in front has done it");
}

#[tokio::test]
async fn both_kinds_of_listener_live_in_one_node() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let second = format!(
        "[[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n{}",
        ca.issue("shop", &["shop.test"]).listener()
    );
    let mut edge = Edge::before(&origin).and(&second).start().await;
    let secure = edge.address_of("secure").await;
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
    assert_eq!(Client::to(secure).over(&ca.dialer("shop.test")).get("/").await.text(), "a");
    let plain = Wire::connect(secure, None).await.unwrap();
    drop(plain);
    edge.counts(&format!("{FAILURES}{{reason=\"closed\"}}"), 1).await;
    let mut idle = tokio::net::TcpStream::connect(secure).await.unwrap();
    idle.shutdown().await.unwrap();
    edge.counts(&format!("{FAILURES}{{reason=\"closed\"}}"), 2).await;
}

#[tokio::test]
async fn connections_without_a_handshake_do_not_hold_up_a_stop() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let lines = ca.issue("shop", &["shop.test"]).listener() + "\ntls.handshake_timeout = \"60s\"";
    let mut edge = tls_before(&origin, &lines).start().await;
    let _silent = Raw::connect(&edge).await;
    let mut begun = Raw::connect(&edge).await;
    begun.send(b"\x16\x03\x01\x02\x00\x01").await;
    edge.counts("selvedge_connections_open", 2).await;
    let stopped = tokio::time::timeout(Duration::from_secs(10), edge.stop_gracefully()).await;
    assert!(stopped.is_ok(), "it waits for clients that say nothing");
}
