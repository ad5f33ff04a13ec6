//! Certificates that the node obtains by itself, from a real authority on loopback.

use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::acme::Pebble;
use crate::support::tls::{curl, s_client};
use crate::support::{Authority, Dns, Edge, Origin, Setup, all, eventually};

const NAMES: [&str; 2] = ["shop.test", "www.shop.test"];
const CERTIFICATE: &str = "[[acme.certificate]]\nnames = [\"shop.test\", \"www.shop.test\"]";
const ORDERS: &str = "selvedge_acme_orders_total";

/// What curl gets at this address, if it believes what it is shown.
async fn asked(edge: &Edge, name: &str, root: &Path) -> (i32, String) {
    curl(edge.web, name, root, &[&format!("https://{name}:{}/", edge.web.port())]).await
}

async fn names() -> Dns {
    let dns = Dns::start().await;
    NAMES.iter().for_each(|name| dns.a(name, 1, [Ipv4Addr::LOCALHOST]));
    dns
}

fn shop(origin: &Origin, pebble: &Pebble, storage: &Path, more: &str) -> Setup {
    Edge::before(origin)
        .listener("tls.acme = true")
        .and(&pebble.toml(storage, &format!("{more}\n{CERTIFICATE}")))
}

#[tokio::test]
async fn a_certificate_is_obtained_kept_and_there_after_a_restart() {
    let (origin, dns, mut pebble) = (Origin::named("a").await, names().await, Pebble::new());
    let folder = tempfile::tempdir().unwrap();
    let storage = folder.path().join("acme");
    let edge = shop(&origin, &pebble, &storage, "").start().await;
    // The authority is away: tried again, and nothing else suffers.
    eventually("two failures", async || {
        edge.metric(&format!("{ORDERS}{{certificate=\"shop.test\",result=\"failed\"}}")).await >= 2
    })
    .await;
    edge.logged(&["ERROR", "no certificate", "name=\"shop.test\"", "again_in"]).await;
    let text = s_client(edge.web, &["-servername", "shop.test"], "Q\n").await;
    assert!(text.contains("no peer certificate available"), "{text}");

    pebble.start(1, edge.web.port(), &dns, 90 * 86_400).await;
    edge.logged(&["a certificate was obtained", "name=shop.test"]).await;
    let root = pebble.root().await;
    for name in NAMES {
        assert_eq!(asked(&edge, name, &root).await, (0, "a".to_owned()), "{name}");
    }
    edge.counts(&format!("{ORDERS}{{certificate=\"shop.test\",result=\"obtained\"}}"), 1).await;
    assert!(
        edge.metric("selvedge_acme_certificate_not_after_seconds{certificate=\"shop.test\"}").await
            > 1_700_000_000
    );
    for file in ["account.json", "shop.test.pem"] {
        let mode = std::fs::metadata(storage.join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    assert_eq!(std::fs::metadata(&storage).unwrap().permissions().mode() & 0o777, 0o700);

    // The proofs have been taken back.
    let proof = s_client(edge.web, &["-servername", "shop.test", "-alpn", "acme-tls/1"], "Q\n").await;
    assert!(proof.contains("no peer certificate available"), "{proof}");

    // A client that asks for no name is shown something, and the next start needs no authority.
    pebble.stop().await;
    let again = shop(&origin, &pebble, &storage, "").start().await;
    assert_eq!(asked(&again, "www.shop.test", &root).await, (0, "a".to_owned()));
    let text = s_client(again.web, &["-noservername", "-CAfile", root.to_str().unwrap()], "Q\n").await;
    assert!(text.contains("Verify return code: 0 (ok)"), "{text}");
    assert_eq!(again.metric(ORDERS).await, 0, "{}", again.log());
}

#[tokio::test]
async fn a_name_is_proved_by_http_though_everything_else_is_redirected() {
    let (origin, dns, mut pebble) = (Origin::named("a").await, names().await, Pebble::new());
    let folder = tempfile::tempdir().unwrap();
    let plain = "[[listener]]\nname = \"plain\"\naddress = \"127.0.0.1:0\"\nredirect_to_https = 443\n";
    let setup = shop(&origin, &pebble, folder.path(), "challenge = \"http-01\"").and(plain);
    let mut edge = setup.start().await;
    let plain = edge.address_of("plain").await;
    pebble.start(plain.port(), 1, &dns, 90 * 86_400).await;
    edge.logged(&["a certificate was obtained"]).await;
    let root = pebble.root().await;
    assert_eq!(asked(&edge, "shop.test", &root).await, (0, "a".to_owned()));
    let mut client = crate::support::Client::to(plain);
    let answer = client.get("/.well-known/acme-challenge/anything").await;
    assert_eq!(answer.status, 308, "{answer:?}");
}

#[tokio::test]
async fn an_authority_that_refuses_says_why_and_the_other_certificates_serve() {
    let (origin, dns, mut pebble) = (Origin::named("a").await, Dns::start().await, Pebble::new());
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::new("ca");
    let written = ca.issue("written", &["written.test"]).listener();
    let edge = shop(&origin, &pebble, folder.path(), "").listener(&written).start().await;
    // Nobody knows the name; then it leads elsewhere.
    pebble.start(1, edge.web.port(), &dns, 90 * 86_400).await;
    edge.logged(&["ERROR", "no certificate", "resolve", "shop.test"]).await;
    NAMES.iter().for_each(|name| dns.a(name, 1, [Ipv4Addr::new(127, 0, 0, 9)]));
    assert_eq!(edge.reload().await.status, 200);
    edge.logged(&["ERROR", "no certificate", "Failed to connect to 127.0.0.9"]).await;
    assert_eq!(asked(&edge, "written.test", &ca.bundle()).await.0, 0);
    assert_ne!(asked(&edge, "shop.test", &ca.bundle()).await.0, 0);
    // Somebody mends it, and does not want to wait.
    NAMES.iter().for_each(|name| dns.a(name, 1, [Ipv4Addr::LOCALHOST]));
    assert_eq!(edge.reload().await.status, 200);
    edge.logged(&["a certificate was obtained"]).await;
    assert_eq!(asked(&edge, "shop.test", &pebble.root().await).await, (0, "a".to_owned()));
    assert_eq!(asked(&edge, "written.test", &ca.bundle()).await.0, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_renewed_under_load_and_nobody_notices() {
    let (origin, dns, mut pebble) = (Origin::named("a").await, names().await, Pebble::new());
    let folder = tempfile::tempdir().unwrap();
    let edge = shop(&origin, &pebble, folder.path(), "").start().await;
    // Renewed when 4 of 12 seconds are left.
    pebble.start(1, edge.web.port(), &dns, 12).await;
    edge.logged(&["a certificate was obtained"]).await;
    let failed = format!("{ORDERS}{{certificate=\"shop.test\",result=\"failed\"}}");
    let before = edge.metric(&failed).await;
    let mut roots = rustls::RootCertStore::empty();
    let root = std::fs::read(pebble.root().await).unwrap();
    let root =
        <rustls::pki_types::CertificateDer<'_> as rustls::pki_types::pem::PemObject>::from_pem_slice(&root);
    roots.add(root.unwrap()).unwrap();
    let dialer = crate::support::Dialer::believing(roots, "shop.test");
    let stop = Arc::new(AtomicBool::new(false));
    let clients = (0..4).map(|number| {
        let (stop, dialer) = (stop.clone(), dialer.clone());
        let mut client = crate::support::Client::of(&edge).over(&dialer);
        async move {
            let mut good = 0;
            while !stop.load(SeqCst) {
                // Half of them keep their connection, half of them shake hands each time.
                if number % 2 == 0 {
                    client.hang_up();
                }
                let answer = client.try_request("GET", "/", &[], b"").await.unwrap();
                assert_eq!(answer.status, 200);
                good += 1;
            }
            good
        }
    });
    let clients = tokio::spawn(all(clients.collect::<Vec<_>>()));
    let mut shown = std::collections::BTreeSet::new();
    eventually("a renewed certificate", async || {
        shown.insert(dialer.shown(edge.web).await);
        shown.len() >= 2
    })
    .await;
    stop.store(true, SeqCst);
    let good = clients.await.unwrap();
    assert!(good.iter().all(|good| *good > 10), "{good:?}");
    assert_eq!(edge.metric(&failed).await, before, "{}", edge.log());
}

#[tokio::test]
async fn an_authority_that_has_forgotten_the_account_is_given_another_one() {
    let (origin, dns, mut pebble) = (Origin::named("a").await, names().await, Pebble::new());
    let folder = tempfile::tempdir().unwrap();
    let edge = shop(&origin, &pebble, folder.path(), "").start().await;
    pebble.start(1, edge.web.port(), &dns, 12).await;
    edge.logged(&["a certificate was obtained"]).await;
    // It remembers nothing that it was told before.
    pebble.stop().await;
    pebble.start(1, edge.web.port(), &dns, 90 * 86_400).await;
    edge.logged(&["WARN", "the old one serves", "the account was put aside"]).await;
    let root = pebble.root().await;
    eventually("a certificate of the new authority", async || asked(&edge, "shop.test", &root).await.0 == 0)
        .await;
    assert!(folder.path().join("account.json.unknown").exists());
}
