//! Who gets a request that has no session, and who waits when everybody is full.

use std::time::{Duration, Instant};

use crate::support::origin::Tally;
use crate::support::{Client, Conn, Edge, Gate, Origin, Raw, Setup, all};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// An origin that answers requests only once the gate is open, and counts them.
async fn held(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::raw(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while let Some(request) = conn.request().await {
                gate.pass().await;
                let length = request.target.len();
                conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", request.target))
                    .await;
            }
        }
    })
    .await
}

async fn weighted(weights: &[u32]) -> (Vec<Origin>, Setup) {
    let mut origins = Vec::new();
    let mut setup = Edge::without_pool().pool("balance = \"round_robin\"");
    for weight in weights {
        let origin = Origin::named(&format!("w{weight}")).await;
        setup = setup.target_with(&origin, &format!("weight = {weight}"));
        origins.push(origin);
    }
    (origins, setup)
}

#[tokio::test]
async fn round_robin_gives_every_target_exactly_its_share() {
    let (origins, setup) = weighted(&[1, 2, 3]).await;
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    for _ in 0..60 {
        client.get("/").await;
    }
    assert_eq!(origins.iter().map(Origin::count).collect::<Vec<_>>(), [10, 20, 30]);
}

#[tokio::test]
async fn round_robin_does_not_send_a_heavy_target_its_share_in_bursts() {
    let (_origins, setup) = weighted(&[5, 1, 2]).await;
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    let mut run = 0;
    for _ in 0..64 {
        run = if client.get("/").await.origin() == "w5" { run + 1 } else { 0 };
        assert!(run <= 4, "{run} requests in a row to the heaviest of 5, 1, 2");
    }
}

#[tokio::test]
async fn round_robin_shares_between_the_requests_of_all_connections() {
    let (origins, setup) = weighted(&[1, 1, 1]).await;
    let edge = setup.start().await;
    for _ in 0..30 {
        Client::of(&edge).get("/").await;
    }
    assert_eq!(origins.iter().map(Origin::count).collect::<Vec<_>>(), [10, 10, 10]);
}

#[tokio::test]
async fn a_target_of_weight_zero_gets_no_new_request() {
    let (origins, setup) = weighted(&[0, 1]).await;
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    for _ in 0..20 {
        assert_eq!(client.get("/").await.origin(), "w1");
    }
    assert_eq!(origins[0].count(), 0);
}

#[tokio::test]
async fn least_outstanding_steers_away_from_a_hung_target() {
    let gate = Gate::closed();
    let slow = held(&gate).await;
    let fast = Origin::named("fast").await;
    let edge = Edge::before_all(&[&slow, &fast]).pool("balance = \"least_outstanding\"").start().await;
    // One after the other, until some of them hang.
    let mut hanging = Vec::new();
    while slow.count() < 2 {
        let mut raw = Raw::connect(&edge).await;
        raw.send(GET).await;
        let before = slow.count() + fast.count();
        crate::support::eventually("the request at a target", async || slow.count() + fast.count() > before)
            .await;
        hanging.push(raw);
    }
    let before = slow.count();
    let mut client = Client::of(&edge);
    for _ in 0..100 {
        assert_eq!(client.get("/").await.status, 200);
    }
    assert!(slow.count() - before <= 2, "{} of 100 went to a hung target", slow.count() - before);
    gate.open();
}

#[tokio::test]
async fn least_outstanding_spreads_over_idle_targets() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let edge = Edge::before_all(&[&a, &b, &c]).pool("balance = \"least_outstanding\"").start().await;
    let mut client = Client::of(&edge);
    for _ in 0..300 {
        client.get("/").await;
    }
    for origin in [&a, &b, &c] {
        assert!(origin.count() > 50, "{} of 300 for one of three idle targets", origin.count());
    }
}

#[tokio::test]
async fn least_outstanding_respects_weights_under_load() {
    let gate = Gate::closed();
    let (one, three) = (held(&gate).await, held(&gate).await);
    let edge = Edge::without_pool()
        .pool("balance = \"least_outstanding\"")
        .target_with(&one, "weight = 1")
        .target_with(&three, "weight = 3")
        .start()
        .await;
    let mut clients = Vec::new();
    for number in 1..=40 {
        let mut raw = Raw::connect(&edge).await;
        raw.send(GET).await;
        crate::support::eventually("the request at a target", async || one.count() + three.count() == number)
            .await;
        clients.push(raw);
    }
    assert!((8..=12).contains(&one.count()), "{} of 40 in flight for weight 1 of 4", one.count());
    gate.open();
}

