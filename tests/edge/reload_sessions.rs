//! What lives through a reload: requests, tunnels, sessions, and what is known of targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use serde_json::Value;

use crate::support::edge::session_keys;
use crate::support::{Client, Edge, Gate, Origin, Raw, Reply, Setup, eventually};

const STICKY: &str = "stickiness.mode = \"lb_cookie\"\nhealth.enabled = false";

fn before(origins: &[&Origin]) -> Setup {
    Edge::before_all(origins).top("watch = false\nworkers = 2").pool(STICKY)
}

async fn target(edge: &Edge, name: &str) -> Value {
    let shown: Value = serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap();
    let targets = shown["targets"].as_array().unwrap();
    targets.iter().find(|target| target["name"] == name).cloned().unwrap_or(Value::Null)
}

async fn set_state(edge: &Edge, target: &str, state: &str) {
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let path = format!("/v1/pools/shop/targets/{target}/state");
    let body = format!("{{\"state\":\"{state}\"}}");
    let answer = client.request("PUT", &path, &["Content-Type: application/json"], body.as_bytes()).await;
    assert_eq!(answer.status, 200);
}

/// Two hundred reloads, each with another configuration, while shoppers with sessions and strangers without come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_reloads_under_load_fail_nobody_and_move_nobody() {
    let origins = [Origin::named("a").await, Origin::named("b").await, Origin::named("c").await];
    let setup = |round: usize| {
        let setup = before(&[&origins[0], &origins[1], &origins[2]]);
        let setup = setup.pool(&format!("queue.length = {}\nretry.attempts = {}", 10 + round, 1 + round % 3));
        let extra = format!("[[route]]\npath = \"/extra-{round}\"\nrespond = {{ status = 204 }}\n");
        let pool = format!(
            "[pool.extra-{}]\nhealth.enabled = false\n[[pool.extra-{}.target]]\naddress = \"{}\"\n",
            round % 5,
            round % 5,
            origins[0]
        );
        setup.listener(&format!("max_fields = {}", 50 + round % 100)).and(&extra).and(&pool).text()
    };
    let edge = Arc::new(Edge::start(&setup(0)).await);
    let sockets = edge.listening(edge.web.port());
    let done = Arc::new(AtomicBool::new(false));
    let requests = Arc::new(AtomicUsize::new(0));
    let load = (0..12).map(|number| {
        let (edge, done, requests) = (edge.clone(), done.clone(), requests.clone());
        async move {
            let mut problems = Vec::new();
            let mut shopper = Client::of(&edge);
            let home = shopper.get("/").await.origin().to_owned();
            while !done.load(SeqCst) {
                // POST is never sent twice, so nothing hides a connection that was cut.
                let stranger = number % 3 == 0;
                let mut client = if stranger { Client::of(&edge) } else { Client::to(edge.web) };
                let who = if stranger { &mut client } else { &mut shopper };
                match who.try_request("POST", "/", &[], b"x").await {
                    Ok(answer) if answer.status != 200 => problems.push(format!("{}", answer.status)),
                    Ok(answer) if !stranger && answer.origin() != home => problems.push("moved".to_owned()),
                    Ok(_) => {}
                    Err(cut) => problems.push(format!("{cut:?}")),
                }
                requests.fetch_add(1, SeqCst);
            }
            if number % 3 != 0 && shopper.connects > 1 {
                problems.push(format!("{} connections", shopper.connects));
            }
            problems
        }
    });
    let load = tokio::spawn(crate::support::all(load.collect::<Vec<_>>()));
    let mut memory = 0;
    for round in 1..=200 {
        let before = requests.load(SeqCst);
        edge.becomes(&setup(round)).await;
        eventually("requests between two reloads", async || requests.load(SeqCst) >= before + 20).await;
        if round == 50 {
            memory = edge.rss();
        }
    }
    let grown = edge.rss().saturating_sub(memory);
    done.store(true, SeqCst);
    let problems: Vec<_> = load.await.unwrap().into_iter().flatten().collect();
    assert!(problems.is_empty(), "{} of {}: {:?}", problems.len(), requests.load(SeqCst), problems.first());
    assert_eq!(edge.generation().await, 201);
    assert_eq!(edge.listening(edge.web.port()), sockets);
    assert_eq!(edge.metric("selvedge_sessions_rehomed_total").await, 0);
    assert!(grown < 4 << 20, "memory grew by {grown} bytes over 150 reloads, from {memory}");
}

