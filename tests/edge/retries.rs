//! What is tried again, where, and how often; and what is never sent twice.

use crate::support::origin::Tally;
use crate::support::{Client, Conn, Edge, Gate, Origin, Raw, Refusing, Reply, Setup, eventually};

const ROUND_ROBIN: &str = "balance = \"round_robin\"";

/// An origin that reads each request to its end and then resets the connection.
async fn resetting() -> Origin {
    Origin::raw(async |mut conn: Conn| {
        if conn.request().await.is_some() {
            conn.reset();
        }
    })
    .await
}

/// Two targets in turn.
fn in_turn(bad: &Origin, good: &Origin) -> Setup {
    Edge::before_all(&[bad, good]).pool(ROUND_ROBIN)
}

#[tokio::test]
async fn a_refused_connection_goes_elsewhere_for_every_method() {
    let refusing = Refusing::new();
    let origin = Origin::named("good").await;
    let edge = Edge::before(&refusing).target(&origin).pool(ROUND_ROBIN).start().await;
    let mut client = Client::of(&edge);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
        for _ in 0..4 {
            let answer = client.request(method, "/", &[], b"body").await;
            assert_eq!((answer.status, answer.origin()), (200, "good"), "{method}");
        }
    }
    assert_eq!(origin.count(), 20);
    assert!(edge.metric("selvedge_target_failures_total{reason=\"connect\"}").await > 0);
}

#[tokio::test]
async fn a_refused_connection_does_not_count_as_an_attempt() {
    let refusing: Vec<_> = (0..5).map(|_| Refusing::new()).collect();
    let origin = Origin::named("good").await;
    let setup = refusing.iter().fold(Setup::default(), Setup::target).target(&origin);
    let edge = setup.pool(&format!("{ROUND_ROBIN}\nretry.attempts = 2")).start().await;
    for _ in 0..12 {
        assert_eq!(Client::of(&edge).post("/", b"body").await.status, 200);
    }
}

#[tokio::test]
async fn a_large_body_also_goes_elsewhere_when_the_connection_is_refused() {
    let refusing = Refusing::new();
    let origin = Origin::replying(|request| Reply::ok(request.body.len().to_string())).await;
    let edge = Edge::before(&refusing).target(&origin).pool(ROUND_ROBIN).start().await;
    let body = vec![b'x'; 300_000];
    for _ in 0..4 {
        assert_eq!(Client::of(&edge).post("/", &body).await.text(), "300000");
    }
}

#[tokio::test]
async fn when_every_connection_is_refused_the_client_gets_an_error_in_time() {
    let (a, b) = (Refusing::new(), Refusing::new());
    let edge = Edge::before(&a).target(&b).pool("queue.timeout = \"300ms\"").start().await;
    for _ in 0..3 {
        let answer = Client::of(&edge).get("/").await;
        assert!(matches!(answer.status, 502 | 503), "{answer:?}");
    }
}

#[tokio::test]
async fn a_get_without_an_answer_goes_elsewhere() {
    let (bad, good) = (resetting().await, Origin::named("good").await);
    let edge = in_turn(&bad, &good).start().await;
    let mut client = Client::of(&edge);
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        for _ in 0..4 {
            let answer = client.request(method, "/", &[], b"").await;
            assert_eq!((answer.status, answer.origin()), (200, "good"), "{method}");
        }
    }
    assert!(bad.count() >= 5, "the bad target was hardly asked: {}", bad.count());
    let retries = edge.metric("selvedge_retries_total").await;
    assert_eq!(retries, bad.count() as u64, "every failed attempt was followed by one retry");
    assert_eq!(edge.metric("selvedge_target_failures_total{reason=\"reset\"}").await, bad.count() as u64);
}

#[tokio::test]
async fn a_get_answered_with_nonsense_goes_elsewhere() {
    let bad = Origin::answering("nonsense\r\n\r\n").await;
    let good = Origin::named("good").await;
    let edge = in_turn(&bad, &good).start().await;
    for _ in 0..6 {
        assert_eq!(Client::of(&edge).get("/").await.origin(), "good");
    }
}

#[tokio::test]
async fn a_post_that_was_read_is_never_sent_twice() {
    let (bad, good) = (resetting().await, Origin::named("good").await);
    let edge = in_turn(&bad, &good).start().await;
    let mut statuses = Vec::new();
    for number in 0..20 {
        let answer = Client::of(&edge).post(&format!("/{number}"), b"body").await;
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), bad.count());
    assert!(bad.count() >= 5);
    let mut seen: Vec<_> = bad.requests().into_iter().chain(good.requests()).map(|r| r.target).collect();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), bad.count() + good.count()), (20, 20), "some POST came twice");
}

