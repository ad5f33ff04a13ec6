//! Reload: what makes it happen, that it is done as a whole or refused as a whole, and that everybody is told.

use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Client, Edge, Gate, Origin, Raw, Response, eventually, still_waiting_after};

/// A configuration that answers with `answer`, and more lines before it.
fn answering(answer: &str, top: &str) -> String {
    let route = format!("[[route]]\nrespond = {{ status = 200, body = \"{answer}\" }}\n");
    Edge::without_pool().top(top).and(&route).text()
}

const UNWATCHED: &str = "watch = false";

async fn answer_of(edge: &Edge) -> String {
    Client::of(edge).get("/").await.text()
}

fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error} in {response:?}"))
}

/// What `/v1/pools` says of the configuration.
async fn status(edge: &Edge) -> Value {
    value(&edge.admin("/v1/pools").await)["node"]["config"].clone()
}

#[tokio::test]
async fn the_api_reloads_and_says_what_changed() {
    let edge = Edge::start(&answering("one", UNWATCHED)).await;
    assert_eq!(status(&edge).await["last_reload"], Value::Null);
    edge.write(&answering("two", UNWATCHED));
    let report = value(&edge.reload().await);
    assert_eq!((&report["result"], &report["generation"]), (&json!("done"), &json!(2)));
    assert_eq!(
        report["changes"],
        json!([{"key": "route[*/].respond.body", "before": "\"one\"", "after": "\"two\"",
                "text": "route[*/].respond.body: \"one\" becomes \"two\""}])
    );
    assert_eq!((&report["sessions"], &report["restart_needed"]), (&json!([]), &json!([])));
    // The answer comes when the workers follow: no wait is needed.
    assert_eq!(answer_of(&edge).await, "two");
    let status = status(&edge).await;
    assert_eq!((&status["generation"], &status["last_reload"]["trigger"]), (&json!(2), &json!("api")));
    assert_eq!(status["last_reload"]["result"], "done");
    edge.logged(&["configuration reloaded", "trigger=\"api\"", "generation=2"]).await;
    edge.logged(&["route[*/].respond.body: \"one\" becomes \"two\""]).await;
}

#[tokio::test]
async fn a_signal_reloads() {
    let edge = Edge::start(&answering("one", UNWATCHED)).await;
    edge.write(&answering("two", UNWATCHED));
    edge.hang_up();
    eventually("the answer of the new file", async || answer_of(&edge).await == "two").await;
    assert_eq!(status(&edge).await["last_reload"]["trigger"], "signal");
}

#[tokio::test]
async fn a_changed_file_is_taken_up_however_it_was_changed() {
    let edge = Edge::start(&answering("one", "")).await;
    let file = edge.config();
    let at = |name: &str| file.with_file_name(name);
    let becomes = async |answer: &str| {
        eventually(&format!("the answer {answer}"), async || answer_of(&edge).await == answer).await;
        assert_eq!(status(&edge).await["last_reload"]["trigger"], "file");
    };
    edge.write(&answering("written", ""));
    becomes("written").await;
    std::fs::write(at("new"), answering("renamed", "")).unwrap();
    std::fs::rename(at("new"), &file).unwrap();
    becomes("renamed").await;
    // As Kubernetes mounts a ConfigMap: the file is a link through a link, and that one is swapped.
    for version in ["v1", "v2"] {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::write(at(version).join("selvedge.toml"), answering(version, "")).unwrap();
    }
    let link = |to: &str, name: &str| {
        symlink(to, at("link")).unwrap();
        std::fs::rename(at("link"), at(name)).unwrap();
    };
    link("v1", "..data");
    link("..data/selvedge.toml", "selvedge.toml");
    becomes("v1").await;
    link("v2", "..data");
    becomes("v2").await;
    assert_eq!(edge.generation().await, 5, "each change once");
}

#[tokio::test]
async fn a_file_that_is_only_touched_is_no_change() {
    let edge = Edge::start(&answering("one", "")).await;
    edge.write(&answering("one", ""));
    let reloaded = eventually("a reload", async || edge.generation().await > 1);
    assert!(still_waiting_after(Duration::from_millis(1800), reloaded).await);
}

