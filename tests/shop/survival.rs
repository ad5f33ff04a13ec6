//! The whole system through the proxy: shoppers go on shopping while instances and zones are killed under them.
//!
//! The last test runs for 10 seconds, or for a minute with `SELVEDGE_SOAK=1`.

use std::time::Duration;

use crate::browser::Browser;
use crate::processes::{System, send_signal, until};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

/// The process id in an answer of `/api/whoami`.
fn pid_in(who: &Value) -> u32 {
    u32::try_from(who["pid"].as_u64().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cart_survives_the_death_of_its_instance() {
    let system = System::start().await;
    let mut visitor = Browser::new(system.proxy);
    visitor.post("/api/cart/items", json!({ "product_id": 13, "quantity": 2 })).await;
    let home = visitor.get("/api/whoami").await.json();
    for _ in 0..20 {
        assert_eq!(visitor.get("/api/whoami").await.json(), home, "a session stays on its instance");
    }
    send_signal(pid_in(&home), Signal::KILL);
    let answer = visitor.get("/api/cart").await;
    assert_eq!((answer.status, &answer.json()["items"][0]["quantity"]), (StatusCode::OK, &json!(2)));
    let page = visitor.get("/cart").await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text().contains("Selvedge Jeans"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_moves_inside_its_zone_first_and_stays_where_it_moved_to() {
    let system = System::start().await;
    let supervisor = system.child.id().unwrap();
    let mut visitor = Browser::new(system.proxy);
    visitor.post("/api/cart/items", json!({ "product_id": 13, "quantity": 2 })).await;
    let first = visitor.get("/api/whoami").await.json();

    // A supervisor that is stopped replaces nobody.
    send_signal(supervisor, Signal::STOP);
    let second = kill_and_follow(&mut visitor, &first).await;
    assert_eq!(second["zone"], first["zone"]);
    let third = kill_and_follow(&mut visitor, &second).await;
    assert_ne!(third["zone"], first["zone"]);
    send_signal(supervisor, Signal::CONT);

    let (_, address) = system.instances().into_iter().find(|(name, _)| first["instance"] == **name).unwrap();
    until("the first instance is back", async || system.pid_of(address).await).await;
    for _ in 0..20 {
        assert_eq!(visitor.get("/api/whoami").await.json(), third, "it does not return");
    }
    assert_eq!(visitor.get("/api/cart").await.json()["items"][0]["quantity"], 2);
}

/// Kills the instance of a visitor's session, and waits until the session has another.
async fn kill_and_follow(visitor: &mut Browser, home: &Value) -> Value {
    let bond = visitor.cookies["SELVEDGE"].clone();
    send_signal(pid_in(home), Signal::KILL);
    until("the session moves", async || {
        let answer = visitor.get("/api/whoami").await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        (visitor.cookies["SELVEDGE"] != bond).then(|| answer.json())
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shoppers_notice_nothing_while_instances_and_zones_are_killed() {
    let soak = std::env::var_os("SELVEDGE_SOAK").is_some_and(|value| value == "1");
    let system = System::start().await;
    let report = crate::shoppers::shop(&system, Duration::from_secs(if soak { 60 } else { 10 })).await;
    println!("{report}");
    assert!(report.problems.is_empty(), "{report}\n{:#?}", report.problems);
    assert!(report.kills >= 10 && report.elsewhere >= 1, "{report}");
    // A zone that is back before its checks have failed keeps its sessions: in a short run that may be all of them.
    assert!(!soak || report.moves >= 1, "{report}");
    assert!(report.carts >= if soak { 2000 } else { 50 }, "{report}");
}