#[tokio::test]
async fn a_full_pool_queues_in_order_up_to_its_bound() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let edge = Edge::without_pool()
        .target_with(&origin, "max_connections = 1")
        .pool("queue.length = 3\nqueue.timeout = \"10s\"")
        .start()
        .await;
    let mut waiting = Vec::new();
    for number in 0..4 {
        let mut raw = Raw::connect(&edge).await;
        raw.send(format!("GET /{number} HTTP/1.1\r\nHost: shop.test\r\n\r\n")).await;
        if number == 0 {
            origin.received(1).await;
        }
        edge.counts("selvedge_requests_waiting", number).await;
        waiting.push(raw);
    }
    let answer = Client::of(&edge).get("/too-many").await;
    assert_eq!(answer.status, 503);
    assert!(answer.fields.get("retry-after").is_some_and(|after| after.parse::<u32>().is_ok()), "{answer:?}");
    edge.counts("selvedge_queue_refused_total", 1).await;
    gate.open();
    for (number, raw) in waiting.iter_mut().enumerate() {
        assert_eq!(raw.response().await.text(), format!("/{number}"));
    }
    let order: Vec<_> = origin.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(order, ["/0", "/1", "/2", "/3"]);
    edge.counts("selvedge_queue_entered_total", 3).await;
    edge.counts("selvedge_requests_waiting", 0).await;
}

#[tokio::test]
async fn a_place_in_the_queue_ends_with_its_deadline() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let edge = Edge::without_pool()
        .target_with(&origin, "max_connections = 1")
        .pool("queue.length = 5\nqueue.timeout = \"300ms\"")
        .start()
        .await;
    let mut first = Raw::connect(&edge).await;
    first.send(GET).await;
    origin.received(1).await;
    let started = Instant::now();
    let answer = Client::of(&edge).get("/late").await;
    let waited = started.elapsed();
    assert_eq!(answer.status, 503);
    assert!(answer.fields.has("retry-after"), "{answer:?}");
    assert!(waited >= Duration::from_millis(290) && waited < Duration::from_secs(5), "{waited:?}");
    edge.counts("selvedge_queue_refused_total", 1).await;
    gate.open();
    assert_eq!(first.response().await.status, 200);
    assert_eq!(Client::of(&edge).get("/next").await.status, 200);
}

#[tokio::test]
async fn a_queue_of_length_zero_refuses_at_once() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let edge = Edge::without_pool()
        .target_with(&origin, "max_connections = 1")
        .pool("queue.length = 0")
        .start()
        .await;
    let mut first = Raw::connect(&edge).await;
    first.send(GET).await;
    origin.received(1).await;
    assert_eq!(Client::of(&edge).get("/").await.status, 503);
    gate.open();
}

#[tokio::test]
async fn max_connections_holds_over_all_workers() {
    let tally = Tally::default();
    let most = tally.clone();
    let origin = Origin::raw(move |mut conn: Conn| {
        let tally = tally.clone();
        async move {
            while conn.request().await.is_some() {
                let now = tally.add("started") - tally.of("ended");
                tally.add(&format!("at {now}"));
                for _ in 0..20 {
                    tokio::task::yield_now().await;
                }
                tally.add("ended");
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let edge = Edge::without_pool()
        .top("workers = 2")
        .target_with(&origin, "max_connections = 3")
        .pool("queue.timeout = \"10s\"")
        .start()
        .await;
    let clients = (0..20).map(|_| {
        let mut client = Client::of(&edge);
        async move {
            for _ in 0..25 {
                assert_eq!(client.get("/").await.status, 200);
            }
        }
    });
    all(clients).await;
    assert_eq!(origin.count(), 500);
    for more in 4..20 {
        assert_eq!(most.of(&format!("at {more}")), 0, "{more} requests at once at a target that takes 3");
    }
    edge.counts("selvedge_requests_waiting", 0).await;
}
