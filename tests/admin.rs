//! The admin API: what it shows, what it changes, whom it refuses, and that nobody can hold it up.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use selvedge::config::{Config, Overrides};
use selvedge::control::{self, AdminListener, Control, Node};
use selvedge::lifecycle::Phase;
use selvedge::pool::Pools;
use serde_json::{Value, json};
use support::{
    Client, Edge, Findings, Origin, Raw, Response, Setup, eventually, still_waiting_after, within,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::LocalSet;

/// A domain with one node, for a configuration to answer.
const DNS: &str = "[dns]\naddresses = [\"127.0.0.1:0\"]\ndomain = \"lb.test\"\n\
     [[dns.name_server]]\nname = \"ns.test\"\n\
     [[dns.node]]\nipv4 = \"192.0.2.1\"\ncheck = \"127.0.0.1:1\"";

const JSON: &str = "Content-Type: application/json";

/// A client of the admin API.
fn admin(edge: &Edge) -> Client {
    let mut client = Client::to(edge.admin);
    client.host = edge.admin.to_string();
    client
}

fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error} in {response:?}"))
}

/// Code of the error that an answer holds.
fn code(response: &Response) -> String {
    let error = &value(response)["error"];
    assert!(!error["message"].as_str().unwrap().is_empty());
    error["code"].as_str().unwrap().to_owned()
}

/// Changes the state of a target of the pool `shop`.
async fn set_state(edge: &Edge, target: &str, state: &str) -> Response {
    let path = format!("/v1/pools/shop/targets/{target}/state");
    admin(edge).request("PUT", &path, &[JSON], json!({ "state": state }).to_string().as_bytes()).await
}

#[tokio::test]
async fn every_promised_key_is_there() {
    let origin = Origin::start().await;
    let lines = "health.path = \"/healthz\"\nstickiness.mode = \"lb_cookie\"";
    let setup = Setup::default().target_with(&origin, "zone = \"az-a\"\nmax_connections = 7").pool(lines);
    let edge = setup.top("zone = \"az-a\"").start().await;
    let answer = edge.admin("/v1/pools").await;
    assert_eq!(answer.fields.get("content-type"), Some("application/json"));
    let view = value(&answer);
    let keys = |value: &Value, keys: &str| {
        let object = value.as_object().unwrap_or_else(|| panic!("{value} is an object"));
        for key in keys.split(' ') {
            assert!(object.contains_key(key), "{key} is not in {value}");
        }
    };
    keys(&view["node"], "zone version uptime_seconds phase listeners");
    assert_eq!((&view["node"]["zone"], &view["node"]["phase"]), (&json!("az-a"), &json!("serving")));
    let pool = &view["pools"][0];
    keys(pool, "name balance panic waiting live retrying verdicts rehomed targets zones");
    keys(&pool["verdicts"], "none valid idle_expired absolute_expired malformed unknown_key forged");
    let target = &pool["targets"][0];
    keys(
        target,
        "name zone address weight max_connections status takes_new keeps_bound admin health in_flight",
    );
    keys(target, "attempts failures responses first_byte_ms last_probe since");
    assert_eq!(target["name"], format!("az-a/{origin}"));
    assert_eq!((&target["max_connections"], &target["admin"]), (&json!(7), &json!("up")));
    keys(&target["last_probe"], "at duration_ms passed what");
    keys(&target["first_byte_ms"], "p50 p99");
    let zone = json!({
        "name": "az-a", "targets": 1, "healthy": 1, "requests": 0, "share": 100.0, "state": "ok", "until": null, "reason": null,
        "since": null, "left_seconds": null, "evacuated": 0.0, "sessions": 0, "in_flight": 0,
        "first_byte_ms": { "p50": null, "p99": null },
    });
    assert_eq!(pool["zones"], json!([zone]));
    for time in [&target["since"], &target["last_probe"]["at"]] {
        let time = time.as_str().unwrap();
        assert!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{time}");
    }
    assert_eq!(value(&edge.admin("/v1/pools/shop").await)["name"], "shop");
}

