//! Zones that die: everybody is served by the others, and who lived elsewhere does not move.

use std::collections::BTreeMap;

use tempfile::TempDir;

use crate::support::edge::session_keys;
use crate::support::{Client, Edge, Gate, Origin, Setup, all, eventually};

const CHECKED: &str = "stickiness.mode = \"lb_cookie\"\nhealth.path = \"/healthz\"\nhealth.interval = \"150ms\"\n\
                       health.timeout = \"150ms\"\nhealth.healthy = 1\nhealth.unhealthy = 3\nzones.panic = \"0%\"";

/// `(zone, origin)`; the origin is called `ZONE-NUMBER`.
async fn shop(zones: &[(&str, usize)]) -> Vec<(String, Origin)> {
    let mut origins = Vec::new();
    for (zone, count) in zones {
        for number in 1..=*count {
            origins.push(((*zone).to_owned(), Origin::named(&format!("{zone}-{number}")).await));
        }
    }
    origins
}

fn setup(origins: &[(String, Origin)]) -> Setup {
    setup_with(origins, CHECKED)
}

fn setup_with(origins: &[(String, Origin)], pool: &str) -> Setup {
    origins
        .iter()
        .fold(Setup::default(), |setup, (zone, origin)| {
            setup.target_with(origin, &format!("zone = \"{zone}\""))
        })
        .pool(pool)
}

async fn healthy(edge: &Edge, count: u64) {
    edge.counts("selvedge_target_status{status=\"healthy\"}", count).await;
}

/// Clients by the name of their target, at least `each` on every one of `count` targets.
async fn sessions(edge: &Edge, count: usize, each: usize) -> BTreeMap<String, Vec<Client>> {
    let mut homes: BTreeMap<String, Vec<Client>> = BTreeMap::new();
    eventually("sessions on every target", async || {
        let mut client = Client::of(edge);
        let home = client.get("/").await.origin().to_owned();
        homes.entry(home).or_default().push(client);
        homes.len() == count && homes.values().all(|clients| clients.len() >= each)
    })
    .await;
    homes
}

#[tokio::test]
async fn a_dead_zone_fails_over_and_nobody_else_moves() {
    let mut origins = shop(&[("az-a", 2), ("az-b", 2), ("az-c", 2)]).await;
    let edge = setup(&origins).start().await;
    healthy(&edge, 6).await;
    let mut homes = sessions(&edge, 6, 2).await;
    for (_, origin) in origins.iter_mut().filter(|(zone, _)| zone == "az-a") {
        origin.stop().await;
    }
    // At once, before any check has failed: no request may be lost.
    for (home, clients) in &mut homes {
        for client in clients.iter_mut() {
            let answer = client.get("/").await;
            assert_eq!(answer.status, 200, "a session of {home} lost a request");
            if !home.starts_with("az-a") {
                assert_eq!(answer.origin(), home);
            }
        }
    }
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 2).await;
    for (home, clients) in &mut homes {
        for client in clients {
            let first = client.get("/").await.origin().to_owned();
            assert!(!first.starts_with("az-a"));
            if !home.starts_with("az-a") {
                assert_eq!(&first, home, "a session of a living target moved");
            }
            for _ in 0..5 {
                let answer = client.get("/").await;
                assert_eq!(answer.origin(), first, "a re-homed session moved again");
            }
        }
    }
    assert!(edge.metric("selvedge_sessions_rehomed_total").await >= 4);
}

#[tokio::test]
async fn a_session_without_its_target_stays_in_its_zone_and_all_nodes_agree() {
    let folder = TempDir::new().unwrap();
    let keys = format!("[session_keys]\nfile = {:?}", session_keys(&folder));
    let mut origins = shop(&[("az-a", 4), ("az-b", 3)]).await;
    let one = setup(&origins).and(&keys).start().await;
    let two = setup(&origins).and(&keys).start().await;
    healthy(&one, 7).await;
    healthy(&two, 7).await;
    let homes = sessions(&one, 7, 6).await;
    let dead = &mut origins.iter_mut().find(|(zone, _)| zone == "az-a").unwrap().1;
    dead.stop().await;
    healthy(&one, 6).await;
    healthy(&two, 6).await;
    let mut chosen = std::collections::BTreeSet::new();
    for client in &homes["az-a-1"] {
        let mut there = client.at(&two);
        let mut here = client.at(&one);
        let answer = here.get("/").await;
        assert!(answer.origin().starts_with("az-a-"), "re-homed to {}", answer.origin());
        assert!(answer.set_cookie("SELVEDGE").is_some(), "a moved session gets a new cookie");
        assert_eq!(there.get("/").await.origin(), answer.origin(), "two nodes chose differently");
        assert_eq!(here.get("/").await.origin(), answer.origin());
        assert_eq!(here.get("/").await.set_cookie("SELVEDGE"), None);
        chosen.insert(answer.origin().to_owned());
    }
    assert!(chosen.len() > 1, "all sessions of a dead target went to one other");
}

