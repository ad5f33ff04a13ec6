//! What is refused of `[dns]`, what is only warned of, and what is made of a table that is good.

use std::path::Path;

use super::*;
use crate::config::compile::compile;
use crate::config::{Overrides, Probe};

const NODE: &str = "[[dns.node]]\nipv4 = \"192.0.2.1\"\nzone = \"az-a\"\ncheck = \"192.0.2.1:9900\"\n";
const SERVER: &str = "[[dns.name_server]]\nname = \"ns.test\"\n";

/// A file with these lines of `[dns]` and these tables, a node and a name server unless `tables` has its own.
fn compiled(lines: &str, tables: &str) -> Result<(Dns, Vec<String>), Vec<String>> {
    let own = |name: &str, table| if tables.contains(name) { "" } else { table };
    let text = format!(
        "[[listener]]\naddress = \"127.0.0.1:53\"\n[[route]]\nrespond = {{ status = 200 }}\n\
         [dns]\naddresses = [\"127.0.0.1:5300\"]\ndomain = \"lb.test\"\n\
         {lines}\n{}{}{tables}",
        own("dns.node]", NODE),
        own("dns.name_server]", SERVER),
    );
    let text = match lines.contains("addresses") {
        true => text.replace("addresses = [\"127.0.0.1:5300\"]\n", ""),
        false => text,
    };
    match compile(&text, Path::new("/nowhere"), &Overrides::default(), &mut Vec::new()) {
        Ok(config) => Ok((Dns::clone(config.dns.as_ref().unwrap()), config.warnings)),
        Err(problems) => Err(problems.iter().map(|p| format!("{}: {}; {}", p.key, p.what, p.hint)).collect()),
    }
}

#[test]
fn little_is_needed_and_the_rest_has_defaults() {
    let (dns, warnings) = compiled("", "").unwrap();
    assert_eq!(warnings, [""; 0]);
    assert_eq!((&*dns.domain, &*dns.contact), ("lb.test", "hostmaster@lb.test"));
    let [name] = &dns.names[..] else { panic!("{dns:?}") };
    assert_eq!((&*name.name, name.policy, name.ttl), ("lb.test", DnsPolicy::Multivalue, seconds(10)));
    assert_eq!(name.nodes, [0]);
    assert!(matches!(&dns.health.probe, Probe::Http { path, .. } if &**path == "/readyz"), "{dns:?}");
    assert_eq!(dns.nodes[0].check, "192.0.2.1:9900".parse().unwrap());
    assert_eq!(dns.rate_limit.unwrap().responses, 200);
}

#[test]
fn names_take_what_they_leave_out_from_the_table_above() {
    let nodes = format!(
        "{NODE}[[dns.node]]\nipv6 = \"2001:db8::2\"\nzone = \"az-b\"\ncheck = \"192.0.2.2:9900\"\n\
         [[dns.name]]\nname = \"LB.test.\"\n[[dns.name]]\nname = \"b.lb.test\"\nttl = \"1s\"\npolicy = \"failover\"\n\
         zones = [\"az-b\"]\n"
    );
    let (dns, _) = compiled("ttl = \"3s\"\npolicy = \"weighted\"", &nodes).unwrap();
    let shown = |name: &ServiceName| (name.policy, name.ttl.as_secs(), name.nodes.clone());
    assert_eq!(&*dns.names[0].name, "lb.test");
    assert_eq!(shown(&dns.names[0]), (DnsPolicy::Weighted, 3, vec![0, 1]));
    assert_eq!(shown(&dns.names[1]), (DnsPolicy::Failover, 1, vec![1]));
}

#[test]
fn one_port_may_answer_all_checks_and_checks_may_be_off_or_of_another_kind() {
    let bare = "[[dns.node]]\nipv4 = \"192.0.2.1\"\n";
    let (dns, _) = compiled("health.port = 9901", bare).unwrap();
    assert_eq!(dns.nodes[0].check, "192.0.2.1:9901".parse().unwrap());
    assert!(compiled("health.enabled = false", bare).is_ok());
    let (dns, _) = compiled("health.type = \"tcp\"", "").unwrap();
    assert!(matches!(dns.health.probe, Probe::Tcp));
}

