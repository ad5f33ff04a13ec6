//! `selvedge status`: pools, zones and targets of a running node, and what it answers over DNS, as tables.
//!
//! It shows what the node says and computes nothing of its own but sums.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;

use super::admin_client::{AdminArguments, not_ours};
use super::colours::{self, Mood};
use super::seen::{Config, Dns, Node, Picture, Pool, Reload, Reloading, Target, Upgrade, Zone, many, span};
use super::{Failure, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the JSON of the admin API instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let body = arguments.admin.client()?.get("/v1/pools")?;
    let picture: Picture = serde_json::from_slice(&body).map_err(not_ours)?;
    if arguments.json {
        return print(&format!("{}\n", String::from_utf8_lossy(&body).trim_end()));
    }
    let colours = colours::on_stdout();
    let tables = picture.pools.iter().map(|pool| table(pool, colours));
    let tables: Vec<String> = tables.chain(picture.dns.iter().map(|dns| answers(dns, colours))).collect();
    let node = picture.node.as_ref().map(facts).unwrap_or_default();
    print(&(node + &picture.node.as_ref().map(notes).unwrap_or_default() + &tables.join("\n")))
}

/// The node itself, in a line; another if it could not keep what was decided.
fn facts(node: &Node) -> String {
    if node.phase.is_empty() {
        return String::new();
    }
    let zone = node.zone.as_ref().map(|zone| format!(" in {zone}")).unwrap_or_default();
    let ready = match &node.not_ready {
        Some(why) if node.phase == "serving" => format!("not ready: {}", plain(why)),
        _ => node.phase.clone(),
    };
    let (up, open) = (span(node.uptime_seconds), node.connections_open);
    let generation = node.config.as_ref().map(|config| format!(", configuration {}", config.generation));
    let generation = generation.unwrap_or_default();
    let mut text = format!("node{zone}: {ready}, up {up}, {open} connections{generation}\n");
    if let Some(problem) = node.state.as_ref().and_then(|state| state.problem.as_ref()) {
        let _ = writeln!(text, "what is changed now may be lost at a restart: {}", plain(problem));
    }
    text
}

/// What its operator should know; nothing when all is as it should be.
fn notes(node: &Node) -> String {
    let of_config = node.config.as_ref().map(of_config).unwrap_or_default();
    let text = of_config + &node.upgrade.as_ref().map(of_upgrades).unwrap_or_default();
    if text.is_empty() { text } else { text + "\n" }
}

/// An upgrade under way, what it leaves, and why there was none.
fn of_upgrades(upgrade: &Upgrade) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    if let Some(under_way) = &upgrade.under_way {
        let (since, trigger, stage) = (&under_way.since, &under_way.trigger, plain(under_way.says()));
        let _ = writeln!(text, "an upgrade is under way since {since}, asked for by {trigger}: {stage}");
    }
    if let Some(leftovers) = upgrade.leftovers() {
        let _ = writeln!(text, "{}", plain(&leftovers));
    }
    if let Some(Reload { at, problems }) = &upgrade.last_refused {
        let _ = writeln!(text, "upgrade refused at {at}, the old process goes on");
        for problem in problems {
            let _ = writeln!(text, "  {}", plain(problem));
        }
    }
    text
}

/// The same of the configuration.
fn of_config(config: &Config) -> String {
    let mut text = String::new();
    if let Some(Reloading { since, trigger }) = &config.reloading {
        let _ = writeln!(text, "a reload is under way since {since}, asked for by {trigger}");
    }
    if let Some(Reload { at, problems }) =
        config.last_reload.as_ref().filter(|last| !last.problems.is_empty())
    {
        let _ = writeln!(text, "reload refused at {at}, configuration {} runs on", config.generation);
        for problem in problems {
            let _ = writeln!(text, "  {problem}");
        }
    }
    if !config.restart_needed.is_empty() {
        let _ = writeln!(text, "waits for a restart");
        for line in &config.restart_needed {
            let _ = writeln!(text, "  {line}");
        }
    }
    text
}

