//! The shop, black box: one instance by itself, the processes that are kept alive, and the whole system through the proxy.
//!
//! The last tests are what Selvedge is for: shoppers go on shopping while instances are killed under them. They
//! run for 10 seconds, or for a minute with `SELVEDGE_SOAK=1`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

#[path = "shop/browser.rs"]
mod browser;
#[path = "shop/processes.rs"]
mod processes;
#[path = "shop/shoppers.rs"]
mod shoppers;

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use browser::Browser;
use hickory_server::proto::op::{Message, Query};
use hickory_server::proto::rr::{Name, RecordType};
use http::{Method, StatusCode};
use processes::{Instance, SOON, System, free_port, program, run_to_end, runs, send_signal, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;

// ── One instance ──

#[tokio::test]
async fn an_instance_signs_every_answer_and_says_who_it_is() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 2).await;
    let mut visitor = instance.browser();
    for (path, status) in
        [("/", 200), ("/healthz", 200), ("/style.css", 200), ("/nothing", 404), ("/api/nothing", 404)]
    {
        let answer = visitor.get(path).await;
        assert_eq!((answer.status.as_u16(), answer.served_by()), (status, "az-a-2"), "{path}");
    }
    let who = visitor.get("/api/whoami").await.json();
    assert_eq!(who, json!({ "instance": "az-a-2", "zone": "az-a", "pid": instance.child.id().unwrap() }));
    let page = visitor.get("/").await;
    assert!(page.text().contains("Served by <strong>az-a-2</strong> in zone <strong>az-a</strong>"));
}

#[tokio::test]
async fn the_catalogue_can_be_listed_searched_and_filtered() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let count = |answer: browser::Answer| answer.json()["products"].as_array().unwrap().len();
    let all = count(visitor.get("/api/products").await);
    assert!(all >= 24, "only {all} products");
    let hats = count(visitor.get("/api/products?category=Hats").await);
    assert!(0 < hats && hats < all);
    let found = visitor.get("/api/products?q=INDIGO+trousers").await.json();
    assert_eq!(found["products"][0]["name"], "Selvedge Jeans");
    assert_eq!(found["products"].as_array().unwrap().len(), 1);
    assert_eq!(count(visitor.get("/api/products?category=Hats&q=indigo").await), 0);
    let one = visitor.get("/api/products/13").await.json();
    assert_eq!((&one["name"], &one["price_cents"]), (&json!("Selvedge Jeans"), &json!(12900)));
    for path in ["/api/products/0", "/api/products/x", "/product/1000"] {
        assert_eq!(visitor.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let page = visitor.get("/?q=%3Cb%3E").await;
    assert!(page.text().contains("&#60;b&#62;") && !page.text().contains("<b>"), "{}", page.text());
}

#[tokio::test]
async fn a_cart_holds_what_was_added_and_not_what_was_removed() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    assert_eq!(visitor.get("/api/cart").await.json(), json!({ "items": [], "total_cents": 0 }));
    assert!(visitor.cookies.is_empty(), "who only looks gets no session from the API");
    visitor.post("/api/cart/items", json!({ "product_id": 13, "quantity": 2 })).await;
    visitor.post("/api/cart/items", json!({ "product_id": 1, "quantity": 1 })).await;
    let answer = visitor.post("/api/cart/items", json!({ "product_id": 13, "quantity": 1 })).await;
    let expected = json!({
        "items": [
            { "product_id": 1, "name": "Everyday Tee", "quantity": 1, "price_cents": 1900, "line_cents": 1900 },
            { "product_id": 13, "name": "Selvedge Jeans", "quantity": 3, "price_cents": 12900, "line_cents": 38700 },
        ],
        "total_cents": 40600,
    });
    assert_eq!(answer.json(), expected);
    assert_eq!(visitor.get("/api/cart").await.json(), expected);
    for _ in 0..2 {
        let left = visitor.delete("/api/cart/items/13").await;
        assert_eq!((left.status, &left.json()["total_cents"]), (StatusCode::OK, &json!(1900)));
    }
    let other = instance.browser().get("/api/cart").await.json();
    assert_eq!(other["items"], json!([]), "another visitor has another cart");
}

