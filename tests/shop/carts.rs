//! Where carts live: what each place keeps when an instance dies, and what it says when it cannot keep something.

use std::process::Stdio;

use crate::browser::Browser;
use crate::cache::redis;
use crate::processes::{Instance, SOON, program, run_to_end, until};
use http::StatusCode;
use serde_json::{Value, json};

#[path = "../support/dynalite.rs"]
#[allow(dead_code, reason = "a module of several test binaries, each of which uses its own part")]
mod dynalite;
use dynalite::Dynalite;

async fn add(visitor: &mut Browser, product: i64, quantity: i64) {
    let answer =
        visitor.post("/api/cart/items", json!({ "product_id": product, "quantity": quantity })).await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
}

/// Product ids and quantities.
async fn lines(visitor: &mut Browser) -> Vec<(i64, i64)> {
    let answer = visitor.get("/api/cart").await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    let cart = answer.json();
    let line = |item: &Value| (item["product_id"].as_i64().unwrap(), item["quantity"].as_i64().unwrap());
    cart["items"].as_array().unwrap().iter().map(line).collect()
}

/// Fills a cart at one instance, kills that, and gives what another one knows of the cart, and whether of the login.
async fn after_the_death_of_the_instance(carts: &[&str]) -> (Vec<(i64, i64)>, bool) {
    after_a_death_in(carts, &[]).await
}