/// One pool: a line for itself, one for each zone and one for each target.
fn table(pool: &Pool, colours: bool) -> String {
    let mut zones: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    for target in &pool.targets {
        zones.entry(&target.zone).or_default().push(target);
    }
    let mut rows = vec![["", "status", "weight", "in flight", "sessions", "takes", "why"].map(str::to_owned)];
    let mut moods = vec![None];
    for (zone, targets) in zones {
        let open = targets.iter().filter(|target| target.takes_new).count();
        let (in_flight, sessions) = targets
            .iter()
            .fold((0, 0), |(flight, bound), target| (flight + target.in_flight, bound + target.sessions));
        let known = pool.zones.iter().find(|known| known.name == zone);
        rows.push([
            zone.to_owned(),
            format!("{open} of {} open", targets.len()),
            String::new(),
            in_flight.to_string(),
            sessions.to_string(),
            known.map(|known| format!("{} % of new", known.share)).unwrap_or_default(),
            known.map(Zone::trouble).unwrap_or_default(),
        ]);
        moods.push(known.map(|known| Mood::of(&known.state)).filter(|mood| *mood != Mood::Good));
        for target in targets {
            let takes = match (target.takes_new, target.keeps_bound) {
                (true, true) => "all",
                (true, false) => "new sessions",
                (false, true) => "bound sessions",
                (false, false) => "nothing",
            };
            rows.push([
                format!("  {}", target.address),
                target.status.clone(),
                target.weight.to_string(),
                target.in_flight.to_string(),
                target.sessions.to_string(),
                takes.to_owned(),
                target.why(),
            ]);
            moods.push(Some(Mood::of(&target.status)));
        }
    }
    let panic = if pool.panic { ", in panic: health is ignored" } else { "" };
    let mut text = format!("pool {} ({}): {} waiting{panic}\n", pool.name, pool.balance, pool.waiting);
    for name in &pool.discovery {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  found by {}: {}", plain(&name.question), plain(&name.says()));
    }
    text.push_str(&laid_out(&rows, |row, column, cell| match moods[row] {
        Some(mood) if colours && column == 1 => mood.paint(cell),
        _ => cell.to_owned(),
    }));
    text
}

/// What is answered over DNS: a line for each name and for each node.
fn answers(dns: &Dns, colours: bool) -> String {
    let mut rows = Vec::new();
    let mut moods = Vec::new();
    for name in &dns.names {
        rows.push([name.name.clone(), name.policy.clone(), name.says()]);
        moods.push(None);
    }
    for node in &dns.nodes {
        let (state, mood) = node.state();
        rows.push([format!("  {}", node.place()), state.to_owned(), node.reason.clone()]);
        moods.push(Some(mood));
    }
    let good = dns.nodes.iter().filter(|node| node.good).count();
    let all_bad = if dns.all_bad { "; as none is good, all are answered" } else { "" };
    let text = format!(
        "DNS {}: {good} of {} are good{all_bad}\n",
        plain(&dns.domain),
        many(dns.nodes.len() as u64, "node")
    );
    text + &laid_out(&rows, |row, column, cell| match moods[row] {
        Some(mood) if colours && column == 1 => mood.paint(cell),
        _ => cell.to_owned(),
    })
}

/// Rows with their columns under each other; numbers to the right.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    laid_out(rows, |_, _, cell| cell.to_owned())
}

/// The same, each cell being written as `paint` makes it of its row, its column and its padded text.
fn laid_out<const N: usize>(rows: &[[String; N]], paint: impl Fn(usize, usize, &str) -> String) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let last = row.iter().rposition(|cell| !cell.is_empty()).map_or(0, |last| last + 1);
        for (column, (cell, width)) in row.iter().zip(widths).take(last).enumerate() {
            let cell = plain(cell);
            let number = cell.starts_with(|c: char| c.is_ascii_digit()) && cell.parse::<u64>().is_ok();
            let padded = match number {
                true => format!("{cell:>width$}"),
                false if column + 1 == last => cell,
                false => format!("{cell:<width$}"),
            };
            text.push_str("  ");
            text.push_str(&paint(index, column, &padded));
        }
        text.push('\n');
    }
    text
}

/// `text` without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_reload_and_a_restart_that_is_needed_are_said_first() {
        let config = |problems: &[&str], restart: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
            let last_reload =
                Some(Reload { at: "2026-01-01T00:00:00Z".to_owned(), problems: owned(problems) });
            of_config(&Config { generation: 3, restart_needed: owned(restart), reloading: None, last_reload })
        };
        assert_eq!(config(&[], &[]), "");
        assert_eq!(
            config(&["a:1: zone: no"], &["workers: stays 1"]),
            "reload refused at 2026-01-01T00:00:00Z, configuration 3 runs on\n  a:1: zone: no\n\
             waits for a restart\n  workers: stays 1\n"
        );
    }

    #[test]
    fn what_is_answered_over_dns_is_shown_with_who_is_left_out() {
        let json = r#"{"domain": "lb.test", "all_bad": false, "addresses": ["127.0.0.1:53"],
            "names": [{"name": "www.lb.test", "policy": "multivalue", "ttl_seconds": 10, "answers": ["192.0.2.1"]},
                      {"name": "lb.test", "policy": "weighted", "ttl_seconds": 10, "answers": []}],
            "nodes": [{"zone": "az-a", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "good": true, "reason": "checks pass"},
                      {"zone": "az-b", "ipv4": "192.0.2.2", "ipv6": null, "good": false, "reason": "refused"}]}"#;
        let expected = "\
DNS lb.test: 1 of 2 nodes are good
  www.lb.test                   multivalue  192.0.2.1
  lb.test                       weighted    no address
    az-a 192.0.2.1 2001:db8::1  answered    checks pass
    az-b 192.0.2.2              left out    refused