#[tokio::test]
async fn what_cannot_be_accepted_is_refused_with_its_reason() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let item = |product_id: Value, quantity: Value| json!({ "product_id": product_id, "quantity": quantity });
    let signup = |email: &str, password: &str| json!({ "email": email, "password": password });
    let long = "x".repeat(200);
    for (path, body, status, field) in [
        ("/api/cart/items", item(json!(1), json!(0)), 422, json!("quantity")),
        ("/api/cart/items", item(json!(1), json!(-1)), 422, json!("quantity")),
        ("/api/cart/items", item(json!(1), json!(100)), 422, json!("quantity")),
        ("/api/cart/items", item(json!(1000), json!(1)), 422, json!("product_id")),
        ("/api/cart/items", item(json!(1), json!(1.5)), 400, Value::Null),
        ("/api/cart/items", item(json!("x"), json!(1)), 400, Value::Null),
        ("/api/cart/items", json!([]), 400, Value::Null),
        ("/api/checkout", json!({}), 409, Value::Null),
        ("/api/signup", signup("ana", "long enough"), 422, json!("email")),
        ("/api/signup", signup("ana@example.com", "short"), 422, json!("password")),
        ("/api/signup", signup("ana@example.com", &long), 422, json!("password")),
        ("/api/login", signup("ana@example.com", "long enough"), 401, Value::Null),
    ] {
        let answer = visitor.post(path, body.clone()).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["field"]), (status, &field), "{path} {body}");
        assert!(!answer.json()["error"].as_str().unwrap().is_empty(), "{path} {body}");
    }
    let json_type = [("content-type", "application/json")];
    let cut =
        visitor.try_send(Method::POST, "/api/cart/items", &json_type, "{\"product_id\":1").await.unwrap();
    assert_eq!(cut.status, StatusCode::BAD_REQUEST);
    let large = visitor.try_send(Method::POST, "/api/login", &json_type, &"x".repeat(70_000)).await.unwrap();
    assert_eq!(large.status, StatusCode::PAYLOAD_TOO_LARGE);
    let wrong = visitor.try_send(Method::PUT, "/api/cart", &[], "").await.unwrap();
    assert_eq!((wrong.status, wrong.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD"));
    assert_eq!(visitor.get("/api/account").await.status, StatusCode::UNAUTHORIZED);
    let cart = visitor.get("/api/cart").await.json();
    assert_eq!(cart["items"], json!([]), "none of it changed anything");
}

#[tokio::test]
async fn a_change_from_another_site_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let own = format!("http://{}", instance.address);
    let item = json!({ "product_id": 1, "quantity": 1 }).to_string();
    for (fields, status) in [
        (vec![("content-type", "application/json"), ("origin", &*own)], 200),
        (vec![("content-type", "application/json"), ("origin", "http://evil.test")], 403),
        (vec![("content-type", "application/json"), ("origin", "null")], 403),
        (vec![("content-type", "application/json"), ("sec-fetch-site", "cross-site")], 403),
        (vec![("content-type", "text/plain")], 415),
        (vec![], 415),
    ] {
        let answer = visitor.try_send(Method::POST, "/api/cart/items", &fields, &item).await.unwrap();
        assert_eq!(answer.status.as_u16(), status, "{fields:?}");
    }
    let empty_form = [("content-type", "application/x-www-form-urlencoded")];
    let checkout = visitor.try_send(Method::POST, "/api/checkout", &empty_form, "").await.unwrap();
    assert_eq!(checkout.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "a form of another site has this type");
    assert_eq!(visitor.get("/api/cart").await.json()["items"][0]["quantity"], 1);
}

