//! Bonds that end, return, or belong to a group: failback, application cookies, weighted pools, circuit breaking, hashes.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Client, Conn, Edge, Gate, Origin, Reply, eventually};

const CHECKED: &str =
    "health.path = \"/healthz\"\nhealth.interval = \"150ms\"\nhealth.healthy = 1\nzones.panic = \"0%\"";

async fn healthy(edge: &Edge, count: u64) {
    edge.counts("selvedge_target_status{status=\"healthy\"}", count).await;
}

/// A client whose session is on the origin of this name.
async fn session_on(edge: &Edge, name: &str) -> Client {
    let mut found = None;
    eventually("a session on the target", async || {
        let mut client = Client::of(edge);
        let there = client.get("/").await.origin() == name;
        found = Some(client).filter(|_| there);
        there
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn a_session_that_moved_returns_as_failback_says() {
    for (failback, returns) in [("never", false), ("always", true)] {
        let (mut home, other) = (Origin::named("home").await, Origin::named("other").await);
        let pool = format!("stickiness.mode = \"lb_cookie\"\nstickiness.failback = {failback:?}");
        let edge = Edge::before_all(&[&home, &other]).pool(CHECKED).pool(&pool).start().await;
        let mut client = session_on(&edge, "home").await;
        home.stop().await;
        edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
        assert_eq!(client.get("/").await.origin(), "other");
        home.resume();
        healthy(&edge, 2).await;
        let expected = if returns { "home" } else { "other" };
        for _ in 0..3 {
            assert_eq!(client.get("/").await.origin(), expected, "failback = {failback}");
        }
    }
}

#[tokio::test]
async fn an_idle_session_returns_after_a_pause_and_a_busy_one_stays() {
    let (mut home, other) = (Origin::named("home").await, Origin::named("other").await);
    // A pause of more than a fifth of this is long enough.
    let pool = "stickiness.mode = \"lb_cookie\"\nstickiness.failback = \"idle\"\nstickiness.idle = \"10s\"";
    let edge = Edge::before_all(&[&home, &other]).pool(CHECKED).pool(pool).start().await;
    let (mut idle, mut busy) = (session_on(&edge, "home").await, session_on(&edge, "home").await);
    home.stop().await;
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
    assert_eq!((idle.get("/").await.origin(), busy.get("/").await.origin()), ("other", "other"));
    home.resume();
    healthy(&edge, 2).await;
    // The busy session is told anew every two seconds: after three times, the idle one has paused for six.
    let mut told = BTreeSet::new();
    eventually("some new cookies", async || {
        assert_eq!(busy.get("/").await.origin(), "other");
        told.insert(busy.jar["SELVEDGE"].clone());
        told.len() > 3
    })
    .await;
    assert_eq!(idle.get("/").await.origin(), "home");
}

/// An application that begins its own session at `/login` and ends it at `/logout`.
async fn application(name: &str) -> Origin {
    let name = name.to_owned();
    Origin::replying(move |request| {
        let reply = Reply::ok(&name).field(&format!("X-Origin: {name}"));
        match request.target.as_str() {
            "/login" => reply.field("Set-Cookie: sid=42; Path=/; HttpOnly"),
            "/logout" => reply.field("Set-Cookie: sid=; Path=/; Max-Age=0"),
            "/expire" => reply.field("Set-Cookie: sid=42; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT"),
            _ => reply,
        }
    })
    .await
}

#[tokio::test]
async fn a_bond_lives_as_long_as_the_applications_session() {
    let origins = [application("one").await, application("two").await, application("three").await];
    let pool = "stickiness.mode = \"app_cookie\"\nstickiness.application_cookie = \"sid\"";
    let edge = Edge::before_all(&origins.iter().collect::<Vec<_>>()).pool(pool).start().await;
    for end in ["/logout", "/expire", "the client forgets it"] {
        let mut client = Client::of(&edge);
        assert_eq!(client.get("/").await.set_cookie("SELVEDGE"), None, "no session yet");
        let answer = client.get("/login").await;
        let home = answer.origin().to_owned();
        assert!(answer.set_cookie("SELVEDGE").is_some() && answer.set_cookie("sid").is_some());
        for _ in 0..10 {
            let answer = client.get("/").await;
            assert_eq!((answer.origin(), answer.set_cookie("SELVEDGE")), (&*home, None));
        }
        if end.starts_with('/') {
            let answer = client.get(end).await;
            assert_eq!(answer.origin(), home);
            assert!(answer.set_cookie("SELVEDGE").unwrap().contains("Max-Age=0"), "{end}");
        }
        client.jar.remove("sid");
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            seen.insert(client.get("/").await.origin().to_owned());
        }
        assert!(seen.len() > 1, "{end}: still bound to {seen:?}");
    }
    let request = origins.iter().flat_map(Origin::requests).find(|request| !request.cookies().is_empty());
    assert_eq!(request.unwrap().cookies(), ["sid=42"], "the application sees its own cookie only");
}

const GROUPS: &str =
    "[[route]]\npools = [{ pool = \"blue\", weight = 1 }, { pool = \"green\", weight = 1 }]\n";

fn groups(blue: &Origin, green: &Origin) -> String {
    let pool = |name: &str, origin: &Origin| {
        format!(
            "[pool.{name}]\nstickiness.mode = \"lb_cookie\"\n{CHECKED}\n[[pool.{name}.target]]\naddress = \"{origin}\"\n"
        )
    };
    format!("{GROUPS}{}{}", pool("blue", blue), pool("green", green))
}

#[tokio::test]
async fn a_session_stays_with_its_group_and_lets_go_when_that_has_no_target() {
    let (mut blue, green) = (Origin::named("blue").await, Origin::named("green").await);
    let edge = Edge::without_pool().and(&groups(&blue, &green)).start().await;
    let (mut one, mut two) = (session_on(&edge, "blue").await, session_on(&edge, "green").await);
    for _ in 0..10 {
        assert_eq!((one.get("/").await.origin(), two.get("/").await.origin()), ("blue", "green"));
    }
    blue.stop().await;
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
    for _ in 0..3 {
        assert_eq!((one.get("/").await.origin(), two.get("/").await.origin()), ("green", "green"));
        assert_eq!(
            Client::of(&edge).get("/").await.origin(),
            "green",
            "a new session goes where it is served"
        );
    }
    blue.resume();
    healthy(&edge, 2).await;
    assert_eq!((one.get("/").await.origin(), two.get("/").await.origin()), ("green", "green"));
}

#[tokio::test]
async fn requests_beyond_the_pools_limit_are_refused_at_once() {
    let gate = Gate::closed();
    let held = gate.clone();
    let origin = Origin::raw(move |mut conn: Conn| {
        let gate = held.clone();
        async move {
            while let Some(request) = conn.request().await {
                gate.pass().await;
                conn.send(&Reply::ok("").bytes(&request.method)).await;
            }
        }
    })
    .await;
    let edge = Edge::before(&origin).pool("max_requests = 2").start().await;
    let held: Vec<_> = (0..2)
        .map(|_| {
            let mut client = Client::of(&edge);
            tokio::spawn(async move { client.get("/").await.status })
        })
        .collect();
    origin.received(2).await;
    let answer = Client::of(&edge).get("/").await;
    assert_eq!((answer.status, answer.fields.get("retry-after")), (503, Some("1")));
    edge.counts("selvedge_requests_overloaded_total", 1).await;
    gate.open();
    for task in held {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(Client::of(&edge).get("/").await.status, 200);
}

#[tokio::test]
async fn equal_requests_go_to_equal_targets_on_every_node() {
    let mut origins = Vec::new();
    for name in ["one", "two", "three", "four"] {
        origins.push(Origin::named(name).await);
    }
    let all: Vec<&Origin> = origins.iter().collect();
    for hash_on in ["header:x-user", "cookie:user", "path", "source"] {
        let pool = format!("balance = \"hash\"\nhash_on = {hash_on:?}");
        let nodes = [
            Edge::before_all(&all).pool(&pool).start().await,
            Edge::before_all(&all).pool(&pool).start().await,
        ];
        let mut homes: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for round in 0..3 {
            for user in 1..=20u32 {
                let node = &nodes[(round + user as usize) % 2];
                let mut client = Client::of(node).from(&format!("127.0.0.{user}"));
                let (path, field) = match hash_on {
                    "path" => (format!("/{user}"), format!("X-Round: {round}")),
                    "header:x-user" => (format!("/{round}"), format!("X-User: {user}")),
                    "cookie:user" => (format!("/{round}"), format!("Cookie: a=b; user={user}")),
                    _ => (format!("/{round}"), format!("X-Round: {round}")),
                };
                let home = client.get_with(&path, &[&field]).await.origin().to_owned();
                homes.entry(user).or_default().insert(home);
            }
        }
        assert!(homes.values().all(|homes| homes.len() == 1), "{hash_on}: {homes:?}");
        let used: BTreeSet<_> = homes.values().flatten().collect();
        assert!(used.len() > 2, "{hash_on}: only {used:?} are used");
    }
}
