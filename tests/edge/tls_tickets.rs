//! Session tickets: any node with the same session keys resumes any node's session, and no listener that asks for more.
//!
//! openssl keeps the session in a file, so that the second node is met by a process that knows nothing else of the first.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::edge::session_keys;
use crate::support::tls::s_client;
use crate::support::{Authority, Edge, Origin};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n";
const RESUMED: &str = "selvedge_tls_handshakes_total{resumed=\"true\"}";

/// A connection on which the session is stored.
async fn store(address: SocketAddr, session: &Path, more: &[&str]) {
    let session = session.display().to_string();
    let arguments = [&["-servername", "shop.test", "-ign_eof", "-sess_out", &session], more].concat();
    let text = s_client(address, &arguments, REQUEST).await;
    assert!(text.contains("New, TLSv1") && text.contains("HTTP/1.1 200"), "{text}");
    assert!(Path::new(&session).exists(), "{text}");
}

/// Whether the stored session is resumed.
async fn resumes(address: SocketAddr, session: &Path, more: &[&str]) -> bool {
    let session = session.display().to_string();
    let arguments = [&["-servername", "shop.test", "-ign_eof", "-sess_in", &session], more].concat();
    let text = s_client(address, &arguments, REQUEST).await;
    assert!(text.contains("HTTP/1.1 200"), "{text}");
    assert!(text.contains("Reused, TLSv1") || text.contains("New, TLSv1"), "{text}");
    text.contains("Reused, TLSv1")
}

#[tokio::test]
async fn a_session_is_resumed_at_a_node_that_never_saw_it() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let keys = format!("[session_keys]\nfile = \"{}\"", session_keys(ca.folder()).display());
    let listener = ca.issue("shop", &["shop.test"]).listener();
    let node = async || Edge::before(&origin).listener(&listener).and(&keys).start().await;
    let (one, other) = (node().await, node().await);
    let stranger = Edge::before(&origin).listener(&listener).start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = ca.folder().path().join(format!("session{version}"));
        store(one.web, &session, &[version]).await;
        assert!(resumes(one.web, &session, &[version]).await, "{version}: at the same node");
        store(one.web, &session, &[version]).await;
        assert!(resumes(other.web, &session, &[version]).await, "{version}: at another node");
        store(one.web, &session, &[version]).await;
        assert!(!resumes(stranger.web, &session, &[version]).await, "{version}: at one with other keys");
    }
    other.counts(RESUMED, 2).await;
    stranger.counts(RESUMED, 0).await;
}

#[tokio::test]
async fn sessions_live_through_a_change_of_certificates_and_end_with_their_key() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let file = session_keys(ca.folder());
    let keys = format!("[session_keys]\nfile = \"{}\"", file.display());
    let issued = ca.issue("shop", &["shop.test"]);
    let setup = Edge::before(&origin).listener(&issued.listener()).and(&keys).top("watch = false");
    let edge = setup.start().await;
    let session = ca.folder().path().join("session");
    store(edge.web, &session, &[]).await;
    ca.issue("next", &["shop.test"]).replace(&issued);
    assert_eq!(edge.reload().await.status, 200);
    assert!(resumes(edge.web, &session, &[]).await);
    store(edge.web, &session, &[]).await;
    let first = std::fs::read_to_string(&file).unwrap();
    session_keys(ca.folder());
    let second = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{second}{first}")).unwrap();
    assert_eq!(edge.reload().await.status, 200);
    assert!(resumes(edge.web, &session, &[]).await, "the old key is still in the ring");
    store(edge.web, &session, &[]).await;
    std::fs::write(&file, &first).unwrap();
    assert_eq!(edge.reload().await.status, 200);
    assert!(!resumes(edge.web, &session, &[]).await, "its key is gone");
}

#[tokio::test]
async fn without_tickets_nothing_is_resumed() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let listener = ca.issue("shop", &["shop.test"]).listener() + "\ntls.tickets = false";
    let edge = Edge::before(&origin).listener(&listener).start().await;
    let session = ca.folder().path().join("session");
    let name = session.display().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let arguments = ["-servername", "shop.test", "-ign_eof", "-sess_out", &name, version];
        s_client(edge.web, &arguments, REQUEST).await;
        if session.exists() {
            assert!(!resumes(edge.web, &session, &[version]).await, "{version}");
        }
    }
    edge.counts(RESUMED, 0).await;
}

#[tokio::test]
async fn a_session_of_an_open_listener_is_not_resumed_where_a_certificate_is_asked_for() {
    let ca = Authority::new("ca");
    let origin = Origin::start().await;
    let keys = format!("[session_keys]\nfile = \"{}\"", session_keys(ca.folder()).display());
    let listener = ca.issue("shop", &["shop.test"]).listener();
    let asking = |mode: &str| {
        format!(
            "{listener}\ntls.client_certificates = \"{mode}\"\ntls.client_ca = \"{}\"",
            ca.bundle().display()
        )
    };
    let open = Edge::before(&origin).listener(&listener).and(&keys).start().await;
    let asks = Edge::before(&origin).listener(&asking("request")).and(&keys).start().await;
    let strict = Edge::before(&origin).listener(&asking("require")).and(&keys).start().await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = ca.folder().path().join(format!("session{version}"));
        for from in [&open, &asks] {
            store(from.web, &session, &[version]).await;
            let name = session.display().to_string();
            let arguments = ["-servername", "shop.test", "-ign_eof", "-sess_in", &name, version];
            let text = s_client(strict.web, &arguments, REQUEST).await;
            assert!(!text.contains("HTTP/1.1 200"), "{version}: {text}");
        }
    }
    assert_eq!(strict.metric("selvedge_requests_received_total").await, 0);
    let till = ca.issue("till", &["till.test"]);
    let (cert, key) = (till.cert.display().to_string(), till.key.display().to_string());
    let session = ca.folder().path().join("session-till");
    let own = ["-cert", &cert, "-key", &key];
    store(strict.web, &session, &own).await;
    let before = origin.last().fields.get("x-client-cert-subject").map(str::to_owned);
    assert!(before.is_some());
    assert!(resumes(strict.web, &session, &own).await, "who has shown it once need not do so again");
    assert_eq!(origin.last().fields.get("x-client-cert-subject").map(str::to_owned), before);
}
