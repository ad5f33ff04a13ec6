//! One instance by itself: what it answers, what it refuses, how it ends.

use std::io::{Read as _, Write as _};

use crate::browser::Browser;
use crate::processes::{Instance, SOON, send_signal, until};
use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

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
async fn an_addition_that_arrives_late_does_not_count_twice() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let empty = visitor.get("/api/cart").await.header("etag").to_owned();
    let add = async |visitor: &mut Browser, tag: &str| {
        let fields = [("content-type", "application/json"), ("if-match", tag)];
        let item = json!({ "product_id": 13, "quantity": 1 }).to_string();
        visitor.try_send(Method::POST, "/api/cart/items", &fields, &item).await.unwrap()
    };
    let first = add(&mut visitor, &empty).await;
    assert_eq!(first.status, StatusCode::OK);
    let one = first.header("etag").to_owned();
    assert_eq!(visitor.get("/api/cart").await.header("etag"), one);
    // The same request again, as the network may deliver it after its sender has given up and looked.
    for tag in [&*empty, "\"\"", "W/\"1\"", "nonsense"] {
        let late = add(&mut visitor, tag).await;
        assert_eq!(late.status, StatusCode::PRECONDITION_FAILED, "{tag}");
        assert!(late.json()["error"].as_str().unwrap().contains("changed"), "{}", late.text());
    }
    assert_eq!(visitor.get("/api/cart").await.json()["items"][0]["quantity"], 1);
    for (tag, pieces) in [(format!("{empty}, {one}"), 2), ("*".to_owned(), 3)] {
        assert_eq!(add(&mut visitor, &tag).await.json()["items"][0]["quantity"], pieces);
    }
}

#[tokio::test]
async fn the_catalogue_can_be_listed_searched_and_filtered() {
    let data = tempfile::tempdir().unwrap();
    let instance = Instance::start(data.path(), 1).await;
    let mut visitor = instance.browser();
    let count = |answer: crate::browser::Answer| answer.json()["products"].as_array().unwrap().len();
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
