//! The PROXY protocol: from listed proxies and nobody else, strictly, before TLS; and towards targets, for one client each.

use crate::support::tls::curl;
use crate::support::{Authority, Client, Conn, Edge, Findings, Origin, Raw, Reply, eventually};

const FAILURES: &str = "selvedge_proxy_header_failures_total";
const FROM: &str = "proxy_protocol.from = [\"127.0.0.1/32\"]";
const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// A header of version 2 with this command and family, and this rest.
fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &(rest.len() as u16).to_be_bytes(), rest].concat()
}

/// From 192.0.2.7:49152 to 198.51.100.1:443.
const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0xc0, 0x00, 0x01, 0xbb];

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

/// The header of version 2 at the beginning of a connection: its command, and what follows its length.
async fn header(conn: &mut Conn) -> Option<(u8, Vec<u8>)> {
    conn.idle().await.ok()?;
    let head = conn.exactly(16).await.ok()?;
    assert_eq!(&head[..12], b"\r\n\r\n\0\r\nQUIT\n");
    let rest = conn.exactly(usize::from(u16::from_be_bytes([head[14], head[15]]))).await.ok()?;
    Some((head[12], rest))
}

/// An origin that wants a header and answers each request with the client's port, in decimal, and what else was said; a
/// check with `local`.
async fn wanting_headers() -> Origin {
    Origin::raw(async |mut conn| {
        let Some((command, rest)) = header(&mut conn).await else { return };
        let said = match command {
            0x20 => "local".to_owned(),
            _ => format!(
                "{}.{}.{}.{}:{} {}",
                rest[0],
                rest[1],
                rest[2],
                rest[3],
                u16::from_be_bytes([rest[8], rest[9]]),
                rest[12..].escape_ascii()
            ),
        };
        while let Some(request) = conn.request_head().await {
            let mut request = request;
            conn.rest_of(&mut request).await;
            if conn.try_send(Reply::ok(&said).bytes(&request.method)).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn who_is_announced_is_the_client() {
    let (origin, other) = (Origin::named("a").await, Origin::named("elsewhere").await);
    let edge = Edge::before(&origin)
        .listener(&format!("{FROM}\nallow = [\"127.0.0.1/32\"]"))
        .and(&format!(
            "[[route]]\nsources = [\"192.0.2.0/24\", \"2001:db8::/32\"]\npool = \"other\"\n[pool.other]\n\
             health.enabled = false\nstickiness.mode = \"off\"\n[[pool.other.target]]\naddress = \"{other}\""
        ))
        .start()
        .await;
    let v6 = [&[0x20, 1, 0xd, 0xb8][..], &[0; 11], &[7], &[0; 15], &[1, 0, 80, 1, 187]].concat();
    for (header, address) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 49152 443\r\n".to_vec(), "2001:db8::7"),
        (v2(0x21, 0x11, &V4), "192.0.2.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::7"),
    ] {
        let mut raw = Raw::connect(&edge).await;
        raw.send([&header, GET.as_bytes(), GET.as_bytes()].concat()).await;
        for _ in 0..2 {
            assert_eq!(raw.response().await.text(), "elsewhere", "{address}");
            assert_eq!(other.last().fields.get("x-forwarded-for"), Some(address));
        }
    }
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 49152 443\r\n".to_vec(),
        v2(0x20, 0x11, &V4),
        v2(0x21, 0, b""),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        let mut raw = Raw::connect(&edge).await;
        raw.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(raw.response().await.text(), "a");
        assert_eq!(origin.last().fields.get("x-forwarded-for"), Some("127.0.0.1"));
    }
    edge.counts("selvedge_proxy_headers_total", 9).await;
    edge.counts(FAILURES, 0).await;
}

#[tokio::test]
async fn a_header_may_come_byte_by_byte() {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener(FROM).start().await;
    let long = [&V4[..], &tlv(4, &[0; 3000]), &tlv(0xe0, b"x")].concat();
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n".to_vec(), v2(0x21, 0x11, &long)] {
        let mut raw = Raw::connect(&edge).await;
        let all = [&header, GET.as_bytes()].concat();
        for part in all.chunks(if all.len() > 1000 { 100 } else { 1 }) {
            raw.send(part).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(raw.response().await.status, 200);
        assert_eq!(origin.last().fields.get("x-forwarded-for"), Some("192.0.2.7"));
    }
}

#[tokio::test]
async fn a_listed_proxy_that_announces_nobody_properly_is_closed() {
    let origin = Origin::named("a").await;
    let edge =
        Edge::before(&origin).listener(&format!("{FROM}\nproxy_protocol.timeout = \"200ms\"")).start().await;
    let wrong_sum = v2(0x21, 0x11, &[&V4[..], &tlv(3, &[1, 2, 3, 4])].concat());
    let cases = [
        ("missing", GET.as_bytes().to_vec()),
        ("missing", b"\x16\x03\x01\x02\x00\x01\x00".to_vec()),
        ("malformed", b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443 \r\n".to_vec()),
        ("malformed", v2(0x21, 0x11, &V4[..11])),
        ("malformed", v2(0x2f, 0x11, &V4)),
        ("too_long", [&b"PROXY UNKNOWN "[..], &[b'x'; 94]].concat()),
        ("too_long", v2(0x20, 0, &[0; 4081])),
        ("checksum", wrong_sum),
        ("timeout", b"PROXY TCP4 192.0.2.7".to_vec()),
        ("timeout", Vec::new()),
    ];
    let mut findings = Findings::default();
    for (reason, bytes) in &cases {
        let mut raw = Raw::connect(&edge).await;
        raw.send(bytes).await;
        let (answer, _) = raw.until_end().await;
        findings.expect(answer.is_empty(), || format!("{reason}: {}", String::from_utf8_lossy(&answer)));
    }
    findings.report();
    let mut raw = Raw::connect(&edge).await;
    raw.send("PROXY TCP4").await;
    drop(raw);
    for (reason, count) in
        [("missing", 2), ("malformed", 3), ("too_long", 2), ("checksum", 1), ("timeout", 2), ("closed", 1)]
    {
        edge.counts(&format!("{FAILURES}{{reason=\"{reason}\"}}"), count).await;
    }
    edge.counts("selvedge_connections_open", 0).await;
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn others_announce_nobody() {
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener("proxy_protocol.from = [\"127.0.0.9/32\"]").start().await;
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 49152 443\r\n".to_vec(), v2(0x21, 0x11, &V4)] {
        let mut raw = Raw::connect(&edge).await;
        raw.send([&header, GET.as_bytes()].concat()).await;
        assert_eq!(raw.response().await.status, 400);
    }
    assert_eq!(Client::of(&edge).get("/").await.text(), "a");
    assert_eq!(origin.last().fields.get("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(origin.count(), 1);
    edge.counts(FAILURES, 0).await;
}

#[tokio::test]
async fn the_header_comes_before_tls_as_curl_sends_it() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let listener = format!("{FROM}\n{}", ca.issue("shop", &["shop.test"]).listener());
    let edge = Edge::before(&origin).listener(&listener).start().await;
    let url = format!("https://shop.test:{}/", edge.web.port());
    let (code, text) = curl(edge.web, "shop.test", &ca.bundle(), &["--haproxy-protocol", &url]).await;
    assert_eq!((code, text.as_str()), (0, "a"));
    let mut raw = Raw::over(&ca.dialer("shop.test").after(v2(0x21, 0x11, &V4)), &edge).await;
    raw.send(GET).await;
    assert_eq!(raw.response().await.text(), "a");
    assert_eq!(origin.last().fields.get("x-forwarded-for"), Some("192.0.2.7"));
    let (code, _) = curl(edge.web, "shop.test", &ca.bundle(), &[&url]).await;
    assert_ne!(code, 0, "a listed proxy must announce");
    edge.counts(&format!("{FAILURES}{{reason=\"missing\"}}"), 1).await;
}

#[tokio::test]
async fn a_target_is_told_of_the_client_and_of_what_was_said_of_it() {
    let origin = wanting_headers().await;
    let edge = Edge::before(&origin).listener(FROM).pool("proxy_protocol = \"v2\"").start().await;
    let kept = [tlv(2, b"shop.test"), tlv(0xea, b"vpce-7")].concat();
    let rest = [&V4[..], &tlv(0x20, &[0; 5]), &kept, &tlv(4, b"  ")].concat();
    let mut raw = Raw::connect(&edge).await;
    raw.send([&v2(0x21, 0x11, &rest), GET.as_bytes()].concat()).await;
    assert_eq!(raw.response().await.text(), format!("192.0.2.7:49152 {}", kept.escape_ascii()));
    let mut raw = Raw::connect(&edge).await;
    let port = raw.local().port();
    raw.send([&v2(0x20, 0, b""), GET.as_bytes()].concat()).await;
    assert_eq!(raw.response().await.text(), format!("127.0.0.1:{port} "));
}

#[tokio::test]
async fn a_connection_that_names_a_client_serves_no_other() {
    let origin = wanting_headers().await;
    let pool = "proxy_protocol = \"v2\"\nkeep_alive.connections = 2";
    let edge = Edge::before(&origin).pool(pool).start().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(Raw::connect(&edge).await);
    }
    for round in 1..=3 {
        for client in &mut clients[..2] {
            let own = format!("127.0.0.1:{} ", client.local().port());
            client.send(GET).await;
            assert_eq!(client.response().await.text(), own);
        }
        assert_eq!(origin.connections(), 2, "round {round}");
    }
    // A third is served too, and finds its connection again: that of the client that was away longest is closed.
    for _ in 0..3 {
        let own = format!("127.0.0.1:{} ", clients[2].local().port());
        clients[2].send(GET).await;
        assert_eq!(clients[2].response().await.text(), own);
    }
    assert_eq!(origin.connections(), 3);
    eventually("one connection to be closed", async || origin.open() == 2).await;
    drop(clients);
    eventually("the connections of clients that left to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn connections_of_a_pool_that_begins_to_announce_are_not_used_again() {
    let plain = Origin::named("plain").await;
    let setup = |pool: &str| Edge::before(&plain).pool(pool).text();
    let edge = Edge::start(&setup("")).await;
    let mut client = Client::of(&edge);
    client.get("/").await;
    edge.becomes(&setup("proxy_protocol = \"v2\"")).await;
    eventually("the old connection to be closed", async || plain.open() == 0).await;
    // The origin takes the header for a bad request.
    let _ = client.try_request("GET", "/", &[], b"").await;
    eventually("a header", async || String::from_utf8_lossy(&plain.bytes()).contains("QUIT\n")).await;
}

#[tokio::test]
async fn checks_announce_nobody() {
    let origin = wanting_headers().await;
    let health = "health.interval = \"20ms\"\nhealth.timeout = \"20ms\"\nhealth.expect = [\"200\"]";
    let edge = Edge::before(&origin).pool(&format!("proxy_protocol = \"v2\"\n{health}")).start().await;
    eventually("checks", async || origin.count() >= 3).await;
    let own = Client::of(&edge).get("/").await.text();
    assert!(own.starts_with("127.0.0.1:"), "{own}");
    let bytes = origin.bytes();
    assert!(bytes.starts_with(&[&v2(0x20, 0, b"")[..], b"GET / HTTP/1.1\r\n"].concat()));
    // On a port of its own there is another server.
    let other = Origin::named("checks").await;
    let pool = format!("proxy_protocol = \"v2\"\n{health}\nhealth.port = {}", other.address.port());
    let edge = Edge::before(&origin).pool(&pool).start().await;
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    assert!(other.bytes().starts_with(b"GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn one_node_announces_to_another_before_tls() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let inner = Edge::before(&origin)
        .listener(&format!("{FROM}\n{}", ca.issue("inner", &["inner.test"]).listener()))
        .start()
        .await;
    let tls = format!("tls.ca = \"{}\"\ntls.server_name = \"inner.test\"", ca.bundle().display());
    let health = "health.interval = \"20ms\"\nhealth.timeout = \"20ms\"\nhealth.path = \"/healthz\"";
    let outer =
        Edge::before(&inner.web).pool(&format!("proxy_protocol = \"v2\"\n{tls}\n{health}")).start().await;
    for source in ["127.0.0.2", "127.0.0.3"] {
        let mut client = Client::of(&outer).from(source);
        for _ in 0..2 {
            assert_eq!(client.get("/").await.text(), "a");
            let named = origin.last().fields.get("x-forwarded-for").map(str::to_owned);
            assert_eq!(
                named,
                Some(source.to_owned()),
                "what the outer node wrote is not believed, its header is"
            );
        }
    }
    edge_sees_no_fault(&inner).await;
}

async fn edge_sees_no_fault(edge: &Edge) {
    edge.counts(FAILURES, 0).await;
    edge.counts("selvedge_tls_handshake_failures_total", 0).await;
}
