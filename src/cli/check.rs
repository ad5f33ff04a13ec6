//! `selvedge check`: what `run` would make of a configuration, without opening a socket.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{ConfigArguments, Failure, print};
use crate::config::{AdminAddress, Config};

pub(super) fn run(arguments: &ConfigArguments) -> Result<(), Failure> {
    let config = arguments.load()?;
    let file = arguments.config.display();
    let mut text = format!("{file}: good\n");
    for line in summary(&config) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {line}");
    }
    for warning in &config.warnings {
        let _ = writeln!(text, "{file}: warning: {warning}");
    }
    print(&text)
}

fn summary(config: &Config) -> Vec<String> {
    let mut lines = vec![match &config.zone {
        Some(zone) => format!("zone {zone}"),
        None => "no zone".to_owned(),
    }];
    for listener in &config.listeners {
        lines.push(format!("listener {} on {}", listener.name, listener.address));
    }
    lines.push(counted(config.routes.len(), "route"));
    for pool in &config.pools {
        let zones: BTreeSet<_> = pool.targets.iter().map(|target| &target.zone).collect();
        let targets = counted(pool.targets.len(), "target");
        lines.push(format!("pool {}: {targets} in {}", pool.name, counted(zones.len(), "zone")));
    }
    lines.push(match config.admin.as_ref().map(|admin| &admin.address) {
        Some(AdminAddress::Tcp(address)) => format!("admin API on {address}"),
        Some(AdminAddress::Unix(path)) => format!("admin API on unix:{}", path.display()),
        None => "no admin API".to_owned(),
    });
    lines
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
