//! Why did my request go there: in the access log as codes, in a field of the answer and by `selvedge explain` in words, and all
//! three are true.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Client, Edge, Origin, Response, Setup, eventually};

const ASK: &str = "X-Selvedge-Trace: 1";
const COOKIE: &str = "SELVEDGE";

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
    let pool = "stickiness.mode = \"lb_cookie\"\nqueue.length = 0";
    origins.iter().fold(Setup::default(), target).listener("trace_sources = [\"127.0.0.1/32\"]").pool(pool)
}

/// The same with an access log, and its path.
fn logging(origins: &[(&'static str, Origin)]) -> (TempDir, PathBuf, Setup) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let setup = setup(origins).and(&format!("[access_log]\noutput = {path:?}\n"));
    (folder, path, setup)
}

/// The last of so many lines of the log.
async fn line(path: &Path, count: usize) -> Value {
    let mut text = String::new();
    eventually("the line of the request", async || {
        text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().count() >= count && text.ends_with('\n')
    })
    .await;
    assert_eq!(text.lines().count(), count, "{text}");
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

/// What `selvedge` prints with these arguments.
async fn selvedge(edge: &Edge, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge"));
    command.args(arguments).args(["--admin", &format!("http://{}", edge.admin)]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// One request to the admin API.
async fn admin(edge: &Edge, method: &str, path: &str, body: &Value) -> Response {
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    let body = body.to_string();
    client.request(method, path, &["Content-Type: application/json"], body.as_bytes()).await
}

async fn set_state(edge: &Edge, target: &str, state: &str) {
    let path = format!("/v1/pools/shop/targets/{target}/state");
    assert_eq!(admin(edge, "PUT", &path, &json!({ "state": state })).await.status, 200, "{target} {state}");
}

/// `zone/address` of an origin by its name.
fn target(origins: &[(&'static str, Origin)], name: &str) -> String {
    let (zone, origin) = origins.iter().find(|(zone, _)| name.starts_with(zone)).unwrap();
    let other = origins.iter().filter(|(other, _)| other == zone).nth(1).unwrap();
    let origin = if name.ends_with('1') { origin } else { &other.1 };
    format!("{zone}/{}", origin.address)
}

/// The value of the field that tells, in its steps.
fn steps(answer: &Response) -> Vec<String> {
    let told = answer.fields.get("x-selvedge-trace").unwrap_or_else(|| panic!("no trace in {answer:?}"));
    told.split("; ").map(str::to_owned).collect()
}

/// The lines that begin with this word are the same, whoever tells them.
fn said(lines: &[String], word: &str) -> String {
    let found: Vec<_> = lines.iter().filter(|line| line.starts_with(&format!("{word}: "))).collect();
    assert_eq!(found.len(), 1, "{word} in {lines:#?}");
    found[0].clone()
}

#[tokio::test]
async fn a_user_whose_cookie_was_forged_is_a_new_session_and_all_say_so() {
    let origins = shop().await;
    let (_folder, path, setup) = logging(&origins);
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    client.get("/").await;
    let mut forged = client.jar[COOKIE].clone();
    let last = forged.split_off(50);
    forged += if last.starts_with('A') { "B" } else { "A" };
    forged += &last[1..];
    client.jar.insert(COOKIE.to_owned(), forged.clone());
    let answer = client.get_with("/cart", &[ASK]).await;

    let words = "session: its cookie is forged, that is altered or made up: a new session";
    let told = steps(&answer);
    assert_eq!(said(&told, "session"), words);
    let went = target(&origins, answer.origin());
    assert_eq!(said(&told, "pick"), format!("pick: {went}, by least_outstanding [new/any]"));
    assert_eq!(said(&told, "attempt 1"), "attempt 1: answered 200");
    let log = line(&path, 2).await;
    assert_eq!((&log["verdict"], &log["decision"]), (&json!("forged"), &json!("new/any")));
    assert_eq!(format!("{}/{}", log["zone"].as_str().unwrap(), log["target"].as_str().unwrap()), went);
    let text =
        selvedge(&edge, &["explain", "--host", "shop.test", "--path", "/cart", "--cookie", &forged]).await;
    assert!(text.contains(words) && !text.contains("cookie: session"), "{text}");
}

#[tokio::test]
async fn a_user_whose_target_drains_stays_there_and_all_say_so() {
    let origins = shop().await;
    let (_folder, path, setup) = logging(&origins);
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    let home = client.get("/").await.origin().to_owned();
    let name = target(&origins, &home);
    set_state(&edge, &name, "drain").await;
    let answer = client.get_with("/", &[ASK]).await;
    assert_eq!(answer.origin(), home);

    let pick = format!("pick: {name}, its session is bound to it, though it drains [bound:draining/session]");
    let told = steps(&answer);
    assert_eq!(said(&told, "session"), "session: its cookie is in good order");
    assert_eq!(said(&told, "pick"), pick);
    assert_eq!(said(&told, "candidates"), format!("candidates: {name} (100 %)"));
    let log = line(&path, 2).await;
    assert_eq!((&log["verdict"], &log["decision"]), (&json!("valid"), &json!("bound:draining/session")));
    assert_eq!((&log["moved"], &log["route"], &log["pool"]), (&json!(false), &json!("*/"), &json!("shop")));
    let cookie = client.jar[COOKIE].clone();
    let text = selvedge(&edge, &["explain", "--host", "shop.test", "--cookie", &cookie]).await;
    assert!(text.contains(&pick), "{text}");
    assert!(text.contains(&format!("of pool shop, bound to {name}, born 20")), "{text}");
    // Somebody without a session is not sent there, and hears why.
    let newcomer = steps(&Client::of(&edge).get_with("/", &[ASK]).await);
    let left_out = format!("left out: {name} (drains: keeps its sessions, takes no new ones)");
    assert_eq!(said(&newcomer, "left out"), left_out);
}

#[tokio::test]
async fn a_user_in_a_shifted_zone_moves_and_all_say_so() {
    let origins = shop().await;
    let (_folder, path, setup) = logging(&origins);
    let edge = setup.start().await;
    let mut client = Client::of(&edge);
    let home = client.get("/").await.origin().to_owned();
    let (zone, name) = (home.rsplit_once('-').unwrap().0, target(&origins, &home));
    selvedge(&edge, &["zone", "shift", zone, "--for", "1h"]).await;
    let cookie = client.jar[COOKIE].clone();
    let text = selvedge(&edge, &["explain", "--host", "shop.test", "--cookie", &cookie]).await;
    let answer = client.get_with("/", &[ASK]).await;
    assert!(!answer.origin().starts_with(zone), "{}", answer.origin());

    let told = steps(&answer);
    let pick = format!(
        "pick: {}, its session moves: it was bound to {name}, which is in a zone that is taken out [moved:shifted/other]",
        target(&origins, answer.origin())
    );
    assert_eq!(said(&told, "pick"), pick);
    assert_eq!(said(&told, "zone"), "zone: another than the session was in: nobody there takes it");
    assert!(said(&told, "left out").contains(&format!("{name} (its zone is taken out)")), "{told:?}");
    assert!(text.contains(&pick), "{text}");
    let log = line(&path, 2).await;
    assert_eq!((&log["decision"], &log["moved"]), (&json!("moved:shifted/other"), &json!(true)));
}

#[tokio::test]
async fn only_listed_clients_are_told_and_no_target_sees_the_question() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    let stranger = Client::of(&edge).from("127.0.0.2").get_with("/", &[ASK]).await;
    assert!(!stranger.fields.has("x-selvedge-trace"));
    let silent = Client::of(&edge).get("/").await;
    assert!(!silent.fields.has("x-selvedge-trace"));
    let told = Client::of(&edge).get_with("/", &[ASK]).await;
    assert!(told.fields.has("x-selvedge-trace"));
    for (_, origin) in &origins {
        assert!(origin.requests().iter().all(|request| !request.fields.has("x-selvedge-trace")));
    }
}

#[tokio::test]
async fn failed_attempts_and_refusals_are_told_too() {
    let origin = Origin::named("good").await;
    let dead = crate::support::Refusing::new();
    let edge = Setup::default()
        .target(&dead)
        .target(&origin)
        .listener("trace_sources = [\"127.0.0.0/8\"]")
        .pool("balance = \"round_robin\"")
        .route("host = \"shop.test\"")
        .start()
        .await;
    let mut told = Vec::new();
    eventually("a request that tries the dead target first", async || {
        told = steps(&Client::of(&edge).get_with("/", &[ASK]).await);
        told.iter().any(|step| step.starts_with("attempt 2: "))
    })
    .await;
    assert!(said(&told, "attempt 1").starts_with("attempt 1: failed: connect: "), "{told:?}");
    assert!(
        told.iter().any(|step| step.contains(&format!("-/{} (has failed this request)", dead.address))),
        "{told:?}"
    );
    assert_eq!(said(&told, "attempt 2"), "attempt 2: answered 200");
    let mut lost = Client::of(&edge);
    lost.host = "other.test".to_owned();
    let answer = lost.get_with("/", &[ASK]).await;
    assert_eq!(steps(&answer), ["route: none matches: answered 404", "end: answered 404: no_route"]);
}

#[tokio::test]
async fn a_query_is_judged_before_it_is_answered() {
    let origins = shop().await;
    let edge = setup(&origins).start().await;
    for (body, code) in [
        (json!({}), "bad_body"),
        (json!({ "host": "shop.test", "hots": "x" }), "bad_body"),
        (json!({ "host": "a b" }), "bad_query"),
        (json!({ "host": "shop.test", "path": "cart" }), "bad_query"),
    ] {
        let answer = admin(&edge, "POST", "/v1/explain", &body).await;
        let error: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &error["error"]["code"]), (400, &json!(code)), "{body}");
    }
    assert_eq!(admin(&edge, "GET", "/v1/explain", &json!({})).await.status, 405);
}

/// A small generator (xorshift): the same states in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % bound as u64) as usize
    }
}

#[tokio::test]
async fn explain_agrees_with_where_the_next_request_goes() {
    let origins = shop().await;
    let pool = "zones.mode = \"spill\"\nzones.shift_capacity = \"0%\"\nstickiness.failback = \"always\"";
    let edge = setup(&origins).top("zone = \"az-a\"").pool(pool).start().await;
    let names: Vec<_> = origins.iter().map(|(zone, origin)| format!("{zone}/{}", origin.address)).collect();
    let mut clients: Vec<_> = (0..12).map(|_| Client::of(&edge)).collect();
    let mut dice = Dice(0x9e37_79b9);
    let (mut certain, mut unserved) = (0, 0);
    for _ in 0..60 {
        match dice.below(4) {
            0 => {
                let path = format!("/v1/zones/{}/shift", ["az-a", "az-b", "az-c"][dice.below(3)]);
                match dice.below(2) {
                    0 => admin(&edge, "PUT", &path, &json!({ "for": "1h", "force": true })).await,
                    _ => admin(&edge, "DELETE", &path, &json!({})).await,
                };
            }
            _ => set_state(&edge, &names[dice.below(6)], ["up", "up", "drain", "down"][dice.below(4)]).await,
        }
        for _ in 0..5 {
            let client = &mut clients[dice.below(12)];
            match dice.below(6) {
                0 => drop(client.jar.remove(COOKIE)),
                1 => drop(client.jar.insert(COOKIE.to_owned(), "x".repeat(87))),
                _ => {}
            }
            let cookie = client.jar.get(COOKIE).cloned();
            let asked =
                admin(&edge, "POST", "/v1/explain", &json!({ "host": "shop.test", "cookie": cookie })).await;
            let explained: Value = serde_json::from_slice(&asked.body).unwrap();
            let answer = client.get("/").await;
            let round = &explained["rounds"][0];
            if answer.status == 503 {
                unserved += 1;
                assert_eq!(round["pick"], Value::Null, "{explained:#}");
                continue;
            }
            let went = target(&origins, answer.origin());
            let candidates = round["candidates"].as_array().unwrap();
            assert!(candidates.iter().any(|one| one["target"] == *went), "{went}: {explained:#}");
            if round["certain"] == true {
                certain += 1;
                assert_eq!(round["pick"], *went, "{explained:#}");
            }
        }
    }
    assert!(certain > 100, "{certain} of 300 requests had no choice, {unserved} had nobody");
}

#[tokio::test]
async fn a_listener_that_redirects_to_https_is_told_of_before_any_route() {
    let origin = Origin::named("one").await;
    let redirects = "redirect_to_https = 8443\ntrusted = [\"127.0.0.9\"]\ntrace_sources = [\"127.0.0.1/32\"]";
    let setup = || Edge::before(&origin).listener(redirects);
    let edge = setup().start().await;
    let explain = async |edge: &Edge, more: &[&str]| {
        let arguments = [&["explain", "--host", "shop.test:8080", "--path", "/cart?x=1"], more].concat();
        selvedge(edge, &arguments).await
    };
    let told = "listener: redirects to https://shop.test:8443/cart?x=1 (redirect_to_https)";
    assert_eq!(explain(&edge, &[]).await, format!("{told}\nend: answered 308\n"));
    let mut client = Client::of(&edge);
    client.host = "shop.test:8080".to_owned();
    let answer = client.get_with("/cart?x=1", &[ASK]).await;
    assert_eq!(answer.status, 308);
    assert_eq!(answer.fields.get("location"), Some("https://shop.test:8443/cart?x=1"));
    assert_eq!(steps(&answer), [told]);
    // A proxy in front that is believed has spoken HTTPS already.
    let secure = ["--header", "X-Forwarded-Proto: https", "--source"];
    assert!(explain(&edge, &[&secure[..], &["127.0.0.9"]].concat()).await.contains("pick: -/"));
    assert!(explain(&edge, &[&secure[..], &["127.0.0.8"]].concat()).await.contains("answered 308"));

    // Where another listener serves, that is told too; and each can be asked about.
    let other = setup().and("[[listener]]\nname = \"other\"\naddress = \"127.0.0.1:0\"").start().await;
    let both = explain(&other, &[]).await;
    assert!(both.contains(&format!("{told}, if it comes to web; what follows if not\n")), "{both}");
    assert!(both.contains("pick: -/"), "{both}");
    assert_eq!(explain(&other, &["--listener", "web"]).await, format!("{told}\nend: answered 308\n"));
    let served = explain(&other, &["--listener", "other"]).await;
    assert!(served.starts_with("route: ") && served.contains("pick: -/"), "{served}");
    let unknown =
        admin(&other, "POST", "/v1/explain", &json!({ "host": "shop.test", "listener": "x" })).await;
    assert_eq!(unknown.status, 400);
    assert!(unknown.text().contains("there is no \\\"x\\\"; there is web, other"), "{}", unknown.text());
}
