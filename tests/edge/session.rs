//! The bond between a client and a target: made once, kept, hidden from the target, ended by time, and never forged.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use tempfile::TempDir;

use crate::support::edge::session_keys;
use crate::support::{Client, Conn, Edge, Findings, Origin, Reply, Response, Setup, eventually};

const STICKY: &str = "stickiness.mode = \"lb_cookie\"";
const COOKIE: &str = "SELVEDGE";

/// Origins called `t0`, `t1`, ….
async fn targets(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for number in 0..count {
        origins.push(Origin::named(&format!("t{number}")).await);
    }
    origins
}

fn sticky(origins: &[Origin]) -> Setup {
    origins.iter().fold(Setup::default(), Setup::target).pool(STICKY)
}

/// What these verdicts count, in this order.
async fn verdicts(edge: &Edge, names: &[&str]) -> Vec<u64> {
    let mut counts = Vec::new();
    for name in names {
        counts.push(
            edge.metric(&format!("selvedge_session_verdicts_total{{pool=\"shop\",verdict=\"{name}\"}}"))
                .await,
        );
    }
    counts
}

/// Answer to a request that carries this `Cookie` field.
async fn with_cookie(edge: &Edge, cookie: &str) -> Response {
    Client::of(edge).get_with("/", &[&format!("Cookie: {cookie}")]).await
}

#[tokio::test]
async fn a_client_stays_with_its_target_and_gets_its_cookie_once() {
    let origins = targets(4).await;
    let edge = sticky(&origins).start().await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let mut client = Client::of(&edge);
        let first = client.get("/").await;
        assert!(first.set_cookie(COOKIE).is_some());
        for _ in 0..100 {
            let answer = client.get("/").await;
            assert_eq!(answer.origin(), first.origin());
            assert_eq!(answer.set_cookie(COOKIE), None, "the cookie is set once");
        }
        seen.insert(first.origin().to_owned());
    }
    assert!(seen.len() > 1, "twelve sessions all on one of four targets");
    assert_eq!(verdicts(&edge, &["none", "valid"]).await, [12, 1200]);
}

#[tokio::test]
async fn a_session_outlives_its_connection_and_its_node() {
    let folder = TempDir::new().unwrap();
    let keys = format!("[session_keys]\nfile = {:?}", session_keys(&folder));
    let origins = targets(5).await;
    let one = sticky(&origins).and(&keys).start().await;
    let two = sticky(&origins).top("workers = 2").and(&keys).start().await;
    for _ in 0..10 {
        let mut client = Client::of(&one);
        let first = client.get("/").await.origin().to_owned();
        for number in 0..20 {
            client = client.at(if number % 2 == 0 { &two } else { &one });
            let answer = client.get("/").await;
            assert_eq!(answer.origin(), first);
            assert_eq!(answer.set_cookie(COOKIE), None);
        }
    }
    assert_eq!(verdicts(&one, &["none", "valid"]).await, [10, 100]);
    assert_eq!(verdicts(&two, &["none", "valid"]).await, [0, 100]);
}

#[tokio::test]
async fn every_method_and_status_makes_a_session() {
    let origin = Origin::replying(|_| Reply::status(404)).await;
    let edge = Edge::before(&origin).pool(STICKY).start().await;
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let answer = Client::of(&edge).request(method, "/", &[], b"").await;
        assert!(answer.set_cookie(COOKIE).is_some(), "{method}");
    }
}

#[tokio::test]
async fn the_cookie_is_short_opaque_and_has_the_agreed_attributes() {
    let origins = targets(1).await;
    let edge = sticky(&origins).start().await;
    let answer = Client::of(&edge).get("/").await;
    let value = answer.cookie(COOKIE).unwrap();
    assert!(value.len() < 128, "{} characters", value.len());
    assert!(BASE64_URL_SAFE_NO_PAD.decode(value).is_ok(), "{value}");
    let mut attributes: Vec<_> = answer.set_cookie(COOKIE).unwrap().split("; ").skip(1).collect();
    attributes.sort_unstable();
    attributes.retain(|attribute| !attribute.starts_with("Max-Age=") && !attribute.starts_with("Expires="));
    assert_eq!(attributes, ["HttpOnly", "Path=/", "SameSite=Lax"]);
    let other = Client::of(&edge).get("/").await;
    assert_ne!(other.cookie(COOKIE), Some(value), "two sessions have one cookie");
}

