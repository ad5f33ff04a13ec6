//! The catalogue in a cache: what it spares the database, that everybody sees changes, and that nobody notices when it is away.

use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::databases::servers::Cluster;
use crate::processes::{Instance, run_to_end, send_signal, until};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "a module of several test binaries, each of which uses its own part")]
pub(crate) mod redis;
use redis::Server;

/// For twenty pages while the cache hangs: each of them would wait longer if it asked.
const QUICK: Duration = Duration::from_secs(10);
/// How often a server was asked for products since the last reset.
const ASKED: &str = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query ~* 'from products' AND query !~* 'pg_stat'";

/// What an instance says of its cache.
async fn seen_by(instance: &Instance) -> Value {
    let mut answer = instance.browser().get("/api/cache").await.json();
    answer["cache"].take()
}

async fn count(instances: &[&Instance], names: &[&str]) -> u64 {
    let mut sum = 0;
    for instance in instances {
        let seen = seen_by(instance).await;
        sum += names.iter().map(|name| seen[*name].as_u64().unwrap()).sum::<u64>();
    }
    sum
}

/// Price and stock of a product.
async fn product(visitor: &mut Browser, id: i64) -> (i64, i64) {
    let answer = visitor.get(&format!("/api/products/{id}")).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let product = answer.json();
    (product["price_cents"].as_i64().unwrap(), product["stock"].as_i64().unwrap())
}

