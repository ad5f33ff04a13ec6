//! Fields that belong to one connection stay on it, in both directions, and nobody can name away what Selvedge adds.

use crate::support::{Client, Edge, Origin, Reply};

#[tokio::test]
async fn fields_of_the_clients_connection_do_not_reach_the_origin() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let fields = [
        "Connection: keep-alive, X-Private, x-other",
        "Connection: X-Third",
        "X-Private: 1",
        "X-Other: 2",
        "X-Third: 3",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "X-Kept: yes",
    ];
    assert_eq!(Client::of(&edge).get_with("/", &fields).await.status, 200);
    let request = origin.last();
    for name in [
        "x-private",
        "x-other",
        "x-third",
        "keep-alive",
        "proxy-connection",
        "te",
        "upgrade",
        "http2-settings",
    ] {
        assert!(!request.fields.has(name), "{name} reached the origin: {:?}", request.fields);
    }
    assert!(!request.fields.lists("connection", "x-private"), "{:?}", request.fields);
    assert_eq!(request.fields.get("x-kept"), Some("yes"));
}

#[tokio::test]
async fn te_trailers_reaches_the_origin_and_other_codings_do_not() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    for te in ["TE: trailers", "TE: gzip;q=0.5, trailers"] {
        assert_eq!(Client::of(&edge).get_with("/", &["Connection: TE", te]).await.status, 200);
        assert_eq!(origin.last().fields.get("te"), Some("trailers"));
        assert!(origin.last().fields.lists("connection", "te"), "TE is a field of one connection");
    }
}

#[tokio::test]
async fn connection_cannot_name_away_what_selvedge_adds() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let names =
        "Connection: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Via, X-Request-Id, Forwarded";
    assert_eq!(Client::of(&edge).get_with("/", &[names]).await.status, 200);
    let request = origin.last();
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id"] {
        assert!(request.fields.has(name), "{name} is missing: {:?}", request.fields);
    }
}

#[tokio::test]
async fn fields_of_the_origins_connection_do_not_reach_the_client() {
    let reply = Reply::ok("ok")
        .field("Connection: keep-alive, X-Private")
        .field("X-Private: 1")
        .field("Keep-Alive: timeout=5")
        .field("Proxy-Connection: keep-alive")
        .field("Upgrade: h2c")
        .field("X-Kept: yes");
    let origin = Origin::start().await.route("/", reply);
    let edge = Edge::before(&origin).start().await;
    let answer = Client::of(&edge).get("/").await;
    for name in ["x-private", "keep-alive", "proxy-connection", "upgrade", "connection"] {
        assert!(!answer.fields.has(name), "{name} reached the client: {:?}", answer.fields);
    }
    assert_eq!(answer.fields.get("x-kept"), Some("yes"));
}

#[tokio::test]
async fn an_origin_cannot_name_away_the_length_of_its_answer() {
    let reply = Reply::ok("hello").field("Connection: Content-Length, Set-Cookie").field("Set-Cookie: a=1");
    let origin = Origin::start().await.route("/", reply);
    let edge = Edge::before(&origin).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..2 {
        let answer = client.get("/").await;
        assert!(answer.status == 502 || answer.text() == "hello", "{answer:?}");
    }
    assert_eq!(client.connects, 1);
}
