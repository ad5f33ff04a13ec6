//! Who is answered: by policy, by health, by zone. The nodes are scripted origins that answer checks.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::Answering;
use super::ask::{A, AAAA, Ask, addresses, udp};
use crate::support::{Client, Edge, Origin, Setup, eventually};

const HEAD: &str = "domain = \"lb.test\"\nrate_limit.responses = \"off\"\n\
                    health = { path = \"/healthz\", interval = \"500ms\", timeout = \"500ms\", healthy = 1 }\n\
                    [[dns.name_server]]\nname = \"ns.test\"\n";

/// A node at `192.0.2.NUMBER` and `2001:db8::NUMBER` that `origin` answers for.
fn node(number: u8, origin: &Origin, keys: &str) -> String {
    format!(
        "[[dns.node]]\nipv4 = \"192.0.2.{number}\"\nipv6 = \"2001:db8::{number}\"\ncheck = \"{}\"\n{keys}\n",
        origin.address
    )
}

async fn origins(count: usize) -> Vec<Origin> {
    let mut origins = Vec::new();
    for _ in 0..count {
        origins.push(Origin::start().await);
    }
    origins
}

/// The last parts of the addresses of one answer for A.
async fn answer(dns: SocketAddr, name: &str) -> Vec<u8> {
    let addresses = addresses(&udp(dns, &Ask::new(name, A)).await);
    addresses.iter().map(|address| address.rsplit('.').next().unwrap().parse().unwrap()).collect()
}

/// The same without their order.
async fn set(dns: SocketAddr, name: &str) -> Vec<u8> {
    let mut numbers = answer(dns, name).await;
    numbers.sort();
    numbers
}

/// Everything that so many answers held.
async fn seen(dns: SocketAddr, name: &str, answers: usize) -> BTreeSet<u8> {
    let mut seen = BTreeSet::new();
    for _ in 0..answers {
        seen.extend(answer(dns, name).await);
    }
    seen
}

/// Waits until answers hold exactly these.
async fn becomes(dns: SocketAddr, name: &str, wanted: &[u8]) {
    eventually(&format!("{wanted:?} to be answered for {name}"), async || set(dns, name).await == wanted)
        .await;
}

#[tokio::test]
async fn a_node_that_fails_leaves_the_answer_and_returns() {
    let origins = origins(3).await;
    let nodes: String = origins.iter().zip(1..).map(|(origin, number)| node(number, origin, "")).collect();
    let Answering { edge, dns } = Answering::start(&format!("{HEAD}{nodes}")).await;
    becomes(dns, "lb.test", &[1, 2, 3]).await;
    origins[1].set_sick(true);
    becomes(dns, "lb.test", &[1, 3]).await;
    let six = addresses(&udp(dns, &Ask::new("lb.test", AAAA)).await);
    assert!(six.len() == 2 && !six.contains(&"2001:db8::2".to_owned()), "{six:?}");
    edge.logged(&["a node is no longer answered", "192.0.2.2", "503 is not in 200-299"]).await;
    edge.counts("selvedge_dns_node_good{node=\"192.0.2.2\"}", 0).await;
    edge.counts("selvedge_dns_node_good", 2).await;
    let shown: serde_json::Value = serde_json::from_slice(&edge.admin("/v1/dns").await.body).unwrap();
    assert_eq!(shown["nodes"][1]["good"], false, "{shown}");
    assert!(shown["nodes"][1]["reason"].as_str().unwrap().contains("503"), "{shown}");
    assert_eq!(shown["names"][0]["answers"].as_array().unwrap().len(), 4, "{shown}");
    origins[1].set_sick(false);
    becomes(dns, "lb.test", &[1, 2, 3]).await;
    edge.logged(&["a node is answered again", "192.0.2.2"]).await;
}

#[tokio::test]
async fn when_all_nodes_are_bad_all_are_answered() {
    let origins = origins(2).await;
    let nodes: String = origins.iter().zip(1..).map(|(origin, number)| node(number, origin, "")).collect();
    let Answering { edge, dns } = Answering::start(&format!("{HEAD}{nodes}")).await;
    origins[0].set_sick(true);
    becomes(dns, "lb.test", &[2]).await;
    origins[1].set_sick(true);
    becomes(dns, "lb.test", &[1, 2]).await;
    edge.logged(&["no node is left"]).await;
    origins[0].set_sick(false);
    becomes(dns, "lb.test", &[1]).await;
}

#[tokio::test]
async fn of_ten_nodes_eight_are_answered_and_each_of_the_ten_at_some_time() {
    let origin = Origin::start().await;
    let nodes: String = (1..=10).map(|number| node(number, &origin, "")).collect();
    let dns = Answering::start(&format!("{HEAD}{nodes}")).await;
    assert_eq!(set(dns.dns, "lb.test").await.len(), 8);
    assert_eq!(seen(dns.dns, "lb.test", 40).await, (1..=10).collect());
}

