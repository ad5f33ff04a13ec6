//! Targets that are registered at run time: they serve, they are taken back, and they are there again after a restart.

use serde_json::{Value, json};

use crate::discovery::{answering, has, named, targets};
use crate::support::{Client, Edge, Origin, Response, Setup};

async fn call(edge: &Edge, method: &str, target: &str, body: &str) -> (u16, Value) {
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let fields: &[&str] = if body.is_empty() { &[] } else { &["Content-Type: application/json"] };
    let target = format!("/v1/pools/shop/targets/{target}");
    let answer: Response = client.request(method, &target, fields, body.as_bytes()).await;
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

/// A pool that begins without a target.
fn empty(top: &str) -> Setup {
    Edge::without_pool().top(top).and(
        "[[route]]\npool = \"shop\"\n[pool.shop]\nstickiness.mode = \"lb_cookie\"\ndrain.deadline = \"1h\"\n\
         drain.quiet = \"1s\"\nqueue.length = 0\n[pool.shop.health]\npath = \"/healthz\"\ninterval = \"100ms\"\n",
    )
}

fn state(folder: &tempfile::TempDir) -> String {
    format!("state = \"{}\"", folder.path().join("state.json").display())
}

#[tokio::test]
async fn a_target_is_registered_changed_and_taken_back() {
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let edge = empty("").start_unready().await;
    edge.logged(&["has no target but those that are registered at run time"]).await;
    assert_eq!(edge.admin("/readyz").await.status, 503);
    let (status, shown) = call(&edge, "PUT", &named("az-a", &one), "").await;
    assert_eq!((status, &shown["weight"], &shown["source"]), (201, &json!(1), &json!("runtime")));
    assert_eq!((&shown["kept"], shown["not_kept"].is_string()), (&json!(false), true));
    edge.ready().await;
    let mut bound = Client::of(&edge);
    assert_eq!(bound.get("/").await.origin(), "one");
    let (status, shown) =
        call(&edge, "PUT", &named("az-a", &one), r#"{"weight":3,"max_connections":9}"#).await;
    assert_eq!((status, &shown["weight"], &shown["max_connections"]), (200, &json!(3), &json!(9)));
    call(&edge, "PUT", &named("-", &two), r#"{"max_connections":null}"#).await;
    let mut both = [(named("az-a", &one), "healthy"), (named("-", &two), "healthy")];
    both.sort();
    has(&edge, &both).await;
    let (status, gone) = call(&edge, "DELETE", &named("az-a", &one).replace('/', "%2F"), "").await;
    assert_eq!((status, &gone["present"]), (200, &json!(true)));
    let mut drained = [(named("az-a", &one), "draining"), (named("-", &two), "healthy")];
    drained.sort();
    has(&edge, &drained).await;
    assert_eq!(answering(&edge, 20).await, ["two"]);
    assert_eq!(bound.get("/").await.origin(), "one");
    assert_eq!(call(&edge, "DELETE", &named("az-a", &one), "").await.1["error"]["code"], "not_registered");
    edge.logged(&["decided", "safe to remove", &named("az-a", &one)]).await;
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_with_a_reason() {
    let (written, other) = (Origin::named("written").await, Origin::named("other").await);
    let edge = Edge::before(&written).start().await;
    let web = edge.web;
    let table = [
        ("PUT", format!("az-a/{written}"), "", 409, "address_taken"),
        ("PUT", format!("az-a/{web}"), "", 409, "address_taken"),
        ("PUT", "az-a/0.0.0.0:80".to_owned(), "", 400, "bad_target"),
        ("PUT", "az-a/127.0.0.1:0".to_owned(), "", 400, "bad_target"),
        ("PUT", "az a".to_owned().replace(' ', "%20"), "", 400, "bad_target"),
        ("PUT", format!("az-a/{other}"), r#"{"weight":1000}"#, 400, "bad_target"),
        ("PUT", format!("az-a/{other}"), r#"{"max_connections":0}"#, 400, "bad_target"),
        ("PUT", format!("az-a/{other}"), r#"{"wight":1}"#, 400, "bad_body"),
        ("PUT", format!("az-a/{other}"), "[", 400, "bad_body"),
        ("DELETE", format!("-/{written}"), "", 404, "not_registered"),
        ("DELETE", format!("az-a/{other}"), "", 404, "not_registered"),
        ("DELETE", "nonsense".to_owned(), "", 400, "bad_target"),
    ];
    for (method, target, body, status, code) in table {
        let answer = call(&edge, method, &target, body).await;
        assert_eq!(
            (answer.0, &answer.1["error"]["code"]),
            (status, &json!(code)),
            "{method} {target} {body}"
        );
    }
    assert_eq!(targets(&edge).await, [(named("-", &written), "healthy".to_owned())]);
}

#[tokio::test]
async fn a_registered_target_wins_over_the_file_and_gives_way_to_it_again() {
    let one = Origin::named("one").await;
    let edge = Edge::before(&one).start().await;
    let (status, shown) = call(&edge, "PUT", &named("-", &one), r#"{"weight":5}"#).await;
    assert_eq!((status, &shown["weight"], &shown["source"]), (201, &json!(5), &json!("runtime")));
    let (status, gone) = call(&edge, "DELETE", &named("-", &one), "").await;
    assert_eq!((status, &gone["present"]), (200, &json!(true)));
    let pool = crate::discovery::pool(&edge).await;
    assert_eq!((&pool["targets"][0]["weight"], &pool["targets"][0]["source"]), (&json!(1), &json!("file")));
    assert_eq!(answering(&edge, 3).await, ["one"]);
}

#[tokio::test]
async fn registered_targets_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let edge = empty(&state(&folder)).start_unready().await;
    let (_, shown) = call(&edge, "PUT", &named("az-a", &one), r#"{"weight":2,"max_connections":4}"#).await;
    assert_eq!((&shown["kept"], &shown["not_kept"]), (&json!(true), &Value::Null));
    call(&edge, "PUT", &named("az-b", &two), "").await;
    assert_eq!(call(&edge, "DELETE", &named("az-b", &two), "").await.1["kept"], true);
    drop(edge);
    let edge = empty(&state(&folder)).start().await;
    has(&edge, &[(named("az-a", &one), "healthy")]).await;
    let pool = crate::discovery::pool(&edge).await;
    assert_eq!(
        (&pool["targets"][0]["weight"], &pool["targets"][0]["max_connections"]),
        (&json!(2), &json!(4))
    );
    assert_eq!(answering(&edge, 3).await, ["one"]);
}

#[tokio::test]
async fn a_state_file_that_cannot_be_used_is_reported_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (written, one) = (Origin::named("written").await, Origin::named("one").await);
    let file = folder.path().join("state.json");
    std::fs::write(&file, "{\"version\":1,\"targets\":{\"shop\":").unwrap();
    let edge = Edge::before(&written).top(&state(&folder)).start().await;
    edge.logged(&["ERROR", "is not a state file", "was put aside as", "unusable"]).await;
    let shown: Value = serde_json::from_slice(&edge.admin("/v1/pools").await.body).unwrap();
    assert!(shown["node"]["state"]["problem"].as_str().unwrap().contains("is not a state file"));
    assert_eq!(answering(&edge, 3).await, ["written"]);
    // A folder in its place cannot be replaced by a file.
    std::fs::create_dir(&file).unwrap();
    std::fs::write(file.join("something"), "").unwrap();
    let (status, shown) = call(&edge, "PUT", &named("az-a", &one), "").await;
    assert_eq!((status, &shown["kept"]), (201, &json!(false)));
    assert!(shown["not_kept"].as_str().unwrap().contains("cannot be written"), "{shown}");
    edge.logged(&["ERROR", "cannot be written", "it is kept until the node ends"]).await;
    assert_eq!(answering(&edge, 40).await, ["one", "written"]);
    std::fs::remove_dir_all(&file).unwrap();
    assert_eq!(call(&edge, "PUT", &named("az-a", &one), "").await.1["kept"], true);
    let shown: Value = serde_json::from_slice(&edge.admin("/v1/pools").await.body).unwrap();
    assert!(shown["node"]["state"]["problem"].is_null());
}
