//! The page about the access log explains every code.

use selvedge::config::AccessField;
use selvedge::pool::{Chosen, Failure, OwnTarget, Refusal, TunnelEnd, Verdict, ZoneChoice};

use crate::programs::folder;

#[test]
fn every_code_of_the_access_log_is_explained() {
    let page = std::fs::read_to_string(folder("docs/access-log.md")).unwrap();
    let explained: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .flat_map(|line| line.split(" | ").next().unwrap_or_default().split('`'))
        .collect();
    let refusals = Refusal::ALL.iter().map(|code| code.as_str());
    let failures = Failure::ALL.iter().map(|code| code.as_str());
    let ends = TunnelEnd::ALL.iter().filter(|end| **end != TunnelEnd::Ended).map(|code| code.as_str());
    let verdicts = Verdict::ALL.iter().map(|code| code.as_str());
    let ours = [
        "client_gone",
        "client_stalled",
        "answer_broken",
        "no_target",
        "overloaded",
        "queue_full",
        "queue_timeout",
    ];
    let chosen = Chosen::ALL.iter().map(|code| code.as_str());
    let own = OwnTarget::ALL.iter().map(|code| code.as_str());
    let zones = ZoneChoice::ALL.iter().map(|code| code.as_str());
    let decisions = chosen.chain(own).chain(zones);
    let all: Vec<_> =
        refusals.chain(failures).chain(ends).chain(verdicts).chain(decisions).chain(ours).collect();
    assert!(all.len() > 60, "{all:?}");
    for code in all {
        assert!(explained.contains(&code), "docs/access-log.md does not explain {code}");
    }
}

#[test]
fn every_field_of_the_access_log_is_explained() {
    let reference = std::fs::read_to_string(folder("config/selvedge.toml")).unwrap();
    for field in AccessField::ALL {
        let begin = format!("#   {field} ");
        assert!(reference.lines().any(|line| line.starts_with(&begin)), "{field}");
    }
}