#[tokio::test]
async fn a_post_on_a_kept_connection_that_dies_is_never_sent_twice() {
    // The first request of each connection is answered, the second is read and then reset.
    let script = async |mut conn: Conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        if conn.request().await.is_some() {
            conn.reset();
        }
    };
    let (a, b) = (Origin::raw(script).await, Origin::raw(script).await);
    let edge = Edge::before_all(&[&a, &b]).start().await;
    let mut client = Client::of(&edge);
    for number in 0..20 {
        let answer = client.post(&format!("/{number}"), b"body").await;
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
    }
    let mut seen: Vec<_> = a.requests().into_iter().chain(b.requests()).map(|r| r.target).collect();
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!((seen.len(), all), (20, 20), "some POST came twice");
}

#[tokio::test]
async fn a_post_with_an_idempotency_key_goes_elsewhere() {
    let (bad, good) = (resetting().await, Origin::named("good").await);
    let edge = in_turn(&bad, &good).start().await;
    for number in 0..10 {
        let key = format!("Idempotency-Key: {number}");
        let answer = Client::of(&edge).request("POST", "/", &[&key], b"body").await;
        assert_eq!((answer.status, answer.origin()), (200, "good"));
    }
    assert!(bad.count() >= 3);
    assert!(good.requests().iter().all(|request| request.body == b"body"));
}