#[tokio::test]
async fn a_form_without_the_token_that_was_shown_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let (mut visitor, mut other) = (instance.browser(), instance.browser());
    let foreign = other.get("/product/1").await.form_token().to_owned();
    let token = visitor.get("/product/1").await.form_token().to_owned();
    for wrong in ["", "x", &foreign] {
        let fields = [("token", wrong), ("product_id", "1"), ("quantity", "1")];
        assert_eq!(visitor.submit("/cart/items", &fields).await.status, StatusCode::FORBIDDEN, "{wrong:?}");
    }
    let path = "/cart/items/1/remove";
    assert_eq!(visitor.submit(path, &[]).await.status, StatusCode::FORBIDDEN);
    for path in ["/checkout", "/account", "/login", "/signup", "/logout"] {
        assert_eq!(visitor.submit(path, &[]).await.status, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(visitor.get("/api/cart").await.json()["items"], json!([]));
    let fields = [("token", &*token), ("product_id", "1"), ("quantity", "1")];
    let accepted = visitor.submit("/cart/items", &fields).await;
    assert_eq!((accepted.status, accepted.header("location")), (StatusCode::SEE_OTHER, "/cart"));
}

#[tokio::test]
async fn a_person_without_javascript_can_buy() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let token = visitor.get("/product/21").await.form_token().to_owned();
    let refused =
        visitor.submit("/cart/items", &[("token", &token), ("product_id", "21"), ("quantity", "0")]).await;
    assert_eq!(refused.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.text().contains("role=\"alert\"") && refused.text().contains("Chore Jacket"));
    visitor.submit("/cart/items", &[("token", &token), ("product_id", "21"), ("quantity", "3")]).await;
    visitor.submit("/cart/items/21/quantity", &[("token", &token), ("quantity", "2")]).await;
    assert!(visitor.get("/cart").await.text().contains("$278.00"));

    let signup = [("token", &*token), ("email", "ana@example.com"), ("password", "eight ch")];
    let welcome = visitor.submit("/signup", &signup).await;
    assert_eq!((welcome.status, welcome.header("location")), (StatusCode::SEE_OTHER, "/account"));
    let token = visitor.get("/account").await.form_token().to_owned();
    let empty = visitor.submit("/account", &[("token", &token), ("name", ""), ("address", "")]).await;
    assert_eq!(empty.status, StatusCode::UNPROCESSABLE_ENTITY);
    let account = [("token", &*token), ("name", "Ana <3"), ("address", "1 Loom Street\r\nLeeds")];
    visitor.submit("/account", &account).await;

    let form = visitor.get("/checkout").await;
    assert!(form.text().contains("value=\"Ana &#60;3\"") && form.text().contains("1 Loom Street\nLeeds"));
    let key = form.between("name=\"key\" value=\"", "\"").to_owned();
    let buy = [("token", &*token), ("key", &key), ("name", "Ana"), ("address", "1 Loom Street")];
    let bought = visitor.submit("/checkout", &buy).await;
    assert_eq!(bought.status, StatusCode::SEE_OTHER);
    let again = visitor.submit("/checkout", &buy).await;
    assert_eq!(again.header("location"), bought.header("location"), "the form counts once");
    let order = bought.header("location").to_owned();
    assert!(visitor.get(&order).await.text().contains("Thank you, Ana"));
    assert!(visitor.get("/account").await.text().contains(&order));
    assert_eq!(instance.browser().get(&order).await.status, StatusCode::NOT_FOUND, "it is nobody else's");
}

