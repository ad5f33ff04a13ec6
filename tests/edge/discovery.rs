//! Targets found in DNS: where they stand, how they come and go, who steps in for whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use hickory_server::proto::rr::RecordType;
use serde_json::Value;

use crate::support::{Client, Dns, Edge, Origin, Said, Setup, all, eventually, still_waiting_after};

/// The service that most tests ask for.
pub(crate) const SHOP: &str = "_http._tcp.shop.internal";
/// Checks that are quick, and TTLs that may be too.
pub(crate) const QUICK: &str = "health.path = \"/healthz\"\nhealth.interval = \"250ms\"\nhealth.timeout = \"250ms\"\n\
                                health.healthy = 1\nhealth.unhealthy = 3\nzones.panic = \"0%\"";

/// What the API shows of the pool.
pub(crate) async fn pool(edge: &Edge) -> Value {
    serde_json::from_slice(&edge.admin("/v1/pools/shop").await.body).unwrap()
}

/// Names and statuses of the pool's targets.
pub(crate) async fn targets(edge: &Edge) -> Vec<(String, String)> {
    let pool = pool(edge).await;
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let targets = pool["targets"].as_array().unwrap().iter();
    targets.map(|target| (text(&target["name"]), text(&target["status"]))).collect()
}

/// Waits until the pool has these targets with these statuses; `expected` is sorted by name.
pub(crate) async fn has(edge: &Edge, expected: &[(String, &str)]) {
    eventually(&format!("the targets {expected:?}"), async || {
        let shown = targets(edge).await;
        shown.iter().map(|(name, status)| (name.clone(), status.as_str())).collect::<Vec<_>>() == *expected
    })
    .await;
}

/// Who answers `count` requests without a session, each name once.
pub(crate) async fn answering(edge: &Edge, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        names.push(Client::of(edge).get("/").await.origin().to_owned());
    }
    names.sort();
    names.dedup();
    names
}

/// Says that the service is at these origins now: hosts `NAME.az-a.shop.internal`, all of them 127.0.0.1.
pub(crate) fn publish(dns: &Dns, ttl: u32, origins: &[(&str, &Origin)]) {
    let hosts: Vec<_> = origins.iter().map(|(name, _)| format!("{name}.az-a.shop.internal")).collect();
    for host in &hosts {
        dns.a(host, ttl, [Ipv4Addr::LOCALHOST]);
    }
    let services =
        hosts.iter().zip(origins).map(|(host, (_, origin))| (0, 1, origin.address.port(), &**host));
    dns.srv(SHOP, ttl, services);
}

pub(crate) fn named(zone: &str, origin: &Origin) -> String {
    format!("{zone}/{}", origin.address)
}

#[tokio::test]
async fn services_have_zones_weights_and_ports_from_their_records() {
    let (dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    dns.srv(
        SHOP,
        60,
        [
            (0, 10, one.address.port(), "shop-1.AZ-a.shop.internal"),
            (0, 0, two.address.port(), "shop-2.az-b.shop.internal"),
        ],
    );
    dns.a("shop-1.az-a.shop.internal", 60, [Ipv4Addr::LOCALHOST]);
    dns.beside(SHOP, 60, "shop-2.az-b.shop.internal", IpAddr::from([127, 0, 0, 1]));
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\"\nmax_connections = 7"))
        .pool("health.path = \"/healthz\"")
        .start()
        .await;
    let shown = pool(&edge).await;
    let target = |index: usize| shown["targets"][index].clone();
    let (a, b) = if target(0)["zone"] == "az-a" { (target(0), target(1)) } else { (target(1), target(0)) };
    assert_eq!((&a["name"], &a["weight"]), (&Value::from(named("az-a", &one)), &Value::from(10)));
    assert_eq!((&b["name"], &b["weight"]), (&Value::from(named("az-b", &two)), &Value::from(1)));
    assert_eq!(
        (&a["max_connections"], &a["source"]),
        (&Value::from(7), &Value::from(format!("dns SRV {SHOP}")))
    );
    assert_eq!(answering(&edge, 60).await, ["one", "two"]);
    assert!(dns.asked("shop-2.az-b.shop.internal").is_empty(), "its address came with the answer");
    let name = &shown["discovery"][0];
    assert_eq!((&name["question"], &name["error"]), (&Value::from(format!("SRV {SHOP}")), &Value::Null));
    assert_eq!(
        (&name["answer"]["targets"], &name["answer"]["ttl_seconds"]),
        (&Value::from(2), &Value::from(60.0))
    );
    assert_eq!(name["targets"].as_array().unwrap().len(), 2);
    let next = name["next_try_seconds"].as_f64().unwrap();
    assert!((30.0..=66.0).contains(&next), "{next}");
    assert_eq!(edge.metric("selvedge_discovery_lookups_total{result=\"found\"}").await, 1);
    assert_eq!(edge.metric("selvedge_discovery_targets").await, 2);
}

