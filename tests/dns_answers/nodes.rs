//! Two whole nodes, each of which answers DNS for both: what a shopper lives through when one of them dies.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::program;
use crate::support::edge::session_keys;
use crate::support::{Client, Edge, Origin, eventually};

/// From the death of a node to the end of its last use: two failed checks, each at most 1.1 intervals after the one
/// before and within its timeout, and the time to live. A busy machine may take two seconds longer.
const OUT_OF_USE: Duration = Duration::from_millis(2 * (550 + 500) + 2000 + 2000);

/// Two nodes on loopback addresses of their own: where each listens, by the address that DNS answers.
struct Pair {
    /// IP address and port of the admin API, which the configuration of both must name.
    admin: [SocketAddr; 2],
    rest: String,
    _keys: TempDir,
}

impl Pair {
    /// Nodes at these addresses, which no other test uses, with the origins as targets of `shop`.
    fn new(ips: [&str; 2], origins: &[&Origin]) -> Self {
        let admin = ips.map(|ip| TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap());
        let keys = tempfile::tempdir().unwrap();
        let targets: String = origins
            .iter()
            .map(|origin| format!("[[pool.shop.target]]\naddress = \"{}\"\n", origin.address))
            .collect();
        let nodes: String = admin
            .iter()
            .map(|admin| format!("[[dns.node]]\nipv4 = \"{}\"\ncheck = \"{admin}\"\n", admin.ip()))
            .collect();
        let rest = format!(
            "[[route]]\npool = \"shop\"\n\
             [pool.shop]\nhealth.enabled = false\nstickiness.mode = \"lb_cookie\"\n{targets}\
             [session_keys]\nfile = {:?}\n\
             [dns]\ndomain = \"lb.shop.test\"\nttl = \"2s\"\nhealth = {{ interval = \"500ms\", timeout = \"500ms\" }}\n\
             [[dns.name_server]]\nname = \"ns.shop.test\"\n{nodes}",
            session_keys(&keys)
        );
        Self { admin, rest, _keys: keys }
    }

    /// Starts one of them; its end, if asked for, takes a while in which `/readyz` fails.
    async fn start(&self, index: usize) -> (Edge, SocketAddr) {
        let admin = self.admin[index];
        let ip = admin.ip();
        let text = format!(
            "workers = 1\n[[listener]]\nname = \"web\"\naddress = \"{ip}:0\"\n[admin]\naddress = \"{admin}\"\n\
             [shutdown]\ndelay = \"30s\"\n{}",
            self.rest.replace("[dns]\n", &format!("[dns]\naddresses = [\"{ip}:0\"]\n"))
        );
        let mut edge = Edge::start(&text).await;
        let dns = edge.dns_address().await;
        (edge, dns)
    }
}

/// What `dig` prints for the shop's name, sorted.
async fn dig(dig: &Path, server: SocketAddr) -> Vec<String> {
    let (ip, port) = (server.ip().to_string(), server.port().to_string());
    let output = tokio::process::Command::new(dig)
        .args(["+short", "+tries=3", "+time=2", &format!("@{ip}"), "-p", &port, "lb.shop.test", "A"])
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[tokio::test]
async fn a_killed_node_leaves_the_answer_in_time_and_its_sessions_go_on_at_the_other() {
    let program = program("dig", "bind9-dnsutils");
    let origins = [Origin::named("a").await, Origin::named("b").await, Origin::named("c").await];
    let pair = Pair::new(["127.53.1.1", "127.53.1.2"], &[&origins[0], &origins[1], &origins[2]]);
    let ((first, first_dns), (second, second_dns)) = (pair.start(0).await, pair.start(1).await);
    for dns in [first_dns, second_dns] {
        eventually("both nodes to be answered", async || {
            dig(&program, dns).await == ["127.53.1.1", "127.53.1.2"]
        })
        .await;
    }
    // Shoppers who were led to the first node.
    let mut shoppers = Vec::new();
    for _ in 0..6 {
        let mut shopper = Client::of(&first);
        let origin = shopper.get("/").await.origin().to_owned();
        shoppers.push((shopper, origin));
    }
    let killed = Instant::now();
    drop(first);
    eventually("the dead node to leave the answer", async || {
        dig(&program, second_dns).await == ["127.53.1.2"]
    })
    .await;
    let took = killed.elapsed() + Duration::from_secs(2);
    assert!(took < OUT_OF_USE, "with the time to live, the dead node was in use for {took:?}");
    for (shopper, origin) in shoppers {
        let mut shopper = shopper.at(&second);
        assert_eq!(shopper.get("/").await.origin(), origin, "the session goes on where it was");
    }
    let (_first, first_dns) = pair.start(0).await;
    eventually("the node to be answered again", async || {
        dig(&program, second_dns).await == ["127.53.1.1", "127.53.1.2"]
    })
    .await;
    assert!(!dig(&program, first_dns).await.is_empty());
}

#[tokio::test]
async fn a_node_that_is_about_to_stop_leaves_the_answer_of_both_while_it_still_serves() {
    let program = program("dig", "bind9-dnsutils");
    let origin = Origin::start().await;
    let pair = Pair::new(["127.53.2.1", "127.53.2.2"], &[&origin]);
    let ((first, first_dns), (_second, second_dns)) = (pair.start(0).await, pair.start(1).await);
    first.terminate();
    for dns in [second_dns, first_dns] {
        eventually("the leaving node to leave the answer", async || {
            dig(&program, dns).await == ["127.53.2.2"]
        })
        .await;
    }
    assert_eq!(Client::of(&first).get("/").await.status, 200, "it still serves");
}