#[tokio::test]
async fn without_watch_a_changed_file_waits_to_be_asked() {
    let edge = Edge::start(&answering("one", UNWATCHED)).await;
    edge.write(&answering("two", UNWATCHED));
    let reloaded = eventually("a reload", async || edge.generation().await > 1);
    assert!(still_waiting_after(Duration::from_millis(1800), reloaded).await);
    assert_eq!(answer_of(&edge).await, "one");
    assert_eq!(edge.reload().await.status, 200);
    assert_eq!(answer_of(&edge).await, "two");
}

#[tokio::test]
async fn a_wrong_file_changes_nothing_and_every_mistake_is_shown_everywhere() {
    let edge = Edge::start(&answering("one", UNWATCHED)).await;
    edge.write(&answering("two", "watch = false\nzone = \"az a\"\ncolour = \"red\""));
    let refused = edge.reload().await;
    assert_eq!(refused.status, 422);
    let error = &value(&refused)["error"];
    assert_eq!(error["code"], "bad_config");
    let problems: Vec<_> =
        error["problems"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].contains("selvedge.toml:2: zone: \"az a\" is not a name"), "{problems:?}");
    assert!(problems[1].contains("selvedge.toml:3: colour"), "{problems:?}");
    for problem in &problems {
        edge.logged(&["reload refused, nothing was changed", problem]).await;
    }
    let shown = status(&edge).await;
    assert_eq!((&shown["generation"], &shown["last_reload"]["result"]), (&json!(1), &json!("refused")));
    assert_eq!(shown["last_reload"]["problems"], error["problems"]);
    assert_eq!(edge.metric("selvedge_config_last_reload_successful").await, 0);
    assert_eq!(edge.metric("selvedge_config_reloads_total{result=\"refused\"}").await, 1);
    assert!(edge.metric("selvedge_config_last_reload_seconds").await > 1_600_000_000);
    assert_eq!(answer_of(&edge).await, "one");
    assert_eq!(edge.admin("/readyz").await.status, 200, "the old configuration is as good as before");
    edge.becomes(&answering("two", UNWATCHED)).await;
    assert_eq!(answer_of(&edge).await, "two");
    assert_eq!(edge.metric("selvedge_config_last_reload_successful").await, 1);
    assert_eq!(status(&edge).await["last_reload"]["problems"], json!([]));
}

#[tokio::test]
async fn a_wrong_file_is_refused_once_and_taken_up_when_it_is_mended() {
    let edge = Edge::start(&answering("one", "")).await;
    edge.write("nonsense");
    edge.logged(&["reload refused", "selvedge.toml:1"]).await;
    std::fs::remove_file(edge.config()).unwrap();
    edge.logged(&["reload refused", "cannot be read"]).await;
    edge.write(&answering("one", ""));
    eventually("the last reload to be good", async || {
        edge.metric("selvedge_config_last_reload_successful").await == 1
    })
    .await;
    assert_eq!(edge.metric("selvedge_config_reloads_total{result=\"refused\"}").await, 2);
    assert_eq!(edge.log().matches("reload refused").count(), 2);
}

#[tokio::test]
async fn a_missing_file_that_the_configuration_names_is_looked_for() {
    let edge = Edge::start(&answering("one", "")).await;
    let keys = edge.config().with_file_name("later.keys");
    edge.write(&(answering("two", "") + "[session_keys]\nfile = \"later.keys\"\n"));
    edge.logged(&["reload refused", "session_keys.file", "cannot be read"]).await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_selvedge")).args(["keys", "new"]).output();
    std::fs::write(keys, output.unwrap().stdout).unwrap();
    eventually("the answer of the new file", async || answer_of(&edge).await == "two").await;
}