#[tokio::test]
async fn the_next_request_of_an_open_connection_follows_the_new_configuration() {
    let origin = Origin::start().await;
    let edge = before(&[&origin]).start().await;
    let mut client = Client::of(&edge);
    assert_eq!(client.get("/").await.status, 200);
    let route = "[[route]]\npath = \"/gone\"\nrespond = { status = 410 }\n";
    edge.becomes(&before(&[&origin]).and(route).text()).await;
    assert_eq!(client.get("/gone").await.status, 410);
    assert_eq!(client.get("/").await.origin(), "origin");
    assert_eq!((client.connects, origin.connections()), (1, 1), "connections on both sides are the same");
}

#[tokio::test]
async fn tunnels_live_on_even_when_their_route_and_pool_are_gone() {
    let chat = Origin::raw(async |mut conn| {
        conn.request().await;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await;
        while let Ok(bytes) = conn.some_patiently().await {
            conn.send(&bytes).await;
        }
    })
    .await;
    let pool = format!(
        "[[route]]\npath = \"/chat\"\npool = \"chat\"\n[pool.chat]\nhealth.enabled = false\n\
         [[pool.chat.target]]\naddress = \"{chat}\"\n"
    );
    let origin = Origin::start().await;
    let edge = before(&[&origin]).and(&pool).start().await;
    let mut tunnel = Raw::connect(&edge).await;
    tunnel
        .send("GET /chat HTTP/1.1\r\nHost: shop.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        .await;
    assert_eq!(tunnel.head().await.unwrap().status(), 101);
    let mut echoes = async |word: &str| {
        tunnel.send(word).await;
        assert_eq!(tunnel.exactly(word.len()).await.unwrap(), word.as_bytes());
    };
    echoes("before").await;
    edge.becomes(&before(&[&origin]).pool("retry.attempts = 1").and(&pool).text()).await;
    echoes("after a reload").await;
    edge.becomes(&before(&[&origin]).text()).await;
    echoes("without a route").await;
    assert_eq!(edge.metric("selvedge_tunnels_open").await, 1);
    assert_eq!(edge.metric("selvedge_requests_total{pool=\"chat\"}").await, 0, "the pool is gone");
}

#[tokio::test]
async fn a_request_in_flight_ends_as_it_began() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "finished").await;
    let edge = before(&[&origin]).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    let other = "[[route]]\nrespond = { status = 503 }\n";
    edge.becomes(&Edge::without_pool().top("watch = false").and(other).text()).await;
    assert_eq!(Client::of(&edge).get("/").await.status, 503);
    gate.open();
    let answer = raw.response().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "finished"));
    assert!(answer.fields.has("set-cookie"), "with the session it began");
    eventually("the idle connection to a pool that is gone to be closed", async || origin.open() == 0).await;
}

#[tokio::test]
async fn sessions_stay_on_their_targets_whatever_else_changes() {
    let origins = [Origin::named("a").await, Origin::named("b").await];
    let edge = before(&[&origins[0], &origins[1]]).start().await;
    let mut homes = Vec::new();
    for _ in 0..10 {
        let mut client = Client::of(&edge);
        homes.push((client.get("/").await.origin().to_owned(), client));
    }
    // Targets in another order, more of them, and another policy; the key was made by the process itself.
    let third = Origin::named("c").await;
    edge.becomes(&before(&[&third, &origins[1], &origins[0]]).pool("balance = \"round_robin\"").text()).await;
    for (home, client) in &mut homes {
        assert_eq!(client.get("/").await.origin(), *home);
        assert_eq!(client.connects, 1);
    }
    assert_eq!(edge.metric("selvedge_sessions_rehomed_total").await, 0);
}

#[tokio::test]
async fn a_removed_target_keeps_its_sessions_while_it_drains() {
    let origins = [Origin::named("a").await, Origin::named("b").await];
    let edge = before(&[&origins[0], &origins[1]]).start().await;
    let mut bound = Client::of(&edge);
    eventually("a session on a", async || {
        bound = Client::of(&edge);
        bound.get("/").await.origin() == "a"
    })
    .await;
    edge.write(&before(&[&origins[1]]).text());
    let report: Value = serde_json::from_slice(&edge.reload().await.body).unwrap();
    assert_eq!(
        report["sessions"],
        serde_json::json!([format!(
            "sessions of pool shop at -/{} (about 1 lately) move once it has drained, in 5m at the latest",
            origins[0]
        )])
    );
    for _ in 0..5 {
        assert_eq!(bound.get("/").await.origin(), "a");
        assert_eq!(Client::of(&edge).get("/").await.origin(), "b");
    }
    assert_eq!(target(&edge, &format!("-/{}", origins[0])).await["status"], "draining");
    edge.becomes(&before(&[&origins[0], &origins[1]]).text()).await;
    assert_eq!(bound.get("/").await.origin(), "a");
    assert_eq!(target(&edge, &format!("-/{}", origins[0])).await["status"], "healthy");
    assert_eq!(edge.metric("selvedge_sessions_rehomed_total").await, 0);
}

