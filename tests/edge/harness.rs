//! The harness itself, without the program: that it sees what it should see, so that a test which passes means something.

use crate::support::message::Framing;
use crate::support::wire::{End, Wire};
use crate::support::{Client, Edge, Findings, Origin, Refusing, Reply, Silent, eventually};

#[tokio::test]
async fn an_origin_answers_records_stops_and_returns() {
    let mut origin = Origin::named("a").await.route("/chunks", Reply::ok("parts").chunked());
    let mut client = Client::to(origin.address);
    assert_eq!(client.get("/").await.origin(), "a");
    assert_eq!(client.get("/chunks").await.text(), "parts");
    assert_eq!(client.post("/x", b"body").await.status, 200);
    assert_eq!((origin.count(), origin.connections(), origin.open()), (3, 1, 1));
    assert_eq!(origin.last().body, b"body");
    assert!(origin.bytes().starts_with(b"GET / HTTP/1.1\r\nHost: shop.test\r\n"));
    origin.stop().await;
    assert!(
        client.try_request("POST", "/", &[], b"").await.is_err(),
        "a stopped origin has cut its connections"
    );
    assert!(Wire::connect(origin.address, None).await.is_err(), "a stopped origin refuses connections");
    origin.resume();
    assert_eq!(client.get("/").await.origin(), "a");
    assert_eq!(client.get("/healthz").await.status, 200);
    origin.set_sick(true);
    assert_eq!(client.get("/healthz").await.status, 503);
    assert_eq!((origin.probes(), origin.count()), (2, 4));
}

#[tokio::test]
async fn an_orderly_end_and_a_reset_are_told_apart() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        if conn.number == 2 {
            conn.reset();
        }
    })
    .await;
    for end in [End::Closed, End::Reset] {
        let mut wire = Wire::connect(origin.address, None).await.unwrap();
        wire.send("GET / HTTP/1.1\r\n\r\n").await;
        assert_eq!(wire.until_end().await, (Vec::new(), end));
    }
    eventually("both to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn a_truncated_answer_is_not_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let origin = Origin::raw(move |mut conn| async move {
            conn.request().await;
            conn.send(answer).await;
        })
        .await;
        assert!(Client::to(origin.address).try_request("POST", "/", &[], b"").await.is_err(), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_is_complete_unless_it_was_reset() {
    let origin = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\n\r\nto the end").await;
    })
    .await;
    let answer = Client::to(origin.address).get("/").await;
    assert_eq!((answer.framing, answer.text().as_str()), (Framing::UntilClose, "to the end"));
}

#[tokio::test]
async fn refusing_refuses_and_silent_is_silent() {
    let (refusing, silent) = (Refusing::new(), Silent::new());
    assert!(Wire::connect(refusing.address, None).await.is_err());
    let connecting = tokio::net::TcpStream::connect(silent.address);
    assert!(crate::support::still_waiting_after(std::time::Duration::from_millis(300), connecting).await);
}

#[test]
fn findings_are_reported_together() {
    let mut findings = Findings::default();
    findings.expect(true, || "fine".to_owned());
    findings.expect(false, || "first".to_owned());
    findings.expect(false, || "second".to_owned());
    let panic = std::panic::catch_unwind(|| findings.report()).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("first") && text.contains("second") && !text.contains("fine"), "{text}");
}

#[tokio::test]
async fn whoever_has_taken_the_place_of_a_node_ends_with_the_test() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"1s\"").start().await;
    edge.is_upgraded().await;
    edge.exit().await;
    let pid = edge.successors()[0];
    assert!(std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists());
    drop(edge);
    eventually("the other process to end", async || {
        !std::path::Path::new(&format!("/proc/{pid}/fd/0")).exists()
    })
    .await;
}