/// The same with something in the instances' environment.
async fn after_a_death_in(carts: &[&str], environment: &[(&str, &str)]) -> (Vec<(i64, i64)>, bool) {
    let data = tempfile::tempdir().unwrap();
    let mut first = Instance::start_in(data.path(), 1, carts, environment).await;
    let second = Instance::start_in(data.path(), 2, carts, environment).await;
    let mut visitor = first.browser();
    visitor.post("/api/signup", json!({ "email": "ana@example.com", "password": "eight ch" })).await;
    add(&mut visitor, 13, 2).await;
    assert_eq!(lines(&mut visitor).await, [(13, 2)]);
    first.child.kill().await.unwrap();
    let mut moved = visitor.clone_to(second.address);
    let found = lines(&mut moved).await;
    let logged_in = moved.get("/api/account").await.status == StatusCode::OK;
    add(&mut moved, 1, 1).await;
    (found, logged_in)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_memory_end_with_their_instance() {
    let left = after_the_death_of_the_instance(&["--carts", "memory"]).await;
    assert_eq!(left, (vec![], false), "a shared store would make this step of the architecture pointless");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_cookies_outlive_their_instance() {
    let left = after_the_death_of_the_instance(&["--carts", "cookie"]).await;
    assert_eq!(left, (vec![(13, 2)], true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_sqlite_outlive_their_instance() {
    let left = after_the_death_of_the_instance(&["--carts", "sqlite"]).await;
    assert_eq!(left, (vec![(13, 2)], true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_redis_outlive_their_instance_and_its_password_is_in_the_environment() {
    let server = redis::Server::start("requirepass s3cret\n");
    let place = format!("redis://{}", server.address());
    let left = after_a_death_in(&["--carts", &place], &[("REDISCLI_AUTH", "s3cret")]).await;
    assert_eq!(left, (vec![(13, 2)], true));
}

/// What every request to DynamoDB is signed with.
const AWS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", "a-test"), ("AWS_SECRET_ACCESS_KEY", "a-test's")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn carts_in_dynamodb_outlive_their_instance() {
    let server = Dynalite::start();
    let left = after_a_death_in(&["--carts", &server.place("carts")], &AWS).await;
    assert_eq!(left, (vec![(13, 2)], true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_does_not_start_without_what_it_would_never_work_without() {
    let server = Dynalite::start();
    let data = tempfile::tempdir().unwrap();
    let place = server.place("carts");
    let without_table = place.replace("create=true", "create=false");
    for (carts, environment, said) in [
        (&place, &AWS[..1], "AWS_SECRET_ACCESS_KEY is not set"),
        (&without_table, &AWS[..], "there is no table carts in DynamoDB"),
    ] {
        let mut instance = tokio::process::Command::new(program());
        instance.args(["instance", "--supervised", "--carts", carts, "--address", "127.0.1.1:0", "--data"]);
        instance.arg(data.path()).env_remove("AWS_SECRET_ACCESS_KEY").envs(environment.iter().copied());
        let output = instance.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(SOON, output).await.expect("it still runs").unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(said), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_basket_is_bought_once_even_if_its_cart_could_not_be_emptied() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start_with(data.path(), 1, &["--carts", "cookie"]).await;
    let mut visitor = instance.browser();
    add(&mut visitor, 13, 2).await;
    // What a browser has when the answer to its checkout is lost: the old cookie.
    let mut left_behind = visitor.clone_to(instance.address);
    let to = json!({ "name": "Ana", "address": "1 Loom Street" });
    let bought = visitor.post("/api/checkout", to.clone()).await;
    assert_eq!(bought.status, StatusCode::CREATED, "{bought:?}");
    assert_eq!(lines(&mut visitor).await, []);
    assert_eq!(lines(&mut left_behind).await, [(13, 2)]);
    let again = left_behind.post("/api/checkout", to.clone()).await;
    assert_eq!((again.status, &again.json()["id"]), (StatusCode::OK, &bought.json()["id"]), "{again:?}");
    assert_eq!(lines(&mut left_behind).await, []);
    // The same things, put into the cart again, are another order.
    add(&mut left_behind, 13, 2).await;
    let another = left_behind.post("/api/checkout", to).await;
    assert_eq!(another.status, StatusCode::CREATED, "{another:?}");
    assert_ne!(another.json()["id"], bought.json()["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_says_when_a_browser_cannot_keep_more_and_the_cart_stays() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start_with(data.path(), 1, &["--carts", "cookie"]).await;
    // More products than the shop sells.
    let shop = rusqlite::Connection::open(data.path().join("shop.db")).unwrap();
    shop.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    for id in 1000..1500 {
        shop.execute("INSERT INTO products SELECT ?1, name, category, colour, hex, pattern, price_cents, stock, description, version FROM products WHERE id = 1", [id])
            .unwrap();
    }
    let mut visitor = instance.browser();
    let token = visitor.get("/").await;
    assert_eq!(token.status, StatusCode::OK);
    let token = visitor.get("/product/1000").await.form_token().to_owned();
    for id in 1000..1500 {
        let before = visitor.cookies.clone();
        let fields = [("token", &*token), ("product_id", &id.to_string()), ("quantity", "99")];
        let answer = visitor.submit("/cart/items", &fields).await;
        if answer.status == StatusCode::SEE_OTHER {
            continue;
        }
        assert_eq!(answer.status, StatusCode::CONFLICT, "{answer:?}");
        assert!(answer.text().contains("Your cart is full: it is kept in your browser"), "{}", answer.text());
        assert_eq!(visitor.cookies, before);
        assert_eq!(lines(&mut visitor).await, (1000..id).map(|id| (id, 99)).collect::<Vec<_>>());
        let freed = visitor.delete("/api/cart/items/1000").await;
        assert_eq!(freed.status, StatusCode::OK);
        assert!(id > 1200, "already after {} products", id - 1000);
        return;
    }
    panic!("a browser was given a cookie that it does not keep");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_cannot_be_written_is_told_and_nothing_in_the_cart_is_lost() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start_with(data.path(), 1, &["--carts", "sqlite"]).await;
    let mut visitor = instance.browser();
    let token = visitor.get("/product/1").await.form_token().to_owned();
    add(&mut visitor, 13, 2).await;
    let other = rusqlite::Connection::open(data.path().join("carts.db")).unwrap();
    until("the file is ours alone", async || other.execute_batch("BEGIN IMMEDIATE").ok()).await;
    let refused = visitor.post("/api/cart/items", json!({ "product_id": 1, "quantity": 1 })).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "2"));
    let said = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(said.contains("Your cart cannot be reached"), "{said}");
    let fields = [("token", &*token), ("product_id", "1"), ("quantity", "1")];
    let page = visitor.submit("/cart/items", &fields).await;
    assert_eq!((page.status, page.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "2"));
    assert!(page.text().contains("Your cart cannot be reached"), "{}", page.text());
    assert_eq!(lines(&mut visitor).await, [(13, 2)], "who reads does not wait for who writes");
    other.execute_batch("ROLLBACK").unwrap();
    add(&mut visitor, 1, 1).await;
    assert_eq!(lines(&mut visitor).await, [(1, 1), (13, 2)]);
}

#[tokio::test]
async fn a_place_that_does_not_exist_is_refused_with_those_that_do() {
    for (args, wanted) in [
        (&["--carts", "nowhere"][..], "write memory, cookie"),
        (&["instance"], "write --data DIR"),
        (&["instance", "--carts", "memory"], "write --data DIR"),
    ] {
        let output = run_to_end(args).await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(wanted), "{args:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_is_told_and_the_catalogue_can_still_be_looked_at() {
    let data = tempfile::tempdir().unwrap();
    // Nothing listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = format!("redis://{free}");
    let instance = Instance::start_with(data.path(), 1, &["--carts", &place]).await;
    let mut visitor = instance.browser();
    assert_eq!(visitor.get("/").await.status, StatusCode::OK);
    assert!(visitor.cookies.contains_key("sid"), "from now on there may be a cart");
    for path in ["/cart", "/checkout", "/account", "/api/cart", "/api/account"] {
        let answer = visitor.get(path).await;
        let told = (answer.status, answer.header("retry-after"));
        assert_eq!(told, (StatusCode::SERVICE_UNAVAILABLE, "2"), "{path}: {answer:?}");
        assert!(answer.text().contains("Your cart cannot be reached"), "{path}: {}", answer.text());
    }
    for path in ["/", "/product/13", "/api/products", "/healthz"] {
        assert_eq!(visitor.get(path).await.status, StatusCode::OK, "{path}");
    }
    let page = visitor.get("/").await;
    assert!(page.text().contains("Carts cannot be reached at the moment"), "{}", page.text());
    assert!(!page.text().contains("class=\"count\""), "how much is in the cart is not known");
    let added = visitor.post("/api/cart/items", json!({ "product_id": 1, "quantity": 1 })).await;
    assert_eq!(added.status, StatusCode::SERVICE_UNAVAILABLE);
}
