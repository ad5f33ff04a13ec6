//! The security groups as rules of nftables. Pure text; [`super::network`] loads it.
//!
//! As in a cloud, they hold where a machine's link begins, not on the machine: in the namespace of its zone's router, which forwards all
//! that leaves and reaches a machine. Groups are named sets of addresses, and rules name groups, never addresses. That an
//! address is not borrowed is checked first: what comes from a link must be from the machine at its end. Nobody is told that he was
//! refused.

use super::plan::{From, Group, ROUTER_RULE, RULES, Rule, machines};

/// The rules of a zone's router.
pub(crate) fn of_router() -> String {
    let mut text = opening();
    for group in [Group::Edge, Group::Instances, Group::Redis, Group::Postgres, Group::Control] {
        let members: Vec<_> = machines().into_iter().filter(|machine| machine.group == group).collect();
        let addresses: Vec<_> = members.iter().map(|machine| machine.ip.to_string()).collect();
        text += &format!(
            "    set {} {{ type ipv4_addr; elements = {{ {} }} }}\n",
            group.name(),
            addresses.join(", ")
        );
    }
    text += "    chain honest {\n        type filter hook prerouting priority raw; policy accept;\n";
    text += "        iifname \"v-*\" fib saddr . iif oif missing drop\n    }\n";
    text += "    chain forward {\n        type filter hook forward priority filter; policy drop;\n";
    text += ESTABLISHED;
    let rules: String =
        RULES.iter().map(|rule| lines(rule, &format!("ip daddr @{} ", rule.to.name()))).collect();
    text += &rules;
    // What the router itself sends is not forwarded.
    text += "    }\n    chain output {\n        type filter hook output priority filter; policy drop;\n";
    text += ESTABLISHED;
    text += "        oifname \"lo\" accept\n";
    text += &rules;
    text += "    }\n    chain input {\n        type filter hook input priority filter; policy drop;\n";
    text += ESTABLISHED;
    text += "        iifname \"lo\" accept\n";
    text += &lines(&ROUTER_RULE, "iifname \"v-*\" ");
    text + "    }\n}\n"
}

/// The rules of a machine that hangs directly on the network between the zones: nobody may ask it anything.
pub(crate) fn of_outsider() -> String {
    let chain = "    chain input {\n        type filter hook input priority filter; policy drop;\n";
    format!("{}{chain}{ESTABLISHED}        iifname \"lo\" accept\n    }}\n}}\n", opening())
}

const ESTABLISHED: &str = "        ct state established,related accept\n        ct state invalid drop\n";

fn opening() -> String {
    "table inet groups {\n".to_owned()
}

/// A rule for each protocol and each group of those who may ask.
fn lines(rule: &Rule, to: &str) -> String {
    let ports: Vec<_> = rule.ports.iter().map(u16::to_string).collect();
    let from: Vec<String> = match rule.from {
        From::Anywhere | From::Zone => vec![String::new()],
        From::Groups(groups) => groups.iter().map(|group| format!("ip saddr @{} ", group.name())).collect(),
    };
    let protocols: &[&str] = if rule.udp { &["tcp", "udp"] } else { &["tcp"] };
    let all = from.iter().flat_map(|from| protocols.iter().map(move |protocol| (from, protocol)));
    all.map(|(from, protocol)| {
        format!("        {from}{to}{protocol} dport {{ {} }} ct state new accept\n", ports.join(", "))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_groups_and_only_sets_hold_addresses() {
        let text = of_router();
        assert!(
            text.contains("ip saddr @edge ip daddr @instances tcp dport { 9001 } ct state new accept"),
            "{text}"
        );
        assert!(text.contains("ip saddr @instances ip daddr @postgres tcp dport { 5432 }"), "{text}");
        assert!(text.contains("\n        ip daddr @edge tcp dport { 80, 443 }"), "{text}");
        let outside_of_sets = text.lines().filter(|line| line.contains("10.77."));
        assert!(
            outside_of_sets.clone().count() == 5
                && outside_of_sets.into_iter().all(|line| line.contains("set "))
        );
        assert!(!text.contains("udp dport { 80") && text.contains("udp dport { 53 }"));
    }
}