#[tokio::test]
async fn a_body_up_to_the_bound_is_replayed_byte_for_byte() {
    let (bad, good) = (resetting().await, Origin::named("good").await);
    let edge = in_turn(&bad, &good).start().await;
    let body: Vec<u8> = (0..60 * 1024u32).map(|n| (n % 251) as u8).collect();
    for _ in 0..4 {
        assert_eq!(Client::of(&edge).request("PUT", "/", &[], &body).await.origin(), "good");
    }
    let mut raw = Raw::connect(&edge).await;
    raw.send("PUT / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await;
    for part in body.chunks(1000) {
        raw.send(format!("{:x}\r\n", part.len())).await.send(part).await.send("\r\n").await;
    }
    raw.send("0\r\n\r\n").await;
    assert_eq!(raw.response().await.status, 200);
    assert!(bad.count() >= 2);
    assert!(good.requests().iter().all(|request| request.body == body));
}

#[tokio::test]
async fn a_body_beyond_the_bound_is_not_sent_again() {
    let (bad, good) = (resetting().await, Origin::named("good").await);
    let edge = in_turn(&bad, &good).start().await;
    let body = vec![b'x'; 200 * 1024];
    let mut failed = 0;
    for _ in 0..6 {
        let answer = Client::of(&edge).request("PUT", "/", &[], &body).await;
        assert!(matches!(answer.status, 200 | 502), "{answer:?}");
        failed += usize::from(answer.status == 502);
    }
    assert!(
        failed >= 2 && failed == bad.count(),
        "{failed} failed, {} were read by the bad target",
        bad.count()
    );
    assert!(good.requests().iter().all(|request| request.body == body), "a part of a body was sent");
}

#[tokio::test]
async fn attempts_are_bounded() {
    let (a, b) = (resetting().await, resetting().await);
    let edge = in_turn(&a, &b).start().await;
    for number in 1..=4 {
        assert_eq!(Client::of(&edge).get("/").await.status, 502);
        assert_eq!(a.count() + b.count(), number * 3, "three attempts by default");
    }
    let edge = in_turn(&a, &b).pool("retry.attempts = 1").start().await;
    assert_eq!(Client::of(&edge).get("/").await.status, 502);
    assert_eq!(a.count() + b.count(), 13);
}

#[tokio::test]
async fn retries_go_to_another_zone_when_they_can() {
    let (bad, near, far) = (resetting().await, resetting().await, Origin::named("far").await);
    let edge = Edge::without_pool()
        .pool(&format!("{ROUND_ROBIN}\nretry.attempts = 2"))
        .target_with(&bad, "zone = \"az-a\"")
        .target_with(&near, "zone = \"az-a\"")
        .target_with(&far, "zone = \"az-b\"")
        .start()
        .await;
    for _ in 0..12 {
        let answer = Client::of(&edge).get("/").await;
        assert_eq!((answer.status, answer.origin()), (200, "far"));
    }
}

#[tokio::test]
async fn the_budget_bounds_retries_in_flight() {
    // The first attempt of each path is reset; the second waits at the gate.
    let (gate, tally) = (Gate::closed(), Tally::default());
    let script = |gate: Gate, tally: Tally| {
        move |mut conn: Conn| {
            let (gate, tally) = (gate.clone(), tally.clone());
            async move {
                while let Some(request) = conn.request().await {
                    if tally.add(&request.target) == 1 {
                        return conn.reset();
                    }
                    gate.pass().await;
                    conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        }
    };
    let a = Origin::raw(script(gate.clone(), tally.clone())).await;
    let b = Origin::raw(script(gate.clone(), tally.clone())).await;
    let edge = in_turn(&a, &b).pool("retry.budget = \"0%\"\nretry.budget_min = 1").start().await;
    let mut first = Raw::connect(&edge).await;
    first.send("GET /first HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    eventually("the first retry", async || tally.of("/first") == 2).await;
    assert_eq!(Client::of(&edge).get("/second").await.status, 502);
    assert_eq!(tally.of("/second"), 1, "a second retry was in flight");
    edge.counts("selvedge_retries_refused_total", 1).await;
    gate.open();
    assert_eq!(first.response().await.status, 200);
    assert_eq!(Client::of(&edge).get("/third").await.status, 200, "the budget was not given back");
    edge.counts("selvedge_retries_in_flight", 0).await;
}

#[tokio::test]
async fn a_get_that_waits_in_vain_for_its_first_byte_goes_elsewhere() {
    let hung = Origin::raw(async |mut conn: Conn| {
        conn.request().await;
        conn.idle().await.ok();
    })
    .await;
    let good = Origin::named("good").await;
    let edge =
        in_turn(&hung, &good).pool("timeouts.first_byte = \"200ms\"\noutlier.enabled = false").start().await;
    for _ in 0..4 {
        assert_eq!(Client::of(&edge).get("/").await.origin(), "good");
    }
    assert!(hung.count() >= 1);
    let before = good.count();
    let mut timed_out = 0;
    for _ in 0..4 {
        timed_out += usize::from(Client::of(&edge).post("/", b"x").await.status == 504);
    }
    assert_eq!(timed_out + good.count() - before, 4);
    assert!(timed_out >= 1, "no POST came to the hung target");
}

#[tokio::test]
async fn a_gateway_error_of_a_target_is_tried_elsewhere() {
    for status in [500, 502, 503, 504] {
        let bad = Origin::replying(move |_| Reply::status(status).field("X-Origin: bad")).await;
        let good = Origin::named("good").await;
        let edge = in_turn(&bad, &good).pool("outlier.enabled = false").start().await;
        for _ in 0..6 {
            assert_eq!(Client::of(&edge).get("/").await.origin(), "good", "{status}");
        }
        assert!(bad.count() >= 2);
        let before = bad.count();
        for _ in 0..6 {
            let answer = Client::of(&edge).post("/", b"x").await;
            let expected = if answer.origin() == "bad" { status } else { 200 };
            assert_eq!(answer.status, expected, "a POST gets what its target answered");
        }
        assert!(bad.count() > before);
    }
}

#[tokio::test]
async fn a_status_that_is_not_listed_is_passed_on() {
    let origins = [501, 404, 429].map(|status| Origin::replying(move |_| Reply::status(status)));
    for (origin, status) in origins.into_iter().zip([501, 404, 429]) {
        let bad = origin.await;
        let edge = Edge::before(&bad).start().await;
        assert_eq!(Client::of(&edge).get("/").await.status, status);
        assert_eq!(bad.count(), 1);
    }
}

#[tokio::test]
async fn when_every_target_answers_503_the_client_gets_that_answer() {
    let bad = |name: &'static str| {
        Origin::replying(move |_| {
            Reply::status(503).field(&format!("X-Origin: {name}")).field("Retry-After: 7")
        })
    };
    let (a, b) = (bad("a").await, bad("b").await);
    let edge = in_turn(&a, &b).start().await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!((answer.status, answer.fields.get("retry-after")), (503, Some("7")));
    assert!(a.count() + b.count() <= 3);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_tried_again() {
    let bad = Origin::raw(async |mut conn: Conn| {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    })
    .await;
    let edge = Edge::before(&bad).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    assert_eq!(raw.cut().await.body, b"hello");
    assert_eq!(bad.count(), 1);
}

#[tokio::test]
async fn a_websocket_handshake_that_is_refused_goes_elsewhere() {
    let refusing = Refusing::new();
    let origin = Origin::raw(async |mut conn: Conn| {
        conn.request().await;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi")
            .await;
        conn.ended().await;
    })
    .await;
    let edge = Edge::before(&refusing).target(&origin).pool(ROUND_ROBIN).start().await;
    for _ in 0..4 {
        let mut raw = Raw::connect(&edge).await;
        raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n").await;
        assert_eq!(raw.head().await.unwrap().status(), 101);
        assert_eq!(raw.exactly(2).await.unwrap(), b"hi");
    }
}