/// Origins at these addresses, all on one port.
async fn on_one_port(ips: &[[u8; 4]]) -> (u16, Vec<Origin>) {
    loop {
        let mut origins = vec![Origin::named_at("0", SocketAddr::from((ips[0], 0))).await];
        let port = origins[0].address.port();
        for (number, ip) in ips.iter().enumerate().skip(1) {
            let address = SocketAddr::from((*ip, port));
            if std::net::TcpListener::bind(address).is_ok() {
                origins.push(Origin::named_at(&number.to_string(), address).await);
            }
        }
        if origins.len() == ips.len() {
            return (port, origins);
        }
    }
}

#[tokio::test]
async fn addresses_have_the_port_of_the_configuration_and_the_zone_of_their_range() {
    let dns = Dns::start().await;
    let (port, _origins) = on_one_port(&[[127, 9, 1, 1], [127, 9, 2, 1]]).await;
    dns.cname("shop.internal", RecordType::A, 60, "blue.internal");
    dns.a("blue.internal", 60, [[127, 9, 1, 1], [127, 9, 2, 1]].map(Ipv4Addr::from));
    let edge = Edge::asking(&[dns.address])
        .discover(&format!(
            "dns = \"shop.internal\"\nport = {port}\nzone_from = {{ \"127.9.1.0/24\" = \"az-a\", \"127.9.0.0/16\" = \"rest\" }}"
        ))
        .start()
        .await;
    let expected =
        [(format!("az-a/127.9.1.1:{port}"), "healthy"), (format!("rest/127.9.2.1:{port}"), "healthy")];
    has(&edge, &expected).await;
    assert_eq!(answering(&edge, 40).await, ["0", "1"]);
}

#[tokio::test]
async fn what_is_new_gets_requests_and_what_is_gone_keeps_its_sessions_until_the_drain_ends() {
    let (dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 1, &[("shop-1", &one)]);
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\""))
        .pool(&format!(
            "{QUICK}\nstickiness.mode = \"lb_cookie\"\ndrain.deadline = \"3s\"\ndrain.quiet = \"1h\""
        ))
        .start()
        .await;
    let mut bound = Client::of(&edge);
    assert_eq!(bound.get("/").await.origin(), "one");
    publish(&dns, 1, &[("shop-2", &two)]);
    eventually("the first to be drained", async || {
        targets(&edge).await.contains(&(named("az-a", &one), "draining".into()))
    })
    .await;
    assert_eq!(answering(&edge, 20).await, ["two"]);
    assert_eq!(bound.get("/").await.origin(), "one");
    let shown = pool(&edge).await;
    let gone =
        shown["targets"].as_array().unwrap().iter().find(|target| target["status"] == "draining").unwrap();
    assert!(gone["reason"].as_str().unwrap().starts_with("no longer listed"), "{gone}");
    has(&edge, &[(named("az-a", &two), "healthy")]).await;
    assert_eq!(bound.get("/").await.origin(), "two");
}

