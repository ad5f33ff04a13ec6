//! The lab's three nodes of Selvedge: what they are told.
//!
//! Each stands in a zone, listens for shoppers on ports 80 and 443, answers DNS for `myclothes.test` with the nodes that are ready, and
//! finds the instances in the DNS of its zone's router. All share the keys for sessions and for the operator.

use std::path::{Path, PathBuf};

use selvedge::config::{Config, keys};

use super::folder::{self, User};
use super::plan::{ADMIN, DNS, HTTP, HTTPS, Machine, ZONES, edge, router};
use super::process::own;
use crate::asg::balancer::Node;
use crate::proxy_config;
use crate::supervise::{Part, Ready};
use crate::trouble::Trouble;

/// The name that shoppers know.
pub(crate) const DOMAIN: &str = "myclothes.test";

/// The nodes' processes, and how to ask them.
pub(crate) fn parts(sticky: bool) -> Result<(Vec<Part>, Vec<Node>), Trouble> {
    let root = User::root();
    let shared = folder::of("nodes", &root)?;
    folder::write(&shared.join("session.keys"), &format!("{}\n", keys::fresh_line()), &root)?;
    folder::write(
        &shared.join("admin.token"),
        &format!("{}\n", keys::fresh_line().replace(' ', "-")),
        &root,
    )?;
    let certified = rcgen::generate_simple_self_signed([DOMAIN.to_owned()])
        .map_err(|error| Trouble::new(format!("no certificate can be made: {error}")))?;
    folder::write(&shared.join("shop.crt"), &certified.cert.pem(), &root)?;
    folder::write(&shared.join("shop.key"), &certified.signing_key.serialize_pem(), &root)?;
    let (mut parts, mut nodes) = (Vec::new(), Vec::new());
    for zone in 0..ZONES.len() {
        let machine = edge(zone);
        let file = shared.join(format!("{}.toml", machine.name));
        folder::write(&file, &config(&machine, zone, sticky), &root)?;
        nodes.extend(Node::of(&load(&file)?));
        let args = ["edge", "run", "--config"].map(Into::into).into_iter().chain([file.into()]);
        parts.push(own(&machine, &machine.name, args.collect(), Ready::Accepts(machine.at(HTTP)))?);
    }
    Ok((parts, nodes))
}

fn load(file: &PathBuf) -> Result<Config, Trouble> {
    proxy_config::load(Path::new(file))
}

fn config(machine: &Machine, zone: usize, sticky: bool) -> String {
    let (name, resolver) = (ZONES[zone], router(zone).at(DNS));
    let [http, https, dns, admin] = [HTTP, HTTPS, DNS, ADMIN].map(|port| machine.at(port));
    let stickiness = if sticky { "lb_cookie" } else { "off" };
    let mut text = format!(
        r#"zone = "{name}"
workers = 1

[[listener]]
name = "http"
address = "{http}"

[[listener]]
name = "https"
address = "{https}"
[listener.tls]
certificates = [{{ cert = "shop.crt", key = "shop.key" }}]

[[route]]
pool = "shop"

[pool.shop.stickiness]
mode = "{stickiness}"

[pool.shop.health]
path = "/healthz"
interval = "1500ms"
timeout = "1500ms"

[pool.shop.timeouts]
first_byte = "3s"

[pool.shop.drain]
deadline = "5s"

[[pool.shop.discover]]
dns = "_http._tcp.shop.internal"
zone_from = "label"

[resolver]
nameservers = ["{resolver}"]

[session_keys]
file = "session.keys"

[admin]
address = "{admin}"
token_file = "admin.token"

[log]
level = "warn"

[dns]
addresses = ["{dns}"]
domain = "{DOMAIN}"
ttl = "2s"

[dns.health]
interval = "1500ms"
timeout = "1500ms"
healthy = 1
"#
    );
    for (place, node) in (0..ZONES.len()).map(edge).enumerate() {
        let (ip, zone, check) = (node.ip, ZONES[place], node.at(ADMIN));
        text += &format!("\n[[dns.name_server]]\nname = \"ns{place}.{DOMAIN}\"\naddresses = [\"{ip}\"]\n");
        text += &format!("\n[[dns.node]]\nipv4 = \"{ip}\"\nzone = \"{zone}\"\ncheck = \"{check}\"\n");
    }
    text
}
