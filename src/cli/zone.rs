//! `selvedge zone shift|restore`: take a zone out for a time, and give it back.

use clap::{Args, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::{AdminArguments, not_ours, segment};
use super::outlook::ZoneOutlook;
use super::{Failure, print};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Take a zone out: no new sessions go there, and its sessions move
    Shift(Shift),
    /// Give a zone back before its time is up
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct Shift {
    /// The zone, such as az-a
    zone: String,

    /// How long: 1m to 72h, such as 2h or 90m
    #[arg(long = "for", value_name = "DURATION")]
    lasts: String,

    /// Why, for others to read
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,

    /// Even if the other zones lack the capacity
    #[arg(long)]
    force: bool,

    /// Only show where the load would go
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The zone, such as az-a
    zone: String,

    /// Only show where the load would go
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    admin: AdminArguments,
}

/// What is shown of the answer.
#[derive(Debug, Deserialize)]
struct Shifted {
    zone: String,
    done: bool,
    until: String,
    figures: ZoneOutlook,
}

/// The same of the answer to the dry run of a restore.
#[derive(Debug, Deserialize)]
struct Planned {
    figures: ZoneOutlook,
}

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Shift(shift) => {
            let path = format!("/v1/zones/{}/shift", segment(&shift.zone));
            let body = json!({
                "for": shift.lasts, "comment": shift.comment, "force": shift.force, "dry_run": shift.dry_run,
            });
            let answer = shift.admin.client()?.send(&Method::PUT, &path, &body)?;
            print(&shown(&serde_json::from_slice(&answer).map_err(not_ours)?))
        }
        Command::Restore(restore) => {
            let query = if restore.dry_run { "?dry_run=true" } else { "" };
            let path = format!("/v1/zones/{}/shift{query}", segment(&restore.zone));
            let answer = restore.admin.client()?.send(&Method::DELETE, &path, &json!({}))?;
            if restore.dry_run {
                let planned: Planned = serde_json::from_slice(&answer).map_err(not_ours)?;
                let line = format!("zone {} can be restored; nothing was done\n", restore.zone);
                return print(&(line + &planned.figures.words()));
            }
            let restored: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
            match restored["restored"] == true {
                true => print(&format!("zone {} is restored\n", restore.zone)),
                false => print(&format!("zone {} was not shifted; nothing was done\n", restore.zone)),
            }
        }
    }
}

fn shown(shifted: &Shifted) -> String {
    let Shifted { zone, done, until, figures } = shifted;
    let text = match done {
        true => format!("zone {zone} is shifted until {until}\n"),
        false if figures.enough => format!("zone {zone} can be shifted; nothing was done\n"),
        false => format!("zone {zone} can be shifted only by --force; nothing was done\n"),
    };
    text + &figures.words()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shift_shows_where_the_load_goes() {
        let json = r#"{"zone": "az-a", "done": false, "until": "2026-01-02T03:04:05Z", "figures": {"zone": "az-a", "enough": false,
            "pools": [{"pool": "shop", "capacity_left": 0.3333, "capacity_needed": 0.5, "sessions": 12, "zones": [
                {"zone": "az-a", "targets": 2, "healthy": 2, "share_now": 0.5, "share_then": 0.0},
                {"zone": "az-b", "targets": 2, "healthy": 1, "share_now": 0.5, "share_then": 1.0}]}]}}"#;
        let expected = "\
zone az-a can be shifted only by --force; nothing was done
pool shop: 33 % of the targets left and healthy (50 % needed), about 12 sessions move
  zone  healthy  share now  share then
  az-a  2 of 2   50.0 %     0.0 %
  az-b  1 of 2   50.0 %     100.0 %
";
        assert_eq!(shown(&serde_json::from_str(json).unwrap()), expected);
    }
}
