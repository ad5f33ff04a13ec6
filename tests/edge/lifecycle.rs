//! Start and stop of a node: all or nothing at the start, nobody cut off at the end.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::wire::Wire;
use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, eventually};

const GET: &str = "GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n";

/// An origin that answers once the gate is open.
async fn held(gate: &Gate) -> Origin {
    let gate = gate.clone();
    Origin::raw(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(request) = conn.request().await {
                gate.pass().await;
                conn.send(Reply::ok("finished").bytes(&request.method)).await;
            }
        }
    })
    .await
}

async fn readyz(edge: &Edge) -> u16 {
    edge.admin("/readyz").await.status
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let mut edge = Edge::before(&origin).top("workers = 2").and("[shutdown]\nspread = \"0s\"").start().await;
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let mut raw = Raw::connect(&edge).await;
        raw.send(GET).await;
        waiting.push(raw);
    }
    origin.received(4).await;
    edge.terminate();
    eventually("/readyz to fail", async || readyz(&edge).await == 503).await;
    eventually("the listener to be closed", async || Wire::connect(edge.web, None).await.is_err()).await;
    gate.open();
    for raw in &mut waiting {
        let answer = raw.response().await;
        assert_eq!((answer.status, answer.text().as_str()), (200, "finished"));
        assert!(answer.fields.lists("connection", "close"), "{answer:?}");
        raw.closed().await;
    }
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_finishes_bodies_both_ways() {
    let gate = Gate::closed();
    let at_origin = gate.clone();
    let origin = Origin::raw(move |mut conn| {
        let gate = at_origin.clone();
        async move {
            while let Some(request) = conn.request().await {
                conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
                if request.method == "GET" {
                    gate.pass().await;
                }
                conn.send("4\r\nlast\r\n0\r\n\r\n").await;
            }
        }
    })
    .await;
    let mut edge = Edge::before(&origin).start().await;
    let (mut down, mut up) = (Raw::connect(&edge).await, Raw::connect(&edge).await);
    down.send(GET).await;
    let head = down.head().await.unwrap();
    up.send("POST / HTTP/1.1\r\nHost: shop.test\r\nContent-Length: 8\r\n\r\nhalf").await;
    eventually("half of the body at the origin", async || origin.bytes().ends_with(b"half")).await;
    edge.terminate();
    eventually("the listener to be closed", async || Wire::connect(edge.web, None).await.is_err()).await;
    up.send("rest").await;
    assert_eq!(up.response().await.text(), "firstlast");
    gate.open();
    let mut body = Vec::new();
    down.body(head.framing(Some("GET")), &mut body).await.unwrap();
    assert_eq!(body, b"firstlast");
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_idle_connections() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"20s\"").start().await;
    let mut used = Raw::connect(&edge).await;
    used.send(GET).await;
    assert_eq!(used.response().await.status, 200);
    let mut unused = Raw::connect(&edge).await;
    edge.counts("selvedge_connections_open", 2).await;
    let started = Instant::now();
    assert_eq!(edge.stop_gracefully().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(15), "it took {:?}", started.elapsed());
    used.closed().await;
    unused.closed().await;
}

#[tokio::test]
async fn clients_are_asked_to_leave_one_after_the_other() {
    let origin = Origin::start().await;
    let stop = "[shutdown]\ndeadline = \"20s\"\nspread = \"6s\"";
    let mut edge = Edge::before(&origin).and(stop).start().await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut raw = Raw::connect(&edge).await;
        raw.send(GET).await;
        assert_eq!(raw.response().await.status, 200);
        clients.spawn(async move {
            raw.closed().await;
            Instant::now()
        });
    }
    edge.terminate();
    let mut ends: Vec<_> = clients.join_all().await;
    ends.sort();
    let took = ends[29] - ends[0];
    assert!(took > Duration::from_secs(1), "all were told within {took:?}");
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_ends_at_its_deadline_whatever_is_in_flight() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"400ms\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(GET).await;
    origin.received(1).await;
    let started = Instant::now();
    assert_eq!(edge.stop_gracefully().await.code(), Some(0));
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(390) && waited < Duration::from_secs(5), "{waited:?}");
    raw.ended().await;
}