#[tokio::test]
async fn the_cookie_has_the_attributes_it_is_given() {
    let origins = targets(1).await;
    let keys = "stickiness = { mode = \"lb_cookie\", cookie = \"edge-id\", same_site = \"none\", secure = \"always\", \
                partitioned = true, domain = \"shop.test\" }\nhealth.enabled = false";
    let edge = Setup::default().target(&origins[0]).pool(&format!("{keys}\n# stickiness.")).start().await;
    let answer = Client::of(&edge).get("/").await;
    let mut attributes: Vec<_> = answer.set_cookie("edge-id").unwrap().split("; ").skip(1).collect();
    attributes.retain(|attribute| !attribute.starts_with("Max-Age=") && !attribute.starts_with("Expires="));
    attributes.sort_unstable();
    assert_eq!(
        attributes,
        ["Domain=shop.test", "HttpOnly", "Partitioned", "Path=/", "SameSite=None", "Secure"]
    );
}

#[tokio::test]
async fn secure_is_set_when_a_trusted_source_says_https() {
    let origins = targets(1).await;
    let edge = sticky(&origins).listener("trusted = [\"127.0.0.2/32\"]").start().await;
    let fields = ["X-Forwarded-Proto: https"];
    for (source, secure) in [("127.0.0.2", true), ("127.0.0.3", false)] {
        let answer = Client::of(&edge).from(source).get_with("/", &fields).await;
        let cookie = answer.set_cookie(COOKIE).unwrap();
        assert_eq!(cookie.split("; ").any(|attribute| attribute == "Secure"), secure, "{source}: {cookie}");
    }
}

#[tokio::test]
async fn the_cookie_is_found_anywhere_and_hidden_from_the_target() {
    let origins = targets(3).await;
    let edge = sticky(&origins).start().await;
    let first = Client::of(&edge).get("/").await;
    let home = origins.iter().find(|origin| origin.count() == 1).unwrap();
    let value = first.cookie(COOKIE).unwrap();
    let own = format!("{COOKIE}={value}");
    let many =
        |count: usize| (0..count).map(|n| format!("c{n}={}", "v".repeat(72))).collect::<Vec<_>>().join("; ");
    let large = many(210);
    assert!(large.len() > 16_000);
    let mut findings = Findings::default();
    for (lines, rest) in [
        (vec![own.clone()], vec![]),
        (vec![format!("a=1; {own}")], vec!["a=1"]),
        (vec![format!("{own}; a=1")], vec!["a=1"]),
        (vec![format!("a=1; {own}; b=2")], vec!["a=1", "b=2"]),
        (vec![format!("a=1;{own};b=2")], vec!["a=1", "b=2"]),
        (vec![format!("a=1;   {own}  ;  b=2")], vec!["a=1", "b=2"]),
        (vec![format!("{COOKIE}=\"{value}\"; a=1")], vec!["a=1"]),
        (vec!["a=1".to_owned(), own.clone(), "b=2".to_owned()], vec!["a=1", "b=2"]),
        (vec!["a=1".to_owned(), format!("b=2; {own}")], vec!["a=1", "b=2"]),
        (vec![format!("{COOKIE}2=x; X{COOKIE}=y; {own}")], vec!["SELVEDGE2=x", "XSELVEDGE=y"]),
        (vec![format!("selvedge=lower; {own}")], vec!["selvedge=lower"]),
        (vec![format!("a; =b; c=; {own}; ")], vec!["a", "=b", "c="]),
        (vec![format!("a==b==; {own}")], vec!["a==b=="]),
        (vec![format!("{large}; {own}; z=1")], large.split("; ").chain(["z=1"]).collect()),
    ] {
        let fields: Vec<_> = lines.iter().map(|line| format!("Cookie: {line}")).collect();
        let fields: Vec<_> = fields.iter().map(String::as_str).collect();
        let shown = format!("{lines:?}").replace(value, "…").chars().take(90).collect::<String>();
        let answer = Client::of(&edge).get_with("/", &fields).await;
        findings.expect(answer.origin() == first.origin(), || {
            format!("{shown}: went to {:?}, not home", answer.origin())
        });
        findings.expect(answer.set_cookie(COOKIE).is_none(), || format!("{shown}: a new cookie"));
        let seen = home.last();
        let cookies: Vec<_> = seen.cookies().into_iter().filter(|cookie| !cookie.is_empty()).collect();
        findings.expect(!cookies.iter().any(|cookie| cookie.contains(value)), || {
            format!("{shown}: the target received the session cookie")
        });
        findings.expect(cookies == rest, || format!("{shown}: the target received {cookies:?}"));
    }
    findings.report();
}

