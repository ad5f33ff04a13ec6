//! Accounts, orders and the catalogue in PostgreSQL: who reads where, what a visitor finds again, and what happens when servers die.

use std::time::Duration;

use crate::browser::Browser;
use crate::processes::{Instance, until, until_within};
use http::StatusCode;
use serde_json::{Value, json};

#[path = "../support/postgres.rs"]
pub(crate) mod servers;
use servers::Cluster;

/// What a server was asked about the shop's tables since the last reset.
const ASKED: &str =
    "SELECT count(*) FROM pg_stat_statements WHERE query ~* '(from|join) (products|accounts|orders)'";

async fn instance(data: &tempfile::TempDir, number: u8, url: &str) -> Instance {
    Instance::start_with(data.path(), number, &["--database", url]).await
}

/// Waits until the instance sees this many servers in this role.
async fn sees(visitor: &mut Browser, role: &str, count: usize) {
    until("the servers in their roles", async || {
        let servers = visitor.get("/api/database").await.json();
        let servers = servers["servers"].as_array().unwrap().iter();
        (servers.filter(|server| server["role"] == role).count() == count).then_some(())
    })
    .await;
}

async fn sign_up(visitor: &mut Browser, email: &str) {
    let answer = visitor.post("/api/signup", json!({ "email": email, "password": "eight ch" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

async fn fill_cart(visitor: &mut Browser, product: i64) {
    let answer = visitor.post("/api/cart/items", json!({ "product_id": product, "quantity": 1 })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

async fn check_out(visitor: &mut Browser, key: &str) -> (StatusCode, Value) {
    let body = json!({ "name": "Ana", "address": "1 Loom Street" }).to_string();
    let fields = [("content-type", "application/json"), ("idempotency-key", key)];
    let answer = visitor.try_send(http::Method::POST, "/api/checkout", &fields, &body).await.unwrap();
    (answer.status, answer.json())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_primary_is_asked_nothing_while_there_are_replicas_and_everybody_finds_what_they_wrote() {
    let cluster = Cluster::start(2);
    let data = tempfile::tempdir().unwrap();
    let shop = instance(&data, 1, &cluster.url(&[0, 1, 2])).await;
    let mut visitor = shop.browser();
    sees(&mut visitor, "replica", 2).await;
    sign_up(&mut visitor, "ana@example.com").await;
    fill_cart(&mut visitor, 13).await;
    assert_eq!(check_out(&mut visitor, "1").await.0, StatusCode::CREATED);
    let replayed = "SELECT min(replay_lsn) = pg_current_wal_lsn() FROM pg_stat_replication";
    cluster.until(0, replayed, "t");

    for server in 0..3 {
        cluster.ask(server, "SELECT 1");
    }
    cluster.ask(0, "CREATE EXTENSION pg_stat_statements");
    cluster.until(0, replayed, "t");
    for server in 0..3 {
        cluster.ask(server, "SELECT pg_stat_statements_reset()");
    }
    let pages = ["/", "/product/13", "/cart", "/account", "/orders/1", "/api/products", "/api/account"];
    for path in pages.iter().cycle().take(3 * pages.len()) {
        assert_eq!(visitor.get(path).await.status, StatusCode::OK, "{path}");
    }
    assert_eq!(cluster.ask(0, ASKED), "0");
    for replica in [1, 2] {
        assert_ne!(cluster.ask(replica, ASKED), "0", "both take their share");
    }

    // Both replicas stand still: who has written gets it from the primary, who has not from a replica.
    for replica in [1, 2] {
        cluster.ask(replica, "SELECT pg_wal_replay_pause()");
    }
    let mut other = shop.browser();
    let address = json!({ "name": "Ana B.", "address": "2 Weft Lane" });
    let changed = [("content-type", "application/json")];
    let answer = visitor.try_send(http::Method::PUT, "/api/account", &changed, &address.to_string()).await;
    assert_eq!(answer.unwrap().status, StatusCode::OK);
    for _ in 0..4 {
        assert_eq!(visitor.get("/api/account").await.json()["name"], "Ana B.");
    }
    assert_ne!(cluster.ask(0, ASKED), "0");
    assert_eq!(other.get("/api/products").await.status, StatusCode::OK);
    // Also who comes from another browser is not refused by an old copy.
    sign_up(&mut shop.browser(), "bea@example.com").await;
    let login = json!({ "email": "bea@example.com", "password": "eight ch" });
    assert_eq!(other.post("/api/login", login).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_takes_over_without_a_restart_and_no_order_is_lost_or_doubled() {
    let mut cluster = Cluster::start(2);
    let data = tempfile::tempdir().unwrap();
    let shop = instance(&data, 1, &cluster.url(&[0, 1, 2])).await;
    let mut visitor = shop.browser();
    sees(&mut visitor, "replica", 2).await;
    sign_up(&mut visitor, "ana@example.com").await;
    fill_cart(&mut visitor, 13).await;
    let (status, before) = check_out(&mut visitor, "1").await;
    assert_eq!(status, StatusCode::CREATED);
    fill_cart(&mut visitor, 1).await;

    cluster.kill(0);
    assert_eq!(shop.browser().get("/api/products").await.status, StatusCode::OK, "reading needs no primary");
    // Sent while there is no primary: placed once there is one, or refused for now and sent again.
    let promoting = std::thread::spawn(move || {
        cluster.promote(1, Some(2));
        cluster
    });
    let order = until_within(Duration::from_secs(60), "a placed order", async || {
        let (status, order) = check_out(&mut visitor, "2").await;
        match status {
            StatusCode::CREATED | StatusCode::OK => Some(order),
            StatusCode::SERVICE_UNAVAILABLE => None,
            other => panic!("{other}: {order}"),
        }
    })
    .await;
    let cluster = promoting.join().unwrap();
    assert_eq!(order["items"][0]["product_id"], 1);
    let (status, again) = check_out(&mut visitor, "2").await;
    assert_eq!((status, &again["id"]), (StatusCode::OK, &order["id"]));
    assert_eq!(
        cluster.ask(1, "SELECT string_agg(id::text, ',' ORDER BY id) FROM orders").split(',').count(),
        2
    );
    let page = visitor.get(&format!("/orders/{}", before["id"])).await;
    assert_eq!(page.status, StatusCode::OK, "what was placed before is there");
    sees(&mut visitor, "primary", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_is_said_to_be_away_and_nothing_else_is() {
    let mut cluster = Cluster::start(0);
    let data = tempfile::tempdir().unwrap();
    let shop = instance(&data, 1, &cluster.url(&[0])).await;
    let mut visitor = shop.browser();
    fill_cart(&mut visitor, 13).await;
    cluster.kill(0);
    for path in ["/", "/product/13", "/cart", "/api/products", "/api/products/13", "/api/cart"] {
        let answer = visitor.get(path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(!answer.header("retry-after").is_empty(), "{path}");
        assert!(answer.text().contains("cannot look that up"), "{path}: {}", answer.text());
    }
    let (status, refused) = check_out(&mut visitor, "1").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused["error"].as_str().unwrap().contains("Nothing is bought twice"), "{refused}");
    assert_eq!(visitor.get("/healthz").await.status, StatusCode::OK);
}