#[tokio::test]
async fn an_address_that_returns_while_it_drains_has_lost_nothing() {
    let (dns, one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 1, &[("shop-1", &one), ("shop-2", &two)]);
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\""))
        .pool(QUICK)
        .start()
        .await;
    assert_eq!(answering(&edge, 40).await, ["one", "two"]);
    let selector = format!("selvedge_target_attempts_total{{target=\"{}\"}}", one.address);
    let attempts = edge.metric(&selector).await;
    assert!(attempts > 0);
    publish(&dns, 1, &[("shop-2", &two)]);
    eventually("the first to be drained", async || {
        targets(&edge).await.contains(&(named("az-a", &one), "draining".into()))
    })
    .await;
    publish(&dns, 1, &[("shop-1", &one), ("shop-2", &two)]);
    eventually("the first to be back", async || {
        targets(&edge).await.contains(&(named("az-a", &one), "healthy".into()))
    })
    .await;
    assert!(edge.metric(&selector).await >= attempts);
    assert_eq!(answering(&edge, 40).await, ["one", "two"]);
}

#[tokio::test]
async fn file_names_and_registration_make_one_pool_and_an_address_is_one_target() {
    let dns = Dns::start().await;
    let origins = [Origin::named("a").await, Origin::named("b").await, Origin::named("c").await];
    publish(&dns, 60, &[("shop-1", &origins[0]), ("shop-2", &origins[1])]);
    dns.a("more.internal", 60, [Ipv4Addr::LOCALHOST]);
    let edge = Edge::asking(&[dns.address])
        .target_with(&origins[0], "zone = \"az-z\"\nweight = 3")
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\""))
        .discover(&format!("dns = \"more.internal\"\nport = {}\nzone = \"az-c\"", origins[2].address.port()))
        .start()
        .await;
    let mut expected = [
        (named("az-z", &origins[0]), "healthy"),
        (named("az-a", &origins[1]), "healthy"),
        (named("az-c", &origins[2]), "healthy"),
    ];
    expected.sort();
    has(&edge, &expected).await;
    assert_eq!(answering(&edge, 60).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_higher_priority_steps_in_while_none_of_the_lower_can_serve() {
    let dns = Dns::start().await;
    let (mut first, second) = (Origin::named("first").await, Origin::named("second").await);
    dns.srv(
        SHOP,
        60,
        [
            (10, 1, first.address.port(), "one.az-a.shop.internal"),
            (20, 1, second.address.port(), "two.az-a.shop.internal"),
        ],
    );
    for host in ["one.az-a.shop.internal", "two.az-a.shop.internal"] {
        dns.a(host, 60, [Ipv4Addr::LOCALHOST]);
    }
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\""))
        .pool(&format!("{QUICK}\nstickiness.mode = \"lb_cookie\""))
        .start()
        .await;
    edge.counts("selvedge_target_status{status=\"standby\"}", 1).await;
    assert_eq!(answering(&edge, 20).await, ["first"]);
    first.stop().await;
    edge.counts("selvedge_target_status{status=\"unhealthy\"}", 1).await;
    let mut stayer = Client::of(&edge);
    assert_eq!(stayer.get("/").await.origin(), "second");
    first.resume();
    edge.counts("selvedge_target_status{status=\"standby\"}", 1).await;
    assert_eq!(answering(&edge, 20).await, ["first"]);
    assert_eq!(stayer.get("/").await.origin(), "second", "a session stays where it is");
}

