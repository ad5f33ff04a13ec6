//! Certificates of clients, and certificates that change while clients are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crate::support::tls::{curl, s_client};
use crate::support::{Authority, Client, Edge, Findings, Origin, Raw, eventually};

const FAILURES: &str = "selvedge_tls_handshake_failures_total";

fn asking(server: &Authority, clients: &Authority, mode: &str) -> String {
    format!(
        "{}\ntls.client_certificates = \"{mode}\"\ntls.client_ca = \"{}\"",
        server.issue("shop", &["shop.test"]).listener(),
        clients.bundle().display()
    )
}

#[tokio::test]
async fn a_required_certificate_lets_in_who_has_it_and_the_target_is_told_who() {
    let (ca, staff, strangers) = (Authority::new("ca"), Authority::new("staff"), Authority::new("strangers"));
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener(&asking(&ca, &staff, "require")).start().await;
    let dialer = ca.dialer("shop.test");
    let till = staff.issue("till", &["till-4.shop.test"]);
    let mut client = Client::of(&edge).over(&dialer.showing(&ca, &till));
    assert_eq!(client.get("/").await.text(), "a");
    let request = origin.last();
    assert_eq!(request.fields.get("x-client-cert-verify"), Some("SUCCESS"));
    assert_eq!(request.fields.get("x-client-cert-subject"), Some(r"O=MyClothes\, Inc.,CN=till-4.shop.test"));
    assert_eq!(request.fields.get("x-client-cert-fingerprint").map(str::len), Some(64));
    for (who, dialer) in [
        ("nobody", dialer.clone()),
        ("a stranger", dialer.showing(&ca, &strangers.issue("x", &["x.test"]))),
        ("one of the past", dialer.showing(&ca, &staff.issue_for("old", &["old.test"], -20..=-10))),
    ] {
        let answer = Client::of(&edge).over(&dialer).try_request("GET", "/", &[], b"").await;
        assert!(answer.is_err(), "{who}: {answer:?}");
    }
    edge.counts(&format!("{FAILURES}{{reason=\"client_certificate\"}}"), 3).await;
    assert_eq!(origin.count(), 1);
}

#[tokio::test]
async fn curl_shows_its_certificate_and_is_told_when_it_has_none() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener(&asking(&ca, &ca, "require")).start().await;
    let url = format!("https://shop.test:{}/", edge.web.port());
    let till = ca.issue("till", &["till-4.shop.test"]);
    let (cert, key) = (till.cert.display().to_string(), till.key.display().to_string());
    for version in ["1.2", "1.3"] {
        let with = ["--tls-max", version, "--cert", &cert, "--key", &key, &url];
        assert_eq!(curl(edge.web, "shop.test", &ca.bundle(), &with).await, (0, "a".to_owned()), "{version}");
        let (code, text) = curl(edge.web, "shop.test", &ca.bundle(), &["--tls-max", version, &url]).await;
        assert_ne!(code, 0, "{version}");
        assert!(text.contains("alert"), "{version}: {text}");
    }
}

#[tokio::test]
async fn curl_and_openssl_agree_on_http_1_1_and_verify_the_server() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener(&ca.issue("shop", &["shop.test"]).listener()).start().await;
    let url = format!("https://shop.test:{}/", edge.web.port());
    let arguments = ["--http1.1", "--write-out", " %{http_version} %{ssl_verify_result}", &url];
    assert_eq!(curl(edge.web, "shop.test", &ca.bundle(), &arguments).await, (0, "a 1.1 0".to_owned()));
    let bundle = ca.bundle().display().to_string();
    let arguments = ["-servername", "shop.test", "-alpn", "http/1.1", "-CAfile", &bundle, "-ign_eof"];
    let arguments = [&arguments[..], &["-verify_return_error", "-verify_hostname", "shop.test"]].concat();
    let request = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
    let text = s_client(edge.web, &arguments, request).await;
    for part in ["ALPN protocol: http/1.1", "Verification: OK", "HTTP/1.1 200"] {
        assert!(text.contains(part), "{part} in {text}");
    }
}

#[tokio::test]
async fn a_requested_certificate_may_be_missing_but_not_wrong() {
    let (ca, staff, strangers) = (Authority::new("ca"), Authority::new("staff"), Authority::new("strangers"));
    let origin = Origin::named("a").await;
    let edge = Edge::before(&origin).listener(&asking(&ca, &staff, "request")).start().await;
    let dialer = ca.dialer("shop.test");
    assert_eq!(Client::of(&edge).over(&dialer).get("/").await.text(), "a");
    assert_eq!(origin.last().fields.get("x-client-cert-verify"), Some("NONE"));
    assert_eq!(origin.last().fields.get("x-client-cert-subject"), None);
    let mut till = Client::of(&edge).over(&dialer.showing(&ca, &staff.issue("till", &["till.test"])));
    till.get("/").await;
    assert_eq!(origin.last().fields.get("x-client-cert-verify"), Some("SUCCESS"));
    let stranger = dialer.showing(&ca, &strangers.issue("x", &["x.test"]));
    assert!(Client::of(&edge).over(&stranger).try_request("GET", "/", &[], b"").await.is_err());
}