#[tokio::test]
async fn a_drained_target_keeps_its_sessions_and_gets_no_others() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let lines = "health.enabled = false\nstickiness.mode = \"lb_cookie\"";
    let edge = Edge::before_all(&[&a, &b]).pool(lines).start().await;
    let mut bound = Client::of(&edge);
    let home = bound.get("/").await.origin().to_owned();
    let (drained, other) = if home == "a" { (&a, "b") } else { (&b, "a") };
    let answer = set_state(&edge, &format!("-/{drained}"), "drain").await;
    assert_eq!(answer.status, 200);
    let shown = value(&answer);
    assert_eq!((&shown["status"], &shown["admin"]), (&json!("draining"), &json!("drain")));
    assert_eq!((&shown["takes_new"], &shown["keeps_bound"]), (&json!(false), &json!(true)));
    for _ in 0..10 {
        assert_eq!(bound.get("/").await.origin(), home);
        assert_eq!(Client::of(&edge).get("/").await.origin(), other);
    }
    set_state(&edge, &format!("-/{drained}"), "down").await;
    assert_eq!(bound.get("/").await.origin(), other, "a session of a target that is down moves");
    assert_eq!(edge.metric("selvedge_sessions_rehomed_total{pool=\"shop\"}").await, 1);
    set_state(&edge, &format!("-/{drained}"), "up").await;
    eventually("a new session at the target that is up again", async || {
        Client::of(&edge).get("/").await.origin() == home
    })
    .await;
}

#[tokio::test]
async fn a_target_is_taken_down_and_brought_back_by_its_name_raw_or_encoded() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let shown = value(&set_state(&edge, &format!("-/{origin}"), "down").await);
    assert_eq!((&shown["status"], &shown["takes_new"]), (&json!("down"), &json!(false)));
    assert_eq!(shown["reason"], "taken out by the operator");
    edge.logged(&["operator", "from up to down", &format!("subject=-/{origin}")]).await;
    assert_eq!(edge.admin("/readyz").await.status, 503);
    let encoded = format!("-%2F{origin}").replace(':', "%3a");
    let shown = value(&set_state(&edge, &encoded, "up").await);
    assert_eq!((&shown["status"], &shown["takes_new"]), (&json!("healthy"), &json!(true)));
    assert_eq!(edge.admin("/readyz").await.status, 200);
    assert_eq!(
        value(&set_state(&edge, &encoded, "up").await)["since"],
        shown["since"],
        "nothing has changed"
    );
}