#[tokio::test]
async fn a_delay_keeps_the_listener_open_while_readyz_fails() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndelay = \"700ms\"").start().await;
    edge.terminate();
    eventually("/readyz to fail", async || readyz(&edge).await == 503).await;
    assert_eq!(edge.admin("/livez").await.status, 200);
    let answer = Client::of(&edge).get("/").await;
    assert_eq!(answer.status, 200, "nobody is refused while the news spreads");
    eventually("the listener to be closed", async || Wire::connect(edge.web, None).await.is_err()).await;
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_serves_whoever_had_connected_before_it() {
    for workers in ["workers = 1", "workers = 2"] {
        let origin = Origin::start().await;
        let mut edge = Edge::before(&origin).top(workers).start().await;
        let mut clients = Vec::new();
        for _ in 0..100 {
            let mut raw = Raw::connect(&edge).await;
            raw.send(GET).await;
            clients.push(raw);
        }
        edge.terminate();
        for raw in &mut clients {
            assert_eq!(raw.response().await.status, 200, "{workers}");
        }
        assert_eq!(edge.exit().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let gate = Gate::closed();
    let origin = held(&gate).await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndeadline = \"60s\"").start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send(GET).await;
    origin.received(1).await;
    edge.terminate();
    eventually("the listener to be closed", async || Wire::connect(edge.web, None).await.is_err()).await;
    edge.terminate();
    edge.exit().await;
    raw.ended().await;
}

#[tokio::test]
async fn a_stop_ends_tunnels_and_waiting_requests_by_its_deadline() {
    let origin = Origin::raw(async |mut conn| {
        while let Some(request) = conn.request().await {
            if request.fields.has("upgrade") {
                conn.send(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                )
                .await;
            }
            conn.ended().await;
        }
    })
    .await;
    let edge = Edge::without_pool()
        .target_with(&origin, "max_connections = 1")
        .and("[shutdown]\ndeadline = \"500ms\"")
        .start();
    let mut edge = edge.await;
    let mut tunnel = Raw::connect(&edge).await;
    tunnel
        .send("GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(tunnel.head().await.unwrap().status(), 101);
    let mut waiting = Raw::connect(&edge).await;
    waiting.send(GET).await;
    edge.counts("selvedge_requests_waiting", 1).await;
    let started = Instant::now();
    assert_eq!(edge.stop_gracefully().await.code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(5), "it took {:?}", started.elapsed());
    tunnel.ended().await;
    waiting.ended().await;
}

#[tokio::test]
async fn an_ipv6_listener_names_its_clients() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        println!("this machine has no IPv6");
        return;
    }
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin)
        .and("[[listener]]\nname = \"six\"\naddress = \"[::1]:0\"\nallow = [\"::1/128\"]\n[forwarding]\nforwarded = true")
        .start()
        .await;
    let six = edge.address_of("six").await;
    let mut wire = Wire::of(tokio::net::TcpStream::connect(six).await.unwrap());
    wire.send(GET).await;
    assert_eq!(wire.try_response("GET").await.unwrap().status, 200);
    let fields = origin.last().fields;
    assert_eq!(fields.get("x-forwarded-for"), Some("::1"));
    assert!(fields.get("forwarded").unwrap().contains("for=\"[::1]\""), "{fields:?}");
}

#[tokio::test]
async fn every_listener_serves() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin)
        .top("workers = 2")
        .and("[[listener]]\nname = \"second\"\naddress = \"127.0.0.1:0\"\nmax_head = \"1KiB\"")
        .start()
        .await;
    let second = edge.address_of("second").await;
    assert_ne!(second, edge.web);
    assert_eq!(Client::to(second).get("/").await.status, 200);
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
    let long = format!("X: {}", "x".repeat(2000));
    assert_eq!(
        Client::to(second).get_with("/", &[&long]).await.status,
        431,
        "each listener has its own bounds"
    );
    assert_eq!(Client::of(&edge).get_with("/", &[&long]).await.status, 200);
}

#[tokio::test]
async fn a_taken_port_is_one_clear_line_and_nothing_half_started() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let origin = Origin::start().await;
    for setup in [
        Edge::before(&origin).and(&format!("[[listener]]\nname = \"second\"\naddress = \"{address}\"")),
        Edge::before(&origin).and(&format!("[admin]\naddress = \"{address}\"")),
    ] {
        let (code, log) = Edge::refuses(&setup.text()).await;
        assert!(code.is_some_and(|code| code != 0), "{code:?}\n{log}");
        let about: Vec<_> = log.lines().filter(|line| line.contains(&address.to_string())).collect();
        assert_eq!(about.len(), 1, "one line about {address} expected:\n{log}");
        assert!(!log.contains("panicked"), "{log}");
    }
    assert_eq!(origin.connections(), 0);
}

#[tokio::test]
async fn a_wrong_configuration_exits_78_with_every_error() {
    let text = "[[listener]]\nname = \"web\"\naddress = \"nowhere\"\n[[route]]\npool = \"absent\"\ncolour = \"red\"\n";
    let (code, log) = Edge::refuses(text).await;
    assert_eq!(code, Some(78), "{log}");
    for part in ["selvedge.toml:3", "nowhere", "absent", "colour"] {
        assert!(log.contains(part), "{part:?} is missing in:\n{log}");
    }
}

#[tokio::test]
async fn an_unreadable_key_file_is_one_clear_line() {
    let origin = Origin::start().await;
    let setup = Edge::before(&origin).and("[session_keys]\nfile = \"/nowhere/session.keys\"");
    let (code, log) = Edge::refuses(&setup.text()).await;
    assert!(code.is_some_and(|code| code != 0), "{code:?}");
    assert_eq!(log.lines().filter(|line| line.contains("/nowhere/session.keys")).count(), 1, "{log}");
}

#[tokio::test]
async fn keys_that_nobody_configured_are_warned_about() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).pool("stickiness.mode = \"lb_cookie\"").start().await;
    edge.logged(&["WARN", "session_keys"]).await;
}