#[tokio::test]
async fn a_cookie_that_came_alone_leaves_no_empty_field() {
    let origins = targets(1).await;
    let edge = sticky(&origins).start().await;
    let mut client = Client::of(&edge);
    client.get("/").await;
    client.get("/").await;
    assert!(!origins[0].last().fields.has("cookie"), "{:?}", origins[0].last().fields);
}

#[tokio::test]
async fn of_several_session_cookies_the_valid_one_counts() {
    let origins = targets(3).await;
    let edge = sticky(&origins).start().await;
    let first = Client::of(&edge).get("/").await;
    let value = first.cookie(COOKIE).unwrap();
    // A browser may hold one for the host and one for its parent domain, or somebody may plant one.
    for cookie in [format!("{COOKIE}=old; {COOKIE}={value}"), format!("{COOKIE}={value}; {COOKIE}=old")] {
        let answer = with_cookie(&edge, &cookie).await;
        assert_eq!(answer.origin(), first.origin(), "{}", cookie.replace(value, "…"));
        let cookies: Vec<_> = origins.iter().flat_map(Origin::requests).collect();
        assert!(
            cookies.iter().all(|request| !request.fields.has("cookie")),
            "a session cookie reached a target"
        );
    }
}

#[tokio::test]
async fn cookies_of_the_application_pass_untouched() {
    let origin =
        Origin::replying(|_| Reply::ok("").field("Set-Cookie: sid=abc; Path=/").field("Set-Cookie: b=2"))
            .await;
    let edge = Edge::before(&origin).pool(STICKY).start().await;
    let answer = Client::of(&edge).get("/").await;
    let cookies = answer.fields.all("set-cookie");
    assert_eq!(cookies.len(), 3, "{cookies:?}");
    assert!(cookies.contains(&"sid=abc; Path=/") && cookies.contains(&"b=2"), "{cookies:?}");
}

#[tokio::test]
async fn a_cookie_that_is_none_of_ours_is_a_new_session() {
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let keys = folders.each_ref().map(|folder| format!("[session_keys]\nfile = {:?}", session_keys(folder)));
    let origins = targets(2).await;
    let edge = sticky(&origins).and(&keys[0]).start().await;
    let stranger = sticky(&origins).and(&keys[1]).start().await;
    let value = Client::of(&edge).get("/").await.cookie(COOKIE).unwrap().to_owned();
    let foreign = Client::of(&stranger).get("/").await.cookie(COOKIE).unwrap().to_owned();
    let mut bytes = BASE64_URL_SAFE_NO_PAD.decode(&value).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    let forged = BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let truncated = value[..value.len() - 1].to_owned();
    for (cookie, verdict) in [
        (String::new(), "malformed"),
        ("x".to_owned(), "malformed"),
        ("!".repeat(value.len()), "malformed"),
        ("A".repeat(5000), "malformed"),
        (value.repeat(2), "malformed"),
        (format!("{value}="), "malformed"),
        (truncated, "malformed"),
        (format!("\"{value}"), "malformed"),
        (foreign, "unknown_key"),
        (forged, "forged"),
    ] {
        let before = verdicts(&edge, &[verdict, "valid"]).await;
        let answer = with_cookie(&edge, &format!("{COOKIE}={cookie}")).await;
        assert_eq!(answer.status, 200, "{cookie:?}");
        assert!(answer.set_cookie(COOKIE).is_some(), "{cookie:?}: no new cookie");
        let after = verdicts(&edge, &[verdict, "valid"]).await;
        assert_eq!(after, [before[0] + 1, before[1]], "{cookie:?} is not counted as {verdict}");
    }
}