#[tokio::test]
async fn mistakes_are_answered_with_their_status_and_a_code() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let state = format!("/v1/pools/shop/targets/-/{origin}/state");
    let large = format!("{{\"state\":\"up\",\"x\":\"{}\"}}", "x".repeat(64 * 1024));
    let up = "{\"state\":\"up\"}";
    let cases: [(_, _, &[&str], _, _, _); 16] = [
        ("GET", "/nothing", &[], "", 404, "not_found"),
        ("GET", "/v1/pools/nobody", &[], "", 404, "unknown_pool"),
        ("PUT", "/v1/pools/nobody/targets/a/state", &[JSON], up, 404, "unknown_pool"),
        ("PUT", "/v1/pools/shop/targets/nobody/state", &[JSON], up, 404, "unknown_target"),
        ("POST", "/v1/pools", &[JSON], up, 405, "method_not_allowed"),
        ("GET", state.as_str(), &[], "", 405, "method_not_allowed"),
        ("DELETE", state.as_str(), &[], "", 405, "method_not_allowed"),
        ("PUT", state.as_str(), &[JSON], "", 400, "bad_body"),
        ("PUT", state.as_str(), &[JSON], "{", 400, "bad_body"),
        ("PUT", state.as_str(), &[JSON], "{}", 400, "bad_body"),
        ("PUT", state.as_str(), &[JSON], "{\"state\":\"sideways\"}", 400, "bad_body"),
        ("PUT", state.as_str(), &[JSON], "{\"state\":\"up\",\"more\":1}", 400, "bad_body"),
        ("PUT", state.as_str(), &[JSON], large.as_str(), 413, "body_too_large"),
        ("PUT", state.as_str(), &[], up, 415, "not_json"),
        ("PUT", state.as_str(), &["Content-Type: text/plain"], up, 415, "not_json"),
        ("PUT", state.as_str(), &["Content-Type: application/json; charset=utf-8"], up, 200, ""),
    ];
    let mut findings = Findings::default();
    for (method, path, fields, body, status, expected) in cases {
        let answer = admin(&edge).request(method, path, fields, body.as_bytes()).await;
        let code = if answer.status == 200 { String::new() } else { code(&answer) };
        findings.expect(answer.status == status && code == expected, || {
            format!("{method} {path} {fields:?}: {} {code} instead of {status} {expected}", answer.status)
        });
        let allow = if path == state { "PUT" } else { "GET, HEAD" };
        findings.expect(status != 405 || answer.fields.get("allow") == Some(allow), || {
            format!("{method} {path}: Allow is {:?}", answer.fields.get("allow"))
        });
    }
    findings.report();
    assert_eq!(value(&edge.admin("/v1/pools/shop").await)["targets"][0]["admin"], "up");
}

#[tokio::test]
async fn a_web_page_of_somebody_else_can_neither_read_nor_change_anything() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let state = format!("/v1/pools/shop/targets/-/{origin}/state");
    let own = edge.admin.to_string();
    let mut findings = Findings::default();
    for (host, origin, refused) in [
        (own.as_str(), None, None),
        (&own, Some(format!("http://{own}")), None),
        ("localhost:9900", Some("http://localhost:9900".to_owned()), None),
        ("evil.example", None, Some("foreign_host")),
        ("evil.example", Some("http://evil.example".to_owned()), Some("foreign_host")),
        ("10.0.0.1", None, Some("foreign_host")),
        (&own, Some("http://evil.example".to_owned()), Some("foreign_origin")),
        (&own, Some("null".to_owned()), Some("foreign_origin")),
    ] {
        let fields: Vec<_> = origin.iter().map(|origin| format!("Origin: {origin}")).collect();
        let mut fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        fields.push(JSON);
        for (method, path) in [("PUT", state.as_str()), ("GET", "/v1/pools"), ("GET", "/metrics")] {
            let mut client = admin(&edge);
            client.host = host.to_owned();
            let answer = client.request(method, path, &fields, b"{\"state\":\"up\"}").await;
            let found = (answer.status == 403).then(|| code(&answer));
            findings.expect(found.as_deref() == refused, || {
                format!("{method} {path} with Host {host} and {fields:?}: {} {found:?}", answer.status)
            });
        }
        let mut client = admin(&edge);
        client.host = host.to_owned();
        findings.expect(client.get("/livez").await.status == 200, || format!("/livez with Host {host}"));
    }
    findings.report();
}

#[tokio::test]
async fn with_a_token_every_request_for_data_must_carry_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "correct-horse-battery-staple\n").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let origin = Origin::start().await;
    let admin_table = format!("[admin]\naddress = \"127.0.0.1:0\"\ntoken_file = {file:?}");
    let edge = Edge::before(&origin).and(&admin_table).start().await;
    for path in ["/v1/pools", "/metrics", "/v1/openapi.json", "/nothing"] {
        for field in
            ["X-Nothing: 1", "Authorization: Bearer wrong-horse-battery-staple", "Authorization: Bearer"]
        {
            let answer = admin(&edge).get_with(path, &[field]).await;
            assert_eq!((answer.status, code(&answer).as_str()), (401, "unauthorized"), "{path} {field}");
            assert_eq!(answer.fields.get("www-authenticate"), Some("Bearer realm=\"selvedge\""));
        }
    }
    let mut client = admin(&edge);
    client.host = "lb.internal:9900".to_owned();
    let token = "Authorization: Bearer correct-horse-battery-staple";
    assert_eq!(client.get_with("/v1/pools", &[token]).await.status, 200);
    for path in ["/", "/livez", "/readyz"] {
        assert_eq!(client.get(path).await.status, 200, "{path} holds no data");
    }
    assert!(!edge.log().contains("battery"), "the token is in the log");
}

