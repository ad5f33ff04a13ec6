//! Counters are exact: they add up to what the clients and the origins counted themselves.

use std::collections::BTreeMap;

use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, all, eventually};

/// Requests of each client: a multiple of the kinds.
const REQUESTS: usize = 96;
const CLIENTS: usize = 8;

/// What one client counted.
#[derive(Default)]
struct Counted {
    /// Answers by class of status, of requests that reached the pool.
    classes: BTreeMap<char, u64>,
    /// Requests refused before that, by reason.
    refused: BTreeMap<&'static str, u64>,
    bodies: u64,
}

/// An origin that answers what the path asks for, and ends the connection without an answer every third time it is asked for `/lost`.
async fn origin(name: &'static str, gate: Gate) -> Origin {
    Origin::raw(move |mut conn| {
        let gate = gate.clone();
        async move {
            let mut lost = conn.number;
            while let Some(request) = conn.request().await {
                let answer = match request.target.as_str() {
                    "/shop/missing" => Reply::status(404),
                    "/shop/moved" => Reply::status(302),
                    "/shop/broken" => Reply::status(503),
                    "/shop/lost" => {
                        lost += 1;
                        if lost % 3 == 0 {
                            return conn.reset();
                        }
                        Reply::ok(name)
                    }
                    "/shop/held" => {
                        gate.pass().await;
                        Reply::ok(name)
                    }
                    _ => Reply::ok(name).chunked(),
                };
                if conn.try_send(answer.bytes(&request.method)).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

/// Asks for everything in turn.
async fn load(web: std::net::SocketAddr, first: usize) -> Counted {
    let mut client = Client::to(web);
    let mut counted = Counted::default();
    for index in first..first + REQUESTS {
        let (status, reason) = match index % 8 {
            0 => (client.get("/shop/missing").await.status, ""),
            1 => (client.get("/shop/moved").await.status, ""),
            2 => (client.get("/shop/broken").await.status, ""),
            3 => (client.get("/shop/lost").await.status, ""),
            4 => {
                counted.bodies += 9;
                (client.post("/shop/cart", b"one shirt").await.status, "")
            }
            5 => (client.get("/elsewhere").await.status, "no_route"),
            6 => {
                let mut raw = Raw::to(web).await;
                raw.send("GET /shop HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").await;
                (raw.response().await.status, "host")
            }
            _ => (client.get("/shop").await.status, ""),
        };
        if reason.is_empty() {
            let class = status.to_string().chars().next().unwrap();
            *counted.classes.entry(class).or_default() += 1;
        } else {
            *counted.refused.entry(reason).or_default() += 1;
        }
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_add_up_to_what_clients_and_origins_counted() {
    let gate = Gate::closed();
    let origins = [origin("a", gate.clone()).await, origin("b", gate.clone()).await];
    let edge = Edge::before_all(&[&origins[0], &origins[1]])
        .top("workers = 2")
        .route("path = \"/shop\"")
        .pool("outlier.enabled = false\nzones.gray.enabled = false\nstickiness.mode = \"lb_cookie\"")
        .start()
        .await;

    // Two clients leave before they are answered.
    let mut leaving = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::to(edge.web).await;
        raw.send("GET /shop/held HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
        leaving.push(raw);
    }
    eventually("both to be held", async || origins[0].count() + origins[1].count() == 2).await;
    drop(leaving);
    edge.counts("selvedge_requests_abandoned_total", 2).await;

    let counted = all((0..CLIENTS).map(|client| load(edge.web, client))).await;
    let sum = |of: &dyn Fn(&Counted) -> u64| counted.iter().map(of).sum::<u64>();
    let reached = sum(&|counted| counted.classes.values().sum());
    let refused = sum(&|counted| counted.refused.values().sum());
    assert_eq!(reached + refused, (REQUESTS * CLIENTS) as u64, "every request was answered");
    assert_eq!(refused, (REQUESTS * CLIENTS / 4) as u64);

    edge.counts("selvedge_requests_in_flight", 0).await;
    for class in ['1', '2', '3', '4', '5'] {
        let here = sum(&|counted| counted.classes.get(&class).copied().unwrap_or(0));
        edge.counts(&format!("selvedge_requests_total{{class=\"{class}xx\"}}"), here).await;
    }
    for reason in ["no_route", "host"] {
        let here = sum(&|counted| counted.refused.get(reason).copied().unwrap_or(0));
        assert!(here > 0, "{reason}");
        edge.counts(&format!("selvedge_refusals_total{{reason=\"{reason}\"}}"), here).await;
    }
    edge.counts("selvedge_refusals_total", refused).await;
    edge.counts("selvedge_requests_received_total", reached + refused + 2).await;
    // Requests whose client left count until then.
    edge.counts("selvedge_request_duration_seconds_count", reached + 2).await;
    edge.counts("selvedge_session_verdicts_total", reached + 2).await;

    // What the origins saw: one request for each attempt, and the first attempt of each request is no retry.
    let seen = (origins[0].count() + origins[1].count()) as u64;
    let retries = edge.metric("selvedge_retries_total").await;
    assert!(retries > 0, "something was tried again");
    edge.counts("selvedge_target_attempts_total", seen).await;
    assert_eq!(seen, reached + 2 + retries);
    for origin in &origins {
        let of_this = format!("selvedge_target_attempts_total{{target=\"{}\"}}", origin.address);
        edge.counts(&of_this, origin.count() as u64).await;
    }
    let answers = edge.metric("selvedge_target_responses_total").await;
    let failures = edge.metric("selvedge_target_failures_total").await;
    assert!(failures > 0, "some connections were lost");
    assert_eq!(answers + failures + 2, seen, "each attempt has an answer, or a failure, or was given up");
    let sent: usize = origins.iter().flat_map(Origin::requests).map(|request| request.body.len()).sum();
    assert_eq!(edge.metric("selvedge_target_sent_bytes_total").await, sent as u64);
    assert_eq!(sent as u64, sum(&|counted| counted.bodies));
    assert_eq!(edge.metric("selvedge_panics_total").await, 0);
}
