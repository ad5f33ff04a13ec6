//! What becomes of a request when its stream or its connection to a target ends, and of targets that break the rules of
//! HTTP/2 or say nothing.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;

use crate::http2_upstream::{before, echo};
use crate::support::h2_origin::frame;
use crate::support::{Call, Client, Edge, End, Findings, Gate, H2Origin, Origin, Raw, eventually};

const H2: &str = "protocol = \"h2\"";
const FAILURES: &str = "selvedge_target_failures_total";

#[tokio::test]
async fn after_a_goaway_what_is_under_way_ends_there_and_the_next_request_takes_another_connection() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = H2Origin::start(move |mut call| {
        let gate = held.clone();
        async move {
            call.read().await;
            if call.path() == "/slow" {
                gate.pass().await;
            }
            call.answer(200, &[], call.connection.to_string().as_bytes());
        }
    })
    .await;
    let edge = before(&origin).start().await;
    let mut client = Client::of(&edge);
    let slow = tokio::spawn(async move { client.get("/slow").await.text() });
    origin.received(1).await;
    origin.go_away();
    let mut other = Client::of(&edge);
    eventually("requests to go elsewhere", async || other.post("/", b"x").await.text() == "2").await;
    gate.open();
    assert_eq!(slow.await.unwrap(), "1");
    assert_eq!(edge.metric(FAILURES).await, 0);
}

/// What a raw origin sends first, and what it reads of a client before its first frame.
async fn preface(conn: &mut crate::support::Conn) {
    conn.send(frame(4, 0, 0, b"")).await;
    let _ = conn.exactly(24).await;
}

/// The next frame: kind, flags, stream.
async fn next_frame(conn: &mut crate::support::Conn) -> Option<(u8, u8, u32)> {
    let head = conn.exactly(9).await.ok()?;
    let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
    conn.exactly(length).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]])))
}

/// Reads until the head of a request has come; its stream.
async fn next_request(conn: &mut crate::support::Conn) -> Option<u32> {
    loop {
        if let (1, _, stream) = next_frame(conn).await? {
            return Some(stream);
        }
    }
}

/// `:status: 200` and nothing else, as the only head of an answer, which ends with it.
fn ok(stream: u32) -> Vec<u8> {
    frame(1, 0x5, stream, &[0x88])
}

#[tokio::test]
async fn a_post_that_a_goaway_does_not_count_is_sent_again_to_the_same_target() {
    let origin = Origin::raw(async |mut conn| {
        preface(&mut conn).await;
        while let Some(stream) = next_request(&mut conn).await {
            if conn.number == 1 && stream > 1 {
                // The stream before it was the last.
                conn.send(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0])).await;
                continue;
            }
            conn.send(ok(stream)).await;
        }
    })
    .await;
    let edge = Edge::before(&origin).pool(H2).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..3 {
        assert_eq!(client.post("/", b"order").await.status, 200);
    }
    assert_eq!(origin.connections(), 2);
    assert_eq!(edge.metric(FAILURES).await, 0, "nothing is wrong with the target");
}

#[tokio::test]
async fn a_post_on_a_refused_stream_goes_to_another_target() {
    let refusing = Origin::raw(async |mut conn| {
        preface(&mut conn).await;
        while let Some(stream) = next_request(&mut conn).await {
            conn.send(frame(3, 0, stream, &[0, 0, 0, 7])).await;
        }
    })
    .await;
    let good = H2Origin::named("good").await;
    let pool = format!("{H2}\nbalance = \"round_robin\"\noutlier.enabled = false");
    let edge = Edge::before(&refusing).target(&good).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..6 {
        assert_eq!(client.post("/", b"order").await.text(), "good");
    }
    assert!(edge.metric(&format!("{FAILURES}{{reason=\"reset\"}}")).await >= 2);
}

