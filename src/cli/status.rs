//! `selvedge status`: pools, zones and targets of a running node, as a table.
//!
//! It shows what the node says and computes nothing of its own but sums.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::Args;
use serde::Deserialize;

use super::admin_client::{AdminArguments, not_ours};
use super::{Failure, print};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print the JSON of the admin API instead of a table
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

/// What is shown of `GET /v1/pools`; there is more in it, and may be more still in later versions.
#[derive(Debug, Deserialize)]
struct Status {
    node: Option<Node>,
    pools: Vec<Pool>,
}

#[derive(Debug, Deserialize)]
struct Node {
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Config {
    generation: u64,
    restart_needed: Vec<String>,
    last_reload: Option<Reload>,
}

#[derive(Debug, Deserialize)]
struct Reload {
    at: String,
    problems: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    name: String,
    balance: String,
    panic: bool,
    waiting: u64,
    #[serde(default)]
    zones: Vec<Zone>,
    targets: Vec<Target>,
    /// Names in DNS; an older node says nothing of them.
    #[serde(default)]
    discovery: Vec<Name>,
}

#[derive(Debug, Deserialize)]
struct Zone {
    name: String,
    share: f64,
    state: String,
    until: Option<String>,
    reason: Option<String>,
}

impl Zone {
    /// Why it is not as it should be; nothing when it is.
    fn trouble(&self) -> String {
        if self.state == "ok" {
            return String::new();
        }
        let until = self.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default();
        let reason = self.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{}{until}{reason}", self.state)
    }
}

#[derive(Debug, Deserialize)]
struct Name {
    question: String,
    targets: Vec<String>,
    error: Option<Lack>,
}

#[derive(Debug, Deserialize)]
struct Lack {
    at: String,
    what: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    zone: String,
    address: String,
    weight: u32,
    status: String,
    in_flight: u64,
    takes_new: bool,
    keeps_bound: bool,
    /// The status in words.
    #[serde(default)]
    reason: String,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let body = arguments.admin.client()?.get("/v1/pools")?;
    let status: Status = serde_json::from_slice(&body).map_err(not_ours)?;
    if arguments.json {
        return print(&format!("{}\n", String::from_utf8_lossy(&body).trim_end()));
    }
    let tables: Vec<String> = status.pools.iter().map(table).collect();
    let notes = status.node.and_then(|node| node.config).map(|config| notes(&config)).unwrap_or_default();
    print(&(notes + &tables.join("\n")))
}

/// What its operator should know of the configuration; nothing when all is as it should be.
fn notes(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
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
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// One pool: a line for itself, one for each zone and one for each target.
fn table(pool: &Pool) -> String {
    let mut zones: BTreeMap<&str, Vec<&Target>> = BTreeMap::new();
    for target in &pool.targets {
        zones.entry(&target.zone).or_default().push(target);
    }
    let mut rows = vec![["", "status", "weight", "in flight", "takes", "why"].map(str::to_owned)];
    for (zone, targets) in zones {
        let open = targets.iter().filter(|target| target.takes_new).count();
        let sum = targets.iter().map(|target| target.in_flight).sum::<u64>().to_string();
        let count = format!("{open} of {} open", targets.len());
        let known = pool.zones.iter().find(|known| known.name == zone);
        let share = known.map(|known| format!("{} % of new", known.share)).unwrap_or_default();
        let trouble = known.map(Zone::trouble).unwrap_or_default();
        rows.push([zone.to_owned(), count, String::new(), sum, share, trouble]);
        rows.extend(targets.into_iter().map(|target| {
            let takes = match (target.takes_new, target.keeps_bound) {
                (true, true) => "all",
                (true, false) => "new sessions",
                (false, true) => "bound sessions",
                (false, false) => "nothing",
            };
            let (weight, in_flight) = (target.weight.to_string(), target.in_flight.to_string());
            let name = format!("  {}", target.address);
            [name, target.status.clone(), weight, in_flight, takes.to_owned(), target.reason.clone()]
        }));
    }
    let panic = if pool.panic { ", in panic: health is ignored" } else { "" };
    let mut text = format!("pool {} ({}): {} waiting{panic}\n", pool.name, pool.balance, pool.waiting);
    for Name { question, targets, error } in &pool.discovery {
        let wrong = error.as_ref().map(|Lack { at, what }| format!("; {what} (at {at})")).unwrap_or_default();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  found by {question}: {}{wrong}", targets.len());
    }
    text.push_str(&aligned(&rows));
    text
}

/// Rows with their columns under each other; numbers to the right.
pub(super) fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: [usize; N] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let number = cell.starts_with(|c: char| c.is_ascii_digit()) && cell.parse::<u64>().is_ok();
            // Writing to a String cannot fail.
            let _ = if number { write!(line, "  {cell:>width$}") } else { write!(line, "  {cell:<width$}") };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
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
            notes(&Config { generation: 3, restart_needed: owned(restart), last_reload })
        };
        assert_eq!(config(&[], &[]), "");
        assert_eq!(
            config(&["a:1: zone: no"], &["workers: stays 1"]),
            "reload refused at 2026-01-01T00:00:00Z, configuration 3 runs on\n  a:1: zone: no\n\
             waits for a restart\n  workers: stays 1\n\n"
        );
    }

    #[test]
    fn a_pool_is_shown_zone_by_zone() {
        let json = r#"{
            "name": "shop", "balance": "least_outstanding", "panic": true, "waiting": 2, "more": 1,
            "zones": [
                {"name": "az-a", "share": 100.0, "state": "ok", "until": null, "reason": null},
                {"name": "az-b", "share": 0.0, "state": "shifted", "until": "tomorrow", "reason": "a drill"}
            ],
            "targets": [
                {"name": "az-a/127.0.1.1:9001", "zone": "az-a", "address": "127.0.1.1:9001", "weight": 1,
                 "status": "healthy", "in_flight": 12, "takes_new": true, "keeps_bound": true, "last_probe": null,
                 "reason": "checks pass: 200"},
                {"name": "az-b/127.0.2.1:9001", "zone": "az-b", "address": "127.0.2.1:9001", "weight": 100,
                 "status": "draining", "in_flight": 3, "takes_new": false, "keeps_bound": true, "last_probe": null},
                {"name": "az-a/127.0.1.2:9001", "zone": "az-a", "address": "127.0.1.2:9001", "weight": 1,
                 "status": "down", "in_flight": 0, "takes_new": false, "keeps_bound": false, "last_probe": null}
            ],
            "discovery": [
                {"question": "SRV shop.internal", "targets": ["az-a/127.0.1.1:9001"], "error": null},
                {"question": "A more.internal:80", "targets": [], "error": {"at": "now", "what": "no such name"}}
            ]
        }"#;
        let pool: Pool = serde_json::from_str(json).unwrap();
        let expected = "\
pool shop (least_outstanding): 2 waiting, in panic: health is ignored
  found by SRV shop.internal: 1
  found by A more.internal:80: 0; no such name (at now)
                    status       weight  in flight  takes           why
  az-a              1 of 2 open                 12  100 % of new
    127.0.1.1:9001  healthy           1         12  all             checks pass: 200
    127.0.1.2:9001  down              1          0  nothing
  az-b              0 of 1 open                  3  0 % of new      shifted until tomorrow: a drill
    127.0.2.1:9001  draining        100          3  bound sessions
";
        assert_eq!(table(&pool), expected);
    }
}
