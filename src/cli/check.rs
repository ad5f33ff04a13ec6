//! `selvedge check`: what `run` would make of a configuration, without opening a socket; with `--diff`, what it would change.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::admin_client::AdminArguments;
use super::reload::{self, Lines};
use super::{ConfigArguments, Failure, print};
use crate::config::{AdminAddress, Changes, Config};

/// Exit code of `--diff` when sessions would move or end.
const SESSIONS_AFFECTED: u8 = 3;

#[derive(Debug, Args)]
#[command(after_help = "Exit codes of --diff:\n  \
    0   the configuration is good, and no session moves or ends\n  \
    3   the configuration is good, and sessions move or end: read on standard output which\n  \
    78  the configuration is wrong, as without --diff\n  \
    1   what it would change cannot be found out, such as when no node answers")]
pub(super) struct Arguments {
    /// Configuration file, in TOML
    #[arg(long, value_name = "FILE")]
    config: PathBuf,

    /// Availability zone of this node; wins over SELVEDGE_ZONE, which wins over the file
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,

    /// Say what a reload with this configuration would change of the running node, and which sessions would move
    #[arg(long)]
    diff: bool,

    /// Compare with this configuration instead of a running node
    #[arg(long, value_name = "OLD", requires = "diff", conflicts_with_all = ["admin", "token_file"])]
    against: Option<PathBuf>,

    /// Running node to compare with: http://ADDRESS:PORT or unix:PATH [default: that of --config]
    #[arg(long, value_name = "WHERE", requires = "diff")]
    admin: Option<super::admin_client::Endpoint>,

    /// File with the bearer token of the node [default: that of --config]
    #[arg(long, value_name = "FILE", requires = "diff")]
    token_file: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let load = |file: &PathBuf| ConfigArguments { config: file.clone(), zone: arguments.zone.clone() }.load();
    let config = load(&arguments.config)?;
    if arguments.diff {
        let old = arguments.against.as_ref().map(load).transpose()?;
        return diff(arguments, &config, old.as_ref());
    }
    let file = arguments.config.display();
    let mut text = format!("{file}: good\n");
    for line in summary(&config) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {line}");
    }
    for warning in &config.warnings {
        let _ = writeln!(text, "{file}: warning: {warning}");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What `config` would change of `old`, or else of the running node.
fn diff(arguments: &Arguments, config: &Config, old: Option<&Config>) -> Result<ExitCode, Failure> {
    let lines = match old {
        Some(old) => {
            let Changes { keys, sessions, restart } = Changes::between(old, config);
            let changes = keys.iter().map(ToString::to_string).collect();
            let sessions = sessions.iter().map(ToString::to_string).collect();
            Lines { changes, sessions, restart, warnings: config.warnings.clone() }
        }
        None => {
            let admin = AdminArguments::new(arguments.admin.clone(), arguments.token_file.clone());
            let client = admin.client_for(Some(config))?;
            reload::preview(&client, config.source.text.to_string())?.lines()
        }
    };
    print(&reload::words(&lines))?;
    Ok(if lines.sessions.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(SESSIONS_AFFECTED) })
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