#[tokio::test]
async fn what_needs_a_restart_says_so_and_the_rest_is_done() {
    let edge = Edge::start(&answering("one", "watch = false\nworkers = 1")).await;
    let admin = edge.admin;
    edge.write(
        &(answering("two", "watch = false\nworkers = 2").replace(
            "[admin]\naddress = \"127.0.0.1:0\"",
            "[admin]\nenabled = false\n[log]\nformat = \"json\"",
        )),
    );
    let report = value(&edge.reload().await);
    assert_eq!(report["result"], "done");
    let waiting: Vec<_> =
        report["restart_needed"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert_eq!(
        waiting,
        [
            "workers: stays 1 until a restart makes it 2",
            "admin.address: stays \"127.0.0.1:0\" until a restart makes it off",
            "log.format: stays text until a restart makes it json",
        ]
    );
    assert_eq!(answer_of(&edge).await, "two");
    assert_eq!(status(&edge).await["restart_needed"], report["restart_needed"]);
    assert_eq!(edge.metric("selvedge_config_restart_needed").await, 3);
    assert_eq!(edge.metric("selvedge_workers").await, 1);
    assert_eq!(edge.admin, admin);
    edge.becomes(&answering("three", "watch = false\nworkers = 1")).await;
    assert_eq!(status(&edge).await["restart_needed"], json!([]), "what runs is what the file says again");
}

#[tokio::test]
async fn the_log_level_follows() {
    let edge = Edge::start(&(answering("one", UNWATCHED) + "[log]\nlevel = \"info\"\n")).await;
    edge.becomes(&(answering("one", UNWATCHED) + "[log]\nlevel = \"debug\"\n")).await;
    Raw::connect(&edge).await.send("GET /\r\n\r\n").await;
    edge.logged(&["DEBUG", "request refused"]).await;
}

#[tokio::test]
async fn the_token_of_the_api_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "the-first-of-all-tokens").unwrap();
    let admin = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = \"{}\"\n", file.display());
    let edge = Edge::start(&Edge::without_pool().and(&admin).text()).await;
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let mut asks = async |token: &str| {
        client.get_with("/v1/pools", &[&format!("Authorization: Bearer {token}")]).await.status
    };
    assert_eq!(asks("the-first-of-all-tokens").await, 200);
    std::fs::write(&file, "another-token-than-that").unwrap();
    eventually("the new token to open", async || asks("another-token-than-that").await == 200).await;
    assert_eq!(asks("the-first-of-all-tokens").await, 401);
}

#[tokio::test]
async fn a_dry_run_changes_nothing_and_judges_the_text_it_is_given() {
    let edge = Edge::start(&answering("one", UNWATCHED)).await;
    let preview = async |body: &str| {
        let mut client = Client::to(edge.admin);
        client.host = edge.admin.to_string();
        client.request("POST", "/v1/reload?dry_run=true", &[], body.as_bytes()).await
    };
    let report = value(&preview(&answering("two", UNWATCHED)).await);
    assert_eq!((&report["result"], &report["generation"]), (&json!("possible"), &json!(1)));
    assert_eq!(report["changes"][0]["key"], "route[*/].respond.body");
    assert_eq!(value(&preview("").await)["changes"], json!([]), "without a text it is what the file says");
    let wrong = preview("nonsense").await;
    assert_eq!((wrong.status, &value(&wrong)["error"]["code"]), (422, &json!("bad_config")));
    assert_eq!((answer_of(&edge).await.as_str(), edge.generation().await), ("one", 1));
    assert_eq!(status(&edge).await["last_reload"], Value::Null, "a question is no reload");
}

#[tokio::test]
async fn a_node_that_stops_takes_no_other_configuration() {
    let gate = Gate::closed();
    let origin = Origin::holding(&gate, "finished").await;
    let mut edge = Edge::before(&origin).start().await;
    let mut raw = Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.1\r\nHost: shop.test\r\n\r\n").await;
    origin.received(1).await;
    edge.terminate();
    eventually("/readyz to fail", async || edge.admin("/readyz").await.status == 503).await;
    let refused = edge.reload().await;
    assert_eq!((refused.status, &value(&refused)["error"]["code"]), (503, &json!("not_now")));
    gate.open();
    assert_eq!(raw.response().await.text(), "finished");
    assert_eq!(edge.exit().await.code(), Some(0));
}

#[tokio::test]
async fn reloads_asked_for_at_once_are_done_one_after_the_other() {
    let edge = std::sync::Arc::new(Edge::start(&answering("one", UNWATCHED)).await);
    edge.write(&answering("two", UNWATCHED));
    let asked = (0..8).map(|_| {
        let edge = edge.clone();
        async move { edge.reload().await.status }
    });
    let answers = crate::support::all(asked).await;
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    assert_eq!(edge.generation().await, 9);
    assert_eq!(answer_of(&edge).await, "two");
}
