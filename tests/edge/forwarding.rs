//! What an origin is told of the client: set by Selvedge, believed from trusted sources only.

use crate::support::{Client, Edge, Origin, Raw};

const CLAIMS: [&str; 6] = [
    "X-Forwarded-For: 203.0.113.7",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: claimed.test",
    "Forwarded: for=203.0.113.7;proto=https",
    "X-Request-Id: claimed-id",
    "X-Real-IP-Not-Ours: kept",
];

#[tokio::test]
async fn an_origin_learns_who_asked_for_what() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    Client::of(&edge).from("127.0.0.9").get("/").await;
    let fields = origin.last().fields;
    assert_eq!(fields.get("x-forwarded-for"), Some("127.0.0.9"));
    assert_eq!(fields.get("x-forwarded-proto"), Some("http"));
    assert_eq!(fields.get("x-forwarded-host"), Some("shop.test"));
    assert_eq!(fields.get("host"), Some("shop.test"), "Host is the client's");
    assert_eq!(fields.get("via"), Some("1.1 selvedge"));
    assert!(fields.get("x-request-id").is_some_and(|id| id.len() >= 16), "{fields:?}");
    assert!(!fields.has("forwarded") && !fields.has("traceparent"), "off unless asked for: {fields:?}");
}

#[tokio::test]
async fn claims_of_an_untrusted_source_are_replaced() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("trusted = [\"127.0.0.2/32\"]").start().await;
    Client::of(&edge).from("127.0.0.3").get_with("/", &CLAIMS).await;
    let fields = origin.last().fields;
    assert_eq!(fields.get("x-forwarded-for"), Some("127.0.0.3"));
    assert_eq!(fields.get("x-forwarded-proto"), Some("http"));
    assert_eq!(fields.get("x-forwarded-host"), Some("shop.test"));
    assert!(!fields.has("forwarded"), "a claim that is not ours went through: {fields:?}");
    assert_ne!(fields.get("x-request-id"), Some("claimed-id"));
    assert_eq!(fields.get("x-real-ip-not-ours"), Some("kept"));
}

#[tokio::test]
async fn nobody_untrusted_sets_any_field_of_the_x_forwarded_family() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).and("[forwarding]\nx_forwarded = false").start().await;
    let family = [
        "For: 1.2.3.4",
        "Proto: https",
        "Host: a",
        "Port: 443",
        "Prefix: /admin",
        "Ssl: on",
        "Server: a",
        "User: root",
    ];
    let fields: Vec<_> = family.iter().map(|field| format!("X-Forwarded-{field}")).collect();
    let fields: Vec<_> = fields.iter().map(String::as_str).chain(["Forwarded: for=1.2.3.4"]).collect();
    Client::of(&edge).get_with("/", &fields).await;
    let received = origin.last().fields.0;
    let claims: Vec<_> =
        received.iter().filter(|(name, _)| name.to_lowercase().contains("forwarded")).collect();
    assert!(claims.is_empty(), "{claims:?}");
}

#[tokio::test]
async fn claims_of_a_trusted_source_are_believed_and_continued() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).listener("trusted = [\"127.0.0.2/32\"]").start().await;
    let mut client = Client::of(&edge).from("127.0.0.2");
    client.get_with("/", &CLAIMS).await;
    let fields = origin.last().fields;
    assert_eq!(fields.all("x-forwarded-for").join(", ").replace(' ', ""), "203.0.113.7,127.0.0.2");
    assert_eq!(fields.get("x-forwarded-proto"), Some("https"));
    assert_eq!(fields.get("x-forwarded-host"), Some("claimed.test"));
    assert_eq!(fields.get("x-request-id"), Some("claimed-id"));
    client.get_with("/", &["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 2.2.2.2"]).await;
    let fields = origin.last().fields;
    assert_eq!(fields.all("x-forwarded-for").join(",").replace(' ', ""), "1.1.1.1,2.2.2.2,127.0.0.2");
    assert_eq!(
        fields.get("x-forwarded-proto"),
        Some("http"),
        "what a trusted source does not say is our own view"
    );
}