#[tokio::test]
async fn a_post_that_was_reset_for_another_reason_is_not_sent_again_and_a_get_is() {
    let bad = H2Origin::start(async |mut call: Call| {
        call.read().await;
        call.reset(Reason::INTERNAL_ERROR);
    })
    .await;
    let good = H2Origin::named("good").await;
    let pool = format!("{H2}\nbalance = \"round_robin\"\noutlier.enabled = false");
    let edge = Edge::before(&bad).target(&good).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    let statuses = [client.post("/", b"x").await.status, client.post("/", b"x").await.status];
    assert!(statuses == [200, 502] || statuses == [502, 200], "{statuses:?}");
    for _ in 0..4 {
        assert_eq!(client.get("/").await.text(), "good");
    }
}

#[tokio::test]
async fn an_answer_that_is_reset_never_looks_complete() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        let fields: &[_] = if call.path() == "/length" { &[("content-length", "10")] } else { &[] };
        let mut sending = call.head(200, fields, false);
        sending.send_data(Bytes::from_static(b"half"), false).unwrap();
        sending.reserve_capacity(1);
        let _ = std::future::poll_fn(|cx| sending.poll_capacity(cx)).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let no_error = call.path() == "/no-error";
        sending.send_reset(if no_error { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR });
    })
    .await;
    let edge = before(&origin).start().await;
    for path in ["/", "/length", "/no-error"] {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        let cut = raw.cut().await;
        assert_eq!((cut.body.as_slice(), cut.end), (&b"half"[..], End::Reset), "{path}");
    }
    assert_eq!(edge.metric(&format!("{FAILURES}{{reason=\"reset\"}}")).await, 3);
    assert_eq!(origin.connections(), 1, "the other streams are not touched");
}

#[tokio::test]
async fn a_connection_that_dies_ends_all_its_answers_and_what_was_not_begun_is_sent_again() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        if call.path() == "/begun" {
            let mut sending = call.head(200, &[], false);
            sending.send_data(Bytes::from_static(b"half"), false).unwrap();
            return std::future::pending().await;
        }
        if call.connection == 1 {
            return std::future::pending().await;
        }
        call.answer(200, &[], b"again");
    })
    .await;
    let edge = before(&origin).start().await;
    let (mut begun, mut waiting) = (Raw::connect(&edge).await, Raw::connect(&edge).await);
    begun.send("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n").await;
    waiting.send("GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n").await;
    origin.received(2).await;
    assert_eq!(begun.head().await.unwrap().status(), 200);
    origin.cut();
    let _ = begun.until_end().await;
    assert_eq!(waiting.response().await.text(), "again");
    assert_eq!(origin.connections(), 2);
}

#[tokio::test]
async fn answers_that_may_not_be_passed_on_are_not() {
    let mut findings = Findings::default();
    let literal = |name: &str, value: &[u8]| {
        [&[0x00, name.len() as u8], name.as_bytes(), &[value.len() as u8], value].concat()
    };
    let with = |name: &str, value: &[u8]| [vec![0x88], literal(name, value)].concat();
    let many: Vec<u8> = std::iter::once(0x88).chain((0..300).flat_map(|_| literal("x-a", b"b"))).collect();
    for (what, block, data) in [
        ("Connection", with("connection", b"close"), None),
        ("Transfer-Encoding", with("transfer-encoding", b"chunked"), None),
        ("a CR in a value", with("x-a", b"a\rb"), None),
        ("a NUL in a value", with("x-a", b"a\0b"), None),
        ("a space before a value", with("x-a", b" b"), None),
        ("a name in upper case", with("X-A", b"b"), None),
        ("no status", literal("x-a", b"b"), None),
        ("a status of 600", literal(":status", b"600"), None),
        ("a switch of protocols", literal(":status", b"101"), None),
        ("a length that is no number", with("content-length", b"-1"), Some(&b"body"[..])),
        (
            "two lengths",
            [with("content-length", b"4"), literal("content-length", b"5")].concat(),
            Some(b"body"),
        ),
        ("too many fields", many, None),
    ] {
        let ended = data.is_none();
        let answer = move |stream| {
            let mut bytes = frame(1, if ended { 0x5 } else { 0x4 }, stream, &block);
            if let Some(data) = data {
                bytes.extend(frame(0, 1, stream, data));
            }
            bytes
        };
        let origin = Origin::raw(move |mut conn| {
            let answer = answer.clone();
            async move {
                preface(&mut conn).await;
                while let Some(stream) = next_request(&mut conn).await {
                    conn.send(answer(stream)).await;
                }
            }
        })
        .await;
        let edge = Edge::before(&origin).pool(&format!("{H2}\nretry.attempts = 1")).start().await;
        let answer = Client::of(&edge).try_request("POST", "/", &[], b"x").await;
        findings.expect(answer.as_ref().is_ok_and(|a| a.status == 502), || format!("{what}: {answer:?}"));
        let counted = edge.metric(&format!("{FAILURES}{{reason=\"protocol\"}}")).await;
        findings.expect(counted == 1, || format!("{what}: {counted} counted"));
    }
    findings.report();
}

