//! Which route wins, and what it does: host, path, method, header, query, source; pools by weight, redirects, fixed answers.

use crate::support::{Client, Edge, Findings, Origin};

/// Routes that answer with their own name.
fn routes(routes: &[(&str, &str)]) -> String {
    let route = |(name, keys): &(&str, &str)| {
        format!("[[route]]\n{keys}\nrespond = {{ status = 200, body = \"{name}\" }}\n")
    };
    routes.iter().map(route).collect()
}

/// Asks for each `(host, method, target, fields)` and compares the name of the route that answered; `404` for none.
async fn expect(edge: &Edge, cases: &[(&str, &str, &str, &[&str], &str)]) {
    let mut findings = Findings::default();
    for (host, method, target, fields, expected) in cases {
        let mut client = Client::of(edge);
        client.host = (*host).to_owned();
        let answer = client.request(method, target, fields, b"").await;
        let got = if answer.status == 200 { answer.text() } else { answer.status.to_string() };
        findings.expect(got == *expected, || {
            format!("{method} {host} {target} {fields:?}: {got}, not {expected}")
        });
    }
    findings.report();
}

#[tokio::test]
async fn an_exact_host_wins_over_a_wildcard_and_both_over_any() {
    let edge = Edge::without_pool()
        .and(&routes(&[
            ("any", ""),
            ("wild", "host = \"*.shop.test\""),
            ("deeper", "host = \"*.eu.shop.test\""),
            ("exact", "host = \"shop.test\""),
            ("www", "host = \"www.shop.test\""),
        ]))
        .start()
        .await;
    expect(
        &edge,
        &[
            ("shop.test", "GET", "/", &[], "exact"),
            ("SHOP.Test", "GET", "/", &[], "exact"),
            ("shop.test:8080", "GET", "/", &[], "exact"),
            ("shop.test.", "GET", "/", &[], "exact"),
            ("www.shop.test", "GET", "/", &[], "www"),
            ("api.shop.test", "GET", "/", &[], "wild"),
            ("a.b.shop.test:80", "GET", "/", &[], "wild"),
            ("a.eu.shop.test", "GET", "/", &[], "deeper"),
            ("eu.shop.test", "GET", "/", &[], "wild"),
            ("notshop.test", "GET", "/", &[], "any"),
            ("shop.test.evil.test", "GET", "/", &[], "any"),
            ("127.0.0.1", "GET", "/", &[], "any"),
        ],
    )
    .await;
}