#[test]
fn mistakes_are_named_with_what_to_write() {
    let in_domain = "[[dns.name_server]]\nname = \"ns.lb.test\"\n";
    for (lines, tables, expected) in [
        ("addresses = []", "", "dns.addresses: is empty; write addresses = "),
        ("addresses = [\"127.0.0.1\"]", "", "\"127.0.0.1\" is not an IP address with a port"),
        ("addresses = [\"127.0.0.1:53\"]", "", "127.0.0.1:53 is already taken by the listener"),
        ("contact = \"me\"", "", "dns.contact: \"me\" is not an e-mail address"),
        ("ttl = \"1500ms\"", "", "dns.ttl: \"1500ms\" is not a whole number of seconds"),
        ("ttl = \"8d\"", "", "dns.ttl: \"8d\" is out of range; write \"0s\" to \"7d\""),
        (
            "policy = \"round_robin\"",
            "",
            "write \"multivalue\" or \"weighted\" or \"failover\" or \"nearest\"",
        ),
        ("policy = \"nearest\"", "", "nothing says which zone is nearest to whom; write [[dns.nearest]]"),
        ("max_connections = 0", "", "dns.max_connections: 0 is out of range"),
        ("rate_limit.responses = 0", "", "dns.rate_limit.responses: 0 is out of range"),
        ("recursion = true", "", "dns.recursion: there is no such key"),
        ("", in_domain, "ns.lb.test is in the domain, so nobody else could say where it is"),
        (
            "",
            "[[dns.name_server]]\nname = \"ns.test\"\naddresses = [\"192.0.2.1\"]",
            "not this node's to tell",
        ),
        (
            "",
            "[[dns.name_server]]\nname = \"lb.test\"\naddresses = [\"192.0.2.1\"]",
            "is a name that is answered",
        ),
        ("", "[[dns.name_server]]\n", "dns.name_server[0].name: is missing"),
        (
            "",
            "[[dns.name]]\nname = \"shop.test\"",
            "shop.test is not in the domain lb.test; write a name such as",
        ),
        ("", "[[dns.name]]\nname = \"xlb.test\"", "xlb.test is not in the domain lb.test"),
        ("", "[[dns.name]]\nname = \"192.0.2.1\"", "\"192.0.2.1\" is not a domain name"),
        (
            "",
            "[[dns.name]]\nname = \"lb.test\"\n[[dns.name]]\nname = \"lb.test.\"",
            "lb.test is already in line",
        ),
        (
            "",
            "[[dns.name]]\nname = \"lb.test\"\nzones = [\"az-z\"]",
            "no node of [[dns.node]] stands in \"az-z\"",
        ),
        ("", "[[dns.name]]\nname = \"lb.test\"\nzones = []", "dns.name[0].zones: is empty"),
        ("", "[[dns.node]]\ncheck = \"192.0.2.1:1\"", "dns.node[0]: has no address; write ipv4"),
        ("", "[[dns.node]]\nipv4 = \"192.0.2.1\"", "dns.node[0].check: is missing; write the address of"),
        (
            "",
            "[[dns.node]]\nipv4 = \"0.0.0.0\"\ncheck = \"192.0.2.1:1\"",
            "0.0.0.0 is not the address of one",
        ),
        ("", "[[dns.node]]\nipv4 = \"2001:db8::1\"", "\"2001:db8::1\" is not an IPv4 address"),
        ("", "[[dns.nearest]]\nzone = \"az-z\"\nsubnets = [\"10.0.0.0/8\"]", "stands in \"az-z\""),
        (
            "",
            "[[dns.nearest]]\nzone = \"az-a\"\nsubnets = [\"10.0.0.0/8\", \"10.1.0.0/8\"]",
            "is already in line",
        ),
    ] {
        let problems = compiled(lines, tables).expect_err(expected);
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}

#[test]
fn a_table_without_anything_lacks_four_things() {
    let text = "[[listener]]\naddress = \"127.0.0.1:53\"\n[dns]";
    let problems = compile(text, Path::new("/nowhere"), &Overrides::default(), &mut Vec::new()).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["dns.domain", "dns", "dns", "dns.addresses"]);
}

#[test]
fn what_may_not_be_meant_is_warned_of() {
    let (_, warnings) = compiled("addresses = [\"0.0.0.0:5300\"]", "").unwrap();
    assert!(warnings[0].contains("may leave from another than was asked"), "{warnings:?}");
    let ranges = "[[dns.nearest]]\nzone = \"az-a\"\nsubnets = [\"10.0.0.0/8\"]";
    let (_, warnings) = compiled("", ranges).unwrap();
    assert_eq!(warnings, ["dns.nearest: no name has the policy \"nearest\""]);
}