#[tokio::test]
async fn a_scheme_in_the_target_is_a_claim_like_any_other() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).and("[forwarding]\nforwarded = true").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET https://shop.test/ HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    if raw.response().await.status == 200 {
        let fields = origin.last().fields;
        assert_eq!(
            fields.get("x-forwarded-proto"),
            Some("http"),
            "the connection has no TLS, whatever the client says"
        );
        assert!(fields.get("forwarded").unwrap().contains("proto=http;"), "{fields:?}");
    }
}

#[tokio::test]
async fn every_request_has_an_id_of_its_own() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).top("workers = 2").start().await;
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut client = Client::of(&edge);
        for _ in 0..5 {
            client.get("/").await;
            ids.insert(origin.last().fields.get("x-request-id").unwrap().to_owned());
        }
    }
    assert_eq!(ids.len(), 100);
}

#[tokio::test]
async fn via_is_added_to_what_is_there_both_ways() {
    let origin = Origin::answering("HTTP/1.0 200 OK\r\nVia: 1.1 inner\r\nContent-Length: 2\r\n\r\nok").await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.0\r\nHost: shop.test\r\nVia: 1.1 outer\r\n\r\n").await;
    let answer = raw.response().await;
    let via = |values: Vec<&str>| values.join(", ").replace(", ", ",");
    assert_eq!(via(answer.fields.all("via")), "1.1 inner,1.0 selvedge");
    assert_eq!(via(origin.last().fields.all("via")), "1.1 outer,1.0 selvedge");
}

#[tokio::test]
async fn forwarded_and_traceparent_are_written_when_asked_for() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .listener("trusted = [\"127.0.0.2/32\"]")
        .and("[forwarding]\nforwarded = true\ntraceparent = true")
        .start()
        .await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let claims = ["Forwarded: for=203.0.113.7", &format!("traceparent: 00-{trace}-00f067aa0ba902b7-01")];
    Client::of(&edge).from("127.0.0.3").get_with("/", &claims).await;
    let fields = origin.last().fields;
    let forwarded = fields.get("forwarded").expect("Forwarded is written").to_ascii_lowercase();
    for part in ["for=127.0.0.3", "proto=http", "host=shop.test"] {
        assert!(forwarded.replace('"', "").contains(part), "{part} in {forwarded}");
    }
    assert!(!forwarded.contains("203.0.113.7"), "{forwarded}");
    let parent = fields.get("traceparent").expect("traceparent is written");
    assert!(parent.len() == 55 && parent.starts_with("00-"), "{parent}");
    Client::of(&edge).from("127.0.0.2").get_with("/", &claims).await;
    let fields = origin.last().fields;
    let forwarded = fields.all("forwarded").join(",").to_ascii_lowercase();
    let (first, second) = forwarded.split_once(',').expect("two hops");
    assert!(first.contains("203.0.113.7") && second.contains("127.0.0.2"), "{forwarded}");
    let parent = fields.get("traceparent").unwrap();
    assert_eq!(parent.split('-').nth(1), Some(trace), "the trace is continued");
    assert_ne!(parent.split('-').nth(2), Some("00f067aa0ba902b7"), "with a span of our own");
}

#[tokio::test]
async fn every_forwarding_field_can_be_switched_off() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin)
        .and("[forwarding]\nx_forwarded = false\nvia = false\nrequest_id = false")
        .start()
        .await;
    let answer = Client::of(&edge).get("/").await;
    assert!(!answer.fields.has("via"), "{answer:?}");
    let fields = origin.last().fields;
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "via", "x-request-id"] {
        assert!(!fields.has(name), "{name} is written: {fields:?}");
    }
}

#[tokio::test]
async fn the_host_of_an_absolute_target_is_what_the_origin_gets() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET http://shop.test:8080/x HTTP/1.1\r\nHost: shop.test:8080\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert_eq!(
        (origin.last().target.as_str(), origin.last().fields.get("host")),
        ("/x", Some("shop.test:8080"))
    );
    let mut old = Raw::connect(&edge).await;
    old.send("GET http://old.test/y HTTP/1.0\r\n\r\n").await;
    assert_eq!(old.response().await.status, 200);
    assert_eq!((origin.last().target.as_str(), origin.last().fields.get("host")), ("/y", Some("old.test")));
}