#[tokio::test]
async fn a_cookie_of_another_pool_is_a_new_session() {
    let origins = targets(2).await;
    let pool = |name: &str, origin: &Origin| {
        format!(
            "[[route]]\npath = \"/{name}\"\npool = \"{name}\"\n[pool.{name}]\nhealth.enabled = false\n{STICKY}\n\
             [[pool.{name}.target]]\naddress = \"{origin}\""
        )
    };
    let edge =
        Edge::without_pool().and(&pool("one", &origins[0])).and(&pool("two", &origins[1])).start().await;
    let mut client = Client::of(&edge);
    client.get("/one").await;
    let answer = client.get("/two").await;
    assert_eq!(answer.status, 200);
    assert!(answer.set_cookie(COOKIE).is_some());
    edge.counts("selvedge_session_verdicts_total{pool=\"two\",verdict=\"forged\"}", 1).await;
}

#[tokio::test]
async fn no_single_bit_of_a_cookie_can_be_flipped() {
    let origins = targets(1).await;
    let edge = sticky(&origins).start().await;
    let value = Client::of(&edge).get("/").await.cookie(COOKIE).unwrap().to_owned();
    let mut altered = Vec::new();
    let sealed = BASE64_URL_SAFE_NO_PAD.decode(&value).unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut bytes = sealed.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        altered.push(BASE64_URL_SAFE_NO_PAD.encode(bytes).into_bytes());
    }
    for bit in 0..value.len() * 8 {
        let mut bytes = value.clone().into_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        altered.push(bytes);
    }
    assert!(altered.len() > 1000);
    let mut client = Client::of(&edge);
    for bytes in &altered {
        let request =
            [b"GET / HTTP/1.1\r\nHost: shop.test\r\nCookie: SELVEDGE=".as_slice(), bytes, b"\r\n\r\n"]
                .concat();
        let answer = client.send(&request).await;
        match answer.status {
            200 => {
                assert!(answer.set_cookie(COOKIE).is_some(), "accepted: {:?}", String::from_utf8_lossy(bytes))
            }
            // A control byte is no part of any field.
            status => assert!(status == 400 && bytes.iter().any(u8::is_ascii_control), "{status}"),
        }
    }
    assert_eq!(verdicts(&edge, &["valid"]).await, [0]);
    assert_eq!(with_cookie(&edge, &format!("{COOKIE}={value}")).await.set_cookie(COOKIE), None);
    assert_eq!(verdicts(&edge, &["valid"]).await, [1]);
}