#[tokio::test]
async fn what_is_known_of_targets_and_what_the_operator_said_stays() {
    let (mut a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let checked = "stickiness.mode = \"lb_cookie\"\nhealth.path = \"/healthz\"\nhealth.interval = \"100ms\"\n\
                   health.unhealthy = 1";
    let setup = |more: &str| {
        let all = Edge::before_all(&[&a, &b, &c]).top("watch = false");
        all.pool(checked).pool(more).text()
    };
    let (first, second) = (setup(""), setup("balance = \"round_robin\""));
    // Long intervals after the reload: nothing that is shown then was found out since.
    let third = setup("balance = \"round_robin\"").replace("\"100ms\"", "\"10m\"");
    let edge = Edge::start(&first).await;
    let names = [&a, &b, &c].map(|origin| format!("-/{origin}"));
    set_state(&edge, &names[1], "drain").await;
    a.stop().await;
    eventually("a to be unhealthy", async || target(&edge, &names[0]).await["status"] == "unhealthy").await;
    let mut before = Vec::new();
    for name in &names {
        before.push(target(&edge, name).await);
    }
    for text in [&second, &third] {
        edge.becomes(text).await;
        for (name, before) in names.iter().zip(&before) {
            let after = target(&edge, name).await;
            for key in ["status", "admin", "health", "since"] {
                assert_eq!(after[key], before[key], "{key} of {name}");
            }
        }
    }
    assert_eq!(edge.admin("/readyz").await.status, 200);
    assert_eq!(Client::of(&edge).get("/").await.origin(), "c");
    // A request is counted when its last byte has gone, which its client may know a little sooner.
    edge.counts("selvedge_requests_total{pool=\"shop\"}", 1).await;
    edge.becomes(&second).await;
    assert_eq!(edge.metric("selvedge_requests_total{pool=\"shop\"}").await, 1, "counters go on");
}

#[tokio::test]
async fn ejections_and_shifts_stay_also_for_a_pool_that_is_new() {
    let (bad, good) = (Origin::replying(|_| Reply::status(500)).await, Origin::named("good").await);
    let setup = |more: &str| {
        let both =
            Setup::default().target_with(&bad, "zone = \"az-a\"").target_with(&good, "zone = \"az-b\"");
        let pool = "health.enabled = false\nbalance = \"round_robin\"\noutlier.ejection = \"10m\"\n\
                    outlier.max_ejection = \"10m\"";
        both.top("watch = false").pool(pool).and(more).text()
    };
    let edge = Edge::start(&setup("")).await;
    let name = format!("az-a/{bad}");
    eventually("the bad target to be ejected", async || {
        Client::of(&edge).get("/").await;
        target(&edge, &name).await["status"] == "ejected"
    })
    .await;
    let before = target(&edge, &name).await;
    let other = Origin::named("other").await;
    let pool = format!(
        "[[route]]\npath = \"/new\"\npool = \"new\"\n[pool.new]\nhealth.enabled = false\n\
         [[pool.new.target]]\naddress = \"{good}\"\nzone = \"az-b\"\n\
         [[pool.new.target]]\naddress = \"{other}\"\nzone = \"az-c\"\n"
    );
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let shift = b"{\"for\":\"1h\",\"force\":true}";
    let put = client.request("PUT", "/v1/zones/az-b/shift", &["Content-Type: application/json"], shift).await;
    assert_eq!(put.status, 200, "{}", put.text());
    edge.becomes(&setup(&pool)).await;
    let after = target(&edge, &name).await;
    assert_eq!((&after["status"], &after["since"]), (&before["status"], &before["since"]));
    assert_eq!(target(&edge, &format!("az-b/{good}")).await["status"], "shifted");
    for _ in 0..10 {
        assert_eq!(Client::of(&edge).get("/new").await.origin(), "other");
    }
}

#[tokio::test]
async fn checks_follow_their_new_rules() {
    let origin = Origin::start().await.route("/other", Reply::status(503));
    let setup = |path: &str| {
        let setup = Edge::before(&origin).top("watch = false");
        setup
            .pool(&format!("health.path = \"{path}\"\nhealth.interval = \"10m\"\nhealth.unhealthy = 1"))
            .text()
    };
    let edge = Edge::start(&setup("/healthz")).await;
    let name = format!("-/{origin}");
    assert_eq!(target(&edge, &name).await["status"], "healthy");
    edge.becomes(&setup("/other")).await;
    eventually("the new check to fail", async || target(&edge, &name).await["health"] == "unhealthy").await;
    edge.becomes(&Edge::before(&origin).top("watch = false").pool("health.enabled = false").text()).await;
    assert_eq!(target(&edge, &name).await["health"], "healthy", "without checks every target is");
}

#[tokio::test]
async fn a_new_pool_is_checked_first_and_the_node_stays_ready() {
    let (old, new) = (Origin::named("old").await, Origin::named("new").await);
    let edge = before(&[&old]).start().await;
    new.set_sick(true);
    let pool = format!(
        "[[route]]\npath = \"/new\"\npool = \"new\"\n[pool.new]\nhealth.path = \"/healthz\"\n\
         health.interval = \"100ms\"\nzones.panic = \"0%\"\n[[pool.new.target]]\naddress = \"{new}\"\n"
    );
    edge.becomes(&before(&[&old]).and(&pool).text()).await;
    assert_eq!(edge.admin("/readyz").await.status, 200);
    assert_eq!(Client::of(&edge).get("/").await.origin(), "old");
    let mut waiting = Client::of(&edge);
    let answer = tokio::spawn(async move { waiting.get("/new").await.origin().to_owned() });
    edge.counts("selvedge_requests_waiting{pool=\"new\"}", 1).await;
    new.set_sick(false);
    assert_eq!(answer.await.unwrap(), "new");
}

#[tokio::test]
async fn a_waiting_request_is_served_by_a_target_that_a_reload_brings() {
    let (refusing, origin) = (crate::support::Refusing::new(), Origin::named("new").await);
    let edge = Edge::before(&refusing).top("watch = false").pool("queue.timeout = \"20s\"").start().await;
    let mut client = Client::of(&edge);
    let answer = tokio::spawn(async move { client.get("/").await.origin().to_owned() });
    edge.counts("selvedge_requests_waiting", 1).await;
    let both = Edge::before(&refusing).target(&origin).top("watch = false");
    edge.becomes(&both.pool("queue.timeout = \"20s\"").text()).await;
    assert_eq!(answer.await.unwrap(), "new");
}

#[tokio::test]
async fn session_keys_are_rotated_by_reloads() {
    let folder = tempfile::tempdir().unwrap();
    let file = session_keys(&folder);
    let first = std::fs::read_to_string(&file).unwrap();
    let second = std::fs::read_to_string(session_keys(&folder)).unwrap();
    std::fs::write(&file, &first).unwrap();
    let origins = [Origin::named("a").await, Origin::named("b").await];
    let keys = format!("[session_keys]\nfile = \"{}\"\n", file.display());
    // The file of keys is watched like the configuration itself.
    let edge = Edge::before_all(&[&origins[0], &origins[1]]).pool(STICKY).and(&keys).start().await;
    let mut old = Client::of(&edge);
    let home = old.get("/").await.origin().to_owned();
    std::fs::write(&file, format!("{second}{first}")).unwrap();
    edge.counts("selvedge_config_generation", 2).await;
    assert_eq!(old.get("/").await.origin(), home, "all keys of the file open");
    let mut new = Client::of(&edge);
    let new_home = new.get("/").await.origin().to_owned();
    std::fs::write(&file, &second).unwrap();
    edge.counts("selvedge_config_generation", 3).await;
    edge.logged(&["sessions whose cookie was sealed with key", &first[..8], "end"]).await;
    assert_eq!(new.get("/").await.origin(), new_home, "the first key had sealed it");
    let verdicts = "selvedge_session_verdicts_total{verdict=\"unknown_key\"}";
    assert_eq!(edge.metric(verdicts).await, 0);
    let cookie = old.jar.clone();
    old.get("/").await;
    assert_ne!(old.jar, cookie, "a session whose key is gone is a new one");
    assert_eq!(edge.metric(verdicts).await, 1);
}

#[tokio::test]
async fn idle_limits_of_connections_to_targets_follow() {
    let origin = Origin::start().await;
    let edge = before(&[&origin]).start().await;
    let mut client = Client::of(&edge);
    client.get("/").await;
    assert_eq!(origin.open(), 1);
    edge.becomes(&before(&[&origin]).pool("keep_alive.timeout = \"10ms\"").text()).await;
    tokio::time::timeout(Duration::from_secs(10), async {
        eventually("the idle connection to be closed", async || origin.open() == 0).await;
    })
    .await
    .unwrap();
    assert_eq!(client.get("/").await.status, 200);
}