#[tokio::test]
async fn a_name_is_asked_again_when_its_records_expire_and_not_before() {
    let (dns, one) = (Dns::start().await, Origin::named("one").await);
    for (name, ttl) in [("soon.internal", 1), ("at-once.internal", 0), ("late.internal", 3600)] {
        dns.a(name, ttl, [Ipv4Addr::LOCALHOST]);
    }
    let name = |name: &str, keys: &str| format!("dns = \"{name}\"\nport = {}\n{keys}", one.address.port());
    let _edge = Edge::asking(&[dns.address])
        .discover(&name("soon.internal", ""))
        .discover(&name("at-once.internal", "min_ttl = \"200ms\""))
        .discover(&name("late.internal", "max_ttl = \"2s\""))
        .start()
        .await;
    eventually("three questions each", async || {
        ["soon.internal", "at-once.internal", "late.internal"].iter().all(|name| dns.asked(name).len() >= 3)
    })
    .await;
    let gaps = |name: &str| {
        let asked = dns.asked(name);
        asked.windows(2).map(|two| two[1].at - two[0].at).collect::<Vec<_>>()
    };
    for (name, least) in [("soon.internal", 1000), ("at-once.internal", 200), ("late.internal", 2000)] {
        let gaps = gaps(name);
        assert!(gaps.iter().all(|gap| *gap >= Duration::from_millis(least)), "{name}: {gaps:?}");
    }
}

#[tokio::test]
async fn a_name_whose_targets_all_fail_is_asked_at_once_and_then_ever_more_slowly() {
    let (dns, mut one, two) = (Dns::start().await, Origin::named("one").await, Origin::named("two").await);
    publish(&dns, 300, &[("shop-1", &one)]);
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\"\nmin_ttl = \"500ms\""))
        .pool(QUICK)
        .start()
        .await;
    assert_eq!(dns.asked(SHOP).len(), 1);
    one.stop().await;
    dns.is_asked(SHOP).await;
    eventually("three more questions", async || dns.asked(SHOP).len() >= 5).await;
    let asked = dns.asked(SHOP);
    let gaps: Vec<_> = asked.windows(2).skip(1).map(|two| two[1].at - two[0].at).collect();
    for (gap, least) in gaps.iter().zip([500, 1000, 2000]) {
        assert!(*gap >= Duration::from_millis(least), "{gaps:?}");
    }
    publish(&dns, 300, &[("shop-2", &two)]);
    has(&edge, &[(named("az-a", &two), "healthy")]).await;
    assert_eq!(answering(&edge, 5).await, ["two"]);
}

#[tokio::test]
async fn a_node_is_not_ready_before_its_names_have_been_looked_up_once() {
    let (dns, one) = (Dns::start().await, Origin::named("one").await);
    publish(&dns, 60, &[("shop-1", &one)]);
    dns.mood(Some(Said::Late(Duration::from_millis(1200), Box::new(Said::Code(SERVFAIL)))));
    // A target in the file is there all the time: it alone would make the node ready.
    let edge = Edge::asking(&[dns.address])
        .target(&Origin::named("file").await)
        .discover(&format!("dns = \"{SHOP}\""))
        .start_unready()
        .await;
    eventually("readiness to wait for the name", async || {
        let answer = edge.admin("/readyz").await;
        answer.status == 503 && answer.text().contains(&format!("SRV {SHOP} has not been looked up yet"))
    })
    .await;
    edge.ready().await;
    edge.counts("selvedge_discovery_lookups_total{result=\"servfail\"}", 1).await;
}

pub(crate) const SERVFAIL: hickory_server::proto::op::ResponseCode =
    hickory_server::proto::op::ResponseCode::ServFail;

#[tokio::test]
async fn a_node_whose_only_names_bring_nothing_is_not_ready_and_becomes_ready_when_they_do() {
    let (dns, one) = (Dns::start().await, Origin::named("one").await);
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nmin_ttl = \"100ms\""))
        .start_unready()
        .await;
    edge.logged(&["brings no targets", "there is no such name"]).await;
    assert_eq!(edge.admin("/readyz").await.status, 503);
    publish(&dns, 60, &[("shop-1", &one)]);
    edge.ready().await;
    assert_eq!(answering(&edge, 5).await, ["one"]);
}