#[tokio::test]
async fn a_body_of_another_length_than_was_announced_is_cut() {
    for (length, data) in [(b"3", &b"body"[..]), (b"9", b"body")] {
        let origin = Origin::raw(move |mut conn| async move {
            preface(&mut conn).await;
            while let Some(stream) = next_request(&mut conn).await {
                let block = [&[0x88, 0x0f, 0x0d, 0x01], &length[..]].concat();
                conn.send(frame(1, 0x4, stream, &block)).await.send(frame(0, 1, stream, data)).await;
            }
        })
        .await;
        let edge = Edge::before(&origin).pool(&format!("{H2}\nretry.attempts = 1")).start().await;
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        match raw.try_response("GET").await {
            // The head was not sent yet.
            Ok(answer) => assert_eq!(answer.status, 502),
            Err(cut) => assert_eq!(cut.end, End::Reset),
        }
    }
}

#[tokio::test]
async fn a_target_that_speaks_another_protocol_gets_no_request() {
    let other = Origin::raw(async |mut conn| {
        let _ = conn.some().await;
        conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
        conn.until_end().await;
    })
    .await;
    let good = H2Origin::named("good").await;
    let pool = format!("{H2}\nbalance = \"round_robin\"\noutlier.enabled = false");
    let edge = Edge::before(&other).target(&good).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..4 {
        assert_eq!(client.post("/", b"order").await.text(), "good");
    }
    assert!(edge.metric(&format!("{FAILURES}{{reason=\"protocol\"}}")).await >= 1);
}

#[tokio::test]
async fn a_target_that_is_silent_is_given_up_and_so_is_its_connection() {
    let origin = Origin::raw(async |mut conn| {
        preface(&mut conn).await;
        while let Some(stream) = next_request(&mut conn).await {
            if conn.number > 1 {
                conn.send(ok(stream)).await;
            }
        }
    })
    .await;
    let pool = format!("{H2}\ntimeouts.first_byte = \"200ms\"\nretry.attempts = 1\noutlier.enabled = false");
    let edge = Edge::before(&origin).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    // The first connection has said nothing but its settings; they may come after the request.
    eventually("another connection", async || client.get("/").await.status == 200).await;
    assert_eq!(origin.connections(), 2);
    assert!(edge.metric(&format!("{FAILURES}{{reason=\"first_byte_timeout\"}}")).await >= 1);
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut_after_its_idle_time() {
    let origin = H2Origin::start(async |mut call: Call| {
        call.read().await;
        let mut sending = call.head(200, &[], false);
        sending.send_data(Bytes::from_static(b"half"), false).unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let edge = before(&origin).pool("timeouts.idle = \"200ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.cut().await.body, b"half");
    edge.counts(&format!("{FAILURES}{{reason=\"idle_timeout\"}}"), 1).await;
}

#[tokio::test]
async fn an_answer_that_failed_is_tried_elsewhere_with_the_same_body() {
    let bad = H2Origin::start(async |mut call: Call| {
        call.read().await;
        call.answer(503, &[], b"not now");
    })
    .await;
    let good = echo().await;
    let pool = format!("{H2}\nbalance = \"round_robin\"\noutlier.enabled = false");
    let edge = Edge::before(&bad).target(&good).pool(&pool).start().await;
    let mut client = Client::of(&edge);
    let body = vec![b'x'; 60_000];
    for _ in 0..4 {
        assert_eq!(client.request("PUT", "/", &[], &body).await.body, body);
    }
    assert_eq!((bad.connections(), good.connections()), (1, 1));
}