#[tokio::test]
async fn a_login_renews_the_session_and_keeps_the_cart() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let credentials = json!({ "email": "Ana@Example.com", "password": "eight ch" });
    let made = instance.browser().post("/api/signup", credentials.clone()).await;
    assert_eq!((made.status, &made.json()["email"]), (StatusCode::CREATED, &json!("ana@example.com")));
    let taken = instance.browser().post("/api/signup", credentials.clone()).await;
    assert_eq!(taken.status, StatusCode::CONFLICT);

    let mut visitor = instance.browser();
    visitor.post("/api/cart/items", json!({ "product_id": 5, "quantity": 4 })).await;
    let mut before = visitor.clone_to(instance.address);
    assert_eq!(visitor.post("/api/login", credentials.clone()).await.status, StatusCode::OK);
    assert_ne!(visitor.cookies["sid"], before.cookies["sid"]);
    assert_eq!(visitor.get("/api/cart").await.json()["items"][0]["quantity"], 4);
    assert_eq!(
        before.get("/api/account").await.status,
        StatusCode::UNAUTHORIZED,
        "the old sid is worth nothing"
    );
    assert_eq!(before.get("/api/cart").await.json()["items"], json!([]));

    let json_type = [("content-type", "application/json")];
    let to = json!({ "name": "Ana", "address": "1 Loom Street" });
    let put = visitor.try_send(Method::PUT, "/api/account", &json_type, &to.to_string()).await.unwrap();
    assert_eq!(put.json(), json!({ "email": "ana@example.com", "name": "Ana", "address": "1 Loom Street" }));
    assert_eq!(visitor.get("/api/account").await.json(), put.json());
    let mut logged_in = visitor.clone_to(instance.address);
    assert_eq!(visitor.post("/api/logout", json!({})).await.status, StatusCode::NO_CONTENT);
    assert_eq!(visitor.get("/api/account").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(logged_in.get("/api/account").await.status, StatusCode::UNAUTHORIZED);
    let wrong = json!({ "email": "ana@example.com", "password": "wrong one" });
    assert_eq!(visitor.post("/api/login", wrong).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn additions_to_one_cart_on_two_instances_at_the_same_time_all_count() {
    const EACH: usize = 40;
    let data = tempfile::tempdir().unwrap();
    let instances = [Instance::start(data.path(), 1).await, Instance::start(data.path(), 2).await];
    let mut visitor = instances[0].browser();
    visitor.get("/").await;
    let adding: Vec<_> = [0, 1, 0, 1]
        .map(|place: usize| {
            let mut window = visitor.clone_to(instances[place].address);
            tokio::spawn(async move {
                for _ in 0..EACH {
                    let answer =
                        window.post("/api/cart/items", json!({ "product_id": 7, "quantity": 1 })).await;
                    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
                }
            })
        })
        .into();
    for added in adding {
        added.await.unwrap();
    }
    assert_eq!(visitor.get("/api/cart").await.json()["items"][0]["quantity"], 4 * EACH);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkout_that_is_sent_many_times_buys_once() {
    let data = tempfile::tempdir().unwrap();
    let instances = [Instance::start(data.path(), 1).await, Instance::start(data.path(), 2).await];
    let mut visitor = instances[0].browser();
    let stock = async |visitor: &mut Browser| visitor.get("/api/products/23").await.json()["stock"].as_i64();
    let before = stock(&mut visitor).await.unwrap();
    visitor.post("/api/cart/items", json!({ "product_id": 23, "quantity": 2 })).await;
    let buying: Vec<_> = (0..8)
        .map(|place| {
            let mut window = visitor.clone_to(instances[place % 2].address);
            tokio::spawn(async move {
                let fields = [("content-type", "application/json"), ("idempotency-key", "once")];
                let to = json!({ "name": "Ana", "address": "1 Loom Street" }).to_string();
                window.try_send(Method::POST, "/api/checkout", &fields, &to).await.unwrap()
            })
        })
        .collect();
    let mut placed = Vec::new();
    for bought in buying {
        let answer = bought.await.unwrap();
        assert!(answer.status.is_success(), "{answer:?}");
        placed.push((answer.status == StatusCode::CREATED, answer.json()["id"].clone()));
    }
    assert_eq!(placed.iter().filter(|(first, _)| *first).count(), 1, "{placed:?}");
    assert!(placed.iter().all(|(_, id)| *id == placed[0].1), "{placed:?}");
    assert_eq!(stock(&mut visitor).await, Some(before - 2));
    assert_eq!(visitor.get("/api/cart").await.json()["items"], json!([]));
}

#[tokio::test]
async fn a_checkout_of_more_than_there_is_changes_nothing() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    visitor.post("/api/cart/items", json!({ "product_id": 1, "quantity": 1 })).await;
    visitor.post("/api/cart/items", json!({ "product_id": 32, "quantity": 4 })).await;
    let stock = visitor.get("/api/products").await.json();
    let refused = visitor.post("/api/checkout", json!({ "name": "Ana", "address": "1 Loom Street" })).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    assert!(refused.json()["error"].as_str().unwrap().contains("only 3 are left"), "{refused:?}");
    assert_eq!(visitor.get("/api/products").await.json(), stock);
    assert_eq!(visitor.get("/api/cart").await.json()["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_terminated_instance_fails_its_health_check_and_finishes_what_it_has_begun() {
    let data = tempfile::tempdir().unwrap();
    let mut instance = Instance::start(data.path(), 1).await;
    let body = r#"{"product_id":1,"quantity":1}"#;
    let mut open = std::net::TcpStream::connect(instance.address).unwrap();
    open.set_read_timeout(Some(SOON)).unwrap();
    let head = "POST /api/cart/items HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n";
    write!(open, "{head}content-length: {}\r\n\r\n{}", body.len(), &body[..10]).unwrap();
    let mut visitor = instance.browser();
    visitor.get("/healthz").await;

    send_signal(instance.child.id().unwrap(), Signal::TERM);
    until("the health check fails", async || {
        (visitor.get("/healthz").await.status == StatusCode::SERVICE_UNAVAILABLE).then_some(())
    })
    .await;
    assert_eq!(visitor.get("/api/cart").await.status, StatusCode::OK, "everybody else is still served");
    until("the listener closes", async || TcpStream::connect(instance.address).await.err()).await;
    assert!(instance.child.try_wait().unwrap().is_none(), "it ended before the request did");
    open.write_all(&body.as_bytes()[10..]).unwrap();
    let mut answer = String::new();
    open.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let status = tokio::time::timeout(SOON, instance.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn an_instance_ends_with_the_process_that_started_it() {
    let data = tempfile::tempdir().unwrap();
    let mut instance = Instance::start(data.path(), 1).await;
    drop(instance.input.take());
    let status = tokio::time::timeout(SOON, instance.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

// ── The processes that are kept alive ──

#[tokio::test]
async fn what_cannot_be_started_says_so_in_one_line_and_starts_nothing() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let taken_port = free_port();
    let _held = std::net::TcpListener::bind(("127.0.3.2", taken_port)).unwrap();
    let free: Vec<String> = (0..4).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let port = free_port().to_string();
    let system = |changed: &str, value: &str| {
        let defaults =
            [("--listen", &free[0]), ("--admin", &free[1]), ("--dns", &free[2]), ("--port", &port)];
        let mut args: Vec<String> = Vec::new();
        for (option, default) in defaults {
            args.extend([option.into(), if option == changed { value.into() } else { default.clone() }]);
        }
        if changed == "--data" {
            args.extend(["--data".into(), value.into()]);
        }
        args
    };
    for (option, value, named) in [
        ("--listen", &*taken, &*taken),
        ("--admin", &*taken, &*taken),
        ("--dns", &*taken, &*taken),
        ("--port", &*taken_port.to_string(), &*format!("127.0.3.2:{taken_port}")),
        ("--data", "/dev/null/shop", "/dev/null/shop"),
    ] {
        let args = system(option, value);
        let output = run_to_end(&args.iter().map(|arg| &**arg).collect::<Vec<_>>()).await;
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{option}: {errors}");
        assert_eq!(errors.lines().count(), 1, "{option}: {errors}");
        assert!(errors.contains(named) && errors.contains(option), "{option}: {errors}");
        assert!(output.stdout.is_empty(), "{option}");
        for address in &free[..3] {
            assert!(std::net::TcpListener::bind(address).is_ok(), "{option}: something listens on {address}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_is_back_within_two_seconds() {
    let system = System::start().await;
    assert_eq!(system.announced.len(), 8, "{:?}", system.announced);
    for (name, address) in system.instances() {
        let pid = system.pid_of(address).await.unwrap();
        assert!(system.announced.contains(&(name.clone(), pid)), "{name} {pid}");
        send_signal(pid, Signal::KILL);
        let killed = Instant::now();
        let next =
            until("it is back", async || system.pid_of(address).await.filter(|next| *next != pid)).await;
        assert!(killed.elapsed() < Duration::from_secs(2), "{name} as {next} after {:?}", killed.elapsed());
    }
}

/// The records of an answer, as text.
async fn ask(server: SocketAddr, name: &str, kind: RecordType) -> Vec<String> {
    let mut question = Message::query();
    question.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question.to_vec().unwrap(), server).await.unwrap();
    let mut answer = [0; 4096];
    let length = tokio::time::timeout(SOON, socket.recv(&mut answer)).await.unwrap().unwrap();
    let answer = Message::from_vec(&answer[..length]).unwrap();
    assert!(answer.answers.iter().all(|record| record.ttl == 1), "{answer}");
    let mut records: Vec<_> = answer.answers.iter().map(|record| record.data.to_string()).collect();
    records.sort();
    records
}

#[tokio::test]
async fn dns_answers_with_the_instances_that_it_was_told_last() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut dns = Command::new(program())
        .args(["dns", "--address", &address.to_string()])
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = dns.stdin.take().unwrap();
    let member = |zone: &str, number: u8| json!({ "name": format!("{zone}-{number}"), "zone": zone, "address": format!("127.0.2.{number}:9001") });
    let all = [member("az-b", 1), member("az-b", 2), member("az-c", 3)];
    for members in [&all[..], &all[1..], &all[..1], &[]] {
        let expected: Vec<_> = members
            .iter()
            .map(|member| {
                let part = |key: &str| member[key].as_str().unwrap();
                format!("0 1 9001 {}.{}.shop.internal.", part("name"), part("zone"))
            })
            .collect();
        input.write_all(format!("{}\n", json!(members)).as_bytes()).await.unwrap();
        until("the answer follows", async || {
            // The first question may come before the server does.
            TcpStream::connect(address).await.ok()?;
            (ask(address, "_http._tcp.shop.internal.", RecordType::SRV).await == expected).then_some(())
        })
        .await;
    }
    drop(input);
    let status = tokio::time::timeout(SOON, dns.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_knows_all_instances_by_name_by_zone_and_as_a_service() {
    let system = System::start().await;
    let all: Vec<_> = system
        .instances()
        .iter()
        .map(|(name, address)| format!("0 1 {} {name}.{}.shop.internal.", address.port(), &name[..4]))
        .collect();
    until("all instances are listed", async || {
        (ask(system.dns, "_http._tcp.shop.internal.", RecordType::SRV).await == all).then_some(())
    })
    .await;
    assert_eq!(ask(system.dns, "_http._tcp.az-b.shop.internal.", RecordType::SRV).await, all[2..4]);
    for name in ["az-b-2.shop.internal.", "az-b-2.az-b.shop.internal."] {
        assert_eq!(ask(system.dns, name, RecordType::A).await, ["127.0.2.2"]);
    }
    assert_eq!(ask(system.dns, "az-c.shop.internal.", RecordType::A).await, ["127.0.3.1", "127.0.3.2"]);
    assert!(ask(system.dns, "nobody.shop.internal.", RecordType::A).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminated_system_stops_all_of_its_parts_and_a_killed_one_takes_them_along() {
    for (signal, succeeds) in [(Signal::TERM, true), (Signal::KILL, false)] {
        let mut system = System::start().await;
        send_signal(system.child.id().unwrap(), signal);
        let status = tokio::time::timeout(SOON, system.child.wait()).await.unwrap().unwrap();
        assert_eq!(status.success(), succeeds, "{status}");
        until("all parts end", async || (!system.announced.iter().any(|(_, pid)| runs(*pid))).then_some(()))
            .await;
    }
}

// ── The README ──

/// The commands in its shell blocks, each on one line and without comments.
fn readme_commands() -> Vec<String> {
    let readme = include_str!("../examples/myclothes/README.md").replace("\\\n", " ");
    let blocks = readme.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix("sh\n"));
    let lines = blocks.flat_map(str::lines).map(|line| line.split("  #").next().unwrap().trim());
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_readme_works() {
    let system = System::start().await;
    let folder = tempfile::tempdir().unwrap();
    let instance = Instance::start(folder.path(), 1).await;
    let mut found = [0; 3];
    for command in readme_commands() {
        if command.starts_with("curl ") {
            found[0] += 1;
            let here = command
                .replace("127.0.0.1:8080", &system.proxy.to_string())
                .replace("127.0.1.1:9001", &instance.address.to_string());
            let shell = Command::new("sh").args(["-c", &here]).current_dir(folder.path()).output();
            let output = tokio::time::timeout(SOON, shell).await.unwrap().unwrap();
            assert!(output.status.success(), "is curl installed? {command}: {output:?}");
            let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert!(answer.is_object() && answer["error"].is_null(), "{command}: {answer}");
        } else if let Some(question) = command.strip_prefix("dig @127.0.0.1 -p 5353 +short ") {
            found[1] += 1;
            let (name, kind) = match question.split_once(' ') {
                Some((name, "SRV")) => (name, RecordType::SRV),
                _ => (question, RecordType::A),
            };
            assert!(!ask(system.dns, &format!("{name}."), kind).await.is_empty(), "{command}");
        } else {
            found[2] += 1;
            let args = command.strip_prefix("cargo run --release --example myclothes").expect(&command);
            let mut args: Vec<_> = args.strip_prefix(" -- ").unwrap_or_default().split_whitespace().collect();
            args.push("--help");
            let output = run_to_end(&args).await;
            assert!(output.status.success(), "{command}: {output:?}");
        }
    }
    assert!(found[0] >= 6 && found[1] >= 2 && found[2] >= 5, "{found:?}");
}

// ── Through the proxy ──

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
    let report = shoppers::shop(&system, Duration::from_secs(if soak { 60 } else { 10 })).await;
    println!("{report}");
    assert!(report.problems.is_empty(), "{report}\n{:#?}", report.problems);
    assert!(report.kills >= 10 && report.moves >= 1, "{report}");
    assert!(report.carts >= if soak { 2000 } else { 50 }, "{report}");
}