#[tokio::test]
async fn an_unused_session_ends() {
    let origins = targets(2).await;
    let edge = sticky(&origins).pool("stickiness.idle = \"1s\"").start().await;
    let value = Client::of(&edge).get("/").await.cookie(COOKIE).unwrap().to_owned();
    let started = Instant::now();
    let cookie = format!("{COOKIE}={value}");
    // The same old cookie each time: nothing refreshes what it says.
    eventually("the session to expire", async || {
        let answer = with_cookie(&edge, &cookie).await;
        assert_eq!(answer.status, 200);
        verdicts(&edge, &["idle_expired"]).await == [1]
    })
    .await;
    assert!(started.elapsed() >= Duration::from_millis(900), "after {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(6), "after {:?}", started.elapsed());
    let answer = with_cookie(&edge, &cookie).await;
    assert!(answer.set_cookie(COOKIE).is_some());
}

#[tokio::test]
async fn a_session_in_use_does_not_end_before_its_absolute_age() {
    let origins = targets(4).await;
    let edge = sticky(&origins).pool("stickiness.idle = \"2s\"\nstickiness.absolute = \"4s\"").start().await;
    let mut client = Client::of(&edge);
    let home = client.get("/").await.origin().to_owned();
    let started = Instant::now();
    let mut refreshed = 0;
    eventually("the session to reach its age", async || {
        let answer = client.get("/").await;
        let expired = verdicts(&edge, &["absolute_expired", "idle_expired"]).await;
        assert_eq!(expired[1], 0, "a session in use expired as unused");
        if expired[0] == 0 {
            assert_eq!(answer.origin(), home);
            refreshed += usize::from(answer.set_cookie(COOKIE).is_some());
        }
        expired[0] == 1
    })
    .await;
    assert!(started.elapsed() >= Duration::from_millis(2900), "after {:?}", started.elapsed());
    assert!(
        (1..=20).contains(&refreshed),
        "the cookie was refreshed {refreshed} times in {:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn the_cookie_is_refreshed_after_a_tenth_of_the_idle_time_and_not_before() {
    let origins = targets(1).await;
    let edge = sticky(&origins).pool("stickiness.idle = \"20s\"").start().await;
    let value = Client::of(&edge).get("/").await.cookie(COOKIE).unwrap().to_owned();
    let started = Instant::now();
    let cookie = format!("{COOKIE}={value}");
    eventually("a refreshed cookie", async || with_cookie(&edge, &cookie).await.set_cookie(COOKIE).is_some())
        .await;
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(900) && waited < Duration::from_secs(6), "{waited:?}");
    assert_eq!(verdicts(&edge, &["none", "idle_expired"]).await, [1, 0]);
}

#[tokio::test]
async fn one_failed_attempt_does_not_move_the_bond() {
    // t0 answers all but the requests to /fail.
    let script = |name: &'static str| {
        move |mut conn: Conn| async move {
            while let Some(request) = conn.request().await {
                if name == "t0" && request.target == "/fail" {
                    return conn.reset();
                }
                conn.send(Reply::ok("").field(&format!("X-Origin: {name}")).bytes("GET")).await;
            }
        }
    };
    let (t0, t1) = (Origin::raw(script("t0")).await, Origin::raw(script("t1")).await);
    let edge = Edge::before_all(&[&t0, &t1]).pool(STICKY).start().await;
    let mut client = Client::of(&edge);
    while client.get("/").await.origin() != "t0" {
        client = Client::of(&edge);
    }
    for _ in 0..5 {
        let answer = client.get("/fail").await;
        assert_eq!((answer.status, answer.origin()), (200, "t1"));
        assert_eq!(answer.set_cookie(COOKIE), None, "the bond moved");
        assert_eq!(client.get("/").await.origin(), "t0");
    }
}

#[tokio::test]
async fn a_bound_session_waits_for_its_own_target() {
    let gate = crate::support::Gate::closed();
    let at_origin = gate.clone();
    let held = Origin::raw(move |mut conn: Conn| {
        let gate = at_origin.clone();
        async move {
            while let Some(request) = conn.request().await {
                if request.target == "/hold" {
                    gate.pass().await;
                }
                conn.send(Reply::ok("").field("X-Origin: held").bytes("GET")).await;
            }
        }
    })
    .await;
    let free = Origin::named("free").await;
    let edge = Setup::default()
        .target_with(&held, "max_connections = 1")
        .target(&free)
        .pool(&format!("{STICKY}\nqueue.timeout = \"10s\""))
        .start()
        .await;
    let mut client = Client::of(&edge);
    while client.get("/").await.origin() != "held" {
        client = Client::of(&edge);
    }
    let mut holding = client.at(&edge);
    let hold = tokio::spawn(async move { holding.get("/hold").await.status });
    eventually("the target to be full", async || edge.metric("selvedge_target_in_flight").await == 1).await;
    let waiting = tokio::spawn(async move { client.get("/").await.origin().to_owned() });
    edge.counts("selvedge_requests_waiting", 1).await;
    assert_eq!(Client::of(&edge).get("/").await.origin(), "free", "new sessions go where there is room");
    gate.open();
    assert_eq!(hold.await.unwrap(), 200);
    assert_eq!(waiting.await.unwrap(), "held");
}