#[tokio::test]
async fn the_document_lists_what_there_is_and_nothing_else() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).and(DNS).start().await;
    let document = value(&edge.admin("/v1/openapi.json").await);
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() >= 8, "{paths:?}");
    for (path, item) in paths {
        let real =
            path.replace("{pool}", "shop").replace("{target}", &format!("-/{origin}")).replace("{zone}", "-");
        for method in ["GET", "PUT", "POST", "DELETE", "PATCH"] {
            // What goes on without end is asked for its head.
            let sent = if real == "/v1/events" && method == "GET" { "HEAD" } else { method };
            let answer = admin(&edge).request(sent, &real, &[], b"").await;
            let listed = item.get(method.to_lowercase()).is_some();
            assert_ne!(answer.status, 404, "{path}");
            assert_eq!(answer.status != 405, listed, "{method} {path}: {}", answer.status);
        }
    }
}

#[tokio::test]
async fn answers_have_the_keys_that_the_document_requires() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).pool("health.path = \"/healthz\"").and(DNS).start().await;
    let document = value(&edge.admin("/v1/openapi.json").await);
    let shown = value(&edge.admin("/v1/pools").await);
    conforms(&document, &document["components"]["schemas"]["Node"], &shown, "Node");
    let target = value(&set_state(&edge, &format!("-/{origin}"), "up").await);
    conforms(&document, &document["components"]["schemas"]["Target"], &target, "Target");
    eventually("the node to be checked", async || {
        !value(&edge.admin("/v1/dns").await)["nodes"][0]["last_probe"].is_null()
    })
    .await;
    let dns = value(&edge.admin("/v1/dns").await);
    conforms(&document, &document["components"]["schemas"]["Dns"], &dns, "Dns");
}

/// Checks keys and choices of `shown` against a schema, in both directions.
fn conforms(document: &Value, schema: &Value, shown: &Value, at: &str) {
    let schema = match schema["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    if let Some(choices) = schema["oneOf"].as_array() {
        let choice = choices.iter().find(|choice| (choice["type"] == "null") == shown.is_null()).unwrap();
        return conforms(document, choice, shown, at);
    }
    if let Some(choices) = schema["enum"].as_array() {
        assert!(choices.contains(shown), "{at} is {shown}");
    }
    if let Some(items) = shown.as_array() {
        items.iter().for_each(|item| conforms(document, &schema["items"], item, at));
    }
    let (Some(properties), Some(object)) = (schema["properties"].as_object(), shown.as_object()) else {
        return;
    };
    for (key, value) in object {
        let schema = properties.get(key).unwrap_or_else(|| panic!("{at}.{key} is not in the document"));
        conforms(document, schema, value, &format!("{at}.{key}"));
    }
    for key in schema["required"].as_array().unwrap() {
        assert!(object.contains_key(key.as_str().unwrap()), "{at} has no {key}");
    }
}