#[tokio::test]
async fn names_have_policies_of_their_own() {
    let origins = origins(3).await;
    let names = "[[dns.name]]\nname = \"one.lb.test\"\npolicy = \"weighted\"\nttl = \"3s\"\n\
                 [[dns.name]]\nname = \"first.lb.test\"\npolicy = \"failover\"\n\
                 [[dns.name]]\nname = \"b.lb.test\"\nzones = [\"az-b\"]\n";
    let nodes = [
        node(1, &origins[0], "zone = \"az-a\"\nweight = 0"),
        node(2, &origins[1], "zone = \"az-b\"\nweight = 3"),
        node(3, &origins[2], "zone = \"az-b\"\nweight = 2\npriority = 1"),
    ]
    .concat();
    let Answering { edge: _edge, dns } = Answering::start(&format!("{HEAD}{names}{nodes}")).await;
    assert_eq!(answer(dns, "one.lb.test").await.len(), 1);
    assert_eq!(seen(dns, "one.lb.test", 60).await, BTreeSet::from([2, 3]), "a weight of 0 is not answered");
    assert_eq!(udp(dns, &Ask::new("one.lb.test", A)).await.answers[0].ttl, 3);
    assert_eq!(set(dns, "first.lb.test").await, [1, 2]);
    assert_eq!(set(dns, "b.lb.test").await, [2, 3]);
    assert_eq!(u16::from(udp(dns, &Ask::new("lb.test", A)).await.response_code), 0, "the domain exists");
    assert!(answer(dns, "lb.test").await.is_empty(), "but is no name of nodes any more");
    origins[0].set_sick(true);
    becomes(dns, "first.lb.test", &[2]).await;
    origins[1].set_sick(true);
    becomes(dns, "first.lb.test", &[3]).await;
    becomes(dns, "b.lb.test", &[3]).await;
    assert_eq!(seen(dns, "one.lb.test", 20).await, BTreeSet::from([3]));
}

#[tokio::test]
async fn the_nearest_zone_is_answered_and_when_it_fails_the_others() {
    let origins = origins(3).await;
    let ranges = "[[dns.nearest]]\nzone = \"az-a\"\nsubnets = [\"127.0.0.0/8\"]\n\
                  [[dns.nearest]]\nzone = \"az-b\"\nsubnets = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n";
    let nodes = [
        node(1, &origins[0], "zone = \"az-a\""),
        node(2, &origins[1], "zone = \"az-b\""),
        node(3, &origins[2], "zone = \"az-b\""),
    ]
    .concat();
    let lines = format!("policy = \"nearest\"\n{HEAD}{ranges}{nodes}");
    let Answering { edge: _edge, dns } = Answering::start(&lines).await;
    let told = async |family, prefix, address: &[u8]| {
        let answer = udp(dns, &Ask::new("lb.test", A).subnet(family, prefix, address)).await;
        let mut addresses = addresses(&answer);
        addresses.sort();
        addresses
    };
    becomes(dns, "lb.test", &[1]).await;
    assert_eq!(told(1, 24, &[198, 51, 100]).await, ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(told(2, 48, &[0x20, 1, 0xd, 0xb8, 0, 7]).await, ["192.0.2.2", "192.0.2.3"]);
    assert_eq!(told(1, 16, &[10, 9]).await.len(), 3, "nobody's network");
    origins[0].set_sick(true);
    becomes(dns, "lb.test", &[2, 3]).await;
}

/// A pool with a target in each of two zones, and a node in each.
fn two_zones(origins: &[Origin]) -> Setup {
    let nodes = [node(1, &origins[0], "zone = \"az-a\""), node(2, &origins[1], "zone = \"az-b\"")].concat();
    Setup::default()
        .target_with(&origins[0], "zone = \"az-a\"")
        .target_with(&origins[1], "zone = \"az-b\"")
        .and(&format!("[dns]\naddresses = [\"127.0.0.1:0\"]\n{HEAD}{nodes}"))
}

#[tokio::test]
async fn nodes_of_a_shifted_zone_leave_the_answer_at_once_until_it_is_restored() {
    let origins = origins(2).await;
    let mut edge = two_zones(&origins).start().await;
    let dns = edge.dns_address().await;
    becomes(dns, "lb.test", &[1, 2]).await;
    let mut admin = Client::to(edge.admin);
    admin.host = edge.admin.to_string();
    let json = ["Content-Type: application/json"];
    let shifted = admin.request("PUT", "/v1/zones/az-a/shift", &json, b"{\"for\": \"1h\"}").await;
    assert_eq!(shifted.status, 200, "{}", shifted.text());
    assert_eq!(set(dns, "lb.test").await, [2]);
    edge.logged(&["a node is no longer answered", "192.0.2.1", "its zone is out of service"]).await;
    assert_eq!(admin.request("DELETE", "/v1/zones/az-a/shift", &[], b"").await.status, 200);
    assert_eq!(set(dns, "lb.test").await, [1, 2]);
}

#[tokio::test]
async fn a_reload_changes_names_and_nodes_and_keeps_sockets_and_what_is_known() {
    let origins = origins(3).await;
    let setup = |tables: &str| {
        let nodes = [node(1, &origins[0], ""), node(2, &origins[1], "")].concat();
        let dns = format!("[dns]\naddresses = [\"127.0.0.1:0\"]\n{HEAD}{nodes}{tables}");
        Setup::default().target(&origins[0]).and(&dns).text()
    };
    let mut edge = Edge::start(&setup("")).await;
    let dns = edge.dns_address().await;
    origins[0].set_sick(true);
    becomes(dns, "lb.test", &[2]).await;
    let more = format!("{}[[dns.name]]\nname = \"lb.test\"\nttl = \"5s\"\n", node(3, &origins[2], ""));
    edge.becomes(&setup(&more)).await;
    assert_eq!(set(dns, "lb.test").await, [2, 3], "1 still fails");
    assert_eq!(udp(dns, &Ask::new("lb.test", A)).await.answers[0].ttl, 5);
    origins[0].set_sick(false);
    becomes(dns, "lb.test", &[1, 2, 3]).await;
    let elsewhere = setup(&more).replace("[\"127.0.0.1:0\"]", "[\"127.0.0.2:0\"]").replace("5s", "6s");
    edge.write(&elsewhere);
    let answer = edge.reload().await;
    assert!(answer.text().contains("dns.addresses, and all of [dns] with it: stays"), "{}", answer.text());
    assert_eq!(udp(dns, &Ask::new("lb.test", A)).await.answers[0].ttl, 5, "all of it waits for the restart");
}