#[tokio::test]
async fn a_target_on_its_way_back_serves_its_own_sessions_and_nobody_else() {
    let origins = shop(&[("az-a", 1), ("az-b", 1)]).await;
    let rules = CHECKED.replace("health.healthy = 1\n", "health.healthy = 100\n");
    let edge = setup_with(&origins, &rules).start().await;
    healthy(&edge, 2).await;
    let mut homes = sessions(&edge, 2, 4).await;
    origins[0].1.set_sick(true);
    healthy(&edge, 1).await;
    let moved = &mut homes.get_mut("az-a-1").unwrap()[0];
    assert_eq!(moved.get("/").await.origin(), "az-b-1", "its checks fail: its sessions move");
    origins[0].1.set_sick(false);
    let passes = "selvedge_target_checks_total{zone=\"az-a\",result=\"passed\"}";
    let before = edge.metric(passes).await;
    eventually("another check", async || edge.metric(passes).await > before + 1).await;
    for client in &mut homes.get_mut("az-a-1").unwrap()[1..] {
        assert_eq!(client.get("/").await.origin(), "az-a-1", "it serves who is bound to it");
    }
    for _ in 0..10 {
        assert_eq!(Client::of(&edge).get("/").await.origin(), "az-b-1", "nobody else, after so few checks");
    }
    assert_eq!(homes.get_mut("az-a-1").unwrap()[0].get("/").await.origin(), "az-b-1", "who moved stays");
    origins[0].1.set_sick(true);
    healthy(&edge, 1).await;
    eventually("the next failed check", async || {
        homes.get_mut("az-a-1").unwrap()[1].get("/").await.origin() == "az-b-1"
    })
    .await;
}

#[tokio::test]
async fn a_rehomed_session_does_not_return_by_itself() {
    let mut origins = shop(&[("az-a", 2)]).await;
    let edge = setup(&origins).start().await;
    healthy(&edge, 2).await;
    let mut homes = sessions(&edge, 2, 3).await;
    origins[0].1.stop().await;
    healthy(&edge, 1).await;
    let moved = homes.get_mut("az-a-1").unwrap();
    for client in &mut *moved {
        assert_eq!(client.get("/").await.origin(), "az-a-2");
    }
    origins[0].1.resume();
    healthy(&edge, 2).await;
    for client in moved {
        assert_eq!(client.get("/").await.origin(), "az-a-2");
    }
}

#[tokio::test]
async fn a_session_that_was_away_while_its_target_was_dead_comes_home() {
    let mut origins = shop(&[("az-a", 2)]).await;
    let edge = setup(&origins).start().await;
    healthy(&edge, 2).await;
    let mut homes = sessions(&edge, 2, 3).await;
    origins[0].1.stop().await;
    healthy(&edge, 1).await;
    origins[0].1.resume();
    healthy(&edge, 2).await;
    for client in homes.get_mut("az-a-1").unwrap() {
        let answer = client.get("/").await;
        assert_eq!((answer.origin(), answer.set_cookie("SELVEDGE")), ("az-a-1", None));
    }
}

#[tokio::test]
async fn a_sick_target_gets_nothing_new_until_it_is_well() {
    let origins = shop(&[("az-a", 1), ("az-b", 1)]).await;
    let edge = setup(&origins).start().await;
    healthy(&edge, 2).await;
    origins[0].1.set_sick(true);
    healthy(&edge, 1).await;
    for _ in 0..20 {
        assert_eq!(Client::of(&edge).get("/").await.origin(), "az-b-1");
    }
    origins[0].1.set_sick(false);
    healthy(&edge, 2).await;
    sessions(&edge, 2, 1).await;
}