#[tokio::test]
async fn the_next_name_server_is_asked_when_one_is_silent_or_cannot_say() {
    let (silent, failing, good) = (Dns::start().await, Dns::start().await, Dns::start().await);
    let one = Origin::named("one").await;
    silent.mood(Some(Said::Silence));
    failing.mood(Some(Said::Code(SERVFAIL)));
    publish(&good, 1, &[("shop-1", &one)]);
    let edge = Setup::default()
        .and(&format!(
            "[resolver]\ntimeout = \"150ms\"\nattempts = 1\nnameservers = [\"{}\", \"{}\", \"{}\"]",
            silent.address, failing.address, good.address
        ))
        .discover(&format!("dns = \"{SHOP}\""))
        .start()
        .await;
    assert_eq!(answering(&edge, 5).await, ["one"]);
    let before = silent.asked(SHOP).len();
    good.is_asked(SHOP).await;
    good.is_asked(SHOP).await;
    assert_eq!(silent.asked(SHOP).len(), before, "the one that answered last is asked first");
}

#[tokio::test]
async fn a_name_server_is_asked_over_tls_if_its_certificate_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let (dns, authority) = Dns::start_with_tls("dns.test", &folder).await;
    let one = Origin::named("one").await;
    publish(&dns, 60, &[("shop-1", &one)]);
    let setup = |name: &str| {
        Setup::default()
            .and(&format!(
                "[resolver]\nca_file = \"{}\"\nnameservers = [\"tls://{}#{name}\"]",
                authority.display(),
                dns.tls.unwrap()
            ))
            .discover(&format!("dns = \"{SHOP}\""))
    };
    let edge = setup("dns.test").start().await;
    assert_eq!(answering(&edge, 5).await, ["one"]);
    assert!(dns.asked(SHOP).iter().all(|asked| asked.protocol == Protocol::Tls), "{:?}", dns.asked(SHOP));
    let edge = setup("other.test").start_unready().await;
    edge.logged(&["brings no targets", "#other.test", "its certificate is not one to trust"]).await;
    assert_eq!(edge.admin("/readyz").await.status, 503);
}

#[tokio::test]
async fn a_thousand_addresses_come_over_tcp_and_serve() {
    let dns = Dns::start().await;
    // One origin, which answers at all of them.
    let everywhere = Origin::named_at("everywhere", SocketAddr::from(([0, 0, 0, 0], 0))).await;
    let ips = (0..1000u16).map(|number| Ipv4Addr::from([127, 77, (number >> 8) as u8, number as u8]));
    dns.a("many.internal", 1, ips);
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"many.internal\"\nport = {}", everywhere.address.port()))
        .pool("health.path = \"/healthz\"\nhealth.interval = \"30s\"")
        .start()
        .await;
    edge.counts("selvedge_target_status{status=\"healthy\"}", 1000).await;
    let protocols: Vec<_> = dns.asked("many.internal").iter().map(|asked| asked.protocol).take(2).collect();
    assert_eq!(protocols, [Protocol::Udp, Protocol::Tcp]);
    let answered = all((0..50).map(|_| {
        let mut client = Client::of(&edge);
        async move {
            for _ in 0..20 {
                assert_eq!(client.get("/").await.status, 200);
            }
        }
    }));
    answered.await;
    dns.is_asked("many.internal").await;
    assert_eq!(edge.metric("selvedge_target_status{status=\"healthy\"}").await, 1000);
}