async fn buy(visitor: &mut Browser, id: i64) {
    let answer = visitor.post("/api/cart/items", json!({ "product_id": id, "quantity": 1 })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let answer = visitor.post("/api/checkout", json!({ "name": "Ana", "address": "1 Loom Street" })).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
}

/// Pages of the catalogue, ten at each instance.
async fn look_around(instances: &[&Instance]) {
    for instance in instances {
        let mut visitor = instance.browser();
        for path in ["/", "/product/13", "/api/products", "/?category=Hats", "/api/products/1"].repeat(2) {
            assert_eq!(visitor.get(path).await.status, StatusCode::OK, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_replicas_the_primary_sees_no_read_of_the_catalogue_and_with_a_cache_they_see_few() {
    let (cluster, server) = (Cluster::start(2), Server::start(""));
    let data = tempfile::tempdir().unwrap();
    let (url, cache) = (cluster.url(&[0, 1, 2]), format!("redis://{}", server.address()));
    let options = ["--database", &url, "--cache", "cache-aside", "--cache-url", &cache];
    let one = Instance::start_with(data.path(), 1, &options).await;
    let two = Instance::start_with(data.path(), 2, &options).await;
    let instances = [&one, &two];
    for instance in instances {
        until("both replicas are seen", async || {
            let servers = instance.browser().get("/api/database").await.json();
            (servers.to_string().matches("\"replica\"").count() == 2).then_some(())
        })
        .await;
    }
    cluster.ask(0, "CREATE EXTENSION pg_stat_statements");
    cluster.until(0, "SELECT min(replay_lsn) = pg_current_wal_lsn() FROM pg_stat_replication", "t");
    for server in 0..3 {
        cluster.ask(server, "SELECT pg_stat_statements_reset()");
    }
    until("the cache answers", async || {
        look_around(&instances).await;
        (count(&instances, &["hits"]).await >= 20).then_some(())
    })
    .await;
    assert_eq!(cluster.ask(0, ASKED), "0");
    let asked: u64 = [1, 2].map(|replica| cluster.ask(replica, ASKED).parse::<u64>().unwrap()).iter().sum();
    let told = count(&instances, &["loads", "past"]).await;
    assert_eq!(asked, told, "what the instances say that they have asked for");

    // A change by a command is seen at both, as soon as a replica has it.
    let change = ["product", "--database", &url, "--cache", "cache-aside", "--cache-url", &cache];
    let output = run_to_end(&[&change[..], &["set-price", "13", "4321"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    for instance in instances {
        let mut visitor = instance.browser();
        until("the new price", async || (product(&mut visitor, 13).await.0 == 4321).then_some(())).await;
    }
    // Who has bought something sees at once what is left, everywhere.
    let mut visitor = one.browser();
    let (_, before) = product(&mut visitor, 13).await;
    buy(&mut visitor, 13).await;
    for instance in [&two, &one] {
        let mut visitor = visitor.clone_to(instance.address);
        assert_eq!(product(&mut visitor, 13).await, (4321, before - 1));
        let all = visitor.get("/api/products").await.json();
        assert_eq!(all["products"][12]["stock"], before - 1);
    }
    // And others a moment later.
    for instance in instances {
        let mut other = instance.browser();
        until("what is left", async || (product(&mut other, 13).await.1 == before - 1).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_hangs_or_is_gone_delays_no_page_and_is_used_again_when_it_is_back() {
    let mut server = Server::start("");
    let data = tempfile::tempdir().unwrap();
    let cache = format!("redis://{}", server.address());
    let options = ["--cache", "write-through", "--cache-url", &cache];
    let one = Instance::start_with(data.path(), 1, &options).await;
    let two = Instance::start_with(data.path(), 2, &options).await;
    let instances = [&one, &two];
    let is_used = async |instances: &[&Instance]| {
        for instance in instances {
            let before = count(&[instance], &["hits"]).await;
            until("the cache answers", async || {
                look_around(&[instance]).await;
                (count(&[instance], &["hits"]).await > before).then_some(())
            })
            .await;
        }
    };
    is_used(&instances).await;
    let page = one.browser().get("/").await;
    assert!(
        page.text().contains("of its questions for the catalogue answered by the cache"),
        "{}",
        page.text()
    );

    send_signal(server.pid(), Signal::STOP);
    let mut visitor = one.browser();
    let start = Instant::now();
    look_around(&instances).await;
    assert!(start.elapsed() < QUICK, "pages wait for a cache that hangs: {:?}", start.elapsed());
    for instance in instances {
        let seen = seen_by(instance).await;
        assert_eq!(seen["state"], "away", "{seen}");
        assert!(seen["failures"].as_u64() >= Some(1) && seen["past"].as_u64() >= Some(1), "{seen}");
    }
    let (_, before) = product(&mut visitor, 13).await;
    buy(&mut visitor, 13).await;
    assert_eq!(seen_by(&one).await["untold_products"], 1);
    send_signal(server.pid(), Signal::CONT);
    // Wherever the visitor goes, and whatever the cache knows by now.
    for instance in [&two, &one] {
        assert_eq!(product(&mut visitor.clone_to(instance.address), 13).await.1, before - 1);
    }
    is_used(&instances).await;
    until("it is told", async || (seen_by(&one).await["untold_products"] == 0).then_some(())).await;
    for instance in instances {
        assert_eq!(product(&mut instance.browser(), 13).await.1, before - 1);
    }

    server.kill();
    let start = Instant::now();
    look_around(&instances).await;
    assert!(start.elapsed() < QUICK, "pages wait for a cache that is gone: {:?}", start.elapsed());
    server.revive();
    is_used(&instances).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_without_its_place_and_a_place_without_a_cache_are_refused() {
    for (options, says) in [
        (&["--cache", "cache-aside"][..], "--cache-url <URL>"),
        (&["--cache", "write-through"], "--cache-url <URL>"),
        (&["--cache-url", "redis://127.0.0.1:6379"], "--cache <HOW>"),
        (&["--cache", "on", "--cache-url", "redis://127.0.0.1:6379"], "cache-aside, write-through"),
        (&["--cache", "cache-aside", "--cache-url", "http://127.0.0.1"], "write redis://HOST:PORT"),
    ] {
        let output = run_to_end(&[&["instance", "--data", "/"], options].concat()).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(says), "{options:?}: {said}");
    }
    let data = tempfile::tempdir().unwrap();
    let without = Instance::start(data.path(), 1).await;
    assert_eq!(without.browser().get("/api/cache").await.json(), json!({ "cache": null }));
}