#[tokio::test]
async fn metrics_are_well_formed_and_follow_what_happens() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).and(DNS).start().await;
    let mut client = Client::of(&edge);
    for _ in 0..3 {
        assert_eq!(client.get("/").await.status, 200);
    }
    edge.counts("selvedge_requests_total{pool=\"shop\",class=\"2xx\"}", 3).await;
    edge.counts("selvedge_request_duration_seconds_count{pool=\"shop\"}", 3).await;
    let labels = format!("{{pool=\"shop\",zone=\"-\",target=\"{origin}\"}}");
    edge.counts(&format!("selvedge_target_attempts_total{labels}"), 3).await;
    edge.counts(&format!("selvedge_target_first_byte_seconds_count{labels}"), 3).await;
    edge.counts("selvedge_connections_accepted_total", 1).await;
    let answer = edge.admin("/metrics").await;
    assert_eq!(answer.fields.get("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    let text = answer.text();
    let (mut family, mut families, mut samples) = (String::new(), 0, 0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            family = rest.split(' ').next().unwrap().to_owned();
            families += 1;
            let kind = format!("# TYPE {family} ");
            assert_eq!(text.matches(&kind).count(), 1, "{family} is one family");
        } else if !line.starts_with("# TYPE ") {
            let (series, number) = line.rsplit_once(' ').unwrap();
            assert!(series.starts_with(&family), "{line} stands in the family {family}");
            assert!(number.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            samples += 1;
        }
    }
    assert!(families > 30 && samples > 100, "{families} families, {samples} samples");
    for process in ["process_resident_memory_bytes", "process_open_fds", "process_start_time_seconds"] {
        assert!(edge.metric(process).await > 0, "{process}");
    }
}

#[tokio::test]
async fn the_dashboard_is_one_page_that_may_load_nothing_from_elsewhere() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let page = edge.admin("/").await;
    assert_eq!((page.status, page.fields.get("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.fields.get("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe"), "{policy}");
    let head = admin(&edge).request("HEAD", "/", &[], b"").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.fields.get("content-length"), Some(page.body.len().to_string().as_str()));
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).start().await;
    let ask = format!("GET /livez HTTP/1.1\r\nHost: {}\r\n\r\n", edge.admin);
    let mut held = Vec::new();
    for _ in 0..64 {
        let mut raw = Raw::to(edge.admin).await;
        assert_eq!(raw.send(&ask).await.try_response("GET").await.unwrap().status, 200);
        held.push(raw);
    }
    let mut late = Raw::to(edge.admin).await;
    late.send(&ask).await;
    assert!(still_waiting_after(Duration::from_millis(300), late.idle()).await);
    held.pop();
    assert_eq!(late.response().await.status, 200);
}

#[tokio::test]
async fn readiness_ends_with_the_signal_and_liveness_with_the_process() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).and("[shutdown]\ndelay = \"1s\"\ndeadline = \"5s\"").start().await;
    edge.terminate();
    let mut answer = edge.admin("/readyz").await;
    eventually("/readyz to say 503", async || {
        answer = edge.admin("/readyz").await;
        answer.status == 503
    })
    .await;
    assert_eq!(answer.text(), "the node is stopping\n");
    assert_eq!(edge.admin("/livez").await.status, 200);
    assert!(edge.exit().await.success());
}

#[tokio::test]
async fn a_unix_socket_serves_the_same_api_under_any_host() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, file) = (folder.path().join("admin.sock"), folder.path().join("selvedge.toml"));
    let text = format!(
        "[[listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n[admin]\naddress = \"unix:{}\"",
        socket.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = Arc::new(Config::load(&file, &Overrides::default()).unwrap());
    let listener = AdminListener::bind(&config.admin.as_ref().unwrap().address).unwrap();
    let pools = Arc::new(Pools::new(1));
    let (_phase, phase) = watch::channel(Phase::Serving);
    let node = Node { pools, phase, started: Instant::now(), explain: selvedge::proxy::explain };
    let control = Rc::new(Control::new(node, config, Vec::new(), None));
    let ask = async {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"GET /v1/pools HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let asked = async {
        tokio::select! {
            answer = within("an answer", ask) => answer,
            () = control::run(control, Some(listener)) => unreachable!("it runs until dropped"),
        }
    };
    let answer = LocalSet::new().run_until(asked).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"pools\":[]"), "{answer}");
    assert!(!socket.exists(), "the socket's file is gone with it");
}