#[tokio::test]
async fn a_thousand_services_are_found_though_each_host_must_be_asked_for() {
    let dns = Dns::start().await;
    let everywhere = Origin::named_at("everywhere", SocketAddr::from(([0, 0, 0, 0], 0))).await;
    let hosts: Vec<_> = (0..1000u16).map(|number| format!("i-{number}.az-a.shop.internal")).collect();
    for (number, host) in (0..1000u16).zip(&hosts) {
        dns.a(host, 60, [Ipv4Addr::from([127, 78, (number >> 8) as u8, number as u8])]);
    }
    dns.srv(SHOP, 1, hosts.iter().map(|host| (0, 1, everywhere.address.port(), &**host)));
    let edge = Edge::asking(&[dns.address])
        .discover(&format!("dns = \"{SHOP}\"\nzone_from = \"label\""))
        .start()
        .await;
    edge.counts("selvedge_discovery_targets", 1000).await;
    dns.is_asked(SHOP).await;
    dns.is_asked(SHOP).await;
    assert_eq!(dns.asked("i-7.az-a.shop.internal").len(), 1, "an address is kept for its own TTL");
    assert_eq!(answering(&edge, 5).await, ["everywhere"]);
}

#[tokio::test]
async fn a_reload_changes_names_and_name_servers_and_what_stays_is_not_disturbed() {
    let (before, after) = (Dns::start().await, Dns::start().await);
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    for (dns, ttl) in [(&before, 1), (&after, 60)] {
        publish(dns, ttl, &[("shop-1", &one)]);
        dns.a("two.internal", ttl, [Ipv4Addr::LOCALHOST]);
    }
    let by_service = format!("dns = \"{SHOP}\"\nzone_from = \"label\"");
    let by_host = format!("dns = \"two.internal\"\nport = {}", two.address.port());
    let config = |dns: &Dns, names: &[&String]| {
        let setup = Edge::asking(&[dns.address]).pool(&format!("{QUICK}\nstickiness.mode = \"lb_cookie\""));
        let setup = names.iter().fold(setup, |setup, name| setup.discover(name));
        setup.top("watch = false").text()
    };
    let edge = Edge::start(&config(&before, &[&by_service])).await;
    let mut bound = Client::of(&edge);
    assert_eq!(bound.get("/").await.origin(), "one");
    edge.becomes(&config(&after, &[&by_service, &by_host])).await;
    let mut both = [(named("az-a", &one), "healthy"), (named("-", &two), "healthy")];
    both.sort();
    has(&edge, &both).await;
    assert_eq!(bound.get("/").await.origin(), "one");
    eventually("the other name server to be asked", async || !after.asked(SHOP).is_empty()).await;
    let asked = before.asked(SHOP).len();
    edge.becomes(&config(&after, &[&by_host])).await;
    eventually("the first to be drained", async || {
        targets(&edge).await.contains(&(named("az-a", &one), "draining".into()))
    })
    .await;
    assert_eq!(answering(&edge, 20).await, ["two"]);
    assert_eq!(bound.get("/").await.origin(), "one");
    assert_eq!(pool(&edge).await["discovery"].as_array().unwrap().len(), 1);
    assert_eq!(before.asked(SHOP).len(), asked, "the name server that is gone is asked no more");
}

#[tokio::test]
async fn a_lookup_that_takes_long_delays_nobody() {
    let (dns, one) = (Dns::start().await, Origin::named("one").await);
    publish(&dns, 1, &[("shop-1", &one)]);
    let edge = Setup::default()
        .and(&format!("[resolver]\ntimeout = \"10s\"\nattempts = 1\nnameservers = [\"{}\"]", dns.address))
        .discover(&format!("dns = \"{SHOP}\""))
        .start()
        .await;
    dns.mood(Some(Said::Late(Duration::from_secs(8), Box::new(Said::Empty))));
    dns.is_asked(SHOP).await;
    let requests = async {
        for _ in 0..100 {
            assert_eq!(Client::of(&edge).get("/").await.origin(), "one");
            assert_eq!(edge.admin("/readyz").await.status, 200);
        }
    };
    assert!(!still_waiting_after(Duration::from_secs(6), requests).await, "requests wait for the lookup");
}