#[tokio::test]
async fn a_node_that_has_not_checked_a_target_yet_leaves_its_sessions_there() {
    let folder = TempDir::new().unwrap();
    let keys = format!("[session_keys]\nfile = {:?}", session_keys(&folder));
    // This one never answers a check.
    let slow = Origin::raw(async |mut conn: Conn| {
        while let Some(mut request) = conn.request_head().await {
            if request.target == "/healthz" {
                conn.ended().await;
                return;
            }
            conn.rest_of(&mut request).await;
            conn.send(Reply::ok("").field("X-Origin: slow").bytes("GET")).await;
        }
    })
    .await;
    let other = Origin::named("other").await;
    let running = Edge::before_all(&[&slow, &other]).pool(STICKY).and(&keys).start().await;
    let mut client = Client::of(&running);
    while client.get("/").await.origin() != "slow" {
        client = Client::of(&running);
    }
    let checks = "health.path = \"/healthz\"\nhealth.interval = \"60s\"\nhealth.timeout = \"60s\"";
    let fresh = Edge::before_all(&[&slow, &other]).pool(STICKY).pool(checks).and(&keys).start_unready().await;
    let mut client = client.at(&fresh);
    for _ in 0..5 {
        let answer = client.get("/").await;
        assert_eq!((answer.origin(), answer.set_cookie(COOKIE)), ("slow", None), "a start moved the session");
        assert_eq!(Client::of(&fresh).get("/").await.origin(), "other", "nothing new before the first check");
    }
}

#[tokio::test]
async fn a_target_of_weight_zero_keeps_its_sessions() {
    let folder = TempDir::new().unwrap();
    let keys = format!("[session_keys]\nfile = {:?}", session_keys(&folder));
    let origins = targets(2).await;
    let before = sticky(&origins).and(&keys).start().await;
    let mut client = Client::of(&before);
    while client.get("/").await.origin() != "t0" {
        client = Client::of(&before);
    }
    let after =
        Setup::default().target_with(&origins[0], "weight = 0").target(&origins[1]).pool(STICKY).and(&keys);
    let after = after.start().await;
    let mut client = client.at(&after);
    for _ in 0..5 {
        assert_eq!(client.get("/").await.origin(), "t0");
        assert_eq!(Client::of(&after).get("/").await.origin(), "t1");
    }
}

#[tokio::test]
async fn keys_are_rotated_without_ending_a_session() {
    let (folder, other) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (old, new) = (session_keys(&folder), session_keys(&other));
    let both = folder.path().join("both.keys");
    let text = [std::fs::read(&new).unwrap(), std::fs::read(&old).unwrap()].concat();
    std::fs::write(&both, text).unwrap();
    let origins = targets(4).await;
    let node = async |file: &std::path::Path| {
        sticky(&origins).and(&format!("[session_keys]\nfile = {file:?}")).start().await
    };
    let (with_old, with_both, with_new) = (node(&old).await, node(&both).await, node(&new).await);
    let mut client = Client::of(&with_old);
    let home = client.get("/").await.origin().to_owned();
    let mut client = client.at(&with_both);
    assert_eq!(client.get("/").await.origin(), home, "the second key opens");
    let mut fresh = Client::of(&with_both);
    let home = fresh.get("/").await.origin().to_owned();
    let mut fresh = fresh.at(&with_new);
    let answer = fresh.get("/").await;
    assert_eq!((answer.origin(), answer.set_cookie(COOKIE)), (home.as_str(), None), "the first key seals");
}

#[tokio::test]
async fn off_means_no_cookie() {
    let origins = targets(1).await;
    let edge = origins.iter().fold(Setup::default(), Setup::target).start().await;
    let answer = Client::of(&edge).get_with("/", &["Cookie: a=1; SELVEDGE=x"]).await;
    assert!(!answer.fields.has("set-cookie"));
    assert_eq!(origins[0].last().cookies(), ["a=1", "SELVEDGE=x"], "it may be the application's");
    assert_eq!(verdicts(&edge, &["none", "malformed"]).await, [0, 0]);
}