#[tokio::test]
async fn nobody_can_say_that_somebody_else_was_verified() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let secure = format!(
        "[[listener]]\nname = \"secure\"\naddress = \"127.0.0.1:0\"\n{}",
        asking(&ca, &ca, "request")
    );
    let setup = Edge::before(&origin).listener("trusted = [\"127.0.0.0/8\"]").and(&secure);
    let mut edge = setup.start().await;
    let secure = edge.address_of("secure").await;
    let forged = [
        "X-Client-Cert-Verify: SUCCESS",
        "x-client-cert-subject: CN=admin",
        "X-CLIENT-CERT-FINGERPRINT: 00",
        "X-Client-Cert-Anything: else",
    ];
    let mut findings = Findings::default();
    for (how, mut client) in [
        ("plain, trusted", Client::of(&edge)),
        ("without a certificate", Client::to(secure).over(&ca.dialer("shop.test"))),
        (
            "with another's",
            Client::to(secure).over(&ca.dialer("shop.test").showing(&ca, &ca.issue("t", &["till.test"]))),
        ),
    ] {
        client.get_with("/", &forged).await;
        let told: Vec<_> = origin
            .last()
            .fields
            .0
            .iter()
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with("x-client-cert"))
            .map(|(_, value)| value.to_owned())
            .collect();
        let expected = match how {
            "plain, trusted" => 0,
            "without a certificate" => 1,
            _ => 3,
        };
        let forged = |value: &String| ["CN=admin", "00", "else"].contains(&value.as_str());
        findings.expect(told.len() == expected && !told.iter().any(forged), || format!("{how}: {told:?}"));
    }
    let mut raw = Raw::to(secure).await;
    raw.send("").await;
    findings.report();
}

#[tokio::test]
async fn another_certificate_is_shown_soon_and_costs_no_request() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let issued = ca.issue("shop", &["shop.test"]);
    let edge = Arc::new(Edge::before(&origin).listener(&issued.listener()).top("workers = 2").start().await);
    let dialer = ca.dialer("shop.test");
    let before = dialer.shown(edge.web).await;
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut load = Vec::new();
    for index in 0..8 {
        let (stop, done, dialer, edge) = (stop.clone(), done.clone(), dialer.clone(), edge.clone());
        load.push(tokio::spawn(async move {
            let mut client = Client::of(&edge).over(&dialer);
            while !stop.load(SeqCst) {
                if index % 2 == 0 {
                    client = Client::of(&edge).over(&dialer);
                }
                assert_eq!(client.get("/").await.status, 200);
                done.fetch_add(1, SeqCst);
            }
        }));
    }
    let mut held = Client::of(&edge).over(&dialer);
    held.get("/").await;
    let replacement = ca.issue("next", &["shop.test"]);
    let changed = Instant::now();
    replacement.replace(&issued);
    eventually("the other certificate", async || dialer.shown(edge.web).await != before).await;
    let took = changed.elapsed();
    let so_far = done.load(SeqCst);
    eventually("more requests", async || done.load(SeqCst) > so_far + 50).await;
    stop.store(true, SeqCst);
    for task in load {
        task.await.unwrap();
    }
    held.get("/").await;
    assert_eq!(held.connects, 1, "a connection that was open lives on");
    assert!(took.as_secs_f64() < 5.0, "it took {took:?}");
    edge.logged(&["reloaded: listener[web].tls, ", "shop.crt: valid until", "becomes valid until"]).await;
}

#[tokio::test]
async fn a_key_that_does_not_belong_to_the_certificate_changes_nothing() {
    let ca = Authority::new("ca");
    let origin = Origin::named("a").await;
    let issued = ca.issue("shop", &["shop.test"]);
    let edge = Edge::before(&origin).listener(&issued.listener()).start().await;
    let dialer = ca.dialer("shop.test");
    let before = dialer.shown(edge.web).await;
    let other = ca.issue("other", &["shop.test"]);
    std::fs::copy(&other.key, &issued.key).unwrap();
    edge.logged(&["reload refused", "certificates[0].key", "is not the key of"]).await;
    assert_eq!(dialer.shown(edge.web).await, before);
    std::fs::copy(&other.cert, &issued.cert).unwrap();
    eventually("the other certificate", async || dialer.shown(edge.web).await != before).await;
}
