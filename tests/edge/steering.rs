//! What an operator does to a running node, by the command line as they would: shift a zone, drain a target.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{Client, Conn, Edge, Gate, Origin, Reply, Setup, all, eventually};

/// Origins `ZONE-1`, `ZONE-2` in three zones.
async fn shop() -> Vec<(&'static str, Origin)> {
    let mut origins = Vec::new();
    for zone in ["az-a", "az-b", "az-c"] {
        for number in 1..=2 {
            origins.push((zone, Origin::named(&format!("{zone}-{number}")).await));
        }
    }
    origins
}

fn setup(origins: &[(&'static str, Origin)]) -> Setup {
    let target = |setup: Setup, (zone, origin): &(&'static str, Origin)| {
        setup.target_with(origin, &format!("zone = \"{zone}\""))
    };
    let checks = "stickiness.mode = \"lb_cookie\"\nhealth.path = \"/healthz\"\nhealth.interval = \"200ms\"";
    origins.iter().fold(Setup::default(), target).pool(checks)
}

/// Runs `selvedge` with these arguments against the node.
async fn selvedge(edge: &Edge, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(arguments).args(["--admin", &format!("http://{}", edge.admin)]);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// The same; what it prints, once it has succeeded.
async fn done(edge: &Edge, arguments: &[&str]) -> String {
    let output = selvedge(edge, arguments).await;
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The same; why it fails.
async fn refused(edge: &Edge, arguments: &[&str]) -> String {
    let output = selvedge(edge, arguments).await;
    assert_eq!(output.status.code(), Some(1), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

async fn pool(edge: &Edge) -> Value {
    serde_json::from_str(&edge.admin("/v1/pools/shop").await.text()).unwrap()
}

/// A fresh session and its target.
async fn session(edge: &Edge) -> (String, Client) {
    let mut client = Client::of(edge);
    let home = client.get("/").await.origin().to_owned();
    (home, client)
}

/// Sessions until every one of `count` targets has some.
async fn sessions(edge: &Edge, count: usize) -> BTreeMap<String, Vec<Client>> {
    let mut homes: BTreeMap<String, Vec<Client>> = BTreeMap::new();
    eventually("sessions on every target", async || {
        let (home, client) = session(edge).await;
        homes.entry(home).or_default().push(client);
        homes.len() == count && homes.values().all(|clients| clients.len() > 1)
    })
    .await;
    homes
}

#[tokio::test]
async fn a_shift_moves_the_sessions_of_its_zone_and_nobody_elses_and_ends_on_request() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    let mut homes = sessions(&edge, 6).await;
    let text = done(&edge, &["zone", "shift", "az-b", "--for", "2h", "--comment", "power work"]).await;
    assert!(text.contains("zone az-b is shifted until 20"), "{text}");
    assert!(text.contains("67 % of the targets left and healthy (50 % needed)"), "{text}");
    for (home, clients) in &mut homes {
        for client in clients {
            let now = client.get("/").await.origin().to_owned();
            match home.starts_with("az-b") {
                true => assert!(!now.starts_with("az-b"), "{home} → {now}"),
                false => assert_eq!(&now, home),
            }
            assert_eq!(client.get("/").await.origin(), now);
        }
    }
    let view = pool(&edge).await;
    let zone = &view["zones"][1];
    assert_eq!(
        (&zone["state"], &zone["reason"], &zone["share"]),
        (&"shifted".into(), &"power work".into(), &0.0.into())
    );
    assert!(zone["until"].as_str().unwrap().starts_with("20"));
    assert_eq!(view["decisions"][0]["what"], "shifted");
    for _ in 0..30 {
        assert!(!session(&edge).await.0.starts_with("az-b"));
    }
    assert_eq!(done(&edge, &["zone", "restore", "az-b"]).await, "zone az-b is restored\n");
    for (home, clients) in &mut homes {
        for client in clients {
            let stays = !client.get("/").await.origin().starts_with("az-b");
            assert!(stays || !home.starts_with("az-b"), "a moved session went back");
        }
    }
    sessions(&edge, 6).await;
    assert!(done(&edge, &["zone", "restore", "az-b"]).await.contains("was not shifted"));
}

#[tokio::test]
async fn a_shift_that_the_others_could_not_carry_is_refused_with_the_figures() {
    let mut origins = shop().await;
    let edge = setup(&origins).start().await;
    for (_, origin) in &mut origins[..2] {
        origin.stop().await;
    }
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 2).await;
    let shift = ["zone", "shift", "az-b", "--for", "5m"];
    let why = refused(&edge, &shift).await;
    assert!(why.contains("only 33 % of the targets would be left and healthy, 50 % are needed"), "{why}");
    let shown = done(&edge, &[&shift[..], &["--dry-run"]].concat()).await;
    assert!(shown.contains("only by --force; nothing was done"), "{shown}");
    let line =
        |zone: &str| shown.lines().find(|line| line.trim_start().starts_with(zone)).unwrap().to_owned();
    assert!(line("az-b").contains("50.0 %") && line("az-b").contains("0.0 %"), "{shown}");
    assert!(line("az-c").contains("100.0 %"), "{shown}");
    assert_eq!(edge.metric("selvedge_zone_out").await, 0);
    done(&edge, &[&shift[..], &["--force"]].concat()).await;
    assert_eq!(edge.metric("selvedge_zone_out{zone=\"az-b\"}").await, 1);
    assert!(session(&edge).await.0.starts_with("az-c"));
}

#[tokio::test]
async fn a_shift_needs_an_end_and_a_zone_that_exists() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    for (arguments, why) in [
        (["zone", "shift", "az-b", "--for", "30s"], "a shift lasts \"1m\" to \"72h\""),
        (["zone", "shift", "az-b", "--for", "4d"], "a shift lasts \"1m\" to \"72h\""),
        (["zone", "shift", "az-b", "--for", "soon"], "\"soon\" is not a duration"),
        (["zone", "shift", "az-x", "--for", "5m"], "no pool has a target in zone \"az-x\""),
    ] {
        let text = refused(&edge, &arguments).await;
        assert!(text.contains(why), "{text}");
    }
    let output = selvedge(&edge, &["zone", "shift", "az-b"]).await;
    assert_eq!(output.status.code(), Some(2), "--for is required");
}

#[tokio::test]
async fn sessions_of_a_shifted_zone_move_at_the_rate_that_is_set() {
    let origins = shop().await;
    let edge = setup(&origins).pool("zones.evacuate = \"20%/s\"").start().await;
    let mut there = Vec::new();
    eventually("sessions in the zone", async || {
        let (home, client) = session(&edge).await;
        if home.starts_with("az-b") {
            there.push(client);
        }
        there.len() == 60
    })
    .await;
    done(&edge, &["zone", "shift", "az-b", "--for", "5m"]).await;
    let mut moved = 0;
    for client in &mut there {
        moved += usize::from(!client.get("/").await.origin().starts_with("az-b"));
    }
    assert!(moved < 40, "{moved} of 60 moved at once");
    eventually("all sessions to move", async || {
        let mut left = 0;
        for client in &mut there {
            left += usize::from(client.get("/").await.origin().starts_with("az-b"));
        }
        left == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_a_shift_and_a_drain_under_load_fail_no_get_and_shares_stay_even() {
    let mut origins = shop().await;
    let edge = setup(&origins).top("workers = 2").start().await;
    // Without cookies: sessions would stay where they are.
    let (stop, address) = (Gate::closed(), edge.web);
    let crowd = (0..8).map(|_| {
        let stop = stop.clone();
        async move {
            let mut client = Client::to(address);
            while !stop.is_open() {
                client.jar.clear();
                let answer = client.get("/").await;
                assert_eq!(answer.status, 200, "{answer:?}");
            }
        }
    });
    let crowd = tokio::spawn(all(crowd.collect::<Vec<_>>()));
    shares(&origins, &[2, 2, 2]).await;
    done(&edge, &["zone", "shift", "az-a", "--for", "5m"]).await;
    shares(&origins, &[0, 2, 2]).await;
    done(&edge, &["zone", "restore", "az-a"]).await;
    shares(&origins, &[2, 2, 2]).await;
    let drained = format!("az-c/{}", origins[4].1);
    done(&edge, &["target", "drain", "shop", &drained]).await;
    shares(&origins, &[2, 2, 1]).await;
    done(&edge, &["target", "up", "shop", &drained]).await;
    for (_, origin) in &mut origins[2..4] {
        origin.stop().await;
    }
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 2).await;
    shares(&origins, &[2, 0, 2]).await;
    stop.open();
    crowd.await.unwrap();
}

/// Waits for traffic, and compares what each zone gets with its number of targets that are open: to within 5 % of all.
async fn shares(origins: &[(&'static str, Origin)], open: &[usize; 3]) {
    let counts = || {
        ["az-a", "az-b", "az-c"].map(|zone| {
            let its = origins.iter().filter(|(name, _)| *name == zone);
            its.map(|(_, origin)| origin.count()).sum::<usize>()
        })
    };
    let before = counts();
    eventually("traffic", async || counts().iter().sum::<usize>() > before.iter().sum::<usize>() + 3000)
        .await;
    let after = counts();
    let got: Vec<f64> = after.iter().zip(before).map(|(after, before)| (after - before) as f64).collect();
    let (sum, all) = (got.iter().sum::<f64>(), open.iter().sum::<usize>() as f64);
    for (got, open) in got.iter().zip(open) {
        let (share, expected) = (got / sum, *open as f64 / all);
        assert!(
            (share - expected).abs() <= 0.05,
            "{share:.3} instead of {expected:.3}: {after:?} - {before:?}"
        );
    }
}

#[tokio::test]
async fn a_draining_target_keeps_its_sessions_until_the_deadline() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    let mut homes = sessions(&edge, 6).await;
    let name = format!("az-a/{}", origins[0].1);
    let text = done(&edge, &["target", "drain", "shop", &name, "--deadline", "3s"]).await;
    assert!(text.contains("is draining: drained by the operator: bound sessions only for"), "{text}");
    let client = &mut homes.get_mut("az-a-1").unwrap()[0];
    assert_eq!(client.get("/").await.origin(), "az-a-1");
    for _ in 0..20 {
        assert_ne!(session(&edge).await.0, "az-a-1");
    }
    edge.counts("selvedge_target_status{status=\"drained\"}", 1).await;
    assert_eq!(client.get("/").await.origin(), "az-a-2", "in its zone");
    edge.logged(&["decided", "safe to remove", &name]).await;
    assert_eq!(edge.metric("selvedge_target_safe_to_remove").await, 1);
    let text = done(&edge, &["target", "up", "shop", &name]).await;
    assert!(text.contains("is healthy"), "{text}");
    assert_eq!(client.get("/").await.origin(), "az-a-2", "it does not come back");
    let why = refused(&edge, &["target", "drain", "shop", "az-a/127.0.0.9:1"]).await;
    assert!(why.contains("has no target"), "{why}");
    let why = refused(&edge, &["target", "drain", "shp", &name]).await;
    assert!(why.contains("there is no pool \"shp\""), "{why}");
}

#[tokio::test]
async fn a_dry_run_says_what_a_command_would_do_and_does_nothing() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    let _homes = sessions(&edge, 6).await;
    let name = format!("az-a/{}", origins[0].1);
    let states = async || {
        let view = pool(&edge).await;
        let targets = view["targets"].as_array().unwrap().iter();
        let targets: Vec<_> = targets.map(|target| target["admin"].clone()).collect();
        (targets, view["zones"][0]["state"].clone())
    };
    let before = states().await;
    let told = async |arguments: &[&str]| done(&edge, &[arguments, &["--dry-run"]].concat()).await;
    for (command, can, becomes) in [
        (["target", "drain", "shop", &name], "drained", "5 of 6 targets take new sessions then, 6 do now"),
        (["target", "down", "shop", &name], "taken down", "move at once"),
        (["target", "up", "shop", &name], "brought up", "6 of 6 targets take new sessions then, 6 do now"),
    ] {
        let text = told(&command).await;
        let first = format!("{name} of pool shop can be {can}; nothing was done\n");
        assert!(text.starts_with(&first) && text.contains(becomes), "{text}");
    }
    let text = told(&["target", "drain", "shop", &name, "--deadline", "9m"]).await;
    assert!(text.contains("may stay for 9 min"), "{text}");
    assert_eq!(states().await, before);
    done(&edge, &["zone", "shift", "az-a", "--for", "5m"]).await;
    let before = states().await;
    let text = told(&["zone", "restore", "az-a"]).await;
    assert!(text.starts_with("zone az-a can be restored; nothing was done\npool shop: "), "{text}");
    assert_eq!(states().await, before);
}

#[tokio::test]
async fn a_draining_target_that_nobody_uses_is_soon_safe_to_remove() {
    let origins = shop().await;
    let edge = setup(&origins).pool("drain.quiet = \"1s\"").start().await;
    let mut homes = sessions(&edge, 6).await;
    let name = format!("az-a/{}", origins[0].1);
    let view = pool(&edge).await;
    let target = view["targets"].as_array().unwrap().iter().find(|target| target["name"] == *name).unwrap();
    assert_eq!(target["sessions"], homes["az-a-1"].len());
    done(&edge, &["target", "drain", "shop", &name]).await;
    edge.counts("selvedge_target_safe_to_remove", 1).await;
    assert_eq!(homes.get_mut("az-a-1").unwrap()[0].get("/").await.origin(), "az-a-1", "it still serves them");
}

#[tokio::test]
async fn a_target_drains_itself_by_its_answer_to_a_check() {
    for (answer, rule) in [
        (Reply::status(503).field("x-selvedge-drain: 1"), "health.drain = \"header\""),
        (Reply::status(404), "health.drain = \"404\""),
    ] {
        let leaving = Gate::closed();
        let gate = leaving.clone();
        let leaver = Origin::raw(move |mut conn: Conn| {
            let (gate, answer) = (gate.clone(), answer.clone());
            async move {
                while let Some(request) = conn.request().await {
                    let reply = match (request.target.as_str(), gate.is_open()) {
                        ("/ready", true) => answer.clone(),
                        _ => Reply::ok("").field("X-Origin: leaver"),
                    };
                    if conn.try_send(reply.bytes(&request.method)).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let other = Origin::named("other").await;
        let checks = "stickiness.mode = \"lb_cookie\"\nhealth.path = \"/ready\"\nhealth.interval = \"100ms\"";
        let edge = Edge::before_all(&[&leaver, &other]).pool(checks).pool(rule).start().await;
        let mut homes = sessions(&edge, 2).await;
        leaving.open();
        edge.counts("selvedge_target_status{status=\"draining\"}", 1).await;
        assert_eq!(homes.get_mut("leaver").unwrap()[0].get("/").await.origin(), "leaver");
        for _ in 0..10 {
            assert_eq!(session(&edge).await.0, "other");
        }
        edge.logged(&["decided", "draining", "it asks for it"]).await;
    }
}

#[tokio::test]
async fn what_the_operator_has_decided_outlives_a_restart() {
    let origins = shop().await;
    let folder = tempfile::tempdir().unwrap();
    let state = format!("state = {:?}", folder.path().join("state.json"));
    let mut edge = setup(&origins).top(&state).start().await;
    let (drained, down) = (format!("az-a/{}", origins[0].1), format!("az-a/{}", origins[1].1));
    done(&edge, &["target", "drain", "shop", &drained]).await;
    done(&edge, &["target", "down", "shop", &down]).await;
    done(&edge, &["zone", "shift", "az-b", "--for", "1h", "--comment", "power work", "--force"]).await;
    assert!(edge.stop_gracefully().await.success());
    let edge = setup(&origins).top(&state).start().await;
    edge.counts("selvedge_target_status{status=\"draining\"}", 1).await;
    edge.counts("selvedge_target_status{status=\"down\"}", 1).await;
    edge.counts("selvedge_target_status{status=\"shifted\"}", 2).await;
    assert_eq!(pool(&edge).await["zones"][1]["reason"], "power work");
    for _ in 0..10 {
        assert!(session(&edge).await.0.starts_with("az-c"));
    }
    done(&edge, &["target", "up", "shop", &drained]).await;
    done(&edge, &["target", "up", "shop", &down]).await;
    done(&edge, &["zone", "restore", "az-b"]).await;
    let kept = std::fs::read_to_string(folder.path().join("state.json")).unwrap();
    assert!(!kept.contains("az-b") && !kept.contains(&drained), "{kept}");
}