#[tokio::test]
async fn the_longest_path_wins_and_matches_at_slashes_only() {
    let edge = Edge::without_pool()
        .and(&routes(&[
            ("root", "path = \"/\""),
            ("api", "path = \"/api\""),
            ("v1", "path = \"/api/v1\""),
            ("slash", "path = \"/files/\""),
        ]))
        .start()
        .await;
    expect(
        &edge,
        &[
            ("shop.test", "GET", "/", &[], "root"),
            ("shop.test", "GET", "/api", &[], "api"),
            ("shop.test", "GET", "/api?x=/api/v1", &[], "api"),
            ("shop.test", "GET", "/api/", &[], "api"),
            ("shop.test", "GET", "/api/v1", &[], "v1"),
            ("shop.test", "GET", "/api/v1/users", &[], "v1"),
            ("shop.test", "GET", "/api/v12", &[], "api"),
            ("shop.test", "GET", "/apis", &[], "root"),
            ("shop.test", "GET", "/API", &[], "root"),
            ("shop.test", "GET", "/files/a", &[], "slash"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_host_counts_for_more_than_a_path() {
    let edge = Edge::without_pool()
        .and(&routes(&[("path", "path = \"/api/v1\""), ("host", "host = \"shop.test\"\npath = \"/\"")]))
        .start()
        .await;
    expect(
        &edge,
        &[("shop.test", "GET", "/api/v1", &[], "host"), ("other.test", "GET", "/api/v1", &[], "path")],
    )
    .await;
}

#[tokio::test]
async fn methods_headers_and_queries_narrow_a_route() {
    let edge = Edge::without_pool()
        .and(&routes(&[
            ("rest", "path = \"/a\""),
            ("post", "path = \"/a\"\nmethods = [\"POST\", \"PUT\"]"),
            ("beta", "path = \"/a\"\nheaders = [{ name = \"X-Beta\", value = \"yes\" }]"),
            ("flag", "path = \"/a\"\nheaders = [{ name = \"X-Flag\" }]"),
            ("query", "path = \"/a\"\nquery = [{ name = \"v\", value = \"2\" }]"),
            ("debug", "path = \"/a\"\nquery = [{ name = \"debug\" }]"),
            ("both", "path = \"/a\"\nheaders = [{ name = \"X-Beta\", value = \"yes\" }]\nquery = [{ name = \"v\", value = \"2\" }]"),
        ]))
        .start()
        .await;
    expect(
        &edge,
        &[
            ("a.test", "GET", "/a", &[], "rest"),
            ("a.test", "POST", "/a", &[], "post"),
            ("a.test", "PUT", "/a", &[], "post"),
            ("a.test", "DELETE", "/a", &[], "rest"),
            ("a.test", "GET", "/a", &["x-beta: yes"], "beta"),
            ("a.test", "GET", "/a", &["X-Beta: no"], "rest"),
            ("a.test", "GET", "/a", &["X-Beta: no", "X-Beta: yes"], "beta"),
            ("a.test", "GET", "/a", &["X-Flag: anything"], "flag"),
            ("a.test", "GET", "/a?v=2", &[], "query"),
            ("a.test", "GET", "/a?x=1&v=2&y", &[], "query"),
            ("a.test", "GET", "/a?v=22", &[], "rest"),
            ("a.test", "GET", "/a?vv=2", &[], "rest"),
            ("a.test", "GET", "/a?debug", &[], "debug"),
            ("a.test", "GET", "/a?debug=1", &[], "debug"),
            ("a.test", "GET", "/a?v=2", &["X-Beta: yes"], "both"),
            ("a.test", "GET", "/b", &[], "404"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_source_narrows_a_route() {
    let edge = Edge::without_pool()
        .and(&routes(&[("all", ""), ("office", "sources = [\"127.0.0.2/32\", \"127.0.3.0/24\"]")]))
        .start()
        .await;
    for (source, expected) in
        [("127.0.0.1", "all"), ("127.0.0.2", "office"), ("127.0.3.77", "office"), ("127.0.4.1", "all")]
    {
        assert_eq!(Client::of(&edge).from(source).get("/").await.text(), expected, "{source}");
    }
}

#[tokio::test]
async fn a_request_without_a_route_is_a_404_and_keeps_its_connection() {
    let edge = Edge::without_pool().and(&routes(&[("a", "host = \"a.test\"")])).start().await;
    let mut client = Client::of(&edge);
    client.host = "b.test".to_owned();
    for _ in 0..2 {
        assert_eq!(client.get("/").await.status, 404);
    }
    assert_eq!(client.post("/", b"a body to skip").await.status, 404);
    client.host = "a.test".to_owned();
    assert_eq!(client.get("/").await.text(), "a");
    edge.counts(&format!("{}{{reason=\"no_route\"}}", crate::REFUSALS), 3).await;
}

#[tokio::test]
async fn http_1_0_without_a_host_takes_the_route_for_any() {
    let edge =
        Edge::without_pool().and(&routes(&[("any", ""), ("exact", "host = \"shop.test\"")])).start().await;
    let mut raw = crate::support::Raw::connect(&edge).await;
    raw.send("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(raw.response().await.text(), "any");
}

#[tokio::test]
async fn a_fixed_answer_is_sent_as_written() {
    let edge = Edge::without_pool()
        .and("[[route]]\npath = \"/gone\"\nrespond = { status = 410, body = \"<b>gone</b>\", content_type = \"text/html\" }")
        .and("[[route]]\nrespond = { status = 503 }")
        .start()
        .await;
    let mut client = Client::of(&edge);
    let answer = client.get("/gone").await;
    assert_eq!((answer.status, answer.text().as_str()), (410, "<b>gone</b>"));
    assert_eq!(answer.fields.get("content-type"), Some("text/html"));
    let answer = client.request("HEAD", "/gone", &[], b"").await;
    assert_eq!((answer.status, answer.fields.get("content-length")), (410, Some("11")));
    assert_eq!(client.get("/").await.status, 503);
    assert_eq!(client.post("/gone", &[b'x'; 100_000]).await.status, 410);
    assert_eq!(client.get("/gone").await.status, 410);
}

#[tokio::test]
async fn a_redirect_keeps_what_it_does_not_replace() {
    let edge = Edge::without_pool()
        .and("[[route]]\nhost = \"secure.test\"\nredirect = { scheme = \"https\" }")
        .and("[[route]]\nhost = \"old.test\"\nredirect = { status = 301, host = \"new.test:8443\", scheme = \"https\" }")
        .and("[[route]]\nhost = \"moved.test\"\nredirect = { status = 302, path = \"/elsewhere\" }")
        .start()
        .await;
    for (host, target, status, location) in [
        ("secure.test", "/a/b?c=d", 308, "https://secure.test/a/b?c=d"),
        ("old.test", "/a?b", 301, "https://new.test:8443/a?b"),
        ("moved.test", "/a?b=c", 302, "http://moved.test/elsewhere?b=c"),
    ] {
        let mut client = Client::of(&edge);
        client.host = host.to_owned();
        let answer = client.get(target).await;
        let got = answer.fields.get("location").unwrap_or_default();
        let relative = location.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        let same_origin = host == "moved.test" && Some(got) == relative;
        assert!(
            answer.status == status && (got == location || same_origin),
            "{host}: {} {got}",
            answer.status
        );
    }
}

#[tokio::test]
async fn a_redirect_does_not_repeat_what_would_break_its_field() {
    let edge = Edge::without_pool().and("[[route]]\nredirect = { scheme = \"https\" }").start().await;
    let answer = Client::of(&edge).get("/%0d%0aSet-Cookie:%20a=b?x=%0a").await;
    assert_eq!(answer.fields.get("location"), Some("https://shop.test/%0d%0aSet-Cookie:%20a=b?x=%0a"));
    assert!(!answer.fields.has("set-cookie"));
}

#[tokio::test]
async fn weighted_pools_share_requests_by_weight() {
    let (blue, green) = (Origin::named("blue").await, Origin::named("green").await);
    let pool = |name: &str, origin: &Origin| {
        format!(
            "[pool.{name}]\nhealth.enabled = false\nstickiness.mode = \"off\"\n[[pool.{name}.target]]\naddress = \"{origin}\""
        )
    };
    let edge = Edge::without_pool()
        .and("[[route]]\npools = [{ pool = \"blue\", weight = 3 }, { pool = \"green\", weight = 1 }]")
        .and("[[route]]\npath = \"/blue\"\npools = [{ pool = \"blue\", weight = 1 }, { pool = \"green\", weight = 0 }]")
        .and(&pool("blue", &blue))
        .and(&pool("green", &green))
        .start()
        .await;
    let mut client = Client::of(&edge);
    for _ in 0..400 {
        client.get("/").await;
    }
    // Drawn at random, 300 ± 45 would be five standard deviations.
    assert!((255..=345).contains(&blue.count()), "{} of 400 for weight 3 of 4", blue.count());
    assert_eq!(blue.count() + green.count(), 400);
    let before = green.count();
    for _ in 0..50 {
        assert_eq!(client.get("/blue").await.origin(), "blue");
    }
    assert_eq!(green.count(), before, "weight 0 takes nothing");
}

#[tokio::test]
async fn a_session_keeps_its_side_of_a_weighted_route() {
    let (blue, green) = (Origin::named("blue").await, Origin::named("green").await);
    let pool = |name: &str, origin: &Origin| {
        format!(
            "[pool.{name}]\nhealth.enabled = false\nstickiness.mode = \"lb_cookie\"\n\
             [[pool.{name}.target]]\naddress = \"{origin}\""
        )
    };
    let edge = Edge::without_pool()
        .and("[[route]]\npools = [{ pool = \"blue\", weight = 1 }, { pool = \"green\", weight = 1 }]")
        .and(&pool("blue", &blue))
        .and(&pool("green", &green))
        .start()
        .await;
    for _ in 0..10 {
        let mut client = Client::of(&edge);
        let first = client.get("/").await.origin().to_owned();
        for _ in 0..20 {
            assert_eq!(
                client.get("/").await.origin(),
                first,
                "a shopper changed between versions of the application"
            );
        }
    }
}