#[tokio::test]
async fn requests_wait_while_every_instance_restarts() {
    let mut origins = shop(&[("az-a", 1), ("az-b", 1)]).await;
    let edge = setup(&origins).pool("queue.timeout = \"10s\"").start().await;
    healthy(&edge, 2).await;
    let mut homes = sessions(&edge, 2, 3).await;
    for (_, origin) in &mut origins {
        origin.stop().await;
    }
    healthy(&edge, 0).await;
    let waiting: Vec<_> = std::mem::take(&mut homes)
        .into_iter()
        .flat_map(|(home, clients)| clients.into_iter().map(move |client| (home.clone(), client)))
        .map(|(home, mut client)| tokio::spawn(async move { (home, client.get("/").await) }))
        .collect();
    edge.counts("selvedge_requests_waiting", waiting.len() as u64).await;
    for (_, origin) in &mut origins {
        origin.resume();
    }
    for task in waiting {
        let (home, answer) = task.await.unwrap();
        assert_eq!(answer.status, 200, "a session of {home} got an error");
    }
}

#[tokio::test]
async fn health_is_ignored_when_too_few_are_healthy() {
    let origins = shop(&[("az-a", 2), ("az-b", 2)]).await;
    let pool = CHECKED.replace("zones.panic = \"0%\"", "zones.panic = \"50%\"").replace("lb_cookie", "off");
    let edge = origins
        .iter()
        .fold(Setup::default(), |setup, (zone, origin)| {
            setup.target_with(origin, &format!("zone = \"{zone}\""))
        })
        .pool(&pool)
        .pool("balance = \"round_robin\"")
        .start()
        .await;
    healthy(&edge, 4).await;
    for (_, origin) in &origins[..3] {
        origin.set_sick(true);
    }
    healthy(&edge, 1).await;
    edge.counts("selvedge_pool_panic", 1).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..8 {
        seen.insert(Client::of(&edge).get("/").await.origin().to_owned());
    }
    assert_eq!(seen.len(), 4, "only {seen:?} were used");
    for (_, origin) in &origins {
        origin.set_sick(false);
    }
    edge.counts("selvedge_pool_panic", 0).await;
}

#[tokio::test]
async fn instances_that_die_one_after_another_cost_no_get_and_repeat_no_post() {
    let mut origins = shop(&[("az-a", 2), ("az-b", 2), ("az-c", 2)]).await;
    let edge = setup(&origins).top("workers = 2").pool("queue.timeout = \"10s\"").start().await;
    healthy(&edge, 6).await;
    let (running, address) = (Gate::closed(), edge.web);
    let shoppers = (0..12).map(|shopper| {
        let stop = running.clone();
        async move {
            let mut client = Client::to(address);
            let (mut posts, mut number) = (Vec::new(), 0);
            while !stop.is_open() {
                number += 1;
                // A shopper leaves, another one comes: or nobody would be where an instance has returned.
                if number % 10 == 0 {
                    client = Client::to(address);
                }
                let answer = client.get(&format!("/{shopper}/get/{number}")).await;
                assert_eq!(answer.status, 200, "{answer:?}");
                let target = format!("/{shopper}/post/{number}");
                let answer = client.post(&target, b"body").await;
                assert!(matches!(answer.status, 200 | 502), "{answer:?}");
                posts.push((target, answer.status));
            }
            posts
        }
    });
    let shopping = tokio::spawn(all(shoppers.collect::<Vec<_>>()));
    for round in 0..8 {
        let dying = round % origins.len();
        let before = origins[dying].1.count();
        eventually("traffic at every instance", async || origins[dying].1.count() > before + 3).await;
        origins[dying].1.stop().await;
        healthy(&edge, 5).await;
        origins[dying].1.resume();
        healthy(&edge, 6).await;
    }
    running.open();
    let posts: Vec<_> = shopping.await.unwrap().into_iter().flatten().collect();
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    for request in origins.iter().flat_map(|(_, origin)| origin.requests()) {
        *received.entry(request.target).or_default() += 1;
    }
    let mut failed = 0;
    for (target, status) in &posts {
        let times = received.get(target).copied().unwrap_or(0);
        assert!(times <= 1, "{target} came {times} times");
        assert!(times == 1 || *status == 502, "{target} was answered with {status} and came to nobody");
        failed += usize::from(*status == 502);
    }
    assert!(posts.len() > 100, "only {} POSTs", posts.len());
    // Each death can catch one request of each shopper in the middle, hardly ever more.
    assert!(failed <= 8 * 12, "{failed} of {} POSTs failed", posts.len());
}