";
        let dns = serde_json::from_str(json).unwrap();
        assert_eq!(answers(&dns, false), expected);
        assert!(answers(&dns, true).contains("\x1b[31m"));
    }

    #[test]
    fn upgrades_are_said_step_by_step() {
        let said = |json: &str| of_upgrades(&serde_json::from_str(json).unwrap());
        let none = r#"{"under_way": null, "last_refused": null, "refused": 0, "predecessor": null}"#;
        assert_eq!(said(none), "");
        let under_way = r#"{"under_way": {"since": "now", "trigger": "api", "stage": "starting"}}"#;
        let expected = "an upgrade is under way since now, asked for by api: the new process starts\n";
        assert_eq!(said(under_way), expected);
        let drains = |connections: u64, tunnels: u64, drains: bool| {
            said(&format!(
                r#"{{"predecessor": {{"pid": 7, "version": "0.1.0", "connections": {connections}, "tunnels": {tunnels},
                    "drains": {drains}, "left_seconds": 25.4}}}}"#
            ))
        };
        let expected = "process 7 (version 0.1.0), which served before, drains: 3 connections, 1 tunnel among them are \
                        left, for 25 s at most\n";
        assert_eq!(drains(3, 1, true), expected);
        assert!(drains(1, 0, true).contains("1 connection is left"));
        assert_eq!(drains(0, 0, false), "");
        let refused = r#"{"last_refused": {"at": "then", "trigger": "api", "problems": ["a", "b"]}}"#;
        assert_eq!(said(refused), "upgrade refused at then, the old process goes on\n  a\n  b\n");
    }

    #[test]
    fn a_pool_is_shown_zone_by_zone() {
        let json = r#"{
            "name": "shop", "balance": "least_outstanding", "panic": true, "waiting": 2, "more": 1,
            "zones": [
                {"name": "az-a", "share": 100.0, "state": "ok", "until": null, "reason": null},
                {"name": "az-b", "share": 0.0, "state": "shifted", "until": "tomorrow", "reason": "a\u0007 drill",
                 "left_seconds": 3599.0, "evacuated": 40.0}
            ],
            "targets": [
                {"name": "az-a/127.0.1.1:9001", "zone": "az-a", "address": "127.0.1.1:9001", "weight": 1,
                 "status": "healthy", "in_flight": 12, "takes_new": true, "keeps_bound": true, "last_probe": null,
                 "reason": "checks pass: 200", "sessions": 9},
                {"name": "az-b/127.0.2.1:9001", "zone": "az-b", "address": "127.0.2.1:9001", "weight": 100,
                 "status": "draining", "in_flight": 3, "takes_new": false, "keeps_bound": true, "last_probe": null,
                 "reason": "drained by the operator", "sessions": 4, "drain": {"by": "operator"}},
                {"name": "az-a/127.0.1.2:9001", "zone": "az-a", "address": "127.0.1.2:9001", "weight": 1,
                 "status": "unhealthy", "in_flight": 0, "takes_new": false, "keeps_bound": false, "last_probe": null,
                 "reason": "the last 3 checks failed", "ejections": 2}
            ],
            "discovery": [
                {"question": "SRV shop.internal", "targets": ["az-a/127.0.1.1:9001"], "error": null,
                 "answer": {"targets": 1, "ttl_seconds": 30.0, "age_seconds": 4.2}},
                {"question": "A more.internal:80", "targets": [], "answer": null,
                 "error": {"at": "now", "what": "no such name"}}
            ]
        }"#;
        let pool: Pool = serde_json::from_str(json).unwrap();
        let expected = "\
pool shop (least_outstanding): 2 waiting, in panic: health is ignored
  found by SRV shop.internal: 1 target, answered 4 s ago for 30 s
  found by A more.internal:80: 0 targets; no such name (at now)
                    status       weight  in flight  sessions  takes           why
  az-a              1 of 2 open                 12         9  100 % of new
    127.0.1.1:9001  healthy           1         12         9  all             checks pass: 200
    127.0.1.2:9001  unhealthy         1          0         0  nothing         the last 3 checks failed; ejected 2 times
  az-b              0 of 1 open                  3         4  0 % of new      shifted until tomorrow (59 min left), 40 % of its sessions moved: a\u{fffd} drill
    127.0.2.1:9001  draining        100          3         4  bound sessions  drained by the operator; 4 sessions still bound
";
        assert_eq!(table(&pool, false), expected);
        let painted = table(&pool, true);
        assert!(painted.contains("\x1b[33mdraining") && painted.contains("\x1b[31m"), "{painted}");
    }
}
