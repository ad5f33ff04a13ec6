//! Which route wins.

use super::*;
use crate::config::{Action, HeaderMatch, QueryMatch, Respond};
use crate::proxy::fields::Fields;
use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};
use proptest::prelude::*;

fn route(name: &'static str, host: Option<HostPattern>, path: &str) -> Route {
    Route {
        name: name.into(),
        host,
        path: path.into(),
        methods: Vec::new(),
        headers: Vec::new(),
        query: Vec::new(),
        sources: Vec::new(),
        action: Action::Respond(Respond {
            status: StatusCode::OK,
            body: Bytes::new(),
            content_type: HeaderValue::from_static("text/plain"),
        }),
    }
}

fn exact(host: &str) -> Option<HostPattern> {
    Some(HostPattern::Exact(host.into()))
}

fn wildcard(suffix: &str) -> Option<HostPattern> {
    Some(HostPattern::Wildcard(suffix.into()))
}

fn head(host: &str, path: &str) -> Head {
    Head {
        version: http::Version::HTTP_11,
        method: Method::GET,
        path: path.parse().unwrap(),
        headers: Fields::from_iter([(http::header::HOST, HeaderValue::from_str(host).unwrap())]),
        accepts_trailers: false,
        claims_origin: false,
        expect_continue: false,
        websocket: false,
    }
}

fn winner<'a>(table: &'a RouteTable, head: &Head) -> &'a str {
    table.find(head, "192.0.2.7".parse().unwrap()).map_or("none", |route| &route.name)
}

#[test]
fn exact_hosts_win_over_wildcards_over_any() {
    let table = RouteTable::new(&[
        route("any", None, "/"),
        route("wide", wildcard(".test"), "/"),
        route("narrow", wildcard(".shop.test"), "/"),
        route("exact", exact("www.shop.test"), "/"),
    ]);
    for (host, expected) in [
        ("www.shop.test", "exact"),
        ("WWW.Shop.TEST:8080", "exact"),
        ("www.shop.test.", "exact"),
        ("a.shop.test", "narrow"),
        ("a.b.shop.test", "narrow"),
        ("shop.test", "wide"),
        ("test", "any"),
        ("[::1]:80", "any"),
    ] {
        assert_eq!(winner(&table, &head(host, "/")), expected, "{host}");
    }
}

#[test]
fn a_host_without_a_matching_path_falls_through_to_wider_hosts() {
    let table = RouteTable::new(&[route("api", exact("shop.test"), "/api"), route("any", None, "/")]);
    assert_eq!(winner(&table, &head("shop.test", "/api/x")), "api");
    assert_eq!(winner(&table, &head("shop.test", "/apix")), "any");
}

#[test]
fn the_longest_path_wins_and_then_the_most_conditions() {
    let mut get = route("get", None, "/a");
    get.methods = vec![Method::GET];
    let mut beta = route("beta", None, "/a");
    beta.methods = vec![Method::GET];
    beta.headers = vec![HeaderMatch { name: "x-beta".parse().unwrap(), value: None }];
    let mut query = route("query", None, "/a");
    query.query = vec![
        QueryMatch { name: "v".into(), value: Some("2".into()) },
        QueryMatch { name: "w".into(), value: None },
    ];
    let mut inside = route("inside", None, "/a");
    inside.sources = vec!["10.0.0.0/8".parse().unwrap()];
    let table =
        RouteTable::new(&[route("root", None, "/"), inside, get, beta, query, route("deep", None, "/a/b/")]);
    assert_eq!(winner(&table, &head("x", "/")), "root");
    assert_eq!(winner(&table, &head("x", "/a/b/c")), "deep");
    assert_eq!(winner(&table, &head("x", "/a/b")), "deep");
    assert_eq!(winner(&table, &head("x", "/a")), "get");
    assert_eq!(winner(&table, &head("x", "/a?v=2&w")), "query");
    let mut beta = head("x", "/a");
    beta.headers.append(http::HeaderName::from_static("x-beta"), HeaderValue::from_static("1"));
    assert_eq!(winner(&table, &beta), "beta");
    let mut post = head("x", "/a");
    post.method = Method::POST;
    assert_eq!(winner(&table, &post), "root");
}

proptest! {
    #[test]
    fn the_winner_is_the_longest_prefix_of_all(paths in prop::collection::vec("(/[ab]{1,2}){0,3}/?", 1..12), asked in "(/[ab]{1,2}){1,4}") {
        let routes: Vec<_> = paths.iter().map(|path| {
            let path = if path.is_empty() { "/" } else { path };
            route(path.to_owned().leak(), None, path)
        }).collect();
        let segments = |path: &str| path.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect::<Vec<_>>();
        let best = routes.iter()
            .map(|route| segments(&route.path))
            .filter(|route| segments(&asked).starts_with(route))
            .map(|route| route.len())
            .max();
        let table = RouteTable::new(&routes);
        let found = winner(&table, &head("x", &asked));
        prop_assert_eq!(best, (found != "none").then(|| segments(found).len()));
    }
}
